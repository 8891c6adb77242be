"""How far is a long step? Bars in a terminal or a notebook, nothing where nobody looks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Bars:
    """Bars of the step that is running. quiet: None shows them on a terminal and in a notebook, but not under CI.

    A notebook shows them where ipywidgets is installed.
    """

    def __init__(self, quiet: bool | None = None, *, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        watched = (self.console.is_jupyter and find_spec("ipywidgets") is not None) or self.console.is_terminal
        self.quiet = (bool(os.environ.get("CI")) or not watched) if quiet is None else quiet
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Bars live inside; a step inside a step shares them."""
        if self.quiet or self._progress is not None:
            yield
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
        with Progress(*columns, TimeElapsedColumn(), console=self.console, transient=True) as progress:
            self._progress, self._tasks = progress, {what: progress.add_task(what, total=None)}
            try:
                yield
            finally:
                self._progress = None

    def tell(self, part: str, done: int, total: int) -> None:
        """How far a part of the step is; called from any thread."""
        progress = self._progress
        if progress is None:
            return
        if part not in self._tasks:
            self._tasks[part] = progress.add_task(part)
        progress.update(self._tasks[part], completed=done, total=total)
