"""`parity trace ls | stats | verify | diff | import`: looking at a trace on disk, and making one of foreign dumps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parity.cli.app import AsJson, app, print_json

commands = typer.Typer(no_args_is_help=True, help="Look at a trace on disk.\n\nExample: parity trace ls runs/sut")
app.add_typer(commands, name="trace")

Folder = Annotated[Path, typer.Argument(help="Folder of the trace.")]
OfStage = Annotated[str | None, typer.Option(help="Only this stage.")]
OfLayer = Annotated[int | None, typer.Option(help="Only this layer.")]


def _narrowed(stage: str | None, layer: int | None) -> dict[str, Any]:
    from parity.stages import term

    if stage is not None:
        term(stage)
    return (
        {}
        if stage is None and layer is None
        else {k: v for k, v in (("stage", stage), ("layer", layer)) if v is not None}
    )


@commands.command("ls")
def list_trace(folder: Folder, stage: OfStage = None, layer: OfLayer = None, as_json: AsJson = False) -> None:
    """List the captures of a trace; no payload is read.

    Example: parity trace ls runs/sut --stage moe.gate
    """
    from parity.trace import list_captures, open_trace

    trace = open_trace(folder)
    found = list_captures(trace, **_narrowed(stage, layer))
    if as_json:
        print_json({"folder": folder, "complete": trace.complete, "captures": found})
        return
    table = _table("capture", "step", "dtype", "shape", "positions", "bytes", right=("bytes",))
    for item in found:
        at = "" if item.first_position is None else f"{item.first_position}..{item.last_position}"
        table.add_row(item.name, _step(item), item.dtype, "x".join(map(str, item.shape)), at, f"{item.bytes:,}")
    console = Console()
    console.print(table)
    console.print(escape(repr(trace)), highlight=False)


@commands.command("stats")
def measure_trace(folder: Folder, stage: OfStage = None, layer: OfLayer = None, as_json: AsJson = False) -> None:
    """Numbers of each capture: least, largest, mean, deviation, norm, values that are not finite, zeros.

    Example: parity trace stats runs/sut --layer 0
    """
    from parity.trace import trace_statistics

    found = trace_statistics(folder, **_narrowed(stage, layer))
    if as_json:
        print_json({"folder": folder, "captures": list(found)})
        return
    numbers = ("min", "max", "mean", "std", "l2")
    table = _table("capture", "step", *numbers, "nonfinite", "zeros", right=(*numbers, "nonfinite", "zeros"))
    for item in found:
        values = ["" if (value := getattr(item, name)) is None else f"{value:.4g}" for name in numbers]
        bad = f"[red]{item.nonfinite}[/]" if item.nonfinite else "0"
        table.add_row(item.name, _step(item), *values, bad, str(item.zeros))
    Console().print(table)


@commands.command("verify")
def verify(folder: Folder, as_json: AsJson = False) -> None:
    """Read every byte of a trace and say what is intact, missing or damaged.

    Exit 0 when it is intact, unfinished or not; 2 when it is damaged.

    Example: parity trace verify runs/sut
    """
    from parity.trace import verify_trace

    listing = verify_trace(folder, strict=False)
    if as_json:
        print_json(listing)
    else:
        Console().print(escape(str(listing)), highlight=False)
    if listing.damaged:
        raise typer.Exit(2)


@commands.command("diff")
def diff(
    a: Annotated[Path, typer.Argument(help="Folder of the one trace.")],
    b: Annotated[Path, typer.Argument(help="Folder of the other.")],
    as_json: AsJson = False,
) -> None:
    """Compare two traces bit by bit: run, captures, payloads. There is no tolerance here and no verdict.

    Exit 0 when every payload is equal, whatever the runs are called; 1 when one is not; 2 when they cannot be read.

    Example: parity trace diff runs/oracle runs/sut
    """
    from parity.trace import diff_traces

    found = diff_traces(a, b)
    if as_json:
        print_json({"same_payloads": found.same_payloads, "same": found.same, "difference": found})
    else:
        console = Console()
        for field in found.run:
            console.print(escape(f"run {field.field}: {field.a} | {field.b}"), highlight=False)
        table = _table("capture", "step", "state", "differing", "first at", "also", right=("differing",))
        for item in found.captures:
            count = f"{item.differing} of {item.elements}" if item.elements else ""
            first = "" if item.first is None else ", ".join(map(str, item.first))
            also = "; ".join(f"{field.field} {field.a} | {field.b}" for field in item.fields)
            table.add_row(item.name, _step(item), item.state, count, first, escape(also))
        if found.captures:
            console.print(table)
        console.print(f"{found.identical} captures are identical, {len(found.captures)} are not.")
    if not found.same_payloads:
        raise typer.Exit(1)


@commands.command("import")
def import_(
    dump: Annotated[Path, typer.Argument(help="Folder of .npy files, or of .bin files with a .json beside each.")],
    stage_map: Annotated[Path, typer.Option("--map", help="JSON: the run, and which file is which stage.")],
    out: Annotated[Path, typer.Option(help="Folder for the trace; it must not hold one.")],
    as_json: AsJson = False,
) -> None:
    """Make a trace of tensors that somebody else dumped; docs/importing.md says how a map looks.

    Example: parity trace import dump --map map.json --out runs/sut
    """
    from parity.importers import import_dump, read_map

    found = import_dump(dump, read_map(stage_map), out)
    if as_json:
        print_json(found)
        return
    console = Console()
    console.print(escape(f"{found.out}: {found.captures} captures of {len(found.sites)} sites"), highlight=False)
    if found.ignored:
        console.print(escape("ignored by the map: " + ", ".join(found.ignored)), highlight=False)


def _step(item: Any) -> str:
    return f"{item.phase} {item.step}" + (f" chunk {item.chunk}" if item.chunk else "")


def _table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=column == "capture")
    return table
