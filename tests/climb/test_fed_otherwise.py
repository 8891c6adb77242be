"""A fault that only decode steps have, or only chunks: is it placed and proved, and not only seen?"""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.climb import Case, Status, investigate
from parity.promptfile import read_prompt
from parity.runner import Request
from tests.climb.conftest import Planted

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
MODEL = FIXTURES / "models" / "moe-tiny"


@pytest.fixture(scope="module")
def request_96() -> Request:
    prompt = next((FIXTURES / "prompts").glob("document-*.json"))
    return Request(prompt.stem, read_prompt(prompt).request.ids[:96])


@pytest.mark.parametrize("factor", [pytest.param(3.0, marks=pytest.mark.long), 1.03])
def test_a_stage_that_is_wrong_in_decode_alone_is_placed_and_proved(request_96: Request, tmp_path: Path, factor: float):
    """The large factor shows in the logits; the small one in the stage alone, which rung 5 looks for."""
    # A step of one row is a decode step: what a decode kernel of its own would get wrong.
    engine = Planted(MODEL, {(2, "attn.out"): lambda x: (x.float() * factor).to(x.dtype) if len(x) == 1 else x})
    case = Case(
        sut=f"recipe:{MODEL}", oracle=f"hf:{MODEL}", request=request_96, emulation=f"recipe:{MODEL}",
        oracle_options={"dtype": "float32"}, floor=str(FIXTURES / "floors" / "bf16.json"), new_tokens=6,
    )  # fmt: skip
    found = investigate(case, tmp_path / "case", sut=engine, skip=(0, 1, 3))
    symptom, replayed = found.rung(2), found.rung(5)
    assert symptom is not None
    assert (symptom.evidence["decoding"]["starts"] == "decode") is (factor > 2)
    finding = found.finding
    assert (finding.verdict, finding.stage, finding.layers) == ("fault", "attn.out", (2,)), finding.sentence
    assert finding.evidence["repeated"], finding.evidence["repetition"]
    assert replayed is not None
    assert replayed.control["healthy"]
    wrong = [row for row in replayed.evidence["isolated"]["comparisons"] if row["verdict"] == "EXCEEDS_FLOOR"]
    assert {(row["stage"], row["layer"], row["phase"]) for row in wrong} == {("attn.out", 2, "decode")}
    assert finding.proof["stays"], finding.proof
    assert finding.proof["sham_changed"] == 0
    assert finding.proof["proved"], finding.proof["sentence"]
    fixture = found.rung(8)
    assert fixture is not None
    assert fixture.status is Status.FOUND, fixture.sentence
    assert fixture.numbers["ids"] < 96


def test_a_stage_that_is_wrong_in_chunks_alone_is_placed_and_proved(request_96: Request, tmp_path: Path):
    # Neither the whole prompt nor a decode step has so few rows and more than one.
    engine = Planted(MODEL, {(1, "attn.context"): lambda x: (x.float() * 1.5).to(x.dtype) if 1 < len(x) < 40 else x})
    case = Case(
        sut=f"recipe:{MODEL}", oracle=f"hf:{MODEL}", request=request_96, emulation=f"recipe:{MODEL}",
        oracle_options={"dtype": "float32"}, floor=str(FIXTURES / "floors" / "bf16.json"), new_tokens=3,
    )  # fmt: skip
    found = investigate(case, tmp_path / "case", sut=engine, skip=(0, 1, 2, 8))
    invariances, replayed = found.rung(3), found.rung(5)
    assert invariances is not None
    assert [one.rung for one in invariances.findings] == ["invariances (chunks)"], invariances.sentence
    assert replayed is not None
    assert replayed.numbers["wrong_in"] == "chunks"
    finding = found.finding
    assert (finding.verdict, finding.stage, finding.layers) == ("fault", "attn.context", (1,)), finding.sentence
    assert finding.evidence["repeated"], finding.evidence["repetition"]
    assert finding.evidence["confirmed_by"]
    assert finding.proof["proved"], finding.proof["sentence"]
