"""Does the engine run with the checkpoint's hyper-parameters and recipe? Stated and observed values against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from parity.audit.names import canonical, same_value
from parity.audit.record import NOT_STATED, AuditCheck, AuditFinding, HyperRow
from parity.audit.rope import read_frequencies
from parity.audit.tensors import Observed
from parity.fingerprint import causes
from parity.invariance.record import Outcome
from parity.records import Recipe

CAUSE = {
    "rope_theta": causes.ROPE_THETA,
    "rope_scaling": causes.ROPE_SCALING,
    "norm_topk_prob": causes.WEIGHTS_NOT_NORMALIZED,
    "softmax_scale": causes.SOFTMAX_SCALE,
}
"""Causes that have a class of their own; every other value is CONFIG_VALUE."""

MAY_BE_LESS = ("max_positions",)
"""An engine may serve fewer positions than the model was made for; it computes the same where it serves."""

RECIPE_FIELDS = ("weights", "activations", "compute", "accumulate", "kv_cache", "residual")


def judge_values(
    *, oracle: Mapping[str, Any], sut: Mapping[str, Any], observed: Sequence[Observed]
) -> tuple[AuditCheck, tuple[AuditFinding, ...], tuple[HyperRow, ...]]:
    """Compare hyper-parameters by canonical name; the oracle's are the checkpoint's own.

    A value is compared where the engine states it or an operation was observed to be told it, each by itself.
    """
    wanted, _ = canonical(oracle)
    stated, unknown = canonical(sut)
    seen = _observed(observed, wanted)
    rows, findings = [], []
    for name in sorted(set(wanted) | set(stated) | set(seen), key=_order(wanted)):
        row, finding = _judge_one(name, wanted, stated, seen.get(name, ()))
        rows.append(row)
        findings += [finding] if finding else []
    compared = sum(row.verdict in ("equal", "different", "less, as it may be") for row in rows)
    open_names = [row.name for row in rows if row.verdict == NOT_STATED]
    if not compared:
        why = "The engine states no hyper-parameter that the checkpoint has" + (
            f": {', '.join(unknown)}" * bool(unknown)
        )
        return AuditCheck("config", Outcome.NOT_RUN, why + "."), (), tuple(rows)
    said = f"{compared} values compared, {len(findings)} differ" + _also(open_names, unknown)
    outcome = Outcome.BROKEN if findings else Outcome.HELD
    return AuditCheck("config", outcome, said, compared), tuple(findings), tuple(rows)


def judge_recipe(
    *, oracle: Recipe, sut: Recipe, observed: Sequence[Observed] = ()
) -> tuple[AuditCheck, tuple[AuditFinding, ...]]:
    """Compare the precision recipe that the engine runs with the one that the checkpoint's quantization asks for.

    An engine that dequantizes on purpose runs another recipe: open the oracle in that recipe to audit it.
    """
    wanted, stated = asdict(oracle), asdict(sut)
    cache = {one.value for one in observed if one.name == "kv_cache"}
    findings = []
    for name in RECIPE_FIELDS:
        found = [stated[name], *sorted(cache - {stated[name]})] if name == "kv_cache" else [stated[name]]
        if any(_format(value) != _format(wanted[name]) for value in found):
            said = " and ".join(map(str, found))
            findings.append(
                AuditFinding(
                    "recipe", f"recipe.{name}", causes.CONFIG_VALUE, str(wanted[name]), said,
                    f"{name} of the recipe: the checkpoint asks for {wanted[name]}, the engine runs {said}.",
                )
            )  # fmt: skip
    outcome = Outcome.BROKEN if findings else Outcome.HELD
    sentence = f"{sut.name} against {oracle.name}: {len(RECIPE_FIELDS)} fields compared, {len(findings)} differ"
    return AuditCheck("recipe", outcome, sentence, len(RECIPE_FIELDS)), tuple(findings)


def _format(value: str) -> str:
    """What is computed with; where it came from (`bf16 dequantized from ...`, `..., quantized here`) is said behind."""
    return value.partition(" dequantized from ")[0].partition(", quantized")[0]


def _judge_one(
    name: str, wanted: Mapping[str, Any], stated: Mapping[str, Any], seen: Sequence[Observed]
) -> tuple[HyperRow, AuditFinding | None]:
    values = tuple(one.value for one in seen)
    shown = NOT_STATED if not values else values[0] if len(values) == 1 else values
    told = stated.get(name, NOT_STATED)
    if name not in wanted:
        # None and False say that a feature is off; a checkpoint that knows nothing of it does not contradict.
        return HyperRow(name, NOT_STATED, told, shown, NOT_STATED), None
    want = wanted[name]
    wrong_stated = name in stated and not _fits(name, want, told)
    wrong_seen = [one for one in seen if not _fits(name, want, one.value)]
    if not wrong_stated and not wrong_seen:
        given = [*([told] if name in stated else []), *values]
        exact = all(same_value(want, value) for value in given)
        verdict = NOT_STATED if not given else "equal" if exact else "less, as it may be"
        return HyperRow(name, want, told, shown, verdict), None
    places = tuple(dict.fromkeys(place for one in wrong_seen for place in one.places))
    parts = [f"the engine states {told}"] if wrong_stated else []
    parts += [f"{_some(one.places)} is told {_short(one.value)}" for one in wrong_seen]
    found = "; ".join(parts)
    finding = AuditFinding(
        "config", name, CAUSE.get(name, causes.CONFIG_VALUE), _short(want), found,
        f"{name}: the checkpoint says {_short(want)}; {found}.", places, _layers(places),
        evidence={"key": name, "checkpoint": want, "stated": told, "observed": list(values)},
    )  # fmt: skip
    return HyperRow(name, want, told, shown, "different"), finding


def _fits(name: str, want: Any, value: Any) -> bool:
    if name in MAY_BE_LESS and isinstance(value, int) and isinstance(want, int):
        return 0 < value <= want
    return same_value(want, value)


def _observed(observed: Sequence[Observed], wanted: Mapping[str, Any]) -> dict[str, list[Observed]]:
    """Observed values by name; the frequencies of rope read as its base and its scaling."""
    found: dict[str, list[Observed]] = {}
    for one in observed:
        if one.name == "kv_cache":
            continue
        if one.name != "inv_freq":
            found.setdefault(one.name, []).append(one)
            continue
        theta = wanted.get("rope_theta")
        if theta is None or wanted.get("rope_scaling") is not None:
            continue  # what the frequencies of a scaled rope must be, the checkpoint's reading does not say
        reading = read_frequencies(one.value, float(theta))
        if reading.theta is not None:
            base = theta if same_value(theta, reading.theta) else round(reading.theta, 2)
            found.setdefault("rope_theta", []).append(Observed("rope_theta", base, one.places))
            found.setdefault("rope_scaling", []).append(Observed("rope_scaling", None, one.places))
        else:
            assert reading.scaled is not None
            first, stop = reading.scaled
            scaling = {"pairs": f"{first}..{stop - 1}", "frequency_ratio": [round(r, 6) for r in reading.ratio]}
            found.setdefault("rope_scaling", []).append(Observed("rope_scaling", scaling, one.places))
    return found


def _order(wanted: Mapping[str, Any]) -> Any:
    order = {name: number for number, name in enumerate(wanted)}
    return lambda name: (order.get(name, len(order)), name)


def _layers(places: Sequence[str]) -> tuple[int, ...]:
    return tuple(sorted({int(place[1 : place.index(".")]) for place in places if place[0] == "L"}))


def _also(open_names: Sequence[str], unknown: Sequence[str]) -> str:
    said = f"; not stated: {', '.join(open_names)}" if open_names else ""
    return said + (f"; of no known name: {', '.join(unknown)}" if unknown else "")


def _some(places: Sequence[str]) -> str:
    return places[0] if len(places) == 1 else f"{places[0]} (and {len(places) - 1} more)"


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 120 else text[:117] + "..."
