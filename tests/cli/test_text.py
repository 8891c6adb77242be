"""parity text score: exit 1 for a loop, 0 for healthy text, JSON for scripts."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from parity.cli import app


def test_a_loop_and_a_healthy_text(tmp_path: Path):
    loop, healthy = tmp_path / "loop.txt", tmp_path / "healthy.txt"
    loop.write_text("It begins well enough. " + "CRE the end of it " * 40)
    healthy.write_text("It begins well enough, and it ends.")
    done = CliRunner().invoke(app, ["text", "score", str(loop), "--json"])
    found = json.loads(done.stdout)
    assert done.exit_code == 1
    assert found["loop"]["kind"] == "exact"
    assert found["first_degeneration"] == found["loop"]["start"]
    done = CliRunner().invoke(app, ["text", "score", str(healthy)])
    assert done.exit_code == 0
    assert "none" in done.stdout
