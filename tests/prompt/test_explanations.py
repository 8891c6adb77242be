"""Every explanation is planted and found, alone and in pairs; healthy prompts and a caller's choices are not blamed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from chat_styles import STYLES
from chat_tokenizer import train_tokenizer

from parity.prompt import (
    NAMES,
    Conversation,
    FedPrompt,
    PromptComparison,
    compare_prompts,
    read_folder,
    render_prompt,
    report_lines,
)
from parity.prompt.families import FAMILIES
from parity.prompt.render import Job, render_jobs
from parity.prompt.vocabulary import Vocabulary

pytestmark = pytest.mark.usefixtures("remembered_renderings")

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
USER = {"role": "user", "content": "What is a noise floor? Tell me of 12 + 345."}
SYSTEM = {"role": "system", "content": "You are a helpful engineer."}
REPLY = {"role": "assistant", "content": "It is an error."}
TOOL = {
    "type": "function",
    "function": {
        "name": "read_stage",
        "description": "Reads a stage.",
        "parameters": {"type": "object", "properties": {"layer": {"type": "integer"}, "stage": {"type": "string"}}},
    },
}


@dataclass
class Engine:
    """A prompt of a folder, to be spoiled: as text or as ids."""

    folder: Path
    conversation: Conversation

    def __post_init__(self) -> None:
        self.text, self.ids = render_prompt(self.folder, self.conversation)
        self.vocabulary = Vocabulary.read(self.folder, read_folder(self.folder).special)

    def fed(self, text: str) -> PromptComparison:
        assert text != self.text, "the defect is planted"
        return self.of(self.vocabulary.encode(text))

    def of(self, ids: Sequence[int]) -> PromptComparison:
        return compare_prompts(self.folder, self.conversation, tuple(ids))

    def number(self, token: str) -> int:
        found = self.vocabulary.number(token)
        assert found is not None
        return found


MakeEngine = Callable[..., Engine]


@pytest.fixture
def engine(make_folder: Any) -> MakeEngine:
    def make(style: str, messages: Sequence[Any] = (USER,), tools: Sequence[Any] = (), **arguments: Any) -> Engine:
        return Engine(
            make_folder(STYLES[style], name=style, **TOKENS), Conversation(tuple(messages), tuple(tools), arguments)
        )

    return make


def names(found: PromptComparison) -> list[str]:
    assert not found.same
    assert "\n".join(report_lines(found)), "it can be shown"
    return [one.name for one in found.explanations]


@pytest.mark.parametrize("style", STYLES)
def test_a_healthy_prompt_is_the_same(style: str, engine: MakeEngine):
    healthy = engine(style, [USER, REPLY, USER])
    found = healthy.of(healthy.ids)
    assert found.same
    assert (found.hunks, found.explanations, found.first, found.settings) == ((), (), None, {})


@pytest.mark.parametrize(
    ("style", "arguments"),
    [
        ("chatml_thinking", {"enable_thinking": False}),
        ("headers_with_date", {"date_string": "3 Mar 2021"}),
        ("think_primed", {"thinking": False}),
        ("channels", {"reasoning_effort": "high"}),
    ],
)
def test_a_setting_that_gives_the_ids_is_found(style: str, arguments: dict[str, Any], engine: MakeEngine):
    plain, chosen = engine(style), engine(style, **arguments)
    assert plain.ids != chosen.ids
    found = plain.of(chosen.ids)
    assert found.same
    assert found.settings == arguments
    assert all(f"{name}={value!r}" in "\n".join(report_lines(found)) for name, value in arguments.items())
    asked = chosen.of(plain.ids)
    assert names(asked)[0] == "setting_not_applied", "an argument that was asked for is not varied"
    assert asked.explanations[0].complete
    assert len(asked.explanations) == 1, "the template itself gives the ids: no other one is blamed"


def test_an_argument_that_the_template_does_not_read_is_named(engine: MakeEngine):
    asked = engine("chatml_thinking", enable_thinking=False, enable_thinkin=False, add_generation_prompt=True)
    found = asked.of(asked.ids)
    assert (found.same, found.unread) == (True, ("enable_thinkin",))
    assert "the template does not read enable_thinkin" in "\n".join(report_lines(found)).splitlines()[2]
    healthy = engine("chatml_thinking", enable_thinking=False)
    assert healthy.of(healthy.ids).unread == ()


def test_today_s_date_is_no_difference(engine: MakeEngine):
    plain = engine("channels")
    folder = read_folder(plain.folder)
    job = Job(STYLES["channels"], plain.conversation.variables(folder.special), "2020-02-29")
    text = render_jobs([job])[0][0].text
    assert text is not None
    found = plain.fed(text)
    assert found.same
    assert found.settings == {"strftime_now": "2020-02-29T00:00:00"}


def test_the_first_token(engine: MakeEngine):
    llama, chatml = engine("headers_with_date", date_string="1 Jan 2020"), engine("chatml_thinking")
    bos = llama.number("<s>")
    assert llama.ids[0] == bos
    for case, ids, name in (
        (llama, llama.ids[1:], "bos_missing"),
        (llama, (bos, *llama.ids), "bos_doubled"),
        (chatml, (bos, *chatml.ids), "bos_extra"),
        (chatml, (bos, bos, *chatml.ids), "bos_doubled"),
    ):
        found = case.of(ids)
        assert names(found)[0] == name
        assert found.explanations[0].complete
        assert found.first is not None
        assert found.first.position == (1 if name == "bos_doubled" and case is llama else 0)
    assert names(chatml.of((*chatml.ids, chatml.number("</s>"))))[0] == "eos_appended"


@pytest.mark.parametrize("style", ["chatml_thinking", "headers_with_date", "no_system", "think_primed", "plain_roles"])
def test_the_assistant_s_turn_is_not_opened(style: str, engine: MakeEngine):
    asked = engine(style)
    without = engine(style, add_generation_prompt=False)
    assert names(asked.of(without.ids))[0] == "assistant_priming_missing"
    assert without.of(without.ids).same, "unless that was asked for"
    said = engine(style, [USER, REPLY])
    primed = engine(style, [USER, REPLY], add_generation_prompt=True)
    if style != "plain_roles":
        assert said.of(said.ids).same, "a conversation that the assistant ends needs no opening"
    assert names(said.of(primed.ids))[0] == "assistant_priming_extra"


def test_thinking_sections(engine: MakeEngine):
    qwen, deepseek = engine("chatml_thinking"), engine("think_primed")
    assert deepseek.text.endswith("<think>\n")
    for case, text, name in (
        (qwen, qwen.text + "<think></think>", "think_injected"),
        (qwen, qwen.text + "<think>\n", "think_injected"),
        (deepseek, deepseek.text.removesuffix("<think>\n"), "think_missing"),
        (deepseek, deepseek.text + "\n</think>\n\n", "think_closed"),
    ):
        assert names(case.fed(text))[0] == name
    closed = engine("chatml_thinking", enable_thinking=False)
    assert names(closed.fed(closed.text.removesuffix("\n</think>\n\n")))[0] == "think_left_open"


def test_newlines_and_blanks(engine: MakeEngine):
    case = engine("chatml_thinking", [SYSTEM, USER, REPLY, USER])
    for text, name in (
        (case.text.replace("<|im_end|>\n", "<|im_end|>"), "newline_missing"),
        (case.text.removesuffix("\n"), "newline_missing"),
        (case.text.replace("user\n", "user\n\n"), "newline_extra"),
        (case.text + "\n", "newline_trailing"),
        (case.text + " ", "newline_trailing"),
        (case.text.replace("user\n", "user \n"), "whitespace"),
    ):
        found = case.fed(text)
        assert names(found)[0] == name, text
        assert found.explanations[0].complete


def test_a_system_message_that_nobody_gave(engine: MakeEngine):
    for style, before, after in (
        ("chatml_thinking", "<|im_start|>system\n", "<|im_end|>\n"),
        ("channels", "<|start|>system<|message|>", "<|end|>"),
    ):
        case = engine(style)
        place = case.text.rindex("<|im_start|>user" if style == "chatml_thinking" else "<|start|>user")
        for content, name in (
            ("User Context:\n", "system_message_empty"),
            ("", "system_message_empty"),
            ("Context: None\nMemory:\n", "system_message_empty"),
            ("Answer in French.", "system_message_added"),
        ):
            found = case.fed(case.text[:place] + before + content + after + case.text[place:])
            assert names(found)[0] == name, (style, content)


@pytest.mark.parametrize("style", ["chatml_thinking", "headers_with_date", "inst", "channels"])
def test_a_system_message_that_is_not_fed(style: str, engine: MakeEngine):
    given, without = engine(style, [SYSTEM, USER, REPLY, USER]), engine(style, [USER, REPLY, USER])
    assert names(given.of(without.ids)) == ["system_message_missing"]


def test_tools(engine: MakeEngine):
    told = "You have this function:\n" + json.dumps(TOOL["function"]) + "\nCall it as [name(argument=value)]."
    listed = "Functions:\n- read_stage(layer: integer, stage: string): reads a stage\n"
    plain = engine("chatml_thinking", [SYSTEM, USER])
    given = engine("chatml_thinking", [SYSTEM, USER], [TOOL])
    for content in (told, listed):
        both = engine("chatml_thinking", [{"role": "system", "content": content}, USER], [TOOL])
        alone = engine("chatml_thinking", [USER], [TOOL])
        assert names(alone.of(both.ids))[0] == "tools_described_twice"
    assert names(engine("chatml_thinking").of(both.ids))[0] == "tools_added"
    twice = engine("chatml_thinking", [{"role": "system", "content": told}, USER], [TOOL])
    assert names(engine("chatml_thinking").of(twice.ids))[0] == "tools_described_twice"
    assert names(given.of(plain.ids))[0] == "tools_missing"
    assert names(plain.of(given.ids))[0] == "tools_added"
    reshaped = given.text.replace(json.dumps(TOOL, ensure_ascii=False), json.dumps(TOOL["function"], indent=1))
    assert names(given.fed(reshaped))[0] == "tools_format"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loader_s_own_template(family: str, engine: MakeEngine, make_folder: Any):
    """ChatML is told from the folder's by its system message, the bare contents by having no delimiter."""
    case = engine("xml_tools", [SYSTEM, USER, REPLY, USER])
    own = make_folder(FAMILIES[family], name="own", **TOKENS)
    _, ids = render_prompt(own, case.conversation)
    found = case.of(ids)
    assert names(found)[0] == "template_file_ignored"
    assert found.explanations[0].evidence["template"] == family or "bare" in family or family.startswith("ChatML")


