"""Which vLLM runs a model, with which options? This interpreter's, or that of an environment of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import parity
from parity.errors import RunnerError, UsageError
from parity_oracles.vllm.child import ChildRunner
from parity_oracles.vllm.engine import is_installed

VARIABLE = "PARITY_VLLM_PYTHON"
ENVIRONMENT = Path(".engines/vllm/bin/python")
DTYPES = ("auto", "float32", "bfloat16", "float16")


def open_runner(
    model: str,
    *,
    python: str | None = None,
    dtype: str = "auto",
    enforce_eager: bool = True,
    max_model_len: int | None = None,
    chunk: int | None = None,
    max_num_batched_tokens: int | None = None,
    prefix_caching: bool = False,
    block_size: int | None = None,
    experts_apart: bool = True,
    stage_map: str | None = None,
    arguments: str = "{}",
    timeout: float = 1800.0,
) -> Any:
    """The model in folder `model`, run by vLLM.

    python: the interpreter of an environment with vLLM, which then runs in a process of its own. Left out: this
    interpreter where it has vLLM (in this process), else PARITY_VLLM_PYTHON, else .engines/vllm (`make engines-vllm`).
    dtype: `auto` is the checkpoint's. enforce_eager: False compiles the model; of its stages only the logits show then.
    max_model_len: positions; the checkpoint's by default. chunk: most rows of one prompt a step, max_num_batched_tokens
    of all requests. prefix_caching, block_size: of the KV cache; see `Request.cached`.
    experts_apart: show what each expert computed, by asking the expert kernel again for every slot.
    stage_map: a TOML file, in place of the lab's own. arguments: further arguments of `vllm.LLM` as a JSON object.
    timeout: seconds for an answer of a process of its own.
    Raises UsageError for options that make no sense, RunnerError where no vLLM is found or it does not load the model.
    """
    options = {
        "folder": str(Path(model).resolve()),
        "eager": enforce_eager,
        "apart": experts_apart,
        "map_file": None if stage_map is None else str(Path(stage_map).resolve()),
        "arguments": _arguments(
            dtype=dtype,
            enforce_eager=enforce_eager,
            max_model_len=max_model_len,
            long_prefill_token_threshold=chunk,
            max_num_batched_tokens=max_num_batched_tokens,
            enable_prefix_caching=prefix_caching,
            block_size=block_size,
            more=_more(arguments),
            tokenizer=(Path(model) / "tokenizer.json").is_file(),
        ),
    }
    if not Path(model).is_dir():
        raise UsageError(
            place="runner vllm",
            expected="a model folder",
            found=repr(model),
            next_step="Give the folder with config.json; nothing is downloaded.",
        )
    if python is None and is_installed():
        return open_here(**options)
    return ChildRunner(str(find_python(python)), options, timeout=timeout)


def find_python(given: str | None = None) -> Path:
    """The interpreter of an environment with vLLM; RunnerError, saying how to make one, where there is none."""
    named = given or os.environ.get(VARIABLE)
    root = Path(next(iter(parity.__path__))).resolve().parent
    places = [Path(named)] if named else [Path.cwd() / ENVIRONMENT, root / ENVIRONMENT]
    for place in places:
        if place.is_file():
            return place.absolute()  # not resolved: a link out of its environment would lose the packages
    raise RunnerError(
        place="runner vllm",
        expected="vLLM in this interpreter, or an environment that has it",
        found="neither; looked at " + ", ".join(map(str, places)),
        next_step="Run `make engines-vllm`, or give the option python=PATH.",
    )


def open_here(*, folder: str, eager: bool, apart: bool, map_file: str | None, arguments: Mapping[str, Any]) -> Any:
    """The model in this process."""
    from parity_oracles.stagemap import read_map
    from parity_oracles.vllm.engine import Engine
    from parity_oracles.vllm.runner import VllmRunner

    stage_map = None if map_file is None else read_map(Path(map_file))
    return VllmRunner(folder, Engine(folder, arguments), eager=eager, apart=apart, stage_map=stage_map)


def _arguments(*, dtype: str, tokenizer: bool, more: Mapping[str, Any], **named: Any) -> dict[str, Any]:
    if dtype not in DTYPES:
        raise UsageError(
            place="runner vllm, option dtype",
            expected="one of " + ", ".join(DTYPES),
            found=repr(dtype),
            next_step="Correct it.",
        )
    given = {name: value for name, value in named.items() if value is not None}
    for name in ("max_model_len", "long_prefill_token_threshold", "max_num_batched_tokens", "block_size"):
        if name in given and given[name] < 1:
            raise UsageError(
                place=f"runner vllm, {name}", expected="at least 1", found=str(given[name]), next_step="Correct it."
            )
    fixed = {
        "enable_chunked_prefill": True,
        "async_scheduling": False,  # a step's logits must be seen before the next step is made
        "disable_log_stats": True,
        "skip_tokenizer_init": not tokenizer,
        "seed": 0,
    }
    return {"dtype": dtype, **fixed, **given, **more}


def _more(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(
            place="runner vllm, option arguments",
            expected='a JSON object, such as {"quantization": "fp8"}',
            found=repr(text)[:200],
            next_step="Correct it.",
        )
    return found
