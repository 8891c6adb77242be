"""Do probes fire in a replayed CUDA graph, into buffers that hold this input's values and not the last one's?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from parity.errors import ProbeError
from parity.runner import CapturePlan, Graft, Request, Schedule
from parity.trace import Trace
from parity_oracles.hf.torch_folder import open_runner as open_torch
from parity_oracles.recipes.runner import open_runner as open_recipe
from parity_oracles.torch_module import Compilation, TorchModel, TorchRunner
from parity_oracles.torch_module.instrument import Buffers

Sites = dict[tuple[str, int], torch.Tensor]
ALL = CapturePlan()
FIRST = Request("first", (3, 1, 4, 1, 5, 9, 2))
OTHER = Request("other", (6, 5, 3, 5, 8, 9, 7))

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.long,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def on_gpu(make_toy: Callable[..., TorchModel]) -> Callable[..., TorchRunner]:
    def make(mode: str = "reduce-overhead", dtype: torch.dtype = torch.float32) -> TorchRunner:
        model = make_toy(dtype=dtype)
        model.module.to("cuda")
        return TorchRunner(model, Compilation("inductor", mode))

    return make


def logits(trace: Trace) -> torch.Tensor:
    return torch.cat([trace.tensor(capture).cpu() for capture in trace.select(stage="logits")])


def values(trace: Trace) -> dict[str, torch.Tensor]:
    return {capture.name: trace.tensor(capture).cpu().clone() for capture in trace.captures}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_replay_shows_its_own_input(dtype: torch.dtype, on_gpu: Callable[..., TorchRunner]) -> None:
    """Enough runs that the graph is recorded and then replayed; every one is held against the module uncompiled."""
    runner = on_gpu(dtype=dtype)
    eager = TorchRunner(runner.model)
    expected = {r.name: values(eager.forward([r], capture=ALL)) for r in (FIRST, OTHER)}
    rounds = [values(runner.forward([request], capture=ALL)) for request in (FIRST, OTHER) * 4]
    for number, seen in enumerate(rounds):
        right, wrong = expected["first"], expected["other"]
        if number % 2:
            right, wrong = wrong, right
        assert seen.keys() == right.keys()
        for name in seen:
            # Twelve roundings from the ids to the logits, in fp32 with sums of 24 behind each.
            unit = 12 * (2**-8 if dtype == torch.bfloat16 else 24**0.5 * 2**-24)
            near, far = (error(seen[name], other[name]) for other in (right, wrong))
            assert near < unit < far, (number, name, near, far)
    # From the third call on, all is replay: the same input gives the same bits.
    for early, late in ((2, 4), (3, 5), (4, 6)):
        assert all(torch.equal(rounds[early][name], rounds[late][name]) for name in rounds[early])


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def tapped_outside_graphs(runner: TorchRunner) -> bool:
    """Whether the operator is seen by the profiler: in a replay no operator is called at all."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        runner.forward([OTHER], capture=ALL)
    return any("parity_lab::tap" in event.key for event in profile.key_averages())


def test_the_graphs_are_used(on_gpu: Callable[..., TorchRunner]) -> None:
    counters.clear()
    runner, without = on_gpu(), on_gpu("default")
    for request in (FIRST, OTHER, FIRST):
        runner.forward([request], capture=ALL)
        without.forward([request], capture=ALL)
    assert not counters["inductor"]["cudagraph_skips"], "a CUDA graph was refused: see TORCH_LOGS=cudagraphs"
    assert tapped_outside_graphs(without)
    assert not tapped_outside_graphs(runner)
    # And yet it was counted, on the device, once a point.
    assert runner._buffers is not None
    assert {calls for calls, _ in runner._buffers.calls()} == {1}


def test_a_probe_lost_in_the_graph_is_named(on_gpu: Callable[..., TorchRunner], monkeypatch: Any) -> None:
    runner, put = on_gpu(), Buffers.put
    monkeypatch.setattr(Buffers, "put", lambda self, n, x: x if n == 4 else put(self, n, x))
    with pytest.raises(ProbeError, match=r"\(attn.k_rope\): 0 times"):
        runner.forward([FIRST], capture=ALL)


def test_probes_leave_every_bit_alone_or_it_is_measured(on_gpu: Callable[..., TorchRunner]) -> None:
    """Triton may contract a product and a sum where no probe stands between: at most a rounding of each operation."""
    for dtype, unit in ((torch.float32, 2**-24), (torch.bfloat16, 2**-8)):
        runner = on_gpu(dtype=dtype)
        for _ in range(3):
            probed = logits(runner.forward([FIRST], capture=ALL))
            assert error(probed, runner.logits([FIRST])) <= 12 * unit


