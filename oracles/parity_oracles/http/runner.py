"""What does an engine behind a server compute? Its log-probabilities and continuations, as a runner shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from parity.errors import RunnerError, UsageError
from parity.probes import Recorder
from parity.records import Recipe, Rows, Run
from parity.runner import (
    CapturePlan,
    Generation,
    Request,
    RunnerInfo,
    Schedule,
    check_requests,
    check_schedule,
)
from parity.trace import MemoryTrace, Trace, capture_environment
from parity_oracles.http.address import Address, parse_address
from parity_oracles.http.asking import WAYS, Asker
from parity_oracles.http.chat import ask_chat
from parity_oracles.http.client import Client, Limits
from parity_oracles.http.folder import ServedModel, read_served
from parity_oracles.http.key import VARIABLE, read_key
from parity_oracles.http.rows import Row
from parity_oracles.http.spelling import Spelling

CAN = frozenset({"forward", "generate", "chat"})
LOGITS = "log-probabilities"
"""Capture.basis of what a server shows: logits less the logarithm of their sum, minus infinity where it shows none."""


class HttpRunner:
    """A model on a server. It shows the stage `logits` alone: float32 log-probabilities in nats, [T, V].

    An id that the server did not show is minus infinity; a probability of 0 that it did show is -9999. With
    `Schedule(decode=n)` the last n ids are decoded: the server continues the prompt greedily, and as long as it chooses
    the given ids its rows are those of its decode path. Where it chooses another, it is asked again with the ids up to
    there as a prompt; those rows have the variant `prompt`.
    It cannot show inner stages, graft, replay, chunk, or turn slots and memory: those are the server's own.
    """

    def __init__(self, asked: Mapping[str, Any], client: Client, served: ServedModel) -> None:
        self.client = client
        self.served = served
        self._asked = asked

    @cached_property
    def asker(self) -> Asker:
        """Asks for completions; made when the server is first needed, since the model's name may come from it."""
        asked = self._asked
        return Asker(
            self.client, Spelling(self.served.folder), model=asked["model"] or self._only_model(), way=asked["prompt"],
            top=asked["top"], ignore_eos=asked["ignore_eos"], sampling=asked["sampling"],
        )  # fmt: skip

    def describe(self) -> RunnerInfo:
        """What is known of the model without asking the server, and what this runner can do."""
        local = capture_environment()
        unknown = replace(
            local, python="unknown", torch="unknown", triton=None, transformers=None, platform="unknown",
            cpu_capability="unknown", threads=0, device=f"server {self.client.address.base}",
        )  # fmt: skip
        return RunnerInfo(
            name="http",
            family=self.served.family,
            layers=self.served.layers,
            hyper={"vocab": self.served.vocab, "max_positions": self.served.max_positions},
            recipe=_recipe(self._asked["recipe"]),
            lineage=self.served.lineage,
            environment=unknown,
            stages=("logits",),
            can=CAN,
            sampler={"greedy": True, **self._asked["declared"]},
        )

    def forward(
        self,
        requests: Sequence[Request],
        *,
        schedule: Schedule = Schedule(),
        capture: CapturePlan | None = None,
        graft: Sequence[Any] = (),
    ) -> Trace:
        """Log-probabilities at every position of the requests, one request after the other.

        Raises UsageError for ids outside the vocabulary, RunnerError for what `can` does not hold and for whatever the
        server does wrong.
        """
        self._check(requests, schedule, graft)
        if capture is None:
            for request in requests:
                self._rows(request.ids, schedule.decode)
            return MemoryTrace(self._run(requests, schedule), (), {})
        # Scored first: the run of a trace says how, and it must be final when the trace begins.
        scored = [self._rows(request.ids, schedule.decode) for request in requests]
        recorder = Recorder(capture, self._run(requests, schedule, [rows for rows, _ in scored]))
        ends = [len(request.ids) - schedule.decode - 1 for request in requests]
        with recorder:
            for number, (rows, restarted) in enumerate(scored):
                table, prompt = self._table(rows), ends[number] + 1
                for step, (first, stop) in enumerate([(0, prompt), *((n, n + 1) for n in range(prompt, len(rows)))]):
                    at = Rows(np.full(stop - first, number, np.int32), np.arange(first, stop, dtype=np.int64))
                    phase = "decode" if step else "prefill"
                    probe = recorder.step(phase=phase, step=step, rows=at, last_position=ends)
                    variant = "prompt" if first in restarted else None
                    probe("logits", table[first:stop], None, basis=LOGITS, variant=variant)
        if capture.mode == "stats":
            return MemoryTrace(recorder.run, (), {})
        return recorder.trace()

    def generate(
        self, request: Request, *, max_new_tokens: int, schedule: Schedule = Schedule(), graft: Sequence[Any] = ()
    ) -> Generation:
        """The server's own greedy continuation; end-of-text ids do not stop it where it knows `ignore_eos`."""
        self._check([request], schedule, graft, max_new_tokens)
        if not max_new_tokens:
            return Generation(())
        answer = self.asker.continue_(request.ids, max_new_tokens)
        self._check_vocabulary(answer.ids)
        return Generation(answer.ids, answer.text)

    def chat(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] = (), **arguments: Any
    ) -> Request:
        """The ids that the server makes of a conversation, and how many prompt tokens it counted (`counted`)."""
        return ask_chat(self.client, self.asker.model, messages, tools=tools, **arguments)

    def _rows(self, ids: Sequence[int], decode: int) -> tuple[list[Row], frozenset[int]]:
        """A row for each of `ids`, and the decoded positions whose row came of a prompt."""
        prompt, restarted = len(ids) - decode, set()
        rows, answer = self.asker.score(ids[:prompt], decode + 1)
        while True:
            agreed = next((n for n, (a, b) in enumerate(zip(answer.ids, ids[len(rows) + 1 :], strict=False)) if a != b),
                          len(answer.ids) - 1)  # fmt: skip
            taken = answer.new[: min(agreed + 1, len(ids) - len(rows))]
            if not taken:
                raise RunnerError(
                    place=f"completion of {len(rows) + 1} ids by {self.client.address.base}",
                    expected="at least one new token, for the log-probabilities at the last id",
                    found="none",
                    next_step="The server stops before it answers: end-of-text comes first there.",
                )
            rows += taken
            if len(rows) == len(ids):
                return rows, frozenset(restarted)
            restarted.add(len(rows))
            answer = self.asker.restart(ids[: len(rows) + 1], len(ids) - len(rows))

    def _table(self, rows: Sequence[Row]) -> torch.Tensor:
        """[T, V] float32 log-probabilities, minus infinity where none was shown."""
        table = np.full((len(rows), self.served.vocab), -np.inf, np.float32)
        for at, row in enumerate(rows):
            self._check_vocabulary(row.shown)
            table[at, list(row.shown)] = list(row.shown.values())
        return torch.from_numpy(table)

    def _run(self, requests: Sequence[Request], schedule: Schedule, scored: Sequence[Sequence[Row]] = ()) -> Run:
        info = self.describe()
        asker = self.asker
        rows = [row for one in scored for row in one]
        flags = {
            "runner": "http", "decode": schedule.decode, "logits": LOGITS, "prompt": asker.way, "top": asker.top,
            "left_out": list(asker.left_out), "repeated": self.client.repeated,
            "least_shown": min((len(row.shown) for row in rows), default=0),
            "cut_by_collisions": sum(bool(row.cut) for row in rows), **self._asked["sampling"],
        }  # fmt: skip
        return Run(
            family=info.family,
            model=f"{asker.model} on {self.client.address.base}",
            layers=info.layers,
            request_names=tuple(request.name for request in requests),
            requests=tuple(tuple(request.ids) for request in requests),
            recipe=info.recipe,
            lineage=info.lineage,
            environment=info.environment,
            declared=((None, "logits"),),
            hyper=info.hyper,
            flags=flags,
        )

    def _only_model(self) -> str:
        url = self.client.address.base + "/models"
        content = self.client.get(url)
        listed = content.get("data") if isinstance(content, Mapping) else None
        names = [one.get("id") for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
        if len(names) != 1 or not isinstance(names[0], str):
            raise UsageError(
                place=f"models of {url}",
                expected="one model, or its name in the option model",
                found=", ".join(map(str, names[:12])) or "none",
                next_step="Give the option model=NAME.",
            )
        return self.client.hide(names[0])

    def _check(self, requests: Sequence[Request], schedule: Schedule, graft: Sequence[Any], new: int = 0) -> None:
        most = self.served.max_positions
        check_requests(requests, schedule, vocab=self.served.vocab, max_positions=most, new_tokens=new)
        check_schedule(schedule, requests, can=CAN, runner="http")
        cached = any(request.cached for request in requests)
        if graft or cached or schedule.chunk is not None:
            what = "a graft" if graft else "a cached prefix" if cached else f"chunk={schedule.chunk}"
            raise RunnerError(
                place="runner http",
                expected="an ability among " + ", ".join(sorted(CAN)),
                found=what,
                next_step="Leave it out: nobody can enter this engine; its server decides how it feeds a prompt.",
            )

    def _check_vocabulary(self, ids: Any) -> None:
        wrong = next((number for number in ids if not 0 <= number < self.served.vocab), None)
        if wrong is not None:
            raise RunnerError(
                place=f"answer of {self.client.address.base}",
                expected=f"ids from 0 to {self.served.vocab - 1}",
                found=str(wrong),
                next_step="The server runs another model than the option folder (or vocab) says.",
            )


def _recipe(name: str) -> Recipe:
    return Recipe(name, *[name] * 6)


def open_runner(
    model: str,
    *,
    folder: str | None = None,
    vocab: int | None = None,
    model_name: str | None = None,
    recipe: str = "unknown",
    prompt: str = "auto",
    top: int = 20,
    ignore_eos: bool = True,
    presence_penalty: float = 0.0,
    banned: str | None = None,
    timeout: float = 600.0,
    tries: int = 4,
    backoff: float = 0.5,
    most_bytes: int = 2**30,
    key_env: str = VARIABLE,
) -> HttpRunner:
    """The model behind the server at `model`, an address such as http://127.0.0.1:8000/v1.

    folder: the model's folder on this machine, for the vocabulary's size, the lineage and the tokenizer; vocab: the
    size alone. One of them is needed. model_name: which of the server's models; its only one by default.
    recipe: the precision it is said to run in; a server does not tell.
    prompt: how the prompt's log-probabilities are read, see parity_oracles/http/asking.py. top: how many a position.
    ignore_eos, presence_penalty, banned (ids between commas, by `logit_bias`): asked of its sampler.
    timeout: seconds for one answer. tries, backoff: see parity_oracles/http/client.py. most_bytes: of one answer.
    key_env: the environment variable that holds the API key.
    Raises UsageError for options that make no sense. The server is not asked yet.
    """
    address: Address = parse_address(model)
    ids = _banned(banned)
    if prompt not in WAYS or top < 1 or tries < 1 or not 0 < timeout < 1e6 or backoff < 0 or most_bytes < 1:
        raise UsageError(
            place="runner http",
            expected=f"prompt one of {', '.join(WAYS)}; top, tries and most_bytes at least 1; timeout above 0",
            found=f"prompt {prompt!r}, top {top}, tries {tries}, timeout {timeout}, backoff {backoff}",
            next_step="Correct the option.",
        )
    served = read_served(folder, vocab)
    sampling: dict[str, Any] = {"presence_penalty": presence_penalty} if presence_penalty else {}
    sampling |= {"logit_bias": {str(number): -100 for number in ids}} if ids else {}
    declared = {"presence_penalty": presence_penalty, "suppress_tokens": list(ids)}
    asked = {
        "model": model_name, "recipe": recipe, "prompt": prompt, "top": min(top, served.vocab),
        "ignore_eos": ignore_eos, "sampling": sampling, "declared": declared,
    }  # fmt: skip
    limits = Limits(seconds=timeout, tries=tries, backoff=backoff, most_bytes=most_bytes)
    return HttpRunner(asked, Client(address, read_key(key_env), limits), served)


def _banned(text: str | None) -> tuple[int, ...]:
    try:
        ids = tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        ids = (-1,)
    if any(number < 0 for number in ids):
        raise UsageError(
            place="option banned", expected="ids between commas", found=repr(text), next_step="Correct it."
        )
    return ids
