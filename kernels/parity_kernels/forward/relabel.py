"""What are the same weights under other numbers? Experts and heads in another order, each with all that is its own."""

from __future__ import annotations

from dataclasses import replace

import torch

from parity.errors import RunnerError, UsageError
from parity.runner import Relabel
from parity_kernels.forward.config import ModelConfig
from parity_kernels.forward.weights import BLOCK, LayerWeights, Matrix, Weights


def relabel_weights(weights: Weights, relabel: Relabel, config: ModelConfig) -> Weights:
    """Weights of a model that computes the same under other numbers of experts and heads; the rest is shared.

    Raises UsageError for what is no permutation or splits a group of heads, RunnerError where the scales of a block-FP8
    weight, one for 128 rows or columns, cannot follow the heads.
    """
    for name, order, count in (("experts", relabel.experts, config.experts), ("heads", relabel.heads, config.heads)):
        if order and sorted(order) != list(range(count)):
            raise _wrong(f"a permutation of {count} {name}", str(list(order)))
    return replace(weights, layers=tuple(_relabelled(layer, relabel, config) for layer in weights.layers))


def _relabelled(layer: LayerWeights, relabel: Relabel, config: ModelConfig) -> LayerWeights:
    if relabel.experts:
        order = torch.tensor(relabel.experts, device=layer.router.device)
        layer = replace(
            layer,
            router=layer.router[order].contiguous(),
            gate_up=_experts(layer.gate_up, order),
            down=_experts(layer.down, order),
        )
    if relabel.heads:
        query = _rows(relabel.heads, config.head_dim)
        key = _rows(_groups(relabel.heads, config), config.head_dim)
        layer = replace(
            layer,
            q=_take_rows(layer.q, query),
            k=_take_rows(layer.k, key),
            v=_take_rows(layer.v, key),
            o=_transposed(_take_rows(_transposed(layer.o), query)),
        )
    return layer


def _groups(heads: tuple[int, ...], config: ModelConfig) -> tuple[int, ...]:
    """The key/value heads in the order that the query heads give them."""
    size = config.heads // config.kv_heads
    groups = [{head // size for head in heads[at : at + size]} for at in range(0, config.heads, size)]
    if any(len(group) > 1 for group in groups):
        raise _wrong(f"heads of one key/value head next to each other, {size} each", str(list(heads)))
    return tuple(group.pop() for group in groups)


def _rows(order: tuple[int, ...], width: int) -> torch.Tensor:
    return (torch.tensor(order)[:, None] * width + torch.arange(width)).flatten()


def _experts(matrix: Matrix, order: torch.Tensor) -> Matrix:
    bits = matrix.data.view(torch.uint8) if matrix.data.itemsize == 1 else matrix.data
    scale = None if matrix.scale is None else matrix.scale[order].contiguous()
    return Matrix(bits[order].view(matrix.data.dtype).contiguous(), scale)


def _take_rows(matrix: Matrix, rows: torch.Tensor) -> Matrix:
    rows = rows.to(matrix.data.device)
    if matrix.scale is None:
        return Matrix(matrix.data[rows].contiguous())
    blocks = []
    for block in rows.split(BLOCK):
        source = (block // BLOCK).unique()
        if len(source) > 1 or len(block) != min(BLOCK, len(rows) - int(source) * BLOCK):
            raise RunnerError(
                place="relabelled heads",
                expected="an order that moves blocks of 128 rows as wholes: they share one FP8 scale",
                found=f"rows of blocks {source.tolist()} in one block",
                next_step="Relabel the heads of the BF16 recipe, or choose an order that keeps the blocks.",
            )
        blocks.append(int(source))
    data = matrix.data.view(torch.uint8)[rows].view(matrix.data.dtype).contiguous()
    return Matrix(data, matrix.scale[torch.tensor(blocks, device=rows.device)].contiguous())


def _transposed(matrix: Matrix) -> Matrix:
    scale = None if matrix.scale is None else matrix.scale.T.contiguous()
    return Matrix(matrix.data.T.contiguous(), scale)


def _wrong(expected: str, found: str) -> UsageError:
    return UsageError(place="relabelling", expected=expected, found=found, next_step="Correct the order.")