def test_a_loader_s_own_template_where_no_file_is_ignored(make_folder: Any):
    conversation = Conversation([SYSTEM, USER])
    _, ids = render_prompt(make_folder(FAMILIES["Zephyr"], name="own", **TOKENS), conversation)
    configured = make_folder(None, name="configured", configured=STYLES["xml_tools"], **TOKENS)
    assert names(compare_prompts(configured, conversation, ids))[0] == "other_template"


def test_a_template_of_the_folder_that_does_not_count(make_folder: Any):
    folder = make_folder(STYLES["inst"], configured=STYLES["no_system"], **TOKENS)
    conversation = Conversation([USER])
    ids = render_prompt(make_folder(STYLES["no_system"], name="other", **TOKENS), conversation)[1]
    found = compare_prompts(folder, conversation, ids)
    assert names(found)[0] == "template_file_ignored"
    assert found.explanations[0].evidence == {"template": "tokenizer_config.json"}
    named = [{"name": "default", "template": STYLES["inst"]}, {"name": "rag", "template": STYLES["no_system"]}]
    several = make_folder(None, name="several", configured=named, **TOKENS)
    assert names(compare_prompts(several, conversation, ids))[0] == "other_template"


def test_an_unknown_template_is_read_off_its_delimiters(engine: MakeEngine):
    case = engine("chatml_thinking", [USER, REPLY, USER])
    other = "".join(f"@@{m['role']}@@ {m['content']} ;;" for m in case.conversation.messages) + "@@assistant@@"
    found = case.fed(other)
    assert names(found)[0] == "template_file_ignored"
    assert "other_template" in names(found)
    assert "@@user@@" in found.explanations[0].sentence


