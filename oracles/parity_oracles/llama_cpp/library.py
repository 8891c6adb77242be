"""How is llama.cpp called? Its low-level C API by ctypes: a model, a context, one batch at a time, every node of it.

Nothing of the high-level wrapper is used: it chooses batches, samplers and templates of its own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity.errors import RunnerError

DIMS, SOURCES, OP_PARAMS, NAME = 4, 10, 16, 64
"""GGML_MAX_DIMS, GGML_MAX_SRC, GGML_MAX_OP_PARAMS / 4, GGML_MAX_NAME of ggml.h."""

F32, F16, I32 = 0, 1, 26
DTYPES = {F32: np.float32, F16: np.float16, I32: np.int32}
"""Numbers of ggml types that a node's values come in, and numpy's word for them."""


class _Tensor(ctypes.Structure):
    """struct ggml_tensor of ggml.h; `Node` checks it against the library's own accessors."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * DIMS),
        ("nb", ctypes.c_size_t * DIMS),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * OP_PARAMS),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * SOURCES),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * NAME),
    )


@dataclass(frozen=True)
class Node:
    """One node of the graph that is being computed. address: of its struct, valid within the callback only."""

    address: int

    @property
    def _tensor(self) -> _Tensor:
        return _Tensor.from_address(self.address)

    @property
    def name(self) -> str:
        return self._tensor.name.decode(errors="replace")

    @property
    def op(self) -> str:
        """`MUL_MAT`, `ROPE` ...: what computed it."""
        return _ggml().ggml_op_name(self._tensor.op).decode()

    def source(self, number: int) -> Node | None:
        """Operand `number`; None where there is none."""
        address = self._tensor.src[number]
        return Node(address) if address else None

    def values(self, dims: int) -> torch.Tensor:
        """The node's memory as a tensor of `dims` axes, slowest first: a view, which a write goes through.

        Raises RunnerError for values that are no plain numbers, more axes than `dims`, and a struct that is not ours.
        """
        tensor, ggml = self._tensor, _ggml()
        agrees = ggml.ggml_get_name(self.address) == tensor.name and ggml.ggml_get_data(self.address) == tensor.data
        dtype = DTYPES.get(tensor.type)
        if not agrees or dtype is None or any(size != 1 for size in tensor.ne[dims:]) or not tensor.data:
            raise RunnerError(
                place=f"llama.cpp's node {self.name}",
                expected=f"plain numbers in memory, {dims} axes, in the layout of ggml.h",
                found=f"type {tensor.type}, shape {list(tensor.ne)[::-1]}"
                + ("" if agrees else ", and a struct of another version"),
                next_step="Use the pinned llama-cpp-python (make engines-llama), or correct the stage map.",
            )
        shape, strides = tuple(tensor.ne[:dims])[::-1], tuple(tensor.nb[:dims])[::-1]
        span = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + dtype().itemsize
        if not ggml.ggml_backend_buffer_is_host(tensor.buffer):
            raise RunnerError(
                place=f"llama.cpp's node {self.name}", expected="a node in host memory", found="one on a device",
                next_step="Open the runner with no layers offloaded: it runs on the CPU.",
            )  # fmt: skip
        memory = (ctypes.c_char * span).from_address(tensor.data)
        flat = np.frombuffer(memory, dtype=np.uint8)
        return torch.from_numpy(np.ndarray(shape, dtype, buffer=flat.data, strides=strides))


def llama() -> Any:
    """The bindings; RunnerError saying how to get them where they are not installed."""
    try:
        import llama_cpp.llama_cpp as bindings  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError, RuntimeError) as error:
        raise RunnerError(
            place="runner llama_cpp",
            expected="the package llama-cpp-python",
            found=f"{type(error).__name__}: {error}"[:200],
            next_step="Run `make engines-llama`, which builds its wheel once and installs it.",
        ) from error
    _quiet(bindings)
    return bindings


def installed_version() -> str:
    """Version of llama-cpp-python; `none` where it is not installed."""
    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        return "none"


_said: list[str] = []
_kept: list[Any] = []


def _quiet(bindings: Any) -> None:
    """Keep llama.cpp's last words instead of printing all of them."""
    if _kept:
        return

    @bindings.llama_log_callback
    def log(_level: int, text: bytes, _data: Any) -> None:
        _said.append(text.decode(errors="replace").strip())
        del _said[:-20]

    _kept.append(log)  # ctypes keeps no reference of its own: a collected callback is a crash
    bindings.llama_log_set(log, None)
    bindings.llama_backend_init()


