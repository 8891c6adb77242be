"""How do tensors get out of a vLLM step? Hooks on its modules, wrappers where it has none, all copied at once.

Copies are made in the hooks: vLLM rotates queries and keys, and adds residuals, in place, so that most of what a hook
sees is overwritten before the step ends. What the engine goes on with is untouched, but for decode steps that are fed
given ids: there the LM head's result is replaced, after it was copied, by one whose largest entry is the given id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from parity.errors import ProbeError
from parity.stages import term
from parity_oracles.stagemap import Found, Source
from parity_oracles.vllm.batch import Batch, rows_given
from parity_oracles.vllm.experts import APART, ROUTER, wrap_experts

Site = tuple[int | None, str]
LOGITS: Site = (None, "logits")
IDS = "moe.topk_ids"
HEAD = "compute_logits"
"""Not a module of vLLM's: the method of the model that its LM head is reached by."""


@dataclass
class Step:
    """What was seen of one step. tensors: by site, [T, ...] or, for expert rows, [T, S, ...]; logits: by row, [V]."""

    batch: Batch
    tensors: dict[Site, torch.Tensor] = field(default_factory=dict)
    hidden: torch.Tensor | None = None
    logits: dict[int, torch.Tensor] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Told:
    """What the tap asks and tells while the engine runs.

    batch: the packed batch of the step that begins, from its positions and ids. done: a step that is complete.
    force: the id that must follow a row of the batch, None where the engine chooses.
    live: told of every tensor while the engine waits for it, and may write into it; a site, its tensor, whether that is
    a view of the engine's own, the batch and, for expert rows, the ids of the router.
    """

    batch: Callable[[torch.Tensor, torch.Tensor | None], Batch]
    done: Callable[[Step], None]
    force: Callable[[Batch, int], int | None]
    live: Callable[[Site, torch.Tensor, bool, Batch, torch.Tensor | None], None] | None = None


class Tap:
    """The tap of one model. found: its stage map, held against it; sizes: of axis letters; vocab: columns of logits."""

    def __init__(self, model: Any, found: Found, sizes: Mapping[str, int]) -> None:
        self.model = model
        self.found = found
        self.sizes = sizes
        self._step: Step | None = None
        self._told: Told | None = None
        self._wanted: frozenset[Site] = frozenset()

    @contextmanager
    def installed(self, told: Told, wanted: frozenset[Site]) -> Iterator[None]:
        """Hooks on within, off after, whatever happened; `wanted` sites are copied, all others pass unseen."""
        undo: list[Callable[[], None]] = []
        self._told, self._wanted, self._step = told, wanted, None
        try:
            self._install(undo)
            yield
            self._finish()
        finally:
            for one in reversed(undo):
                one()
            self._told, self._step = None, None

    def _install(self, undo: list[Callable[[], None]]) -> None:
        modules = dict(self.model.named_modules())
        undo.append(self.model.register_forward_pre_hook(self._begin, with_kwargs=True).remove)
        for name in self.found.names:
            if name == HEAD or name.rpartition(".")[2] in (ROUTER, APART):
                continue  # no modules
            undo += [self._hook(modules[name], source) for source in self.found.at(name) if self._wants(source)]
        for name, module in modules.items():
            about = {seam: [s for s in self.found.at(f"{name}.{seam}") if self._wants(s)] for seam in (ROUTER, APART)}
            if any(about.values()):
                wrap_experts(module, name, self._takes(about[ROUTER]), self._takes(about[APART]), undo)
        # After the hooks on modules: the model's own result is the last thing to happen.
        undo.append(self.model.register_forward_hook(self._end).remove)
        undo.append(self._wrap_head())

    def _wants(self, source: Source) -> bool:
        return any((source.layer, stage) in self._wanted for stage in source.stages)

    def _takes(self, sources: Sequence[Source]) -> Callable[[Any], None] | None:
        if not sources:
            return None

        def take(value: Any) -> None:
            for source in sources:
                self._take(source, value)

        return take

    def _hook(self, module: torch.nn.Module, source: Source) -> Callable[[], None]:
        if source.tensor.take == "input":
            hook = module.register_forward_pre_hook(
                lambda _module, args, kwargs: self._take(source, (*args, *kwargs.values())), with_kwargs=True
            )
        elif source.tensor.take == "output":
            hook = module.register_forward_hook(lambda _module, _args, output: self._take(source, output))
        else:
            raise ProbeError(
                place=f"{self.found.map.label}, {source.name}",
                expected="take output or input",
                found=repr(source.tensor.take),
                next_step="Correct the map: vLLM's modules show nothing else.",
            )
        return hook.remove

    def _take(self, source: Source, value: Any) -> None:
        step = self._step
        if step is None:
            return  # a pass of the engine's own, outside of any step (profiling)
        rows = len(step.batch)
        for stage, tensor in source.deliver(value, self.sizes):
            site = (source.layer, stage)
            if site not in self._wanted:
                continue
            if site in step.tensors:
                step.twice.append(f"{stage} of layer {source.layer}")
            if term(stage).axes[0] == "R":
                tensor = tensor.unflatten(0, (-1, self.sizes["S"]))
            # Rows beyond the batch are padding.
            shown = tensor[:rows]
            if self._told is not None and self._told.live is not None:
                own = _is_part(shown, value)
                self._told.live(site, shown, own, step.batch, step.tensors.get((source.layer, IDS)))
            step.tensors[site] = _copied(shown)

    def _begin(self, _module: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        assert self._told is not None
        self._finish()
        named = dict(zip(("input_ids", "positions"), args, strict=False)) | dict(kwargs)
        self._step = Step(self._told.batch(named["positions"], named.get("input_ids")))

    def _end(self, _module: Any, _args: Any, output: Any) -> None:
        if self._step is not None:
            hidden = output[0] if isinstance(output, tuple) else output
            self._step.hidden = _copied(hidden[: len(self._step.batch)])

    def _finish(self) -> None:
        step, self._step = self._step, None
        if step is None or self._told is None:
            return
        if step.twice:
            raise ProbeError(
                place=self.found.map.label,
                expected="each tensor once in a step",
                found=f"twice: {', '.join(step.twice[:8])}",
                next_step="The engine runs a module more than once a step; correct the map.",
            )
        self._told.done(step)

    def _wrap_head(self) -> Callable[[], None]:
        own = self.model.compute_logits

        def compute_logits(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            logits = own(hidden, *args, **kwargs)
            step, told = self._step, self._told
            if step is None or step.hidden is None or told is None or not isinstance(logits, torch.Tensor):
                return logits
            rows = rows_given(hidden, step.hidden, step.batch.last_rows, step.logits)
            if LOGITS in self._wanted:
                kept = _copied(logits)
                for number, row in enumerate(rows):
                    step.logits.setdefault(row, kept[number])
            forced = {n: told.force(step.batch, row) for n, row in enumerate(rows)}
            if all(token is None for token in forced.values()):
                return logits
            logits = logits.clone()
            for number, token in forced.items():
                if token is not None:
                    logits[number] = -torch.inf
                    logits[number, token] = 0
            return logits

        self.model.compute_logits = compute_logits
        return lambda: delattr(self.model, "compute_logits")


def _is_part(tensor: torch.Tensor, value: Any) -> bool:
    """True when `tensor` lies in the memory of one of the tensors in `value`."""
    given = value if isinstance(value, (tuple, list)) else (value,)
    at = tensor.untyped_storage().data_ptr()
    return any(isinstance(one, torch.Tensor) and one.untyped_storage().data_ptr() == at for one in given)


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    """A copy, on the same device: the engine writes into what it shows."""
    return tensor.detach().clone()
