"""How many programs sort the (token, slot) pairs, and how much does each look at in one step?"""

from __future__ import annotations

from parity_kernels.backend import interpreted
from parity_kernels.launch import Launch, ceil_div, next_power_of_2

_INTERPRETED_TILE = 1 << 20  # elements of the (experts x pairs) comparison


def permute_launch(*, n_pairs: int, n_experts: int) -> Launch:
    """Both kernels use it. Compiled: a program an expert, so that 128 experts fill an H200's 132 multiprocessors."""
    everyone = next_power_of_2(max(n_experts, 1))
    pairs = next_power_of_2(max(n_pairs, 16))  # Triton 3.6's interpreter takes a scan of one element for a scalar
    if interpreted():
        experts, pairs = everyone, min(pairs, max(_INTERPRETED_TILE // everyone, 1))
    else:
        experts, pairs = 1, min(max(pairs, 128), 4096)
    programs = ceil_div(n_experts, experts)
    return Launch(
        op="permute",
        grid=(programs,),
        block={"e": experts, "r": pairs, "all_e": everyone},
        covers={"experts": programs * experts},
        requires={"experts": n_experts},
    )
