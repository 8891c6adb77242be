"""What is inside one worker of vLLM, whoever started it? Its model runner, the model, and what both call themselves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from importlib import import_module
from typing import Any

from parity_oracles.vllm.packing import Packed, Packing


class Inside:
    """A worker's model runner, as a program that opened the engine and a server's extension both see it.

    model_runner: vLLM's.
    """

    def __init__(self, model_runner: Any) -> None:
        self._runner = model_runner
        self.packing = Packing(model_runner)

    @cached_property
    def model(self) -> Any:
        return self._runner.get_model()

    @property
    def version(self) -> str:
        return str(import_module("vllm").__version__)

    @property
    def runner_kind(self) -> str:
        """Which of vLLM's model runners it is, for the trace."""
        return f"{type(self._runner).__module__}.{type(self._runner).__name__}"

    def packed(self) -> AbstractContextManager[Callable[[], Packed]]:
        """Within it, the function given says at any moment of a forward pass how its batch is packed."""
        return self.packing.watched()
