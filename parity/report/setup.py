"""What was investigated with what? Engine, oracle, prompt, floor, weights, recipe and environments of a case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from parity.climb import Investigation
from parity.climb.store import TRACES, read_case
from parity.errors import ParityError
from parity.trace import open_trace


def tell_setup(found: Investigation) -> Iterator[tuple[str, Any]]:
    """Rows of (what, which); what the trace cannot tell is said to be unknown."""
    case = found.case
    content = read_case(found.folder)
    yield "engine under test", _runner(case.sut, case.sut_options)
    yield "oracle", _runner(case.oracle, case.oracle_options)
    yield "emulation of the recipe", case.emulation or "none: nothing audited, nothing proved"
    yield "prompt", f"{case.request.name}, {len(case.request.ids)} ids"
    second, how = case.second_request()
    yield "independent prompt", f"{second.name} ({how})"
    yield "fed", f"chunk {case.schedule.chunk or 'none'}, {case.new_tokens} new tokens, greedy"
    made = f"made of the clean runs of {', '.join(case.calibrate)}" if case.calibrate else ""
    yield "noise floor", case.floor or made or "none: differences are measured, not judged"
    if case.claim:
        yield "diagnosis to be tried", case.claim
    yield "environment of the investigator", _environment(content.get("environment"))
    yield from _provenance(found)


def _provenance(found: Investigation) -> Iterator[tuple[str, Any]]:
    folder = found.case.trace_folder or found.folder / TRACES / "sut"
    try:
        run = open_trace(folder).run
    except (ParityError, OSError) as error:
        yield "weights, recipe, environment of the engine", f"not known: {str(error)[:200]}"
        return
    yield (
        "weights",
        f"{run.model}, lineage {run.lineage.root[:23]}, {', '.join(run.lineage.conversions) or 'as trained'}",
    )
    recipe = run.recipe
    yield (
        "recipe",
        f"{recipe.name}: weights {recipe.weights}, activations {recipe.activations}, compute {recipe.compute}, "
        f"accumulation {recipe.accumulate}, KV cache {recipe.kv_cache}",
    )
    yield "environment of the engine", _environment(vars(run.environment))


def _environment(content: Any) -> str:
    if not isinstance(content, Mapping):
        return "not recorded"
    return ", ".join(f"{name} {value}" for name, value in content.items() if value is not None)


def _runner(spec: str, options: Mapping[str, Any]) -> str:
    return spec + "".join(f", {name}={value}" for name, value in options.items())
