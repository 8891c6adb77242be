"""A graft from the command line, both ways, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from parity.cli import app
from parity.errors import UsageError


def test_the_oracles_experts_in_the_engine(fp8_model: Path):
    recipe, engine = f"recipe:{fp8_model}", f"triton:{fp8_model}"
    call = ["graft", "--from", recipe, "--from-option", "recipe=fp32", "--into", engine, "--stage", "moe.experts"]
    call += ["--layers", "0-1", "--ids", "3,1,4,1,5"]
    done = CliRunner().invoke(app, [*call, "--tokens", "2", "--json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert found["effect"]["positions"] == 5
    assert found["effect"]["changed"] > 0
    assert len(found["after"]["ids"]) == 2
    text = CliRunner().invoke(app, call, catch_exceptions=False).stdout
    assert "logits changed" in text


def test_a_graft_that_cannot_be_is_refused(fp8_model: Path):
    model = f"recipe:{fp8_model}"
    for wrong in (["--stage", "attn.q", "--heads", "99"], ["--stage", "attn.q", "--positions", "9"]):
        with pytest.raises(UsageError):
            CliRunner().invoke(
                app, ["graft", "--from", model, "--into", model, "--layers", "0", "--ids", "1,2", *wrong],
                catch_exceptions=False,
            )  # fmt: skip
