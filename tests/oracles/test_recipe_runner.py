"""Does the emulation run a whole model by its own stages, in every legitimate order, untouched by any engine?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models

from parity.errors import UsageError
from parity.floor import refuse_engine
from parity.floor.purity import ENGINES
from parity.runner import CapturePlan, Graft, Request, Schedule
from parity.stages import QWEN3_MOE
from parity_oracles.hf.runner import open_runner as open_hf
from parity_oracles.recipes import ORDERS
from parity_oracles.recipes.runner import RecipeRunner
from parity_oracles.recipes.runner import open_runner as open_recipe

Stages = dict[tuple[int | None, str], torch.Tensor]
ALL = CapturePlan()
WIDE = ("moe.router_logits", "moe.topk_weights", "logits")


@pytest.fixture(scope="module")
def fp8(fp8_folder: Path) -> RecipeRunner:
    return open_recipe(str(fp8_folder))


@pytest.fixture(scope="module")
def seen(fp8: RecipeRunner, prompt: Request, stages_of: Callable[..., Stages]) -> Stages:
    return stages_of(fp8.forward([prompt], capture=ALL))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def test_every_stage_in_its_dtype(fp8: RecipeRunner, seen: Stages) -> None:
    assert set(seen) == {(layer, stage.name) for layer, stage in QWEN3_MOE.sites(2)}
    for (_, name), x in seen.items():
        expected = torch.int32 if name == "moe.topk_ids" else torch.float32 if name in WIDE else torch.bfloat16
        assert x.dtype == expected, name
        assert x.isfinite().all()
    assert fp8.describe().recipe.name == "fp8_block"
    assert fp8.describe().can == {"forward", "generate", "graft", "replay", "chunk", "sample", "stored"}


@pytest.mark.parametrize("recipe", ["fp32", "bf16", "fp8_block"])
def test_a_replay_of_its_own_inputs_is_bit_equal(
    recipe: str, fp8_folder: Path, prompt: Request, stages_of: Callable[..., Stages],
    replayed: Callable[..., torch.Tensor],
) -> None:  # fmt: skip
    runner = open_recipe(str(fp8_folder), recipe=recipe)
    own = stages_of(runner.forward([prompt], capture=ALL))
    for at, name in own:
        assert torch.equal(replayed(runner, own, at, name, recipe, prompt.ids), own[at, name]), (at, name)


def test_fp32_is_hfs_whole_model(fp8_folder: Path, prompt: Request) -> None:
    ours = open_recipe(str(fp8_folder), recipe="fp32").logits([prompt])
    theirs = open_hf(str(fp8_folder)).logits([prompt])
    # Two fp32 runs of 2 layers of about 8 sums of up to 192 products: see test_recipe_stages.py.
    assert relative(ours, theirs) < 2 * 8 * 4 * 192**0.5 * 2**-24


def test_fp8_is_further_from_fp32_than_bf16_is(fp8_folder: Path, prompt: Request, seen: Stages,
                                               stages_of: Callable[..., Stages]) -> None:  # fmt: skip
    """The emulations do something, and of the size that three and eight bits of mantissa give: 2^-4 and 2^-9 at most
    for one rounding to nearest, less in the mean."""
    exact = stages_of(open_recipe(str(fp8_folder), recipe="fp32").forward([prompt], capture=ALL))
    bf16 = stages_of(open_recipe(str(fp8_folder), recipe="bf16").forward([prompt], capture=ALL))
    at = (0, "attn.q")
    assert 2**-11 < relative(bf16[at], exact[at]) < 2**-7
    assert 2**-7 < relative(seen[at], exact[at]) < 2**-4


def test_orders_are_the_same_recipe(
    fp8_folder: Path, fp8: RecipeRunner, stages_of: Callable[..., Stages], replayed: Callable[..., torch.Tensor]
) -> None:
    """Isolated, every order is within a rounding of order 0; and each moves something, or it calibrates nothing."""
    long = Request("long", tuple(torch.randint(0, 211, (150,), generator=torch.Generator().manual_seed(5)).tolist()))
    seen = stages_of(fp8.forward([long], capture=ALL))
    moved: dict[int, set[str]] = {}
    for number in range(len(ORDERS)):
        runner = open_recipe(str(fp8_folder), order=number)
        moved[number] = set()
        for at, name in seen:
            x = replayed(runner, seen, at, name, "fp8_block", long.ids)
            if not torch.equal(x, seen[at, name]):
                moved[number].add(name)
            # fp32 sums in another order, rounded to BF16: a value moves only across a rounding boundary. Attention
            # also rounds P, by another running maximum, so that all of it may move, by BF16's own step.
            limit = 2**-8 if name == "attn.context" else 2**-18 if name in WIDE else 2**-10
            if ORDERS[number].stepwise and name.endswith(("norm", "act", "experts")):
                # Roundings inside the stage, each by 2^-9 of a value at most: of both sides, twice that.
                limit = 2**-8
            if not ORDERS[number].strict:
                # Activations on a tie of E4M3 move by a step: below what the quantization itself costs (2^-7 at least,
                # in the test above), since only those on a tie do.
                limit = max(limit, 2**-7)
            assert relative(x, seen[at, name]) < limit, (number, name)
    assert moved[0] == set()
    for number in (1, 2, 3, 5):
        assert {"attn.context", "moe.router_logits", "logits"} <= moved[number]
    for number in (8, 9):
        assert {"attn.norm", "attn.q_norm", "mlp.norm", "moe.act", "moe.experts", "final_norm"} <= moved[number]
    assert moved[4] >= {"attn.q", "attn.out", "moe.gate", "moe.down"}
    assert not moved[4] & {"attn.norm", "attn.context", "moe.router_logits", "resid.mid"}
    with pytest.raises(UsageError, match="order of the arithmetic"):
        open_recipe(str(fp8_folder), order=len(ORDERS))


@pytest.mark.parametrize("chunk", [1, 16, 44])
def test_chunks_are_the_same_prompt(chunk: int, fp8_folder: Path, prompt: Request) -> None:
    runner = open_recipe(str(fp8_folder), recipe="fp32")
    trace = runner.forward([prompt], capture=CapturePlan(stages=("logits",)), schedule=Schedule(chunk=chunk))
    assert [c.chunk for c in trace.captures] == list(range(-(-45 // chunk)))
    logits = torch.cat([trace.tensor(c) for c in trace.captures])
    assert relative(logits, runner.logits([prompt])) < 2 * 8 * 4 * 192**0.5 * 2**-24


def test_decode_is_the_same_prompt(fp8_folder: Path, prompt: Request) -> None:
    runner = open_recipe(str(fp8_folder), recipe="fp32")
    stepped = runner.logits([prompt], schedule=Schedule(decode=6, chunk=20))
    assert stepped.shape == (45, 211)
    assert relative(stepped, runner.logits([prompt])) < 2 * 8 * 4 * 192**0.5 * 2**-24


def test_grafts_and_capture(fp8: RecipeRunner, seen: Stages, prompt: Request, stages_of: Callable[..., Stages]) -> None:
    trace = fp8.forward([prompt], capture=ALL)
    assert torch.equal(fp8.logits([prompt]), seen[None, "logits"])
    for stage in ("resid.mid", "moe.gate", "attn.k_rope", "moe.topk_ids"):
        capture = trace.select(stage=stage, layer=0)[0]
        own = trace.tensor(capture)
        sham = stages_of(fp8.forward([prompt], capture=ALL, graft=[Graft(0, stage, own, capture.rows)]))
        assert torch.equal(sham[None, "logits"], seen[None, "logits"])
        other = (own + 1) % 6 if stage == "moe.topk_ids" else own * 2
        real = stages_of(fp8.forward([prompt], capture=ALL, graft=[Graft(0, stage, other, capture.rows)]))
        assert not torch.equal(real[None, "logits"], seen[None, "logits"])


def test_greedy_continuation(fp8: RecipeRunner, prompt: Request) -> None:
    told: list[tuple[str, int, int]] = []
    fp8.on_step = lambda *step: told.append(step)
    new = fp8.generate(prompt, max_new_tokens=5, schedule=Schedule(chunk=20))
    fp8.on_step = None
    assert told == [("generate", done, 7) for done in range(1, 8)]
    full = Request("full", (*prompt.ids, *new.ids))
    stepped = fp8.logits([full], schedule=Schedule(chunk=20, decode=5))
    assert stepped[44:-1].argmax(-1).tolist() == list(new.ids)


def test_a_bf16_checkpoint_runs_in_fp8(bf16_folder: Path, prompt: Request) -> None:
    natural, quantized = open_recipe(str(bf16_folder)), open_recipe(str(bf16_folder), recipe="fp8_block")
    assert natural.describe().recipe.name == "bf16"
    assert quantized.describe().recipe.weights == "e4m3 128x128, quantized here"
    assert 0.005 < relative(quantized.logits([prompt]), natural.logits([prompt])) < 1


PURE = """
import parity_oracles.recipes.runner
from parity.floor import refuse_engine
refuse_engine()
print("pure")
"""


def test_the_emulation_loads_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    run = subprocess.run([sys.executable, "-c", PURE], capture_output=True, text=True, env=environment)
    assert run.stdout.strip() == "pure", run.stderr
    for engine in ENGINES:
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, engine, sys)
            with pytest.raises(UsageError, match=f"found loaded: .*{engine}"):
                refuse_engine()


def test_text_where_there_is_a_tokenizer(bf16_folder: Path, prompt: Request, tmp_path: Path) -> None:
    shutil.copytree(bf16_folder, tmp_path, dirs_exist_ok=True)
    vocabulary = {f"w{number}": number for number in range(211)}
    Tokenizer(models.WordLevel(vocabulary, unk_token="w0")).save(str(tmp_path / "tokenizer.json"))
    for runner in (open_recipe(str(tmp_path)), open_hf(str(tmp_path))):
        new = runner.generate(prompt, max_new_tokens=3)
        assert new.text == " ".join(f"w{token}" for token in new.ids)


def test_grafting_without_capture_shows_the_logits(fp8: RecipeRunner, seen: Stages, prompt: Request) -> None:
    capture = fp8.forward([prompt], capture=ALL).select(stage="resid.mid", layer=1)[0]
    changed = seen[1, "resid.mid"] * 2
    result = fp8.forward([prompt], graft=[Graft(1, "resid.mid", changed, capture.rows)])
    assert [c.name for c in result.captures] == ["logits"]
    assert not torch.equal(result.tensor(result.captures[0]), seen[None, "logits"])
    assert fp8.forward([prompt]).captures == ()
