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
        console.print(_table(result))
        console.print(_arms(result))
        console.print(result.sentence())
    if result.adds_error:
        raise typer.Exit(1)


def _table(result: Any) -> Table:
    table = Table(title="Error of each stage, split (rel_l2)", title_justify="left", pad_edge=False)
    columns = (
        "site", "phase", "shown", "inherited", "added here", "to emulation", "amplified", "isolated", "error gate",
        "distance gate",
    )  # fmt: skip
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number in (0, 1, 7) else "right", no_wrap=True)
    for row in result.rows:
        judged = result.judged(row)
        gates = {} if judged is None else judged.over_gates
        table.add_row(
            row.name,
            row.phase,
            *(_number(value) for value in (row.shown, row.inherited, row.added, row.distance)),
            _number(row.amplification, ".2f"),
            "" if judged is None else judged.verdict.value,
            *(_number(gates.get(gate), ".2f") for gate in ("error", "distance")),
        )
    return table


def _arms(result: Any) -> Table:
    """The chained error, judged twice, and how far the experts agree where the oracle was free."""
    table = Table(title="Oracle routed as the SUT, and free", title_justify="left", pad_edge=False)
    for column in ("layer", "worst, routed alike", "worst, free", "experts in common", "tokens with all", "excluded"):
        table.add_column(column, justify="right", no_wrap=True)
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
