"""Rung 7: is the error really made there? The engine's own tensor, the oracle's inputs, the replay's output."""

from __future__ import annotations

from typing import Any

from parity.climb.bench import Bench
from parity.climb.rung import Cost, Rung, RungResult, Status
from parity.ladder.prove import Proof
from parity.ladder.prove_finding import prove_finding
from parity.ladder.sweep import sweep_against
from parity.records import Summary
from parity.runner import Generation


def obstacle(bench: Bench) -> str:
    if bench.sut is None:
        return "a trace cannot be run with grafts"
    if "graft" not in bench.info.can:
        return "the engine cannot graft: the isolated replay stands as evidence, not as proof"
    if bench.emulation is None or bench.floor is None:
        return "it needs an emulation of the engine's recipe and a floor"
    zoom = bench.results.get(6)
    if zoom is None or not zoom.findings:
        return "there is no site to prove: " + ("rung 6 was not run" if zoom is None else zoom.sentence)
    return ""


def run(bench: Bench) -> RungResult:
    finding = bench.results[6].findings[0]
    assert bench.emulation is not None
    assert bench.floor is not None
    symptom = bench.results.get(2)
    texts = _texts(symptom.evidence.get("tokens", {})) if symptom is not None and symptom.ran else None
    if texts is not None and texts[0].ids == texts[1].ids:
        texts = None  # the text is the oracle's already: a graft has nothing to mend in it
    proved, proof = prove_finding(
        bench.engine,
        finding,
        oracle=bench.oracle,
        emulation=bench.emulation,
        request=bench.request,
        schedule=bench.fed[1],
        prompt=bench.case.request,
        trace=bench.trace,
        chained=_chained(bench),
        floor=bench.floor,
        truth=bench.truth,
        again=bench.again,
        generations=texts,
        on_step=bench.tell,
    )
    if proof is None:
        return PROOF.result(Status.INCONCLUSIVE, str(proved.proof["sentence"]), findings=(proved,))
    more: dict[str, Any] = {
        "findings": (proved,),
        "numbers": _numbers(proof),
        "control": {"arm": PROOF.control, "logits_changed": proof.sham_changed, "healthy": proof.sham_changed == 0},
        "evidence": {"proof": proof},
    }
    if proof.proved:
        return PROOF.result(Status.FOUND, "Proved: all three grafts came out as they must.", **more)
    said = str(proof.as_evidence().get("sentence") or "Not every graft came out as it must.")
    return PROOF.result(Status.INCONCLUSIVE, said, **more)


def _chained(bench: Bench) -> Summary:
    """What the sweep found; of a trace that it did not have, swept here."""
    if not bench.wrong_in:
        return bench.summary(4, "chained")
    return sweep_against(bench.oracle, bench.truth, bench.trace, floor=bench.floor)


def _texts(tokens: Any) -> tuple[Generation, Generation] | None:
    sut, oracle = tokens.get("sut"), tokens.get("oracle")
    return (Generation(tuple(sut)), Generation(tuple(oracle))) if sut and oracle else None


def _numbers(proof: Proof) -> dict[str, Any]:
    return {
        "sham_changed": proof.sham_changed,
        "added": proof.added,
        "cleared": {name: list(pair) for name, pair in proof.cleared.items()},
        "kl_before": proof.effect.kl_before,
        "kl_after": proof.effect.kl_after,
        "text_before": proof.text_before,
        "text_after": proof.text_after,
        "proved": proof.proved,
    }


PROOF = Rung(
    number=7,
    name="proof",
    question="Is the error really made there?",
    claim="The error is made at the site found, and nowhere else.",
    prediction="The engine's own tensors there change no bit, the oracle's inputs leave the error, the replayed output "
    "removes it.",
    needs=("an engine that grafts", "an emulation of its recipe", "a site from rung 6"),
    rules_out=(),
    control="the sham graft: the engine's own tensors at the site",
    obstacle=obstacle,
    cost=lambda case: Cost(forwards=5.0, steps=case.new_tokens, lab_seconds=5.0),
    run=run,
    rests_on=(4, 5, 6),
)
