"""Which explanations of a wrong prompt are there? The closed table, most telling first."""

from __future__ import annotations

NAMES: dict[str, str] = {
    "prompt_repeated": "the whole prompt is fed more than once",
    "template_file_ignored": "a template file lies beside the weights, and the prompt is not made by it",
    "other_template": "the prompt is another template's",
    "setting_not_applied": "an argument of the template that was asked for is not applied",
    "tools_described_twice": "a tool is described twice, or in two formats",
    "tools_missing": "the tools given are not described",
    "tools_added": "a tool is described that nobody gave",
    "tools_format": "the tools are described in another format than the template's",
    "system_message_empty": "there is a system message without content",
    "system_message_added": "there is a system message that nobody gave",
    "system_message_missing": "the system message that was given is not in the prompt",
    "hand_rolled": "the prompt is built by hand: the template's delimiters, and not its text",
    "bos_missing": "the token that begins a sequence is missing",
    "bos_doubled": "the token that begins a sequence stands twice",
    "bos_extra": "a token begins the sequence that the template does not write",
    "eos_appended": "a token that ends a sequence is appended",
    "assistant_priming_missing": "the prompt does not open the assistant's turn",
    "assistant_priming_extra": "the prompt opens an assistant's turn that was not asked for",
    "think_injected": "a thinking section is opened that the template does not open",
    "think_missing": "the thinking section that the template opens is missing",
    "think_closed": "a thinking section is closed that the template leaves open",
    "think_left_open": "a thinking section is left open that the template closes",
    "role_delimiters": "turns are delimited otherwise",
    "message_missing": "a message's text is not in the prompt",
    "truncated_start": "the prompt's start is cut off",
    "truncated_end": "the prompt's end is cut off",
    "special_token_spelled_out": "a special token is spelled out as ordinary tokens",
    "tokenizer_settings": "the same text under other settings of the tokenizer",
    "retokenized_across_boundary": "the text was tokenized in parts and joined",
    "retokenized": "the same text as other ids",
    "newline_missing": "newlines are missing",
    "newline_extra": "there are newlines more",
    "newline_trailing": "the prompt ends in newlines or blanks of its own",
    "whitespace": "blanks differ",
    "count_differs": "the engine counts other prompt tokens than it shows",
    "unexplained": "no rule accounts for the difference",
}
"""Every explanation with what it means. The order ranks explanations that are equally complete: what causes others
comes before what it causes (another template also lacks priming and newlines)."""

RANK = {name: at for at, name in enumerate(NAMES)}
