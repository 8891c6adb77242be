"""What all commands share: the application, its options, and how a refusal, a defect or an interruption ends.

Exit codes:
  0    within the floor, equal, intact, or done
  1    a divergence or a difference was found
  2    refused input or misuse; also an internal error, which never reads as a divergence
  130  interrupted (Ctrl-C)
  141  the reader of a pipe went away
"""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from parity.errors import ParityError, UsageError
from parity.records import as_json

INTERRUPTED = 130
PIPE_CLOSED = 141
"""What a shell reports of a command that SIGINT or SIGPIPE ended."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Which row, head, expert or tile of which stage of which layer of an inference engine is wrong.\n\n"
    "Exit codes: 0 within the floor, equal, intact or done; 1 a divergence or difference was found; 2 refused input, "
    "misuse, or an internal error; 130 interrupted; 141 the reader of a pipe went away.\n\n"
    "Example: parity demo --out demo-report",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables, refusals included.")]


@app.callback()
def settings(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    # Read off the command line by `main`, since a refusal can come before this runs.
    del debug


def print_json(content: Any) -> None:
    """Print records and plain values as one JSON object."""
    print(json.dumps(as_json(content), indent=2))


def main() -> None:
    """Entry point of the `parity` command."""
    run_app(app, "parity")


def run_app(application: typer.Typer, name: str) -> None:
    """Run a command line: whatever happens ends in one readable paragraph (with `--json` in one JSON object
    `{"error": ...}` on stdout) and one of the exit codes above. `--debug` lets the traceback through."""
    arguments = sys.argv[1:]
    try:
        code = _run(application, name)
        sys.stdout.flush()
    except BrokenPipeError:
        code = PIPE_CLOSED
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        if "--debug" in arguments:
            raise
        # Click reports misuse of options with exceptions of its own, which know their message and nothing else.
        _report(_as_refusal(error, arguments, name), as_json="--json" in arguments)
        code = 2
    if code == PIPE_CLOSED:
        # Python flushes stdout once more when it ends; that must not fail loudly.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _run(application: typer.Typer, name: str) -> int:
    try:
        done = application(prog_name=name, standalone_mode=False)
    except typer.Abort:
        return INTERRUPTED
    except SystemExit as end:
        # Click turns a closed pipe into exit 1, which here means a divergence.
        if isinstance(end.__context__, BrokenPipeError):
            return PIPE_CLOSED
        raise
    return done if isinstance(done, int) else 0


def _as_refusal(error: Exception, arguments: list[str], name: str) -> ParityError:
    if isinstance(error, ParityError):
        return error
    format_message = getattr(error, "format_message", None)
    if callable(format_message):
        context = getattr(error, "ctx", None)
        command = getattr(context, "command_path", None) or name
        return UsageError(
            place="command line",
            expected=f"arguments as `{command} --help` shows them",
            found=str(format_message()).strip().rstrip("."),
            next_step=f"See `{command} --help`.",
        )
    return InternalError(
        place=f"internal error in `{' '.join((name, *arguments))}`",
        expected="no exception but a refusal with its reason",
        found=f"{type(error).__name__}: {error}"[:500],
        next_step="This is a defect of parity-lab: run it again with --debug and report the traceback.",
    )


class InternalError(ParityError):
    """An exception that nobody foresaw, told as one paragraph."""


def _report(error: ParityError, *, as_json: bool) -> None:
    if as_json:
        parts = {name: getattr(error, name) for name in ("place", "expected", "found", "next_step")}
        print_json({"error": {"kind": type(error).__name__, **parts}})
    else:
        Console(stderr=True).print(f"[red]parity:[/] {escape(str(error))}", highlight=False)
