"""How did vLLM's worker pack the step in progress, and with which prompts? Asked of its model runner."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Packed:
    """How the engine's worker packed the step in progress: its names of the requests and their rows, in order."""

    names: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


class Packing:
    """The packing of one model runner. prompts: ids of those that came in while it was last watched, by name."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._scheduled: Any = None
        self.prompts: dict[str, tuple[int, ...]] = {}

    @contextmanager
    def watched(self) -> Iterator[Callable[[], Packed]]:
        """Within it, the function given says at any moment of a forward pass how its batch is packed."""
        runner, packed = self._runner, Packed()
        self.prompts = {}
        undo: list[Callable[[], None]] = []
        execute = runner.execute_model

        def note(scheduled: Any, *args: Any, **kwargs: Any) -> Any:
            packed.names, packed.counts = [], []
            self._scheduled = scheduled
            for one in getattr(scheduled, "scheduled_new_reqs", ()):
                self.prompts[one.req_id] = tuple(one.prompt_token_ids or ())
            return execute(scheduled, *args, **kwargs)

        vars(runner)["execute_model"] = note
        undo.append(lambda: vars(runner).pop("execute_model"))
        prepare = getattr(runner, "prepare_inputs", None)
        if prepare is not None:  # the second generation of model runners makes a batch for each step

            def prepared(*args: Any, **kwargs: Any) -> Any:
                batch = prepare(*args, **kwargs)
                packed.names = list(batch.req_ids)
                packed.counts = [int(n) for n in batch.num_scheduled_tokens[: len(packed.names)]]
                return batch

            vars(runner)["prepare_inputs"] = prepared
            undo.append(lambda: vars(runner).pop("prepare_inputs"))
        try:
            yield lambda: self._now(packed)
        finally:
            for one in undo:
                one()

    def _now(self, packed: Packed) -> Packed:
        if packed.names:
            return packed
        # The first generation keeps one batch that it rearranges before each step.
        counts = self._scheduled.num_scheduled_tokens
        names = [name for name in self._runner.input_batch.req_ids if name in counts]
        return Packed(names, [counts[name] for name in names])
