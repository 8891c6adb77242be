"""`parity doctor`."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.table import Table

from parity.cli.app import AsJson, app, print_json


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what this machine can run, and what will be skipped and why.

    Example: parity doctor
    """
    from parity.doctor import examine

    checks = examine()
    if as_json:
        print_json(checks)
    else:
        table = Table(box=None, pad_edge=False)
        for column in ("", "state", "found", "what it means"):
            table.add_column(column)
        colours = {"ok": "green", "skip": "yellow", "bad": "red"}
        for check in checks:
            state = f"[{colours[check.state]}]{check.state}[/]"
            table.add_row(check.name, state, check.found, check.consequence)
        Console().print(table)
    if any(check.state == "bad" for check in checks):
        raise typer.Exit(2)
