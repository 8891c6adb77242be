"""`parity capture`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from parity.cli.app import AsJson, app, print_json
from parity.cli.inputs import Ids, Options, parse_numbers, parse_options, read_request


@app.command()
def capture(
    runner: Annotated[str, typer.Argument(help="RUNNER:MODEL, for instance hf:fixtures/models/moe-tiny.")],
    out: Annotated[Path, typer.Option(help="Folder for the trace; it must not hold one yet.")],
    prompt: Annotated[
        Path | None, typer.Option(help="JSON file with `ids`, or a text file for the model's own tokenizer.")
    ] = None,
    ids: Ids = None,
    layers: Annotated[str | None, typer.Option(help="Layers, such as 0,2-3; all when left out.")] = None,
    stages: Annotated[str | None, typer.Option(help="Stages or patterns, such as 'moe.*,attn.q'.")] = None,
    tokens: Annotated[str, typer.Option(help="all, last, or a:b in absolute positions.")] = "all",
    mode: Annotated[str, typer.Option(help="tensor, or stats for numbers only.")] = "tensor",
    chunk: Annotated[int | None, typer.Option(help="Prefill in chunks of as many tokens.")] = None,
    decode: Annotated[int, typer.Option(help="As many ids at the end are fed one by one.")] = 0,
    dtype: Annotated[str | None, typer.Option(help="The runner's option dtype (hf: float32, bfloat16).")] = None,
    option: Options = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it will cost; load nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a prompt through a runner and keep what its probes see, as a trace on disk.

    Example: parity capture hf:fixtures/models/moe-tiny --prompt fixtures/prompts/short-threading-96.json --out runs/hf

    Example: parity capture triton:fixtures/models/moe-tiny --ids 972,2574,692 --stages 'moe.*' --out runs/sut --dry-run
    """
    from parity.runner import CapturePlan, Schedule

    options: dict[str, Any] = parse_options(option)
    if dtype is not None:
        options["dtype"] = dtype
    request = read_request(prompt, ids, model=runner.partition(":")[2])
    plan = CapturePlan(
        layers=() if layers is None else parse_numbers(layers, place="--layers"),
        stages=tuple(word.strip() for word in stages.split(",")) if stages else (),
        tokens=tokens,
        mode=mode,
        out=out,
    )
    schedule = Schedule(chunk=chunk, decode=decode)
    if dry_run:
        _estimate(runner, options, request, schedule, plan, as_json=as_json)
    else:
        _capture(runner, options, request, schedule, plan, as_json=as_json)


def _estimate(runner: str, options: dict[str, Any], request: Any, schedule: Any, plan: Any, *, as_json: bool) -> None:
    from parity.estimate import estimate_capture
    from parity.preview import preview_runner

    found = estimate_capture(preview_runner(runner, **options), request, schedule=schedule, plan=plan)
    if as_json:
        print_json({"estimate": found})
        return
    console = Console()
    console.print(
        f"{found.captures} captures, {found.sites} sites, {found.steps} steps, {len(request.ids)} tokens. Estimates:\n"
        f"  trace   {found.trace_bytes / 1e6:,.2f} MB, of which tensors {found.payload_bytes / 1e6:,.2f} MB\n"
        f"  memory  {found.memory_bytes / 1e6:,.1f} MB, of which weights {found.weight_bytes / 1e6:,.1f} MB\n"
        f"  time    {found.seconds:,.1f} s besides loading",
        highlight=False,
    )
    console.print(escape(f"The model: {found.model}. Nothing was loaded."), highlight=False)


def _capture(runner: str, options: dict[str, Any], request: Any, schedule: Any, plan: Any, *, as_json: bool) -> None:
    from parity.capture import capture_run

    done = capture_run(runner, request, schedule=schedule, plan=plan, **options)
    if as_json:
        print_json(done)
        return
    Console().print(
        escape(
            f"{done.out}: {done.captures} captures of {done.sites} sites, {done.bytes / 1e6:,.2f} MB in "
            f"{done.seconds:.1f} s; runner {done.runner}, recipe {done.recipe}, {done.tokens} tokens."
        ),
        highlight=False,
    )
