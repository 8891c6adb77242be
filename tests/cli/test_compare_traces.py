"""Does `parity compare` judge two traces, in order of computation, and refuse those that may not be compared?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from parity.cli import app
from parity.errors import TraceError, UsageError
from parity.records import Capture, Environment, Lineage, Recipe, Rows, Run
from parity.trace import MemoryTrace, save_trace
from tests.cli.comparing import noisy, values

ENVIRONMENT = Environment("3", "2", None, None, "test", "none", 1, "cpu", False)


def trace(folder: Path, plant=None, *, root="synthetic", ids=(3, 1, 4, 1, 5), model="m") -> Path:
    """A trace of two stages of two layers in bf16, with fp32 accumulation noise that differs by `model`."""
    recipe = Recipe("bf16", "bf16", "bf16", "fp32", "fp32", "bf16", "bf16")
    sites = [(0, "attn.norm"), (0, "mlp.norm"), (1, "attn.norm"), (1, "mlp.norm")]
    captures, tensors = [], {}
    for number, (layer, stage) in enumerate(sites):
        exact = noisy(values(len(ids), 256, number), seed=len(model) + number)
        if plant is not None:
            plant(layer, stage, exact)
        rows = Rows(np.zeros(len(ids), np.int32), np.arange(len(ids), dtype=np.int64))
        tensors[number] = exact.bfloat16()
        shape = (len(ids), 256)
        captures.append(Capture(number, stage, layer, "prefill", 0, 0, ("T", "D"), "bfloat16", shape, rows))
    run = Run("qwen3_moe", model, 2, ("prompt",), (tuple(ids),), recipe, Lineage(root), ENVIRONMENT, tuple(sites))
    save_trace(folder, MemoryTrace(run, tuple(captures), tensors))
    return folder


def cli(*arguments: object) -> tuple[int, dict]:
    done = CliRunner().invoke(app, ["compare", *map(str, arguments), "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, json.loads(done.stdout)


def test_traces_are_judged_by_a_derived_floor_in_order_of_computation(tmp_path):
    def plant(layer, stage, x):
        if layer == 1:
            x[3] *= 1.02

    a, b, c = trace(tmp_path / "a"), trace(tmp_path / "b", model="other"), trace(tmp_path / "c", plant, model="other")
    code, told = cli("--oracle", a, "--sut", b, "--floor", "derived:bfloat16")
    assert (code, told["verdicts"]) == (0, {"WITHIN_FLOOR": 4})
    assert told["power"]["scale_seen"] < 0.01
    code, told = cli("--oracle", a, "--sut", c, "--floor", "derived:bfloat16")
    assert (code, told["verdicts"]) == (1, {"WITHIN_FLOOR": 2, "EXCEEDS_FLOOR": 2})
    assert told["first_divergence"]["name"] == "L01.attn.norm"
    assert told["first_divergence"]["where"] == "position 3"
    assert told["first_divergence"]["in_order_of"] == "order of computation"
    assert cli("--oracle", a, "--sut", b)[0] == 2
    assert cli("--oracle", a, "--sut", a)[0] == 0


def test_traces_that_may_not_be_compared_are_refused(tmp_path):
    a, b = trace(tmp_path / "a"), trace(tmp_path / "b", root="another")
    with pytest.raises(TraceError, match="lineage"):
        cli("--oracle", a, "--sut", b)
    code, _ = cli("--oracle", a, "--sut", b, "--same-model-because", "converted by hand")
    assert code == 0
    other = trace(tmp_path / "ids", ids=(3, 1, 4, 1, 6))
    with pytest.raises(TraceError, match="position 4"):
        cli("--oracle", a, "--sut", other, "--same-model-because", "anything")
    file = tmp_path / "x.safetensors"
    save_file({"x": torch.ones(2)}, file)
    with pytest.raises(UsageError, match="is a trace"):
        cli("--oracle", a, "--sut", file)
