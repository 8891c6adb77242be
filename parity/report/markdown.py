"""A written report of an investigation: symptom, finding, where error is added, control, setup. Reads records only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from parity.graft.effect import agreement
from parity.invariance import Coverage
from parity.ladder import CaptureInvestigation, Proof
from parity.records import Comparison, Summary

SITES_SHOWN = 24


def write_report(
    found: CaptureInvestigation, control: CaptureInvestigation, *, figures: dict[str, str], path: Path
) -> Path:
    """Write the report of `found`, with `control` (the same prompt on an engine thought healthy), to `path`.

    figures: file names beside the report, by name: `map`, and `load` where launches fell short.
    """
    template = _environment().get_template("report.md.j2")
    observation, finding = found.observation, found.finding
    whole = found.whole_tensor.whole
    context = {
        "title": "Investigation: " + (finding.cause or finding.verdict),
        "sentence": finding.sentence,
        "prompt": observation.request.name,
        "tokens": len(observation.request.ids),
        "new_tokens": len(observation.generation.ids),
        "texts": _texts(found, control),
        "cosine": whole["cosine"],
        "cosine_layer": found.whole_tensor.layer,
        "cosines": ", ".join(f"{record.whole['cosine']:.4f}" for record in found.residuals),
        "norm_ratio": whole["norm_ratio"],
        "gate_passed": gate_passed(whole["cosine"]),
        "finding_rows": _finding_rows(found),
        "coverage": [line.line() for line in found.coverage if line.truncated],
        "map_figure": figures.get("map"),
        "load_figure": figures.get("load"),
        "site_rows": _site_rows(found),
        "hidden": _hidden(found),
        "overlap": expert_overlap(found.chained),
        "proof": [] if found.proof is None else proof_lines(found.proof),
        "control": _control(control),
        "setup_rows": _setup(found),
        "not_excluded": finding.not_excluded or ("nothing that this lab knows to test",),
    }
    path.write_text(template.render(context))
    return path


def markdown_table(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> str:
    """A markdown table; cells are escaped."""
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def gate_passed(cosine: float) -> str:
    """Which of the fixed whole-tensor thresholds in use elsewhere would let this pass, in words."""
    passed = next((gate for gate in (0.999, 0.99, 0.98, 0.95, 0.9) if cosine >= gate), None)
    return f"a fixed gate of cosine >= {passed} passes it" if passed else "no usual threshold would pass it"


def expert_overlap(chained: Summary) -> str:
    """Experts that each layer's tokens share with the oracle's own choice, mean of k; empty without a router."""
    records = [record for record in chained.comparisons if "overlap" in record.whole]
    return ", ".join(f"{record.whole['overlap']:.2f} of {record.whole['top_k']:.0f}" for record in records)


def proof_lines(proof: Proof) -> list[str]:
    """What each of the three grafts did, a line each."""
    confirmed = [score for name, score in proof.added.items() if name not in proof.unconfirmed and score is not None]
    lowest = min(confirmed, default=float("nan"))
    hidden, cleared = ", ".join(proof.unmasked), len(proof.cleared) - len(proof.left)
    lines = [
        f"sham: the SUT's own tensors at {', '.join(proof.sites)} change {proof.sham_changed} of its logits"
        + ("" if proof.repeats else " (memory pinned: the SUT does not repeat itself)"),
        f"inputs: with the oracle's tensors there, each site still adds error, at least {lowest:.3g} times its gate"
        if proof.stays
        else "inputs: with the oracle's tensors there, not every site adds error: "
        + ", ".join(
            f"{name} {'not judged' if score is None else f'{score:.2g}'}" for name, score in proof.added.items()
        ),
        f"output: with the replayed tensors there, {cleared} of {len(proof.cleared)} sites "
        f"that exceeded their floor no longer do; {proof.effect.line()}",
    ]
    if proof.unconfirmed:
        lines.append(f"not confirmed: {', '.join(proof.unconfirmed)} add nothing on the oracle's inputs")
    if hidden:
        lines.append(f"unmasked: {hidden} add error of their own once the others are mended, and are mended with them")
    if proof.text_before and proof.text_after:
        lines.append(
            f"text: {proof.text_before[0]} of {proof.text_before[1]} tokens as the oracle's before, "
            f"{proof.text_after[0]} after"
        )
    return lines


def added_at(found: CaptureInvestigation) -> list[Comparison]:
    """Isolated comparisons that are evidence of a divergence, in order of computation."""
    return [record for record in found.isolated.comparisons if record.verdict.faulty]


def worst_slice(record: Comparison) -> str:
    """The worst slice of a comparison in words."""
    if not record.worst:
        return record.reason
    first = record.worst[0]
    return f"{first.where}: {first.by or 'rel_l2'} {first.metrics.get(first.by or 'rel_l2', float('nan')):.3g}"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("parity.report"), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters["cell"] = _quoted
    environment.globals["table"] = markdown_table
    return environment


def _texts(found: CaptureInvestigation, control: CaptureInvestigation) -> list[dict[str, Any]]:
    truth = found.oracle_generation
    rows = [("oracle (HF, bf16)", truth), ("engine under test", found.observation.generation)]
    rows.append(("engine without the fault", control.observation.generation))
    return [
        {
            "who": who,
            "text": made.text or str(list(made.ids)),
            "agree": f"{agreement(made.ids, truth.ids)} of {len(truth.ids)}",
        }
        for who, made in rows
    ]


def _finding_rows(found: CaptureInvestigation) -> list[tuple[str, Any]]:
    finding = found.finding
    rows = [
        ("verdict", finding.verdict),
        ("layers", ", ".join(map(str, finding.layers)) or "none"),
        ("stage", finding.stage or "none"),
        ("cause", finding.cause or "unknown"),
        ("worst slice over its floor", "none" if finding.over_floor is None else f"{finding.over_floor:.1f}"),
    ]
    return [*rows, *((f"layer {row['layer']}", row["sentence"]) for row in finding.evidence.get("by_layer", ()))]


def _site_rows(found: CaptureInvestigation) -> list[tuple[str, str, str, str]]:
    chained = {record.name: record for record in found.chained.comparisons}
    return [
        (record.name, _times(record), worst_slice(record), _times(chained[record.name]))
        for record in added_at(found)[:SITES_SHOWN]
    ]


def _hidden(found: CaptureInvestigation) -> str:
    total, added = len(found.isolated.comparisons), len(added_at(found))
    inherited = sum(record.verdict.faulty for record in found.chained.comparisons)
    shown = f" The first {SITES_SHOWN} are shown." if added > SITES_SHOWN else ""
    return (
        f"{added} of {total} sites add error of their own; {inherited} of {total} show error over their floor.{shown}"
    )


def _times(record: Comparison) -> str:
    return record.verdict.value if record.over_floor is None else f"{record.over_floor:.2f}"


def _control(control: CaptureInvestigation) -> str:
    state = "every site lies within its floor" if control.within_floor else "NOT every site lies within its floor"
    worst = control.worst_over_floor
    number = "nothing was judged" if worst is None else f"the worst slice of all stands at {worst:.2f} of its gate"
    same = agreement(control.observation.generation.ids, control.oracle_generation.ids)
    return (
        f"The same prompt on the engine without the fault: {state}; {number}. Its first {same} of "
        f"{len(control.oracle_generation.ids)} tokens are the oracle's."
    )


def _setup(found: CaptureInvestigation) -> list[tuple[str, str]]:
    run, floor = found.observation.trace.run, found.floor
    recipe, environment = run.recipe, run.environment
    interpreted = " (interpreted)" if environment.interpreted else ""
    gates = "; ".join(f"{mode} gate at {gate.z:.1f} standard deviations" for mode, gate in floor.gates.items())
    words = {
        "engine": f"{found.observation.info.name}, recipe {recipe.name}: weights {recipe.weights}, "
        f"activations {recipe.activations}, accumulation {recipe.accumulate}",
        "oracle": f"{found.oracle.name}, recipe {found.oracle.recipe.name}: weights {found.oracle.recipe.weights}",
        "checkpoint": f"{run.model}, lineage {run.lineage.root[:23]}, "
        + (", ".join(run.lineage.conversions) or "as trained"),
        "floor": f"computed in this run from {len(floor.runs)} clean runs of the recipe's emulation: {gates}",
        "environment": f"Python {environment.python}, torch {environment.torch}, triton {environment.triton}, "
        f"{environment.device}{interpreted}, {environment.cpu_capability}, {environment.threads} threads",
    }
    return list(words.items())


def launches_over(coverage: Sequence[Coverage]) -> list[Coverage]:
    """Launches that fall short, one a layer (the first)."""
    first: dict[int | None, Coverage] = {}
    for launch in coverage:
        if launch.truncated:
            first.setdefault(launch.layer, launch)
    return list(first.values())


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _quoted(text: str) -> str:
    """Text of a model in a table cell: visible line ends, nothing that markdown or HTML would act on."""
    shown = text.replace("\n", "⏎").replace("`", "'").replace("|", "¦")
    return f"`{shown}`"
