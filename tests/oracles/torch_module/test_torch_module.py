"""Are a module's stages seen and replaced, eager and compiled whole, and is every probe that is lost an error?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from parity.errors import ProbeError, RunnerError, UsageError
from parity.runner import CapturePlan, Graft, Request, Sampling, Schedule
from parity.stages import LLAMA
from parity.trace import Trace
from parity_oracles.torch_module import Compilation, TorchModel, TorchRunner

ALL = CapturePlan()
FIRST = Request("first", (3, 1, 4, 1, 5, 9, 2))
OTHER = Request("other", (6, 5, 3, 5, 8, 9, 7))
LONGER = Request("longer", tuple(range(11)))
MakeToy = Callable[..., TorchModel]
Stages = Callable[..., dict[tuple[int | None, str], torch.Tensor]]
SITES = [(layer, stage.name) for layer, stage in LLAMA.sites(1)]


@pytest.fixture(scope="module")
def half(make_toy: MakeToy) -> dict[str, TorchRunner]:
    """One runner as it is, and one compiled: tracing costs seconds."""
    return {name: TorchRunner(make_toy(), Compilation(name)) for name in ("none", "aot_eager")}


@pytest.fixture(params=["none", "aot_eager"])
def runner(request: pytest.FixtureRequest, half: dict[str, TorchRunner]) -> TorchRunner:
    return half[request.param]


def logits(trace: Trace) -> torch.Tensor:
    return torch.cat([trace.tensor(capture) for capture in trace.select(stage="logits")])


def test_every_stage_is_shown_and_no_bit_is_changed(runner: TorchRunner, stages_of: Stages) -> None:
    plain = runner.logits([FIRST])
    trace = runner.forward([FIRST], capture=ALL)
    seen = stages_of(trace)
    assert list(seen) == SITES or set(seen) == set(SITES)
    assert torch.equal(logits(trace), plain)
    module: Any = runner.model.module
    layer = module.layers[0]
    with torch.no_grad():
        assert torch.equal(plain, module(torch.tensor([FIRST.ids]))[0])
        embedded = seen[None, "embed.out"]
        assert torch.equal(seen[0, "attn.norm"], layer.norm1(embedded))
        fused = layer.attn.qkv(seen[0, "attn.norm"])
        assert torch.equal(seen[0, "attn.q"].flatten(1), fused[:, :24])
        assert torch.equal(seen[0, "attn.v"].flatten(1), fused[:, 32:])
        assert torch.equal(seen[0, "attn.q_rope"][0], seen[0, "attn.q"][0])
        assert not torch.equal(seen[0, "attn.q_rope"][1], seen[0, "attn.q"][1])
        assert torch.equal(seen[0, "attn.out"], layer.attn.o(seen[0, "attn.context"].flatten(1)))
        assert torch.equal(seen[0, "resid.mid"], embedded + seen[0, "attn.out"])
        # Of a slice the exponential takes the scalar path, of the whole the vector path: units in the last place.
        act = torch.nn.functional.silu(seen[0, "mlp.gate"]) * seen[0, "mlp.up"]
        torch.testing.assert_close(seen[0, "mlp.act"], act, rtol=4 * 2**-23, atol=0)
        assert torch.equal(seen[0, "resid.out"], seen[0, "mlp.down"] + seen[0, "resid.mid"])
        assert torch.equal(seen[None, "logits"], module.head(seen[None, "final_norm"]))


def test_each_run_has_captures_of_its_own(runner: TorchRunner) -> None:
    """A buffer or a graph that keeps what it saw first would give one prompt's values for another's."""
    first = runner.forward([FIRST], capture=ALL)
    kept = logits(first).clone()
    for request in (OTHER, LONGER, FIRST):
        assert torch.equal(logits(runner.forward([request], capture=ALL)), runner.logits([request]))
    assert torch.equal(logits(first), kept)
    assert not torch.equal(runner.logits([OTHER]), kept)


def test_decoding_shows_the_rows_of_its_step(runner: TorchRunner) -> None:
    whole = runner.forward([LONGER], capture=ALL)
    stepped = runner.forward([LONGER], capture=ALL, schedule=Schedule(decode=2))
    steps = stepped.select(stage="attn.k_rope")
    assert [(c.phase, c.rows.position.tolist()) for c in steps] == [
        ("prefill", list(range(9))), ("decode", [9]), ("decode", [10])
    ]  # fmt: skip
    # The toy has no cache, so that its decode step is the whole pass again.
    assert torch.equal(stepped.tensor(steps[2])[0], whole.tensor(whole.select(stage="attn.k_rope")[0])[10])


def test_it_continues_a_prompt(runner: TorchRunner) -> None:
    new = runner.generate(FIRST, max_new_tokens=3).ids
    ids = FIRST.ids
    for token in new:
        assert int(runner.logits([Request("x", ids)])[-1].argmax()) == token
        ids = (*ids, token)
    drawn = Sampling(temperature=2.0, seed=5)
    assert runner.generate(FIRST, max_new_tokens=3, sampling=drawn) == runner.generate(
        FIRST, max_new_tokens=3, sampling=drawn
    )
    with pytest.raises(UsageError, match="among them 31"):
        runner.forward([Request("x", (31,))])
    with pytest.raises(RunnerError, match="poison"):
        runner.forward([FIRST], schedule=Schedule(poison=1))


@pytest.mark.parametrize("stage", [name for _, name in SITES if name != "resid.out"])
def test_grafts_enter_the_forward_pass(stage: str, runner: TorchRunner, stages_of: Stages) -> None:
    """The module's own tensor changes no bit; another one changes what follows, nothing before, and no other row."""
    plain, trace = runner.logits([FIRST]), runner.forward([FIRST], capture=ALL)
    layer = 0 if LLAMA.stage(stage) in LLAMA.layer else None
    capture = trace.select(stage=stage, layer=layer)[0]
    own, rows = trace.tensor(capture), capture.rows
    sham = runner.forward([FIRST], capture=CapturePlan(stages=("logits",)), graft=[Graft(layer, stage, own, rows)])
    assert torch.equal(logits(sham), plain)
    last = rows.take(rows.position == 6)
    other = runner.forward([FIRST], capture=ALL, graft=[Graft(layer, stage, own[-1:] + 1, last)])
    assert torch.equal(logits(other)[:-1], plain[:-1])
    assert not torch.equal(logits(other)[-1], plain[-1])
    before, after = stages_of(trace), stages_of(other)
    assert torch.equal(after[layer, stage][:-1], before[layer, stage][:-1])
    assert torch.equal(after[layer, stage][-1], own[-1] + 1)
    position = LLAMA.position(layer, stage, layers=1)
    for at, name in SITES:
        if LLAMA.position(at, name, layers=1) < position:
            assert torch.equal(after[at, name], before[at, name]), name