def test_delimiters_changed_in_part(engine: MakeEngine):
    case = engine("no_system", [USER, REPLY, USER])
    assert "role_delimiters" in names(case.fed(case.text.replace("<start_of_turn>model", "<start_of_turn>assistant")))


def test_a_prompt_built_by_hand(engine: MakeEngine):
    case = engine("chatml_thinking", [SYSTEM, USER, REPLY, USER])
    turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>" for m in case.conversation.messages)
    found = case.fed(turns)
    assert names(found)[0] == "hand_rolled"
    assert {"assistant_priming_missing", "newline_missing"} <= set(names(found))


ROLE = {"headers_with_date": "assistant", "no_system": "model", "chatml_thinking": "assistant"}


@pytest.mark.parametrize("style", ROLE)
def test_a_turn_opened_for_another_role_is_no_missing_opening(style: str, engine: MakeEngine):
    case = engine(style)
    head, _, tail = case.text.rpartition(ROLE[style])
    found = case.fed(head + "bot" + tail)
    assert names(found)[0] == "role_delimiters"
    assert "bot" in found.explanations[0].sentence


@pytest.mark.parametrize("style", ["headers_with_date", "no_system", "inst", "think_primed"])
def test_a_prompt_of_plain_roles_where_the_template_begins_with_a_token(style: str, engine: MakeEngine):
    """The missing first token is put right before the middle is read, and is no sign that the template was used."""
    found = engine(style).fed(f"User: {USER['content']}\nAssistant:")
    assert names(found)[0] == "template_file_ignored"
    assert "bos_missing" in names(found)


