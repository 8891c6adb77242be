"""How does a record show itself in a notebook? By a renderer that a higher room keeps for it.

Records stand below the report, and must not know how they are drawn: they say only that they can be shown. Renderers
are looked up in the module RENDERERS by name the first time one is needed; where that cannot be imported (no jinja2,
no matplotlib) a record falls back to its repr.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from parity.errors import UsageError

RENDERERS = "parity.report.display"
"""The module whose PAGES and PICTURES, by name of the class, make HTML and figures of records."""


class Displayed:
    """A record that a notebook shows as a table, and that draws itself where there is a figure for it."""

    def _repr_html_(self) -> str | None:
        """HTML for a notebook, every text in it quoted; None to have the repr shown."""
        page = _renderer("PAGES", self)
        return None if page is None else page(self)

    def plot(self) -> Any:
        """The figure of this record, shown by a notebook and with `save(path)`; needs the extra `plots`.

        Raises UsageError for a record without one, and where matplotlib is missing.
        """
        draw = _renderer("PICTURES", self)
        if draw is None:
            raise UsageError(
                place=f"figure of a {type(self).__name__}",
                expected="a record with a figure, and matplotlib",
                found="none",
                next_step="Install the extra `plots`; parity.report.plots lists the figures.",
            )
        return draw(self)


def _renderer(table: str, record: Any) -> Callable[[Any], Any] | None:
    try:
        known = getattr(import_module(RENDERERS), table)
    except ModuleNotFoundError:
        return None
    return next((known[kind.__name__] for kind in type(record).__mro__ if kind.__name__ in known), None)
