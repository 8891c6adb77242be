"""The demo's result in the terminal: texts, the healthy-looking number, the map, finding, proof and control."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from parity.climb import Investigation
from parity.compare.table import floor_map, layer_table
from parity.demo.run import DemoResult, residuals_of, whole_tensor, worst_over_floor
from parity.graft.effect import agreement
from parity.report.evidence import tell_proof
from parity.report.gallery import coverage_of
from parity.report.words import expert_overlap, gate_passed, launches_over


def show_demo(result: DemoResult, console: Console) -> None:
    """Print what an engine person reads first, in the order in which it convinces."""
    found = result.faulty
    chained, isolated = found.summary(4, "chained"), found.summary(5, "isolated")
    assert chained is not None
    assert isolated is not None
    _show_texts(result, console)

    cosines = ", ".join(f"{record.whole['cosine']:.4f}" for record in residuals_of(found))
    whole = whole_tensor(found)
    console.print("\n[bold]2. The number most tools look at[/]  the residual leaving each layer, as one tensor")
    console.print(f"   cosine {cosines}; at layer {whole.layer}, {gate_passed(whole.whole['cosine'])}", highlight=False)

    console.print("\n[bold]3. The worst slice over its floor, chained[/]  error inherited from upstream included")
    console.print(floor_map(chained.comparisons, title=""))
    if overlap := expert_overlap(chained):
        console.print(f"   experts in common with the oracle's own choice, by layer: {overlap}", highlight=False)
    console.print("\n[bold]4. The same, isolated[/]  each stage alone, the oracle fed the engine's own inputs")
    console.print(floor_map(isolated.comparisons, title=""))

    by_layer = found.finding.evidence.get("by_layer", ())
    lines = [found.finding.sentence, *(f"Layer {row['layer']}: {row['sentence']}" for row in by_layer)]
    console.print(Panel(escape("\n".join(lines)), title="5. Finding", title_align="left"), highlight=False)
    console.print(layer_table(isolated, only_unhealthy=True, width=console.width))
    for launch in launches_over(coverage_of(found)):
        console.print(f"   {launch.line()}", highlight=False)

    state, proof = tell_proof(found, {})
    console.print(f"\n[bold]6. The proof[/]  [{'green' if state == 'proved' else 'red'}]{state}[/]")
    for line in proof:
        console.print(Padding(Text(line), (0, 0, 0, 3)))

    clean, worst = result.healthy.finding.verdict == "clean", worst_over_floor(result.healthy)
    console.print("\n[bold]7. The control[/]  the same prompt without the fault")
    state = "[green]everything within the floor[/]" if clean else "[red]NOT within the floor[/]"
    console.print(f"   {state}; worst slice at {'?' if worst is None else f'{worst:.2f}'} of its gate")
    _show_rungs(found, console)


def _show_texts(result: DemoResult, console: Console) -> None:
    request = result.faulty.case.request
    console.print(f"\n[bold]1. The text[/]  prompt {request.name}, {len(request.ids)} tokens; greedy continuation")
    texts = Table(box=None, padding=(0, 1))
    for column in ("", "as the oracle's", "text"):
        texts.add_column(column, no_wrap=column != "text")
    truth = result.texts.oracle
    for who, made, style in (
        ("oracle", truth, ""),
        ("with the fault", result.texts.faulty, "red"),
        ("without it", result.texts.healthy, "green"),
    ):
        same = f"{agreement(made.ids, truth.ids)} of {len(truth.ids)} tokens"
        texts.add_row(who, same, Text((made.text or str(made.ids)).replace("\n", "⏎"), style=style))
    console.print(texts)


def _show_rungs(found: Investigation, console: Console) -> None:
    """What was done in which order, each rung's answer in a line."""
    console.print("\n[bold]8. How it was found[/]  cheapest signal first; each rung said beforehand what it expected")
    rungs = Table(box=None, padding=(0, 1))
    for column in ("rung", "answer", "s", "which"):
        rungs.add_column(column, no_wrap=column != "which", justify="right" if column == "s" else "left")
    for one in found.results:
        status = one.status.value.replace("_", " ").lower()
        rungs.add_row(f"{one.number} {one.name}", status, f"{one.seconds:.0f}", Text(one.sentence, overflow="ellipsis"))
    console.print(rungs)
