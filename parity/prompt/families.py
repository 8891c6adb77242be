"""Which templates do loaders fall back to that look for none in the model's folder? A few generic ones."""

from __future__ import annotations

_LOOP = "{% for message in messages %}"
_END = "{% endfor %}"


def _primed(turns: str, priming: str) -> str:
    return turns + "{% if add_generation_prompt %}{{ " + repr(priming) + " }}{% endif %}"


def _turns(before: str, between: str, after: str) -> str:
    return (
        _LOOP + "{{ " + repr(before) + " + message.role + " + repr(between) + " + (message.content or '') + "
        + repr(after) + " }}" + _END
    )  # fmt: skip


_NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{% set first = messages[0].content %}{% set turns = messages[1:] %}"
    "{% else %}{% set first = none %}{% set turns = messages %}{% endif %}"
)

FAMILIES = {
    "ChatML": _primed(_turns("<|im_start|>", "\n", "<|im_end|>\n"), "<|im_start|>assistant\n"),
    "ChatML with a default system message": (
        "{% if messages[0].role != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
        + _primed(_turns("<|im_start|>", "\n", "<|im_end|>\n"), "<|im_start|>assistant\n")
    ),
    "Llama 3": "{{ bos_token }}"
    + _primed(
        _turns("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>"),
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "Llama 2": _NO_SYSTEM + "{% for message in turns %}{% if message.role == 'user' %}{{ bos_token + '[INST] ' + "
    "(('<<SYS>>\n' + first + '\n<</SYS>>\n\n') if first and loop.first else '') + message.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + message.content + ' ' + eos_token }}{% endif %}{% endfor %}",
    "Mistral": "{{ bos_token }}" + _NO_SYSTEM + "{% for message in turns %}{% if message.role == 'user' %}{{ '[INST] ' "
    "+ ((first + '\n\n') if first and loop.last else '') + message.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + message.content + eos_token }}{% endif %}{% endfor %}",
    "Gemma": "{{ bos_token }}" + _NO_SYSTEM + _primed(
        "{% for message in turns %}{{ '<start_of_turn>' + "
        "('model' if message.role == 'assistant' else message.role) + "
        "'\n' + ((first + '\n\n') if first and loop.first else '') + "
        "message.content + '<end_of_turn>\n' }}{% endfor %}",
        "<start_of_turn>model\n",
    ),
    "Zephyr": _primed(_turns("<|", "|>\n", "</s>\n"), "<|assistant|>\n"),
    "Vicuna": _primed(
        _LOOP + "{{ {'user': 'USER: ', 'assistant': 'ASSISTANT: '}.get(message.role, '') + message.content + '\n' }}"
        + _END, "ASSISTANT:"
    ),
    "Alpaca": _primed(_turns("### ", ":\n", "\n\n"), "### assistant:\n"),
    "role: content": _primed(_turns("", ": ", "\n"), "assistant: "),
    "role: content, without a space after it": _primed(_turns("", ": ", "\n"), "assistant:"),
    "the bare contents": _LOOP + "{{ message.content }}{% if not loop.last %}{{ '\n' }}{% endif %}" + _END,
    "the last message alone": "{{ messages[-1].content }}",
}  # fmt: skip
"""Written for this file after the formats' descriptions. A SUT whose ids one of them gives looked at no template."""
