"""How does text that somebody else wrote get into a page without acting there? Two template environments that quote.

Every expression of a template is quoted unless it is Markup already: for HTML entities, for Markdown entities and
backslashes. Control characters, bidirectional overrides and lone surrogates are shown as their numbers in both, and a
text longer than `parity.report.text.LONGEST` is cut and counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from parity.report.text import shorten, visible

_ACTS = re.compile(r"([\\`*\[\]|~$#]|(?<![^\W_])_|_(?![^\W_]))")
"""Punctuation that CommonMark or GitHub's dialect acts on inside a line; a backslash before it makes it a letter.
An underscore between letters is one (CommonMark 0.31, section 6.2), and `!` acts before a bracket alone."""

_LINKS = re.compile(r"(://|\bwww\.)", re.IGNORECASE)
"""What GitHub's dialect makes a link of by itself."""

_STARTS = re.compile(r"^\s*(?:([-+](?=\s|$)|[-=](?=[-=\s]*$))|(\d+)([.)])(?=\s|$))")
"""What begins a list, which takes a blank after its mark, or underlines a heading, at the start of a line."""

NOTHING = "-"


def html_environment() -> Environment:
    """Templates whose expressions are quoted for HTML; globals `table`, filter `block`."""
    return _environment(quote_html, table=html_table, block=_html_block)


def markdown_environment() -> Environment:
    """The same for Markdown, CommonMark or GitHub's."""
    return _environment(quote_markdown, table=markdown_table, block=_fenced)


def quote_html(value: Any) -> Markup:
    """A value as text of an HTML page."""
    return value if isinstance(value, Markup) else escape(plain(value))


def quote_markdown(value: Any) -> Markup:
    """A value as text inside a line of Markdown."""
    if isinstance(value, Markup):
        return value
    quoted = _ACTS.sub(r"\\\1", str(escape(plain(value))).replace("&#34;", '"').replace("&#39;", "'"))
    quoted = _STARTS.sub(lambda found: f"\\{found[1]}" if found[1] else f"{found[2]}\\{found[3]}", quoted)
    return Markup(_LINKS.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", quoted))


def plain(value: Any) -> str:
    """A value on one line, nothing hidden in it; numbers to four digits, None as a dash."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return visible(shorten(str(value)))


def html_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Markup:
    """A table of quoted cells. Text starts at the left, also in a notebook, whose own style says otherwise."""
    left = Markup(" style=text-align:left")
    head = Markup("").join(Markup("<th scope=col{}>{}</th>").format(left, quote_html(name)) for name in header)
    body = Markup("\n").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(
                Markup("<td{}>{}</td>").format("" if isinstance(cell, (int, float)) else left, quote_html(cell))
                for cell in row
            )
        )
        for row in rows
    )
    table = "<div class=wide><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody></table></div>"
    return Markup(table).format(head, body)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Markup:
    """A table of quoted cells; a cell is one line by then."""
    lines = [[quote_markdown(name) for name in header], [Markup("---")] * len(header)]
    lines += [[quote_markdown(cell) for cell in row] for row in rows]
    return Markup("\n").join(Markup("| {} |").format(Markup(" | ").join(line)) for line in lines)


def _html_block(lines: Iterable[str]) -> Markup:
    """Lines as they are, in a box."""
    return Markup("<pre>{}</pre>").format(Markup("\n").join(quote_html(line) for line in lines))


def _fenced(lines: Iterable[str]) -> Markup:
    """Lines in a fence longer than any run of backticks in them; nothing inside is acted on."""
    shown = [plain(line) for line in lines]
    longest = max((len(run) for line in shown for run in re.findall("`+", line)), default=0)
    fence = "`" * max(longest + 1, 3)
    return Markup("\n").join(Markup(line) for line in (fence, *shown, fence))


def _environment(quote: Callable[[Any], Markup], **names: Any) -> Environment:
    environment = Environment(
        loader=PackageLoader("parity.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=quote,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    block = names.pop("block")
    environment.globals.update(names)
    environment.filters["block"] = block
    return environment
