"""Does the real vLLM, in an environment of its own, agree with HF, and is a fault planted into its memory found?"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.climb import Case, investigate
from parity.errors import RunnerError
from parity.fingerprint import causes
from parity.floor import Floor
from parity.ladder.calibrate import Opening
from parity.ladder.replay import Replay
from parity.ladder.replay_graft import replay_grafts
from parity.promptfile import read_prompt
from parity.records import Verdict
from parity.runner import CapturePlan, Graft, Request, Schedule, open_runner
from parity.stages import family
from parity.trace import Trace
from parity_oracles.vllm.compare import compare_engine
from parity_oracles.vllm.opening import find_python

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "fixtures/models/moe-tiny"
PROMPTS = [ROOT / f"fixtures/prompts/short-{name}.json" for name in ("threading-96", "sysconfig-160")]
NEAR = 1e-5
"""Ten times the largest rel_l2 that a stage of this model had between vLLM and HF in FP32, 1.3e-6 (docs/engines.md)."""


@pytest.fixture(scope="module")
def python() -> str:
    try:
        return str(find_python())
    except RunnerError as error:
        pytest.skip(f"no vLLM here: {error.next_step}")


@pytest.fixture(scope="module")
def oracle() -> Any:
    return open_runner(f"hf:{MODEL}")


@pytest.fixture(scope="module")
def single(python: str) -> Iterator[Any]:
    with open_runner(
        f"vllm:{MODEL}", python=python, dtype="float32", max_model_len=256, prefix_caching=True, block_size=32
    ) as runner:
        yield runner


def requests() -> list[Request]:
    found = [read_prompt(path).request for path in PROMPTS]
    return [*found, Request("again", found[0].ids)]


def worst(summary: Any) -> float:
    return max(c.whole.get("rel_l2", 0.0) for c in summary.comparisons)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_fp32_packed_chunked_and_decoded_is_as_near_to_hf_as_rounding_allows(single: Any, oracle: Any):
    found = compare_engine(oracle=oracle, sut=single, requests=requests(), schedule=Schedule(chunk=48, decode=3))
    assert not found.summary.diverged
    assert worst(found.summary) < NEAR
    assert set(found.unobservable) == {"moe.gate", "moe.up", "moe.act"}
    assert {c.whole.get("rows_unpaired") for c in found.summary.comparisons if c.stage == "logits"} == {0.0}
    assert sum(flipped for flipped, _ in found.flips.values()) == 0


@pytest.mark.long
@pytest.mark.timeout(900)
def test_capture_changes_no_bit(single: Any):
    request = requests()[0]
    plain = single.forward([request], capture=CapturePlan(stages=("logits",)))
    seen = single.forward([request], capture=CapturePlan())
    assert torch.equal(*(t.tensor(t.select(stage="logits")[0]) for t in (plain, seen)))
    assert single.generate(request, max_new_tokens=8) == single.generate(request, max_new_tokens=8)
    # vLLM itself does not chunk the prompt of a request that is alone.
    alone = single.forward([request], schedule=Schedule(chunk=40), capture=CapturePlan(stages=("logits",)))
    assert [len(c.rows) for c in alone.captures] == [40, 40, 16]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_greedy_continuation_is_that_of_hf(single: Any, oracle: Any):
    request = requests()[1]
    made = [runner.generate(request, max_new_tokens=8).ids for runner in (single, oracle)]
    assert made[0] == made[1]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_cached_prefix_is_absent_and_the_rest_is_right(single: Any, oracle: Any):
    request = requests()[1]
    found = compare_engine(oracle=oracle, sut=single, requests=[Request("a", request.ids, cached=64)])
    assert worst(found.summary) < NEAR
    rows = [c for c in found.sut.captures if c.stage == "attn.q"]
    assert {int(c.rows.position[0]) for c in rows} == {64}
    assert not any(c.whole.get("rows_unpaired") for c in found.summary.comparisons)
    with pytest.raises(RunnerError, match="from the prefix cache; found 32"):
        single.forward([Request("a", request.ids, cached=40)])


@pytest.mark.long
@pytest.mark.timeout(900)
def test_bf16_is_within_its_floor_until_an_expert_is_scaled(python: str, oracle: Any):
    """Inherited errors hide the expert in a whole pass; on the kernel's own inputs it stands out."""
    floor = Floor.load(ROOT / "fixtures/floors/bf16_vllm.json")
    with open_runner(f"vllm:{MODEL}", python=python, dtype="bfloat16", max_model_len=256) as runner:
        found = compare_engine(oracle=oracle, sut=runner, requests=requests()[:2], floor=floor)
        runner.scale_parameter("model.layers.2.mlp.experts.routed_experts.w2_weight", 5, 1.05)
        scaled = runner.forward(requests()[:2], capture=CapturePlan())
    assert found.summary.healthy, found.summary
    alone = Replay(found.sut, oracle).compare(floor=floor)
    assert not [one.name for one in alone.comparisons if one.verdict is Verdict.EXCEEDS_FLOOR]
    assert alone.healthy
    assert alone.unobservable.keys() == found.unobservable.keys()
    faulty = [c for c in Replay(scaled, oracle).compare(floor=floor).comparisons if c.verdict is Verdict.EXCEEDS_FLOOR]
    assert [one.name for one in faulty] == ["L02.moe.down"]
    worst = next(one for one in faulty[0].worst if one.kind == "expert")
    assert (worst.index, round(worst.metrics["slope"], 2)) == (5, 1.05)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_fp32_is_within_its_floor_until_an_expert_is_scaled(python: str, oracle: Any):
    floor = Floor.load(ROOT / "fixtures/floors/fp32.json")
    sent = [Request(r.name, r.ids[:64]) for r in requests()[:2]]  # the floor's clean runs are not much longer
    with open_runner(f"vllm:{MODEL}", python=python, dtype="float32", max_model_len=256) as runner:
        healthy = compare_engine(oracle=oracle, sut=runner, requests=sent, floor=floor)
        assert healthy.summary.healthy, healthy.summary
        runner.scale_parameter("model.layers.2.mlp.experts.routed_experts.w2_weight", 5, 1.05)
        faulty = compare_engine(oracle=oracle, sut=runner, requests=sent, floor=floor)
    first = next(c for c in faulty.summary.comparisons if c.verdict.faulty)
    assert first.name == "L02.moe.down"
    experts = [one for one in first.worst if one.kind == "expert" and (one.over_floor or 0) > 1]
    assert [one.index for one in experts] == [5]
    assert experts[0].metrics["slope"] == pytest.approx(1.05, abs=1e-4)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_grafts_go_on_inside_and_a_replay_mends_an_expert(python: str):
    """Shams change no bit; a scaled expert is put right by the replay of its kernel, inside the pass."""
    request, schedule = Request("a", requests()[0].ids[:64]), Schedule(decode=2)
    with open_runner(f"vllm:{MODEL}", python=python, dtype="bfloat16", max_model_len=256) as runner:
        info = runner.describe()
        healthy = runner.forward([request], schedule=schedule, capture=CapturePlan())
        for stage in ("attn.q_rope", "attn.context", "mlp.norm", "moe.router_logits", "moe.topk_weights"):
            own = [Graft(2, stage, healthy.tensor(c), c.rows) for c in healthy.select(stage=stage, layer=2)]
            sham = runner.forward([request], schedule=schedule, capture=CapturePlan(), graft=own)
            assert distance(sham, healthy) == 0, stage
            moved = [Graft(2, stage, one.tensor * 2, one.rows) for one in own]
            assert distance(runner.forward([request], schedule=schedule, graft=moved), healthy) > 1e-3, stage
        # Far above what a row loses that is rounded on its way from the one stage to the other.
        runner.scale_parameter("model.layers.2.mlp.experts.routed_experts.w2_weight", 5, 2.0)
        faulty = runner.forward([request], schedule=schedule, capture=CapturePlan())
        grafts = replay_grafts(
            [(2, "moe.down")], graph=family(info.family), layers=info.layers, inner=info.inner,
            oracle=Opening(f"recipe:{MODEL}", {"recipe": "bf16_vllm"}), recipe="bf16_vllm",
            unobservable=faulty.run.unobservable,
        )  # fmt: skip
        mended = runner.forward([request], schedule=schedule, capture=CapturePlan(), graft=grafts)
    assert distance(faulty, healthy) > 1e-2
    assert distance(mended, healthy) < distance(faulty, healthy) / 2


