"""Running a command in this process as the shell would: its exit code, what it printed, and where."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from parity import cli
from tests.cli.comparing import Compare


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def said(self) -> str:
        """What stderr says, as one line."""
        return " ".join(self.err.split())


Command = Callable[..., Ended]


@pytest.fixture
def compare(tmp_path: Path) -> Compare:
    return Compare(tmp_path)


@pytest.fixture
def parity(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["parity", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        code = end.value.code
        assert isinstance(code, int)
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return run
