"""What engines get wrong with templates of other families: cuts inside words, headings alone, schemas rewritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_styles import STYLES

from parity.prompt import Conversation, PromptComparison, compare_prompts, read_folder, render_prompt
from parity.prompt.vocabulary import Vocabulary

pytestmark = pytest.mark.usefixtures("remembered_renderings")

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
ENDED_UNLESS_PRIMED = (
    "{% for message in messages %}{{ '<|User|>' + message.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)
USER = {"role": "user", "content": "What is a noise floor? Tell me of 12 + 345."}
TOOL = {
    "type": "function",
    "function": {
        "name": "read_stage",
        "description": "Reads a stage.",
        "parameters": {"type": "object", "properties": {"layer": {"type": "integer"}, "stage": {"type": "string"}}},
    },
}


class Fed:
    """A folder, a conversation, and what comes of other text or ids."""

    def __init__(self, folder: Path, *, messages: tuple[Any, ...] = (USER,), **rest: Any):
        self.folder, self.conversation = folder, Conversation(messages, **rest)
        self.text, self.ids = render_prompt(folder, self.conversation)
        self.vocabulary = Vocabulary.read(folder, read_folder(folder).special)

    def of(self, *parts: str) -> PromptComparison:
        ids = tuple(number for part in parts for number in self.vocabulary.encode(part))
        assert ids != self.ids, "the defect is planted"
        return compare_prompts(self.folder, self.conversation, ids)


def first(found: PromptComparison) -> tuple[str, bool]:
    return found.explanations[0].name, found.explanations[0].complete


@pytest.mark.parametrize("style", ["chatml_thinking", "headers_with_date", "think_primed"])
@pytest.mark.parametrize("cuts", [1, 3])
def test_parts_cut_inside_words_and_tokenized_apart(make_folder: Any, style: str, cuts: int):
    fed = Fed(make_folder(STYLES[style], name=style, **TOKENS))
    at = [fed.text.index(word) + 2 for word in ("noise", "floor", "Tell")[:cuts]]
    parts = [fed.text[a:b] for a, b in zip([0, *at], [*at, len(fed.text)], strict=True)]
    found = fed.of(*parts)
    assert first(found) == ("retokenized_across_boundary", True)
    assert found.explanations[0].evidence["cuts"][0] == at[0]


def test_letters_one_by_one_are_no_cut(make_folder: Any):
    fed = Fed(make_folder(STYLES["chatml_thinking"], **TOKENS))
    before, after = fed.text.split("noise")
    assert first(fed.of(before, *"noise", after)) == ("retokenized", True)


@pytest.mark.parametrize("said", ["# Instructions\n\n", "## Rules", "Instructions:", ""])
def test_a_heading_with_nothing_behind_says_nothing(make_folder: Any, said: str):
    fed = Fed(make_folder(STYLES["channels"], **TOKENS))
    told = fed.text.replace("<|start|>user", f"<|start|>developer<|message|>{said}<|end|><|start|>user")
    assert first(fed.of(told)) == ("system_message_empty", True)


def test_a_heading_with_something_behind_says_something(make_folder: Any):
    fed = Fed(make_folder(STYLES["channels"], **TOKENS))
    told = fed.text.replace("<|start|>user", "<|start|>developer<|message|># Rules\n\nBe brief.<|end|><|start|>user")
    assert first(fed.of(told)) == ("system_message_added", True)


def test_parameters_written_in_other_words_are_another_format(make_folder: Any):
    fed = Fed(make_folder(STYLES["xml_tools"], **TOKENS), tools=(TOOL,))
    start, end = fed.text.index('read_stage">') + len('read_stage">'), fed.text.index("</function>")
    assert first(fed.of(fed.text[:start] + "layer: integer, stage: string" + fed.text[end:]))[0] == "tools_format"


def test_a_description_set_otherwise_is_another_format_and_no_matter_of_newlines(make_folder: Any):
    fed = Fed(make_folder(STYLES["chatml_thinking"], **TOKENS), tools=(TOOL,))
    assert first(fed.of(fed.text.replace(json.dumps(TOOL), json.dumps(TOOL, indent=2)))) == ("tools_format", True)


def test_an_opening_is_missed_where_the_template_ends_the_sequence_without_one(make_folder: Any):
    fed = Fed(make_folder(ENDED_UNLESS_PRIMED, **TOKENS))
    assert first(fed.of(fed.text.removesuffix("<|Assistant|>"))) == ("assistant_priming_missing", True)
    assert first(fed.of(fed.text.removesuffix("<|Assistant|>") + "</s>")) == ("assistant_priming_missing", True)


@pytest.mark.parametrize(("style", "lost", "left"), [("inst", "</s>[INST]", "[INST]"), ("think_primed", "</s>", "")])
def test_a_delimiter_that_is_left_out_between_two_turns(make_folder: Any, style: str, lost: str, left: str):
    reply = {"role": "assistant", "content": "It is an error."}
    fed = Fed(make_folder(STYLES[style], name=style, **TOKENS), messages=(USER, reply, USER))
    assert first(fed.of(fed.text.replace(lost, left, 1))) == ("role_delimiters", True)
