"""Our rendering and encoding are transformers' own, for templates of eight styles; the sandbox holds."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from chat_styles import STYLES
from packaging.version import Version

from parity.errors import CheckpointError, ParityError, UsageError
from parity.prompt import Conversation, read_folder, render_prompt, show_template
from parity.prompt.render import Job, render_jobs
from parity.prompt.vocabulary import Vocabulary, byte_letters, visible

MODEL = Path(__file__).resolve().parents[2] / "fixtures/models/moe-tiny"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TOOL = {
    "type": "function",
    "function": {
        "name": "read_stage",
        "description": "Reads a stage <of> a layer & more.",
        "parameters": {"type": "object", "properties": {"layer": {"type": "integer"}, "été": {"type": "string"}}},
    },
}
USER = {"role": "user", "content": "  What is a noise floor?\n"}
SYSTEM = {"role": "system", "content": "You are a helpful engineer. 東京"}
REPLY = {"role": "assistant", "content": "It is an error.", "reasoning_content": "Hm.\n", "tool_calls": None}
CONVERSATIONS: tuple[tuple[list[dict[str, Any]], dict[str, Any]], ...] = (
    ([USER], {}),
    ([SYSTEM, USER], {}),
    ([SYSTEM, USER, REPLY, USER], {"enable_thinking": False, "thinking": False, "reasoning_effort": "high"}),
    ([USER], {"tools": [TOOL], "date_string": "26 Jul 2024"}),
    ([USER, REPLY], {"add_generation_prompt": False}),
    ([USER], {"add_generation_prompt": False}),
)


@pytest.mark.parametrize("style", STYLES)
def test_rendering_and_ids_are_those_of_transformers(style: str, make_folder: Any):
    transformers = pytest.importorskip("transformers")
    if style == "channels" and Version(transformers.__version__) < Version("5.23"):
        pytest.skip("transformers before 5.23, our reference, places a message's `thinking` elsewhere")
    folder = make_folder(STYLES[style], **TOKENS)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    compared = 0
    for messages, given in CONVERSATIONS:
        options = {"add_generation_prompt": messages[-1]["role"] != "assistant", **given}
        arguments = {name: value for name, value in given.items() if name != "tools"}
        conversation = Conversation(tuple(messages), tuple(given.get("tools", ())), arguments)
        try:
            expected = theirs.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
        except Exception as error:
            with pytest.raises(UsageError, match=str(error)[:10]):
                render_prompt(folder, conversation)
            continue
        text, ids = render_prompt(folder, conversation)
        assert text == theirs.apply_chat_template(messages, tokenize=False, **options)
        assert list(ids) == expected
        compared += 1
    assert compared >= 3


def test_the_fixture_model_s_rendering_is_that_of_transformers():
    theirs = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(MODEL)
    dialogues = json.loads((MODEL.parent / "dialogues.json").read_text())[:6]
    for one in dialogues:
        arguments = {"enable_thinking": one["enable_thinking"]}
        tools = one["tools"] or []
        _, ids = render_prompt(MODEL, Conversation(one["messages"], tools, arguments))
        asked = one["messages"][-1]["role"] != "assistant"
        expected = theirs.apply_chat_template(
            one["messages"], tools=tools or None, add_generation_prompt=asked, return_dict=False, **arguments
        )
        assert list(ids) == expected


def test_special_tokens_that_the_tokenizer_lacks_are_added_as_transformers_adds_them(make_folder: Any):
    theirs = pytest.importorskip("transformers").AutoTokenizer
    folder = make_folder(STYLES["inst"], bos_token="<bos>", eos_token={"content": "<eos>", "__type": "AddedToken"})
    messages = [USER, {"role": "assistant", "content": "An error."}, USER]
    expected = theirs.from_pretrained(folder).apply_chat_template(messages, return_dict=False)
    assert list(render_prompt(folder, Conversation(messages))[1]) == expected


def test_which_template_counts(make_folder: Any):
    both = make_folder("A", configured="B")
    assert (show_template(both).text, read_folder(both).ignored["default"].text) == ("A", "B")
    named = [{"name": "default", "template": "C"}, {"name": "tool_use", "template": "D"}]
    listed = make_folder(None, name="listed", configured=named)
    assert (show_template(listed).text, show_template(listed, tools=True).text) == ("C", "D")
    (both / "additional_chat_templates").mkdir()
    (both / "additional_chat_templates" / "tool_use.jinja").write_text("E")
    assert (show_template(both).text, show_template(both, tools=True).text) == ("A", "E")
    older = make_folder("{{ bos_token }}", name="older")
    (older / "special_tokens_map.json").write_text('{"bos_token": {"content": "<s>"}}')
    assert render_prompt(older, Conversation([USER]))[0] == "<s>"


HOSTILE = {
    "a range without end": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a range beyond the sandbox": "{{ range(10**9) | list }}",
    "python's internals": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "internals by filter": "{{ messages | attr('__class__') }}{{ (messages | attr('__class__')).x }}",
    "a global's globals": "{{ raise_exception.__globals__['sys'] }}",
    "a change of the messages": "{{ messages.append(1) }}",
    "much output": "{% for i in range(99999) %}{{ 'xxxxxxxxxx' * 100 }}{% endfor %}",
    "a huge text": "{{ ('x' * 999999999) | length }}",
    "a huge padding": "{{ '%999999999d' | format(1) }}",
    "a huge power": "{{ 9 ** (9 ** 9) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "syntax": "{% for %}",
    "a name outside": "{% include '/etc/passwd' %}",
    "an underscored namespace": "{% set ns = namespace() %}{% set ns._x = 1 %}{{ ns['__class__'].x }}",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_template_is_refused(what: str, make_folder: Any):
    start = time.monotonic()
    with pytest.raises(ParityError, match="chat template") as refused:
        render_prompt(make_folder(HOSTILE[what]), Conversation([USER]))
    assert refused.value.next_step
    # Two seconds of processor time a rendering, and a machine that may have other work.
    assert time.monotonic() - start < 45


def test_a_job_that_the_system_kills_does_not_take_the_others_along():
    jobs = [Job("fine", {}), Job(HOSTILE["a huge power"], {}), Job("{{ x }}", {"x": "too"})]
    answers, inspected = render_jobs(jobs, inspect=["{{ a }}{% if b == 'c' or b in ['d', 2] %}{% endif %}"])
    assert [one.text for one in answers] == ["fine", None, "too"]
    assert answers[1].refused == "limit"
    assert inspected[0].reads == ("a", "b")
    assert inspected[0].compared == {"b": ("c", "d", 2)}


def test_templates_never_run_in_this_process(monkeypatch: pytest.MonkeyPatch, make_folder: Any):
    import jinja2

    monkeypatch.setattr(jinja2.Environment, "from_string", lambda *_: pytest.fail("rendered here"))
    assert render_prompt(make_folder("{{ messages[0].role }}"), Conversation([USER]))[0] == "user"


def test_every_byte_of_a_prompt_is_shown(tokenizer_text: str):
    vocabulary = Vocabulary.from_text(tokenizer_text, {})
    assert sorted(byte_letters().values()) == list(range(256))
    for text in ("<|im_start|>user\n  Naïve 東京 \t\r\n<think>", "", " ", "\x00\x7f é"):
        assert vocabulary.text(vocabulary.encode(text)) == text
    assert visible("a b\n\t\r\x00") == "a·b⏎⇥␍\\u0000"


def test_pieces_of_a_sentencepiece_vocabulary_keep_their_blanks():
    tokenizers = pytest.importorskip("tokenizers")
    vocab = {"<unk>": 0, "▁a": 1, "▁b": 2, "<0x0A>": 3, "▁": 4, "a": 5, "b": 6}
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab, [("▁", "a"), ("▁", "b")], unk_token="<unk>", byte_fallback=True)
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.decoder = tokenizers.decoders.Metaspace()
    vocabulary = Vocabulary.from_text(made.to_str(), {})
    ids = vocabulary.encode("a b\n")
    assert vocabulary.text(ids) == " a b\n"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer"),
        (lambda folder: (folder / "chat_template.jinja").unlink(), "chat template"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("["), "JSON"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("[1]"), "JSON object"),
        (lambda folder: (folder / "chat_template.jinja").write_bytes(b"\xff\xfe"), "UTF-8"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(change: Any, match: str, make_folder: Any):
    folder = make_folder("{{ messages[0].content }}")
    change(folder)
    with pytest.raises(ParityError, match=match):
        render_prompt(folder, Conversation([USER]))


def test_a_folder_that_is_none_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="model folder"):
        render_prompt(tmp_path / "nowhere", Conversation([USER]))


@pytest.mark.parametrize(
    "messages", [[], {}, "hello", None, [1], [{"content": "x"}], [{"role": 1}], [{"role": "user", "content": "\ud800"}]]
)
def test_messages_that_are_none_are_refused(messages: Any):
    with pytest.raises(UsageError, match="messages"):
        Conversation(messages)


def test_a_role_that_the_template_refuses_is_told(make_folder: Any):
    with pytest.raises(UsageError, match="must alternate"):
        render_prompt(make_folder(STYLES["inst"], **TOKENS), Conversation([{"role": "critic", "content": "x"}]))


def test_without_the_library_the_refusal_says_what_to_install(monkeypatch: pytest.MonkeyPatch, make_folder: Any):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ParityError, match="hf"):
        render_prompt(make_folder("{{ messages[0].content }}"), Conversation([USER]))