def distance(a: Trace, b: Trace) -> float:
    """Relative distance of the logits."""
    x, y = (torch.cat([t.tensor(c).double() for c in t.select(stage="logits")]) for t in (a, b))
    return float((x - y).norm() / y.norm())


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_an_investigation_clears_it_and_proves_a_scaled_expert(python: str, oracle: Any, dtype: str, tmp_path: Path):
    """The whole climb, told nothing; in FP32 with a floor that it makes, of engines with one kernel of experts."""
    request = Request("prompt", requests()[1].ids[:128])
    stored = dtype == "bfloat16"
    case = Case(
        f"vllm:{MODEL}", f"hf:{MODEL}", request, emulation=f"recipe:{MODEL}", new_tokens=4,
        floor=str(ROOT / "fixtures/floors/bf16_vllm.json") if stored else None,
        calibrate=() if stored else (str(ROOT / "fixtures/heldout"),),
    )  # fmt: skip
    with open_runner(case.sut, python=python, dtype=dtype, max_model_len=256) as runner:
        clean = investigate(case, tmp_path / "clean", sut=runner, oracle=oracle)
        runner.scale_parameter("model.layers.1.mlp.experts.routed_experts.w2_weight", 3, 1.05)
        found = investigate(case, tmp_path / "faulty", sut=runner, oracle=oracle)
    assert clean.finding.verdict == "clean", clean.finding.sentence
    assert any("moe.gate by itself" in one for one in clean.finding.not_excluded)
    finding = found.finding
    assert (finding.verdict, finding.layers, finding.stage) == ("fault", (1,), "moe.down")
    assert finding.slice.experts == (3,)
    assert finding.cause == causes.CONSTANT_RATIO
    assert finding.proof["proved"], finding.proof["sentence"]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_a_dense_model_agrees_with_hf(python: str, kind: str, tmp_path: Path):
    folder = write_dense(tmp_path / kind, kind)
    sent = [Request("a", tuple(range(3, 40))), Request("b", (5, 3, 8))]
    with open_runner(f"vllm:{folder}", python=python, dtype="float32") as runner:
        found = compare_engine(
            oracle=open_runner(f"hf:{folder}"), sut=runner, requests=sent, schedule=Schedule(chunk=16, decode=1)
        )
    assert not found.unobservable
    assert not found.summary.diverged
    assert worst(found.summary) < NEAR


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_command_gives_a_table_and_an_exit_code(python: str):
    command = [sys.executable, "-m", "parity_oracles.vllm.compare", str(MODEL), "--oracle", f"hf:{MODEL}", "--json"]
    floor = ["--floor", str(ROOT / "fixtures/floors/bf16_vllm.json"), "-o", f"python={python}"]
    ended = subprocess.run(
        [*command, "--prompts", str(PROMPTS[0]), *floor], capture_output=True, text=True, timeout=600, check=False
    )
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["healthy"]
    assert (told["isolated"]["added"], told["isolated"]["worst_over_floor"] < 1) == ([], True)
    assert told["unobservable"].keys() == {"moe.gate", "moe.up", "moe.act"}
    assert told["router_flips"].keys() == {"0", "1", "2", "3"}


def write_dense(folder: Path, family: str) -> Path:
    """A random llama or qwen3 of two layers, as transformers saves it."""
    transformers = pytest.importorskip("transformers")
    sizes = dict(
        vocab_size=131, hidden_size=96, intermediate_size=160, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=128, tie_word_embeddings=False,
        rms_norm_eps=1e-6, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    kind = {"llama": "Llama", "qwen3": "Qwen3"}[family]
    torch.manual_seed(11)
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sizes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    return folder
