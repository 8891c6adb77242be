"""Does this engine run this checkpoint? The config and checkpoint rung: values, recipe, tensors, scales, reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from parity.audit.bindings import judge_bindings, suspect_rewritten
from parity.audit.record import Audit, AuditCheck, AuditFinding, WeightDistance
from parity.audit.reference import judge_distances
from parity.audit.tensors import BindingReport, StoredTensor, report_parameters
from parity.audit.values import judge_recipe, judge_values
from parity.errors import ParityError, RunnerError, UsageError
from parity.invariance.record import Outcome
from parity.process_runner import ProcessRunner
from parity.runner import RunnerInfo
from parity.trace import lineage_of

QUANTIZED = ("q8_0",)
"""Formats of weights, as a recipe states them, that oracles can put the checkpoint's values into."""


def audit(*, oracle: Any, sut: Any, reference: str | Path | None = None) -> Audit:
    """Audit an engine against the checkpoint as the oracle reads it; both are runners, in this process or another.

    sut: values from `describe().hyper` and, with the ability `bindings`, from what its operations are told; tensors
        with `bindings` or `parameters`. What it cannot show is NOT_RUN with the reason.
    oracle: a runner with the ability `stored`, opened on the same checkpoint in the recipe meant.
    reference: a model folder of the same lineage (the BF16 checkpoint of an FP8 one) to compare the weights with.
    Raises UsageError for checkpoints that are not the same one, or a reference of another lineage; RunnerError where
    the oracle cannot read a checkpoint, or the SUT shows neither values nor tensors.
    """
    wanted, stated = oracle.describe(), sut.describe()
    _require_same(wanted, stated)
    if reference is not None:
        _require_lineage(wanted, reference)
    report, why = _report(sut, stated)
    observed = () if report is None else report.observed
    checks: list[AuditCheck] = []
    findings: list[AuditFinding] = []
    config, found, rows = judge_values(oracle=wanted.hyper, sut=stated.hyper, observed=observed)
    checks.append(config)
    findings += found
    check, found = judge_recipe(oracle=wanted.recipe, sut=stated.recipe, observed=observed)
    checks.append(check)
    findings += found
    tensors, found, suspicions = _bindings(oracle, wanted, report, why, held=stated.recipe.weights)
    checks += tensors
    findings += found
    check, found, distances = _reference(oracle, wanted, reference)
    checks += check
    findings += found
    return Audit(
        sut=stated.name, oracle=wanted.name, reference=None if reference is None else str(reference),
        checks=tuple(checks), findings=tuple(findings), values=rows, distances=distances, suspicions=suspicions,
    )  # fmt: skip


def audit_apart(
    *,
    oracle: str,
    sut: str,
    reference: str | Path | None = None,
    oracle_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Audit:
    """`audit` of runners named `NAME:MODEL`, the engine in a process of its own; options are the engine's."""
    with ProcessRunner(sut, **options) as engine, ProcessRunner(oracle, **(oracle_options or {})) as trusted:
        return audit(oracle=_Apart(trusted), sut=_Apart(engine), reference=reference)


class _Apart:
    """A ProcessRunner with the methods that an audit calls."""

    def __init__(self, runner: ProcessRunner) -> None:
        self.runner = runner

    def describe(self) -> RunnerInfo:
        return self.runner.describe()

    def shown(self) -> tuple[BindingReport | None, str]:
        return self.runner.call(show)

    def stored(self, *, held: str = "") -> tuple[StoredTensor, ...]:
        return self.runner.call(_stored, held)

    def distances(self, reference: str) -> Any:
        return self.runner.call(_distances, reference)


def show(runner: Any) -> tuple[BindingReport | None, str]:
    """What a runner shows of its weights, or None and why it shows nothing."""
    if callable(getattr(runner, "shown", None)):
        return runner.shown()
    try:
        if callable(getattr(runner, "bindings", None)):
            return cast(BindingReport, runner.bindings()), ""
        if callable(getattr(runner, "parameters", None)):
            return report_parameters(runner.parameters()), ""
    except ParityError as error:
        return None, f"It refused to show what it reads: {error}"
    return None, "The engine can show neither its bindings nor its parameters."


def _stored(runner: Any, held: str = "") -> tuple[StoredTensor, ...]:
    return runner.stored(held=held) if held else runner.stored()


def _distances(runner: Any, reference: str) -> Any:
    return runner.distances(reference)


def _report(sut: Any, info: RunnerInfo) -> tuple[BindingReport | None, str]:
    report, why = show(sut)
    if report is None and not info.hyper:
        raise RunnerError(
            place=f"audit of runner {info.name}",
            expected="effective hyper-parameters, or the weights that it reads",
            found="neither",
            next_step="Implement describe().hyper, bindings() or parameters(); see parity/audit/tensors.py.",
        )
    return report, why


def _bindings(
    oracle: Any, wanted: RunnerInfo, report: BindingReport | None, why: str, *, held: str
) -> tuple[tuple[AuditCheck, ...], tuple[AuditFinding, ...], tuple[AuditFinding, ...]]:
    if report is None or "stored" not in wanted.can:
        why = why or f"The oracle {wanted.name} cannot show the checkpoint's tensors."
        return tuple(AuditCheck(name, Outcome.NOT_RUN, why) for name in ("tensors", "scales")), (), ()
    # A matrix that an engine says it quantized is the checkpoint's when it is that one, quantized.
    quantized = next((one for one in QUANTIZED if one in held.split("+")), "")
    stored = oracle.stored(held=quantized) if quantized else oracle.stored()
    return (*judge_bindings(stored, report), suspect_rewritten(stored, report))


def _reference(
    oracle: Any, wanted: RunnerInfo, reference: str | Path | None
) -> tuple[tuple[AuditCheck, ...], tuple[AuditFinding, ...], tuple[WeightDistance, ...]]:
    if reference is None:
        return (), (), ()
    if "stored" not in wanted.can:
        why = f"The oracle {wanted.name} cannot read checkpoints tensor by tensor."
        return (AuditCheck("reference", Outcome.NOT_RUN, why),), (), ()
    distances, problems = oracle.distances(str(reference))
    check, findings = judge_distances(distances, problems)
    return (check,), findings, distances


def _require_same(wanted: RunnerInfo, stated: RunnerInfo) -> None:
    if wanted.lineage != stated.lineage:
        raise UsageError(
            place=f"audit of {stated.name} by {wanted.name}",
            expected=f"one checkpoint on both sides; the oracle reads {_lineage(wanted.lineage)}",
            found=_lineage(stated.lineage),
            next_step="Open the oracle on the engine's own model folder; another of the lineage is for --reference.",
        )


def _require_lineage(wanted: RunnerInfo, reference: str | Path) -> None:
    root = lineage_of(reference)
    if root.root != wanted.lineage.root:
        raise UsageError(
            place=f"reference {reference}",
            expected=f"a checkpoint of the lineage {wanted.lineage.root}",
            found=_lineage(root),
            next_step="Name the checkpoint that this one was converted from; a converter writes lineage.json.",
        )


def _lineage(lineage: Any) -> str:
    steps = "; ".join(step.partition(":")[0] for step in lineage.conversions)
    return lineage.root[:23] + (f" converted: {steps}" if steps else "")