def _ggml() -> Any:
    import llama_cpp._ggml as ggml  # pyright: ignore[reportMissingImports]

    library = ggml.libggml
    if library.ggml_op_name.restype is not ctypes.c_char_p:
        for name, result, argument in (
            ("ggml_op_name", ctypes.c_char_p, ctypes.c_int),
            ("ggml_get_name", ctypes.c_char_p, ctypes.c_void_p),
            ("ggml_get_data", ctypes.c_void_p, ctypes.c_void_p),
            ("ggml_backend_buffer_is_host", ctypes.c_bool, ctypes.c_void_p),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, [argument]
    return library


class Model:
    """A GGUF file, loaded. Raises RunnerError with llama.cpp's last words for one that it does not load."""

    def __init__(self, path: Path) -> None:
        self.api = llama()
        self.path = path
        params = self.api.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = self.api.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise RunnerError(
                place=str(path), expected="a GGUF file that llama.cpp loads", found=" ".join(_said)[-300:] or "nothing",
                next_step="Compare the file with what the architecture needs; convert it again.",
            )  # fmt: skip
        self.vocab = self.api.llama_vocab_n_tokens(self.api.llama_model_get_vocab(self._model))

    def metadata(self) -> dict[str, str]:
        """Every key and value that the model was loaded with, as texts."""
        buffer = ctypes.create_string_buffer(65536)

        def text(read: Callable[..., int], number: int) -> str:
            read(self._model, number, buffer, len(buffer))
            return buffer.value.decode(errors="replace")

        api = self.api
        return {
            text(api.llama_model_meta_key_by_index, number): text(api.llama_model_meta_val_str_by_index, number)
            for number in range(api.llama_model_meta_count(self._model))
        }

    def context(self, *, length: int, ubatch: int, flash: bool, kv: str, threads: int, see: See | None) -> Context:
        """Room for `length` positions of one sequence. see: asked of every node, and shown the ones it wants."""
        return Context(self, length=length, ubatch=ubatch, flash=flash, kv=kv, threads=threads, see=see)

    def close(self) -> None:
        """Give the memory back."""
        if self._model:
            self.api.llama_model_free(self._model)
            self._model = None

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self.close()


@dataclass(frozen=True)
class See:
    """wants: whether a node is to be shown. show: it is computed; what is written into its values is computed with."""

    wants: Callable[[Node], bool]
    show: Callable[[Node], None]


class Context:
    """One sequence on its way through a model: its KV cache and its callback."""

    def __init__(
        self, model: Model, *, length: int, ubatch: int, flash: bool, kv: str, threads: int, see: See | None
    ) -> None:
        self.model, self.api, self.see = model, model.api, see
        self.ubatch = ubatch
        self._failed: Exception | None = None
        params = self.api.llama_context_default_params()
        params.n_ctx = length
        params.n_batch = params.n_ubatch = ubatch
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = {"f32": F32, "f16": F16}[kv]
        params.flash_attn_type = int(flash)
        params.no_perf = True
        if see is not None:
            # The library keeps the pointer only: this object keeps what it points to.
            self._callback = self.api.ggml_backend_sched_eval_callback(self._called)
            params.cb_eval = self._callback
        self._context = self.api.llama_init_from_model(model._model, params)
        if not self._context:
            raise RunnerError(
                place=str(model.path), expected=f"a context of {length} positions, KV {kv}",
                found=" ".join(_said)[-300:] or "none", next_step="Ask for fewer positions, or another KV type.",
            )  # fmt: skip
        self._batch = self.api.llama_batch_init(ubatch, 0, 1)

    def decode(self, ids: Sequence[int], start: int, *, last_only: bool) -> torch.Tensor:
        """Feed `ids`, at most `ubatch`, at positions from `start`; logits [T, V] fp32, or [1, V] of the last.

        Without `last_only` llama.cpp computes its last layer for every row, with it for the last row alone.
        """
        assert 0 < len(ids) <= self.ubatch
        batch = self._batch
        batch.n_tokens = len(ids)
        for row, token in enumerate(ids):
            batch.token[row], batch.pos[row] = token, start + row
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, 0
            batch.logits[row] = not last_only or row == len(ids) - 1
        status = self.api.llama_decode(self._context, batch)
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed
        if status:
            raise RunnerError(
                place=f"llama_decode of {len(ids)} ids at position {start}", expected="status 0",
                found=f"{status}: {' '.join(_said)[-200:]}", next_step="Feed fewer ids, or fewer positions.",
            )  # fmt: skip
        rows = 1 if last_only else len(ids)
        logits = self.api.llama_get_logits(self._context)
        shape = (rows, self.model.vocab)
        return torch.from_numpy(np.ctypeslib.as_array(logits, shape).copy())

    def _called(self, address: int, ask: bool, _data: Any) -> bool:
        """The eval callback. An exception may not pass through C: it is kept, and the graph's computation ended."""
        assert self.see is not None
        if self._failed is not None:
            return False
        try:
            node = Node(address)
            if ask:
                return self.see.wants(node)
            self.see.show(node)
        except Exception as error:
            self._failed = error
            return False
        return True

    def close(self) -> None:
        """Give the memory back."""
        if self._context:
            self.api.llama_batch_free(self._batch)
            self.api.llama_free(self._context)
            self._context = None

    def __del__(self) -> None:
        if getattr(self, "_context", None):
            self.close()
