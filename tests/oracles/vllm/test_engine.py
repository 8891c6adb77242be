"""Does the engine tell how a step is packed, whichever of vLLM's two generations of model runners makes it?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from parity_oracles.vllm.effective import recipe_of
from parity_oracles.vllm.engine import Engine
from parity_oracles.vllm.inside import Inside


class FirstGeneration:
    """One batch that is rearranged before each step; requests that are not scheduled may still stand in it."""

    def __init__(self) -> None:
        self.input_batch = SimpleNamespace(req_ids=["old"])

    def execute_model(self, scheduled: Any, tell: Any) -> None:
        self.input_batch.req_ids = ["b", "idle", "a"]
        tell()


class SecondGeneration:
    """A batch is made for each step, longer than its requests where it is padded."""

    def execute_model(self, scheduled: Any, tell: Any) -> None:
        self.prepare_inputs(scheduled)
        tell()

    def prepare_inputs(self, scheduled: Any) -> Any:
        return SimpleNamespace(req_ids=["b", "a"], num_scheduled_tokens=[1, 5, 0, 0])


@pytest.mark.parametrize("kind", [FirstGeneration, SecondGeneration])
def test_the_batch_of_the_step_in_progress(kind: Any):
    runner = kind()
    engine = Inside(runner)
    scheduled = SimpleNamespace(num_scheduled_tokens={"a": 5, "b": 1})
    seen: list[Any] = []
    with engine.packed() as packed:
        for _ in range(2):
            runner.execute_model(scheduled, lambda: seen.append(packed()))
    assert [(one.names, list(one.counts)) for one in seen] == [(["b", "a"], [1, 5])] * 2
    assert not vars(runner).keys() & {"execute_model", "prepare_inputs"}


class Scheduler:
    """Holds the limit of a prompt's rows only among several requests, as vLLM's does."""

    def __init__(self, waiting: int) -> None:
        self.scheduler_config = SimpleNamespace(long_prefill_token_threshold=0)
        self.max_num_scheduled_tokens, self.adaptive_long_prefill_threshold, self.waiting = 100, True, waiting

    def get_request_counts(self) -> tuple[int, int]:
        return 0, self.waiting

    @property
    def rows(self) -> int:
        """What a prompt of any length is given in a step."""
        limit = self.scheduler_config.long_prefill_token_threshold if self.waiting > 1 else 0
        if limit and self.adaptive_long_prefill_threshold:
            limit = max(limit, self.max_num_scheduled_tokens // self.waiting)
        return min(limit or self.max_num_scheduled_tokens, self.max_num_scheduled_tokens)


@pytest.mark.parametrize("waiting", [1, 2, 5])
def test_a_prompt_is_given_no_more_rows_than_a_chunk_whether_alone_or_not(waiting: int):
    scheduler = Scheduler(waiting)
    given: list[int] = []
    core = SimpleNamespace(
        engine_core=SimpleNamespace(engine_core=SimpleNamespace(scheduler=scheduler)),
        has_unfinished_requests=lambda: True,
        step=lambda: given.append(scheduler.rows) or [],
    )
    engine = object.__new__(Engine)
    engine.llm, engine._chunk = SimpleNamespace(llm_engine=core), None
    with engine.chunked(7):
        engine.step()
        scheduler.waiting = 1
        engine.step()
        scheduler.waiting = waiting
    with engine.chunked(None):
        engine.step()
    assert given == [7, 7, 100]
    assert scheduler.max_num_scheduled_tokens == 100
    assert scheduler.adaptive_long_prefill_threshold
    assert not scheduler.scheduler_config.long_prefill_token_threshold


@pytest.mark.parametrize(
    ("dtype", "quantization", "norms", "name"),
    [
        (torch.bfloat16, None, ["native"], "bf16_vllm"),  # a CPU, or a model that is compiled
        (torch.bfloat16, None, ["vllm_c", "native"], "bf16_vllm_cuda"),
        (torch.bfloat16, None, ["oink", "vllm_c", "native"], "bf16_vllm"),
        (torch.bfloat16, None, None, "bf16_vllm"),  # a version that does not say
        (torch.float32, None, ["vllm_c", "native"], "fp32"),
        (torch.bfloat16, "fp8", ["vllm_c", "native"], "fp8"),
    ],
)
def test_the_recipe_names_the_kernels_that_the_engine_says_it_takes_for_norms(
    dtype: torch.dtype, quantization: str | None, norms: list[str] | None, name: str
):
    config = SimpleNamespace(
        model_config=SimpleNamespace(dtype=dtype, quantization=quantization, hf_text_config=SimpleNamespace()),
        cache_config=SimpleNamespace(cache_dtype="auto"),
    )
    if norms is not None:
        config.kernel_config = SimpleNamespace(ir_op_priority=SimpleNamespace(rms_norm=norms))
    assert recipe_of(config).name == name
