"""Are the stage functions the model's own formulas in fp32, and in the recipes what the specification says?

fp32 against HF: two fp32 evaluations of a sum of n products with random signs differ by about sqrt(n) * 2^-24 of its
norm (each partial sum is rounded once, and the partial sums grow like the result does; Higham & Mary 2019, SIAM J. Sci.
Comput. 41, A2815, theorem 3.1, with a confidence factor of 4). n is the longest reduction of the stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from parity.errors import UsageError
from parity.runner import CapturePlan, Request
from parity.stages import QWEN3_MOE
from parity_oracles.checkpoint import read_checkpoint
from parity_oracles.hf.runner import HfRunner
from parity_oracles.recipes import ARITHMETICS, ORDERS, Order
from parity_oracles.recipes.attention import attend
from parity_oracles.recipes.formats import quantize_activation, quantize_weight
from parity_oracles.recipes.linear import Matrix, multiply, prepare
from parity_oracles.recipes.runner import RecipeRunner
from parity_oracles.recipes.stages import Call, rms_norm

Stages = dict[tuple[int | None, str], torch.Tensor]
FP32, BF16, FP8 = ARITHMETICS["fp32"], ARITHMETICS["bf16"], ARITHMETICS["fp8_block"]
UNIT = 2.0**-24
# The longest sum behind one value of each stage, for T = 45, D = 160, H*K = 192, F = 136.
LENGTHS = {
    "attn.out": 192, "moe.down": 136, "attn.context": 45 * 32, "attn.q_norm": 32, "attn.k_norm": 32, "attn.q_rope": 4,
    "attn.k_rope": 4, "moe.topk_weights": 16, "moe.act": 16, "moe.experts": 4, "resid.mid": 1, "resid.out": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def hf(fp8_folder: Path) -> HfRunner:
    return HfRunner(read_checkpoint(fp8_folder))


@pytest.fixture(scope="module")
def seen(hf: HfRunner, prompt: Request, stages_of: Callable[..., Stages]) -> Stages:
    return stages_of(hf.forward([prompt], capture=CapturePlan()))


@pytest.fixture(scope="module")
def recipe(fp8_folder: Path) -> RecipeRunner:
    return RecipeRunner(read_checkpoint(fp8_folder))


@pytest.mark.parametrize("stage", [stage.name for _, stage in QWEN3_MOE.sites(1)])
def test_fp32_is_hfs_stage(
    stage: str, hf: HfRunner, recipe: RecipeRunner, seen: Stages, prompt: Request, replayed: Callable[..., torch.Tensor]
) -> None:
    """On HF's own inputs, alone; and the fp64 evaluation of the same formula is as near to HF as fp32 can be."""
    for at, name in [site for site in seen if site[1] == stage]:
        for runner, precision in ((hf, "fp32"), (recipe, "fp32"), (recipe, "fp64")):
            ours = replayed(runner, seen, at, name, precision, prompt.ids)
            if QWEN3_MOE.stage(stage).name == "moe.topk_ids":
                assert torch.equal(ours, seen[at, name])
                continue
            assert ours.dtype == (torch.float64 if precision == "fp64" else torch.float32)
            bound = 0.0 if stage == "embed.out" else 4 * math.sqrt(LENGTHS.get(stage, 160)) * UNIT
            error = float((ours - seen[at, name]).norm() / seen[at, name].norm())
            assert error <= bound, f"{stage} of layer {at} in {precision}: {error:.2g} over {bound:.2g}"


PLANTED = {
    "rope": ("attn.q_rope", {"rope_theta": 10001.0}),
    "eps": ("attn.norm", {"rms_eps": 1.1e-6}),
    "renormalization": ("moe.topk_weights", {"norm_topk_prob": False}),
}


@pytest.mark.parametrize("defect", PLANTED)
def test_a_wrong_hyper_parameter_would_be_noticed(
    defect: str, fp8_folder: Path, seen: Stages, prompt: Request, replayed: Callable[..., torch.Tensor]
) -> None:
    stage, change = PLANTED[defect]
    runner = RecipeRunner(read_checkpoint(fp8_folder))
    runner.hyper = replace(runner.hyper, **change)
    error = (replayed(runner, seen, 0, stage, "fp32", prompt.ids) - seen[0, stage]).norm() / seen[0, stage].norm()
    assert error > 4 * math.sqrt(LENGTHS.get(stage, 160)) * UNIT


