"""`parity ledger add|conclude|withdraw|show`: what was supposed of a case, and what became of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parity.cli.app import AsJson, app, print_json

ledger = typer.Typer(no_args_is_help=True, help="Hypotheses, their predictions, and what refuted them.\n\n"
                     "Example: parity ledger show --case case-1")  # fmt: skip
app.add_typer(ledger, name="ledger")

Case = Annotated[Path, typer.Option(help="Folder of the investigation; the ledger is ledger.jsonl in it.")]


@ledger.command()
def add(
    claim: Annotated[str, typer.Argument(help="What is supposed to be the cause.")],
    predicts: Annotated[str, typer.Option(help="What a test will measure if the claim is true.")],
    by: Annotated[str, typer.Option(help="Who raised it.")],
    case: Case = Path(),
    as_json: AsJson = False,
) -> None:
    """Enter a hypothesis with its prediction, before any test of it.

    Example: parity ledger add "FP8 noise explains it" --predicts "rows lie within the floor" --by Ada
    """
    from parity.ladder.ledger import Ledger

    entry = Ledger(case).suppose(claim, prediction=predicts, raised_by=by)
    print_json(entry) if as_json else print(f"{entry.id}: {entry.claim}")


@ledger.command()
def conclude(
    hypothesis: Annotated[str, typer.Argument(help="Its id, H1 for instance.")],
    verdict: Annotated[str, typer.Argument(help="supported, refuted or inconclusive.")],
    command: Annotated[str, typer.Option(help="What to run to see it again.")],
    number: Annotated[list[str] | None, typer.Option(help="NAME=VALUE that was measured; repeat for more.")] = None,
    artifact: Annotated[list[Path] | None, typer.Option(help="A file the test produced; its hash is kept.")] = None,
    rules_out: Annotated[list[str] | None, typer.Option(help="What it rules out.")] = None,
    leaves_open: Annotated[list[str] | None, typer.Option(help="What it does not.")] = None,
    rests_on: Annotated[list[str] | None, typer.Option(help="Id of a test whose numbers this needs.")] = None,
    case: Case = Path(),
    as_json: AsJson = False,
) -> None:
    """Enter what came of testing a hypothesis.

    Example: parity ledger conclude H1 refuted --command "parity compare ..." --number over_floor=9.5 --case case-1
    """
    from parity.ladder.ledger import Ledger

    entry = Ledger(case).conclude(
        hypothesis,
        verdict,
        command=command,
        numbers=dict(_number(text) for text in number or ()),
        artifacts=artifact or (),
        rules_out=rules_out or (),
        leaves_open=leaves_open or (),
        rests_on=rests_on or (),
    )
    print_json(entry) if as_json else print(f"{entry.id}: {entry.hypothesis} {entry.verdict.value}")


@ledger.command()
def reopen(
    test: Annotated[str, typer.Argument(help="Id of the test whose evidence no longer counts, T1 for instance.")],
    because: Annotated[str, typer.Option(help="Why it does not.")],
    case: Case = Path(),
    as_json: AsJson = False,
) -> None:
    """Take a test's evidence back: every conclusion that rested on it is open again.

    Example: parity ledger reopen T1 --because "the trace was of another prompt" --case case-1
    """
    from parity.ladder.ledger import Ledger

    opened = Ledger(case).withdraw(test, because=because)
    if as_json:
        print_json({"withdrawn": test, "open_again": opened})
    else:
        print(f"{test} no longer counts; open again: {', '.join(opened) or 'nothing'}")


@ledger.command()
def show(case: Case = Path(), as_json: AsJson = False) -> None:
    """Every hypothesis, where it stands, and the numbers behind it.

    Example: parity ledger show --case case-1
    """
    from parity.ladder.ledger import Ledger

    held = Ledger(case)
    if as_json:
        standing = {h.id: held.standing(h.id) for h in held.hypotheses}
        print_json({"entries": held.entries, "standing": standing, "withdrawn": sorted(held.withdrawn())})
        return
    gone = held.withdrawn()
    table = Table(box=None, pad_edge=False)
    for column in ("", "claim", "stands", "prediction", "measured"):
        table.add_column(column, overflow="fold")
    for hypothesis in held.hypotheses:
        measured = [
            f"{test.id} {'(withdrawn) ' if test.id in gone else ''}{test.verdict.value}: "
            + ", ".join(f"{name}={_short(value)}" for name, value in test.numbers.items())
            for test in held.tests(hypothesis.id)
        ]
        cells = (hypothesis.claim, held.standing(hypothesis.id).value, hypothesis.prediction, "\n".join(measured))
        table.add_row(hypothesis.id, *(escape(cell) for cell in cells))
    Console().print(table if held.hypotheses else "no hypothesis yet")


def _short(value: Any) -> str:
    """A measured value for a table: numbers to four digits; `--json` has all of them."""
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_short(one)}" for name, one in value.items()) + ")"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_short, value)) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(text: str) -> tuple[str, float | str]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        return name, value
