"""The command line: `parity demo`, `parity doctor`. Exit 0: as expected; 1: divergence; 2: refused or misuse."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from parity.errors import ParityError
from parity.records import as_json

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Which row, head, expert or tile of which stage of which layer of an inference engine is wrong.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


@app.callback()
def settings(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of refused input.")] = False,
) -> None:
    settings_debug[0] = debug


settings_debug = [False]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for report.md, figures and finding.json.")] = Path("demo-report"),
    as_json_: AsJson = False,
) -> None:
    """Find the dropped rows of an FP8 mixture-of-experts GEMM, then run the same prompt without the fault.

    Example: parity demo --out demo-report
    """
    from parity.demo import run_demo, write_demo
    from parity.report.show import show_investigation

    console = Console(stderr=as_json_)
    result = run_demo(console)
    report = write_demo(result, out)
    if as_json_:
        print(json.dumps(as_json(result.summary()), indent=2))
    else:
        show_investigation(result.faulty, result.healthy, console)
        console.print(f"Report: {report}, figures and finding.json beside it. {result.seconds:.0f} s.")
    if not result.as_expected:
        raise typer.Exit(1)


@app.command()
def doctor(as_json_: AsJson = False) -> None:
    """Say what this machine can run, and what will be skipped and why.

    Example: parity doctor
    """
    from parity.doctor import examine

    checks = examine()
    if as_json_:
        print(json.dumps(as_json(checks), indent=2))
    else:
        table = Table(box=None, pad_edge=False)
        for column in ("", "state", "found", "what it means"):
            table.add_column(column)
        colours = {"ok": "green", "skip": "yellow", "bad": "red"}
        for check in checks:
            state = f"[{colours[check.state]}]{check.state}[/]"
            table.add_row(check.name, state, check.found, check.consequence)
        Console().print(table)
    if any(check.state == "bad" for check in checks):
        raise typer.Exit(2)


def main() -> None:
    """Entry point of the `parity` command: refused input ends in one readable paragraph and exit 2."""
    try:
        app()
    except ParityError as error:
        if settings_debug[0]:
            raise
        Console(stderr=True).print(f"[red]parity:[/] {error}", highlight=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
