"""Is the code of a kernel whose probes are off the code of a kernel without probes?

Compiles a kernel twice, once with its probe pointers None and once from source without the lines marked `# probe`,
and compares the PTX without names and line information.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from parity_kernels.backend.aot import AotCase, compile_case

_LINE_INFO = re.compile(r"^\s*(\.loc|\.file|//).*$")
_DEBUG_SECTION = re.compile(r"^\s*\.section\s+\.debug")


def normalized(ptx: str) -> str:
    """PTX without comments, `.loc`, `.file` and debug sections: what is left is the code and its parameters."""
    lines: list[str] = []
    for line in ptx.splitlines():
        if _DEBUG_SECTION.match(line):
            break  # Triton puts the debug sections last
        line = re.sub(r"//.*$", "", line).rstrip()
        if not line or _LINE_INFO.match(line):
            continue
        lines.append(re.sub(r"\$L__tmp\d+:?", "", line))
    return "\n".join(line for line in lines if line.strip())


def without_probes(source: str) -> str:
    """`source` without the lines that end in `# probe`; an `if` left with an empty body goes with them."""
    kept = [line for line in source.splitlines() if not line.rstrip().endswith("# probe")]
    return "\n".join(kept) + "\n"


def stripped_kernel(case: AotCase) -> object:
    """The kernel of `case` from its file without the `# probe` lines (its parameters stay, so signatures agree)."""
    path = Path(sys.modules[case.kernel.__module__].__file__ or "")
    return getattr(_load(without_probes(path.read_text(encoding="utf-8")), path.stem), case.kernel.__name__)


def probe_report(case: AotCase) -> dict[str, bool]:
    """Compile `case` off, stripped and on: {"off_equals_stripped": ..., "on_differs": ...}."""
    off = normalized(compile_case(case).ptx)
    stripped = normalized(compile_case(replace(case), kernel=stripped_kernel(case)).ptx)
    on = normalized(compile_case(case, probes_on=True).ptx)
    return {"off_equals_stripped": off == stripped, "on_differs": on != off}


def _load(text: str, stem: str) -> ModuleType:
    # Triton reads a kernel's source from its file, so the stripped text has to be one.
    folder = Path(tempfile.mkdtemp(prefix="parity-ptx-"))
    path = folder / f"{stem}_without_probes.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"parity_ptx_{folder.name.replace('-', '_')}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