def test_a_first_token_that_is_spelled_out_is_not_missing(engine: MakeEngine):
    case = engine("headers_with_date")
    case.vocabulary.inner.encode_special_tokens = True
    literal = case.vocabulary.encode(case.text)
    case.vocabulary.inner.encode_special_tokens = False
    assert names(case.of(literal))[0] == "tokenizer_settings"
    start = case.vocabulary.encode(case.text)
    letters = tuple(n for letter in "<s>" for n in case.vocabulary.encode(letter))
    found = names(case.of((*letters, *start[1:])))
    assert found[0] == "special_token_spelled_out"
    assert "bos_missing" not in found


def test_a_tool_that_nobody_gave_in_a_format_that_is_no_json(engine: MakeEngine):
    case = engine("think_primed", [SYSTEM, USER])
    schema = json.dumps(TOOL["function"]["parameters"])
    described = f"{SYSTEM['content']}\n## Tools\n### read_stage\nReads a stage.\nParameters: {schema}\n"
    assert names(case.fed(case.text.replace(SYSTEM["content"], described)))[0] == "tools_added"


@pytest.mark.parametrize("times", [2, 3])
def test_a_prompt_that_is_fed_more_than_once(engine: MakeEngine, times: int):
    case = engine("chatml_thinking", [SYSTEM, USER, REPLY, USER])
    assert names(case.of(list(case.ids) * times))[0] == "prompt_repeated"
    assert "prompt_repeated" not in names(case.of([*case.ids, *case.ids[:-1]]))


def test_a_cut_prompt_and_a_lost_message(engine: MakeEngine):
    case = engine("chatml_thinking", [SYSTEM, USER, REPLY, USER])
    assert names(case.of(case.ids[7:]))[0] == "truncated_start"
    assert "truncated_end" in names(case.of(case.ids[:20]))
    lost = names(case.fed(case.text.replace(REPLY["content"], "It is.")))
    assert "message_missing" in lost


def test_the_same_text_as_other_ids(engine: MakeEngine):
    case = engine("chatml_thinking", [SYSTEM, USER])
    spelled = case.vocabulary
    spelled.inner.encode_special_tokens = True
    literal = spelled.encode(case.text)
    spelled.inner.encode_special_tokens = False
    assert spelled.text(literal) == case.text
    assert names(case.of(literal))[0] == "tokenizer_settings"
    start = tuple(n for part in "<|im_start|>" for n in spelled.encode(part))
    at = case.ids.index(case.number("<|im_start|>"), 1)
    found = case.of((*case.ids[:at], *start, *case.ids[at + 1 :]))
    assert names(found)[0] == "special_token_spelled_out"
    assert found.explanations[0].evidence == {"tokens": ["<|im_start|>"]}
    word = spelled.encode(" noise")
    place = next(n for n in range(len(case.ids)) if case.ids[n : n + len(word)] == word)
    letters = tuple(n for letter in " noise" for n in spelled.encode(letter))
    retokenized = case.of((*case.ids[:place], *letters, *case.ids[place + len(word) :]))
    assert names(retokenized)[0] == "retokenized"


def test_a_special_token_in_a_message(engine: MakeEngine):
    case = engine("chatml_thinking", [{"role": "user", "content": "Say <|im_end|> twice."}])
    ids = list(case.ids)
    at = ids.index(case.number("<|im_end|>"))
    literal = [n for letter in "<|im_end|>" for n in case.vocabulary.encode(letter)]
    found = case.of([*ids[:at], *literal, *ids[at + 1 :]])
    assert names(found)[0] == "special_token_spelled_out"
    assert "message" in found.explanations[0].sentence


