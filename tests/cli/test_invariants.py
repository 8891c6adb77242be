"""`parity invariants`: what it prints, and which exit code each outcome gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import parity.invariance.apart as apart
from parity.cli import app
from parity.errors import UsageError
from parity.invariance import Examination, Invariance, Outcome
from parity.records import Site

HELD = Invariance("chunks", Outcome.HELD, "chunks", "Held: all.", {"chunks_seen": 3})
BROKEN = Invariance("poison", Outcome.BROKEN, "memory", "Broken.", {"bytes": 1}, site=Site((2,), "moe.gate"))
UNJUDGED = Invariance("decode", Outcome.UNJUDGED, "steps", "Not judged.")
NOT_RUN = Invariance("padding", Outcome.NOT_RUN, "rows", "It cannot.")


@pytest.mark.parametrize(
    ("found", "asked", "code"),
    [
        ((HELD,), (), 0),
        ((HELD, NOT_RUN), (), 0),
        ((HELD, NOT_RUN), ("padding",), 2),
        ((NOT_RUN,), (), 2),
        ((HELD, UNJUDGED), (), 2),
        ((HELD, UNJUDGED, BROKEN), (), 1),
    ],
)
def test_the_exit_code_is_the_worst_outcome(
    found: tuple[Invariance, ...], asked: tuple[str, ...], code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    seen: dict[str, Any] = {}

    def examine(spec: str, request: Any, **options: Any) -> Examination:
        seen.update(options, spec=spec, request=request)
        return Examination("triton", "bf16", "p", 8, found)

    monkeypatch.setattr(apart, "examine_apart", examine)
    prompt = tmp_path / "prompt.json"
    prompt.write_text(json.dumps({"name": "p", "ids": list(range(50))}))
    names = [part for name in asked for part in ("--check", name)]
    arguments = ["invariants", "triton:model", "--prompt", str(prompt), "--tokens", "20", "--option", "fault=x", *names]
    for extra in ((), ("--json",)):
        done = CliRunner().invoke(app, [*arguments, *extra])
        assert done.exit_code == code, done.output
        assert all(one.sentence.split()[0] in done.output for one in found)
    assert json.loads(done.output)["invariances"][0]["outcome"] == found[0].outcome.value
    assert (seen["spec"], seen["fault"], tuple(seen["checks"])) == ("triton:model", "x", asked)
    assert seen["request"].ids == tuple(range(20))


def test_an_engine_is_examined_in_a_process_of_its_own(fp8_model: Path):
    heard: list[tuple[str, int, int]] = []
    found = apart.examine_apart(
        f"triton:{fp8_model}", None, checks=("coverage",), tokens=160, fault="moe_tile_truncation",
        on_step=lambda *step: heard.append(step),
    )  # fmt: skip
    (coverage,) = found.invariances
    assert coverage.outcome is Outcome.BROKEN
    assert coverage.where == "L00.moe.gate"
    assert (found.ids, found.prompt) == (160, "random ids")
    assert heard == [("coverage: 160 ids, plain", 0, 1)]


def test_a_check_that_is_none_is_refused(fp8_model: Path):
    with pytest.raises(UsageError, match="one of coverage"):
        apart.examine_apart(f"triton:{fp8_model}", None, checks=("all",), tokens=8)
