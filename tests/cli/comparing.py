"""What the tests of `parity compare` share: both sides written to files, the command run in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from parity.cli import app

ROWS, WIDTH = 64, 256
Tensors = dict[str, torch.Tensor]


class Compare:
    """Writes both sides into a folder and runs the command in this process."""

    def __init__(self, folder: Path) -> None:
        self.paths = {side: folder / f"{side}.safetensors" for side in ("oracle", "sut")}

    def run(self, *options: str) -> tuple[int, str]:
        sides = [f"--{side}={path}" for side, path in self.paths.items()]
        done = CliRunner(env={"COLUMNS": "160"}).invoke(app, ["compare", *sides, *options])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout

    def __call__(self, oracle: Tensors, sut: Tensors, *options: str) -> tuple[int, dict]:
        for side, tensors in (("oracle", oracle), ("sut", sut)):
            save_file({name: t.contiguous().clone() for name, t in tensors.items()}, self.paths[side])
        code, text = self.run(*options, "--json")
        return code, json.loads(text)

    def one(self, oracle: torch.Tensor, sut: torch.Tensor, *options: str) -> tuple[int, str, dict]:
        code, told = self({"x": oracle}, {"x": sut}, *options)
        (record,) = told["comparisons"]
        assert told["verdicts"] == {record["verdict"]: 1}
        assert told["exit_code"] == code
        return code, record["verdict"], record


def values(rows: int = ROWS, width: int = WIDTH, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noisy(exact: torch.Tensor, seed: int = 7) -> torch.Tensor:
    """fp32 accumulation error of a product of some thousand terms: 20 units."""
    g = torch.Generator().manual_seed(seed)
    return exact + 20 * 2.0**-24 * torch.randn(exact.shape, generator=g, dtype=torch.float64)


FLOORS = {torch.float32: "derived:float32", torch.bfloat16: "derived:bfloat16"}
both_dtypes = pytest.mark.parametrize("dtype", FLOORS)
