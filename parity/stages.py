"""Which operation boundaries exist inside a model, what their axes mean, and how a family strings them together.

The vocabulary is closed: a stage name that is not in `VOCABULARY` is refused everywhere. A family is data, a small
directed graph over that vocabulary, so that "the first stage that adds error" is defined for parallel branches and
for state. A new family or stage adds entries here and changes none.

Axis letters, used in every docstring and capture:

    T token row   D hidden   H query head   G key/value head   K inside one head
    E expert      S top-k slot   R expert row, one (token, slot) pair   V vocabulary
    F width inside an MLP or an expert
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from parity.errors import ConfigError, UsageError

AXES = {
    "T": "token row",
    "D": "hidden",
    "H": "query head",
    "G": "key/value head",
    "K": "inside one head",
    "E": "expert",
    "S": "top-k slot",
    "R": "expert row (token, slot)",
    "F": "width inside an MLP or an expert",
    "V": "vocabulary",
}


@dataclass(frozen=True)
class Term:
    """One word of the vocabulary: a stage's name, its axes from slowest to fastest, and what the tensor is.

    values: `float`, or `ids` for integers that are compared as sets and never by distance.
    """

    name: str
    axes: tuple[str, ...]
    about: str
    values: str = "float"


_TERMS = (
    Term("embed.out", ("T", "D"), "embedding row of each token"),
    Term("attn.norm", ("T", "D"), "RMSNorm of the layer's input residual"),
    Term("attn.q", ("T", "H", "K"), "query projection"),
    Term("attn.k", ("T", "G", "K"), "key projection"),
    Term("attn.v", ("T", "G", "K"), "value projection"),
    Term("attn.q_norm", ("T", "H", "K"), "per-head RMSNorm of the query"),
    Term("attn.k_norm", ("T", "G", "K"), "per-head RMSNorm of the key"),
    Term("attn.q_rope", ("T", "H", "K"), "query after rotary position embedding"),
    Term("attn.k_rope", ("T", "G", "K"), "key after rotary position embedding"),
    Term("attn.context", ("T", "H", "K"), "softmax-weighted sum of values, before the output projection"),
    Term("attn.out", ("T", "D"), "attention output projection"),
    Term("resid.mid", ("T", "D"), "residual stream after attention"),
    Term("mlp.norm", ("T", "D"), "RMSNorm of the residual after attention"),
    Term("mlp.gate", ("T", "F"), "gate projection of a dense MLP"),
    Term("mlp.up", ("T", "F"), "up projection of a dense MLP"),
    Term("mlp.act", ("T", "F"), "silu(gate) * up of a dense MLP"),
    Term("mlp.down", ("T", "D"), "down projection of a dense MLP"),
    Term("moe.router_logits", ("T", "E"), "router scores before softmax"),
    Term("moe.topk_ids", ("T", "S"), "experts chosen for each token, best first", values="ids"),
    Term("moe.topk_weights", ("T", "S"), "routing weight of each chosen expert"),
    Term("moe.gate", ("R", "F"), "expert gate projection, one row per (token, slot)"),
    Term("moe.up", ("R", "F"), "expert up projection"),
    Term("moe.act", ("R", "F"), "silu(gate) * up"),
    Term("moe.down", ("R", "D"), "expert down projection, before the routing weight"),
    Term("moe.experts", ("T", "D"), "weighted sum over the chosen experts"),
    Term("resid.out", ("T", "D"), "residual stream leaving the layer"),
    Term("final_norm", ("T", "D"), "RMSNorm before the LM head"),
    Term("logits", ("T", "V"), "scores over the vocabulary"),
)

VOCABULARY: dict[str, Term] = {term.name: term for term in _TERMS}


def term(name: str) -> Term:
    """The vocabulary entry of stage `name`; raises ConfigError for a word that is not in it."""
    try:
        return VOCABULARY[name]
    except KeyError:
        raise ConfigError(
            place="stage vocabulary",
            expected="one of " + ", ".join(VOCABULARY),
            found=repr(name),
            next_step="Spell the stage as in parity/stages.py, or add it to the vocabulary there.",
        ) from None


@dataclass(frozen=True)
class Stage:
    """A node of a family's graph.

    name: a word of the vocabulary.
    inputs: stages of the same layer it reads; `resid.in` stands for the layer's input residual, that is the previous
        layer's `resid.out`, or `embed.out` for layer 0.
    state: earlier tokens' stages that it reads besides (the KV cache), by stage name.
    """

    name: str
    inputs: tuple[str, ...] = ()
    state: tuple[str, ...] = ()

    @property
    def axes(self) -> tuple[str, ...]:
        return term(self.name).axes


@dataclass(frozen=True)
class Family:
    """The stage graph of a model family: what comes before the layers, one layer, what comes after.

    Stages stand in an order in which each comes after its inputs; layer indices are absolute, also when truncated.
    """

    name: str
    prologue: tuple[Stage, ...]
    layer: tuple[Stage, ...]
    epilogue: tuple[Stage, ...]

    def sites(self, layers: int) -> Iterator[tuple[int | None, Stage]]:
        """Every (layer, stage) of a model of that many layers, in the order in which they are computed."""
        for stage in self.prologue:
            yield None, stage
        for index in range(layers):
            for stage in self.layer:
                yield index, stage
        for stage in self.epilogue:
            yield None, stage

    def stage(self, name: str) -> Stage:
        """The node called `name`; raises ConfigError when the family has no such stage."""
        everything = (*self.prologue, *self.layer, *self.epilogue)
        for stage in everything:
            if stage.name == name:
                return stage
        raise ConfigError(
            place=f"family {self.name}",
            expected="a stage of this family: " + ", ".join(stage.name for stage in everything),
            found=repr(name),
            next_step="Choose one of the stages listed.",
        )

    def resolve(self, layer: int | None, name: str, *, layers: int) -> tuple[int | None, str]:
        """Where input `name` of a stage in `layer` is captured: resolves `resid.in` and the epilogue's residual."""
        if name == "resid.in":
            if layer is None:
                return layers - 1, "resid.out"
            return (None, "embed.out") if layer == 0 else (layer - 1, "resid.out")
        inside = {stage.name for stage in self.layer}
        return (layer if name in inside else None), name

    def position(self, layer: int | None, name: str, *, layers: int) -> int:
        """Rank of a site in order of computation, for sorting."""
        for rank, (at, stage) in enumerate(self.sites(layers)):
            if at == layer and stage.name == name:
                return rank
        raise UsageError(
            place=f"family {self.name}",
            expected=f"a site of a model of {layers} layers",
            found=f"layer {layer}, stage {name!r}",
            next_step="Layer indices are absolute and start at 0; stages outside the layers have layer None.",
        )


