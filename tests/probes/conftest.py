"""A toy engine with probes, for the tests of the recorder: two layers, expert rows, chunks and decode steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch

from parity.records import Lineage, Recipe, Rows, Run
from parity.trace import capture_environment

LAYERS, WIDTH, EXPERTS, SLOTS = 2, 6, 4, 2
INNER = ("attn.norm", "moe.topk_ids", "moe.gate", "resid.out")


class ToyEngine:
    """resid.out = resid + mean over slots of the gate rows; rows sorted by expert, as real engines have them.

    `lost`, `twice`, `extra`: sites at which the defect of that name is planted.
    """

    def __init__(self, *, lost: Iterable[Any] = (), twice: Iterable[Any] = (), extra: Iterable[Any] = ()) -> None:
        generator = torch.Generator().manual_seed(3)
        self.embed = torch.randn(64, WIDTH, generator=generator).bfloat16()
        self.weight = torch.randn(LAYERS, EXPERTS, WIDTH, WIDTH, generator=generator).bfloat16() / 2
        self.lost, self.twice, self.extra = set(lost), set(twice), set(extra)

    def run(self, *requests: tuple[int, ...]) -> Run:
        recipe = Recipe("bf16", "bf16", "bf16", "bf16", "fp32", "bf16", "bf16")
        inner = tuple((layer, stage) for layer in range(LAYERS) for stage in INNER)
        return Run(
            family="qwen3_moe",
            model="toy",
            layers=LAYERS,
            request_names=tuple(f"r{index}" for index in range(len(requests))),
            requests=requests,
            recipe=recipe,
            lineage=Lineage("sha256:toy"),
            environment=capture_environment(),
            declared=((None, "embed.out"), *inner, (None, "logits")),
        )

    def forward(self, recorder: Any, run: Run, *, chunk: int = 4, decode: int = 0) -> torch.Tensor:
        """Every request prefilled in chunks, packed, then `decode` steps of one token each; the last logits."""
        ends = [len(ids) - decode - 1 for ids in run.requests]
        logits = torch.empty(0)
        for number, start in enumerate(range(0, max(ends) + 1, chunk)):
            spans = [(r, range(start, min(start + chunk, end + 1))) for r, end in enumerate(ends)]
            logits = self._step(recorder, run, spans, ends=ends, phase="prefill", step=0, chunk=number)
        for step in range(1, decode + 1):
            spans = [(r, range(end + step, end + step + 1)) for r, end in enumerate(ends)]
            logits = self._step(recorder, run, spans, ends=ends, phase="decode", step=step, chunk=0)
        return logits

    def _step(
        self, recorder: Any, run: Run, spans: list[Any], *, ends: list[int], phase: str, step: int, chunk: int
    ) -> torch.Tensor:
        request = np.concatenate([np.full(len(span), r, np.int32) for r, span in spans])
        position = np.concatenate([np.array(span, np.int64) for _, span in spans])
        rows = Rows(request, position)
        probe = recorder.step(phase=phase, step=step, chunk=chunk, rows=rows, last_position=ends)

        def fire(stage: str, tensor: torch.Tensor, layer: int | None = None, **about: Any) -> torch.Tensor:
            if (layer, stage) in self.lost:
                return tensor
            if (layer, stage) in self.twice:
                probe(stage, tensor, layer, **about)
            return probe(stage, tensor, layer, **about)

        ids = torch.tensor([run.requests[r][p] for r, p in zip(request, position, strict=True)], dtype=torch.int64)
        x = fire("embed.out", self.embed[ids])
        for layer in range(LAYERS):
            normed = fire("attn.norm", x.clone(), layer)
            topk = torch.stack([(ids + layer) % EXPERTS, (ids + layer + 1) % EXPERTS], dim=1).int()
            topk = fire("moe.topk_ids", topk, layer)
            order = np.argsort(topk.reshape(-1).numpy(), kind="stable")
            token, slot = order // SLOTS, order % SLOTS
            expert = topk.reshape(-1).numpy()[order]
            gate = torch.einsum("rd,rdf->rf", normed[torch.from_numpy(token)], self.weight[layer][expert.tolist()])
            gate = fire(
                "moe.gate",
                gate,
                layer,
                rows=Rows(request[token], position[token], slot.astype(np.int32), expert.astype(np.int32)),
                geometry={
                    "tile_m": 64,
                    "expert_offsets": torch.from_numpy(np.searchsorted(expert, np.arange(EXPERTS + 1))),
                },
                launch={"grid": (1, 1, EXPERTS), "covers": {"rows": 64}, "requires": {"rows": 3}},
            )
            back = torch.empty(len(order), dtype=torch.int64)
            back[torch.from_numpy(order)] = torch.arange(len(order))
            x = fire("resid.out", x + gate[back].reshape(len(ids), SLOTS, WIDTH).mean(1), layer)
        for layer, stage in self.extra:
            probe(stage, x, layer)
        # Used again at once, as real buffers are: a capture that is no copy would show.
        logits = fire("logits", x.float() @ self.embed.float().T)
        x.fill_(float("nan"))
        return logits


@pytest.fixture
def make_engine() -> Callable[..., ToyEngine]:
    """ToyEngine, for tests that plant defects in it."""
    return ToyEngine


@pytest.fixture
def engine() -> ToyEngine:
    """A toy engine without defects."""
    return ToyEngine()
