"""How is a module compiled? The options that change what is computed, and one program a purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from types import FunctionType
from typing import Any

import torch

from parity.errors import UsageError

BACKENDS = ("none", "inductor", "aot_eager", "eager")
MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
_PROGRAMS = count()


@dataclass(frozen=True)
class Compilation:
    """backend: `none` runs the module as it is; the others are torch.compile's. fullgraph: one graph, or an error.

    mode: torch.compile's, for inductor; `reduce-overhead` runs in CUDA graphs. dynamic: torch.compile's.
    emulate_precision_casts: inductor rounds between fused operations as the eager module does. Without it a probe, by
    ending a fusion, moves the values of a 16-bit model that it was to show.
    """

    backend: str = "none"
    mode: str = "default"
    fullgraph: bool = True
    dynamic: bool | None = None
    emulate_precision_casts: bool = True

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS or self.mode not in MODES or (self.mode != "default" and not self.inductor):
            raise UsageError(
                place="torch runner, compile",
                expected=f"a backend among {', '.join(BACKENDS)}; a mode of inductor's among {', '.join(MODES)}",
                found=f"backend {self.backend!r}, mode {self.mode!r}",
                next_step="Correct it; mode belongs to compile=inductor.",
            )

    @property
    def inductor(self) -> bool:
        return self.backend == "inductor"

    @property
    def cuda_graphs(self) -> bool:
        """True when replays run no Python, and outputs live in memory that the next replay writes again."""
        return self.mode in ("reduce-overhead", "max-autotune")

    def flags(self) -> dict[str, Any]:
        """What a trace states of it."""
        casts = {"emulate_precision_casts": self.emulate_precision_casts, "mode": self.mode} if self.inductor else {}
        return {"compile": self.backend, **({"fullgraph": self.fullgraph} if self.backend != "none" else {}), **casts}

    def compiled(self, function: Callable[..., Any], *, graphs: bool = True) -> Callable[..., Any]:
        """`function` compiled as a program of its own; graphs=False keeps CUDA graphs out of it."""
        if self.backend == "none":
            return function
        # Compiled code is kept by code object, and guards do not look at hooks: with one code object for a program with
        # probes and one without, whichever came first would serve both.
        assert isinstance(function, FunctionType)
        code = function.__code__.replace(co_name=f"{function.__name__}_{next(_PROGRAMS)}")
        own = FunctionType(code, function.__globals__, code.co_name, function.__defaults__, function.__closure__)
        own.__kwdefaults__ = function.__kwdefaults__
        options: dict[str, Any] | None = None
        if self.inductor:
            options = dict(torch._inductor.list_mode_options(self.mode)) if self.mode != "default" else {}
            options["emulate_precision_casts"] = self.emulate_precision_casts
            if not graphs:
                options["triton.cudagraphs"] = False
        return torch.compile(
            own, backend=self.backend, fullgraph=self.fullgraph, dynamic=self.dynamic, options=options
        )  # fmt: skip
