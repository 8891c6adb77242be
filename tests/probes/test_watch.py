"""Can somebody probe a module of their own in ten lines, and is a tap that sees nothing found out?"""

# Several statements under `raises` on purpose: the block is the forward pass that must fail.
# ruff: noqa: PT012

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from parity.errors import ConfigError, ProbeError
from parity.probes import CapturePlan, Graft, Tap, watch
from parity.records import Rows
from parity.trace import open_trace


class Layer(nn.Module):
    """A small attention-free decoder layer, written as people write them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.mid = nn.Identity()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, str]:
        return self.mid(x + self.q_proj(self.norm(x))), "and a cache"


class Mine(nn.Module):
    """Somebody's own model: ids [1, T] to scores [1, T, V]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(32, 8)
        self.layers = nn.ModuleList([Layer(8), Layer(8)])
        self.head = nn.Linear(8, 32)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x, _ = layer(x)
        return self.head(x)


IDS = torch.tensor([[3, 1, 4, 1, 5]])


def test_the_example_of_the_readme() -> None:
    model = Mine()
    taps = {
        "embed": ("embed.out",),
        "layers.0.q_proj": ("attn.q", 0, 2),
        "layers.1": ("resid.out", 1),
        "head": ("logits",),
    }
    with watch(model, taps) as watched, torch.no_grad():
        model(IDS)
    trace = watched.trace()
    for capture in trace.captures:
        print(capture.name, capture.axes, trace.tensor(capture).norm())

    assert [capture.name for capture in trace.captures] == ["embed.out", "L00.attn.q", "L01.resid.out", "logits"]
    assert trace.tensor(trace.captures[1]).shape == (5, 2, 4)
    assert trace.captures[0].rows.position.tolist() == [0, 1, 2, 3, 4]
    assert trace.run.requests == ((3, 1, 4, 1, 5),)
    assert torch.equal(trace.tensor(trace.captures[0]), model.embed(IDS)[0])


def test_outputs_are_the_same_bits_and_hooks_go_away() -> None:
    model = Mine()
    before = model(IDS)
    taps = {
        "layers.0": Tap("resid.out", 0),
        "layers.1.q_proj": Tap("attn.norm", 1, read="input"),
        "head": Tap("logits"),
    }
    with watch(model, taps):
        during = model(IDS)
    assert torch.equal(before, during)
    assert torch.equal(before, model(IDS))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_inputs_flat_ids_filters_and_disk(tmp_path: Path) -> None:
    model = Mine()
    plan = CapturePlan(tokens="last", out=tmp_path / "t")
    with watch(model, {"layers.1.q_proj": Tap("attn.norm", 1, read="input")}, plan=plan):
        model(IDS[0])
    trace = open_trace(tmp_path / "t")
    assert trace.complete
    assert trace.captures[0].rows.position.tolist() == [4]
    x = model.layers[0](model.embed(IDS[0]))[0]
    assert torch.equal(trace.tensor(trace.captures[0])[0], model.layers[1].norm(x)[4])
    with watch(model, {"head": ("logits",)}, plan=CapturePlan(mode="stats")) as watched:
        model(IDS)
    assert watched.statistics()[0]["count"] == 5 * 32


def test_a_batch_of_several_requests_needs_its_rows() -> None:
    model, batch = Mine(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    with pytest.raises(ProbeError, match="rows=Rows"), watch(model, {"head": ("logits",)}):
        model(batch)
    rows = Rows(np.repeat([0, 1], 3).astype(np.int32), np.tile(np.arange(3), 2))
    with watch(model, {"head": ("logits",)}, rows=rows, plan=CapturePlan(tokens="last")) as watched:
        model(batch)
    trace = watched.trace()
    assert trace.run.requests == ((1, 2, 3), (4, 5, 6))
    assert torch.equal(trace.tensor(trace.captures[0]), model(batch)[:, -1])


def test_a_graft_goes_through_a_hook_and_the_sham_changes_nothing() -> None:
    model, taps = Mine(), {"layers.0": ("resid.out", 0)}
    with watch(model, taps) as watched:
        plain = model(IDS)
    trace = watched.trace()
    rows = trace.captures[0].rows
    own = trace.tensor(trace.captures[0])
    with watch(model, taps, grafts=[Graft(0, "resid.out", own, rows)]):
        assert torch.equal(model(IDS), plain)
    one = rows.take(np.array([2]))
    with watch(model, taps, grafts=[Graft(0, "resid.out", own[2:3] + 1, one)]):
        changed = (model(IDS) != plain).any(-1)[0]
    assert changed.tolist() == [False, False, True, False, False]


class Lazy(Mine):
    """Skips its second layer: a tap there never fires."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers[0](self.embed(ids))[0])


class Twice(Mine):
    """Runs its first layer twice."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers[0](self.layers[0](self.embed(ids))[0])[0])


def test_taps_that_stay_silent_or_fire_twice_are_found() -> None:
    for model, tap, said in ((Lazy(), "layers.1", "silent: L01"), (Twice(), "layers.0", "more than once: L00")):
        with pytest.raises(ProbeError, match=said), watch(model, {tap: ("resid.out", int(tap[-1]))}):
            model(IDS)
    with pytest.raises(ProbeError, match="one forward pass"), watch(Mine(), {"head": ("logits",)}):
        pass
    model = Mine()
    with pytest.raises(ProbeError, match="a second one"), watch(model, {"head": ("logits",)}):
        model(IDS)
        model(IDS)


def test_the_exception_of_the_model_comes_through() -> None:
    model = Mine()
    with pytest.raises(IndexError), watch(model, {"head": ("logits",)}) as watched:
        model(IDS + 100)
    assert not watched.trace().complete
    assert not model.head._forward_hooks


def test_a_map_that_makes_no_sense_is_refused() -> None:
    model = Mine()
    for taps, said in (
        ({"layers.0.qproj": ("attn.q", 0, 2)}, r"layers\.0\.q_proj"),
        ({"head": ("moe.gate", 0)}, "expert rows"),
        ({"layers.0": ("resid.out", 0), "layers.1": ("resid.out", 0)}, "another tap"),
        ({"head": Tap("logits", read="weight")}, "read='weight'"),
    ):
        with pytest.raises(ProbeError, match=said):
            watch(model, taps)
    with pytest.raises(ConfigError, match="vocabulary"):
        watch(model, {"head": ("logit",)})
    with pytest.raises(ProbeError, match="heads="), watch(model, {"layers.0.q_proj": ("attn.q", 0)}):
        model(IDS)
    with pytest.raises(ProbeError, match="ids="), watch(nn.Sequential(nn.Linear(8, 8)), {"0": ("attn.out", 0)}) as bad:
        bad._module(torch.zeros(3, 8))


def test_a_compiled_module_is_refused() -> None:
    compiled = torch.compile(Mine(), backend="eager")
    with pytest.raises(ProbeError, match="never fire"):
        watch(compiled, {"head": ("logits",)})