_NORMED_HEADS = (
    Stage("attn.q_norm", ("attn.q",)),
    Stage("attn.k_norm", ("attn.k",)),
    Stage("attn.q_rope", ("attn.q_norm",)),
    Stage("attn.k_rope", ("attn.k_norm",)),
)
_PLAIN_HEADS = (Stage("attn.q_rope", ("attn.q",)), Stage("attn.k_rope", ("attn.k",)))

_DENSE = (
    Stage("mlp.gate", ("mlp.norm",)),
    Stage("mlp.up", ("mlp.norm",)),
    Stage("mlp.act", ("mlp.gate", "mlp.up")),
    Stage("mlp.down", ("mlp.act",)),
    Stage("resid.out", ("resid.mid", "mlp.down")),
)
_EXPERTS = (
    Stage("moe.router_logits", ("mlp.norm",)),
    Stage("moe.topk_ids", ("moe.router_logits",)),
    Stage("moe.topk_weights", ("moe.router_logits", "moe.topk_ids")),
    Stage("moe.gate", ("mlp.norm", "moe.topk_ids")),
    Stage("moe.up", ("mlp.norm", "moe.topk_ids")),
    Stage("moe.act", ("moe.gate", "moe.up")),
    Stage("moe.down", ("moe.act", "moe.topk_ids")),
    Stage("moe.experts", ("moe.down", "moe.topk_weights")),
    Stage("resid.out", ("resid.mid", "moe.experts")),
)


def _decoder(name: str, heads: tuple[Stage, ...], block: tuple[Stage, ...]) -> Family:
    """A pre-norm decoder: attention whose heads are prepared by `heads`, then the block that ends the layer."""
    return Family(
        name=name,
        prologue=(Stage("embed.out"),),
        layer=(
            Stage("attn.norm", ("resid.in",)),
            Stage("attn.q", ("attn.norm",)),
            Stage("attn.k", ("attn.norm",)),
            Stage("attn.v", ("attn.norm",)),
            *heads,
            Stage("attn.context", ("attn.q_rope", "attn.k_rope", "attn.v"), state=("attn.k_rope", "attn.v")),
            Stage("attn.out", ("attn.context",)),
            Stage("resid.mid", ("resid.in", "attn.out")),
            Stage("mlp.norm", ("resid.mid",)),
            *block,
        ),
        epilogue=(Stage("final_norm", ("resid.in",)), Stage("logits", ("final_norm",))),
    )


LLAMA = _decoder("llama", _PLAIN_HEADS, _DENSE)
QWEN3 = _decoder("qwen3", _NORMED_HEADS, _DENSE)
QWEN3_MOE = _decoder("qwen3_moe", _NORMED_HEADS, _EXPERTS)

FAMILIES: dict[str, Family] = {graph.name: graph for graph in (LLAMA, QWEN3, QWEN3_MOE)}


def family(name: str) -> Family:
    """The stage graph of family `name`; raises ConfigError for one that is not there."""
    try:
        return FAMILIES[name]
    except KeyError:
        raise ConfigError(
            place="model family",
            expected="one of " + ", ".join(FAMILIES),
            found=repr(name),
            next_step="This family has no stage graph yet; add one to parity/stages.py.",
        ) from None


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """True when stage `name` fits one of the shell-style patterns (`moe.*`); no pattern at all fits everything."""
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
