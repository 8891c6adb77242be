"""Are fields made of traces and of files the ones that were planted, and are others refused by name?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from parity import cli
from parity.errors import TraceError, UsageError
from parity.fingerprint import causes, field_of_tensors, read_fingerprints


@pytest.fixture
def files(tmp_path: Path, lab) -> tuple[Path, Path]:
    field = lab(0).field("attn.q", lab(0).tensors["attn.q"].roll(1, 1))
    save_file({"q": field.oracle.contiguous()}, tmp_path / "oracle.safetensors")
    save_file({"q": field.sut.contiguous(), "other": torch.zeros(3)}, tmp_path / "sut.safetensors")
    return tmp_path / "oracle.safetensors", tmp_path / "sut.safetensors"


def test_two_tensors_in_files(files):
    field = field_of_tensors(oracle=files[0], sut=files[1], tensor="q", stage="attn.q", layer=3)
    assert field.heads == 4
    assert read_fingerprints(field)[0].cause == causes.HEADS_SHIFTED
    # Without axes there are no heads to be shifted, and columns are not rows.
    flat = field_of_tensors(oracle=files[0], sut=files[1], tensor="q")
    assert causes.HEADS_SHIFTED not in [f.cause for f in read_fingerprints(flat)]


def test_files_that_do_not_fit_are_refused(files, tmp_path):
    with pytest.raises(UsageError, match="--tensor"):
        field_of_tensors(oracle=files[0], sut=files[1])
    with pytest.raises(UsageError, match="axes"):
        field_of_tensors(oracle=files[0], sut=files[1], tensor="q", axes="TX")
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(UsageError, match="safetensors"):
        field_of_tensors(oracle=tmp_path / "text.safetensors", sut=files[1], tensor="q")


def test_the_command_reads_files_and_says_so_by_its_exit_code(files):
    arguments = ["fingerprint", "--oracle", str(files[0]), "--sut", str(files[1]), "--tensor", "q", "--axes", "THK"]
    done = CliRunner().invoke(cli.app, [*arguments, "--json"])
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert told["mode"] == "tensors"
    assert told["sites"][0]["fingerprints"][0]["cause"] == causes.HEADS_SHIFTED
    assert "heads shifted by one" in CliRunner().invoke(cli.app, arguments).stdout
    same = [a if a != str(files[1]) else str(files[0]) for a in arguments]
    healthy = CliRunner().invoke(cli.app, same)
    assert healthy.exit_code == 0
    assert "No error of a known shape" in healthy.stdout


def test_a_stage_that_no_trace_holds_is_refused(tmp_path):
    done = CliRunner().invoke(cli.app, ["fingerprint", "--oracle", str(tmp_path), "--sut", str(tmp_path)])
    assert isinstance(done.exception, TraceError)
