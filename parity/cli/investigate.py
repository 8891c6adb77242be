"""`parity investigate`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from parity.cli.app import AsJson, app, print_json
from parity.cli.inputs import Ids, Options, PromptFile, parse_options, read_request
from parity.registry import refuse_missing_model


@app.command()
def investigate(
    sut: Annotated[str, typer.Option(help="The engine, NAME:MODEL, or trace:FOLDER for a trace alone.")],
    oracle: Annotated[str, typer.Option(help="An exact runner on the engine's weights, as in hf:MODEL.")],
    out: Annotated[Path, typer.Option(help="Folder of the investigation.")],
    prompt: PromptFile = None,
    ids: Ids = None,
    floor: Annotated[
        Path | None, typer.Option(help="Noise floor of the engine's recipe; without, none judged.")
    ] = None,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(help="Prompt file, or a folder of them, to make a floor of the engine's recipe from; repeatable."),
    ] = None,
    second: Annotated[Path | None, typer.Option(help="Independent prompt that a finding must repeat on.")] = None,
    messages: Annotated[Path | None, typer.Option(help="Conversation, as a server takes it, for rung 0.")] = None,
    sut_ids: Annotated[Path | None, typer.Option(help="Ids that the engine fed of --messages.")] = None,
    emulation: Annotated[
        str | None, typer.Option(help="Who replays the engine's recipe; recipe:MODEL where nothing is said.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="New tokens of the continuation.")] = 16,
    chunk: Annotated[int | None, typer.Option(min=1, help="Prefill chunk.")] = None,
    knobs: Annotated[bool, typer.Option("--knobs", help="Cross the engine's variants with the symptom.")] = False,
    check: Annotated[list[str] | None, typer.Option(help="Only this invariance in rung 3; repeatable.")] = None,
    claim: Annotated[str | None, typer.Option(help="A diagnosis that somebody made, to be tried.")] = None,
    option: Options = None,
    oracle_option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for the oracle; dtype=float32 where nothing is said of hf.")
    ] = None,
    only: Annotated[list[int] | None, typer.Option(min=0, max=8, help="Only this rung; repeatable.")] = None,
    skip: Annotated[list[int] | None, typer.Option(min=0, max=8, help="Not this rung; repeatable.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what lies in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say rungs, time and memory; open nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Is this engine wrong, where, why, and how is that known? One climb from the prompt to the proof.

    Nine rungs, cheapest signal first: prompt, checkpoint, decoding, invariances, sweep, replay, zoom, proof, fixture.
    Each enters its prediction into the ledger before it runs. A rung that cannot run says why, and is not passed.
    docs/investigation.md describes what lies in --out; `parity report` makes a report of it.

    Exit code: 0 clean, 1 a fault, 2 refused, unresolved or misuse.

    Example: parity investigate --sut triton:fixtures/models/moe-tiny-fp8 --oracle hf:fixtures/models/moe-tiny-fp8
    --prompt fixtures/prompts/extra-multiprocessing-forkserver-768.json --floor fixtures/floors/fp8_block.json
    --option fault=moe_tile_truncation --out case-1
    """
    for spec in (sut, oracle):
        refuse_missing_model(spec)  # before anything is imported that takes seconds
    request = None if prompt is None and ids is None else read_request(prompt, ids)
    options = parse_options(option)
    from parity.process_runner import ProcessRunner

    # Its process imports torch and opens the engine while this one imports torch.
    with nullcontext() if dry_run or sut.startswith("trace:") else ProcessRunner(sut, **options) as engine:
        from parity.climb import investigate as climb
        from parity.climb.ask import ask_case
        from parity.climb.estimate import estimate_case

        case = ask_case(
            sut=sut,
            oracle=oracle,
            request=request,
            floor=floor,
            calibrate=calibrate or (),
            second=None if second is None else read_request(second, None),
            messages=messages,
            sut_ids=sut_ids,
            emulation=emulation,
            new_tokens=tokens,
            chunk=chunk,
            knobs=knobs,
            checks=check or (),
            claim=claim,
            sut_options=options,
            oracle_options=parse_options(oracle_option, place="--oracle-option"),
        )
        if case.calibrate:
            from parity.ladder.recipe_floor import read_calibration

            # Before the folder is taken: too few prompts are a slip of the hand.
            read_calibration([Path(one) for one in case.calibrate], besides=case.request.name)
        if dry_run:
            plan = estimate_case(case, skip=skip or (), only=only or ())
            print_json(plan) if as_json else _show_plan(plan)
            return
        console = Console(stderr=True)

        def hear(rung: Any, result: Any) -> None:
            if not as_json and result is not None:
                status = result.status.value.replace("_", " ").lower()
                said = f"{rung.number} {rung.name}: {status}, {result.seconds:.1f} s. {result.sentence}"
                console.print(escape(said), highlight=False)

        found = climb(case, out, sut=engine, resume=resume, skip=skip or (), only=only or (), hear=hear)
    print_json({**_summary(found), "exit_code": found.exit_code}) if as_json else _show(found)
    raise typer.Exit(found.exit_code)


def _summary(found: Any) -> dict[str, Any]:
    from parity.climb.investigation import finding_content

    return {"folder": found.folder, **finding_content(found)}


def _show(found: Any) -> None:
    finding = found.finding
    console = Console()
    proved = " (proved)" if finding.proof.get("proved") else ""
    console.print(escape(f"{finding.verdict}{proved}: {finding.sentence}"), highlight=False)
    for one in found.others:
        console.print(escape(f"besides: {one.sentence}"), highlight=False)
    for one in finding.not_excluded:
        console.print(escape(f"not excluded: {one}"), highlight=False)
    if finding.evidence.get("claim"):
        stands = f"claim {finding.evidence['claim_stands']}: {finding.evidence['claim']}"
        console.print(escape(stands), highlight=False)
    if found.fix:
        console.print(escape(f"to look at: {found.fix}"), highlight=False)
    if found.withheld:
        console.print(escape(found.withheld), highlight=False)
    console.print(escape(f"{found.folder}: case.json, ledger.jsonl, rungs/, finding.json"), highlight=False)


def _show_plan(plan: Any) -> None:
    console = Console()
    for row in plan.rungs:
        said = row.obstacle or f"{row.seconds:.0f} s, {row.forwards:.1f} forward passes, {row.bytes / 1e6:.0f} MB"
        console.print(escape(f"{row.number} {row.name}: {said}"), highlight=False)
    console.print(
        escape(f"In all about {plan.seconds:.0f} s and {plan.memory_bytes / 1e6:.0f} MB. {plan.model}"), highlight=False
    )
