"""The demo's result in the terminal: texts, the healthy-looking number, the map, the finding, the control."""

from __future__ import annotations

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from parity.compare.table import floor_map, layer_table
from parity.ladder import CaptureInvestigation
from parity.report.markdown import agreement, expert_overlap, gate_passed, launches_over, proof_lines


def show_investigation(found: CaptureInvestigation, control: CaptureInvestigation, console: Console) -> None:
    """Print what an engine person reads first, in the order in which it convinces."""
    truth = found.oracle_generation
    request = found.observation.request
    console.print(f"\n[bold]1. The text[/]  prompt {request.name}, {len(request.ids)} tokens; greedy continuation")
    texts = Table(box=None, padding=(0, 1))
    for column in ("", "as the oracle's", "text"):
        texts.add_column(column, no_wrap=column != "text")
    for who, made, style in (
        ("oracle", truth, ""),
        ("with the fault", found.observation.generation, "red"),
        ("without it", control.observation.generation, "green"),
    ):
        shown = Text((made.text or str(made.ids)).replace("\n", "⏎"), style=style)
        texts.add_row(who, f"{agreement(made.ids, truth.ids)} of {len(truth.ids)} tokens", shown)
    console.print(texts)

    cosines = ", ".join(f"{record.whole['cosine']:.4f}" for record in found.residuals)
    passed = gate_passed(found.whole_tensor.whole["cosine"])
    console.print("\n[bold]2. The number most tools look at[/]  the residual leaving each layer, as one tensor")
    console.print(f"   cosine {cosines}; at layer {found.whole_tensor.layer}, {passed}", highlight=False)

    console.print("\n[bold]3. The worst slice over its floor, chained[/]  error inherited from upstream included")
    console.print(floor_map(found.chained.comparisons, title=""))
    if overlap := expert_overlap(found.chained):
        console.print(f"   experts in common with the oracle's own choice, by layer: {overlap}", highlight=False)
    console.print("\n[bold]4. The same, isolated[/]  each stage alone, the oracle fed the engine's own inputs")
    console.print(floor_map(found.isolated.comparisons, title=""))

    by_layer = found.finding.evidence.get("by_layer", ())
    lines = [found.finding.sentence, *(f"Layer {row['layer']}: {row['sentence']}" for row in by_layer)]
    console.print(Panel("\n".join(lines), title="5. Finding", title_align="left"), highlight=False)
    console.print(layer_table(found.isolated, only_unhealthy=True))
    for launch in launches_over(found.coverage):
        console.print(f"   {launch.line()}", highlight=False)

    if found.proof is not None:
        state = "[green]proved[/]" if found.proof.proved else "[red]not proved[/]"
        console.print(f"\n[bold]6. The proof[/]  {state}")
        for line in proof_lines(found.proof):
            console.print(f"   {line}", highlight=False)
    worst = control.worst_over_floor
    console.print("\n[bold]7. The control[/]  the same prompt without the fault")
    state = "[green]everything within the floor[/]" if control.within_floor else "[red]NOT within the floor[/]"
    console.print(f"   {state}; worst slice at {'?' if worst is None else f'{worst:.2f}'} of its gate\n")
