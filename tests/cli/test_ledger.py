"""The ledger from the command line: entered, shown, taken back."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from parity.cli import app


def ledger(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["ledger", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_case_from_claim_to_withdrawal(tmp_path: Path):
    case = ("--case", str(tmp_path))
    assert ledger("add", "[noise]", "--predicts", "within the floor", "--by", "Ada", *case).startswith("H1")
    said = ledger(
        "conclude", "H1", "refuted", "--command", "parity compare", "--number", "over_floor=9.5", "--number",
        "where=row 3", "--rules-out", "noise", *case,
    )  # fmt: skip
    assert said == "T1: H1 refuted\n"
    shown = json.loads(ledger("show", "--json", *case))
    assert shown["standing"] == {"H1": "refuted"}
    assert shown["entries"][1]["numbers"] == {"over_floor": 9.5, "where": "row 3"}
    assert "open again: H1" in ledger("reopen", "T1", "--because", "wrong prompt", *case)
    text = ledger("show", *case)
    assert "[noise]" in text
    assert "withdrawn" in text
    assert "open" in text


def test_an_empty_case_says_so(tmp_path: Path):
    assert "no hypothesis yet" in ledger("show", "--case", str(tmp_path))
