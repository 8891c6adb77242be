"""Do two engines decode alike? Teacher-forced on one text, free on their own, and each sampler against its logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parity.decode.choices import examine_sampler
from parity.decode.divergence import Parting, part_at, partings
from parity.decode.excess import Excess, excess_of
from parity.decode.growth import Growth, growth_of
from parity.decode.noise import Noise, distance_of_rows, noise_measured, swing_by_position
from parity.decode.reference import Reference, decode_reference
from parity.decode.sampler import SamplerCheck
from parity.decode.shown import on_common_ground, said_of_hidden
from parity.decode.side import Forced, continuation_of, force, require_decoding
from parity.errors import UsageError
from parity.floor import Floor
from parity.metrics.logits import LogitDistance, logit_distance
from parity.runner import Generation, Request, Runner
from parity.sampling import Sampling

Tell = Callable[[str], None]


class DecodingVerdict(StrEnum):
    """same: the tokens agree wherever both were asked. near_tie: they part only inside the noise. diverged: outside it,
    or a sampler does not do what it was asked. unresolved: they part and nothing says how large the noise is, or the
    rows in which they do are further off as a whole than clean rows usually are, and not out of the floor; or the
    logits diverge on this prompt, by an emulation's noise, and not on others."""

    SAME = "same"
    NEAR_TIE = "near_tie"
    DIVERGED = "diverged"
    UNRESOLVED = "unresolved"


@dataclass(frozen=True)
class Phase:
    """Teacher-forced agreement of one phase: positions, share with the same largest logit, mean and largest KL (nats);
    kl_noise: mean KL of the emulation against exact arithmetic there, None without one."""

    name: str
    positions: int
    top1: float
    kl_mean: float
    kl_worst: float
    kl_noise: float | None


@dataclass(frozen=True)
class DecodingComparison:
    """SUT against oracle on one prompt.

    kl, top1: by position, teacher-forced on the oracle's continuation. noise: source, limit and where the unit is from.
    partings: positions whose largest logits are other tokens', near-ties included. outside: rows of logits out of the
    floor, and rows that are not finite, by position. free: where the free continuations part, None where they do not.
    excess: how far the logits of a phase stand from the oracle's against the recipe's noise, where that was emulated.
    starts: phase of the first position out of the noise, None when nothing is. growth: of KL with length.
    shown: how much a side shows that gives log-probabilities, and perhaps not all of them. repeated: whether another
    prompt diverged too, None where none was run.
    """

    verdict: DecodingVerdict
    sentence: str
    request: str
    prompt_ids: int
    tokens: int
    names: tuple[str, str]
    noise: dict[str, Any]
    phases: tuple[Phase, ...]
    kl: NDArray[np.float64]
    top1: NDArray[np.bool_]
    partings: tuple[Parting, ...]
    outside: tuple[int, ...]
    free: Parting | None
    starts: str | None
    first_out: int | None
    excess: tuple[Excess, ...]
    growth: Growth | None
    sampler: SamplerCheck
    oracle_sampler: SamplerCheck
    oracle_ids: tuple[int, ...]
    sut_ids: tuple[int, ...]
    shown: str = ""
    repeated: bool | None = None


def compare_once(
    *,
    sut: Runner,
    oracle: Runner | Reference,
    request: Request,
    tokens: int,
    floor: Floor | None = None,
    emulation: Runner | None = None,
    exact: Runner | None = None,
    sampling: Sampling | None = None,
    sut_ids: Sequence[int] | None = None,
    no_emulation: str = "neither a floor nor an emulation was given",
    tell: Tell = lambda what: None,
) -> DecodingComparison:
    """One prompt's comparison, with the arguments, the refusals and, but for a second prompt, the judgement of
    `parity.decode.compare_decoding`."""
    sut_info = sut.describe()
    require_decoding(sut_info, request, tokens)
    asked = oracle.sampling if isinstance(oracle, Reference) else sampling or Sampling()
    for token in (*asked.banned, *asked.allowed):
        require_decoding(sut_info, Request("banned ids", (token, token)), tokens)
    _require_greedy(asked)
    if isinstance(oracle, Reference):
        reference = _for_this(oracle, request, tokens)
    else:
        reference = decode_reference(
            oracle, request, tokens, sampling=asked, floor=floor, emulation=emulation, exact=exact, tell=tell
        )
    infos, y, oracle_ids = (reference.info, sut_info), reference.forced, reference.ids
    if sut_ids is None:
        tell("the SUT's continuation")
    made = None if sut_ids is not None else continuation_of(sut, request, tokens, sampling=asked)
    sut_ids = made.ids if made is not None else tuple(sut_ids or ())
    tell("the SUT, teacher-forced")
    x = force(sut, request, oracle_ids)
    if y.logits.shape != x.logits.shape:
        raise UsageError(
            place=f"logits of {infos[0].name} and {infos[1].name}",
            expected="one vocabulary",
            found=f"{list(y.logits.shape)} and {list(x.logits.shape)}",
            next_step="Compare engines of the same model.",
        )
    bare_y, bare_x = y, x
    y, x = on_common_ground(y, x)
    distance = logit_distance(oracle=y.logits, sut=x.logits)
    if reference.floor is not None:
        reference.floor.refuse_other(x.run)
    known, kl_noise = reference.noise_around(y)
    noise = known or noise_measured(y.logits, x.logits, why=no_emulation)
    parted = partings(y.logits, x.logits, distance.top1, noise=noise, prompt=y.prompt)
    free = _free(y, x, oracle_ids, sut_ids, noise)
    own = examine_sampler(
        sut, request, tokens, asked=asked, ids=sut_ids, forced=_chosen_from(made, request, bare_x), tell=tell
    )
    samplers = own, reference.sampler
    outside = _outside(y, x, noise)
    found = _conclude(
        request, infos, y, x, distance, noise, kl_noise, parted, outside, free, samplers, oracle_ids, sut_ids
    )
    return replace(found, shown=said_of_hidden(bare_y, bare_x))


