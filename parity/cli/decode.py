"""`parity decode`: two engines on one prompt, forced and free, and the shortest prompt that shows the symptom."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parity.cli.app import AsJson, app, print_json
from parity.cli.inputs import Ids, PromptFile, parse_numbers, parse_options, read_request
from parity.errors import ParityError, UsageError


@app.command()
def decode(
    sut: Annotated[str | None, typer.Option(help="Engine under test, NAME:MODEL.")] = None,
    oracle: Annotated[str | None, typer.Option(help="Runner it is held against, NAME:MODEL.")] = None,
    prompt: PromptFile = None,
    ids: Ids = None,
    tokens: Annotated[int, typer.Option(help="New tokens.")] = 32,
    floor: Annotated[Path | None, typer.Option(help="Noise floor; without one the recipe is emulated beside.")] = None,
    emulation: Annotated[
        str | None, typer.Option(help="Emulation of the SUT's recipe, NAME:MODEL; `none` for no verdict on logits.")
    ] = None,
    banned: Annotated[str | None, typer.Option(help="Ids that greedy decoding was asked never to choose.")] = None,
    allowed: Annotated[str | None, typer.Option(help="Ids that alone may be chosen.")] = None,
    presence_penalty: Annotated[float, typer.Option(help="Asked of both, on generated ids.")] = 0.0,
    frequency_penalty: Annotated[float, typer.Option(help="The same for each time an id was generated.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="On ids of the prompt and generated; 1 for none.")] = 1.0,
    temperature: Annotated[float, typer.Option(help="0 decodes greedily; above, over several seeds.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Ids kept when sampling, 0 for all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Probability kept when sampling, 1 for all.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Least share of the likeliest id's probability that is kept.")] = 0.0,
    seeds: Annotated[int, typer.Option(help="Paired seeds when sampling; fewer than 10 conclude nothing.")] = 16,
    seed: Annotated[int, typer.Option(help="The first of them.")] = 0,
    sweep: Annotated[bool, typer.Option("--sweep", help="Find the shortest beginning that shows the symptom.")] = False,
    symptom: Annotated[str, typer.Option(help="For --sweep: divergence, loop or kl.")] = "divergence",
    kl: Annotated[float | None, typer.Option(help="For symptom kl: nats at any position.")] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="JSON with `oracle` and `sut`, one number a seed: compare sampled runs alone.")
    ] = None,
    sut_option: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for the SUT; repeat for more.")] = None,
    oracle_option: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for the oracle.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two engines' decoding: forced on one text, free on their own, and the SUT's sampler against its logits.

    With --temperature above 0 both are sampled over paired seeds, and each sampler is held against its own logits.

    Exit code: 0 same or near-ties only, 1 diverged (or, with --sweep, a length that shows it), 2 unresolved or refused.

    Example: parity decode --sut triton:fixtures/models/moe-tiny-fp8 --oracle hf:fixtures/models/moe-tiny-fp8 --prompt
    fixtures/prompts/short-threading-96.json --tokens 8
    """
    from parity.decode import compare_decoding, compare_sampled, judge_symptom, shortest_prompt
    from parity.decode.pairs import LEAST
    from parity.decode.sampled import refused
    from parity.decode.sweep import Tried
    from parity.floor import Floor
    from parity.process_runner import ProcessRunner
    from parity.sampling import Sampling

    if pairs is not None:
        return _compare_pairs(pairs, as_json)
    if sut is None or oracle is None:
        raise UsageError(
            place="parity decode",
            expected="--sut NAME:MODEL and --oracle NAME:MODEL, or --pairs FILE",
            found="no " + ("SUT" if sut is None else "oracle"),
            next_step="See `parity decode --help`.",
        )
    request = read_request(prompt, ids, model=_folder(sut, sut_option))
    sampling = Sampling(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty, frequency_penalty=frequency_penalty, seed=seed,
        banned=() if banned is None else parse_numbers(banned, place="--banned"),
        allowed=() if allowed is None else parse_numbers(allowed, place="--allowed"),
    )  # fmt: skip
    if not sampling.greedy and (sweep or floor is not None or emulation is not None):
        raise UsageError(
            place="parity decode",
            expected="--sweep, --floor and --emulation with greedy decoding",
            found=f"temperature {temperature}",
            next_step="Sampled text is judged over seeds: leave them out, or leave --temperature at 0.",
        )
    if not sampling.greedy and seeds < LEAST:
        return _show_sampled(refused(request, range(seed, seed + seeds), tokens), as_json)
    asked = {
        "tokens": tokens,
        "floor": None if floor is None else Floor.load(floor),
        "sampling": sampling,
    }
    console = Console(stderr=True)
    with ExitStack() as engines, console.status("opening the engines") as status:
        opened = {
            "sut": engines.enter_context(ProcessRunner(sut, **parse_options(sut_option, place="--sut-option"))),
            "oracle": engines.enter_context(
                ProcessRunner(oracle, **parse_options(oracle_option, place="--oracle-option"))
            ),
        }
        if not sampling.greedy:
            tell = lambda what: status.update(escape(what))  # noqa: E731
            drawn = range(seed, seed + seeds)
            return _show_sampled(
                compare_sampled(**opened, request=request, tokens=tokens, sampling=sampling, seeds=drawn, tell=tell),
                as_json,
            )
        opened |= {} if floor is not None else _emulate(engines, opened, _folder(sut, sut_option), emulation)

        def compare(length: int) -> Any:
            head = replace(request, ids=request.ids[:length])
            tell = lambda what: status.update(f"{length} ids: {escape(what)}")  # noqa: E731
            return compare_decoding(**opened, request=head, tell=tell, **asked)

        if sweep:

            def try_length(length: int) -> Tried:
                return Tried(length, *judge_symptom(compare(length), symptom, kl=kl))

            swept = shortest_prompt(try_length, len(request.ids), symptom=symptom)
            code, found = (0 if swept.shows is None else 1), swept
        else:
            found = compare(len(request.ids))
            code = {"same": 0, "near_tie": 0, "diverged": 1, "unresolved": 2}[found.verdict.value]
    if as_json:
        print_json(found)
    elif sweep:
        print(found.sentence)
    else:
        _show(found)
    if code:
        raise typer.Exit(code)


