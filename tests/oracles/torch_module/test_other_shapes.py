"""Does a map as documented serve modules of other shapes: GPT-2 with its fused projections, torch's own encoder?"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from parity.compare import compare_traces
from parity.errors import ProbeError, TraceError
from parity.floor import derive_floor
from parity.runner import CapturePlan, Request
from parity.trace import Trace
from parity_oracles.stagemap.reading import parse_map
from parity_oracles.torch_module import Compilation, TorchModel, TorchRunner

REQUEST = Request("p", tuple(n * 7 % 53 for n in range(23)))
FLOOR = derive_floor("derived:float32:16")
HOW = ("none", pytest.param("aot_eager", marks=pytest.mark.long))
Rows = list[tuple[str, Any, Any, dict[str, Any]]]


def run(module: nn.Module, sources: Rows, unobservable: dict[str, str], hyper: dict[str, int], how: str) -> Trace:
    tensors = [{"name": name, "stages": stages, "axes": axes, **more} for name, stages, axes, more in sources]
    stage_map = parse_map({"engine": "mine", "family": "llama", "tensor": tensors, "unobservable": unobservable})
    model = TorchModel(deepcopy(module), "llama", {"layers": 2, "vocab": 53, "max_positions": 64, **hyper}, stage_map)
    return TorchRunner(model, Compilation(how)).forward([REQUEST], capture=CapturePlan())


GPT2: Rows = [
    ("transformer.drop", "embed.out", "1 T D", {}),
    ("*.h.{layer}.ln_1", "attn.norm", "1 T D", {}),
    ("*.h.{layer}.attn.c_attn", ["attn.q", "attn.k", "attn.v"], ["1 T HK", "1 T GK", "1 T GK"], {}),
    ("*.h.{layer}.attn.c_proj", "attn.context", "1 T HK", {"take": "input"}),
    ("*.h.{layer}.attn.c_proj", "attn.out", "1 T D", {}),
    ("*.h.{layer}.ln_2", "resid.mid", "1 T D", {"take": "input"}),
    ("*.h.{layer}.ln_2", "mlp.norm", "1 T D", {}),
    ("*.h.{layer}.mlp.c_fc", "mlp.up", "1 T F", {}),
    ("*.h.{layer}.mlp.c_proj", "mlp.act", "1 T F", {"take": "input"}),
    ("*.h.{layer}.mlp.c_proj", "mlp.down", "1 T D", {}),
    ("*.h.{layer}", "resid.out", "1 T D", {}),
    ("*.ln_f", "final_norm", "1 T D", {}),
    ("lm_head", "logits", "1 T V", {}),
]
NO_ROPE = {name: "no rope: positions are in the embedding" for name in ("attn.q_rope", "attn.k_rope")}
NO_GATE = {"mlp.gate": "an MLP without a gate"}
GPT2_SIZES = {"hidden": 66, "heads": 6, "kv_heads": 6, "head_dim": 11, "expert_width": 264}


@pytest.fixture(scope="module")
def gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = dict(n_layer=2, n_embd=66, n_head=6, vocab_size=53, n_positions=64, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval()


@pytest.mark.parametrize("how", HOW)
def test_one_head_of_a_fused_projection(gpt2: Any, how: str) -> None:
    """66 columns in heads of 11: the keys' second head lies at columns 77 to 88 of the fused weight."""
    wrong = deepcopy(gpt2)
    with torch.no_grad():
        wrong.transformer.h[1].attn.c_attn.weight[:, 77:88] *= 1.05
    healthy, same, faulty = (
        run(module, GPT2, {**NO_ROPE, **NO_GATE}, GPT2_SIZES, kind)
        for module, kind in ((gpt2, "none"), (gpt2, how), (wrong, how))
    )
    assert compare_traces(oracle=healthy, sut=same, floor=FLOOR).healthy
    with pytest.raises(TraceError, match="same_model_because"):
        compare_traces(oracle=healthy, sut=faulty, floor=FLOOR)
    found = compare_traces(oracle=healthy, sut=faulty, floor=FLOOR, same_model_because="one head was scaled")
    first = next(one for one in found.comparisons if one.verdict.faulty)
    assert first.name == "L01.attn.k"
    assert (first.worst[0].kind, first.worst[0].index) == ("head", 1)


def test_defects_of_its_map_are_named(gpt2: Any) -> None:
    unobservable = {**NO_ROPE, **NO_GATE}
    for at, name, said in (
        (5, "*.h.{layer}.norm_2", "expected one .*norm_2 input for resid.mid in the engine; found none; the nearest"),
        (9, "*.h.{layer}.attn.c_proj", "each tensor taken once.* for attn.out and mlp.down"),
        (9, "*.{layer}.*.c_proj", "found 2: transformer.h.0.attn.c_proj, transformer.h.0.mlp.c_proj"),
    ):
        changed = [*GPT2[:at], (name, *GPT2[at][1:]), *GPT2[at + 1 :]]
        with pytest.raises(ProbeError, match=said):
            run(gpt2, changed, unobservable, GPT2_SIZES, "none")


class Encoder(nn.Module):
    """PyTorch's own encoder layer, whose attention is one function and whose `out_proj` is never called as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.norm, self.head = nn.Embedding(53, 40), nn.LayerNorm(40), nn.Linear(40, 53)
        layer = nn.TransformerEncoderLayer(40, 5, 72, batch_first=True, norm_first=True, activation="gelu")
        self.layers = nn.ModuleList([layer, deepcopy(layer)])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


ENCODER: Rows = [
    ("emb", "embed.out", "1 T D", {}),
    ("layers.{layer}.norm1", "attn.norm", "1 T D", {}),
    ("layers.{layer}.self_attn", "attn.out", "1 T D", {"result": 0}),
    ("layers.{layer}.norm2", "resid.mid", "1 T D", {"take": "input"}),
    ("layers.{layer}.norm2", "mlp.norm", "1 T D", {}),
    ("layers.{layer}.linear1", "mlp.up", "1 T F", {}),
    ("layers.{layer}.linear2", "mlp.act", "1 T F", {"take": "input"}),
    ("layers.{layer}.linear2", "mlp.down", "1 T D", {}),
    ("layers.{layer}", "resid.out", "1 T D", {}),
    ("norm", "final_norm", "1 T D", {}),
    ("head", "logits", "1 T V", {}),
]
INSIDE = {name: "inside multi_head_attention_forward" for name in ("attn.q", "attn.k", "attn.v", "attn.context")}


@pytest.mark.parametrize("how", HOW)
def test_torchs_own_encoder_and_a_module_that_is_never_called(how: str) -> None:
    torch.manual_seed(0)
    module, sizes = Encoder().eval(), {"hidden": 40, "heads": 5, "kv_heads": 5, "head_dim": 8, "expert_width": 72}
    trace = run(module, ENCODER, {**INSIDE, **NO_ROPE, **NO_GATE}, sizes, how)
    assert trace.complete
    context = ("layers.{layer}.self_attn.out_proj", "attn.context", "1 T HK", {"take": "input"})
    hidden = {name: why for name, why in INSIDE.items() if name != "attn.context"}
    with pytest.raises(ProbeError, match=r"layers.0.self_attn.out_proj input \(attn.context\): 0 times"):
        run(module, [*ENCODER, context], {**hidden, **NO_ROPE, **NO_GATE}, sizes, how)
