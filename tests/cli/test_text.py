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


def test_bare_ids_are_not_called_free_of_loops_that_nobody_looked_for(tmp_path: Path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"ids": list(range(300))}))
    assert "others are not looked for in bare ids" in " ".join(
        CliRunner().invoke(app, ["text", "score", str(file)]).stdout.split()
    )
    file.write_text(json.dumps({"ids": [*range(300), *[7, 8, 9] * 60]}))
    assert "exact, period 3 tokens" in " ".join(CliRunner().invoke(app, ["text", "score", str(file)]).stdout.split())
