"""Does our dequantizer give what HF's gives where HF's is right, and where does HF's stop being right?

HF's FP8 path infers the block from the scale grid; that is the block size only when both dimensions are multiples of
128. Needs `accelerate`, as HF's FP8 loading does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, FineGrainedFP8Config

from parity_oracles.checkpoint import read_checkpoint
from parity_oracles.hf import qwen3_moe


def both(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Every parameter as HF loads it from the FP8 folder, and as we do, both in BF16."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, quantization_config=FineGrainedFP8Config(dequantize=True)
    )
    return dict(model.named_parameters()), qwen3_moe.parameters(read_checkpoint(folder), torch.bfloat16)


def test_equal_bit_for_bit_at_multiples_of_128(make_model: Callable[..., Path]) -> None:
    sizes = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
    theirs, ours = both(make_model(quantized=True, moe_intermediate_size=128, **sizes))
    assert len(theirs) == 2 + 2 * 11  # embedding and final norm (the head is tied); eleven a layer, experts fused
    for name, parameter in theirs.items():
        assert parameter.dtype == torch.bfloat16
        assert torch.equal(parameter, ours[name]), name


def test_hf_is_wrong_at_edge_blocks(make_model: Callable[..., Path]) -> None:
    """Planted: with 192 query rows the two must differ, or the test above would prove nothing about blocks."""
    sizes = {"hidden_size": 128, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 64}
    theirs, ours = both(make_model(quantized=True, moe_intermediate_size=128, **sizes))
    name = "model.layers.0.self_attn.q_proj.weight"
    with torch.no_grad():
        differing = (theirs[name] != ours[name]).any(1).nonzero().flatten().tolist()
    # Rows 96..127 get the second block's scale from HF.
    assert differing == list(range(96, 128))
