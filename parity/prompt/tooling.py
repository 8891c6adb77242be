"""Are the tools described once, in the template's format? JSON descriptions found in a prompt, and mentions by name."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from parity.prompt.conversation import contents, tool_names
from parity.prompt.evidence import Case, bare
from parity.prompt.record import Explanation

OBJECTS = 500
"""Openings of objects tried in one prompt: far more than a prompt describes tools."""


def described_tools(text: str) -> list[dict[str, Any]]:
    """JSON descriptions of functions in `text`, in order, one that stands twice twice."""
    return [value for value, _ in _descriptions(text)]


def _descriptions(text: str) -> list[tuple[dict[str, Any], str]]:
    """Each description with the text that it is written as."""
    return [(value, raw) for value, raw in _objects(text) if _describes(value)]


def _schemas(text: str) -> list[dict[str, Any]]:
    """JSON schemas of objects, as formats that are no JSON themselves write a tool's parameters."""
    return [value for value, _ in _objects(text) if value.get("type") == "object" and "properties" in value]


def _objects(text: str) -> list[tuple[dict[str, Any], str]]:
    """Outermost JSON objects with the text that each is written as."""
    found: list[tuple[dict[str, Any], str]] = []
    decoder = json.JSONDecoder()
    at = text.find("{")
    for _ in range(OBJECTS):
        if at < 0:
            break
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at = text.find("{", at + 1)
            continue
        found.append((value, text[at:end]))
        at = text.find("{", end)
    return found


def _describes(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    inner = value.get("function") if isinstance(value.get("function"), Mapping) else value
    keys = {"parameters", "description", "input_schema"}
    return isinstance(inner, Mapping) and isinstance(inner.get("name"), str) and bool(keys & inner.keys())


def tools(case: Case) -> Explanation | None:
    """Tools described twice, not at all, in another format, or without having been given."""
    given = tool_names(case.conversation.tools)
    said = "\n".join(contents(case.conversation.messages))
    mine, theirs = (Counter(tool_names(described_tools(p.text))) for p in (case.reference, case.sut))
    own = Counter(tool_names(described_tools(said)))
    added = "\n".join(text for _, text in case.changes)
    twice = [name for name in theirs if theirs[name] - own[name] > 1 and theirs[name] > mine[name]]
    twice += [tool for tool in given if tool not in twice and _in_another_format(case, tool, added)]
    if twice:
        told = f"The SUT's prompt describes {', '.join(twice)} twice; the template describes each tool once."
        return Explanation("tools_described_twice", told, False, {"tools": twice})
    extra = [name for name in theirs if name not in given and theirs[name] > max(mine[name], own[name])]
    if extra:
        told = f"The SUT's prompt describes {', '.join(extra)}, which the conversation does not give."
        return Explanation("tools_added", told, False, {"tools": extra})
    schemas = [len(_schemas(text)) for text in (case.reference.text, case.sut.text, said)]
    if not given and schemas[1] > schemas[0] + schemas[2]:
        told = "The SUT's prompt describes a tool's parameters, and the conversation gives no tool."
        return Explanation("tools_added", told, False, {"schemas": schemas[1] - schemas[0]})
    spoken = Counter({name: _mentions(said, name) for name in given})
    named = [name for name in given if _mentions(case.reference.text, name) > spoken[name]]
    lost = [name for name in named if _mentions(case.sut.text, name) <= spoken[name]]
    if lost:
        told = f"The template describes {', '.join(lost)}; the SUT's prompt does not."
        return Explanation("tools_missing", told, False, {"tools": lost})
    other = [name for name in named if mine[name] != theirs[name] or _rewritten(case, name)]
    if other:
        told = f"The SUT's prompt describes {', '.join(other)} in another format than the template."
        # Where both are the same but for the descriptions, there is nothing else to explain.
        return Explanation("tools_format", told, _apart_from_tools(case), {"tools": other})
    if named and schemas[1] < schemas[0]:
        told = f"The SUT's prompt names {', '.join(named)}, and does not write all parameters as the template does."
        return Explanation("tools_format", told, False, {"tools": named})
    return None


def _apart_from_tools(case: Case) -> bool:
    """Whether both prompts are the same once every JSON description is taken out of them."""
    left = []
    for prompt in (case.reference, case.sut):
        text = prompt.text
        for _, raw in _descriptions(text):
            text = text.replace(raw, "", 1)
        left.append(text)
    return left[0] == left[1]


def _in_another_format(case: Case, name: str, added: str) -> bool:
    """The tool is described as the template does it, and named once more with its parameters in what was put in."""
    if not _mentions(added, name) or _mentions(case.sut.text, name) <= _mentions(case.reference.text, name):
        return False
    if any(bare(removed) and _mentions(removed, name) for removed, _ in case.changes):
        return False
    (tool,) = [t for t in case.conversation.tools if tool_names((t,)) == (name,)][:1]
    inner = tool.get("function") if isinstance(tool.get("function"), Mapping) else tool
    schema = inner.get("parameters") or inner.get("input_schema") or {} if isinstance(inner, Mapping) else {}
    wanted = list(schema.get("properties") or {}) if isinstance(schema, Mapping) else []
    return sum(bool(_mentions(added, one)) for one in wanted) * 2 >= len(wanted)


def _rewritten(case: Case, name: str) -> bool:
    """Both describe the tool in JSON, and not in the same letters."""
    ours, theirs = (
        [raw for value, raw in _descriptions(prompt.text) if tool_names((value,)) == (name,)]
        for prompt in (case.reference, case.sut)
    )
    return ours != theirs


def _mentions(text: str, name: str) -> int:
    return len(re.findall(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text))
