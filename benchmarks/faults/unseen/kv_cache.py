"""Unseen faults of the key/value cache: a page read twice, stale positions, a narrow dtype, an unwritten tail."""

from __future__ import annotations

from typing import Any

import torch

from parity.faults import Fault, where
from parity.records import Site, Slice
from parity_kernels.launch import Launch, next_power_of_2

END = 1 << 20
PAGE = 64


def fifth_page_is_the_fourth(op: Any) -> Any:
    """The page table's entry 5 is that of page 4."""

    def attention(q: Any, cache_k: torch.Tensor, cache_v: torch.Tensor, **rest: Any) -> torch.Tensor:
        pages = []
        for cache in (cache_k, cache_v):
            read = cache.clone()
            wrong = read[:, 5 * PAGE : 6 * PAGE]
            wrong.copy_(cache[:, 4 * PAGE : 4 * PAGE + wrong.shape[1]])
            pages.append(read)
        return op(q, *pages, **rest)

    return attention


def first_steps(positions: torch.Tensor) -> torch.Tensor:
    """The positions of the first decode step, whatever the step: those of the captured graph."""
    now = where()
    return positions - (now.step - 1) if now.phase == "decode" else positions


def graph_write(op: Any) -> Any:
    def kv_write(k: Any, v: Any, cache_k: Any, cache_v: Any, slots: Any, positions: Any, **rest: Any) -> None:
        op(k, v, cache_k, cache_v, slots, first_steps(positions), **rest)

    return kv_write


def graph_read(op: Any) -> Any:
    def attention(*args: Any, positions: torch.Tensor, **rest: Any) -> torch.Tensor:
        return op(*args, positions=first_steps(positions), **rest)

    return attention


def e4m3_cache(op: Any) -> Any:
    """Layer 3 stores keys and values as E4M3 without a scale."""

    def kv_write(k: torch.Tensor, v: torch.Tensor, *args: Any, **rest: Any) -> None:
        if where().layer == 3:
            k, v = (x.to(torch.float8_e4m3fn).to(x.dtype) for x in (k, v))
        op(k, v, *args, **rest)

    return kv_write


def value_head_zero(op: Any) -> Any:
    """Layer 0 writes the values of kv head 0 for both heads: a head stride of zero."""

    def kv_write(k: torch.Tensor, v: torch.Tensor, *args: Any, **rest: Any) -> None:
        if where().layer == 0:
            v = v[:, :1].expand(v.shape).contiguous()
        op(k, v, *args, **rest)

    return kv_write


def whole_tiles(*, n_rows: int, n_columns: int) -> Launch:
    """Row tiles by division that rounds down: the rows of the last, partial tile of 64 are not written."""
    programs = max(n_rows // 64, 1)
    return Launch(
        op="kv_write",
        grid=(programs,),
        block={"t": 64, "c": next_power_of_2(n_columns)},
        covers={"rows": programs * 64},
        requires={"rows": n_rows},
    )


FAULTS = [
    Fault(
        name="kv_page_read_twice",
        family="qwen3_moe",
        summary="Entry 5 of the page table repeats entry 4: keys 320 to 383 are read as keys 256 to 319.",
        truth=Site((), "attn.context", Slice(positions=(320, END))),
        cause="wrong cache slots",
        details={"page": 64},
        op=("attention_prefill", "attention_decode"),
        wrap=fifth_page_is_the_fourth,
    ),
    Fault(
        name="kv_graph_keeps_positions",
        family="qwen3_moe",
        summary="From the second decode step on, cache writes and reads use the first step's position.",
        truth=Site((), "attn.context"),
        cause="wrong cache slots",
        details={"phase": "decode"},
        wrap={"kv_write": graph_write, "attention_decode": graph_read},
    ),
    Fault(
        name="kv_last_layer_e4m3",
        family="qwen3_moe",
        summary="The cache of layer 3 alone holds E4M3 without a scale.",
        truth=Site((3,), "attn.context"),
        cause="values on the E4M3 grid",
        op="kv_write",
        wrap=e4m3_cache,
    ),
    Fault(
        name="kv_value_head_zero",
        family="qwen3_moe",
        summary="Layer 0 stores the values of kv head 0 for kv head 1 too.",
        truth=Site((0,), "attn.context", Slice(heads=(3, 4, 5))),
        cause="heads aliased",
        op="kv_write",
        wrap=value_head_zero,
    ),
    Fault(
        name="kv_partial_tile_dropped",
        family="qwen3_moe",
        summary="The cache write covers whole tiles of 64 rows: the last rows of a prompt are never stored.",
        truth=Site((), "attn.context"),
        cause="rows hold stale memory",
        details={"tile": 64},
        launch={"kv_write": whole_tiles},
    ),
]
