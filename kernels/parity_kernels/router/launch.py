"""How many programs does the router need, and of which tile?"""

from __future__ import annotations

from parity_kernels.backend import interpreted
from parity_kernels.launch import Launch, ceil_div, next_power_of_2


def router_launch(*, n_tokens: int, n_experts: int, hidden: int) -> Launch:
    """Tiles hold all experts of a token (padded: top-k looks at them at once); `d` is the step of the dot product."""
    if interpreted():
        tile, depth = min(1024, max(16, next_power_of_2(max(n_tokens, 1)))), min(1024, next_power_of_2(max(hidden, 1)))
    else:
        tile, depth = 32, 128 if n_experts <= 128 else 64
    programs = ceil_div(n_tokens, tile)
    return Launch(
        op="router",
        grid=(programs,),
        block={"t": tile, "e": max(16, next_power_of_2(max(n_experts, 1))), "d": max(16, depth)},
        covers={"tokens": programs * tile},
        requires={"tokens": n_tokens},
    )
