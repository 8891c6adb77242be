"""Does the engine still compute what it did? Every result is held against tests/goldens/test_engine/."""

from __future__ import annotations

import pytest
import torch
from tiny_engine import gated_mlp, rms_norm

from parity.golden import Calibration

WIDTH, HIDDEN = 48, 80


def inputs(rows: int) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(rows)
    shapes = ((rows, WIDTH), (HIDDEN, WIDTH), (HIDDEN, WIDTH), (WIDTH, HIDDEN))
    scales = (1.0, WIDTH**-0.5, WIDTH**-0.5, HIDDEN**-0.5)
    return tuple((torch.randn(*s, generator=g) * by).bfloat16() for s, by in zip(shapes, scales, strict=True))


@pytest.mark.parametrize("rows", [1, 16, 37])
def test_norm(parity_golden, rows):
    # One rounding to bf16 of a float32 result: the derived floor of the dtype is all that it needs.
    parity_golden.check(rms_norm(inputs(rows)[0]))


def test_gated_mlp(parity_golden):
    # Several roundings in a row: how far honest ones are from exact is measured, with plain torch and not the engine.
    given = inputs(37)

    def plain(dtype: torch.dtype, parts: tuple[torch.Tensor, ...] = (torch.arange(WIDTH),)) -> dict[str, torch.Tensor]:
        x, gate, up, down = (t.to(dtype) for t in given)

        def project(w: torch.Tensor) -> torch.Tensor:
            return sum((x[:, at] @ w[:, at].T for at in parts), torch.zeros((), dtype=dtype))

        act = torch.nn.functional.silu(project(gate)) * project(up)
        return {"act": act, "out": act @ down.T}

    def honest(number: int) -> dict[str, torch.Tensor]:
        # Sums over the width in two parts, as a split-K kernel adds them: another pair of parts each time.
        order = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(number))
        return plain(torch.bfloat16, order.split(WIDTH // 2))

    parity_golden.check(gated_mlp(*given), calibration=Calibration(exact=lambda: plain(torch.float64), honest=honest))
