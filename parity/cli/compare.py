"""`parity compare`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from parity.cli.app import AsJson, app, print_json


@app.command()
def compare(
    oracle: Annotated[Path, typer.Option(help="The side that is trusted: a trace, a .safetensors file or a folder.")],
    sut: Annotated[Path, typer.Option(help="The side under test, of the same kind.")],
    floor: Annotated[
        str | None,
        typer.Option(
            help="A calibrated floor's file (traces only), or derived:DTYPE for an analytic rounding bound; "
            "derived:DTYPE:N allows N roundings a side."
        ),
    ] = None,
    same_model_because: Annotated[
        str | None, typer.Option(help="Why two traces of checkpoints without a common root are the same model.")
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="Rows of the table.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Compare two traces, or two safetensors files with equal tensor names, slice by slice.

    Without a floor everything is measured and ranked and, unless all bits are equal, the exit code is 2.

    Example: parity compare --oracle a.safetensors --sut b.safetensors --floor derived:bfloat16
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from parity.compare import Outcome, compare_paths, harmless, open_floor, show_outcome
    from parity.compare.files import bytes_of, is_trace
    from parity.trace import open_trace

    opened = open_floor(floor)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    quiet = Console(stderr=True)
    with Progress(*columns, console=quiet, transient=True, disable=not quiet.is_terminal) as bar:
        task = bar.add_task("", total=(bytes_of(oracle) + bytes_of(sut)) or None)

        def advance(name: str, size: int) -> None:
            bar.update(task, advance=size, description=harmless(name, longest=40).replace("[", "\\["))

        summary = compare_paths(
            oracle=oracle, sut=sut, floor=opened, same_model_because=same_model_because, progress=advance
        )
    family = open_trace(sut).run.family if is_trace(sut) else None
    outcome = Outcome(summary, opened, family)
    if as_json:
        print_json(outcome.as_json())
    else:
        # A pipe or a log has no width of its own; rich would take 80 and fold every name.
        wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140
        show_outcome(outcome, Console(width=wide), top=top)
    raise typer.Exit(outcome.exit_code)
