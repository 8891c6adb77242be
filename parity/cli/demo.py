"""`parity demo`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from parity.cli.app import AsJson, app, print_json

WIDTH = 120


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of both investigations and their report.")] = Path("demo-report"),
    as_json: AsJson = False,
) -> None:
    """Find the dropped rows of an FP8 mixture-of-experts GEMM, then run the same prompt without the fault.

    Example: parity demo --out demo-report
    """
    from parity.demo import run_demo, write_demo
    from parity.demo.show import show_demo

    # Piped, a console takes 80 columns, into which the tables do not go.
    console = Console(stderr=as_json, width=None if sys.stdout.isatty() else WIDTH)
    result = run_demo(console, out)
    report = write_demo(result)
    if as_json:
        print_json(result.summary())
    else:
        show_demo(result, console)
        console.print(f"\nReport: {report}; report.md, figures, records and ledger lie beside it.", highlight=False)
        console.print(f"{result.seconds:.0f} s.", highlight=False)
    if not result.as_expected:
        raise typer.Exit(1)
