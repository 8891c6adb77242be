"""Is a stage that reads another buffer of its layer explained by that buffer?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from parity.fingerprint import ErrorField, causes, read_fingerprints
from parity.ladder import suspects
from parity.ladder.replay import ReplayedSite

T, D, E = 40, 24, 6


def site_of(wrong: str) -> tuple[Any, ReplayedSite, dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(E, D, generator=g)
    buffers = {name: torch.randn(T, D, generator=g) for name in ("resid.in", "attn.out", "mlp.norm")}
    sut = SimpleNamespace(tensor=buffers[wrong] @ weight.T, position=np.arange(T))
    inputs = {"mlp.norm": buffers["mlp.norm"]}
    logits = buffers["mlp.norm"] @ weight.T
    site = ReplayedSite(2, "moe.router_logits", sut, logits, inputs=inputs)  # type: ignore[arg-type]
    oracle = SimpleNamespace(replay=lambda stage, layer, inputs, **_: inputs["mlp.norm"] @ weight.T)
    return SimpleNamespace(oracle=oracle, recipe="fp32"), site, buffers


def test_the_buffer_that_was_read_is_named(monkeypatch):
    replay, site, buffers = site_of("attn.out")
    aligned = {name: SimpleNamespace(tensor=t, position=np.arange(T)) for name, t in buffers.items()}
    monkeypatch.setattr(suspects, "_buffers", lambda *_: aligned)
    related = suspects.related_tensors(replay, site)
    assert set(related) == {"moe.router_logits<-resid.in", "moe.router_logits<-attn.out"}
    assert site.sut is not None
    assert site.oracle is not None
    field = ErrorField("moe.router_logits", 2, site.oracle, site.sut.tensor, ("T", "E"), related=related)
    best = read_fingerprints(field)[0]
    assert (best.cause, best.numbers["read_instead"]) == (causes.WRONG_INPUT, "attn.out")


def test_nothing_is_related_to_a_site_that_was_not_replayed():
    replay, _, _ = site_of("attn.out")
    assert suspects.related_tensors(replay, ReplayedSite(2, "moe.gate", None, None, "no input")) == {}
