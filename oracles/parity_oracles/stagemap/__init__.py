"""Which module, node or tensor of an engine is which stage? A map as data, one file for each (engine, family).

    stage_map = load_map("torch", "qwen3_moe")               # maps/torch-qwen3_moe.toml; read_map(path) for your own
    found = match_map(stage_map, offered, layers=4)          # offered: {name: how often an engine shows it, or None}
    for source in found.at("model.layers.0.self_attn.qkv_proj", occurrence=0):
        for stage, tensor in source.deliver(output, sizes):  # fused tensors split, residual pairs joined, axes in order
            probe(stage, tensor, source.layer)

A map says of every stage of the family where it is, or why it cannot be observed; `read_map` refuses one that leaves a
stage out or has it twice. `match_map` holds it against what an engine offers, before anything is run: a declared source
that matches nothing, or more than one tensor, and a tensor that is taken twice, are errors that name it. What does not
arrive in a run is found by the recorder (`declared=stage_map.sites(layers)`), or by `Found.check_arrived`.

In TOML, one table a source:

    engine = "vllm"
    family = "qwen3_moe"

    [[tensor]]
    name = "*.layers.{layer}.self_attn.qkv_proj"   # {layer} is the absolute layer; `*` any text
    stages = ["attn.q", "attn.k", "attn.v"]        # several: they lie one after the other on the last axis
    axes = ["T HK", "T GK", "T GK"]                # as they lie, slowest first; `1` is a size of one, HK heads in a row

    [[tensor]]
    name = "*.layers.{layer}.post_attention_layernorm"
    result = 1                                     # which tensor of a tuple; default 0
    stages = "resid.mid"
    axes = "T D"

    [[tensor]]
    name = "*.layers.{layer}"
    result = [0, 1]                                # several are added: a residual kept as a pair
    stages = "resid.out"
    axes = "T D"
    rounds = "float32"                             # dtype of that sum before it is cast back; default: the tensors' own

    [unobservable]
    "moe.gate" = "inside one fused kernel"

Besides: `take` is what of it, `output` (default), `input`, or a word of the engine's own (`op:ROPE` of a graph's node);
`occurrence` is which of the tensors shown under that name in one step, from 0 (default), or "layer" where one object
serves all layers in order; `layers` a range as a Python slice ("1:", ":-1") where a source holds for some layers only.
Ids come as int32, and are compared as sets. Tensors are views of what was given: clone where an engine writes again.
`sizes_of(hyper)` gives the axis sizes from `describe().hyper`; `slot_rows(rows, ids)` the rows of [T, S, ...] stages.
"""

from __future__ import annotations

from parity_oracles.stagemap.deliver import sizes_of, slot_rows
from parity_oracles.stagemap.matching import Found, Source, match_map
from parity_oracles.stagemap.reading import known_maps, load_map, read_map
from parity_oracles.stagemap.record import Part, StageMap, Tensor

__all__ = [
    "Found",
    "Part",
    "Source",
    "StageMap",
    "Tensor",
    "known_maps",
    "load_map",
    "match_map",
    "read_map",
    "sizes_of",
    "slot_rows",
]
