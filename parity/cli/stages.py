"""`parity stages`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from parity.cli.app import AsJson, app, print_json
from parity.cli.inputs import Options, parse_options


@app.command()
def stages(
    runner: Annotated[str | None, typer.Option("--runner", "-r", help="Name of a runner: triton, hf, recipe.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Its model folder.")] = None,
    family: Annotated[str | None, typer.Option(help="A model family instead, without sizes: qwen3_moe.")] = None,
    option: Options = None,
    as_json: AsJson = False,
) -> None:
    """List the stages of a runner on a model: what each is, its axes with their sizes, what it reads.

    Example: parity stages --runner triton --model fixtures/models/moe-tiny

    Example: parity stages --family qwen3_moe
    """
    from parity.preview import list_stages

    listing = list_stages(runner=runner, model=model, family=family, options=parse_options(option))
    if as_json:
        print_json(listing)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("stage", "axes", "dtype", "reads", "what it is"):
        table.add_column(column, no_wrap=column == "stage")
    for entry in listing.stages:
        axes = " ".join(
            f"{letter}={listing.sizes[letter]}" if letter in listing.sizes else letter for letter in entry.axes
        )
        about = entry.about if entry.observable else f"[yellow]not observable here[/]: {entry.about}"
        reads = ", ".join((*entry.inputs, *(f"cached {name}" for name in entry.state)))
        table.add_row(entry.stage, axes, entry.dtype or "", reads, about)
    console = Console()
    console.print(table)
    letters = ", ".join(f"{letter} {about}" for letter, about in listing.letters.items())
    console.print(f"{listing.title}. Axes: {letters}.", highlight=False)