def slow_fp8(x: torch.Tensor, values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The specification's formula in fp64: every product of two values with the two scales of its own place."""
    q, s = quantize_activation(x)
    block = torch.arange(x.shape[1]) // 128
    left = q.double() * s.double()[:, block]
    right = values.double() * scale.double()[torch.arange(len(values)) // 128][:, block]
    return (left[:, None, :] * right[None, :, :]).sum(-1)


@pytest.mark.parametrize(("rows", "columns"), [(130, 140), (3, 128), (129, 300), (2, 1)])
@pytest.mark.parametrize("order", range(len(ORDERS)))
def test_block_fp8_product(rows: int, columns: int, order: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(2, columns, generator=generator).bfloat16()
    weight = torch.randn(rows, columns, generator=generator) * torch.linspace(0.1, 5, rows)[:, None]
    values, scale = quantize_weight(weight)
    ours = multiply(prepare(x, FP8, Order()), Matrix(values, scale), FP8, ORDERS[order])
    exact = slow_fp8(x, values.float(), scale)
    # fp32: dots of at most 128 products, then a product of scales and a sum over at most 3 blocks; worst case, so that
    # no factor of confidence is needed: (128 + 2 + 3) roundings of the sum of absolute values.
    # A tensor core cuts each of those addends at 2^-13 of the largest, which is no larger than their sum.
    unit = UNIT if ORDERS[order].tensor_core is None else 2.0**-13
    size = slow_fp8(x.abs(), values.float().abs(), scale)
    assert ((ours - exact).abs() <= 133 * unit * size).all()
    # Planted: the scale of the neighbouring block, where there is one.
    if len(scale) > 1:
        wrong = multiply(prepare(x, FP8, Order()), Matrix(values, scale.roll(1, 0)), FP8, ORDERS[order])
        assert not ((wrong - exact).abs() <= 133 * unit * size).all()


def test_every_row_is_quantized_by_itself() -> None:
    x = torch.randn(3, 160, generator=torch.Generator().manual_seed(0)).bfloat16()
    matrix = Matrix(*quantize_weight(torch.randn(40, 160)))
    louder = x.clone()
    louder[1] *= 1000
    first, second = (multiply(prepare(rows, FP8, Order()), matrix, FP8, Order()) for rows in (x, louder))
    assert torch.equal(first[[0, 2]], second[[0, 2]])


def test_no_rows_at_all() -> None:
    matrix = Matrix(*quantize_weight(torch.randn(40, 160)))
    for arithmetic in (FP32, BF16, FP8):
        x = prepare(torch.empty(0, 160), arithmetic, Order())
        assert multiply(x, matrix, arithmetic, Order()).shape == (0, 40)


def test_bf16_product_rounds_its_operands_and_nothing_else() -> None:
    x = torch.randn(4, 160, generator=torch.Generator().manual_seed(0))
    values, scale = quantize_weight(torch.randn(40, 160, generator=torch.Generator().manual_seed(1)))
    exact_weight = (values.float() * scale[0].repeat_interleave(128)[:160]).bfloat16().double()
    expected = x.bfloat16().double() @ exact_weight.T
    ours = multiply(prepare(x, BF16, Order()), Matrix(values, scale), BF16, Order())
    assert ours.dtype == torch.float32
    size = x.bfloat16().double().abs() @ exact_weight.abs().T
    assert ((ours - expected).abs() <= 161 * UNIT * size).all()


def slow_context(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, positions: list[int], block: int) -> torch.Tensor:
    """The specification's online softmax for one query head at a time, in fp64 but for the rounding of P."""
    out = torch.zeros(q.shape, dtype=torch.float64)
    for t, position in enumerate(positions):
        for h in range(q.shape[1]):
            g = h * k.shape[1] // q.shape[1]
            top, total, mixed = -math.inf, 0.0, torch.zeros(q.shape[2], dtype=torch.float64)
            for first in range(0, position + 1, block):
                stop = min(first + block, position + 1)
                scores = (k[first:stop, g].double() @ q[t, h].double()) / math.sqrt(q.shape[2])
                new = max(top, float(scores.max()))
                p = (scores - new).exp()
                decay = math.exp(top - new)
                total = total * decay + float(p.sum())
                mixed = mixed * decay + p.bfloat16().double() @ v[first:stop, g].double()
                top = new
            out[t, h] = mixed / total
    return out


@pytest.mark.parametrize("order", range(len(ORDERS)))
def test_attention_with_rounded_probabilities(order: int) -> None:
    generator = torch.Generator().manual_seed(order)
    q, k, v = (torch.randn(n, heads, 32, generator=generator).bfloat16() for n, heads in ((9, 6), (150, 2), (150, 2)))
    positions = [0, 1, 31, 32, 63, 64, 65, 128, 149]
    ours = attend(q, k, v, positions=torch.tensor(positions), arithmetic=BF16, order=ORDERS[order])
    exact = slow_context(q, k, v, positions, ORDERS[order].kv_block or 150)
    # A P that fp32 and fp64 put on two sides of a rounding boundary differs by one BF16 step, 2^-8 of itself. That
    # befalls a share of about 2^-24 * |score| / 2^-9 of them: allow each row one P at its full step.
    error = (ours - exact).abs().amax(-1)
    largest = v.abs().amax()
    assert float(error.max()) < 2**-8 * float(largest)
    assert float(error.median()) < 2e-6
    # Planted: without the rounding of P, the distance is that of BF16 throughout.
    unrounded = attend(q, k, v, positions=torch.tensor(positions), arithmetic=FP32, order=ORDERS[order])
    assert float((unrounded - exact).abs().amax(-1)[2:].median()) > 1e-4


def test_queries_see_no_later_key() -> None:
    q, k, v = (torch.randn(70, heads, 32, generator=torch.Generator().manual_seed(heads)) for heads in (6, 2, 2))
    for arithmetic in (FP32, BF16):
        whole = attend(q, k, v, positions=torch.arange(70), arithmetic=arithmetic, order=Order())
        k[50:], v[50:] = 1e4, math.inf
        cut = attend(q[:50], k, v, positions=torch.arange(50), arithmetic=arithmetic, order=Order())
        assert torch.allclose(whole[:50], cut, rtol=1e-4, atol=1e-5)
        k, v = (torch.randn(70, 2, 32, generator=torch.Generator().manual_seed(2)) for _ in range(2))


def test_a_norm_rounds_once(recipe: RecipeRunner) -> None:
    """HF rounds the normed value before the weight; the recipe does not, and the two are told apart."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(50, 160, generator=generator).bfloat16()
    weight = recipe.weights.norm(0, "input_layernorm").double()
    normed = x.double() * (x.double().square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    ours = recipe.replay("attn.norm", 0, {"resid.in": x}, positions=torch.arange(50), recipe="bf16")
    assert ours.dtype == torch.bfloat16
    once = (normed * weight).bfloat16()
    twice = (normed.bfloat16() * weight.bfloat16()).bfloat16()
    # fp32 inside: a value within 2^-22 of a rounding boundary may fall to the other side, about 8000 * 2^-14 of them.
    assert int((ours != once).sum()) <= 4
    assert int((ours != twice).sum()) > 500


def test_router_ties_go_to_the_lower_expert(recipe: RecipeRunner) -> None:
    logits = torch.tensor([[1.0, 3, 3, 3, 0, 3], [2, 2, 2, 2, 2, 2], [0, 1, 2, 3, 4, 5]])
    ids = recipe.replay("moe.topk_ids", 0, {"moe.router_logits": logits}, positions=torch.arange(3), recipe="fp32")
    assert ids.dtype == torch.int32
    assert ids.tolist() == [[1, 2], [0, 1], [5, 4]]


def test_experts_are_summed_in_slot_order_and_rounded_once(recipe: RecipeRunner) -> None:
    down = torch.tensor([[[1.0, 1.0], [2.0**-8, 2.0**-9]]]).bfloat16()
    inputs = {"moe.down": down, "moe.topk_weights": torch.tensor([[1.0, 1.0]])}
    ours = recipe.replay("moe.experts", 1, inputs, positions=torch.arange(1), recipe="fp8_block")
    # 1 + 2^-8 is halfway between 1 and 1 + 2^-7 and goes to the even one, 1.
    assert ours.tolist() == [[1.0, 1.0]]
    exact = recipe.replay("moe.experts", 1, inputs, positions=torch.arange(1), recipe="fp32")
    assert exact.tolist() == [[1 + 2**-8, 1 + 2**-9]]


def test_experts_without_rows_and_with_all(recipe: RecipeRunner) -> None:
    x = torch.randn(20, 160, generator=torch.Generator().manual_seed(6)).bfloat16()
    for chosen in ([0, 0], [5, 2]):
        ids = torch.tensor(chosen).repeat(20, 1).int()
        gate = recipe.replay("moe.gate", 0, {"mlp.norm": x, "moe.topk_ids": ids}, positions=torch.arange(20),
                             recipe="fp8_block")  # fmt: skip
        assert gate.shape == (20, 2, 136)
        for slot, expert in enumerate(chosen):
            alone = multiply(prepare(x, FP8, Order()), recipe.weights.expert(0, expert, "gate"), FP8, Order())
            # The same dots of rows in other batches: fp32 differences only, which the rounding hides but for few.
            assert (gate[:, slot] != alone.bfloat16()).float().mean() < 0.01


def test_a_replay_names_what_is_missing(recipe: RecipeRunner) -> None:
    at = torch.arange(3)
    with pytest.raises(UsageError, match=r"an input 'attn.out'"):
        recipe.replay("resid.mid", 0, {"resid.in": torch.ones(3, 160)}, positions=at, recipe="fp32")
    with pytest.raises(UsageError, match=r"a layer 0..1; found layer 2"):
        recipe.replay("attn.norm", 2, {"resid.in": torch.ones(3, 160)}, positions=at, recipe="fp32")
    with pytest.raises(UsageError, match="expected layer None; found layer 0"):
        recipe.replay("final_norm", 0, {"resid.in": torch.ones(3, 160)}, positions=at, recipe="fp32")
    with pytest.raises(UsageError, match="one of fp64, fp32, bf16, fp8_block"):
        recipe.replay("attn.norm", 0, {"resid.in": torch.ones(3, 160)}, positions=at, recipe="fp4")


def test_the_weight_of_a_linear_stage_is_what_the_stage_multiplies_with(fp8_model: Path):
    runner = RecipeRunner(read_checkpoint(fp8_model), recipe="fp32")
    trace = runner.forward([Request("x", tuple(range(12)))], capture=CapturePlan())
    seen = {(c.layer, c.stage): trace.tensor(c).float() for c in trace.captures}
    for layer, stage, source in (
        (0, "attn.q", "attn.norm"),
        (1, "attn.k", "attn.norm"),
        (0, "attn.v", "attn.norm"),
        (1, "attn.out", "attn.context"),
        (0, "moe.router_logits", "mlp.norm"),
        (None, "logits", "final_norm"),
    ):
        weight = runner.weight_of(stage, layer)
        assert weight is not None
        made = seen[layer, source].flatten(1) @ weight.T
        # Two fp32 orders of one sum of K products, see the head of this file.
        bound = 4 * math.sqrt(weight.shape[1]) * 2.0**-24
        assert (made - seen[layer, stage].flatten(1)).norm() <= bound * made.norm(), stage
    rows = next(c for c in trace.captures if (c.layer, c.stage) == (1, "moe.down")).rows
    weight = runner.weight_of("moe.down", 1)
    assert weight is not None
    assert rows.expert is not None
    made = torch.einsum("rk,rnk->rn", seen[1, "moe.act"], weight[torch.from_numpy(rows.expert).long()])
    assert (made - seen[1, "moe.down"]).norm() <= 4 * math.sqrt(weight.shape[2]) * 2.0**-24 * made.norm()
    assert runner.weight_of("attn.norm", 0) is None
    assert runner.weight_of("moe.gate", None) is None


@pytest.mark.parametrize("width", [1, 32, 144, 385])
def test_stepwise_norm_is_the_models_own_bit_for_bit(width: int) -> None:
    """Qwen3MoeRMSNorm of transformers rounds the normed row before its gain; a fused norm rounds once."""
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeRMSNorm

    random = torch.Generator().manual_seed(width)
    x = (torch.randn(64, width, generator=random) * 30).bfloat16()
    norm = Qwen3MoeRMSNorm(width, eps=1e-6).bfloat16()
    norm.weight.data = torch.randn(width, generator=random).bfloat16()
    call = Call({}, None, None, SimpleNamespace(rms_eps=1e-6), BF16, Order(stepwise=True), torch.arange(64))  # type: ignore[arg-type]
    ours = rms_norm(x.float(), norm.weight.data.float(), call)
    assert torch.equal(ours, norm(x))
    once = rms_norm(x.float(), norm.weight.data.float(), replace(call, order=Order()))
    assert width == 1 or not torch.equal(once, ours)
