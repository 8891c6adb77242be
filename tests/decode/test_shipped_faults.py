"""Each shipped sampler fault, at two further strengths and prompts, is found; the healthy engine is silent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.decode import DecodingVerdict, Reference, compare_decoding, decode_reference
from parity.faults import Fault, shipped_faults
from parity.runner import Request, open_runner
from parity_kernels.faults.decoding import banned_token, penalty_cliff

Make = Callable[..., Any]
TOKENS = 2


@pytest.fixture(scope="module")
def reference(recipe: Any, exact: Any) -> Callable[[Request], Reference]:
    known: dict[Any, Reference] = {}

    def make(request: Request) -> Reference:
        if request.ids not in known:
            known[request.ids] = decode_reference(exact, request, TOKENS, emulation=recipe)
        return known[request.ids]

    return make


# The random model says one id again and again, the largest logit 45 to 85 above the next: what a penalty must exceed.
CASES = [
    ("banned_token_greedy", 0, 3, lambda first: banned_token(first)),
    pytest.param("banned_token_greedy", 5, 4, lambda first: banned_token(first), marks=pytest.mark.long),
    ("penalty_cliff", 13, 6, lambda first: penalty_cliff(70.0)),
    pytest.param("penalty_cliff", 5, 3, lambda first: penalty_cliff(350.0), marks=pytest.mark.long),
]


def test_every_sampler_fault_is_here():
    assert {getattr(case, "values", case)[0] for case in CASES} == {
        name for name, one in shipped_faults().items() if one.rung == "decode"
    }


@pytest.mark.parametrize(("name", "seed", "length", "make"), CASES)
def test_a_sampler_fault_is_found_and_the_healthy_engine_is_silent(
    fp8_model: Path, prompt: Make, reference: Any, name: str, seed: int, length: int, make: Callable[[int], Fault]
):
    request = prompt(length, seed)
    oracle = reference(request)
    asked = {"oracle": oracle, "request": request, "tokens": TOKENS}
    spec = f"triton:{fp8_model}"
    healthy = compare_decoding(sut=open_runner(spec), **asked)
    assert healthy.verdict in (DecodingVerdict.SAME, DecodingVerdict.NEAR_TIE), healthy.sentence
    assert healthy.sampler.outcome == "as_asked"
    fault = make(oracle.ids[0])
    assert fault.name == name
    found = compare_decoding(sut=open_runner(spec, fault=fault), **asked)
    assert found.verdict is DecodingVerdict.DIVERGED, found.sentence
    assert found.sampler.outcome == "differs"
    # The logits are the healthy engine's: nothing of the forward pass is blamed.
    assert (found.starts, found.outside) == (None, ())
    if name == "banned_token_greedy":
        assert found.sampler.banned_emitted[0] == (0, oracle.ids[0])
    else:
        strength = fault.details["presence_penalty"]
        (presence,) = [one for one in found.sampler.penalties if one.kind == "presence"]
        assert presence.low <= strength <= presence.high
        assert not presence.explains_without
