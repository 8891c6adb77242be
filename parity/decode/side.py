"""What does one runner do with a prompt: its greedy continuation, and its logits on ids that somebody chose?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from parity.errors import RunnerError, UsageError
from parity.graft.effect import logits_of
from parity.records import Run
from parity.runner import CapturePlan, Generation, Request, RunnerInfo, Schedule, Watched, options_of
from parity.sampling import Sampling

VOCABULARY = ("vocab", "vocab_size")
"""What runners call the number of ids in their hyper-parameters."""


@dataclass(frozen=True)
class Forced:
    """Logits of one runner on a prompt and the first N - 1 of N ids that continue it, those fed one by one.

    logits: [P + N - 1 - first, V] as the runner gives them, from position `first` on; the row of position P - 1 + k is
    the choice of new token k. ids: prompt and all N.
    """

    ids: tuple[int, ...]
    prompt: int
    logits: torch.Tensor
    run: Run
    first: int = 0

    @property
    def choices(self) -> torch.Tensor:
        """[N, V] logits from which the N new tokens were, or would have been, chosen."""
        return self.logits[self.prompt - 1 - self.first :]

    def phase(self, position: int) -> str:
        """Phase of the step that fed the id at that position."""
        return "prefill" if position < self.prompt else "decode"


def require_decoding(info: RunnerInfo, request: Request, tokens: int, *, generate: bool = True) -> None:
    """Refuse what cannot be compared: UsageError for the prompt or N, RunnerError for the runner."""
    lacking = sorted({"forward", "generate"} - info.can) if generate else sorted({"forward"} - info.can)
    if lacking:
        raise RunnerError(
            place=f"runner {info.name}",
            expected="one that can forward and generate",
            found="no " + ", no ".join(lacking),
            next_step="Compare stored continuations with `parity text score`, or use a runner that decodes.",
        )
    if type(tokens) is not int or tokens < 1:
        raise UsageError(
            place="new tokens",
            expected="at least 1",
            found=repr(tokens),
            next_step="A continuation of nothing compares nothing: ask for a token or more.",
        )
    if len(request.ids) < 2:
        raise UsageError(
            place=f"request {request.name}",
            expected="a prompt of at least 2 ids",
            found=f"{len(request.ids)}",
            next_step="Give the whole prompt, template included.",
        )
    vocab = next((int(info.hyper[name]) for name in VOCABULARY if info.hyper.get(name)), 0)
    wrong = [(at, token) for at, token in enumerate(request.ids) if vocab and token >= vocab]
    if wrong:
        raise UsageError(
            place=f"request {request.name}",
            expected=f"ids from 0 to {vocab - 1}, the vocabulary of runner {info.name}",
            found=f"{wrong[0][1]} at position {wrong[0][0]}",
            next_step="Tokenize the prompt with this model's own tokenizer.",
        )


def continue_greedily(
    runner: Any, request: Request, tokens: int, *, sampling: Sampling | None = None
) -> tuple[int, ...]:
    """The ids of `continuation_of`."""
    return continuation_of(runner, request, tokens, sampling=sampling).ids


def continuation_of(runner: Any, request: Request, tokens: int, *, sampling: Sampling | None = None) -> Generation:
    """The runner's own continuation, at most `tokens` ids; RunnerError for an empty one.

    sampling: penalties and bans asked for; a runner that cannot `sample`, or settings that ask for nothing, get none,
    so that the runner's own defaults show.
    """
    return _some(runner.generate(request, max_new_tokens=tokens, **_settings(runner, sampling)), request)


def continue_and_force(runner: Any, request: Request, tokens: int, *, sampling: Sampling | None = None) -> Forced:
    """The runner's own continuation, as `continuation_of` asks for it, and its logits on it, as `force` gives them.

    In one pass where the runner can be watched while it generates, else in two, of which each feeds the whole prompt.
    """
    if not isinstance(runner, Watched):
        return force(runner, request, continue_greedily(runner, request, tokens, sampling=sampling))
    plan, under = CapturePlan(stages=("logits",)), _settings(runner, sampling)
    new, trace = runner.generate_watched(request, max_new_tokens=tokens, capture=plan, **under)
    ids = (*request.ids, *_some(new, request).ids)
    return Forced(ids, len(request.ids), _rows(trace, Request(request.name, ids[:-1]), 0, len(ids) - 1), trace.run)


def _settings(runner: Any, sampling: Sampling | None) -> dict[str, Sampling]:
    asked = sampling is not None and sampling != Sampling() and "sample" in runner.describe().can
    return {"sampling": sampling} if asked and sampling is not None else {}


def _some(new: Generation, request: Request) -> Generation:
    if not new.ids:
        raise RunnerError(
            place=f"continuation of request {request.name}",
            expected="at least one token",
            found="none",
            next_step="An engine that stops at once is a finding of its own: look at its first token's logits.",
        )
    return replace(new, ids=tuple(new.ids))


def force_each(
    runner: Any, request: Request, continuations: Sequence[Sequence[int]], *, stepwise: bool = True
) -> list[Forced]:
    """The runner's logits on the prompt and each continuation, all fed in one run; see `force`.

    Only the rows of the choices are kept. Continuations that are equal are fed once, those of other lengths in runs of
    their own.
    """
    different = list(dict.fromkeys(tuple(one) for one in continuations))
    known: dict[tuple[int, ...], Forced] = {}
    for length in sorted({len(one) for one in different}):
        batch = [one for one in different if len(one) == length]
        fed = [Request(f"{request.name} {n}", (*request.ids, *one[:-1])) for n, one in enumerate(batch)]
        schedule = Schedule(decode=length - 1 if stepwise else 0)
        first, stop = len(request.ids) - 1, len(request.ids) + length - 1
        trace = runner.forward(
            fed, schedule=schedule, capture=CapturePlan(stages=("logits",), tokens=f"{first}:{stop}")
        )
        for number, one in enumerate(batch):
            rows = _rows(trace, fed[number], number, length)
            known[one] = Forced((*request.ids, *one), len(request.ids), rows, trace.run, first)
    return [known[tuple(one)] for one in continuations]


def force(
    runner: Any, request: Request, continuation: Sequence[int], *, stepwise: bool = True, grafts: Any = ()
) -> Forced:
    """The runner's logits on the prompt and all of the continuation but its last id, [P + N - 1, V].

    stepwise: the continuation is fed one id at a time, as generation does; else all at once, as a prompt.
    """
    ids = (*request.ids, *continuation)
    fed = Request(request.name, ids[:-1])
    schedule = Schedule(decode=len(continuation) - 1 if stepwise else 0)
    under = options_of(graft=grafts)
    trace = runner.forward([fed], schedule=schedule, capture=CapturePlan(stages=("logits",)), **under)
    return Forced(ids, len(request.ids), _rows(trace, fed, 0, len(fed.ids)), trace.run)


def _rows(trace: Any, fed: Request, number: int, count: int) -> torch.Tensor:
    """[count, V] logits of one request; RunnerError unless there is a row for every position asked for."""
    logits = logits_of(trace, number)
    if len(logits) != count:
        raise RunnerError(
            place=f"logits of request {fed.name}",
            expected=f"a row for each of {count} positions",
            found=f"{len(logits)} rows",
            next_step="The runner must show logits at every position that it is fed.",
        )
    return logits
