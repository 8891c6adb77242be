"""`parity replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from parity.cli.app import AsJson, app, print_json


@app.command()
def replay(
    trace: Annotated[Path, typer.Option(help="Folder of the SUT's trace, every stage of the layers captured.")],
    oracle: Annotated[str, typer.Option(help="Oracle on the SUT's weights: recipe:MODEL or hf:MODEL.")],
    floor: Annotated[
        Path | None, typer.Option(help="Noise floor of the SUT's recipe; without one nothing is judged.")
    ] = None,
    layer: Annotated[list[int] | None, typer.Option(help="Only these layers; may be repeated.")] = None,
    stage: Annotated[list[str] | None, typer.Option(help="Only these stages (patterns); may be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Split each stage's error into what it inherited and what it added, from one capture of the SUT.

    Exit 1 when a stage adds error over its floor, 2 when the trace or the floor cannot answer.

    Example: parity replay --trace runs/sut --oracle recipe:MODEL --floor fixtures/floors/fp8_block.json
    """
    from parity.floor import Floor
    from parity.ladder.replay_trace import replay_trace
    from parity.runner import open_runner
    from parity.trace import open_trace

    exact = {"recipe": "fp32"} if oracle.startswith("recipe:") else {}
    result = replay_trace(
        open_trace(trace),
        open_runner(oracle, **exact),
        floor=None if floor is None else Floor.load(floor),
        layers=tuple(layer or ()),
        stages=tuple(stage or ()),
    )
    if as_json:
        print_json(result.as_dict())
    else:
        console = Console()
        console.print(_table(result, console.width))
        console.print(_arms(result))
        console.print(result.sentence())
    if result.adds_error:
        raise typer.Exit(1)


WIDE = 120
"""Characters a line from which all columns fit."""

_LEFT_OUT = ("inherited", "to emulation", "amplified")
"""In a narrower window; what a site adds and how it was judged stay."""


def _table(result: Any, width: int) -> Table:
    left_out = () if width >= WIDE else _LEFT_OUT
    table = Table(title="Error of each stage, split (rel_l2)", title_justify="left", pad_edge=False)
    if left_out:
        table.box, table.padding = None, (0, 1)
        table.caption = f"{', '.join(left_out)}: in a window of {WIDE} characters, or with --json"
        table.caption_justify = "left"
    shown: list[dict[str, str]] = []
    for row in result.rows:
        judged = result.judged(row)
        gates = {} if judged is None else judged.over_gates
        cells = {
            "site": row.name,
            "phase": row.phase,
            "shown": _number(row.shown),
            "inherited": _number(row.inherited),
            "added here": _number(row.added),
            "to emulation": _number(row.distance),
            "amplified": _number(row.amplification, ".2f"),
            "isolated": "" if judged is None else judged.verdict.value,
            "error gate": _number(gates.get("error"), ".2f"),
            "distance gate": _number(gates.get("distance"), ".2f"),
        }
        shown.append({name: cell for name, cell in cells.items() if name not in left_out})
    one_phase = len({row.phase for row in result.rows}) == 1
    columns = [name for name in (shown[0] if shown else {}) if not (one_phase and name == "phase")]
    for name in columns:
        words = name in ("site", "phase", "isolated")
        table.add_column(name, justify="left" if words else "right", no_wrap=words)
    for cells in shown:
        table.add_row(*(cells[name] for name in columns))
    return table


def _arms(result: Any) -> Table:
    """The chained error, judged twice, and how far the experts agree where the oracle was free."""
    table = Table(title="Oracle routed as the SUT, and free", title_justify="left", pad_edge=False)
    for column in ("layer", "worst, routed alike", "worst, free", "experts in common", "tokens with all", "excluded"):
        table.add_column(column, justify="right")
    for routing in result.routing:
        worst = [
            max((c.over_floor for c in arm.comparisons if c.layer == routing.layer and c.over_floor), default=None)
            for arm in (result.chained, result.free)
        ]
        table.add_row(
            str(routing.layer),
            *(_number(score, ".2f") for score in worst),
            f"{routing.overlap:.3f} of {routing.top_k:.0f}",
            f"{100 * routing.complete:.1f} %",
            f"{100 * routing.excluded:.2f} %",
        )
    return table


def _number(value: float | None, form: str = ".2e") -> str:
    return "-" if value is None else format(value, form)
