"""Is nothing lost, nothing concluded without a prediction, and nothing left standing on withdrawn evidence?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from parity.errors import UsageError
from parity.ladder.ledger import LEDGER, Ledger, Standing


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "case")
    ledger.suppose("FP8 noise explains it", prediction="rows lie within the floor", raised_by="a colleague")
    ledger.suppose("YaRN is forced", prediction="error grows with position", raised_by="replay")
    return ledger


def refute(ledger: Ledger, hypothesis: str, **more: object) -> str:
    return ledger.conclude(hypothesis, "refuted", command="parity x", numbers={"over_floor": 9.5}, **more).id  # type: ignore[arg-type]


def test_what_was_entered_is_read_back(ledger: Ledger, tmp_path: Path):
    artifact = tmp_path / "finding.json"
    artifact.write_text("{}")
    refute(ledger, "H1", artifacts=[artifact], rules_out=["noise"], leaves_open=["decode"])
    again = Ledger(ledger.folder)
    assert again.entries == ledger.entries
    assert again.standing("H1") is Standing.REFUTED
    assert again.standing("H2") is Standing.OPEN
    (test,) = again.tests("H1")
    assert test.numbers == {"over_floor": 9.5}
    assert list(test.artifacts) == [str(artifact)]
    assert len(test.artifacts[str(artifact)]) == 64


def test_withdrawn_evidence_reopens_what_rested_on_it(ledger: Ledger):
    first = refute(ledger, "H1")
    second = refute(ledger, "H2", rests_on=[first])
    ledger.suppose("the grid is too small", prediction="rows past 256 are zero", raised_by="coverage")
    ledger.conclude("H3", "supported", command="parity y", numbers={"lost": 145}, rests_on=[second])
    assert ledger.withdraw(first, because="the trace was of another prompt") == ("H1", "H2", "H3")
    assert {ledger.standing(h.id) for h in ledger.hypotheses} == {Standing.OPEN}
    refute(ledger, "H1")
    assert Ledger(ledger.folder).standing("H1") is Standing.REFUTED
    assert Ledger(ledger.folder).standing("H3") is Standing.OPEN
    assert len(ledger.path.read_text().splitlines()) == 8, "nothing was removed"


@pytest.mark.parametrize(
    ("claim", "prediction"), [("", "x"), ("x", " ")],
)  # fmt: skip
def test_a_claim_needs_a_prediction(ledger: Ledger, claim: str, prediction: str):
    with pytest.raises(UsageError, match="prediction that a test can contradict"):
        ledger.suppose(claim, prediction=prediction, raised_by="me")


def test_a_verdict_needs_a_hypothesis_and_a_number(ledger: Ledger):
    with pytest.raises(UsageError, match="a hypothesis of this ledger: H1, H2"):
        refute(ledger, "H9")
    with pytest.raises(UsageError, match="an opinion"):
        ledger.conclude("H1", "refuted", command="", numbers={})
    with pytest.raises(UsageError, match="supported or refuted"):
        ledger.conclude("H1", "maybe", command="", numbers={"x": 1})
    with pytest.raises(UsageError, match="a test of this ledger: none yet"):
        refute(ledger, "H1", rests_on=["T7"])
    with pytest.raises(UsageError, match="a file that can be read"):
        refute(ledger, "H1", artifacts=[Path("/no/such/file")])
    assert not ledger.tests()


def test_an_altered_line_is_seen(ledger: Ledger):
    refute(ledger, "H1")
    text = ledger.path.read_text()
    ledger.path.write_text(text.replace("refuted", "supported"))
    with pytest.raises(UsageError, match="altered"):
        Ledger(ledger.folder)
    lines = text.splitlines(keepends=True)
    ledger.path.write_text(lines[0] + lines[2])
    with pytest.raises(UsageError, match="altered"):
        Ledger(ledger.folder)


def test_a_line_cut_off_by_a_crash_is_no_entry_and_costs_none(ledger: Ledger):
    text = ledger.path.read_bytes()
    ledger.path.write_bytes(text + b'{"kind":"test","id"')
    again = Ledger(ledger.folder)
    assert len(again.entries) == 2
    refute(again, "H1")
    assert Ledger(ledger.folder).standing("H1") is Standing.REFUTED


def test_a_killed_writer_leaves_what_it_had_entered(tmp_path: Path):
    script = (
        "import os, sys; from pathlib import Path; from parity.ladder.ledger import Ledger; "
        "l = Ledger(Path(sys.argv[1])); [l.suppose(f'c{i}', prediction='p', raised_by='r') for i in range(5)]; "
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert [h.claim for h in Ledger(tmp_path).hypotheses] == [f"c{i}" for i in range(5)]
    assert all(json.loads(line)["kind"] == "hypothesis" for line in (tmp_path / LEDGER).read_text().splitlines())


def test_bytes_that_are_no_utf8_can_be_read_back(tmp_path: Path):
    """The command line makes halves of surrogate pairs of them, which no JSON reader takes."""
    ledger = Ledger(tmp_path)
    raised = ledger.suppose("seen in \udcff.log", prediction="a\udcfe", raised_by="\ud800")
    ledger.conclude(raised.id, "refuted", command="grep \udcff", numbers={"\udcff": 1, "lines": ["\udcfe"]})
    back = Ledger(tmp_path)
    assert back.entries == ledger.entries
    assert back.hypotheses[0].claim == "seen in \\udcff.log"
