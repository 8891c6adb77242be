"""What would an oracle be on a checked model folder, before a weight of it is read?"""

from __future__ import annotations

from math import prod

from parity.preview import RunnerPreview
from parity.stages import family
from parity_oracles.checkpoint import Checkpoint

HELD_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2}


def preview(checkpoint: Checkpoint, *, name: str, recipe: str, dtypes: dict[str, str], held: str) -> RunnerPreview:
    """dtypes: of the stages that differ from `other`, the entry under `""`. held: dtype of the weights in memory."""
    hyper = checkpoint.hyper
    stages = tuple(stage.name for _, stage in family(hyper.family).sites(1))
    shapes = [checkpoint.shape(weight) for weight in checkpoint.names if not weight.endswith("_scale_inv")]
    parameters = sum(prod(shape) for shape in shapes)
    return RunnerPreview(
        name=name,
        family=hyper.family,
        recipe=recipe,
        layers=hyper.layers,
        axes={
            "D": hyper.hidden, "H": hyper.heads, "G": hyper.kv_heads, "K": hyper.head_dim, "E": hyper.experts,
            "S": hyper.top_k, "F": hyper.expert_width, "V": hyper.vocab,
        },
        stages=stages,
        dtypes={stage: dtypes.get(stage, dtypes[""]) for stage in stages},
        vocab=hyper.vocab,
        max_positions=hyper.max_positions,
        parameters=parameters,
        weight_bytes=parameters * HELD_BYTES[held],
    )  # fmt: skip
