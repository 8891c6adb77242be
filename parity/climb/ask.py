"""How does a request for an investigation become a case? Files read, defaults filled in, nonsense refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parity.climb.case import CHECKED, NEW_TOKENS, TRACE, Case
from parity.errors import UsageError
from parity.prompt import read_conversation, read_fed
from parity.registry import refuse_missing_model
from parity.runner import Request, Schedule
from parity.trace import open_trace


def ask_case(
    *,
    sut: str,
    oracle: str,
    request: Request | None,
    floor: Path | None = None,
    calibrate: Sequence[Path] = (),
    second: Request | None = None,
    messages: Path | None = None,
    sut_ids: Path | None = None,
    emulation: str | None = None,
    new_tokens: int = NEW_TOKENS,
    chunk: int | None = None,
    knobs: bool = False,
    checks: Sequence[str] = (),
    claim: str | None = None,
    sut_options: Mapping[str, Any] | None = None,
    oracle_options: Mapping[str, Any] | None = None,
) -> Case:
    """The case that these names and files describe.

    Where nothing is said: the emulation is `recipe:` on the oracle's model, an oracle of Hugging Face computes in
    float32, the request of a trace is the trace's own, and the engine's model folder holds template and tokenizer.
    Raises UsageError for an engine without a prompt, ids without messages, a model or floor that is not there, checks
    that there are not, and what reading the files raises.
    """
    for spec in (sut, oracle, *(() if emulation is None else (emulation,))):
        refuse_missing_model(spec)
    if floor is not None and not floor.is_file():
        raise UsageError(
            place=str(floor),
            expected="the file of a noise floor",
            found="none",
            next_step="Check the path; `parity floor calibrate` makes one.",
        )
    model = oracle.partition(":")[2]
    if request is None and sut.startswith(TRACE):
        run = open_trace(sut.removeprefix(TRACE)).run
        request = Request(run.request_names[0], run.requests[0])
    if request is None:
        raise UsageError(
            place="investigation",
            expected="a prompt: --prompt FILE or --ids 1,2,3",
            found="neither",
            next_step="Give the prompt that shows the symptom; shipped prompts are in fixtures/prompts.",
        )
    if floor is not None and calibrate:
        raise UsageError(
            place="--calibrate",
            expected="a floor to be made, or one that there is",
            found="both --floor and --calibrate",
            next_step="Leave one of them out.",
        )
    if sut_ids is not None and messages is None:
        raise UsageError(
            place="--sut-ids",
            expected="the messages that these ids were made of, with --messages",
            found="none",
            next_step="Save the messages of the request that was sent to the engine.",
        )
    unknown = [name for name in checks if name not in CHECKED]
    if unknown:
        raise UsageError(
            place="--check",
            expected=f"an invariance of rung 3: {', '.join(CHECKED)}",
            found=", ".join(unknown),
            next_step="`parity invariants` tries others, each by itself.",
        )
    options = dict(oracle_options or {})
    if oracle.startswith("hf:"):
        options.setdefault("dtype", "float32")
    return Case(
        sut=sut,
        oracle=oracle,
        request=request,
        second=second,
        emulation=emulation or f"recipe:{model}",
        sut_options=dict(sut_options or {}),
        oracle_options=options,
        conversations=() if messages is None else (read_conversation(messages),),
        sut_ids=() if sut_ids is None else read_fed(sut_ids).ids,
        model=model if Path(model).is_dir() else None,
        floor=None if floor is None else str(floor),
        calibrate=tuple(map(str, calibrate)),
        schedule=Schedule(chunk=chunk),
        new_tokens=new_tokens,
        knobs=knobs,
        checks=tuple(checks),
        claim=claim,
    )