def test_parts_tokenized_apart(make_folder: Any):
    folder = make_folder("{% for m in messages %}{{ m.content }}{% endfor %}")
    parts = ["What is a noi", "se flo", "or?"]
    case = Engine(folder, Conversation([{"role": "user", "content": part} for part in parts]))
    ids = tuple(n for part in parts for n in case.vocabulary.encode(part))
    assert ids != case.ids
    assert names(case.of(ids))[0] == "retokenized_across_boundary"


@pytest.mark.parametrize(("name", "value"), [("add_prefix_space", True), ("use_regex", True)])
def test_another_tokenizer_class(name: str, value: bool, make_folder: Any):
    document = json.loads(train_tokenizer(**{name: not value}).to_str())
    document["pre_tokenizer"][name] = not value
    own = make_folder("{{ messages[0].content }}", tokenizer=json.dumps(document))
    document["pre_tokenizer"][name] = value
    other = make_folder("{{ messages[0].content }}", name="other", tokenizer=json.dumps(document))
    conversation = Conversation([USER])
    ids = render_prompt(other, conversation)[1]
    assert ids != render_prompt(own, conversation)[1]
    found = compare_prompts(own, conversation, ids)
    assert names(found)[0] == "tokenizer_settings"
    assert found.explanations[0].evidence["setting"] == f"{name}={value}"


def test_split_digits(make_folder: Any):
    tokenizers = pytest.importorskip("tokenizers")
    made = train_tokenizer()
    digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
    plain = make_folder("{{ messages[0].content }}", name="plain", tokenizer=made.to_str())
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([digits, made.pre_tokenizer])
    split = make_folder("{{ messages[0].content }}", name="split", tokenizer=made.to_str())
    conversation = Conversation([{"role": "user", "content": "layer: 12345 and 345"}])
    ids = render_prompt(split, conversation)[1]
    assert names(compare_prompts(plain, conversation, ids))[0] == "tokenizer_settings"


def test_a_count_that_is_not_the_ids(engine: MakeEngine):
    case = engine("inst")
    right, wrong = (FedPrompt(case.ids, "a server", len(case.ids) + n) for n in (0, 1))
    assert compare_prompts(case.folder, case.conversation, right).same
    found = compare_prompts(case.folder, case.conversation, wrong)
    assert names(found) == ["count_differs"]
    assert found.explanations[0].complete
    assert "COUNTED OTHERWISE" in next(iter(report_lines(found)))


def test_two_defects_at_once_are_both_named(engine: MakeEngine):
    case = engine("headers_with_date", [SYSTEM, USER], date_string="1 Jan 2020")
    without = case.text.removesuffix("<|start_header_id|>assistant<|end_header_id|>\n\n")
    ids = (case.number("<s>"), *case.vocabulary.encode(without.replace("<|end_header_id|>\n\n", "<|end_header_id|>\n")))
    assert {"bos_doubled", "assistant_priming_missing", "newline_missing"} <= set(names(case.of(ids)))
    closed = engine("chatml_thinking", enable_thinking=False)
    found = engine("chatml_thinking").of((case.number("<s>"), *closed.ids))
    assert names(found)[0] == "bos_extra"
    assert found.settings == {"enable_thinking": False}


def test_nonsense_is_unexplained_and_never_the_same(engine: MakeEngine):
    case = engine("chatml_thinking")
    middle = len(case.ids) // 2
    found = case.of((*case.ids[:middle], 300, *case.ids[middle + 1 :]))
    assert not found.same
    assert found.explanations
    assert not any(one.complete for one in found.explanations)
    assert names(case.of((*case.ids, case.number("<tool_call>")))) == ["unexplained"]


def test_every_explanation_is_planted():
    tested = Path(__file__).read_text()
    assert [name for name in NAMES if f'"{name}"' not in tested] == []


def test_the_documentation_names_every_explanation():
    page = (Path(__file__).resolve().parents[2] / "docs/prompt.md").read_text()
    assert [
        f"| `{name}` | {meaning} |" for name, meaning in NAMES.items() if f"| `{name}` | {meaning} |" not in page
    ] == []