def test_a_sum_of_two_tensors_cannot_be_replaced(half: dict[str, TorchRunner]) -> None:
    runner = half["none"]
    assert runner.describe().inner == {"resid.out"}
    capture = runner.forward([FIRST], capture=ALL).select(stage="resid.out")[0]
    with pytest.raises(ProbeError, match=r"graft at resid.out of layer 0.*the sum of 2"):
        runner.forward([FIRST], graft=[Graft(0, "resid.out", torch.zeros(7, 24), capture.rows)])


@pytest.mark.parametrize("backend", ["none", "aot_eager"])
def test_one_module_may_serve_several_stages(
    backend: str, make_toy: MakeToy, make_map: Callable[..., Any], toy_source: Callable[..., Any], toy_class: Any,
    half: dict[str, TorchRunner], stages_of: Stages,
) -> None:  # fmt: skip
    """A norm that is called for three stages in turn: each call is a stage of its own, in every step."""

    class Shared(toy_class):
        def __init__(self) -> None:
            super().__init__()
            self.layers[0].norm1 = self.layers[0].norm2 = self.norm

    changed = make_map(
        toy_source("layers.{layer}.norm1", "attn.norm", "1 T D"),
        toy_source("layers.{layer}.norm1", "resid.mid", "1 T D", take="input", occurrence=1),
        toy_source("layers.{layer}.norm1", "mlp.norm", "1 T D", occurrence=1),
        toy_source("layers.0.norm1", "final_norm", "1 T D", occurrence=2),
    )
    module = Shared()
    module.load_state_dict(half[backend].model.module.state_dict())
    runner = TorchRunner(make_toy(module, changed), Compilation(backend))
    for request in (FIRST, OTHER):
        assert torch.equal(logits(runner.forward([request], capture=ALL)), runner.logits([request]))
    seen, apart = (
        stages_of(runner.forward([FIRST], capture=ALL)),
        stages_of(half[backend].forward([FIRST], capture=ALL)),
    )
    assert seen.keys() == apart.keys()
    # The toy's three norms have equal weights, so that sharing one changes nothing.
    assert all(torch.equal(seen[site], apart[site]) for site in seen)


def test_it_says_what_it_is(half: dict[str, TorchRunner]) -> None:
    info = half["aot_eager"].describe()
    assert (info.name, info.family, info.layers, info.recipe.name) == ("torch", "llama", 1, "fp32")
    assert info.can == {"forward", "generate", "sample", "graft"}
    assert info.lineage.root == half["none"].describe().lineage.root
    run = half["aot_eager"].forward([FIRST], capture=ALL).run
    assert run.flags["compile"] == "aot_eager"
    assert run.flags["fullgraph"] is True


