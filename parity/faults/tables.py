"""What can be replaced, as markdown tables for docs/faults.md: signatures read from the functions themselves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from parity.faults.seams import Seams


def seam_tables(seams: Seams) -> dict[str, str]:
    """The tables by the name of their place in the page: `ops`, `launches`, `settings`."""
    return {
        "ops": "\n\n".join(
            f"**{name}** ({', '.join(seams.roles.get(name, ()))})\n\n    {_signature(name, op)}"
            for name, op in seams.ops.items()
        ),
        "launches": "\n\n".join(f"**{name}**\n\n    {_signature(name, one)}" for name, one in seams.launches.items()),
        "settings": _table(("setting", "what"), seams.settings.items()),
    }


def cause_table(causes: Mapping[str, str]) -> str:
    """Cause classes, each with what a person looks for."""
    return _table(("cause", "what"), ((f"`{name}`", what) for name, what in causes.items()))


def fill_page(page: str, tables: dict[str, str]) -> str:
    """`page` with each table between its marker `<!-- name -->` and the next heading or the end."""
    for name, table in tables.items():
        head, marker, tail = page.partition(f"<!-- {name} -->\n")
        if not marker:
            raise ValueError(f"the page has no place for {name}")
        _, heading, rest = tail.partition("\n## ")
        page = f"{head}{marker}\n{table}\n{heading}{rest}"
    return page


def _signature(name: str, function: Callable[..., Any]) -> str:
    """The call and what it returns, dtypes of arguments left to the docstring."""
    signature = inspect.signature(function)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    returns = str(signature.return_annotation).replace("torch.", "")
    return f"{name}{signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)} -> {returns}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
