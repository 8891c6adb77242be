"""`parity invariants`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parity.cli.app import AsJson, app, print_json
from parity.cli.inputs import Ids, PromptFile, parse_options, read_request


@app.command()
def invariants(
    runner: Annotated[str, typer.Argument(help="The engine, NAME:MODEL, as in triton:fixtures/models/moe-tiny.")],
    prompt: PromptFile = None,
    ids: Ids = None,
    check: Annotated[list[str] | None, typer.Option(help="Only this check; may be repeated.")] = None,
    tokens: Annotated[int, typer.Option(min=8, help="Use at most so many ids; without a prompt, random ones.")] = 384,
    brief: Annotated[int, typer.Option(min=8, help="Ids of it that the checks of feeding use.")] = 72,
    floor: Annotated[Path | None, typer.Option(help="A noise floor, for what the engine promises no bits of.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for the engine; repeat for more.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find faults of an engine without an oracle: what must hold whatever the right answer is.

    Launch coverage, sum rules, run to run, probes, poisoned memory, history, chunks, batch and slot, padding, decode
    against prefill, causality, relabelled experts and heads, sister variants, scale of the final norm. A check that the
    engine cannot do is reported as not run, with the reason, and never as passed.

    Exit code: 0 when nothing is broken or unjudged, 1 when something is broken, 2 when something stayed unjudged or a
    check asked for by name could not run.

    Overloaded experts, and what a kernel does with them, need a long prompt: 384 ids and more.

    Example: parity invariants triton:fixtures/models/moe-tiny-fp8 --check poison
    """
    from parity.floor import Floor
    from parity.invariance import Examination, Outcome
    from parity.invariance.apart import examine_apart
    from parity.runner import Request

    request = None
    if prompt is not None or ids is not None:
        given = read_request(prompt, ids)
        request = Request(given.name, given.ids[:tokens])
    loaded = None if floor is None else Floor.load(floor)
    options = parse_options(option)
    console = Console(stderr=True)

    def examined(on_step: Any) -> Examination:
        return examine_apart(
            runner, request, checks=check or (), brief=brief, floor=loaded, on_step=on_step, tokens=tokens, **options
        )

    if as_json:
        examination = examined(None)
        print_json(examination)
    else:
        with console.status("opening the engine") as status:
            examination = examined(lambda what, done, total: status.update(f"{done}/{total} {escape(what)}"))
        _show(examination)
    outcomes = [one.outcome for one in examination.invariances]
    if Outcome.BROKEN in outcomes:
        raise typer.Exit(1)
    if not examination.settled or (check and Outcome.NOT_RUN in outcomes):
        raise typer.Exit(2)


def _show(examination: Any) -> None:
    colours = {"held": "green", "broken": "red", "not_run": "yellow", "unjudged": "yellow"}
    table = Table(box=None, pad_edge=False)
    for column in ("check", "outcome", "what was turned", "what it came to"):
        table.add_column(column)
    for one in examination.invariances:
        outcome = f"[{colours[one.outcome.value]}]{one.outcome.value}[/]"
        table.add_row(one.name, outcome, escape(one.turned), escape(one.sentence))
    Console().print(table)
    print(f"{examination.runner} ({examination.recipe}), prompt {examination.prompt}, {examination.ids} ids")
