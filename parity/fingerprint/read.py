"""What does the error field of a stage say? Every detector's answer, the best explanation first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from parity.fingerprint.attention_reach import detect_attention_reach
from parity.fingerprint.block_scales import detect_block_scales
from parity.fingerprint.causes import NONFINITE
from parity.fingerprint.channel_factor import detect_channel_factor
from parity.fingerprint.chunk_boundary import detect_chunk_boundary
from parity.fingerprint.columns_exchanged import detect_columns_exchanged
from parity.fingerprint.columns_wrong import detect_columns_wrong
from parity.fingerprint.combined_weights import detect_combined_weights
from parity.fingerprint.constant_ratio import detect_constant_ratio
from parity.fingerprint.contraction import detect_short_contraction
from parity.fingerprint.e4m3_grid import detect_e4m3_grid
from parity.fingerprint.field import ErrorField
from parity.fingerprint.first_row import detect_first_row
from parity.fingerprint.gate_transform import detect_gate_transform
from parity.fingerprint.head_order import detect_head_order
from parity.fingerprint.head_spread import detect_head_spread
from parity.fingerprint.input_grid import detect_input_grid
from parity.fingerprint.kv_grid import detect_kv_grid
from parity.fingerprint.kv_heads import detect_kv_heads
from parity.fingerprint.kv_pages import detect_kv_pages
from parity.fingerprint.kv_slots import detect_kv_slots
from parity.fingerprint.launch_limit import detect_launch_limit
from parity.fingerprint.lost_rows import detect_lost_rows
from parity.fingerprint.missing_bias import detect_missing_bias
from parity.fingerprint.missing_norm import detect_missing_norm
from parity.fingerprint.missing_slot import detect_missing_slot
from parity.fingerprint.missing_term import detect_missing_term
from parity.fingerprint.narrow_grid import detect_narrow_grid
from parity.fingerprint.nonfinite import detect_nonfinite
from parity.fingerprint.pair_order import detect_pair_order
from parity.fingerprint.phase import detect_phase
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.rope import detect_rope
from parity.fingerprint.routing import detect_router, detect_routing_weights
from parity.fingerprint.row_factor import detect_row_factor
from parity.fingerprint.row_order import detect_row_order
from parity.fingerprint.rows_scaled import detect_rows_scaled
from parity.fingerprint.saturation import detect_saturation
from parity.fingerprint.softmax_scale import detect_softmax_scale
from parity.fingerprint.split_merge import detect_split_merge
from parity.fingerprint.table_row import detect_table_row
from parity.fingerprint.tile_edge import detect_tile_edge
from parity.fingerprint.tile_scaled import detect_tile_scaled
from parity.fingerprint.transposed import detect_transposed
from parity.fingerprint.wrong_buffer import detect_swapped_halves, detect_wrong_buffer
from parity.fingerprint.wrong_expert import detect_wrong_expert

Detector = Callable[[ErrorField], Fingerprint | None]

DETECTORS: tuple[Detector, ...] = (
    detect_router,
    detect_routing_weights,
    detect_launch_limit,
    detect_tile_edge,
    detect_rope,
    detect_chunk_boundary,
    detect_softmax_scale,
    detect_kv_grid,
    detect_kv_heads,
    detect_attention_reach,
    detect_kv_slots,
    detect_kv_pages,
    detect_split_merge,
    detect_pair_order,
    detect_swapped_halves,
    detect_gate_transform,
    detect_missing_norm,
    detect_missing_slot,
    detect_combined_weights,
    detect_missing_term,
    detect_wrong_buffer,
    detect_wrong_expert,
    detect_table_row,
    detect_first_row,
    detect_transposed,
    detect_short_contraction,
    detect_head_order,
    detect_row_order,
    detect_lost_rows,
    detect_nonfinite,
    detect_saturation,
    detect_e4m3_grid,
    detect_input_grid,
    detect_narrow_grid,
    detect_constant_ratio,
    detect_tile_scaled,
    detect_block_scales,
    detect_head_spread,
    detect_phase,
    detect_columns_wrong,
    detect_columns_exchanged,
    detect_rows_scaled,
    detect_row_factor,
    detect_channel_factor,
    detect_missing_bias,
)
"""All detectors, the more specific first: of two that explain a field equally well, the earlier one stands first."""

LEAST = 0.25
"""Score below which a pattern does not speak for the field: less than half of the error (LEAST_SHARE) by a detector
that explains half of what it points at (UNRELATED). What is not finite is said however little it is."""

TIE = 0.02
"""Scores this near are one: noise of FP8 leaves 0.03 of a row's norm, hence 0.001 of the energy, to either."""


def read_fingerprints(field: ErrorField, *, detectors: Sequence[Detector] = DETECTORS) -> tuple[Fingerprint, ...]:
    """Every detector's result on a field, by score; empty where the field has no error or no known shape.

    A score is the share of the error's energy that the pattern explains, 1 - |residual|^2 / |error|^2, so that scores
    of different detectors compare. Scores within TIE of the best of their group stand in the order of `detectors`.
    """
    if field.ids is False and field.silent:
        return ()
    answers = [(rank, detector(field)) for rank, detector in enumerate(detectors)]
    # Values past fp32 leave no number to score by; `> 0` drops NaN as well.
    found = [(rank, one) for rank, one in answers if one is not None and (one.score >= LEAST or one.cause == NONFINITE)]
    found.sort(key=lambda pair: -pair[1].score)
    ordered: list[Fingerprint] = []
    while found:
        best = found[0][1].score
        group = [pair for pair in found if pair[1].score >= best - TIE]
        ordered += [result for _, result in sorted(group, key=lambda pair: pair[0])]
        found = found[len(group) :]
    return tuple(ordered)
