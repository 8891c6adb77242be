"""A trace from C, C++ and CUDA is what the Python writer would have written: read, verified, compared, and killed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parity.records import Capture, Environment, Lineage, Recipe, Rows, Run
from parity.stages import VOCABULARY, term
from parity.trace import TraceWriter, diff_traces, open_trace, verify_trace

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
STRICT = ["-O2", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{ROOT / 'sdk'}"]
STANDIN = ["-DPARITY_TRACE_CUDA", f"-I{HERE / 'standin'}"]
KINDS = {
    "c99": ["gcc", "-std=c99", "-D_DEFAULT_SOURCE", *STRICT],
    "c++17": ["g++", "-std=c++17", "-x", "c++", *STRICT],
    "c99 with device pointers": ["gcc", "-std=c99", "-D_DEFAULT_SOURCE", *STRICT, *STANDIN],
    "c++17 with device pointers": ["g++", "-std=c++17", "-x", "c++", *STRICT, *STANDIN],
}

STAGES = ("attn.norm", "moe.gate", "moe.up", "moe.topk_ids")

Engine = Callable[..., subprocess.CompletedProcess[str]]


def compile_engine(kind: str, folder: Path) -> Path:
    command = KINDS[kind]
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]}")
    out = folder / "engine"
    subprocess.run([*command, str(HERE / "engine.c"), "-o", str(out), "-lpthread", "-lm"], check=True, timeout=120)
    return out


def runs(program: Path) -> Engine:
    def run(folder: Path | str, mode: str = "whole", **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PARITY")}
        command = [str(program), str(folder), mode]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**clean, **environment})

    return run


STANDARDS = (
    *(("gcc", f"-std={one}", "-D_DEFAULT_SOURCE") for one in ("c99", "c11", "c17")),
    *(("gcc", f"-std={one}") for one in ("gnu99", "gnu11", "gnu17")),
    *(("g++", f"-std={one}", "-x", "c++") for one in ("c++11", "c++14", "c++17", "c++20")),
    *(("clang", f"-std={one}") for one in ("gnu11", "gnu17")),
)


@pytest.mark.parametrize("command", STANDARDS, ids=" ".join)
def test_it_compiles_without_a_warning_by_every_standard(command: tuple[str, ...]):
    """An engine that calls more than ISO C has (usleep): the header takes nothing away that the compiler declares."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]}")
    done = subprocess.run(
        [*command, *STRICT, "-Wshadow", "-fsyntax-only", str(HERE / "engine.c")], capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


QUICK = ("c99", "c++17 with device pointers")


@pytest.fixture(
    scope="module", params=[kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.long) for kind in KINDS]
)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return runs(compile_engine(request.param, tmp_path_factory.mktemp("engine")))


