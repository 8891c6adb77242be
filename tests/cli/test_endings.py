"""How does a command end? Exit codes as promised, one paragraph or one JSON object, no traceback unless asked for."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from parity import cli
from parity.cli.app import INTERRUPTED, PIPE_CLOSED
from parity.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in (".", "kernels", "oracles"))}


def commands(group: Any = None, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    group = get_command(cli.app) if group is None else group
    found = []
    for name, command in group.commands.items():
        found += commands(command, (*path, name)) if hasattr(command, "commands") else [(*path, name)]
    return found


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_each_command_has_an_example_and_json(command: tuple[str, ...], parity: Callable[..., Any]):
    ended = parity(*command, "--help")
    assert ended.code == 0
    assert "Example: parity " + " ".join(command) in " ".join(ended.out.split())
    group = get_command(cli.app)
    for name in command:
        group = group.commands[name]  # type: ignore[attr-defined]
    assert "--json" in {option for parameter in group.params for option in parameter.opts}


def test_help_states_the_exit_codes(parity: Callable[..., Any]):
    said = " ".join(parity("--help").out.split())
    assert "0 within the floor, equal, intact or done" in said
    assert "2 refused input" in said


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("nonsense",), "nonsense"),
        (("demo", "--colour"), "--colour"),
        (("trace", "ls"), "FOLDER"),
        (("capture", "hf:x", "--out", "o", "--chunk", "many"), "--chunk"),
    ],
)
def test_misuse_is_told_in_one_paragraph(arguments: tuple[str, ...], found: str, parity: Callable[..., Any]):
    ended = parity(*arguments)
    assert ended.code == 2
    assert found.lower() in ended.said.lower()
    assert "--help" in ended.said
    assert "Traceback" not in ended.err
    told = parity(*arguments, "--json")
    assert told.code == 2
    assert told.json["error"].keys() == {"kind", "place", "expected", "found", "next_step"}


def fail(error: BaseException) -> Callable[..., Any]:
    def run(*_: object) -> None:
        raise error

    return run


def test_a_refusal_is_a_json_object_where_json_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, parity: Callable[..., Any]
):
    refusal = UsageError(place="a", expected="[b]", found="[/c]", next_step="D.")
    monkeypatch.setattr("parity.doctor.examine", fail(refusal))
    ended = parity("doctor", "--json")
    assert ended.code == 2
    assert ended.json == {
        "error": {"kind": "UsageError", "place": "a", "expected": "[b]", "found": "[/c]", "next_step": "D."}
    }
    assert parity("doctor").said == "parity: a: expected [b]; found [/c]. D."


def test_an_unforeseen_exception_is_a_defect_and_never_reads_as_a_divergence(
    monkeypatch: pytest.MonkeyPatch, parity: Callable[..., Any]
):
    monkeypatch.setattr("parity.doctor.examine", fail(ZeroDivisionError("by nought")))
    ended = parity("doctor")
    assert ended.code == 2
    assert "internal error" in ended.said
    assert "ZeroDivisionError: by nought" in ended.said
    assert "--debug" in ended.said
    assert "Traceback" not in ended.err
    assert parity("doctor", "--json").json["error"]["kind"] == "InternalError"
    monkeypatch.setattr(sys, "argv", ["parity", "--debug", "doctor"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_ctrl_c_is_no_divergence(monkeypatch: pytest.MonkeyPatch, parity: Callable[..., Any]):
    for error in (KeyboardInterrupt(), typer.Abort()):
        monkeypatch.setattr("parity.doctor.examine", fail(error))
        ended = parity("doctor")
        assert (ended.code, ended.out) == (INTERRUPTED, "")
        assert "Traceback" not in ended.err


def test_a_closed_pipe_ends_quietly():
    line = "for i in range(20000): print('x' * 100)"
    code = f"import sys, parity.doctor, parity.cli\ndef examine():\n    {line}\n"
    code += "parity.doctor.examine = examine\nsys.argv = ['parity', 'doctor']\nparity.cli.main()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.readline()
    child.stdout.close()
    assert child.stderr.read() == b""
    assert child.wait() == PIPE_CLOSED


def test_an_interrupted_process_leaves_no_traceback():
    code = "import signal, sys, time, parity.cli, parity.doctor\n"
    # A shell ignores SIGINT for what it starts in the background, and its children inherit that.
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "parity.doctor.examine = lambda: (print('ready', flush=True), time.sleep(60))\n"
    code += "sys.argv = ['parity', 'doctor']\nparity.cli.main()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    assert child.stdout is not None
    assert child.stderr is not None
    assert child.stdout.readline() == b"ready\n"
    time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=30) == INTERRUPTED
    assert b"Traceback" not in child.stderr.read()


def asked(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "parity.cli", *arguments],
        capture_output=True, text=True, env={**ENVIRONMENT, **environment}, check=False,
    )  # fmt: skip


SHELLS = {
    "bash": (".bash_completions/parity.sh", "complete -o default -F"),
    "zsh": (".zfunc/_parity", "#compdef parity"),
    "fish": (".config/fish/completions/parity.fish", "complete --command parity"),
}
"""Where each shell looks for the completion of a command, and what it needs to find there."""


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("typed", "offered", "other"), [("tr", "trace", "compare"), ("compare --fl", "--floor", "--sut")]
)
def test_a_shell_completes_names_of_commands_and_options(shell: str, typed: str, offered: str, other: str):
    line = f"parity {typed}"
    done = asked(
        _PARITY_COMPLETE=f"complete_{shell}", _TYPER_COMPLETE_FISH_ACTION="get-args", _TYPER_COMPLETE_ARGS=line,
        COMP_WORDS=line, COMP_CWORD=str(len(typed.split())),
    )  # fmt: skip
    assert done.returncode == 0
    assert offered in done.stdout
    assert other not in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_installed_where_the_shell_looks_for_it(shell: str, tmp_path: Path):
    told = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "HOME": str(tmp_path)}
    place, needs = SHELLS[shell]
    shown = asked("--show-completion", shell, **told)
    assert shown.returncode == 0
    assert needs in shown.stdout
    assert f"_PARITY_COMPLETE=complete_{shell}" in shown.stdout
    done = asked("--install-completion", shell, **told)
    assert done.returncode == 0, done.stderr
    script = tmp_path / place
    assert script.read_text().strip() == shown.stdout.strip()
    if shutil.which(shell):  # the shell itself must be able to read it
        assert subprocess.run([shell, "-n", str(script)], check=False).returncode == 0
