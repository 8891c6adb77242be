"""Do logits that leave the recipe's noise on one prompt leave it on another one too?

The noise of one prompt is what one other correct engine, the recipe's emulation, shows on it. Where a router's
near-tie falls one way there and the other way in the SUT, a row of the SUT, and all that attend to it, stand further
off than anything the emulation shows: of 240 prompts of a correct BF16 engine five were called diverged, where one in
1000 was declared. Which near-ties a prompt has, and how they fall, says nothing of another prompt's: 0.021 of one
prompt and one of two others together are 9e-4, within the level. A fault does not know which prompt it is fed; two
others are tried, since one may have near-ties of its own behind which a small fault hides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from parity.decode.comparison import DecodingComparison, DecodingVerdict, compare_once
from parity.decode.reference import Reference
from parity.floor import Floor
from parity.runner import Request, Runner
from parity.sampling import Sampling


def exchange_halves(request: Request) -> Request:
    """Another prompt of the same ids: the second half before the first, so that the experts' loads stay alike while
    every token has another position and another context."""
    ids, half = request.ids, len(request.ids) // 2
    return Request(f"{request.name}, halves exchanged", ids[half:] + ids[:half])


def further_prompts(request: Request) -> tuple[Request, ...]:
    """Two other prompts of the same ids: their halves exchanged, and begun after a third; without those that are equal
    to the first or to each other."""
    third = len(request.ids) // 3
    made = (
        exchange_halves(request),
        Request(f"{request.name}, its first third last", request.ids[third:] + request.ids[:third]),
    )
    return tuple(one for at, one in enumerate(made) if one.ids not in {request.ids, *(two.ids for two in made[:at])})


def compare_decoding(
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
    second: Request | None = None,
    no_emulation: str = "neither a floor nor an emulation was given",
    tell: Callable[[str], None] = lambda what: None,
) -> DecodingComparison:
    """Run both on the prompt, compare, and judge by the floor, else by the emulation, else not at all.

    Logits that the emulation alone calls diverged have to diverge on a second prompt, or a third; where they do not,
    the verdict is `unresolved`. A sampler's fault, a row that is not finite and what a floor says need none.

    oracle: a runner, or what `decode_reference` kept of one for this request and as many tokens: it is not run again,
    floor, emulation, exact and sampling are the reference's, and there is no second prompt. emulation: a runner of the
    SUT's recipe; exact: one of exact arithmetic on the same weights, needed beside it unless the oracle is exact.
    sampling: penalties and bans that both are asked to apply; its temperature must be 0. sut_ids: the SUT's own
    continuation, where it is known already, made under the same settings. second: the only other prompt; two are made
    of the first where none is given. no_emulation: why there is none.
    Raises UsageError for prompts and token numbers that compare nothing or lie outside the vocabulary, and for a floor
    of another recipe; RunnerError for a runner that cannot decode, or that continues with nothing.
    """
    found = compare_once(
        sut=sut, oracle=oracle, request=request, tokens=tokens, floor=floor, emulation=emulation, exact=exact,
        sampling=sampling, sut_ids=sut_ids, no_emulation=no_emulation, tell=tell,
    )  # fmt: skip
    others = further_prompts(request) if second is None else (second,)
    if isinstance(oracle, Reference) or not diverges_by_logits_alone(found) or not others:
        return found
    said = []
    for other in others:
        again = compare_once(
            sut=sut, oracle=oracle, request=other, tokens=tokens, emulation=emulation, exact=exact, sampling=sampling,
            tell=lambda what, name=other.name: tell(f"{name}: {what}"),
        )  # fmt: skip
        if again.verdict is DecodingVerdict.DIVERGED:
            return replace(
                found, repeated=True, sentence=f"{found.sentence} So do they on another prompt ({other.name})."
            )
        said.append(other.name)
    return _not_again(found, said)


def diverges_by_logits_alone(found: DecodingComparison) -> bool:
    """Whether nothing but the emulation's noise on one prompt says that the engines diverge."""
    return (
        found.verdict is DecodingVerdict.DIVERGED
        and found.noise["source"] == "emulation"
        and found.sampler.outcome != "differs"
        and not found.outside
    )


def _not_again(found: DecodingComparison, others: Sequence[str]) -> DecodingComparison:
    said = (
        f"Unresolved: the logits leave the recipe's noise on this prompt and not on another ({'; '.join(others)}), as "
        "those of a correct engine do where a near-tie in a router falls otherwise than in the emulation. On this one: "
        f"{found.sentence[:1].lower()}{found.sentence[1:]}"
    )
    return replace(found, verdict=DecodingVerdict.UNRESOLVED, repeated=False, sentence=said)


__all__ = ["compare_decoding", "diverges_by_logits_alone", "exchange_halves", "further_prompts"]
