"""What all commands share: the application, its options, and how a refusal ends.

Exit 0: within the floor, or done; 1: a divergence was found; 2: refused input or misuse.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from parity.errors import ParityError
from parity.records import as_json

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Which row, head, expert or tile of which stage of which layer of an inference engine is wrong.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]

_debug = [False]


@app.callback()
def settings(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of refused input.")] = False,
) -> None:
    _debug[0] = debug


def print_json(content: Any) -> None:
    """Print records and plain values as one JSON object."""
    print(json.dumps(as_json(content), indent=2))


def main() -> None:
    """Entry point of the `parity` command: refused input ends in one readable paragraph and exit 2."""
    try:
        app()
    except ParityError as error:
        if _debug[0]:
            raise
        Console(stderr=True).print(f"[red]parity:[/] {error}", highlight=False)
        sys.exit(2)
