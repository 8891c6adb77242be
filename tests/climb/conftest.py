"""An engine that is quick: the BF16 emulation of the random model, in another order, with whatever a test plants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.climb import Case, Investigation, investigate
from parity.ladder import Opening, calibrate_apart
from parity.runner import CapturePlan, Generation, Request, RunnerInfo, open_runner
from parity_oracles.checkpoint import read_checkpoint
from parity_oracles.recipes.runner import RecipeRunner
from tests.cli.conftest import parity

__all__ = ["parity"]

Edit = Callable[[torch.Tensor], torch.Tensor]
_LOGITS = CapturePlan(stages=("logits",))


class Planted(RecipeRunner):
    """A healthy engine until something is planted. edits: by (layer, stage), what becomes of that stage's tensor.

    second_best: greedy decoding takes the second largest logit. unmasked: it takes the largest, banned or not.
    """

    def __init__(self, model: Path, edits: dict[tuple[int | None, str], Edit] | None = None) -> None:
        super().__init__(read_checkpoint(model), order=3)
        self.edits = edits or {}
        self.second_best = False
        self.unmasked = False

    def compute(self, stage: str, layer: int | None, *args: Any) -> torch.Tensor:
        out = super().compute(stage, layer, *args)
        edit = self.edits.get((layer, stage))
        return out if edit is None else edit(out)

    def describe(self) -> RunnerInfo:
        info = super().describe()
        paths = {stage: ("reference",) for _, stage in self.edits}
        sampler = {"greedy": True, "suppress_tokens": [], "temperature": 0.0}
        variants = {**paths, "embed.out": ("reference",)}
        return replace(info, can=info.can | {"variant"}, variants=variants, sampler=sampler)

    def forward(self, requests: Sequence[Request], *, variant: Any = None, **rest: Any) -> Any:
        """variant: stages by name that take their healthy path."""
        own = self.edits
        self.edits = {site: edit for site, edit in own.items() if site[1] not in (variant or {})}
        try:
            return super().forward(requests, **rest)
        finally:
            self.edits = own

    def generate(self, request: Request, *, max_new_tokens: int, **rest: Any) -> Generation:
        if self.unmasked:
            rest.pop("sampling", None)
        if not self.second_best:
            return super().generate(request, max_new_tokens=max_new_tokens, **rest)
        ids: list[int] = []
        while len(ids) < max_new_tokens:
            fed = replace(request, ids=(*request.ids, *ids))
            logits = self.forward([fed], capture=_LOGITS, graft=rest.get("graft", ()))
            last = logits.tensor(logits.select(stage="logits")[-1])[-1]
            ids.append(int(last.topk(2).indices[1]))
        return Generation(tuple(ids))


def random_request(seed: int, length: int) -> Request:
    ids = torch.randint(0, 80, (length,), generator=torch.Generator().manual_seed(seed))
    return Request(f"random-{seed}", tuple(ids.tolist()))


@pytest.fixture(scope="session")
def bf16_floor(bf16_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = f"recipe:{bf16_model}"
    floor = calibrate_apart(
        emulations=[Opening(spec, {"order": order}) for order in range(3)],
        oracle=Opening(spec, {"recipe": "fp32"}),
        requests=[random_request(100 + n, length) for n, length in enumerate((105, 100, 95, 110))],
    )
    path = tmp_path_factory.mktemp("floor") / "bf16.json"
    floor.save(path)
    return path


@pytest.fixture(scope="session")
def exact(bf16_model: Path) -> Any:
    return open_runner(f"hf:{bf16_model}", dtype="float32")


@pytest.fixture(scope="session")
def case(bf16_model: Path, bf16_floor: Path) -> Case:
    """90 ids of the random model, the floor its own."""
    return Case(
        sut=f"recipe:{bf16_model}",
        oracle=f"hf:{bf16_model}",
        request=random_request(0, 90),
        emulation=f"recipe:{bf16_model}",
        oracle_options={"dtype": "float32"},
        floor=str(bf16_floor),
        new_tokens=3,
    )


@pytest.fixture(scope="session")
def climb_on(
    bf16_model: Path, case: Case, exact: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Investigation]:
    """climb_on(edits, second_best=False, unmasked=False, **options of investigate) climbs with a planted engine."""

    def run(
        edits: dict[tuple[int | None, str], Edit] | None = None,
        *,
        second_best: bool = False,
        unmasked: bool = False,
        skip: Sequence[int] = (),
        **changed: Any,
    ) -> Investigation:
        engine = Planted(bf16_model, edits)
        engine.second_best, engine.unmasked = second_best, unmasked
        out = tmp_path_factory.mktemp("case") / "out"
        return investigate(replace(case, **changed), out, sut=engine, oracle=exact, skip=skip)

    return run
