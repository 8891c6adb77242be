"""Clean runs made of numbers: one stage of given size, errors drawn independently for every row."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from parity.floor import FloorSample, calibrate
from parity.metrics import column_edges, pair_moments, slice_tables
from parity.records import Lineage, Recipe

RECIPE = Recipe("fp8_block", "e4m3", "e4m3", "fp32", "fp32", "bf16", "bf16")
LINEAGE = Lineage("root", ("fp8",))


def tables_of(
    rng: np.random.Generator, rows: int = 100, width: int = 256, noise: float = 0.03, plant=None, experts=None
):
    oracle = rng.normal(size=(rows, width))
    sut = oracle + noise * rng.normal(size=(rows, width))
    if plant is not None:
        plant(oracle, sut)
    columns = column_edges(("D",), (width,))
    cells = pair_moments(oracle=torch.from_numpy(oracle), sut=torch.from_numpy(sut), edges=columns.edges)
    return [(t.kind, t) for t in slice_tables(cells, columns, experts=experts)]


def sample_of(name: str, tables, *, mode="isolated", stage="attn.out", layer=0, phase="prefill") -> FloorSample:
    sample = FloorSample(name)
    rows = len(dict(tables)["row"])
    sample.add(mode=mode, stage=stage, layer=layer, phase=phase, tables=tables, position=np.arange(rows))
    return sample


def floor_of(runs: int = 8, seed: int = 0, **more):
    rng = np.random.default_rng(seed)
    samples = [sample_of(f"run-{n}", tables_of(rng, **more)) for n in range(runs)]
    return calibrate(samples, recipe=RECIPE, lineage=LINEAGE)


def worst_over(floor, tables, *, mode="isolated", stage="attn.out", layer=0, phase="prefill") -> float:
    position = np.arange(len(dict(tables)["row"]))
    return max(
        float(np.nanmax(over))
        for kind, table in tables
        for over in floor.judge(
            mode=mode, stage=stage, layer=layer, phase=phase, kind=kind, table=table, position=position
        ).values()
    )


@pytest.fixture(scope="session")
def clean():
    return SimpleNamespace(
        tables=tables_of, sample=sample_of, floor=floor_of, worst=worst_over, recipe=RECIPE, lineage=LINEAGE
    )
