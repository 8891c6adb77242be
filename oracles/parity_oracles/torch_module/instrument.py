"""Where does a module's pass hand out its tensors? Hooks on what a stage map names, there before anything is compiled.

A hook that is added after compilation never fires, and nothing says so; so every point counts its calls inside the
compiled graph, and a point that did not fire once in a step is an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import nn

from parity.errors import ProbeError
from parity_oracles.stagemap import Found, Source
from parity_oracles.torch_module import ops
from parity_oracles.torch_module.showing import SHOWN

Put = Callable[[torch.Tensor], torch.Tensor]
Rewrite = Callable[[tuple[torch.Tensor, ...], dict[int, Put]], tuple[torch.Tensor, ...]]
_NUMBERS = count()


class Point:
    """One tensor that is handed out: a source of the map, and which of its results."""

    def __init__(self, source: Source, result: int) -> None:
        self.source = source
        self.result = result
        self.dtype: torch.dtype | None = None

    @property
    def name(self) -> str:
        return f"{self.source.tensor.at(self.source.layer)} ({', '.join(self.source.stages)})"


class Instrument:
    """Hooks of one module for one purpose; what a point does is `put`, by its number.

    rewrites: how a module with several results goes on from replaced ones, by the module's name; see parity_oracles/hf.
    """

    def __init__(self, model: nn.Module, found: Found, *, rewrites: dict[str, Rewrite] | None = None) -> None:
        self.model = model
        self.found = found
        self.number = next(_NUMBERS)
        self.points = [Point(source, result) for source in found.sources for result in source.tensor.results]
        self._rewrites = rewrites or {}

    @contextmanager
    def installed(self, put: Callable[[int, torch.Tensor], torch.Tensor], *, replacing: bool) -> Iterator[None]:
        """Hooks on within, off after. put(number of the point, tensor) gives the tensor to go on with.

        replacing: the pass goes on with what `put` returns; otherwise it is ignored, and must be the tensor itself.
        """
        handles: list[Any] = []
        marked: list[nn.Module] = []
        try:
            for name in self.found.names:
                module = self.model.get_submodule(name)
                mine = [(n, p) for n, p in enumerate(self.points) if p.source.name == name]
                inputs, outputs = _by_call(put, mine, "input"), _by_call(put, mine, "output")
                words = {p.source.tensor.take: _putting(put, n) for n, p in mine
                         if p.source.tensor.take not in ("input", "output")}  # fmt: skip
                if inputs:
                    handles.append(
                        module.register_forward_pre_hook(_on_input(_Calls(inputs), replacing), with_kwargs=True)
                    )
                if outputs:
                    rewrite = self._rewrites.get(name) if replacing else None
                    handles.append(module.register_forward_hook(_on_output(_Calls(outputs), replacing, rewrite)))
                if words:
                    vars(module)[SHOWN] = _on_word(words)
                    marked.append(module)
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module in marked:
                del vars(module)[SHOWN]

    def check_fired(self, calls: list[int]) -> None:
        """Raise ProbeError naming the points that were not called once in the step that is over."""
        wrong = [f"{self.points[n].name}: {times} times" for n, times in enumerate(calls) if times != 1]
        if wrong:
            raise ProbeError(
                place=f"probes of {type(self.model).__name__}",
                expected=f"each of {len(self.points)} points to fire once in a step",
                found="; ".join(wrong[:8]) + (f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""),
                next_step="A part of the module that is not run, runs twice, or was compiled before the hooks were "
                "there: a compiled graph never sees a hook that is added later. Hand over the module uncompiled.",
            )


def _putting(put: Callable[[int, torch.Tensor], torch.Tensor], number: int) -> Put:
    return lambda x: put(number, x)


def _by_call(
    put: Callable[[int, torch.Tensor], torch.Tensor], points: list[tuple[int, Point]], take: str
) -> dict[int, dict[int, Put]]:
    """What to do with a module's tensors: by the number of its call in a step, then by result."""
    found: dict[int, dict[int, Put]] = {}
    for number, point in points:
        if point.source.tensor.take == take:
            found.setdefault(point.source.occurrence, {})[point.result] = _putting(put, number)
    return found


