"""`parity audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parity.cli.app import AsJson, app, print_json
from parity.cli.inputs import Options, parse_options


@app.command()
def audit(
    sut: Annotated[str, typer.Option(help="The engine, NAME:MODEL, as in triton:fixtures/models/moe-tiny-fp8.")],
    oracle: Annotated[str, typer.Option(help="Who reads the checkpoint, NAME:MODEL, as in recipe:MODEL.")],
    reference: Annotated[
        Path | None, typer.Option(help="Model folder of the same lineage that the weights must agree with.")
    ] = None,
    option: Options = None,
    oracle_option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for the oracle, as in recipe=bf16; repeat for more.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Does this engine run this checkpoint? Hyper-parameters, recipe, every tensor read once, every scale consumed.

    Values that the engine states, and values that its operations are told, are compared with config.json as the oracle
    reads it; weights by their content where the operations read them, whatever the loader says it did. What a side
    does not tell is `not stated`, and a check that the engine cannot do is not run; neither is counted as passed.

    Exit code: 0 when nothing is wrong, 1 when something differs, 2 when nothing could be judged.

    Example: parity audit --sut triton:MODEL --oracle recipe:MODEL --reference BF16_MODEL
    """
    from parity.audit import audit_apart

    with Console(stderr=True).status("reading both sides"):
        found = audit_apart(
            oracle=oracle,
            sut=sut,
            reference=reference,
            oracle_options=parse_options(oracle_option, place="--oracle-option"),
            **parse_options(option),
        )
    print_json({**vars(found), "exit_code": found.exit_code}) if as_json else _show(found)
    raise typer.Exit(found.exit_code)


def _show(found: Any) -> None:
    console = Console()
    colours = {"held": "green", "broken": "red", "not_run": "yellow", "unjudged": "yellow"}
    checks = _table("check", "outcome", "what it came to")
    for check in found.checks:
        outcome = check.outcome.value
        checks.add_row(check.name, f"[{colours[outcome]}]{outcome}[/]", escape(check.sentence))
    console.print(checks)
    rows = [row for row in found.values if row.verdict == "different"]
    if rows:
        values = _table("hyper-parameter", "checkpoint", "engine states", "operations are told")
        for row in rows:
            values.add_row(row.name, *(escape(str(one)) for one in (row.checkpoint, row.stated, row.observed)))
        console.print(values)
    for title, some in (("wrong", found.findings), ("to be replayed", found.suspicions)):
        for one in some:
            console.print(
                f"{title}: {escape(one.sentence)}{f' [{one.cause}]' if one.cause else ''}", markup=False, soft_wrap=True
            )


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table
