"""What does the oracle do with a prompt? Its continuation and logits, and the noise around them, computed once.

One reference serves any number of engines on the same prompt: nothing of it depends on the SUT, but for the recipe
whose noise it carries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from parity.decode.noise import Noise, is_exact, noise_of_emulation, noise_of_floor
from parity.decode.sampler import SamplerCheck, check_sampler
from parity.decode.shown import completed
from parity.decode.side import Forced, continue_and_force, force, require_decoding
from parity.floor import Floor
from parity.metrics.logits import logit_distance
from parity.records import Recipe
from parity.runner import Request, Runner, RunnerInfo
from parity.sampling import Sampling


@dataclass(frozen=True)
class Reference:
    """The oracle on one prompt. forced: on its own continuation. sampling: as asked. near, truth: logits of the
    emulation and of exact arithmetic on the same ids, None for none; truth is None too where the oracle is exact."""

    info: RunnerInfo
    request: Request
    tokens: int
    forced: Forced
    sampler: SamplerCheck
    sampling: Sampling
    floor: Floor | None = None
    near: torch.Tensor | None = None
    truth: torch.Tensor | None = None
    recipe: Recipe | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """The continuation."""
        return self.forced.ids[self.forced.prompt :]

    def noise_around(self, y: Forced) -> tuple[Noise | None, NDArray[np.float64] | None]:
        """The noise of the recipe that the SUT is to run in, and [T] KL of its emulation, None where there is none.

        y: the oracle's logits as they are compared, which a side that hides some of them may have changed.
        """
        if y.logits is self.forced.logits:
            return self._noise
        return self._made(y)

    @cached_property
    def _noise(self) -> tuple[Noise | None, NDArray[np.float64] | None]:
        return self._made(self.forced)

    def _made(self, y: Forced) -> tuple[Noise | None, NDArray[np.float64] | None]:
        exact = is_exact(self.info)
        if self.floor is not None:
            return noise_of_floor(self.floor, y.logits, prompt=y.prompt, exact=exact), None
        if self.near is None or self.recipe is None:
            return None, None
        truth = y.logits if self.truth is None else self.truth
        noise = noise_of_emulation(self.near, truth, recipe=self.recipe, exact_oracle=exact)
        return noise, logit_distance(oracle=truth, sut=self.near).kl


def decode_reference(
    oracle: Runner,
    request: Request,
    tokens: int,
    *,
    sampling: Sampling | None = None,
    floor: Floor | None = None,
    emulation: Runner | None = None,
    exact: Runner | None = None,
    continuation: Sequence[int] | None = None,
    tell: Callable[[str], None] = lambda what: None,
) -> Reference:
    """Run the oracle, and the emulation where the noise is to come from it; see `compare_decoding` for the arguments.

    continuation: the oracle's own, where it is known already, made under the same settings.
    Raises UsageError and RunnerError as `compare_decoding` does.
    """
    sampling = sampling or Sampling()
    info = oracle.describe()
    require_decoding(info, request, tokens)
    if continuation is None:
        tell("the oracle's continuation and its logits on it")
        forced = continue_and_force(oracle, request, tokens, sampling=sampling)
        ids = forced.ids[forced.prompt :]
    else:
        tell("the oracle, teacher-forced")
        ids = tuple(continuation)
        forced = force(oracle, request, ids)
    near = truth = recipe = None
    if floor is None and emulation is not None and (exact is not None or is_exact(info)):
        tell("the recipe's emulation, teacher-forced")
        near, recipe = force(emulation, request, ids).logits, emulation.describe().recipe
        truth = None if is_exact(info) else force(exact or oracle, request, ids).logits
    checked = check_sampler(completed(forced), asked=sampling, declared=info.sampler)
    return Reference(info, request, tokens, forced, checked, sampling, floor, near, truth, recipe)
