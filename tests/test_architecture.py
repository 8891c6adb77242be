"""Who imports whom, and where files may stand: the arrows of the architecture, held by a test."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Inside `parity` a level may import only lower levels, or its own.
LEVELS = [
    {"errors", "display", "stages", "records", "reading"},
    {"sampling", "registry", "preview", "runner", "promptfile", "process_runner", "trace", "metrics"},
    {"probes", "align", "floor"},
    {"estimate", "capture", "importers", "compare", "faults", "prompt", "text"},
    {"invariance", "fingerprint", "graft", "audit", "golden"},
    {"ladder", "decode"},
    {"climb"},
    {"report", "zoo", "lab"},
    {"pytest_plugin", "cli", "demo", "doctor"},
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def imports(path: Path) -> list[str]:
    """Every module a file imports, wherever in the file the import stands."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            found.append(node.module)
    return found


def violations(package: Path) -> list[str]:
    """Imports of `package` (a folder named parity) that point upwards or out of it."""
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        room = parts[0]
        if room == "__init__":
            continue
        if room not in LEVEL:
            found.append(f"{path.name}: room {room} has no level")
            continue
        for name in imports(path):
            top, *rest = name.split(".")
            if top in {"triton", "transformers", "parity_kernels", "parity_oracles"}:
                found.append(f"{'/'.join(parts)} imports {name}")
            if top == "parity" and rest and LEVEL.get(rest[0], -1) > LEVEL[room]:
                found.append(f"{'/'.join(parts)} imports upwards: {name}")
    return found


def test_parity_imports_point_downwards():
    assert violations(ROOT / "parity") == []


@pytest.mark.parametrize(
    ("file", "line"),
    [("metrics.py", "import triton"), ("trace/reader.py", "from parity.compare import x"), ("attic.py", "import os")],
)
def test_a_wrong_arrow_is_seen(tmp_path: Path, file: str, line: str):
    planted = tmp_path / "parity" / file
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_text(line + "\n")
    assert violations(tmp_path / "parity")


def test_an_oracle_shares_no_code_with_the_engine():
    for package, other in (("kernels/parity_kernels", "parity_oracles"), ("oracles/parity_oracles", "parity_kernels")):
        for path in (ROOT / package).rglob("*.py"):
            assert not [name for name in imports(path) if name.split(".")[0] == other], path


def test_ops_know_nothing_of_the_lab_but_its_errors():
    for folder in (ROOT / "kernels/parity_kernels").iterdir():
        if folder.is_dir() and folder.name not in {"forward", "faults"}:
            for path in folder.rglob("*.py"):
                lab = [name for name in imports(path) if name.split(".")[0] == "parity"]
                assert set(lab) <= {"parity.errors"}, path


def test_only_the_hf_oracle_imports_transformers():
    for path in (ROOT / "oracles/parity_oracles").rglob("*.py"):
        if "hf" not in path.relative_to(ROOT / "oracles/parity_oracles").parts:
            assert not [name for name in imports(path) if name.split(".")[0] == "transformers"], path


def test_no_folder_shadows_a_library():
    # transformers probes for a package named `kernels` and breaks when it finds ours.
    for folder in ("kernels", "oracles", "tests", "notebooks"):
        assert not (ROOT / folder / "__init__.py").exists()
    for name in ("triton", "fla", "causal_conv1d"):
        assert not (ROOT / name).exists()


def test_transformers_does_not_take_our_kernels_for_a_library():
    transformers = pytest.importorskip("transformers.utils.import_utils")
    assert not transformers.is_kernels_available()
