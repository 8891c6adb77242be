"""What follows from all rungs together? One finding with its cause, what stands beside it, and what stays open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from parity.climb.rung import RungResult, Status
from parity.fingerprint.causes import (
    CAUSES,
    COLUMN_SEGMENT,
    COLUMNS_PERMUTED,
    HEADS_PERMUTED,
    HEADS_SHIFTED,
    ROPE_PAIRING,
    ROWS_PERMUTED,
    TRANSPOSED,
)
from parity.ladder.locate import UNTESTED
from parity.records import Finding, site_name

FALSIFICATIONS = (0, 1, 2, 3)
"""Rungs that could refute a suspicion at little cost: prompt, checkpoint, decoding, invariances."""


@dataclass(frozen=True)
class Conclusion:
    """finding: the first. others: findings that it does not explain. fix: what to look at, empty where withheld.
    withheld: why no fix is recommended yet, empty where one is."""

    finding: Finding
    others: tuple[Finding, ...] = ()
    fix: str = ""
    withheld: str = ""


def proved_early(results: Mapping[int, RungResult]) -> str:
    """What proved a cause that no stage of the forward pass carries, in words; empty while nothing did.

    A prompt or a sampler needs no site: the ids, or the engine's own logits, contradict it. It is proved when it came
    again on an independent prompt, when the engine computes as the oracle does on the same ids, and when rungs 1 and 3
    ran and found nothing else.
    """
    if any(number not in results for number in FALSIFICATIONS):
        return ""
    if any(results[number].status in (Status.FOUND, Status.NOT_RUN) for number in (1, 3)):
        return ""
    prompt, symptom = results[0], results[2]
    if not symptom.ran:
        return ""
    sampler = next((one for one in symptom.findings if one.rung == "decode"), None)
    if sampler is not None and sampler.evidence.get("repeated") and sampler.evidence.get("logits_agree"):
        return f"rung 2: {sampler.cause}; its own logits contradict its choices, and are the oracle's within the noise"
    if symptom.status is Status.RULED_OUT and any(one.evidence.get("repeated") for one in prompt.findings):
        return f"rung 0: {prompt.findings[0].cause}; on the same ids the engine decodes as the oracle does"
    return ""


def conclude(results: Mapping[int, RungResult]) -> Conclusion:
    """The conclusion from the rungs that ran; those that did not are not excluded."""
    open_ends = _not_excluded(results)
    refused = next((one for one in _findings(results, 3) if one.verdict == "refused"), None)
    if refused is not None:
        return Conclusion(replace(refused, not_excluded=("everything that its traces would show", *open_ends)))
    located = next((one for number in (7, 6) for one in _findings(results, number)), None)
    direct = [one for number in FALSIFICATIONS for one in _findings(results, number)]
    if located is not None and _is_chance(located):
        said = "One stage exceeds its floor on this prompt and not on an independent one, and no graft proves it."
        unsure = replace(located, verdict="unresolved", sentence=f"{said} {located.sentence}", not_excluded=open_ends)
        if not direct:
            return Conclusion(unsure)
        located = None
    if located is not None:
        first, others = _merged(located, direct)
    elif direct:
        first, others = direct[0], direct[1:]
        early = proved_early(results)
        if early and early.startswith(f"rung {_rung_of(first)}"):
            first = replace(first, proof={"proved": True, "sentence": f"Proved at {early}."})
    else:
        return Conclusion(_nothing_found(results, open_ends))
    alternatives = (*first.alternatives, *(one.cause for one in others if one.cause))
    open_ends = tuple(dict.fromkeys((*(one for one in first.not_excluded if one not in UNTESTED), *open_ends)))
    first = replace(first, alternatives=tuple(dict.fromkeys(alternatives)), not_excluded=open_ends)
    withheld = _withheld(results)
    fix = "" if withheld or first.cause is None else CAUSES[first.cause]
    return Conclusion(first, tuple(others), fix, withheld)


def _findings(results: Mapping[int, RungResult], number: int) -> tuple[Finding, ...]:
    return results[number].findings if number in results else ()


def _rung_of(finding: Finding) -> int:
    return 0 if finding.rung == "prompt" else 2 if finding.rung == "decode" else -1


def _is_chance(located: Finding) -> bool:
    """Over its floor here, under it on the second prompt, and not proved: what a floor lets through now and then."""
    ran_again = bool(located.evidence.get("second_over_floor"))
    return ran_again and not located.evidence.get("repeated") and not located.proof.get("proved")


ORDERS = (ROPE_PAIRING, HEADS_PERMUTED, HEADS_SHIFTED, ROWS_PERMUTED, COLUMNS_PERMUTED, COLUMN_SEGMENT)
"""Causes that say in which other order the elements of a weight stand."""

READ_BY = {
    "rope_theta": ("attn.q_rope", "attn.k_rope"),
    "rope_scaling": ("attn.q_rope", "attn.k_rope"),
    "rotary_dim": ("attn.q_rope", "attn.k_rope"),
    "rms_eps": ("attn.norm", "attn.q_norm", "attn.k_norm", "mlp.norm", "final_norm"),
    "norm_offset": ("attn.norm", "attn.q_norm", "attn.k_norm", "mlp.norm", "final_norm"),
    "softmax_scale": ("attn.context",),
    "sliding_window": ("attn.context",),
    "top_k": ("moe.topk_ids", "moe.topk_weights"),
    "norm_topk_prob": ("moe.topk_weights",),
}
"""Stages that compute with a hyper-parameter: an engine that states another value, and is wrong there, is explained."""


def _merged(located: Finding, direct: Sequence[Finding]) -> tuple[Finding, list[Finding]]:
    """The site that was found, with what earlier rungs say of the same site: a difference from the checkpoint there is
    its cause, a broken invariance there confirms it."""
    sites = {site_name(layer, located.stage or "") for layer in located.layers or (None,)}
    others: list[Finding] = []
    for one in direct:
        if one.rung in ("config", "checkpoint") and _same_site(one, located, sites):
            behind = tuple(cause for cause in (located.cause, one.cause) if cause)
            cause = one.cause or located.cause
            if one.cause in (TRANSPOSED, COLUMNS_PERMUTED) and located.cause in ORDERS:
                cause = located.cause  # the checkpoint tells that the order is another; the error field tells which
            located = replace(
                located,
                rung=f"{one.rung}, {located.rung}",
                cause=cause,
                sentence=f"{one.sentence} {located.sentence}",
                alternatives=(*located.alternatives, *(other for other in behind if other != cause)),
                evidence={**located.evidence, "checkpoint": one.evidence},
            )
        elif one.rung not in ("prompt", "decode", "config", "checkpoint") and one.stage == located.stage:
            confirmed = (*located.evidence.get("confirmed_by", ()), one.sentence)
            located = replace(located, evidence={**located.evidence, "confirmed_by": confirmed})
        else:
            others.append(one)
    return located, others


def _same_site(one: Finding, located: Finding, sites: set[str]) -> bool:
    places = {str(place).partition(" ")[0] for place in one.evidence.get("places", ())}
    if places:
        return bool(places & sites)
    if one.stage is None and one.rung == "config":
        return located.stage in READ_BY.get(one.evidence.get("name", ""), ())
    return one.stage == located.stage and (not one.layers or set(located.layers) <= set(one.layers))


def _nothing_found(results: Mapping[int, RungResult], open_ends: tuple[str, ...]) -> Finding:
    zoom, symptom = results.get(6), results.get(2)
    clean = zoom is not None and zoom.status is Status.RULED_OUT
    once = clean and zoom is not None and zoom.numbers.get("symptom_repeated") is False
    # An engine that dies when it is run in another way is not clean, whatever its one trace shows.
    died = str(results[3].numbers.get("died_under", "")) if 3 in results else ""
    if clean and not died and (symptom is None or symptom.status is not Status.FOUND or once):
        assert zoom is not None
        said = " The logits left the recipe's noise on this prompt, and not on an independent one." if once else ""
        return Finding(
            verdict="clean",
            rung="isolated replay",
            sentence=zoom.sentence + said,
            over_floor=zoom.numbers.get("over_floor"),
            not_excluded=(symptom.sentence, *open_ends) if once and symptom is not None else open_ends,
        )
    undone = [f"rung {r.number} {r.name}: {r.status.value}: {r.sentence}" for r in results.values() if not _settled(r)]
    if clean and not died and symptom is not None:
        undone.insert(0, f"a symptom that no stage explains: {symptom.sentence}")
    evidence = {"open": zoom.evidence.get("open", ()) if zoom is not None else (), "rungs": undone}
    return Finding(
        verdict="unresolved",
        rung=zoom.name if zoom is not None and zoom.ran else "none",
        sentence=f"The engine's process died under the check `{died}`: run that by itself."
        if died
        else "No cause was found, yet not everything is cleared.",
        evidence=evidence,
        not_excluded=open_ends,
    )


def _settled(result: RungResult) -> bool:
    return result.status in (Status.FOUND, Status.RULED_OUT)


def _not_excluded(results: Mapping[int, RungResult]) -> tuple[str, ...]:
    """What no rung settled, in words, in order of the rungs; last, what no investigation of a prompt ever settles."""
    found = []
    for result in results.values():
        if result.number > 6:
            continue  # without a site there is nothing to prove, and a fixture excludes nothing
        if not result.ran:
            found.append(f"rung {result.number} {result.name} was not run: {result.sentence}")
        else:
            found += [one for one in result.leaves_open if one not in UNTESTED]
    if all(not results[number].ran for number in (2,) if number in results):
        found.append(UNTESTED[1])
    return tuple(dict.fromkeys((*found, *_limits(results))))


def _limits(results: Mapping[int, RungResult]) -> tuple[str, ...]:
    """What stays open whatever the rungs found: other prompts, and errors that the floor lets pass."""
    said = results[2].evidence.get("decoding") if 2 in results else None
    fed = "that was run"
    if isinstance(said, Mapping) and "prompt_ids" in said and "tokens" in said:
        fed = f"of {said['prompt_ids']} ids and {said['tokens']} new tokens"
    limits = [f"faults that the prompt {fed} does not reach: longer ones, other tokens, other loads of the experts"]
    judged = [results[number].numbers.get("worst_over_floor") for number in (4, 5) if number in results]
    if any(score is not None for score in judged):
        limits.append("errors within the noise floor; the floor's record of power says how small those are")
    return tuple(limits)


def _withheld(results: Mapping[int, RungResult]) -> str:
    """Why no fix is recommended: what could refute the finding is not on record."""
    missing = [
        f"rung {number} ({results[number].name}: {results[number].sentence})" if number in results else f"rung {number}"
        for number in FALSIFICATIONS
        if number not in results or not results[number].ran
    ]
    if not missing:
        return ""
    return "No fix is recommended before the prompt and the falsifications are on record; missing: " + "; ".join(
        missing
    )
