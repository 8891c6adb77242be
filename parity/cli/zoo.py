"""`parity zoo list | run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from parity.cli.app import AsJson, app, print_json
from parity.errors import UsageError

zoo = typer.Typer(
    no_args_is_help=True,
    help="Planted faults, each investigated blind, and how well the lab does.\n\nExample: parity zoo list",
)
app.add_typer(zoo, name="zoo")

Faults = Annotated[
    list[Path] | None, typer.Option(help="Folder of fault files, or one file, instead of the shipped ones; repeatable.")
]
Shipped = Annotated[bool, typer.Option("--shipped", help="The shipped faults besides those of --faults.")]
OfFamily = Annotated[str | None, typer.Option("--family", help="Only faults of this model family.")]
Only = Annotated[list[str] | None, typer.Option(help="Only this fault; repeatable, or names separated by commas.")]


@zoo.command("list")
def list_faults(
    faults: Faults = None, shipped: Shipped = False, family: OfFamily = None, only: Only = None, as_json: AsJson = False
) -> None:
    """List the faults, what an investigation must name of each, and files that cannot be used.

    Exit 0: all can be used; 2: some cannot.

    Example: parity zoo list --family qwen3_moe
    """
    from parity.zoo.catalogue import collect_faults
    from parity.zoo.show import show_catalogue

    found = collect_faults(_folders(faults), shipped=shipped or None, family=family, only=_names(only))
    if as_json:
        print_json(
            {
                "faults": [
                    {
                        **{name: getattr(one.fault, name) for name in (
                            "name", "family", "summary", "control", "simulated", "truth", "also", "rung", "cause",
                            "claim", "needs",
                        )},
                        "has_instances": one.fault.instances is not None,
                        "file": one.file,
                    }
                    for one in found.exhibits
                ],
                "problems": [str(problem) for problem in found.problems],
            }
        )  # fmt: skip
    else:
        show_catalogue(found, Console())
    if found.problems:
        raise typer.Exit(2)


@zoo.command()
def run(
    faults: Faults = None,
    shipped: Shipped = False,
    family: OfFamily = None,
    only: Only = None,
    instances: Annotated[int, typer.Option(help="Instances of each fault: seeds 0 to K-1.", min=1)] = 1,
    clean: Annotated[int, typer.Option(help="Runs of the healthy engine.", min=0)] = 0,
    model: Annotated[
        list[Path] | None, typer.Option(help="Model folder; repeatable. A fault lives in the first.")
    ] = None,
    engine: Annotated[str, typer.Option(help="Runner under test.")] = "triton",
    prompts: Annotated[list[Path] | None, typer.Option(help="Folder of prompt files; repeatable.")] = None,
    floors: Annotated[list[Path] | None, typer.Option(help="Folder of stored noise floors; repeatable.")] = None,
    tokens: Annotated[str, typer.Option(help="LEAST:MOST tokens of a fault's prompt.")] = "512:1024",
    new_tokens: Annotated[int, typer.Option(help="Greedy continuation of each prompt.", min=1)] = 16,
    jobs: Annotated[int, typer.Option(help="Cases at a time.", min=1)] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads of each process.", min=1)] = 1,
    timeout: Annotated[float, typer.Option(help="Seconds that a case may take.", min=1)] = 900.0,
    within: Annotated[float | None, typer.Option(help="Seconds after which to stop; --resume goes on.", min=1)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Do not run again what the folder --out has.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for outcomes.jsonl, zoo.json and logs.")] = Path("zoo-report"),
    investigator: Annotated[
        str | None, typer.Option(help="module:function to score in place of the lab's own investigation.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Investigate each fault blind, and score detection, place, cause and proof; docs/zoo.md has the rule.

    Exit 0: every fault within the floor's power detected, no control blamed, no false alarm; 1: not so; 2: fault files
    that cannot be used (the others are run), or misuse.

    Example: parity zoo run --instances 3 --clean 20 --jobs 2 --out zoo-report
    """
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from parity.cli.inputs import parse_range
    from parity.zoo.campaign import Campaign, run_zoo
    from parity.zoo.catalogue import collect_faults
    from parity.zoo.outcome import Outcome
    from parity.zoo.show import show_result

    catalogue = collect_faults(_folders(faults), shipped=shipped or None, family=family, only=_names(only))
    given = {"models": model, "prompts": prompts, "floors": floors, "investigator": investigator}
    campaign = Campaign(
        out=out,
        engine=engine,
        instances=instances,
        clean=clean,
        tokens=parse_range(tokens, place="--tokens"),
        new_tokens=new_tokens,
        jobs=jobs,
        threads=threads,
        timeout=timeout,
        within=within or float("inf"),
        resume=resume,
        **{k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if v},  # type: ignore[arg-type]
    )
    console = Console(stderr=True)
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("zoo", total=None)
        running: list[str] = []

        def tell(what: str, label: str, outcome: Outcome | None) -> None:
            if what == "start":
                running.append(label)
            elif outcome is not None:
                running.remove(label)
                verdict = outcome.finding.verdict if outcome.finding else outcome.error[-200:]
                line = f"{label}: {outcome.status}, {verdict}, {outcome.seconds:.0f} s"
                progress.console.print(escape(line), highlight=False)
            else:
                progress.console.print(escape(f"{what}: {label}"), highlight=False)
            progress.update(task, description=escape(", ".join(running) or "zoo"))

        result = run_zoo(catalogue, campaign, tell=tell)
    if as_json:
        print_json(result.as_dict())
    else:
        show_result(result, Console())
    if result.exit_code:
        raise typer.Exit(result.exit_code)


def _folders(given: list[Path] | None) -> list[Path]:
    for folder in given or ():
        if not folder.exists():
            raise UsageError(
                place="--faults",
                expected="a folder of Python files, or one such file",
                found=str(folder),
                next_step="docs/faults.md says how to write one.",
            )
    return given or []


def _names(given: list[str] | None) -> list[str]:
    return [name.strip() for names in given or () for name in names.split(",") if name.strip()]
