"""What does each kernel compile to for sm_90? Ahead-of-time compilation without a GPU, and the table of all kernels.

Runs only in a process with TRITON_INTERPRET=0 (interpreted and compiled kernels cannot share one):
`TRITON_INTERPRET=0 python -m parity_kernels.backend.aot_main` does it for the whole package.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import parity_kernels
from parity.errors import ConfigError, UsageError
from parity_kernels.backend.device import INTERPRET_VARIABLE, interpreted

# What the matrix instructions look like in PTX. A dot whose operands were silently widened shows none of these.
WGMMA_FP8 = r"wgmma\.mma_async\.sync\.aligned\.m64n\d+k32\.f32\.e4m3\.e4m3"
WGMMA_BF16 = r"wgmma\.mma_async\.sync\.aligned\.m64n\d+k16\.f32\.bf16\.bf16"
MMA_FP8 = r"mma\.sync\.aligned\.m16n8k32\.row\.col\.f32\.e4m3\.e4m3\.f32"
MMA_BF16 = r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.bf16\.bf16\.f32"
SM90_SHARED = 232448  # bytes of shared memory that a block can have: CUDA programming guide, compute capabilities

ANY_FP8 = f"(?:{WGMMA_FP8})|(?:{MMA_FP8})"
ANY_BF16 = f"(?:{WGMMA_BF16})|(?:{MMA_BF16})"


@dataclass(frozen=True)
class AotCase:
    """One kernel with one set of argument types and tile sizes, as `<op>/aot.py` lists it.

    name: unique in the package. kernel: the `@triton.jit` function.
    signature: Triton's type name for every run-time argument ("*bf16", "*fp8e4nv", "i32", "fp32").
    constexprs: value of every constexpr parameter, and None for each other pointer that may be absent.
    odd: arguments that are not divisible by 16 (strides and row counts of odd shapes); all others are taken to be.
    probes: optional probe pointers and their types; None unless the case is compiled with probes on.
    ptx_has / ptx_lacks: regular expressions that the PTX must / must not contain.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 3
    odd: tuple[str, ...] = ()
    probes: Mapping[str, str] = field(default_factory=dict)
    ptx_has: tuple[str, ...] = ()
    ptx_lacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compiled:
    """PTX text, cubin bytes and the shared memory (bytes) and name of one compiled case."""

    case: AotCase
    ptx: str
    cubin: bytes
    shared: int

    def complaints(self) -> list[str]:
        """What the case demands of its PTX and the PTX does not honour; empty when all is well."""
        found = [f"lacks /{want}/" for want in self.case.ptx_has if not re.search(want, self.ptx)]
        found += [f"contains /{ban}/" for ban in self.case.ptx_lacks if re.search(ban, self.ptx)]
        if not self.cubin:
            found.append("no cubin")
        if self.shared > SM90_SHARED:
            found.append(f"{self.shared} bytes of shared memory, {SM90_SHARED} is the limit of sm_90")
        return found


def compile_case(case: AotCase, *, capability: int = 90, kernel: Any = None, probes_on: bool = False) -> Compiled:
    """Compile `case` (or `kernel` in its place) for an NVIDIA GPU of `capability` that need not be here.

    Raises UsageError in an interpreting process, ConfigError when the case does not name every parameter of the kernel.
    """
    if interpreted():
        raise UsageError(
            place="parity_kernels.backend.aot",
            expected=f"a process started with {INTERPRET_VARIABLE}=0",
            found="a process whose kernels are interpreted",
            next_step=f"Start another one: {INTERPRET_VARIABLE}=0 python -m parity_kernels.backend.aot_main",
        )
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    fn = case.kernel if kernel is None else kernel
    given = {**case.signature, **(case.probes if probes_on else {})}
    constants = {**({} if probes_on else dict.fromkeys(case.probes)), **case.constexprs}
    names = list(fn.arg_names)
    if set(names) != set(given) | set(constants) or set(given) & set(constants):
        raise ConfigError(
            place=f"aot case {case.name}",
            expected=f"each of the kernel's parameters once: {', '.join(names)}",
            found=f"signature {sorted(given)}, constexprs {sorted(constants)}",
            next_step="Correct the case in the op's aot.py.",
        )
    signature = {name: given.get(name, "constexpr") for name in names}
    attrs = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name, type_ in given.items()
        if (type_.startswith("*") or type_.startswith("i")) and name not in case.odd
    }
    compiled = triton.compile(
        ASTSource(fn, signature=signature, constexprs=constants, attrs=attrs),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": case.num_warps, "num_stages": case.num_stages},
    )
    return Compiled(case, compiled.asm["ptx"], compiled.asm["cubin"], compiled.metadata.shared)


def all_cases() -> list[AotCase]:
    """The cases of every `<op>/aot.py` of the package, in order of folder. Raises ConfigError when two share a name."""
    cases: list[AotCase] = []
    for path in sorted(_package_root().glob("*/aot.py")):
        if path.parent.name == "backend":
            continue
        cases += importlib.import_module(f"parity_kernels.{path.parent.name}.aot").AOT
    names = [case.name for case in cases]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            place="tables of kernels (<op>/aot.py)",
            expected="unique names",
            found=f"{twice} twice",
            next_step="Rename.",
        )
    return cases


def jit_functions() -> dict[str, tuple[str, str]]:
    """Every `@triton.jit` function in the package's sources by reading them: name -> (file, text of the function).

    backend/ is left out: its kernels test the interpreter and are never compiled.
    Raises ConfigError when two functions share a name, because calls are resolved by name.
    """
    found: dict[str, tuple[str, str]] = {}
    root = _package_root()
    for path in sorted(root.rglob("*.py")):
        if "backend" in path.relative_to(root).parts:
            continue
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and any("triton.jit" in ast.unparse(d) for d in node.decorator_list):
                if node.name in found:
                    raise ConfigError(
                        place=str(path),
                        expected="one @triton.jit function of a name in the package",
                        found=f"{node.name} also in {found[node.name][0]}",
                        next_step="Rename one.",
                    )
                found[node.name] = (str(path.relative_to(root)), ast.get_source_segment(text, node) or "")
    return found


def uncovered(cases: list[AotCase]) -> list[str]:
    """Names of `@triton.jit` functions that no case compiles: kernels without one, device functions nobody calls."""
    functions = jit_functions()
    covered = {case.kernel.__name__ for case in cases}
    grew = True
    while grew:
        called = {
            name for name in functions
            if not name.endswith("_kernel") and name not in covered
            and any(re.search(rf"\b{name}\(", functions[user][1]) for user in covered if user in functions)
        }  # fmt: skip
        grew = bool(called)
        covered |= called
    return sorted(name for name in functions if name not in covered)


def _package_root() -> Path:
    return Path(next(iter(parity_kernels.__path__)))
