"""`parity graft`: a tensor of one run put into another, and what that does to the symptom."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from parity.cli.app import AsJson, app, print_json
from parity.cli.inputs import Ids, PromptFile, parse_numbers, parse_options, parse_range, read_request

Numbers = Annotated[str | None, typer.Option(help="Numbers and ranges, such as 0,2-4.")]
Range = Annotated[str | None, typer.Option(help="a:b, b not included.")]


@app.command()
def graft(
    donor: Annotated[str, typer.Option("--from", help="Runner whose tensor is taken, NAME:MODEL.")],
    recipient: Annotated[str, typer.Option("--into", help="Runner it is put into, NAME:MODEL.")],
    stage: Annotated[str, typer.Option(help="Stage of the tensor, moe.gate for instance.")],
    layers: Numbers = None,
    heads: Numbers = None,
    experts: Numbers = None,
    rows: Numbers = None,
    columns: Range = None,
    positions: Range = None,
    prompt: PromptFile = None,
    ids: Ids = None,
    tokens: Annotated[int, typer.Option(help="New tokens to continue greedily, 0 for none.")] = 0,
    from_option: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for the donor; repeat for more.")] = None,
    into_option: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for the recipient.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put a tensor, or a slice of it, from one run into another, and measure the effect on logits and text.

    Exit 0: done, whatever the effect; 2: refused.

    Example: parity graft --from recipe:fixtures/models/moe-tiny-fp8 --into triton:fixtures/models/moe-tiny-fp8
    --into-option fault=moe_tile_truncation --stage moe.experts --layers 0-3
    --prompt fixtures/prompts/extra-multiprocessing-forkserver-768.json
    """
    from parity.graft import transplant
    from parity.process_runner import ProcessRunner
    from parity.records import Site, Slice

    def numbers(text: str | None, name: str) -> tuple[int, ...] | None:
        return None if text is None else parse_numbers(text, place=f"--{name}")

    def span(text: str | None, name: str) -> tuple[int, int] | None:
        return None if text is None else parse_range(text, place=f"--{name}")

    where = Slice(
        heads=numbers(heads, "heads"),
        experts=numbers(experts, "experts"),
        rows=numbers(rows, "rows"),
        columns=span(columns, "columns"),
        positions=span(positions, "positions"),
    )
    request = read_request(prompt, ids)
    site = Site(numbers(layers, "layers") or (), stage, where)
    with (
        ProcessRunner(donor, **parse_options(from_option, place="--from-option")) as given,
        ProcessRunner(recipient, **parse_options(into_option, place="--into-option")) as own,
    ):
        found = transplant(donor=given, recipient=own, request=request, site=site, max_new_tokens=tokens)
    if as_json:
        print_json(found)
        return
    console = Console()
    console.print(f"{escape(stage)} of {escape(donor)} in {escape(recipient)}: {found.effect.line()}", highlight=False)
    if found.left_out:
        console.print(f"{found.left_out} rows were left out: those tokens went to other experts", highlight=False)
    for who, made in (("before", found.before), ("after", found.after), ("donor", found.donor)):
        if made is not None:
            console.print(f"{who:>8}: {escape(repr(made.text or made.ids))}", highlight=False)