def test_a_graft_goes_without_graphs(on_gpu: Callable[..., TorchRunner]) -> None:
    runner = on_gpu()
    trace = runner.forward([FIRST], capture=ALL)
    capture = trace.select(stage="mlp.act")[0]
    own = trace.tensor(capture)
    moved = runner.forward([FIRST], capture=ALL, graft=[Graft(0, "mlp.act", own + 1, capture.rows)])
    assert error(logits(moved), logits(trace)) > 0.01


@pytest.mark.parametrize(
    ("family", "dtype"),
    # FP32 experts have no kernel that a CUDA graph can hold: HF has a stand-in that asks the host for row counts.
    [("llama", "float32"), ("qwen3", "float32"), ("qwen3", "bfloat16"), ("qwen3_moe", "bfloat16")],
)
def test_an_hf_model_in_cuda_graphs(family: str, dtype: str, make_model: Callable[..., Path], prompt: Request) -> None:
    """Prefill and decode through HF's static cache, each of two prompts often enough to be replayed."""
    folder = str(make_model(model_type=family, hidden_size=192 if family == "llama" else 160))
    graphs = open_torch(folder, dtype=dtype, compile="inductor", mode="reduce-overhead", device="cuda")
    eager = open_torch(folder, dtype=dtype, device="cuda")
    other = Request("other", tuple((number + 1) % (max(prompt.ids) + 1) for number in prompt.ids))
    schedule = Schedule(decode=3)
    seen = [by_step(graphs.forward([request], capture=ALL, schedule=schedule)) for request in (prompt, other) * 3]
    for early, late in ((2, 4), (3, 5)):
        assert all(torch.equal(seen[early][site], seen[late][site]) for site in seen[early])
    differ = [site for site in seen[4] if not torch.equal(seen[4][site], seen[5][site])]
    assert {name for name, _ in differ} == {name for name, _ in seen[4]}
    exact = open_recipe(folder, recipe="fp64")
    truths = [by_step(exact.forward([request], capture=ALL, schedule=schedule)) for request in (prompt, other)]
    for number, request in enumerate((prompt, other)):
        right = by_step(eager.forward([request], capture=ALL, schedule=schedule))
        assert not farther_than(right, seen[4 + number], truths[number], dtype)
        # The same bound tells the two prompts apart, at every site.
        assert farther_than(right, seen[5 - number], truths[number], dtype) == comparable(right)
    if dtype == "float32":
        assert graphs.generate(prompt, max_new_tokens=6).ids == eager.generate(prompt, max_new_tokens=6).ids


ULPS = 4
"""Beyond eager's own error: CUDA's elementwise functions are off by up to 2 ulp each, where eager may round nothing."""
NOISIER = {"float32": (192 / 3) ** 0.5, "bfloat16": 3.0}
"""How many times eager's distance from exact arithmetic compiled code may have.

FP32: the rounding errors of n products added one after the other are a random walk whose variance sums to n/3 of one
rounding of the result; the best order rounds once. Two orders of 192 products thus differ by 8 at most, and whatever
amplifies the errors further on (softmax, by the size of its scores) does so to both. BF16: all is rounded after every
operation, in whatever order; 1.2 was seen on a CPU.
"""


def farther_than(eager: Sites, graphs: Sites, exact: Sites, dtype: str) -> set[tuple[str, int]]:
    """Where `graphs` is farther from exact arithmetic than `eager` is, by more than another order of it may be."""
    unit = ULPS * (2**-8 if dtype == "bfloat16" else 2**-24)
    return {
        site for site in comparable(eager)
        if not error(graphs[site], exact[site]) <= NOISIER[dtype] * error(eager[site], exact[site]) + unit
    }  # fmt: skip


def comparable(sites: Sites) -> set[tuple[str, int]]:
    """All sites, or what comes before the first router: a near-tie that flips sends a row elsewhere."""
    before = ("embed", "L00.attn", "L00.resid.mid", "L00.mlp.norm")
    routed = any(".moe." in name for name, _ in sites)
    return {(name, step) for name, step in sites if not routed or name.startswith(before)}


def by_step(trace: Trace) -> Sites:
    return {(c.name, c.step): trace.tensor(c).cpu().clone() for c in trace.captures}
