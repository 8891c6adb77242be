"""How is vLLM opened in this process, and where are its model, its worker's runner and its scheduler?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from parity.errors import RunnerError
from parity_oracles.vllm.inside import Inside

SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine's core in this process: hooks must reach the model
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; read by the CPU build alone
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",  # a folder is loaded, nothing is to be looked up
}
"""Environment variables that are set where the user has not set them."""

ADAPTIVE = "adaptive_long_prefill_threshold"
"""The scheduler's attribute by which it raises the limit of a prompt's rows where there is room."""


def is_installed() -> bool:
    """True where this interpreter can import vLLM."""
    return find_spec("vllm") is not None


class Engine(Inside):
    """vLLM's `LLM` with its inside at hand. One GPU or the CPU; the model in this process.

    arguments: of `vllm.LLM`. Raises RunnerError where vLLM is missing or its model lies in another process.
    """

    def __init__(self, folder: str, arguments: Mapping[str, Any]) -> None:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        if not is_installed():
            raise _cannot(
                "vLLM to be installed here", "no module vllm", "Run `make engines-vllm`, or give python=PATH."
            )
        if import_module("vllm.platforms").current_platform.is_cpu():
            # There it is a share of the machine's memory that must be free, and the cache's size is set above.
            arguments = {"gpu_memory_utilization": 0.3, **arguments}
        try:
            self.llm = import_module("vllm").LLM(folder, **arguments)
        except Exception as error:  # vLLM raises whatever its parts raise
            raise _cannot(
                f"vLLM to load {folder}", f"{type(error).__name__}: {error}"[:600], "Correct the model or the options."
            ) from error
        found: list[Any] = []
        self.llm.collective_rpc(lambda worker: found.append(getattr(worker, "worker", worker)))
        if len(found) != 1:
            raise _cannot(
                "the model in this process",
                f"{len(found)} workers here",
                "Leave VLLM_ENABLE_V1_MULTIPROCESSING at 0 and tensor_parallel_size at 1.",
            )
        super().__init__(found[0].model_runner)
        self._chunk: int | None = None
        self._most = 0

    def add(self, name: str, ids: Sequence[int], *, new: int, prompt_logits: bool) -> None:
        """Queue a request: `new` tokens after its ids, greedily, through end-of-text ids.

        prompt_logits: ask for the prompt's log-probabilities, for which vLLM computes logits of every row, and for
        which it reads no prefix cache.
        """
        parameters = import_module("vllm").SamplingParams(
            temperature=0.0,
            max_tokens=new,
            ignore_eos=True,
            detokenize=False,
            prompt_logprobs=0 if prompt_logits else None,
        )
        self._core.add_request(name, {"prompt_token_ids": list(ids)}, parameters)

    def step(self) -> list[Any] | None:
        """One step of the engine: the answers that it made; None when nothing is left to do."""
        if not self._core.has_unfinished_requests():
            return None
        if self._chunk is not None:
            # The limit of a prompt's rows is not held for a request that is alone: there it is that of the step.
            alone = sum(self._scheduler.get_request_counts()) <= 1
            self._scheduler.max_num_scheduled_tokens = min(self._chunk, self._most) if alone else self._most
        return self._core.step()

    def abort(self, names: Sequence[str]) -> None:
        """Take unfinished requests out of the engine, after an error in one of its steps."""
        self._core.abort_request(list(names))

    def forget_prefixes(self) -> None:
        """Empty the prefix cache."""
        self.llm.reset_prefix_cache()

    @contextmanager
    def chunked(self, chunk: int | None) -> Iterator[None]:
        """Within it, the scheduler gives a request at most `chunk` rows of its prompt a step; None: as configured."""
        if chunk is None:
            yield
            return
        scheduler, config = self._scheduler, self._scheduler.scheduler_config
        before, adaptive = config.long_prefill_token_threshold, getattr(scheduler, ADAPTIVE, None)
        self._chunk, self._most = chunk, scheduler.max_num_scheduled_tokens
        try:
            config.long_prefill_token_threshold = chunk
            if adaptive is not None:
                setattr(scheduler, ADAPTIVE, False)
            yield
        finally:
            config.long_prefill_token_threshold = before
            scheduler.max_num_scheduled_tokens = self._most
            if adaptive is not None:
                setattr(scheduler, ADAPTIVE, adaptive)
            self._chunk = None

    @property
    def _scheduler(self) -> Any:
        return self._core.engine_core.engine_core.scheduler

    @property
    def _core(self) -> Any:
        return self.llm.llm_engine

    @property
    def config(self) -> Any:
        """vLLM's configuration as it is in force."""
        return self._core.vllm_config

    def close(self) -> None:
        """End the engine and let go of its memory."""
        shutdown = getattr(self._core.engine_core, "shutdown", None)
        if shutdown is not None:
            shutdown()


def _cannot(expected: str, found: str, next_step: str) -> RunnerError:
    return RunnerError(place="runner vllm", expected=expected, found=found, next_step=next_step)
