"""Where does a report go? Markdown with figures beside it, and one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from parity.climb import Investigation
from parity.errors import UsageError
from parity.report.contents import Report, gather
from parity.report.gallery import Exhibit, can_draw, draw_gallery
from parity.report.quoting import html_environment, markdown_environment

FIGURES = "figures"
"""Folder of the PNG files, beside the Markdown."""

UNDRAWN = "Figures are left out: matplotlib is not installed (extra `plots`)."
LEADING = 2
"""Figures that stand with the finding; the rest follow in a section of their own."""


@dataclass(frozen=True)
class Written:
    """A report and where it lies. files: everything that was written."""

    report: Report
    figures: tuple[tuple[str, str], ...]
    files: tuple[Path, ...]


def report_investigation(folder: Path, *, markdown: Path | None = None, html: Path | None = None) -> Written:
    """Read the investigation in `folder` and write its report; nothing is written where no file is named.

    Raises UsageError for a folder that holds none, was altered or cannot be read, and for a file that cannot be
    written.
    """
    found = Investigation.read(folder)
    report, exhibits = gather(found), draw_gallery(found) if markdown or html else []
    files: list[Path] = []
    try:
        if markdown is not None:
            files += write_markdown(report, exhibits, markdown)
        if html is not None:
            files.append(write_html(report, exhibits, html))
    except OSError as error:
        raise UsageError(
            place=str(error.filename or markdown or html),
            expected="a file that can be written",
            found=error.strerror or str(error),
            next_step="Name another file.",
        ) from error
    return Written(report, tuple((one.name, one.picture.title) for one in exhibits), tuple(files))


def write_markdown(report: Report, exhibits: Sequence[Exhibit], path: Path) -> list[Path]:
    """Write `path` and its figures into the folder `figures` beside it; returns all of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files, figures = [path], []
    for exhibit in exhibits:
        (path.parent / FIGURES).mkdir(exist_ok=True)
        files.append(exhibit.picture.save(path.parent / FIGURES / f"{exhibit.name}.png"))
        figures.append({"alt": exhibit.picture.title, "source": f"{FIGURES}/{exhibit.name}.png"})
    text = markdown_environment().get_template("investigation.md.j2").render(_context(report, figures))
    path.write_text(text, encoding="utf-8")
    return files


def write_html(report: Report, exhibits: Sequence[Exhibit], path: Path) -> Path:
    """Write one file with everything in it: figures as data, style inside, no script, no address to fetch from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figures = [
        {
            "alt": exhibit.picture.alt,
            "source": "data:image/png;base64," + base64.b64encode(exhibit.picture.png).decode(),
            "width": round(exhibit.picture.figure.get_figwidth() * 96),
        }
        for exhibit in exhibits
    ]
    text = html_environment().get_template("investigation.html.j2").render(_context(report, figures))
    path.write_text(text, encoding="utf-8")
    return path


def _context(report: Report, figures: list[dict[str, Any]]) -> dict[str, Any]:
    try:
        made_by = f"parity-lab {version('parity-lab')}"
    except PackageNotFoundError:
        made_by = "parity-lab"
    return {
        "r": report,
        "leading": figures[:LEADING],
        "figures": figures[LEADING:],
        "undrawn": "" if can_draw() else UNDRAWN,
        "made_by": made_by,
    }
