"""What the plugin costs a project that does not use it: nothing heavy is imported, nothing is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = ("torch", "numpy", "safetensors", "pandas", "parity.golden", "parity.compare")


def test_pytest_starts_without_torch(tmp_path: Path):
    (tmp_path / "test_plain.py").write_text(
        f"import sys\ndef test_nothing_heavy():\n    assert not [m for m in {HEAVY} if m in sys.modules]\n"
    )
    (tmp_path / "test_fixture.py").write_text(
        "def test_it(parity_golden):\n    import sys; assert 'torch' in sys.modules\n"
    )
    plugin = ("-p", "parity.pytest_plugin", "-p", "no:xdist", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", "-q", *plugin, "test_plain.py", "test_fixture.py"]
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert "parity goldens" not in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__") == ["test_fixture.py", "test_plain.py"]
