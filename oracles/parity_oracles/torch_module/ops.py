"""What carries a tensor out of a compiled graph? Two custom operators that no compiler pass may remove.

`tap` writes into a buffer that it declares as mutated: an operator that mutates nothing is silently dropped, and a
static buffer is what a CUDA graph can write to when it is replayed. `exchange` calls Python and goes on with what that
returns; a replayed CUDA graph runs no Python, so it cannot be used there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Exchange = Callable[[int, torch.Tensor], torch.Tensor]
EXCHANGES: dict[int, Exchange] = {}
"""Who answers `exchange`, by the number of the instrument."""


@torch.library.custom_op("parity_lab::tap", mutates_args=("buffer", "meter"))
def tap(buffer: torch.Tensor, meter: torch.Tensor, x: torch.Tensor) -> None:
    """Copy `x`, row-major, to the start of the flat `buffer`; meter: [2] int64, calls so far and elements."""
    count = x.numel()
    buffer[:count].copy_(x.reshape(-1))
    meter[0].add_(1)
    meter[1].fill_(count)


@tap.register_fake
def _(buffer: torch.Tensor, meter: torch.Tensor, x: torch.Tensor) -> None:
    return None


@torch.library.custom_op("parity_lab::exchange", mutates_args=("meter",))
def exchange(x: torch.Tensor, meter: torch.Tensor, instrument: int, number: int) -> torch.Tensor:
    """What instrument `instrument` gives for point `number` in place of `x`: a contiguous tensor of its own."""
    meter.add_(1)
    back = EXCHANGES[instrument](number, x)
    return back.contiguous().clone() if back is x or back.data_ptr() == x.data_ptr() else back.contiguous()


@exchange.register_fake
def _(x: torch.Tensor, meter: torch.Tensor, instrument: int, number: int) -> torch.Tensor:
    return x.new_empty(x.shape)