def test_other_weights_are_another_lineage(make_toy: MakeToy, half: dict[str, TorchRunner]) -> None:
    model = make_toy()
    with torch.no_grad():
        model.module.get_parameter("head.weight")[0, 0] += 1
    assert TorchRunner(model).describe().lineage != half["none"].describe().lineage


@pytest.mark.parametrize("backend", ["none", "aot_eager"])
def test_a_probe_that_does_not_fire_is_named(backend: str, make_toy: MakeToy, toy_class: Any) -> None:
    class Skips(toy_class):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.layers[0](self.embed(ids))[1])

    runner = TorchRunner(make_toy(Skips()), Compilation(backend))
    with pytest.raises(ProbeError, match=r"norm output \(final_norm\): 0 times"):
        runner.forward([FIRST], capture=ALL)


@pytest.mark.parametrize("backend", ["none", "aot_eager"])
def test_a_module_that_runs_twice_is_named(backend: str, make_toy: MakeToy, toy_class: Any) -> None:
    class Twice(toy_class):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(self.norm(self.layers[0](self.embed(ids))[1])))

    runner = TorchRunner(make_toy(Twice()), Compilation(backend))
    with pytest.raises(ProbeError, match=r"norm output \(final_norm\): 2 times"):
        runner.forward([FIRST], capture=ALL)


def test_a_hook_that_came_after_compilation_is_named(make_toy: MakeToy) -> None:
    """A part compiled and warm before the lab saw it: its inner hooks never fire, and torch says nothing."""
    model = make_toy()
    part = model.module.get_submodule("layers.0.mlp")
    part.compile(backend="eager", fullgraph=True)
    with torch.no_grad():
        model.module(torch.tensor([FIRST.ids]))
    lost = []
    handle = part.get_submodule("down").register_forward_hook(lambda *_: lost.append(1))
    with torch.no_grad():
        model.module(torch.tensor([FIRST.ids]))
    handle.remove()
    assert not lost
    with pytest.raises(ProbeError, match=r"mlp.gate_up output \(mlp.gate, mlp.up\): 0 times.*compiled before"):
        TorchRunner(model).forward([FIRST], capture=ALL)


def test_a_probe_lost_in_the_graph_is_named(make_toy: MakeToy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: an operator that writes nothing, which is what a compiler leaves of one that mutates nothing."""
    runner = TorchRunner(make_toy(), Compilation("aot_eager"))
    put = type(runner._ready_buffers(7)).put

    def losing(self: Any, number: int, x: torch.Tensor) -> torch.Tensor:
        return x if number == 4 else put(self, number, x)

    monkeypatch.setattr(type(runner._ready_buffers(7)), "put", losing)
    with pytest.raises(ProbeError, match=r"layers.0.attn key.* \(attn.k_rope\): 0 times"):
        runner.forward([FIRST], capture=ALL)


def test_a_map_that_is_not_the_modules_is_refused(
    make_toy: MakeToy, make_map: Callable[..., Any], toy_source: Callable[..., Any]
) -> None:
    gone = make_map(toy_source("layers.{layer}.attn.out", "attn.out", "1 T D"))
    with pytest.raises(ProbeError, match=r"one layers.0.attn.out output for attn.out in the engine; found none"):
        TorchRunner(make_toy(stage_map=gone))
    twice = make_map(toy_source("layers.{layer}.mlp.down", "mlp.norm", "1 T D"))
    with pytest.raises(ProbeError, match=r"mlp.down output, result 0, for mlp.norm and mlp.down"):
        TorchRunner(make_toy(stage_map=twice))
    turned = make_map(toy_source("layers.{layer}.attn", "attn.q_rope", "1 T H K", take="query"))
    with pytest.raises(ProbeError, match=r"attn.q_rope\): expected \[1, 1, 3, 8\] for one token"):
        TorchRunner(make_toy(stage_map=turned), Compilation("aot_eager")).forward([FIRST], capture=ALL)
    other = replace(make_toy(), hyper={**make_toy().hyper, "kv_heads": 3})
    with pytest.raises(ProbeError, match=r"attn.qkv output: expected a last axis of 24 \+ 24 \+ 24"):
        TorchRunner(other).forward([FIRST], capture=ALL)


def test_what_cannot_be_run_is_refused(make_toy: MakeToy) -> None:
    model = make_toy()
    with pytest.raises(UsageError, match="before it was compiled"):
        TorchModel(torch.compile(model.module), "llama", model.hyper, model.stage_map)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="hyper-parameters layers"):
        TorchModel(model.module, "llama", {"layers": 1}, model.stage_map)
    with pytest.raises(UsageError, match="backend 'tvm'"):
        Compilation("tvm")
    with pytest.raises(UsageError, match="mode belongs to compile=inductor"):
        Compilation("aot_eager", "reduce-overhead")