def _free(y: Forced, x: Forced, oracle_ids: tuple[int, ...], sut_ids: tuple[int, ...], noise: Noise) -> Parting | None:
    """Where the free continuations part; up to there both were fed the same ids, so the forced logits are theirs."""
    at = next((n for n, (a, b) in enumerate(zip(oracle_ids, sut_ids, strict=False)) if a != b), None)
    if at is None:
        at = len(sut_ids)
        if at >= len(oracle_ids):
            return None
    ended = at >= len(sut_ids)
    row = y.prompt - 1 + at
    return part_at(
        row, y.logits, x.logits, noise=noise, prompt=y.prompt, oracle_id=oracle_ids[at],
        sut_id=None if ended else sut_ids[at],
    )  # fmt: skip


def _chosen_from(made: Generation | None, request: Request, x: Forced) -> Forced:
    """What the SUT's continuation was chosen from, where the SUT showed it; else its logits on the oracle's."""
    ids = None if made is None else (*request.ids, *made.ids)
    if made is None or made.logits is None or len(made.logits) != len(made.ids) or x.ids == ids:
        return x
    return Forced((*request.ids, *made.ids), x.prompt, made.logits, x.run, x.prompt - 1)


def _require_greedy(asked: Sampling) -> None:
    if not asked.greedy:
        raise UsageError(
            place="greedy comparison",
            expected="temperature 0",
            found=f"temperature {asked.temperature}",
            next_step="Compare sampled decoding with `compare_sampled`, over ten seeds or more.",
        )


def _for_this(reference: Reference, request: Request, tokens: int) -> Reference:
    if reference.request.ids != request.ids or reference.tokens != tokens:
        raise UsageError(
            place=f"stored reference of request {reference.request.name}",
            expected=f"the ids of request {request.name} and {tokens} tokens",
            found=f"{reference.tokens} tokens of "
            + ("the same ids" if reference.request.ids == request.ids else "others"),
            next_step="Make a reference of this request with `decode_reference`.",
        )
    return reference


def _outside(y: Forced, x: Forced, noise: Noise) -> tuple[int, ...]:
    """Positions whose row of logits is over the floor's gate, or finite in the oracle alone."""
    broken = (torch.isfinite(y.logits).all(1) & ~torch.isfinite(x.logits).all(1)).numpy()
    if noise.row is not None:
        broken |= distance_of_rows(y.logits, x.logits) > noise.row
    return tuple(np.flatnonzero(broken).tolist())


