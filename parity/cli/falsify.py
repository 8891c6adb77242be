"""`parity falsify`: tests that decide a popular claim by themselves, with what to paste into a report."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from parity.cli.app import AsJson, app, print_json
from parity.cli.inputs import Ids, Options, PromptFile, parse_options, read_request

falsify = typer.Typer(
    no_args_is_help=True,
    help="Decisive tests of popular claims.\n\n"
    "Example: parity falsify residual-scale --runner triton:fixtures/models/moe-tiny-fp8 --ids 1,2,3,4,5,6,7,8",
)
app.add_typer(falsify, name="falsify")


@falsify.callback()
def of_claims() -> None:
    """Decisive tests of popular claims."""


@falsify.command("residual-scale")
def residual_scale(
    runner: Annotated[str, typer.Option(help="The engine, NAME:MODEL.")],
    prompt: PromptFile = None,
    ids: Ids = None,
    claim: Annotated[str | None, typer.Option(help="The claim in its author's words.")] = None,
    option: Options = None,
    as_json: AsJson = False,
) -> None:
    """Does the size of the last residual reach the logits? X and X / 100 through the same final norm and head.

    Exit code: 0 the claim is refuted, 1 the scale reaches the head (no norm, or another one), 2 unresolved or refused.

    Example: parity falsify residual-scale --runner triton:fixtures/models/moe-tiny-fp8 --ids 1,2,3,4,5,6,7,8
    """
    from parity.decode import falsify_residual_scale
    from parity.decode.residual import CLAIM
    from parity.process_runner import ProcessRunner

    request = read_request(prompt, ids, model=runner.partition(":")[2])
    with (
        Console(stderr=True).status("opening the engine") as status,
        ProcessRunner(runner, **parse_options(option)) as engine,
    ):
        found = falsify_residual_scale(
            engine, request, claim=claim or CLAIM, tell=lambda what: status.update(escape(what))
        )
    print_json(found) if as_json else print(found.paste)
    code = {"refuted": 0, "no_norm": 1, "scale_dependent": 1, "unresolved": 2}[found.verdict]
    if code:
        raise typer.Exit(code)