class _Calls:
    """Counts a module's calls where it is called several times in a step, on behalf of different stages."""

    def __init__(self, puts: dict[int, dict[int, Put]]) -> None:
        self._puts = puts
        self._counts = set(puts) != {0}
        self._made = 0

    def next(self) -> dict[int, Put]:
        """What to do at the call that begins. A module of one stage does it at every call: twice is then seen."""
        if not self._counts:
            return self._puts[0]
        self._made += 1
        return self._puts.get(self._made - 1, {})


def _on_input(calls: _Calls, replacing: bool) -> Any:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        values = (*args, *kwargs.values())
        for result, put in calls.next().items():
            if result < len(values) and isinstance(values[result], torch.Tensor):
                back = put(values[result])
                if replacing:
                    # Written into the tensor: the module's caller may keep it, as the residual after attention is kept.
                    values[result].copy_(back)

    return hook


def _on_output(calls: _Calls, replacing: bool, rewrite: Rewrite | None) -> Any:
    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        puts = calls.next()
        single = isinstance(output, torch.Tensor)
        values = (output,) if single else tuple(output)
        if rewrite is not None:
            return rewrite(values, puts)
        # A list, since a compiler has no frame for a generator in a hook; what is no tensor stays silent, and is named.
        back = [puts[n](value) if n in puts and isinstance(value, torch.Tensor) else value
                for n, value in enumerate(values)]  # fmt: skip
        # A hook that returns something replaces the output, so say nothing unless that is wanted.
        return None if not replacing else back[0] if single else tuple(back)

    return hook


def _on_word(puts: dict[str, Put]) -> Any:
    return lambda word, x: puts[word](x) if word in puts else x


class Buffers(nn.Module):
    """What a compiled graph writes into: a flat buffer and a meter for each point, at addresses that do not change."""

    def __init__(self, instrument: Instrument, tokens: int, sizes: dict[str, int], device: torch.device) -> None:
        super().__init__()
        self.tokens = tokens
        for number, point in enumerate(instrument.points):
            assert point.dtype is not None
            width = elements_of_row(point.source, sizes)
            self._hold(f"buffer_{number}", torch.zeros(tokens * width, dtype=point.dtype, device=device))
            self._hold(f"meter_{number}", torch.zeros(2, dtype=torch.int64, device=device))

    def _hold(self, name: str, tensor: torch.Tensor) -> None:
        self.register_buffer(name, tensor, persistent=False)
        # A CUDA graph writes where the buffer was when it was recorded.
        torch._dynamo.mark_static_address(tensor)

    def put(self, number: int, x: torch.Tensor) -> torch.Tensor:
        """Tap point `number`."""
        ops.tap(getattr(self, f"buffer_{number}"), getattr(self, f"meter_{number}"), x)
        return x

    def reset(self) -> None:
        """Before a step: no point has fired."""
        for name, buffer in self.named_buffers():
            if name.startswith("meter"):
                buffer.zero_()

    def calls(self) -> list[list[int]]:
        """[calls, elements] of each point since the reset."""
        meters = [buffer for name, buffer in self.named_buffers() if name.startswith("meter")]
        return torch.stack(meters).tolist() if meters else []

    def read(self, number: int, shape: tuple[int, ...]) -> torch.Tensor:
        """A copy of what the point wrote last."""
        flat = getattr(self, f"buffer_{number}")
        return flat[: torch.Size(shape).numel()].reshape(shape).clone()


def elements_of_row(source: Source, sizes: dict[str, int]) -> int:
    """How many elements a token has in a source; expert rows come once a slot."""
    total = 0
    for part in source.tensor.parts:
        width = 1
        for letter in "".join(part.axes).replace("1", ""):
            width *= 1 if letter == "T" else sizes["S"] if letter == "R" else sizes[letter]
        total += width
    return total


def shape_of(source: Source, tokens: int, sizes: dict[str, int]) -> tuple[int, ...]:
    """The shape in which a source lies in a step of that many tokens, by its axes."""
    known = {**sizes, "T": tokens, "R": tokens * sizes.get("S", 0), "1": 1}
    shapes = [[torch.Size([known[letter] for letter in axis]).numel() for axis in part.axes]
              for part in source.tensor.parts]  # fmt: skip
    return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))
