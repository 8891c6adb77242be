"""How does one probe a PyTorch module of one's own? Forward hooks from a map of submodule names to stages.

    taps = {"layers.0.q_proj": Tap("attn.q", layer=0, heads=4), "layers.0.mlp": Tap("resid.out", layer=0)}
    with watch(model, taps) as watched:
        model(ids)                                      # ids: [T] or [1, T]; one forward pass a watch
    trace = watched.trace()

Hooks see eager modules only: those added to a compiled module never fire, so a compiled one is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch.utils.hooks import RemovableHandle

from parity.errors import ProbeError
from parity.probes.recorder import Recorder
from parity.probes.step import StepProbe
from parity.records import Lineage, Recipe, Rows, Run
from parity.runner import CapturePlan, Graft
from parity.stages import term
from parity.trace import DiskTrace, MemoryTrace, capture_environment


@dataclass(frozen=True)
class Tap:
    """Which stage a submodule's tensor is.

    layer: absolute, None outside the layers. heads: number of heads, to split a fused [.., H*K] last dimension.
    read: `output` (of a tuple, its first member) or `input`: the residual after attention, for instance, is only seen
    as the input of the norm that follows it.
    """

    stage: str
    layer: int | None = None
    heads: int | None = None
    read: str = "output"


class Watch:
    """Probes on a module while the `with` block lasts. Made by `watch`."""

    def __init__(self, module: torch.nn.Module, taps: Mapping[str, Tap], settings: _Settings) -> None:
        self._module = module
        self._taps = taps
        self._settings = settings
        self._handles: list[RemovableHandle] = []
        self._recorder: Recorder | None = None
        self._probe: StepProbe | None = None
        self._count = 0

    def trace(self) -> MemoryTrace | DiskTrace:
        """What the forward pass showed; ProbeError when there was none."""
        return self._used().trace()

    def statistics(self) -> list[dict[str, Any]]:
        """The same as numbers, with `plan=CapturePlan(mode="stats")`."""
        return self._used().statistics()

    def __enter__(self) -> Watch:
        self._handles.append(self._module.register_forward_pre_hook(self._start, with_kwargs=True))
        for name, tap in self._taps.items():
            inner = self._module.get_submodule(name)
            if tap.read == "input":
                self._handles.append(inner.register_forward_pre_hook(self._read_input(tap)))
            else:
                self._handles.append(inner.register_forward_hook(self._read_output(tap)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._recorder is not None:
            self._recorder.__exit__(kind, error, traceback)
        elif error is None:
            self._used()

    def _used(self) -> Recorder:
        if self._recorder is None:
            raise ProbeError(
                place=f"watch of {type(self._module).__name__}",
                expected="one forward pass of the module inside the with block",
                found="none",
                next_step="Call the very module that was passed to watch().",
            )
        return self._recorder

    def _start(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The module's own call: the ids are known now, and with them the run."""
        if self._recorder is not None:
            raise ProbeError(
                place=f"watch of {type(module).__name__}",
                expected="one forward pass",
                found="a second one, whose positions are not known here",
                next_step="Open a watch for each, or fire the probes yourself (parity.probes.Recorder).",
            )
        tensors = [item for item in (*args, *kwargs.values()) if isinstance(item, torch.Tensor)]
        ids, rows = self._settings.requests(tensors[0] if tensors else None)
        run = _describe(module, self._taps, self._settings, ids)
        recorder = Recorder(self._settings.plan, run, self._settings.grafts)
        self._count = len(rows)
        recorder.__enter__()
        self._recorder = recorder
        ends = [int(rows.position[rows.request == index].max(initial=0)) for index in range(len(ids))]
        self._probe = recorder.step(phase="prefill", step=0, rows=rows, last_position=ends)

    def _read_output(self, tap: Tap) -> Any:
        def hook(module: torch.nn.Module, args: Any, output: Any) -> Any:
            first = output[0] if isinstance(output, (tuple, list)) else output
            new = self._fire(tap, first)
            # A hook that returns anything replaces the output: only a graft may.
            if new is first:
                return None
            if not isinstance(output, (tuple, list)):
                return new
            named = hasattr(output, "_fields")
            return type(output)(new, *output[1:]) if named else type(output)((new, *output[1:]))

        return hook

    def _read_input(self, tap: Tap) -> Any:
        def hook(module: torch.nn.Module, args: tuple[Any, ...]) -> Any:
            new = self._fire(tap, args[0] if args else None)
            return None if not args or new is args[0] else (new, *args[1:])

        return hook

    def _fire(self, tap: Tap, tensor: Any) -> torch.Tensor:
        if not isinstance(tensor, torch.Tensor) or self._probe is None:
            raise ProbeError(
                place=f"tap {tap.stage}",
                expected="a tensor, in a forward pass of the watched module",
                found=type(tensor).__name__ if self._probe else "a call of the submodule by itself",
                next_step="Tap a submodule whose first output (or positional input) is a tensor.",
            )
        flat = self._as_rows(tap, tensor)
        new = self._probe(tap.stage, flat, tap.layer)
        return tensor if new is flat else new.reshape(tensor.shape)

    def _as_rows(self, tap: Tap, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` with the axes of its stage: batch and time become rows, a fused last dimension is split in heads."""
        axes = term(tap.stage).axes
        rows = self._count
        batched = tensor.dim() >= 2 and tensor.shape[0] * tensor.shape[1] == rows and tensor.shape[0] != rows
        flat = tensor.flatten(0, 1) if batched else tensor
        if tap.heads is not None and flat.dim() == len(axes) - 1 and flat.shape[-1] % tap.heads == 0:
            flat = flat.unflatten(-1, (tap.heads, -1))
        if flat.dim() != len(axes) or flat.shape[0] != rows:
            raise ProbeError(
                place=f"tap {tap.stage}",
                expected=f"{rows} rows with axes {' '.join(axes)}",
                found=f"a tensor of shape {tuple(tensor.shape)}, heads={tap.heads}",
                next_step="Give heads= for a fused [.., heads * width] projection, rows= for another packing.",
            )
        return flat


@dataclass(frozen=True)
class _Settings:
    """What the caller said, or left to be read off the module's first input."""

    plan: CapturePlan
    grafts: tuple[Graft, ...]
    ids: tuple[tuple[int, ...], ...] | None
    rows: Rows | None
    recipe: Recipe | None
    lineage: Lineage | None

    def requests(self, first: torch.Tensor | None) -> tuple[tuple[tuple[int, ...], ...], Rows]:
        """Token ids by request, and the rows of the forward pass."""
        ids = self.ids
        if ids is None and first is not None and not first.is_floating_point() and first.dim() in (1, 2):
            table = first.tolist() if first.dim() == 2 else [first.tolist()]
            ids = tuple(tuple(int(token) for token in line) for line in table)
        if self.rows is not None:
            return ids or ((),) * (int(self.rows.request.max(initial=0)) + 1), self.rows
        if ids is None or len(ids) != 1:
            raise ProbeError(
                place="watch",
                expected="a first input of token ids, [T] or [1, T]",
                found="no tensor" if first is None else f"{first.dtype} of shape {tuple(first.shape)}",
                next_step="Pass ids=[...] for one request of other input, or rows=Rows(...) for a batch of several.",
            )
        count = len(ids[0])
        return ids, Rows(np.zeros(count, np.int32), np.arange(count, dtype=np.int64))


def watch(
    module: torch.nn.Module,
    taps: Mapping[str, Tap | tuple[Any, ...]],
    *,
    plan: CapturePlan | None = None,
    grafts: Sequence[Graft] = (),
    ids: Sequence[int] | None = None,
    rows: Rows | None = None,
    recipe: Recipe | None = None,
    lineage: Lineage | None = None,
) -> Watch:
    """Watch one forward pass of `module`, eager.

    taps: submodule name to Tap, or to (stage, layer) or (stage, layer, heads) for short. Stages are words of the
    vocabulary; a module's tensor must come as [T, ...], [1, T, ...] or, with `rows`, any packing of those rows.
    plan: what to capture, everything by default; grafts: rows to replace. ids: of the one request when the module's
    first input is not token ids. rows: which token each row is, for a batch of several requests.
    recipe, lineage: recorded as given; by default the module's dtype, and a lineage that says unknown.
    Raises ProbeError for a submodule that is not there, a stage tapped twice, expert rows, or a compiled module.
    """
    known = dict(module.named_modules())
    if hasattr(module, "_orig_mod"):
        raise ProbeError(
            place="watch",
            expected="an eager module",
            found="the result of torch.compile, on which new hooks never fire",
            next_step="Watch the module before it is compiled.",
        )
    full = {name: tap if isinstance(tap, Tap) else Tap(*tap) for name, tap in taps.items()}
    sites = [(tap.layer, tap.stage) for tap in full.values()]
    for name, tap in full.items():
        problem = ""
        if name not in known:
            close = get_close_matches(name, known, n=3)
            problem = "no such submodule" + (f"; near it: {', '.join(close)}" if close else "")
        elif term(tap.stage).axes[0] == "R":
            problem = "a stage of expert rows, which a hook cannot tell apart"
        elif sites.count((tap.layer, tap.stage)) > 1:
            problem = "a stage that another tap has too"
        elif tap.read not in ("input", "output"):
            problem = f"read={tap.read!r}"
        if problem:
            raise ProbeError(
                place=f"tap {name!r}: {tap.stage}",
                expected="an existing submodule, read at its input or output as one stage of token rows",
                found=problem,
                next_step="Correct the map; expert rows are captured by firing a probe (parity.probes.Recorder).",
            )
    requests = None if ids is None else (tuple(int(token) for token in ids),)
    settings = _Settings(plan or CapturePlan(), tuple(grafts), requests, rows, recipe, lineage)
    return Watch(module, full, settings)


def _describe(
    module: torch.nn.Module, taps: Mapping[str, Tap], settings: _Settings, ids: tuple[tuple[int, ...], ...]
) -> Run:
    first = next(iter(module.parameters()), None)
    dtype = "float32" if first is None else str(first.dtype).removeprefix("torch.")
    layers = [tap.layer for tap in taps.values() if tap.layer is not None]
    return Run(
        family="torch",
        model=type(module).__name__,
        layers=max(layers, default=-1) + 1,
        request_names=tuple(f"request-{index}" for index in range(len(ids))),
        requests=ids,
        recipe=settings.recipe or Recipe(dtype, dtype, dtype, dtype, "unknown", "unknown", dtype),
        lineage=settings.lineage or Lineage(root="unknown"),
        environment=capture_environment(device="cpu" if first is None else first.device),
        declared=tuple((tap.layer, tap.stage) for tap in taps.values()),
        flags={"compiled": False},
    )
