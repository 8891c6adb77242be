"""Does vLLM compute what the oracle computes? Prompts through both, a table by layer and stage over the floor.

    python -m parity_oracles.vllm.compare MODEL --oracle hf:MODEL --prompts FILE --floor FLOOR
    python -m parity_oracles.vllm.compare --oracle hf:MODEL --trace FOLDER --floor FLOOR

The second judges what was captured before, in vLLM's own server for instance, and runs no vLLM.
Exit code 0: everything within the floor; 1: a divergence, of the whole pass or of a stage on its own inputs; 2: no
verdict (no floor, or not everything could be judged), or a refusal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from parity.cli.app import AsJson, print_json, run_app
from parity.cli.inputs import parse_options, tokenize_file
from parity.compare import Outcome, compare_traces, floor_map, layer_table, open_floor
from parity.errors import UsageError
from parity.floor import Floor, NoiseFloor
from parity.ladder.replay import Replay
from parity.ladder.sweep import requests_of, routes_of, sweep_against
from parity.promptfile import read_prompt
from parity.records import Comparison, Summary, Verdict
from parity.runner import CapturePlan, Request, Schedule, open_runner, opened
from parity.trace import Trace, open_trace

CHOICE = "moe.topk_ids"


@dataclass(frozen=True)
class Compared:
    """vLLM against an oracle. unobservable: stages that were not compared, since the engine does not show them, with
    the reason. flips: by layer, tokens whose chosen experts differ from the oracle's own choice, and tokens.
    isolated: each stage on the engine's own inputs, where that was asked for: what inherited errors hide in `summary`.
    """

    summary: Summary
    sut: Trace
    unobservable: Mapping[str, str]
    flips: Mapping[int, tuple[int, int]]
    isolated: Summary | None = None

    @property
    def added(self) -> list[Comparison]:
        """Stages that add more error than their recipe does, the worst first."""
        found = [] if self.isolated is None else self.isolated.comparisons
        over = [one for one in found if one.verdict in (Verdict.EXCEEDS_FLOOR, Verdict.NONFINITE)]
        return sorted(over, key=lambda one: -(one.over_floor or 0.0))


def compare_engine(
    *,
    oracle: Any,
    sut: Any,
    requests: Sequence[Request],
    schedule: Schedule = Schedule(),
    floor: NoiseFloor | None = None,
    free: bool = False,
    isolated: bool = False,
    out: Path | None = None,
) -> Compared:
    """Run the requests, together, through the engine, and judge every stage that it shows: `judge_trace`.

    oracle, sut: runners. out: a folder to keep the engine's trace in. Raises what the runners raise, and UsageError for
    a floor of another recipe or model.
    """
    plan = CapturePlan(stages=sut.describe().stages, out=out)
    trace = sut.forward(requests, schedule=schedule, capture=plan)
    return judge_trace(oracle=oracle, trace=trace, floor=floor, free=free, isolated=isolated)


def judge_trace(
    *, oracle: Any, trace: Trace, floor: NoiseFloor | None = None, free: bool = False, isolated: bool = False
) -> Compared:
    """Run a trace's requests through an oracle and judge every stage that vLLM showed.

    oracle: a runner. trace: of the runner `vllm:`, or of its server's worker (`parity_oracles.vllm.server`).
    free: let the oracle choose its own experts; otherwise it is given those of the engine, whose choice is judged by
    itself, so that a near-tie of the router does not drown what the experts computed.
    isolated: judge each stage on the engine's own inputs as well; for an oracle that can replay and a calibrated floor.
    Raises what the oracle raises, and UsageError for a floor of another recipe or model.
    """
    if isinstance(floor, Floor):
        floor.refuse_other(trace.run)
    plan = CapturePlan(stages=tuple(dict.fromkeys(stage for _, stage in trace.run.declared)))
    plain = requests_of(trace)
    chosen = trace.select(stage=CHOICE)
    own = oracle.forward(plain, capture=plan) if free or not chosen else None
    if free:
        assert own is not None
        usable = floor if not isinstance(floor, Floor) or "free" in floor.gates else None
        summary = compare_traces(oracle=own, sut=trace, floor=usable, mode="free", allow_grafts=True)
    elif own is not None:
        summary = compare_traces(oracle=own, sut=trace, floor=floor, allow_grafts=True)
    else:
        truth = oracle.forward(plain, capture=plan, graft=routes_of(trace))
        summary = sweep_against(oracle, truth, trace, floor=floor)  # pyright: ignore[reportArgumentType]
    alone = None
    taken = any("*" in rows for rows in trace.run.flags.get("absent", {}).values())  # from a cache: inputs are missing
    if (
        isolated
        and not taken
        and isinstance(floor, Floor)
        and "isolated" in floor.gates
        and "replay" in oracle.describe().can
    ):
        alone = Replay(trace, oracle).compare(floor=floor)
    return Compared(summary, trace, dict(trace.run.flags.get("unobservable", {})), _flips(summary), alone)


def _flips(summary: Summary) -> dict[int, tuple[int, int]]:
    found: dict[int, tuple[int, int]] = {}
    for record in summary.comparisons:
        if record.stage == CHOICE and record.layer is not None and record.rows:
            flipped, tokens = found.get(record.layer, (0, 0))
            share = record.whole.get("complete", 1.0)
            found[record.layer] = flipped + round((1 - share) * record.rows), tokens + record.rows
    return found


def read_prompts(paths: Sequence[Path], model: Path, *, most: int | None = None) -> list[Request]:
    """The prompts in JSON files with `ids`, text files for the model's tokenizer, and folders of either.

    most: ids kept of each. Raises UsageError for a file of another form, and for a folder without any.
    """
    files = [
        f for path in paths for f in (sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path])
    ]
    if not files:
        raise UsageError(
            place="--prompts", expected="at least one file", found="none", next_step="See fixtures/prompts."
        )
    found = [read_prompt(f).request if f.suffix == ".json" else tokenize_file(f, model) for f in files]
    return [Request(request.name, request.ids[:most]) for request in found]


def main(
    oracle: Annotated[str, typer.Option(help="The runner that is trusted, RUNNER:MODEL.")],
    model: Annotated[Path | None, typer.Argument(help="Model folder, for vLLM to run the prompts.")] = None,
    prompts: Annotated[
        list[Path] | None, typer.Option(help="JSON files with `ids`, text files, or folders of them.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="vLLM's trace in this folder, of its server for instance; nothing is run.")
    ] = None,
    floor: Annotated[
        str | None,
        typer.Option(help="A calibrated floor's file (`parity floor calibrate`), or derived:DTYPE[:ROUNDINGS]."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="vLLM's: float32, bfloat16, float16; auto is the checkpoint's.")] = "auto",
    chunk: Annotated[int | None, typer.Option(help="Most rows of one prompt in a step.")] = None,
    decode: Annotated[int, typer.Option(help="As many ids at the end of each prompt are fed one by one.")] = 0,
    cached: Annotated[
        int, typer.Option(help="As many ids of each prompt come from the prefix cache; whole blocks.")
    ] = 0,
    longest: Annotated[int | None, typer.Option(help="Ids kept of each prompt.")] = None,
    free: Annotated[bool, typer.Option("--free", help="The oracle chooses its own experts.")] = False,
    isolated: Annotated[
        bool, typer.Option(help="Judge each stage on the engine's own inputs too, with a calibrated floor.")
    ] = True,
    out: Annotated[Path | None, typer.Option(help="Keep vLLM's trace in this folder.")] = None,
    option: Annotated[list[str] | None, typer.Option("--option", "-o", help="Of vLLM's runner, KEY=VALUE.")] = None,
    oracle_option: Annotated[list[str] | None, typer.Option(help="Of the oracle, KEY=VALUE.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare vLLM with an oracle, layer by layer and stage by stage, over the floor.

    Example: python -m parity_oracles.vllm.compare MODEL --oracle hf:MODEL --prompts FILE --floor FLOOR
    """
    known, trusted = open_floor(floor), parse_options(oracle_option, place="--oracle-option")
    if trace is not None:
        told = {"MODEL": model, "--prompts": prompts, "--chunk": chunk, "--decode": decode, "--cached": cached,
                "--longest": longest, "--out": out, "--option": option}  # fmt: skip
        _refuse_besides(trace=[name for name, value in told.items() if value])
        found = judge_trace(
            oracle=open_runner(oracle, **trusted), trace=open_trace(trace), floor=known, free=free, isolated=isolated
        )
    else:
        if model is None or not prompts:
            raise UsageError(
                place="arguments", expected="MODEL and --prompts, or --trace", found="neither",
                next_step="Name what vLLM is to run, or the trace of what it ran.",
            )  # fmt: skip
        requests = [Request(r.name, r.ids, cached) for r in read_prompts(prompts, model, most=longest)]
        options: dict[str, Any] = {"dtype": dtype, **parse_options(option)}
        options |= {"prefix_caching": True} if cached else {}
        with opened(f"vllm:{model}", **options) as sut:
            found = compare_engine(
                oracle=open_runner(oracle, **trusted),
                sut=sut,
                requests=requests,
                schedule=Schedule(chunk=chunk, decode=decode),
                floor=known,
                free=free,
                isolated=isolated,
                out=out,
            )
    outcome = Outcome(found.summary, known, found.sut.run.family)
    if as_json:
        print_json({
            **outcome.as_json(),
            "engine": {"runner": "vllm", "recipe": found.sut.run.recipe, "flags": found.sut.run.flags},
            "unobservable": found.unobservable,
            "router_flips": {str(layer): list(counts) for layer, counts in found.flips.items()},
            "isolated": None if found.isolated is None else {
                "verdicts": found.isolated.verdicts, "worst_over_floor": found.isolated.worst_over_floor,
                "added": found.added,
            },
        })  # fmt: skip
    else:
        _show(found, outcome)
    raise typer.Exit(1 if found.added else outcome.exit_code)


