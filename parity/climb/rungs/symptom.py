"""Rung 2: does the engine decode otherwise than the oracle, and does its sampler do what it was asked?"""

from __future__ import annotations

from typing import Any

from parity.climb.bench import Bench
from parity.climb.rung import Cost, Rung, RungResult, Status
from parity.decode import (
    DecodingComparison,
    DecodingVerdict,
    SamplerCheck,
    compare_decoding,
    examine_sampler,
    examine_under_ban,
)
from parity.fingerprint.causes import SAMPLER
from parity.graft.effect import agreement
from parity.invariance import Invariance, Outcome, check_probes
from parity.records import Finding
from parity.runner import Generation, Request
from parity.text.score import Completion, TextScore, score_text
from parity.text.tokens import from_ids

BRIEF = 72
"""Ids of the second prompt on which a sampler's fault is repeated: what it chose follows from its own logits."""

UNDER_BAN = 16
"""Ids of the prompt under a ban: whether a mask is applied does not hang on the prompt."""

BANNED_TOKENS = 2
"""New tokens under a ban: the first would be the banned one, the second shows that the ban goes on or is forgotten."""


def obstacle(bench: Bench) -> str:
    if bench.sut is None:
        return "a trace does not decode"
    missing = sorted({"forward", "generate"} - bench.info.can) or sorted({"forward", "generate"} - bench.oracle_can)
    return f"one side cannot {', '.join(missing)}" if missing else ""


def run(bench: Bench) -> RungResult:
    found = compare_decoding(
        sut=bench.engine,
        oracle=bench.decoding,
        request=bench.case.request,
        tokens=bench.case.new_tokens,
        no_emulation="no emulation of the recipe and no floor were given",
    )
    # A mask that is skipped shows only where something is masked: the engine's own first choice, after a brief prompt.
    # Where the logits of a phase or a row have gone astray, that is what there is to find; one parting is not that.
    banned = None
    astray = found.verdict is DecodingVerdict.DIVERGED and (found.outside or any(one.exceeds for one in found.excess))
    if found.sampler.outcome == "as_asked" and not astray:
        banned = examine_under_ban(bench.engine, _brief(bench.case.request, UNDER_BAN), BANNED_TOKENS)
    sampler = banned if banned is not None and banned.outcome == "differs" else found.sampler
    texts = {"sut": _decoded(bench, found.sut_ids), "oracle": _decoded(bench, found.oracle_ids)}
    scores = {"sut": _score(found.sut_ids), "oracle": _score(found.oracle_ids)}
    numbers = {
        "tokens": found.tokens,
        "tokens_as_the_oracle": agreement(found.sut_ids, found.oracle_ids),
        "verdict": found.verdict.value,
        "rows_outside": len(found.outside),
        "partings": len(found.partings),
        "kl_mean": {phase.name: phase.kl_mean for phase in found.phases},
        "kl_worst": {phase.name: phase.kl_worst for phase in found.phases},
        "top1": {phase.name: phase.top1 for phase in found.phases},
        "degenerates_at": scores["sut"].first_degeneration,
        "sampler": sampler.outcome,
        "sampler_under_ban": None if banned is None else banned.outcome,
    }
    control = {
        "arm": SYMPTOM.control,
        "sampler": found.oracle_sampler.outcome,
        "degenerates_at": scores["oracle"].first_degeneration,
        "kl_noise": {phase.name: phase.kl_noise for phase in found.phases},
        "healthy": found.oracle_sampler.outcome == "as_asked",
    }
    probes = _probes(bench) if sampler.outcome == "differs" else None
    if probes is not None:
        control["probes_on_and_off"] = probes.outcome.value
    findings = _findings(bench, found, sampler, probes)
    more: dict[str, Any] = {
        "numbers": numbers,
        "control": control,
        "findings": findings,
        "evidence": {
            "decoding": found,
            "under_ban": banned,
            "texts": texts,
            "pieces": {"sut": _pieces(bench, found.sut_ids), "oracle": _pieces(bench, found.oracle_ids)},
            "text_scores": scores,
            "tokens": {"sut": found.sut_ids, "oracle": found.oracle_ids},
            "probes": probes,
        },
        "commands": (
            f"parity decode --sut {bench.case.sut} --oracle {bench.case.oracle} --prompt FILE "
            f"--tokens {bench.case.new_tokens}",
        ),
    }
    if found.verdict is DecodingVerdict.DIVERGED:
        return SYMPTOM.result(Status.FOUND, found.sentence, **more)
    if findings:
        return SYMPTOM.result(Status.FOUND, f"{found.sentence} {findings[0].sentence}", **more)
    if found.verdict is DecodingVerdict.UNRESOLVED:
        return SYMPTOM.result(Status.INCONCLUSIVE, found.sentence, **more)
    return SYMPTOM.result(Status.RULED_OUT, found.sentence, **more)


