"""`parity fingerprint`: which shape has the error between two runs, or two tensors?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from parity.cli.app import AsJson, app, print_json
from parity.errors import UsageError

if TYPE_CHECKING:
    from parity.fingerprint import ErrorField


@app.command()
def fingerprint(
    oracle: Annotated[str, typer.Option(help="A trace, a safetensors file, or with --isolated a runner NAME:MODEL.")],
    sut: Annotated[Path, typer.Option(help="A trace, or a safetensors file.")],
    stage: Annotated[str | None, typer.Option(help="One stage, moe.gate for instance; by default all.")] = None,
    layer: Annotated[int | None, typer.Option(help="One layer, absolute; by default all.")] = None,
    isolated: Annotated[bool, typer.Option("--isolated", help="Replay each stage on the SUT's own inputs.")] = False,
    tensor: Annotated[str | None, typer.Option(help="Name of the tensor in both safetensors files.")] = None,
    axes: Annotated[str, typer.Option(help="Axis letters of the tensors in files, THK for instance.")] = "",
    as_json: AsJson = False,
) -> None:
    """Read the shape of an error as a cause: lost rows, a factor, swapped heads, another rope base, and so on.

    Between two traces the chained field is read, which holds what earlier stages did wrong as well; --isolated replays
    each stage on the SUT's own inputs with the oracle's runner and reads what arises there. Scores are the share of the
    error's energy that the cause explains. Exit 0: no known shape, 1: a shape was found, 2: refused.

    Example: parity fingerprint --oracle runs/oracle --sut runs/sut --stage moe.gate --layer 2
    """
    from parity.fingerprint import read_fingerprints

    sites: list[dict[str, Any]] = []
    for field in _fields(oracle, sut, stage, layer, isolated, tensor, axes):
        found = read_fingerprints(field)
        if found or stage is not None:
            sites.append({"site": field.name, "rows": field.rows, "fingerprints": found})
    mode = "isolated" if isolated else "tensors" if sut.suffix == ".safetensors" else "chained"
    if as_json:
        print_json({"mode": mode, "sites": sites})
    else:
        console = Console(highlight=False)
        if mode == "chained":
            console.print("Chained: each side as it ran, inherited error included. --isolated reads what arises here.")
        for site in sites:
            for result in site["fingerprints"] or [None]:
                told = "no known shape" if result is None else f"{result.score:.3f}  {result.cause}: {result.sentence}"
                console.print(f"{site['site']:<24} {escape(told)}")
        if not sites:
            console.print("No error of a known shape.")
    if any(site["fingerprints"] for site in sites):
        raise typer.Exit(1)


def _fields(
    oracle: str, sut: Path, stage: str | None, layer: int | None, isolated: bool, tensor: str | None, axes: str
) -> Iterator[ErrorField]:
    from parity.fingerprint import ErrorField, field_of_tensors, field_of_traces, shared_sites
    from parity.ladder.replay import Replay
    from parity.runner import open_runner
    from parity.stages import term
    from parity.trace import open_trace

    if stage is not None and sut.suffix != ".safetensors":
        term(stage)
    if sut.suffix == ".safetensors":
        yield field_of_tensors(
            oracle=Path(oracle), sut=sut, tensor=tensor, axes=axes, stage=stage or "tensor", layer=layer
        )
        return
    trace = open_trace(sut)
    if isolated:
        runner = open_runner(oracle)
        replay = Replay(trace, runner)
        captured = {(capture.layer, capture.stage) for capture in trace.captures}
        sites = [(at, s.name) for at, s in replay.family.sites(trace.run.layers) if (at, s.name) in captured]
    else:
        other = open_trace(oracle)
        sites = list(shared_sites(oracle=other, sut=trace))
    wanted = [(at, s) for at, s in sites if stage in (None, s) and layer in (None, at)]
    if not wanted:
        raise UsageError(
            place="parity fingerprint",
            expected=f"stage {stage or 'any'} of layer {'any' if layer is None else layer} in the traces",
            found="none",
            next_step="`parity trace` lists what a trace holds; with --isolated the oracle is a runner, NAME:MODEL.",
        )
    for at, name in wanted:
        if not isolated:
            yield field_of_traces(oracle=other, sut=trace, stage=name, layer=at)
            continue
        site = replay.site(at, name)
        if site.sut is not None and site.oracle is not None:
            yield ErrorField.of(site.sut, site.oracle, inputs=site.inputs, hyper=dict(runner.describe().hyper))
        elif stage is not None:
            raise UsageError(
                place=f"replay of {name}",
                expected="the inputs of the stage in the trace",
                found=site.obstacle,
                next_step="Capture every stage over all positions.",
            )
