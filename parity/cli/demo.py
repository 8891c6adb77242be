"""`parity demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from parity.cli.app import AsJson, app, print_json


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for report.md, figures and finding.json.")] = Path("demo-report"),
    as_json: AsJson = False,
) -> None:
    """Find the dropped rows of an FP8 mixture-of-experts GEMM, then run the same prompt without the fault.

    Example: parity demo --out demo-report
    """
    from parity.demo import run_demo, write_demo
    from parity.report.show import show_investigation

    console = Console(stderr=as_json)
    result = run_demo(console)
    report = write_demo(result, out)
    if as_json:
        print_json(result.summary())
    else:
        show_investigation(result.faulty, result.healthy, console)
        console.print(f"Report: {report}, figures and finding.json beside it. {result.seconds:.0f} s.")
    if not result.as_expected:
        raise typer.Exit(1)
