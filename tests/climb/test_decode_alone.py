"""A fault that only decode steps have: is it placed and proved, and not only seen?"""

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


def test_a_stage_that_is_wrong_in_decode_alone_is_placed_repeated_and_proved(request_96: Request, tmp_path: Path):
    # A step of one row is a decode step: what a decode kernel of its own would get wrong.
    engine = Planted(MODEL, {(2, "attn.out"): lambda x: (x.float() * 3).to(x.dtype) if len(x) == 1 else x})
    case = Case(
        sut=f"recipe:{MODEL}", oracle=f"hf:{MODEL}", request=request_96, emulation=f"recipe:{MODEL}",
        oracle_options={"dtype": "float32"}, floor=str(FIXTURES / "floors" / "bf16.json"), new_tokens=6,
    )  # fmt: skip
    found = investigate(case, tmp_path / "case", sut=engine, skip=(0, 1, 3))
    symptom = found.rung(2)
    assert symptom is not None
    assert symptom.status is Status.FOUND
    assert symptom.evidence["decoding"]["starts"] == "decode"
    finding = found.finding
    assert (finding.verdict, finding.stage, finding.layers) == ("fault", "attn.out", (2,)), finding.sentence
    assert finding.evidence["repeated"], finding.evidence["repetition"]
    assert finding.proof["proved"], finding.proof["sentence"]
    replayed = found.rung(5)
    assert replayed is not None
    wrong = [row for row in replayed.evidence["isolated"]["comparisons"] if row["verdict"] == "EXCEEDS_FLOOR"]
    assert {(row["stage"], row["layer"], row["phase"]) for row in wrong} == {("attn.out", 2, "decode")}
    fixture = found.rung(8)
    assert fixture is not None
    assert fixture.status is Status.FOUND, fixture.sentence
    assert fixture.numbers["ids"] < 96