@pytest.fixture(scope="module")
def c(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return runs(compile_engine("c99", tmp_path_factory.mktemp("engine")))


def value(seed: int, count: int) -> torch.Tensor:
    """`value` of engine.c for n = 0, 1, ..."""
    n = np.arange(count, dtype=np.uint64)
    mixed = (np.uint64(seed) * np.uint64(2654435761) + n * np.uint64(40503)) & np.uint64(0xFFFFFFFF)
    return torch.from_numpy(((mixed >> np.uint64(8)).astype(np.float64) / 2**24).astype(np.float32))


def write_with_python(folder: Path, run: Run, *, scaled: float = 1.0) -> None:
    """The captures of engine.c's prefill and two decode steps."""
    position = np.array([3, 0, 4, 1, 2, 2, 0, 1, 3, 4], np.int64)
    slot = np.array([0, 1, 0, 0, 1, 0, 0, 1, 1, 1], np.int32)
    expert = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3, 3], np.int32)
    writer = TraceWriter(folder, run)
    number = 0

    def add(stage: str, layer: int, tensor: torch.Tensor, rows: Rows, step: int, **more: Any) -> None:
        nonlocal number
        dtype = str(tensor.dtype).removeprefix("torch.")
        phase = "decode" if step else "prefill"
        writer.add(
            Capture(number, stage, layer, phase, step, 0, term(stage).axes, dtype, tuple(tensor.shape), rows, **more),
            tensor,
        )
        number += 1

    for step in range(3):
        writer.begin_step("decode" if step else "prefill", step, 0)
        tokens = 1 if step else 5
        at = Rows(np.zeros(tokens, np.int32), np.arange(tokens, dtype=np.int64) + (4 + step if step else 0))
        for layer in range(3):
            add("attn.norm", layer, value(layer + 100 * step, tokens * 4).reshape(tokens, 4), at, step)
            geometry = {"tile_m": 64, "expert_offsets": [0, 0, 1, 1, 2] if step else [0, 3, 5, 8, 10]}
            rows = Rows(np.zeros(10, np.int32), position, slot, expert)
            if step:
                rows = Rows(
                    np.zeros(2, np.int32),
                    np.full(2, 4 + step),
                    np.arange(2, dtype=np.int32),
                    np.array([1, 3], np.int32),
                )
            tensor = value(layer + 50, 30).reshape(10, 3)[: len(rows)]
            for stage, factor in (("moe.gate", scaled), ("moe.up", 1.0)):
                add(stage, layer, tensor * factor, rows, step, geometry=geometry, launch={"grid": [2, 1, 1]})
            add("moe.topk_ids", layer, (torch.arange(2 * tokens) % 4).to(torch.uint8).reshape(tokens, 2), at, step)
    writer.close()


@pytest.fixture
def run() -> Run:
    """The run of engine.c."""
    return Run(
        family="qwen3_moe",
        model='toy "quoted"\t\u00e9',
        layers=3,
        request_names=("a",),
        requests=((7, 1, 2, 3, 4),),
        recipe=Recipe("fp32", *["fp32"] * 6),
        lineage=Lineage("sha256:00", ("fp8_block",)),
        environment=Environment("none", "none", None, None, "unknown", "unknown", 1, "cpu", False),
        declared=tuple((layer, stage) for layer in range(3) for stage in STAGES),
        hyper={"rope_theta": 1e6, "nothing": "nan"},
    )


def test_it_is_the_trace_that_the_python_writer_makes(engine: Engine, run: Run, tmp_path: Path):
    done = engine(tmp_path / "c" / "deeper")
    assert (done.returncode, done.stdout) == (0, "opened 0 on 1 closed 0 refused 0 error \n"), done.stderr
    write_with_python(tmp_path / "python", run)
    found = diff_traces(tmp_path / "c" / "deeper", tmp_path / "python")
    assert found.same, found
    listing = verify_trace(tmp_path / "c" / "deeper")
    assert (listing.complete, listing.captures, listing.missing) == (True, 36, ())
    trace, other = open_trace(tmp_path / "c" / "deeper"), open_trace(tmp_path / "python")
    for a, b in zip(trace.captures, other.captures, strict=True):
        assert (a.name, a.geometry, a.launch, a.axes) == (b.name, b.geometry, b.launch, b.axes)


