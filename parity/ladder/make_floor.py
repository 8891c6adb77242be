"""How is a floor made from a model folder and prompts? Plan, clean runs, calibration, held-out runs, power."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from parity.errors import UsageError
from parity.floor import Floor, calibrate, count_false_alarms, refuse_engine
from parity.ladder.calibrate import OnStep, sample_runs
from parity.ladder.perturb import sample_perturbed
from parity.ladder.plan import STRICT_ORDERS, plan_runs, split_documents
from parity.ladder.power import measure_power, power_runs
from parity.promptfile import read_prompt
from parity.runner import RunnerInfo, open_runner


def make_floor(
    *,
    model: str,
    prompts: Sequence[Path],
    recipe: str | None = None,
    runs: int = 72,
    heldout: float = 0.33,
    level: float = 1e-3,
    longest: int = 2048,
    keep: Path | None = None,
    perturb: bool = False,
    hide: Collection[str] = (),
    on_step: OnStep | None = None,
) -> Floor:
    """A floor of the recipe's emulation on `model`, its false alarms counted on documents kept apart.

    prompts: JSON files with `ids`, or folders of them; each file is a document. recipe: the checkpoint's own when None.
    heldout: share of the documents kept apart, and of `runs` made of them besides. keep: a file for the samples.
    hide: stages that the engine cannot show: where it has several in one kernel, the floor is of that kernel.
    perturb: without exact arithmetic, which a model may be too large for: the spread that one rounding of the inputs
    makes, labelled `input perturbation`; the other orders of the emulation still give the distance.
    Raises UsageError for too few documents, and when an engine is loaded.
    """
    refuse_engine()
    documents = read_documents(prompts)
    hidden = {"hide": ",".join(sorted(hide))} if hide else {}
    emulations = {order: open_runner(f"recipe:{model}", **_options(recipe, order), **hidden) for order in STRICT_ORDERS}
    info = emulations[0].describe()
    names, apart = split_documents(list(documents), heldout=heldout)
    planned = plan_runs({name: documents[name] for name in names}, runs=runs, longest=longest, seed=1)
    count = max(1, round(runs * heldout))
    others = plan_runs({name: documents[name] for name in apart}, runs=count, longest=longest, seed=2)
    oracle = None if perturb else open_runner(f"recipe:{model}", recipe="fp32")
    samples = sample_runs(
        [*planned, *others],
        emulations=emulations,
        oracle=oracle,
        keep=keep,
        on_step=on_step,
        sample_one=sample_perturbed if perturb else None,
    )
    floor = calibrate(
        samples[: len(planned)],
        recipe=info.recipe,
        lineage=info.lineage,
        level=level,
        source="input perturbation" if perturb else "emulation",
        environment=info.environment,
    )
    return replace(floor, heldout=count_false_alarms(floor, samples[len(planned) :]))


def add_power(
    floor: Floor,
    *,
    model: str,
    prompts: Sequence[Path],
    runs: int = 2,
    longest: int = 512,
    on_step: OnStep | None = None,
) -> Floor:
    """The floor with what its isolated gates see, measured in clean runs of the longest prompts it has not seen.

    Raises UsageError for a floor of another recipe or weights than the model's, for prompts that it was calibrated on,
    and when an engine is loaded.
    """
    refuse_engine()
    documents = {name: ids for name, ids in read_documents(prompts).items() if name not in floor.documents}
    planned = power_runs(documents, runs=runs, longest=longest)
    name = floor.recipe.name
    emulations = {run.order: open_runner(f"recipe:{model}", **_options(name, run.order)) for run in planned}
    _refuse_other(floor, next(iter(emulations.values())).describe(), model)
    oracle = open_runner(f"recipe:{model}", recipe="fp32")
    return replace(floor, power=measure_power(floor, planned, emulations=emulations, oracle=oracle, on_step=on_step))


def _refuse_other(floor: Floor, info: RunnerInfo, model: str) -> None:
    """A floor's recipe is opened by its name: what is left to differ is the weights."""
    if floor.lineage != info.lineage:
        raise UsageError(
            place=f"power of a noise floor on {model}",
            expected=f"the weights that it was calibrated on: lineage {floor.lineage.root}",
            found=f"lineage {info.lineage.root}",
            next_step="Name the model folder of the calibration.",
        )


def read_documents(prompts: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """Token ids by document of prompt files and folders of them. Raises UsageError for a file without `ids`."""
    files = [
        file
        for path in prompts
        for file in (sorted(Path(path).glob("*.json")) if Path(path).is_dir() else [Path(path)])
    ]
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        prompt = read_prompt(file)
        found[prompt.name] = prompt.ids
    return found


def _options(recipe: str | None, order: int) -> dict[str, Any]:
    return {"order": order} if recipe is None else {"order": order, "recipe": recipe}
