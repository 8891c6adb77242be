"""`parity floor calibrate | show | power`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from parity.cli.app import AsJson, app, print_json

floor = typer.Typer(no_args_is_help=True, help="Noise floors: what a correct implementation of a recipe shows.")
app.add_typer(floor, name="floor")

FloorFile = Annotated[Path, typer.Argument(help="A floor that `parity floor calibrate` wrote.")]


@floor.command()
def calibrate(
    model: Annotated[Path, typer.Option(help="Model folder; its own recipe unless --recipe names another.")],
    prompts: Annotated[list[Path], typer.Option(help="Prompt files (JSON with `ids`) or folders; one document each.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    recipe: Annotated[
        str | None, typer.Option(help="The engine's, as fp32, bf16, bf16_torch (PyTorch's rounding) or fp8_block.")
    ] = None,
    runs: Annotated[int, typer.Option(help="Clean runs to calibrate on.", min=4)] = 72,
    heldout: Annotated[float, typer.Option(help="Share of documents kept apart to count false alarms on.")] = 0.33,
    level: Annotated[float, typer.Option(help="Share of clean runs that may exceed any gate.")] = 1e-3,
    longest: Annotated[int, typer.Option(help="Longest prompt, tokens.")] = 2048,
    samples: Annotated[Path | None, typer.Option(help="Keep samples here; an interrupted calibration goes on.")] = None,
    perturb: Annotated[
        bool, typer.Option("--perturb", help="Without FP32: the spread of one rounding of the inputs.")
    ] = False,
    hide: Annotated[
        list[str] | None, typer.Option(help="Stage inside one of the engine's kernels, as moe.gate; repeatable.")
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="Of torch; more than one pays on models of some thousand columns only.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Calibrate a floor from clean runs of the recipe's emulation, and count its false alarms on other documents.

    Example: parity floor calibrate --model fixtures/models/moe-tiny-fp8 --prompts fixtures/heldout --out floor.json
    """
    import torch

    from parity.ladder.make_floor import make_floor

    # Many small products: several threads wait for each other longer than they compute (8 times the CPU, measured).
    torch.set_num_threads(threads)
    made = make_floor(
        model=str(model),
        prompts=prompts,
        recipe=recipe,
        runs=runs,
        heldout=heldout,
        level=level,
        longest=longest,
        keep=samples,
        perturb=perturb,
        hide=hide or (),
        on_step=_tell,
    )
    made.save(out)
    _print(made, as_json)


@floor.command()
def show(file: FloorFile, as_json: AsJson = False) -> None:
    """What a floor was made from, its gates, its false alarms on held-out runs and its power.

    Example: parity floor show fixtures/floors/fp8_block.json
    """
    from parity.floor import Floor

    _print(Floor.load(file), as_json)


@floor.command()
def power(
    file: FloorFile,
    model: Annotated[Path, typer.Option(help="The model folder that the floor is for.")],
    prompts: Annotated[list[Path], typer.Option(help="Prompt files or folders; clean runs to plant damage in.")],
    runs: Annotated[int, typer.Option(help="Clean runs that must all show the damage.", min=1)] = 2,
    longest: Annotated[int, typer.Option(help="Longest prompt, tokens.", min=1)] = 512,
    as_json: AsJson = False,
) -> None:
    """Measure what the gates see, by planting damage of falling strength in clean runs; kept in the floor's file.

    Example: parity floor power floor.json --model fixtures/models/moe-tiny-fp8 --prompts fixtures/heldout
    """
    from parity.floor import Floor
    from parity.ladder.make_floor import add_power

    made = add_power(Floor.load(file), model=str(model), prompts=prompts, runs=runs, longest=longest, on_step=_tell)
    made.save(file)
    _print(made, as_json)


def _tell(what: str, done: int, total: int) -> None:
    """Progress, on stderr."""
    Console(stderr=True).print(f"{what} {done}/{total}", highlight=False)


def _print(made: Any, as_json: bool) -> None:
    if as_json:
        print_json(made.as_dict())
        return
    console = Console()
    console.print(made.sentence(), highlight=False)
    gates = Table(title="Gates", title_justify="left", pad_edge=False)
    for column in ("mode", "z", "how", "level", "clean runs", "largest z of theirs"):
        gates.add_column(column)
    for mode, gate in made.gates.items():
        worst = f"{gate.run_z[-1]:.2f}" if gate.run_z else "-"
        gates.add_row(mode, f"{gate.z:.2f}", gate.method, f"{gate.level:.2g}", str(len(gate.run_z)), worst)
    console.print(gates)
    if made.power:
        console.print(_power(made))


_DAMAGES = ("lost rows", "scale", "wrong elements", "swapped rows")


def _power(made: Any) -> Table:
    """Weakest damage seen, worst stage of each kind and damage in full."""
    modes = sorted({one.mode for one in made.power})
    several = len(modes) > 1
    title = "Weakest damage seen at every place tried" + ("" if several else f" by the {modes[0]} gates")
    table = Table(title=title, title_justify="left", pad_edge=False)
    for column in (*(["gate"] if several else []), "stage", "slice", *_DAMAGES):
        table.add_column(column, no_wrap=column in ("gate", "stage", "slice"))
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for one in made.power:
        words = "NO_POWER" if one.strength is None else f"{one.strength:.2g}"
        cells.setdefault((one.mode, one.stage, one.kind), {})[one.damage] = words
    for key, row in cells.items():
        table.add_row(*(key if several else key[1:]), *(row.get(name, "") for name in _DAMAGES))
    table.caption = "lost, wrong and swapped: the share of the slice; scale: the relative error of a factor"
    table.caption_justify = "left"
    return table
