"""What are the worst tensors of a comparison, for a terminal? Worst first, hostile names made harmless."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity.compare.outcome import Outcome
from parity.compare.table import ROOMY, over_floor_words
from parity.records import Comparison

LONGEST_NAME = 60
LEAST_NAME = 16
"""Characters of a name that stay on one line however narrow the terminal."""

_NUMBERS = (("rel_l2", ".3g"), ("cosine", ".6f"), ("norm_ratio", ".5f"), ("slope", ".5f"))


def rank(comparisons: tuple[Comparison, ...]) -> list[Comparison]:
    """Worst first: evidence of a divergence, then what could not be judged, then by score, then by worst rel_l2."""

    def badness(c: Comparison) -> tuple[bool, bool, bool, float, float]:
        error = c.worst[0].metrics.get("rel_l2", math.inf) if c.worst else math.inf
        over = -1.0 if c.over_floor is None else c.over_floor
        unmeasured = c.verdict.faulty and not c.worst
        return c.verdict.faulty, not c.verdict.healthy, unmeasured, over, -1.0 if math.isnan(error) else error

    return sorted(comparisons, key=badness, reverse=True)


def ranking_table(comparisons: tuple[Comparison, ...], *, top: int, width: int = ROOMY) -> Table:
    """One row a comparison, the `top` worst; numbers are those of the worst slice.

    width: characters a line; with fewer than ROOMY numbers are left out, so that names stay to be read: all but the
    score, and where nothing has a score all but rel_l2.
    """
    shown = rank(comparisons)[:top]
    judged = any(c.over_floor is not None for c in shown)
    numbers = _NUMBERS if width >= ROOMY else () if judged else _NUMBERS[:1]
    longest = max((len(harmless(c.name)) for c in shown), default=0)
    table = Table(title="Worst first; numbers of the worst slice", title_justify="left", pad_edge=False)
    several = len({c.phase for c in comparisons}) > 1
    table.add_column("name", overflow="fold", min_width=min(longest, LEAST_NAME))
    if several:
        table.add_column("phase", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("worst slice", overflow="fold")
    for name, _ in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    if judged:
        table.add_column("over floor", justify="right", no_wrap=True)
    for c in shown:
        style = "green" if c.verdict.healthy else "bold red" if c.verdict.faulty else "yellow"
        cells = [Text(harmless(c.name))]
        if several:
            cells.append(Text(c.phase))
        cells.append(Text(c.verdict.value, style=style))
        cells.append(Text(harmless(slice_words(c), longest=200)))
        metrics = c.worst[0].metrics if c.worst else {}
        cells += [Text(format(metrics[name], form) if name in metrics else "") for name, form in numbers]
        if judged:
            cells.append(Text(over_floor_words(c.over_floor), style=style))
        table.add_row(*cells)
    hidden = len(comparisons) - len(shown)
    if hidden:
        table.caption = f"{hidden} more, no worse than these, not shown (--top N shows more)"
        table.caption_justify = "left"
    return table


def slice_words(c: Comparison) -> str:
    """The worst slice and the metric that says so; for what was not measured or not cleared, why."""
    if not c.worst or c.verdict.value in ("NONFINITE", "NO_POWER"):
        return c.reason
    if c.verdict.value == "MATCH":
        return ""
    first = c.worst[0]
    return f"{first.where} ({first.by})" if first.by else first.where


def show_outcome(outcome: Outcome, console: Console, *, top: int = 20) -> None:
    """Print the ranked table, the counts, the floor and its power, the first divergence and what to do."""

    def line(head: str, words: str, style: str = "") -> None:
        console.print(Text.assemble((f"{head}: ", "bold"), (harmless(words, longest=1000), style)), soft_wrap=True)

    records = outcome.summary.comparisons
    if records and top > 0:
        console.print(ranking_table(records, top=top, width=console.width))
    counts = ", ".join(f"{n} {verdict}" for verdict, n in outcome.summary.verdicts.items()) or "nothing was compared"
    line("Compared", f"{len(records)}: {counts}")
    line("Floor", outcome.floor_words)
    if outcome.power_words:
        line("Power", outcome.power_words)
    for stage, why in outcome.summary.unobservable.items():
        line("Not shown", f"{stage}: {why}")
    for note in outcome.summary.notes:
        line("Note", note, "yellow")
    first = outcome.first
    if first is not None:
        what = "First divergence" if first.verdict.faulty else "First difference"
        why = first.reason if not first.worst else f"{slice_words(first)}"
        line(f"{what} (in {outcome.order})", f"{harmless(first.name)}, {first.verdict.value}, {why}")
    line("Next", outcome.next_step, "green" if outcome.exit_code == 0 else "yellow")


def harmless(text: str, *, longest: int = LONGEST_NAME) -> str:
    """Text without control characters, direction marks or line breaks (shown as escapes), the middle cut out."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= longest else f"{shown[: longest // 2 - 2]}...{shown[-(longest // 2 - 1) :]}"