def _folder(spec: str, options: list[str] | None) -> str:
    """The SUT's model folder: what its name says, or, of an engine behind an address, its option `folder`."""
    return str(parse_options(options).get("folder", spec.partition(":")[2]))


def _emulate(engines: ExitStack, opened: dict[str, Any], folder: str, emulation: str | None) -> dict[str, Any]:
    """The recipe's emulation and exact arithmetic on the SUT's weights, or why there is none."""
    from parity.decode.noise import is_exact
    from parity.process_runner import ProcessRunner

    if emulation == "none":
        return {"no_emulation": "none was wanted"}
    where = emulation or "recipe:" + folder
    options = {} if emulation else {"recipe": opened["sut"].describe().recipe.name}
    try:
        near = engines.enter_context(ProcessRunner(where, **options))
        near.describe()
        if is_exact(opened["oracle"].describe()):
            return {"emulation": near}
        exact = engines.enter_context(ProcessRunner(where, recipe="fp32"))
        exact.describe()
    except ParityError as error:
        if emulation:
            raise
        return {"no_emulation": f"no emulation of the SUT's recipe: {error.found}"}
    return {"emulation": near, "exact": exact}


def _compare_pairs(path: Path, as_json: bool) -> None:
    import json

    from parity.decode import compare_pairs

    try:
        content = json.loads(path.read_text())
        sides = [[float(x) for x in content[name]] for name in ("oracle", "sut")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            place=f"paired samples {path}",
            expected='a JSON object like {"oracle": [0, 1], "sut": [1, 1]}, a number a seed',
            found=f"{type(error).__name__}: {error}",
            next_step="Score both engines' sampled texts seed by seed.",
        ) from error
    found = compare_pairs(*sides)
    print_json(found) if as_json else print(found.sentence)
    code = {"differs": 1, "no_difference_seen": 0, "refused": 2}[found.verdict]
    if code:
        raise typer.Exit(code)


def _show_sampled(found: Any, as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        if found.sampler is not None:
            for name, (estimate, low, high) in found.sampler.estimates.items():
                said = f"{estimate:.3g}, 95 % {low:.3g} to {high:.3g}"
                if not isfinite(high - low):
                    said = f"not known: too few ids came twice (95 % {low:.3g} to {high:.3g})"
                print(f"{name} as applied: {said}")
            for name, pair in found.pairs.items():
                print(f"{name}: {pair.sentence}")
        print(found.sentence)
    code = {"no_difference_seen": 0, "differs": 1, "unresolved": 2, "refused": 2}[found.verdict]
    if code:
        raise typer.Exit(code)


def _show(found: Any) -> None:
    console = Console()
    table = Table(box=None, pad_edge=False)
    for column in ("phase", "positions", "top-1", "mean KL", "worst KL", "KL of the emulation"):
        table.add_column(column)
    for one in found.phases:
        own = "not known" if one.kl_noise is None else f"{one.kl_noise:.3g}"
        table.add_row(one.name, str(one.positions), f"{one.top1:.1%}", f"{one.kl_mean:.3g}", f"{one.kl_worst:.3g}", own)
    console.print(table)
    shown: list[Any] = [] if found.free is None else [found.free]
    shown += [one for one in found.partings[:5] if found.free is None or one.position != found.free.position]
    for parting in shown:
        console.print(escape(parting.line()), highlight=False)
        for who, best in (("oracle", parting.oracle_best), ("SUT", parting.sut_best)):
            said = ", ".join(f"{one.id} {one.logit:.3f}" for one in best)
            console.print(f"  {who:>6}: {said}", highlight=False)
    growth = found.growth
    if growth is not None:
        said = f"KL ~ position^{growth.slope:.2f}, 95 % {growth.low:.2f} to {growth.high:.2f}"
        console.print(f"{said} ({growth.positions} positions)", highlight=False)
    console.print(escape(f"noise: {found.noise['sentence']}; limit {found.noise['limit']:.1f} units"), highlight=False)
    if found.shown:
        console.print(escape(f"shown: {found.shown}"), highlight=False)
    console.print(escape(f"sampler: {found.sampler.sentence}"), highlight=False)
    console.print(escape(found.sentence), highlight=False)