def repeat_symptom(bench: Bench) -> dict[str, Any] | None:
    """Whether logits that left the recipe's noise on this prompt do so on an independent one too.

    None where there is no such symptom: the sampler's has its own repetition, and a row that is not finite or out of
    the floor needs none. One prompt in fifty of a correct engine leaves the noise, where a router's near-tie falls
    otherwise than in the emulation (docs/decoding.md): only asked where no stage explains the symptom.
    """
    first = bench.results.get(2)
    if first is None or first.status is not Status.FOUND or first.findings or bench.sut is None:
        return None
    numbers = first.numbers
    if (
        numbers["verdict"] != DecodingVerdict.DIVERGED.value
        or numbers["rows_outside"]
        or numbers["sampler"] == "differs"
    ):
        return None
    request, how = bench.case.second_request()
    again = compare_decoding(
        sut=bench.engine, oracle=bench.decoding_of(request), request=request, tokens=bench.case.new_tokens
    )
    repeated = again.verdict is DecodingVerdict.DIVERGED
    said = f"{'again' if repeated else 'not again'} on {request.name} ({how}): {again.sentence}"
    return {"repeated": repeated, "repetition": said}


def _probes(bench: Bench) -> Invariance:
    """Whether logits may be held against choices that were made with the probes off."""
    return check_probes(bench.subject)


def _brief(request: Request, ids: int = BRIEF) -> Request:
    return Request(request.name, request.ids[:ids])


def _findings(
    bench: Bench, found: DecodingComparison, sampler: SamplerCheck, probes: Invariance | None
) -> tuple[Finding, ...]:
    if sampler.outcome != "differs" or (probes is not None and probes.outcome is Outcome.BROKEN):
        return ()
    second, how = bench.case.second_request()
    if sampler is found.sampler:
        again = examine_sampler(bench.engine, _brief(second), bench.case.new_tokens)
    else:
        again = examine_under_ban(bench.engine, _brief(second, UNDER_BAN), BANNED_TOKENS)
    repeated = again is not None and again.outcome == "differs"
    logits_agree = not found.outside and not any(one.near_tie is False for one in found.partings)
    return (
        Finding(
            verdict="fault",
            rung="decode",
            cause=SAMPLER,
            sentence=f"The sampler does not do what it was asked: {sampler.sentence}",
            evidence={
                "sampler": sampler,
                "logits_agree": logits_agree,
                "repeated": repeated,
                "repetition": f"{'again' if repeated else 'not'} on {second.name} ({how}): "
                f"{'' if again is None else again.sentence}",
            },
        ),
    )


def _decoded(bench: Bench, ids: tuple[int, ...]) -> str | None:
    """The text of new ids, by whoever has a tokenizer."""
    decoder = getattr(bench.oracle, "decoder", None)
    return None if decoder is None else Generation(ids, decoder.decode(ids)).text


def _pieces(bench: Bench, ids: tuple[int, ...]) -> list[str] | None:
    """The same, id by id; half a letter comes out as U+FFFD."""
    decoder = getattr(bench.oracle, "decoder", None)
    return None if decoder is None else [decoder.decode((number,)) for number in ids]


def _score(ids: tuple[int, ...]) -> TextScore:
    return score_text(Completion(from_ids(ids)))


SYMPTOM = Rung(
    number=2,
    name="symptom",
    question="Does the engine decode otherwise than the oracle on the same ids, and does its sampler do as asked?",
    claim="The engine decodes otherwise than the oracle, beyond the recipe's noise.",
    prediction="Teacher-forced logits leave the noise, or a greedy choice is not the largest of its own logits.",
    needs=("an engine and an oracle that forward and generate",),
    rules_out=("a visible symptom on this prompt", "a sampler that does not do as asked, where its logits show it"),
    control="the oracle's own continuation and sampler, and the emulation's distance to it, on the same ids",
    obstacle=obstacle,
    cost=lambda case: Cost(forwards=3.0, steps=3 * (case.new_tokens - 1), lab_seconds=3.0),
    run=run,
)
