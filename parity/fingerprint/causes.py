"""Which classes of cause can a finding name? The closed list that detectors, faults and reports share."""

from __future__ import annotations

from collections.abc import Mapping

# Rows: memory, tiles, order.
NEVER_WRITTEN = "rows past a tile edge were never written"
STALE = "rows past a tile edge hold stale memory"
ROWS_UNWRITTEN = "rows were never written"
ROWS_STALE = "rows hold stale memory"
TILE_AMPLIFIED = "one tile is scaled"
ROWS_PERMUTED = "rows are permuted"
ROWS_SHIFTED = "each row is its neighbour's"
FIRST_ROW_RIGHT = "token 0 right, all others wrong"
CHUNK_BOUNDARY = "wrong from a chunk boundary on"
PHASE_ONLY = "wrong in one phase only"

# Factors.
CONSTANT_RATIO = "constant ratio"
ROW_RATIO = "a factor of its own for each row"
CHANNEL_RATIO = "a factor of its own for each channel"
BLOCK_SCALES = "block scales misplaced"
HEAD_SPREAD = "wild spread between heads"

# Heads and columns.
HEADS_SHIFTED = "heads shifted by one"
HEADS_PERMUTED = "heads permuted"
HEADS_ALIASED = "heads aliased"
HEAD_PART = "part of each head is wrong"
COLUMN_SEGMENT = "one segment of columns is wrong"
COLUMNS_PERMUTED = "columns are permuted"

# Values.
E4M3_GRID = "values on the E4M3 grid"
NARROW_GRID = "values on the grid of a narrower dtype"
SATURATED = "saturated at one extreme value"
NONFINITE = "not finite"

# Positions.
ROPE_THETA = "another rope base"
ROPE_SCALING = "rope scaling of some frequency pairs"
ROPE_PARTIAL = "rotation of another part of the head"
ROPE_POSITION = "rope position off by a constant"
ROPE_PAIRING = "rope pairs paired otherwise"
SOFTMAX_SCALE = "another softmax scale"
ATTENTION_REACH = "attention sees only part of the keys"

# An operation left out, or fed the wrong tensor.
MISSING_NORM = "norm not applied"
MISSING_RESIDUAL = "residual not added"
MISSING_EXPERT = "a routed expert's part is not added"
MISSING_BIAS = "one vector added to, or missing from, every row"
GATE_UP_SWAPPED = "gate and up swapped"
WRONG_INPUT = "reads a wrong buffer"
TRANSPOSED = "uncorrelated at the same magnitude: transposed layout"
HALF_OF_K = "part of the contraction is left out"
ROUTER_NEAR_TIE = "router flips by near-ties"
ROUTER_WRONG_IDS = "expert ids that the logits do not give"
WEIGHTS_NOT_NORMALIZED = "routing weights not renormalized"
GATE_TRANSFORM = "gate transform not applied"
KV_SLOTS = "wrong cache slots"
LAUNCH_LIMIT = "launch beyond a hardware limit"

# Causes that no error field shows: the checkpoint, config, prompt and sampler say them.
CONFIG_VALUE = "hyper-parameter differs from the checkpoint"
SCALES_UNUSED = "checkpoint scales not consumed"
TENSOR_UNBOUND = "checkpoint tensor not bound"
PROMPT_TEMPLATE = "prompt differs from the tokenizer's template"
SAMPLER = "sampler picks another token than its own rule"
PROBES_CHANGE_BITS = "probes change the computed bits"

