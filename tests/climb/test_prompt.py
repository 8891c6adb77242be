"""Rung 0 on an engine that renders by itself: silent on the template's own ids, loud on any others, and repeated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from parity.climb import Case, Status
from parity.climb.bench import Bench
from parity.climb.counted import Counted
from parity.climb.rung import RungResult
from parity.climb.rungs import RUNGS
from parity.fingerprint.causes import PROMPT_TEMPLATE
from parity.prompt import Conversation
from parity.prompt.compare import render_prompt
from parity.records import as_json
from parity.runner import Request

MODEL = str(Path(__file__).resolve().parents[2] / "fixtures" / "models" / "moe-tiny")
pytest.importorskip("tokenizers")


class Chatting:
    """An engine that only renders. lost: ids that it leaves off the end of every prompt."""

    def __init__(self, lost: int) -> None:
        self.lost = lost

    def describe(self) -> Any:
        return SimpleNamespace(name="chatting", can=frozenset({"chat"}))

    def chat(self, messages: Any, *, tools: Any = (), **options: Any) -> Request:
        _, ids = render_prompt(MODEL, Conversation(tuple(messages), tuple(tools), options))
        return Request("chat", ids[: len(ids) - self.lost])


def climb_rung_0(lost: int, folder: Path, **asked: Any) -> RungResult:
    case = replace(Case("chatting:x", "none:x", Request("r", (1, 2, 3)), model=MODEL), **asked)
    oracle = SimpleNamespace(describe=lambda: SimpleNamespace(can=frozenset()))
    bench = Bench(case, folder, sut=Counted(Chatting(lost)), oracle=oracle, emulation=None, floor=None)
    assert RUNGS[0].obstacle(bench) == ""
    return RUNGS[0].run(bench)


def test_the_template_s_own_ids_rule_the_prompt_out(tmp_path: Path):
    found = climb_rung_0(0, tmp_path)
    assert (found.status, found.numbers) == (Status.RULED_OUT, {"conversations": 3, "that_differ": 0})
    assert found.control["healthy"]


def test_lost_ids_are_found_on_every_conversation_and_can_be_written_down(tmp_path: Path):
    found = climb_rung_0(2, tmp_path)
    assert found.status is Status.FOUND
    (finding,) = found.findings
    assert (finding.rung, finding.cause) == ("prompt", PROMPT_TEMPLATE)
    assert finding.evidence["repeated"]
    assert found.control["healthy"]
    written = json.loads(json.dumps(as_json(found)))
    assert len(written["evidence"]["lines"]) == 3
    assert all(written["evidence"]["lines"])


def test_one_given_conversation_cannot_repeat(tmp_path: Path):
    asked = (Conversation(({"role": "user", "content": "What is a floor?"},)),)
    finding = climb_rung_0(2, tmp_path, conversations=asked).findings[0]
    assert not finding.evidence["repeated"]
    assert finding.evidence["repetition"].startswith("not repeated")