def _refuse_besides(*, trace: list[str]) -> None:
    """Raises UsageError for options about a run beside a trace of one that is over."""
    if trace:
        raise UsageError(
            place="--trace", expected="no options of a run beside it", found=", ".join(trace),
            next_step="Leave them out: the trace has its own requests and schedule.",
        )  # fmt: skip


def _show(found: Compared, outcome: Outcome) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, 140))  # a log has no edge
    run = found.sut.run
    tokens = sum(map(len, run.requests))
    console.print(
        f"vLLM {run.flags.get('vllm')} ({run.recipe.name}, {run.environment.device}), {len(run.requests)} prompts, "
        f"{tokens} tokens",
        highlight=False,
    )
    console.print(floor_map(found.summary.comparisons))
    if not found.summary.healthy:
        console.print(layer_table(found.summary, only_unhealthy=True))
    for stage, why in found.unobservable.items():
        console.print(f"Not observable: {stage} ({why})", highlight=False)
    if found.flips:
        flips = ", ".join(f"layer {layer}: {n} of {of}" for layer, (n, of) in found.flips.items())
        console.print(f"Router flips: {flips} tokens", highlight=False)
    absent = max((c.whole.get("positions_absent", 0.0) for c in found.summary.comparisons), default=0.0)
    if absent:
        console.print(
            f"Not shown by the engine (from its cache, or not asked for), not compared: {absent:.0f} positions at most",
            highlight=False,
        )
    console.print(f"Floor: {outcome.floor_words}", highlight=False)
    if found.isolated is not None:
        worst = found.isolated.worst_over_floor or 0.0
        console.print(f"On each stage's own inputs: worst {worst:.2f} of its gate", highlight=False)
    for reason in {one.reason for one in _unjudged(found)}:
        names = ", ".join(one.name for one in _unjudged(found) if one.reason == reason)
        console.print(f"Not judged on its own inputs: {names}: {reason}", highlight=False)
    for one in found.added[:5]:
        where = f", {one.worst[0].where}" if one.worst else ""
        console.print(
            f"Adds error: {one.name}, {one.phase}, {one.over_floor or 0:.1f} of its gate{where}", highlight=False
        )
    if outcome.first is not None:
        first = outcome.first
        where = f", {first.worst[0].where}" if first.worst else ""
        console.print(f"First: {first.name}, {first.verdict.value}{where}. {first.reason}", highlight=False)
    console.print(f"Next: {outcome.next_step}", highlight=False)


def _unjudged(found: Compared) -> list[Comparison]:
    return [] if found.isolated is None else [
        one for one in found.isolated.comparisons if not one.verdict.healthy and one not in found.added
    ]  # fmt: skip


command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
command.command()(main)

if __name__ == "__main__":
    run_app(command, "python -m parity_oracles.vllm.compare")
