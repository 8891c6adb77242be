"""Under which arguments may a template have been rendered? Small sets of values, fewest changes first."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from parity.prompt.render import Inspection

LIMIT = 400
"""Settings rendered at most: about a second for templates that take milliseconds."""

KNOWN: dict[str, tuple[Any, ...]] = {
    "reasoning_effort": ("low", "medium", "high", "none"),
    "thinking_budget": (0, -1),
    "builtin_tools": ([],),
}
"""Values of arguments that published templates take; those that a template compares with are added."""

NOT_CHOSEN = {"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token", "pad_token",
              "unk_token", "sep_token", "cls_token", "mask_token", "loop", "caller", "varargs", "kwargs"}  # fmt: skip
"""Variables that no caller sets to taste: the conversation itself, the tokenizer's own, jinja2's."""

DATE_FORMATS = ("%d %b %Y", "%Y-%m-%d", "%B %d, %Y", "%d %B %Y", "%b %d, %Y", "%m/%d/%Y", "%d/%m/%Y", "%Y/%m/%d")
_DIRECTIVES = {"%d": r"\d{1,2}", "%m": r"\d{1,2}", "%Y": r"\d{4}", "%y": r"\d{2}", "%b": r"[A-Za-z]{3}",
               "%B": r"[A-Za-z]{3,9}", "%A": r"[A-Za-z]{6,9}", "%a": r"[A-Za-z]{3}", "%H": r"\d{2}",
               "%M": r"\d{2}", "%S": r"\d{2}", "%-d": r"\d{1,2}", "%-m": r"\d{1,2}", "%I": r"\d{2}",
               "%p": r"[AP]M", "%e": r" ?\d{1,2}", "%j": r"\d{3}"}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """Arguments that differ from those asked for. now: the date for `strftime_now`, ISO format; None for today."""

    changed: Mapping[str, Any]
    now: str | None = None

    @property
    def count(self) -> int:
        """How many things it changes."""
        return len(self.changed) + (self.now is not None)

    def said(self) -> dict[str, Any]:
        """The same for a reader."""
        return {**self.changed, **({"strftime_now": self.now} if self.now is not None else {})}


def settings(
    inspection: Inspection, asked: Mapping[str, Any], *, text: str, formats: Sequence[str]
) -> Iterator[Setting]:
    """Every setting of the template's variables other than the ones asked for, fewest changes first.

    text: of the SUT's prompt, where dates are looked for; formats: those that the template asks `strftime_now` for.
    A variable is left undefined, or takes true, false, the constants it is compared with, and KNOWN values; one that
    is named after a date takes the dates in `text`. The arguments asked for are not varied.
    """
    values: dict[str, list[Any]] = {}
    for name in inspection.reads:
        if name in NOT_CHOSEN or name in asked:
            continue
        if "date" in name:
            values[name] = [found for form in DATE_FORMATS for found, _ in dates_in(text, form)]
            continue
        given = [True, False, *inspection.compared.get(name, ()), *KNOWN.get(name, ())]
        values[name] = [one for at, one in enumerate(given) if not any(_same(one, other) for other in given[:at])]
    days = [day.isoformat() for form in formats for _, day in dates_in(text, form)]
    days_or_today: list[str | None] = [None, *dict.fromkeys(days)]
    for number in range(len(values) + 1):
        for names in itertools.combinations(values, number):
            for chosen in itertools.product(*(values[name] for name in names)):
                for now in days_or_today:
                    yield Setting(dict(zip(names, chosen, strict=True)), now)


def dates_in(text: str, form: str) -> list[tuple[str, datetime]]:
    """Parts of `text` that are a date in `form`, each with the date; at most four, as a prompt holds one."""
    parts = re.split(r"(%-?[A-Za-z])", form)
    if len(parts) == 1 or any(part.startswith("%") and part not in _DIRECTIVES for part in parts[1::2]):
        return []
    pattern = "".join(_DIRECTIVES[part] if at % 2 else re.escape(part) for at, part in enumerate(parts))
    found = []
    for said in dict.fromkeys(re.findall(rf"(?<!\d){pattern}(?!\d)", text)):
        try:
            found.append((said, datetime.strptime(said, form.replace("%-", "%").replace("%e", "%d"))))
        except ValueError:
            continue
    return found[:4]


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other