CAUSES: Mapping[str, str] = {
    NEVER_WRITTEN: "A grouped launch covers fewer tiles than the most loaded expert needs; the buffer was cleared.",
    STALE: "A grouped launch covers fewer tiles than the most loaded expert needs; the buffer was reused.",
    ROWS_UNWRITTEN: "A kernel or a copy skips rows: a grid, a mask, a slot map.",
    ROWS_STALE: "Rows are skipped and keep what the buffer held before.",
    TILE_AMPLIFIED: "One (rows, columns) tile is accumulated several times or with a wrong scale.",
    ROWS_PERMUTED: "A gather or scatter uses another order than its counterpart.",
    ROWS_SHIFTED: "An offset of one row in a pointer, a position or a cache slot.",
    FIRST_ROW_RIGHT: "A leading dimension or row stride differs from the buffer's: only row 0 lies where it is read.",
    CHUNK_BOUNDARY: "State or context is not carried from one prefill chunk to the next.",
    PHASE_ONLY: "Prefill and decode run different kernels, and one of them is wrong.",
    CONSTANT_RATIO: "A scale is missing, doubled, inverted or applied to the wrong slice.",
    ROW_RATIO: "A per-token factor is missing: a normalization of weights, a gate, a row scale.",
    CHANNEL_RATIO: "A per-channel factor is missing or shifted: a norm weight stored as w - 1, a missing weight.",
    BLOCK_SCALES: "Block scales are indexed transposed or shifted.",
    HEAD_SPREAD: "Per-head parameters read through a pointer of another type.",
    HEADS_SHIFTED: "A head stride or offset is off by one head.",
    HEADS_PERMUTED: "Heads are grouped where the checkpoint interleaves them, or the reverse.",
    HEADS_ALIASED: "Several heads read the same data: a group index or a stride of zero.",
    HEAD_PART: "A head_dim, a weight or a rotation covers only part of each head.",
    COLUMNS_PERMUTED: "The rows of a weight lie in another order than the checkpoint's: a shuffled or shifted layout.",
    COLUMN_SEGMENT: "One of several fused projections is wrong: its quantization, its offset.",
    E4M3_GRID: "The tensor is stored in FP8 E4M3 without its scale.",
    NARROW_GRID: "A cast that the recipe does not have; an engine that means it has another recipe, and another floor.",
    SATURATED: "A cast clips at the largest value of a narrow format, or at a wrong limit.",
    NONFINITE: "An overflow (fp16 holds 65504), a division by zero, or uninitialized memory.",
    ROPE_THETA: "The rope base is a default, not the checkpoint's.",
    ROPE_SCALING: "Context extension (yarn, linear, llama3) is applied where the config has none, or the reverse.",
    ROPE_PARTIAL: "partial_rotary_factor is ignored or wrong.",
    ROPE_POSITION: "Positions are counted from another start.",
    ROPE_PAIRING: "Interleaved pairs where the checkpoint has halves, or the reverse.",
    SOFTMAX_SCALE: "The scores are scaled by another head dimension.",
    ATTENTION_REACH: "Keys of earlier chunks, or beyond a window, are not read.",
    MISSING_NORM: "A normalization or its weight is not applied.",
    MISSING_RESIDUAL: "The residual or the branch is not added.",
    MISSING_EXPERT: "The sum over a token's experts skips a slot: a loop bound, a mask, a lost weight.",
    MISSING_BIAS: "A bias is not added, is added twice, or is one that the model does not have.",
    GATE_UP_SWAPPED: "The fused gate/up projection is split the wrong way round.",
    WRONG_INPUT: "The stage reads another buffer than its input: overwritten, reused, or bound wrongly.",
    TRANSPOSED: "A weight is read row-major where it is column-major.",
    HALF_OF_K: "The contraction length is taken from a packed shape.",
    ROUTER_NEAR_TIE: "Two experts' logits lie closer than the floor: not a fault of its own.",
    ROUTER_WRONG_IDS: "The ids belong to other logits: an overwritten buffer, a wrong top-k.",
    WEIGHTS_NOT_NORMALIZED: "norm_topk_prob is ignored, or softmax runs over another set.",
    GATE_TRANSFORM: "-exp(A_log), softplus, sigmoid or softmax is left out, or another one stands in its place.",
    KV_SLOTS: "Keys or values are written to, or read from, other slots than their positions'.",
    LAUNCH_LIMIT: "A grid dimension exceeds the hardware's limit and the launch fails silently.",
    CONFIG_VALUE: "An effective hyper-parameter is a default or hard-coded.",
    SCALES_UNUSED: "The loader ignores the scale tensors of a quantized checkpoint.",
    TENSOR_UNBOUND: "A tensor of the checkpoint matches no rule of the loader.",
    PROMPT_TEMPLATE: "The prompt is built by hand, from another template, or with injected text.",
    SAMPLER: "A fast path skips a mask or a penalty, or settings differ.",
    PROBES_CHANGE_BITS: "The instrumented path is not the production path.",
}
"""Every cause class with what a person looks for; nothing else is a cause."""