@pytest.fixture
def parity(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Any, str]]:
    from parity import cli

    def run(*arguments: object) -> tuple[Any, str]:
        monkeypatch.setattr(sys, "argv", ["parity", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return end.value.code, printed.out + printed.err

    return run


def test_the_commands_verify_and_compare_it(c: Engine, run: Run, tmp_path: Path, parity: Callable[..., Any]):
    c(tmp_path / "c")
    write_with_python(tmp_path / "python", run)
    write_with_python(tmp_path / "wrong", run, scaled=1.25)
    code, printed = parity("trace", "verify", tmp_path / "c")
    assert (code, "complete" in printed) == (0, True)
    code, printed = parity("compare", "--oracle", tmp_path / "python", "--sut", tmp_path / "c")
    assert code == 0, printed
    floor = ("--floor", "derived:float32")
    code, printed = parity("compare", "--oracle", tmp_path / "wrong", "--sut", tmp_path / "c", *floor)
    assert code == 1, printed
    assert "moe.gate" in printed


def test_a_killed_engine_leaves_what_it_flushed(c: Engine, tmp_path: Path):
    assert c(tmp_path / "a", "killed").returncode == -9
    listing = verify_trace(tmp_path / "a")
    assert (listing.complete, listing.captures, listing.running) == (False, 36, "decode step 3 chunk 0")
    assert listing.orphans == ("shard-00003.safetensors",)


@pytest.mark.parametrize("wait", [0.0, 0.03])
def test_an_engine_that_is_killed_at_some_moment(c: Engine, run: Run, tmp_path: Path, wait: float):
    program = c.__closure__[0].cell_contents  # type: ignore[index]
    process = subprocess.Popen([str(program), str(tmp_path / "a"), "for ever"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"going\n"
    assert verify_trace(tmp_path / "a").being_written
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(wait + 0.001)
    process.kill()
    process.communicate()
    listing = verify_trace(tmp_path / "a")
    assert not listing.complete
    assert not listing.being_written
    assert listing.captures >= 36
    write_with_python(tmp_path / "python", run)
    found = diff_traces(tmp_path / "a", tmp_path / "python")
    assert found.identical == 36  # all that the other has; beyond it the killed one has more


def test_hostile_captures_are_refused_one_by_one(engine: Engine, tmp_path: Path):
    done = engine(tmp_path / "a", "hostile")
    assert (done.returncode, done.stdout) == (0, "")
    (capture,) = open_trace(tmp_path / "a").captures
    assert capture.variant == 'a "quoted" \\ path\n\u00e4'
    assert verify_trace(tmp_path / "a").complete
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("long name", "a text of 69999 bytes"),
        ("bad name", "no UTF-8, at byte 0"),
        ("bad stage", "declared site 0: no such stage"),
        ("bad id", "request 0: id 0 is negative"),
        ("key twice", "a key twice"),
        ("long folder", "the folder's name has 69999 bytes"),
    ],
)
def test_a_run_that_the_format_does_not_allow(c: Engine, tmp_path: Path, mode: str, said: str):
    done = c(tmp_path / "a", mode)
    assert done.returncode == 0
    assert "opened -1 on 0 closed -1" in done.stdout
    assert said in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_a_trace_and_one_that_cannot_be_made(c: Engine, tmp_path: Path):
    c(tmp_path / "a")
    before = verify_trace(tmp_path / "a")
    assert "holds a trace already" in c(tmp_path / "a").stdout
    assert verify_trace(tmp_path / "a") == before
    (tmp_path / "file").write_text("")
    assert "Not a directory" in c(tmp_path / "file/below").stdout
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/manifest.jsonl").symlink_to(tmp_path / "elsewhere")
    assert "opened -1" in c(tmp_path / "linked").stdout
    assert not (tmp_path / "elsewhere").exists()


def test_off_by_the_environment(c: Engine, tmp_path: Path):
    assert "opened 0 on 0 closed 0" in c("").stdout
    assert "opened 0 on 0 closed 0" in c(tmp_path / "a", PARITY_TRACE="off").stdout
    assert not (tmp_path / "a").exists()
    assert "on 1" in c("", PARITY_CAPTURE=str(tmp_path / "b")).stdout
    assert verify_trace(tmp_path / "b").complete
    c("", PARITY_CAPTURE=str(tmp_path / "b"))  # another process with the same folder
    (inside,) = (tmp_path / "b").glob("process-*")
    assert verify_trace(inside).complete


def test_a_failed_forward_pass_and_a_full_disk_leave_an_unfinished_trace(c: Engine, tmp_path: Path):
    c(tmp_path / "a", "failed")
    assert not verify_trace(tmp_path / "a").complete
    done = c(tmp_path / "b", "full")
    assert done.returncode == 0
    assert "File too large" in done.stdout
    assert "on 0 closed -1" in done.stdout
    listing = verify_trace(tmp_path / "b")
    assert not listing.complete
    assert not listing.torn
    assert listing.captures >= 12
    assert listing.orphans == ()


def test_threads_wait_for_one_another_and_a_child_writes_nothing(c: Engine, tmp_path: Path):
    c(tmp_path / "a", "threads")
    assert verify_trace(tmp_path / "a").captures == 160
    c(tmp_path / "b", "fork")
    listing = verify_trace(tmp_path / "b")
    assert (listing.complete, listing.captures) == (True, 12)


def test_a_stream_in_a_graph_and_a_failing_copy_are_refused(tmp_path: Path):
    device = runs(compile_engine("c99 with device pointers", tmp_path))
    for variable, said in (("STANDIN_CAPTURING", "captured into a graph"), ("STANDIN_FAILS", "copy from the device")):
        done = device(tmp_path / variable, **{variable: "1"})
        assert said in done.stdout
        assert verify_trace(tmp_path / variable).complete
        assert len(open_trace(tmp_path / variable).captures) < 36


def test_the_header_knows_the_vocabulary():
    text = (ROOT / "sdk/parity_trace.h").read_text().split("/* stages begin */")[1].split("/* stages end */")[0]
    table = dict(re.findall(r'\{"([\w.]+)", "([A-Z]+)"\}', text))
    wanted = {name: "".join(word.axes) for name, word in VOCABULARY.items()}
    lines = ", ".join(f'{{"{name}", "{axes}"}}' for name, axes in wanted.items())
    assert table == wanted, f"put this between the marks of sdk/parity_trace.h:\n{lines},"


def test_the_readme_s_example_compiles_runs_and_verifies(tmp_path: Path):
    page = (ROOT / "sdk/README.md").read_text()
    (example,) = re.findall(r"```c\n(.*?)```", page, flags=re.DOTALL)
    (block,) = re.findall(r"```console\n(.*?)```", page, flags=re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 32
    (tmp_path / "example.c").write_text(example)
    (tmp_path / "sdk").symlink_to(ROOT / "sdk")
    commands = [line[2:] for line in block.splitlines()]
    for command in commands[:2]:
        subprocess.run(command, shell=True, cwd=tmp_path, check=True, timeout=60)
    assert commands[2].split()[:3] == ["parity", "trace", "verify"]
    listing = verify_trace(tmp_path / commands[2].split()[3])
    assert (listing.complete, listing.captures, listing.missing) == (True, 1, ())


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_nvcc_compiles_it(tmp_path: Path):
    source = tmp_path / "engine.cu"
    source.write_text((HERE / "engine.c").read_text())
    warnings = ["-Xcompiler", "-Wall,-Wextra,-Werror"]
    command = ["nvcc", "-std=c++17", *warnings, f"-I{ROOT / 'sdk'}", str(source), "-o", str(tmp_path / "engine")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    if done.returncode and "cannot find" in done.stderr + done.stdout:
        # A compiler without the runtime's libraries, as CI has it: what is compiled is the object alone.
        done = subprocess.run([*command, "-c"], capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
        return
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.gpu
def test_device_memory_of_a_gpu(tmp_path: Path, run: Run):
    if not torch.cuda.is_available() or shutil.which("nvcc") is None:
        pytest.skip("no CUDA device with nvcc")
    source = tmp_path / "engine.cu"
    source.write_text((HERE / "engine.c").read_text())
    out = tmp_path / "engine"
    subprocess.run(["nvcc", "-std=c++17", f"-I{ROOT / 'sdk'}", str(source), "-o", str(out)], check=True, timeout=280)
    assert runs(out)(tmp_path / "c").returncode == 0
    write_with_python(tmp_path / "python", replace(run))
    assert diff_traces(tmp_path / "c", tmp_path / "python").same
