"""The same op in CUDA C++: how is it built, and what does it return?

Built on first use with nvcc alone (no torch headers: seconds, and no C++ ABI to agree on) and called through ctypes.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import torch

from parity.errors import RunnerError
from parity_kernels.add_rmsnorm.arguments import checked_buffers
from parity_kernels.add_rmsnorm.launch import add_rmsnorm_cuda_launch
from parity_kernels.launch import Launch, LaunchFunction, sized

SOURCE = Path(__file__).with_name("kernel.cu")


def find_nvcc() -> str | None:
    """The CUDA compiler: on PATH, under CUDA_HOME, or in /usr/local/cuda; None when there is none."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which("nvcc") or shutil.which("nvcc", path=str(Path(home) / "bin"))


def is_usable() -> bool:
    """True where the CUDA form can be built and run: nvcc and a CUDA device."""
    return find_nvcc() is not None and torch.cuda.is_available()


def compile_cubin(path: Path, *, architecture: str) -> Path:
    """Compile the source to a cubin for `architecture` ("sm_90"); needs no GPU. Raises RunnerError."""
    _nvcc("-cubin", f"-arch={architecture}", "-o", str(path))
    return path


def disassembled(cubin: Path) -> str | None:
    """SASS of a cubin, None when cuobjdump is not installed next to nvcc."""
    tool = shutil.which("cuobjdump", path=str(Path(find_nvcc() or "nvcc").parent)) or shutil.which("cuobjdump")
    if tool is None:
        return None
    return subprocess.run([tool, "-sass", str(cubin)], text=True, capture_output=True, check=True).stdout


def add_rmsnorm_cuda(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    *,
    eps: float,
    out: torch.Tensor | None = None,
    out_sum: torch.Tensor | None = None,
    launch: Launch | LaunchFunction | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `add_rmsnorm`, shapes, dtypes, errors and recipe included; squares are summed in another order.

    Raises RunnerError where there is no CUDA device or no nvcc.
    """
    out, summed = checked_buffers("add_rmsnorm_cuda", x, residual, weight, eps, out, out_sum)
    n_rows, n_cols = x.shape
    launch = sized(launch, add_rmsnorm_cuda_launch, n_rows=n_rows, n_cols=n_cols)
    if not x.is_cuda or not is_usable():
        raise RunnerError(
            place="add_rmsnorm_cuda",
            expected="tensors on a CUDA device, and nvcc to build the kernel with",
            found=f"tensors on {x.device}, nvcc {find_nvcc() or 'absent'}",
            next_step="Use add_rmsnorm, the Triton form, which also runs interpreted.",
        )
    if out.numel() and all(launch.grid):
        with torch.cuda.device(x.device):
            stream = torch.cuda.current_stream().cuda_stream
            status = _library(_architecture(x.device)).parity_add_rmsnorm(
                x.data_ptr(),
                None if residual is None else residual.data_ptr(),
                weight.data_ptr(),
                out.data_ptr(),
                None if residual is None else summed.data_ptr(),
                x.stride(0),
                0 if residual is None else residual.stride(0),
                out.stride(0),
                0 if residual is None else summed.stride(0),
                launch.grid[0],
                n_cols,
                eps,
                launch.block["threads"],
                x.device.index if x.device.index is not None else torch.cuda.current_device(),
                stream,
            )
        if status:
            raise RunnerError(
                place="add_rmsnorm_cuda",
                expected="a launch without error",
                found=f"cudaError {status}",
                next_step="Look it up in driver_types.h.",
            )
    return out, summed


def _architecture(device: torch.device) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


@functools.cache
def _library(architecture: str) -> ctypes.CDLL:
    """The shared library for `architecture`: built once per source, architecture and compiler, kept in a cache."""
    version = subprocess.run([find_nvcc() or "nvcc", "--version"], text=True, capture_output=True, check=True).stdout
    key = hashlib.sha256((SOURCE.read_text(encoding="utf-8") + architecture + version).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("PARITY_CACHE", Path.home() / ".cache" / "parity-lab"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"add_rmsnorm-{key}.so"
    if not path.exists():
        unfinished = path.with_suffix(f".{os.getpid()}")
        _nvcc("-shared", "-Xcompiler", "-fPIC", f"-arch={architecture}", "-o", str(unfinished))
        unfinished.replace(path)  # atomic: a second process never loads half a library
    library = ctypes.CDLL(str(path))
    pointer, wide = ctypes.c_void_p, ctypes.c_longlong
    library.parity_add_rmsnorm.argtypes = [
        *[pointer] * 5, *[wide] * 4, ctypes.c_int, ctypes.c_int, ctypes.c_float, ctypes.c_int, ctypes.c_int, pointer,
    ]  # fmt: skip
    library.parity_add_rmsnorm.restype = ctypes.c_int
    return library


def _nvcc(*arguments: str) -> None:
    nvcc = find_nvcc()
    command = [nvcc or "nvcc", "-O3", "-std=c++17", *arguments, str(SOURCE)]
    done = subprocess.run(command, text=True, capture_output=True, check=False) if nvcc else None
    if done is None or done.returncode:
        raise RunnerError(
            place=str(SOURCE),
            expected="nvcc to compile it",
            found="no nvcc on PATH or under CUDA_HOME" if done is None else done.stderr[-2000:],
            next_step="Install the CUDA toolkit, or use add_rmsnorm, the Triton form.",
        )
