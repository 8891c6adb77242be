"""What does a notebook show of an interactive session? Texts side by side, slices by their scores, what a graft did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup

from parity.report.quoting import html_table, quote_html
from parity.report.text import count, times

SHOWN = 12
"""Slices of a ranking that a page shows; the record has more."""


def page_of_texts(texts: Any) -> str:
    """Both continuations, and how far they agree."""
    rows = [
        (who, len(made.ids), made.text if made.text is not None else " ".join(map(str, made.ids)))
        for who, made in (("oracle", texts.oracle), ("engine", texts.sut))
    ]
    of = max(len(texts.sut.ids), len(texts.oracle.ids))
    return page(f"{texts.agree} of {of} tokens agree, from the start on", ("", "tokens", "text"), rows)


def page_of_ranking(ranking: Any) -> str:
    """The worst slices; the others are counted."""
    rows = [_slice_row(one) for one in ranking.slices[:SHOWN]]
    left = ranking.total - len(rows)
    said = f"{ranking.site} by {ranking.kind}: {ranking.over} of {count(ranking.total, 'slice')} over the floor"
    return page(said + (f"; {left} less bad ones are not shown" if left else ""), _SLICE, rows)


def page_of_site(site: Any) -> str:
    """The verdicts, what the launch covered, what shape the error has, and the worst slice of each kind."""
    said = "; ".join(f"{record.phase} {record.verdict.value}" for record in site.records) or site.obstacle
    parts = [Markup("<p><b>{}</b>, on the engine's own inputs: {}</p>").format(quote_html(site.name), quote_html(said))]
    if site.launch is not None:
        parts.append(Markup("<p>launch: <code>{}</code></p>").format(quote_html(site.launch.line())))
    for one in site.fingerprints[:2]:
        shape = f"{one.cause} (explains {100 * one.score:.3g} % of the error): {one.sentence}"
        parts.append(Markup("<p>shape: {}</p>").format(quote_html(shape)))
    rows = [
        (kind, f"{ranking.over} of {ranking.total}", *_slice_row(ranking.slices[0]))
        for kind, ranking in site.rankings.items()
        if ranking.slices
    ]
    parts.append(html_table(("by", "over the floor", *("worst " + _SLICE[0], *_SLICE[1:])), rows))
    return str(Markup("\n").join(parts))


def page_of_graft(graft: Any) -> str:
    """Logits before and after, and the text where it was asked for."""
    effect = graft.effect
    rows: list[tuple[Any, ...]] = [
        ("mean KL to the oracle (nats)", effect.kl_before, effect.kl_after),
        ("worst KL (nats)", effect.kl_worst_before, effect.kl_worst_after),
        ("most likely token is the oracle's", f"{effect.top1_before:.1%}", f"{effect.top1_after:.1%}"),
    ]
    if graft.text is not None:
        of = len(graft.text.oracle.ids)
        rows.append(("tokens as the oracle's", f"{graft.agree_before} of {of}", f"{graft.text.agree} of {of}"))
        rows.append(("text with the graft", "", graft.text.sut.text or str(graft.text.sut.ids)))
    left = f"; {graft.left_out} rows were left out, their tokens went to other experts" if graft.left_out else ""
    said = f"Tensors of {graft.donor} at {', '.join(graft.sites)}: {effect.changed} logits changed{left}"
    return page(said, ("", "before", "after"), rows)


def page_of_lab(lab: Any) -> str:
    """What is on the bench, and what was found so far."""
    case = lab.bench.case
    rows = [
        ("engine under test", case.sut),
        *(("its option " + name, value) for name, value in case.sut_options.items()),
        ("oracle", case.oracle),
        ("prompt", f"{case.request.name}, {len(case.request.ids)} ids"),
        ("floor", case.floor or "none: nothing is judged"),
        ("kept in", str(lab.folder)),
    ]
    done = [(f"{number} {one.name}", one.sentence) for number, one in sorted(lab.bench.results.items())]
    return page("On the bench", ("what", "which"), [*rows, *done])


def picture_of_texts(texts: Any) -> Any:
    from parity.report.plots.text_divergence import TextPair, draw_text_divergence

    oracle, sut = texts.pieces
    pair = TextPair(texts.oracle.ids, texts.sut.ids, oracle or None, sut or None)
    return draw_text_divergence(pair)


def picture_of_ranking(ranking: Any) -> Any:
    """The figure that shows slices of this kind; of ids and of tensors without a field there is none."""
    from parity.report.plots.error_field import draw_error_field
    from parity.report.plots.expert_load import draw_expert_load, expert_loads
    from parity.report.plots.heads import draw_heads
    from parity.report.plots.position_curve import draw_position_curve
    from parity.report.plots.style import empty

    if ranking.field is None:
        return empty(f"{ranking.site} has no field to draw", "Zoom into the site again, and ask it for this kind.")
    if ranking.kind == "expert":
        return draw_expert_load(expert_loads([] if ranking.launch is None else [ranking.launch], [ranking.field]))
    if ranking.kind == "head":
        return draw_heads(ranking.field)
    if ranking.kind == "row":
        return draw_position_curve([ranking.field])
    return draw_error_field(ranking.field)


def picture_of_site(site: Any) -> Any:
    from parity.report.plots.error_field import draw_error_field
    from parity.report.plots.style import empty

    return (
        empty(f"{site.name} has no field to draw", site.obstacle)
        if site.field is None
        else draw_error_field(site.field)
    )


def picture_of_lab(lab: Any) -> Any:
    """Chained and isolated error over depth, as far as they were measured."""
    from parity.report.plots.error_by_depth import draw_error_by_depth
    from parity.report.plots.style import empty

    found = lab.investigation
    chained, isolated = found.summary(4, "chained"), found.summary(5, "isolated")
    if chained is None:
        return empty("Nothing was measured yet", "sweep() measures the error by depth, replay() where it arises.")
    return draw_error_by_depth(chained=chained, isolated=isolated)


def page(said: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A sentence and a table where there is anything in it, every text quoted."""
    table = html_table(header, rows) if rows else Markup("")
    return str(Markup("<p>{}</p>\n{}").format(quote_html(said), table))


_SLICE = ("slice", "rows", "relative error", "over its floor", "by")


def _slice_row(one: Any) -> tuple[Any, ...]:
    phase = "" if one.phase == "prefill" else f" ({one.phase})"
    error = "1, lost: all zero" if one.lost else one.rel_l2
    over = None if one.over_floor is None else times(one.over_floor)
    return one.where + phase, one.rows, error, over, one.by


PAGES: dict[str, Callable[[Any], str]] = {
    "Texts": page_of_texts,
    "Ranking": page_of_ranking,
    "ZoomedSite": page_of_site,
    "Grafted": page_of_graft,
    "Lab": page_of_lab,
}
PICTURES: dict[str, Callable[[Any], Any]] = {
    "Texts": picture_of_texts,
    "Ranking": picture_of_ranking,
    "ZoomedSite": picture_of_site,
    "Lab": picture_of_lab,
}
