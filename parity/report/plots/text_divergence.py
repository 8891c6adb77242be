"""From which token on do two texts differ? Both continuations token by token, and the distance of the logits below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from parity.report.plots.style import BLUE, GREY, INK, ORANGE, VERMILION, Picture, empty, figure, finish, plain_ticks
from parity.report.text import count, shorten, visible

ACROSS, MOST_LINES = 12, 8
"""Tokens on a line, and lines: as many as a page shows at a legible size; what is left out is counted."""


@dataclass(frozen=True)
class TextPair:
    """Two greedy continuations of one prompt.

    oracle, sut: token ids. oracle_texts, sut_texts: the same as strings, None where only ids are known (their numbers
    are shown). near_ties: numbers of the tokens where the texts part within the noise. kl: nats by new token,
    teacher-forced, empty where it was not measured.
    """

    oracle: tuple[int, ...]
    sut: tuple[int, ...]
    oracle_texts: tuple[str, ...] | None = None
    sut_texts: tuple[str, ...] | None = None
    near_ties: tuple[int, ...] = ()
    kl: tuple[float, ...] = ()


def draw_text_divergence(pair: TextPair) -> Picture:
    """Lines of tokens, the oracle's above the engine's: plain where equal, hatched where not; below, KL by token."""
    length = max(len(pair.oracle), len(pair.sut))
    if not length:
        return empty("Neither engine wrote a token", "There is no continuation to compare.")
    first = _first_difference(pair)
    start = 0 if first is None else max(min(first // ACROSS - 1, -(-length // ACROSS) - MOST_LINES), 0) * ACROSS
    stop = min(length, start + ACROSS * MOST_LINES)
    lines = -(-(stop - start) // ACROSS)
    made = figure(11.0, 0.9 + 0.62 * lines + (1.7 if pair.kl else 0))
    heights = [0.62 * lines, 1.7] if pair.kl else [1]
    axes = made.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    _draw_tokens(axes[0], pair, start, stop, lines)
    if pair.kl:
        _draw_kl(axes[1], pair, first)
    left_out = length - (stop - start)
    title = _message(pair, first) + (f" ({count(left_out, 'token')} not shown)" if left_out else "")
    return finish(made, title, f"{title}. Both texts token by token, the oracle's above.")


def _draw_tokens(axis: Axes, pair: TextPair, start: int, stop: int, lines: int) -> None:
    for number in range(start, stop):
        line, column = divmod(number - start, ACROSS)
        same = _id(pair.oracle, number) == _id(pair.sut, number)
        tie = number in pair.near_ties
        for row, (ids, texts) in enumerate(((pair.oracle, pair.oracle_texts), (pair.sut, pair.sut_texts))):
            y = line * 2.6 + row
            if row == 1 and not same:
                axis.add_patch(
                    Rectangle(
                        (column, y), 1, 1, facecolor="white", edgecolor=ORANGE if tie else VERMILION, linewidth=1.6,
                        hatch="" if tie else "////", alpha=0.6,
                    )
                )  # fmt: skip
            frame = Rectangle((column, y), 1, 1, facecolor="none", edgecolor=GREY, linewidth=0.4)
            axis.add_patch(frame)
            cell = axis.text(
                column + 0.5, y + 0.53, _word(ids, texts, number), ha="center", va="center", fontsize=8, color=INK,
                fontweight="bold" if row == 1 and not same else "normal", parse_math=False, clip_on=True,
            )  # fmt: skip
            if row == 1 and not same:
                cell.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})
    axis.set_xlim(-0.01, ACROSS + 0.01)
    axis.set_ylim(lines * 2.6 - 0.4, -0.1)
    at = [line * 2.6 + row + 0.5 for line in range(lines) for row in (0, 1)]
    names = [f"{start + line * ACROSS}  {who}" for line in range(lines) for who in ("oracle", "engine")]
    axis.set_yticks(at, names, fontsize=7)
    axis.set_xticks([])
    axis.tick_params(length=0)
    for side in axis.spines.values():
        side.set_visible(False)
    axis.set_ylabel("new token", fontsize=8)


def _draw_kl(axis: Axes, pair: TextPair, first: int | None) -> None:
    kl = np.array(pair.kl)
    shown = np.clip(np.nan_to_num(kl, nan=0.0, posinf=0.0), 1e-8, None)
    axis.step(range(len(kl)), shown, where="mid", color=BLUE, linewidth=1.2)
    bad = np.flatnonzero(~np.isfinite(kl))
    axis.plot(bad, [shown.max(initial=1e-8)] * len(bad), "x", color=INK, markeredgewidth=2)
    if first is not None:
        axis.axvline(first, color=VERMILION, linestyle="--", linewidth=1)
    axis.set_yscale("log")
    plain_ticks(axis.yaxis)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("new token" + ("" if first is None else " (dashed: the texts part)"), fontsize=8)
    axis.set_ylabel("KL of the logits (nats),\nboth on the oracle's text", fontsize=8)
    axis.tick_params(which="both", labelsize=8)


def _id(ids: Sequence[int], number: int) -> int | None:
    return ids[number] if number < len(ids) else None


def _word(ids: Sequence[int], texts: Sequence[str] | None, number: int) -> str:
    if number >= len(ids):
        return "(ended)"
    text = str(ids[number]) if texts is None or number >= len(texts) else visible(texts[number], blanks=True)
    return shorten("".join(letter if _has_glyph(letter) else f"\\u{ord(letter):04x}" for letter in text[:64]), 11)


@lru_cache(maxsize=4096)
def _has_glyph(letter: str) -> bool:
    """Whether the figure's font can draw it; a letter it cannot is written as its number."""
    return get_font(findfont(FontProperties())).get_char_index(ord(letter)) != 0


def _first_difference(pair: TextPair) -> int | None:
    length = max(len(pair.oracle), len(pair.sut))
    return next((n for n in range(length) if _id(pair.oracle, n) != _id(pair.sut, n)), None)


def _message(pair: TextPair, first: int | None) -> str:
    length = max(len(pair.oracle), len(pair.sut))
    if first is None:
        return f"Both engines write the same {count(length, 'token')}"
    same = sum(_id(pair.oracle, n) == _id(pair.sut, n) for n in range(length))
    tie = ", within the noise" if first in pair.near_ties else ""
    return f"The texts part at new token {first}{tie}; {same} of {length} tokens agree"