def _conclude(
    request: Request, infos: Any, y: Forced, x: Forced, distance: LogitDistance, noise: Noise,
    kl_noise: NDArray[np.float64] | None, parted: tuple[Parting, ...], outside: tuple[int, ...],
    free: Parting | None, samplers: tuple[SamplerCheck, SamplerCheck], oracle_ids: tuple[int, ...],
    sut_ids: tuple[int, ...],
) -> DecodingComparison:  # fmt: skip
    found = [one.position for one in parted if one.near_tie is False] if noise.judges else []
    first = min([*outside, *found], default=None)
    sampler = samplers[0]
    # A free parting that the oracle's own sampler makes is not the SUT's.
    blamed = "unresolved" if free is not None and samplers[1].outcome != "as_asked" else ""
    bad_free = free is not None and (free.near_tie is False and noise.judges)
    unknown = not noise.judges or any(one.near_tie is None for one in (*parted, *([free] if free else [])))
    parts = np.array([y.phase(at) for at in range(len(y.logits))])
    excess = _excess(y, x, parts, noise)
    exceeds = [one for one in excess if one.exceeds]
    if first is not None or bad_free or exceeds or sampler.outcome == "differs":
        verdict = DecodingVerdict.DIVERGED
    elif ((parted or free) and unknown) or "unresolved" in (sampler.outcome, blamed):
        verdict = DecodingVerdict.UNRESOLVED
    else:
        verdict = DecodingVerdict.NEAR_TIE if parted or free else DecodingVerdict.SAME
    if first is None and bad_free and sampler.outcome != "differs":
        assert free is not None
        first = free.position
    starts = (exceeds[0].phase if exceeds else None) if first is None else y.phase(first)
    phases = tuple(_phase(name, parts == name, distance, kl_noise) for name in ("prefill", "decode"))
    return DecodingComparison(
        verdict=verdict,
        sentence=_sentence(verdict, parted, outside, free, first, starts, exceeds, *samplers, noise, len(oracle_ids)),
        request=request.name,
        prompt_ids=y.prompt,
        tokens=len(oracle_ids),
        names=(f"{infos[0].name} ({infos[0].recipe.name})", f"{infos[1].name} ({infos[1].recipe.name})"),
        noise={"source": noise.source, "limit": noise.limit, "judges": noise.judges, "sentence": noise.sentence},
        phases=tuple(phase for phase in phases if phase.positions),
        kl=distance.kl,
        top1=distance.top1,
        partings=parted,
        outside=outside,
        free=free,
        starts=starts,
        first_out=first,
        excess=excess,
        growth=growth_of(distance.kl),
        sampler=sampler,
        oracle_sampler=samplers[1],
        oracle_ids=oracle_ids,
        sut_ids=sut_ids,
    )


def _excess(y: Forced, x: Forced, parts: NDArray[np.str_], noise: Noise) -> tuple[Excess, ...]:
    if noise.own is None:
        return ()
    own = distance_of_rows if noise.source == "floor" else swing_by_position
    swing = own(y.logits, x.logits)
    found = [excess_of(name, swing[parts == name], noise.own[parts == name]) for name in ("prefill", "decode")]
    return tuple(one for one in found if one is not None)


def _phase(name: str, here: NDArray[np.bool_], distance: LogitDistance, noise: NDArray[np.float64] | None) -> Phase:
    count = int(here.sum())
    if not count:
        return Phase(name, 0, math.nan, math.nan, math.nan, None)
    kl = distance.kl[here]
    own = None if noise is None else float(noise[here].mean())
    return Phase(name, count, float(distance.top1[here].mean()), float(kl.mean()), float(kl.max()), own)


def _sentence(
    verdict: DecodingVerdict,
    parted: Sequence[Parting],
    outside: Sequence[int],
    free: Parting | None,
    first: int | None,
    starts: str | None,
    exceeds: Sequence[Excess],
    sampler: SamplerCheck,
    oracle_sampler: SamplerCheck,
    noise: Noise,
    tokens: int,
) -> str:
    said = []
    if verdict is DecodingVerdict.SAME:
        said.append(f"Same: {tokens} new tokens agree, forced and free")
        if not noise.judges:
            said.append("the logits themselves are not judged without a floor or an emulation")
    elif verdict is DecodingVerdict.NEAR_TIE:
        said.append(f"Near-ties only: {len(parted)} positions prefer another token, all within {noise.limit:.1f} units")
    elif verdict is DecodingVerdict.UNRESOLVED:
        far = any(one.near_tie is None and one.units is not None for one in (*parted, *([free] if free else [])))
        why = "in rows that are further off as a whole than usual, and not out of the floor" if far else ""
        said.append("Unresolved: the engines part " + (why or "and nothing says how large the noise is there"))
    else:
        said.append("Diverged" + ("" if first is None else f" from position {first} on ({starts})"))
    for one in exceeds:
        said.append(
            f"logits of {one.phase} are {one.ratio:.3g} times as far off as the recipe's noise ({one.low:.3g} up)"
        )
    if sampler.outcome != "as_asked":
        said.append("the SUT's sampler: " + sampler.sentence.rstrip("."))
    if oracle_sampler.outcome != "as_asked":
        said.append("the oracle's own sampler: " + oracle_sampler.sentence.rstrip("."))
    if outside:
        said.append(f"{len(outside)} rows of logits are out of the floor or not finite")
    if free is not None:
        said.append("free continuations part at " + free.line())
    elif parted:
        said.append("free continuations are equal; the first parting is at " + parted[0].line())
    return "; ".join(said) + "."


__all__ = ["DecodingComparison", "DecodingVerdict", "Phase", "compare_once"]
