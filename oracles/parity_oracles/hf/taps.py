"""How does a stage's tensor get out of an HF forward pass, and a graft into it? Hooks that exist only while tapping.

Without taps a model runs HF's own code: its eager attention and its eager expert loop. With taps, hooks stand on
modules, and the attention core, the KV cache and the expert loop are ours where HF offers no hook: the same calls in
the same order with probe points between them, so that the logits do not change in any bit (a test holds that).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from parity.records import Rows
from parity.stages import term

ATTENTION = EXPERTS = "parity_taps"
"""Names under which our attention core and expert loop are registered with transformers."""

Hook = Callable[..., Any]


class Taps:
    """The taps of one HF model. `probe` and `rows` are those of the step in progress.

    place: installs the family's hooks through `on_output`, `on_input`; see parity_oracles/hf/qwen3_moe.py.
    head_dim: width of a head, by which flat projections are shown as heads.
    """

    def __init__(self, model: Any, place: Callable[[Taps], None], *, head_dim: int) -> None:
        self.model = model
        self.head_dim = head_dim
        self.probe: Any = None
        self.rows: Rows | None = None
        self._place = place
        self._handles: list[Any] = []
        self._marked: list[nn.Module] = []

    @property
    def active(self) -> bool:
        """True while the hooks are on."""
        return bool(self._handles)

    @contextmanager
    def installed(self) -> Iterator[Taps]:
        """Hooks on within, off after, whatever happened."""
        try:
            self._place(self)
            self.model.set_attn_implementation(ATTENTION)
            self.model.set_experts_implementation(EXPERTS)
            yield self
        finally:
            for handle in self._handles:
                handle.remove()
            for module in self._marked:
                del vars(module)["parity_taps"]
            self._handles, self._marked = [], []
            self.probe = self.rows = None
            self.model.set_attn_implementation("eager")
            self.model.set_experts_implementation("eager")

    def on_output(self, stage: str, layer: int | None, module: nn.Module) -> None:
        """Tap what `module` returns; a graft replaces it."""

        def hook(_module: nn.Module, _args: Any, output: torch.Tensor) -> torch.Tensor | None:
            back = self.put(stage, layer, output)
            # A hook that returns something replaces the output, so say nothing unless a graft did.
            return None if back is output else back

        self._handles.append(module.register_forward_hook(hook))

    def on_input(self, stage: str, layer: int | None, module: nn.Module) -> None:
        """Tap what `module` is given. HF keeps the same tensor as the residual, so a graft is written into it."""

        def hook(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            back = self.put(stage, layer, args[0])
            if back is not args[0]:
                args[0].copy_(back)

        self._handles.append(module.register_forward_pre_hook(hook))

    def on_result(self, module: nn.Module, rewrite: Callable[[Any], Any]) -> None:
        """Tap a module that returns several tensors: `rewrite(output)` gives the output to go on with."""
        self._handles.append(module.register_forward_hook(lambda _module, _args, output: rewrite(output)))

    def mark(self, module: nn.Module, layer: int) -> None:
        """Let the registered attention core or expert loop find these taps, and its layer, on `module`."""
        vars(module)["parity_taps"] = (self, layer)
        self._marked.append(module)

    def put(self, stage: str, layer: int | None, x: torch.Tensor, **about: Any) -> torch.Tensor:
        """Pass `x`, in any shape HF holds it in, through the probe in the stage's own axes; x itself when ungrafted."""
        rows: Rows = about.get("rows") or self.rows  # pyright: ignore[reportAssignmentType]
        axes = term(stage).axes
        shown = x.reshape(len(rows), -1, self.head_dim) if len(axes) == 3 else x.reshape(len(rows), -1)
        back = self.probe(stage, shown, layer, **about)
        return x if back is shown else back.reshape(x.shape).to(x.dtype)
