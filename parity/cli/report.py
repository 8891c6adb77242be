"""`parity report`: an investigation as a page that a colleague can act on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from parity.cli.app import AsJson, app, print_json


@app.command()
def report(
    case: Annotated[Path, typer.Argument(help="Folder of an investigation, finished or not.", metavar="DIR")],
    html: Annotated[Path | None, typer.Option(help="One self-contained HTML file to write.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Markdown file to write, its figures beside it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the report of an investigation, from its ledger and records only: symptom, setup, what was done in which
    order, the finding with its figures and proof, what it was not, what is not excluded, how to see each number again.

    Without --html and --markdown both are written, report.html and report.md in DIR; with --json alone nothing is.

    Example: parity report case-1 --html case-1.html
    """
    from parity.report.document import report_investigation

    if html is None and markdown is None and not as_json:
        html, markdown = case / "report.html", case / "report.md"
    written = report_investigation(case, markdown=markdown, html=html)
    if as_json:
        figures = [{"name": name, "title": title} for name, title in written.figures]
        print_json({"report": written.report, "figures": figures, "files": written.files})
        return
    console = Console(highlight=False)
    console.print(f"[bold]{escape(written.report.title)}[/]")
    for path in written.files:
        console.print(escape(str(path)), soft_wrap=True)
