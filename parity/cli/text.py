"""`parity text score`: where a continuation degenerates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parity.cli.app import AsJson, app, print_json

text = typer.Typer(no_args_is_help=True, help="Degeneration of decoded text.\n\nExample: parity text score answer.txt")
app.add_typer(text, name="text")


@text.callback()
def of_text() -> None:
    """Degeneration of decoded text."""


@text.command()
def score(
    file: Annotated[Path, typer.Argument(help="Plain text, or JSON with `text`, `tokens` or `ids`.")],
    as_json: AsJson = False,
) -> None:
    """Loops, nonsense, early ends and how varied the text is; exit 1 when it degenerates.

    Example: parity text score answer.txt
    """
    from parity.text import read_completion, score_text

    found = score_text(read_completion(file))
    if as_json:
        print_json({**{name: getattr(found, name) for name in found.__dataclass_fields__}, "healthy": found.healthy})
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        loop = found.loop
        bare = found.compression_ratio is None
        said = "no exact one; others are not looked for in bare ids" if bare else "none"
        if loop is not None:
            said = f"{loop.kind}, period {loop.period} tokens, from token {loop.start}, {loop.repeats:.1f} rounds"
        counted = "none"
        if found.counting is not None:
            counted = (
                f"from token {found.counting.start}, {found.counting.repeats:.1f} rounds whose numbers follow a rule"
            )
        unknown = {None: "not known", True: "yes", False: "no"}
        for name, value in (
            ("tokens", f"{found.tokens}"),
            ("first degeneration", "none" if found.first_degeneration is None else f"token {found.first_degeneration}"),
            ("loop", said),
            ("counting", counted),
            ("first nonsense", "none seen" if found.first_nonsense is None else f"token {found.first_nonsense}"),
            ("distinct 1 to 4", ", ".join(f"{share:.3f}" for share in found.distinct.values())),
            ("compression", "not known" if found.compression_ratio is None else f"{found.compression_ratio:.1f} to 1"),
            ("open code fence", unknown[found.open_fence]),
            ("open thinking", unknown[found.open_thinking]),
            ("premature end", unknown[found.premature_end]),
        ):
            table.add_row(name, escape(value))
        Console().print(table)
    if not found.healthy:
        raise typer.Exit(1)
