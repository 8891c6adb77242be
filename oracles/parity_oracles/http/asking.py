"""How is a completion asked for, on servers that know different parameters?

Parameters outside OpenAI's own are left out, one after the other, when a server refuses a request over them; what was
left out is remembered. The prompt's rows are read in one of three ways:

prompt_logprobs  vLLM's own field, keyed by id
echo             the prompt repeated in front of the answer, with its log-probabilities
steps            a request of one new token for each position: for servers that show nothing of a prompt
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from parity.errors import RunnerError
from parity_oracles.http.answer import Answer, read_answer
from parity_oracles.http.client import Client, Refusal
from parity_oracles.http.rows import Row
from parity_oracles.http.spelling import Spelling

WAYS = ("auto", "prompt_logprobs", "echo", "steps")
EXTENSIONS = ("prompt_logprobs", "return_token_ids", "return_tokens_as_token_ids", "ignore_eos", "add_special_tokens")


class Asker:
    """Completions of one model on one server.

    way: one of WAYS; `auto` takes `prompt_logprobs` where the server answers it, else `echo`. top: how many
    log-probabilities a position. sampling: further parameters of every request (`presence_penalty`, `logit_bias`).
    """

    def __init__(
        self, client: Client, spelling: Spelling, *, model: str, way: str, top: int, ignore_eos: bool,
        sampling: dict[str, Any],
    ) -> None:  # fmt: skip
        self.client = client
        self.spelling = spelling
        self.model = model
        self.way = way
        self.top = top
        self.left_out: list[str] = []
        self._extensions = {
            "return_token_ids": True, "return_tokens_as_token_ids": True, "ignore_eos": ignore_eos,
            "add_special_tokens": False,
        }  # fmt: skip
        self._sampling = sampling

    def continue_(self, ids: Sequence[int], new: int) -> Answer:
        """At most `new` ids after `ids`, greedily, and their text; raises RunnerError as `read_answer` does."""
        return self._ask(ids, new, top=1, way="none", rows=False)

    def restart(self, ids: Sequence[int], new: int) -> Answer:
        """At most `new` ids after `ids`, with the rows that they were chosen from."""
        return self._ask(ids, new, top=self.top, way="none", rows=True)

    def score(self, ids: Sequence[int], new: int) -> tuple[list[Row], Answer]:
        """The rows of all but the last of `ids`, and the answer of at most `new` ids with the rows from there on."""
        if len(ids) == 1:
            return [], self.restart(ids, new)
        if self.way == "steps":
            before = [self.restart(ids[:at], 1) for at in range(1, len(ids))]
            first = [_first(answer, self._place(ids[:at])) for at, answer in enumerate(before, 1)]
            return first, self.restart(ids, new)
        if self.way in ("auto", "prompt_logprobs"):
            answer = self._ask(ids, new, top=self.top, way="prompt_logprobs", rows=True)
            if answer.prompt:
                self.way = "prompt_logprobs"
            elif self.way == "prompt_logprobs":
                raise self._hidden(ids, "`prompt_logprobs`")
        if self.way in ("auto", "echo"):
            answer = self._ask(ids, new, top=self.top, way="echo", rows=True)
            self.way = "echo"
        rows = [row for row in answer.prompt if row is not None]
        if len(rows) != len(ids) - 1:
            raise self._hidden(ids, f"`{self.way}`")
        return rows, answer

    def _ask(self, ids: Sequence[int], new: int, *, top: int, way: str, rows: bool) -> Answer:
        body: dict[str, Any] = {
            "model": self.model, "prompt": list(ids), "max_tokens": new, "temperature": 0, "n": 1, "stream": False,
            "logprobs": top, **self._sampling, **self._extensions,
        }  # fmt: skip
        if way == "echo":
            body["echo"] = True
        if way == "prompt_logprobs":
            body["prompt_logprobs"] = top
        content = self._send({name: value for name, value in body.items() if name not in self.left_out})
        return read_answer(
            content, sent=ids, asked=new, echoed=way == "echo", rows=rows, spelling=self.spelling,
            place=self._place(ids),
        )  # fmt: skip

    def _send(self, body: dict[str, Any]) -> Any:
        while True:
            try:
                return self.client.post(self.client.address.base + "/completions", body)
            except Refusal as refusal:
                named = [name for name in EXTENSIONS if name in body and re.search(rf"\b{name}\b", refusal.found)]
                if refusal.status not in (400, 422) or not named:
                    raise self._advised(refusal) from refusal
                for name in named:
                    body.pop(name)
                    self.left_out.append(name)

    def _advised(self, refusal: Refusal) -> RunnerError:
        if refusal.status not in (400, 422) or "logprob" not in refusal.found:
            return refusal
        step = f"The server allows fewer than {self.top} log-probabilities a position: give the option top=N."
        return RunnerError(place=refusal.place, expected=refusal.expected, found=refusal.found, next_step=step)

    def _hidden(self, ids: Sequence[int], what: str) -> RunnerError:
        return RunnerError(
            place=self._place(ids),
            expected="log-probabilities of the prompt's positions",
            found=f"none: the server ignores {what}",
            next_step="Give the option prompt=echo, or prompt=steps (one request for each position).",
        )

    def _place(self, ids: Sequence[int]) -> str:
        return f"completion of {len(ids)} ids by {self.client.address.base}"


def _first(answer: Answer, place: str) -> Row:
    if not answer.new:
        raise RunnerError(
            place=place, expected="one new token", found="none",
            next_step="The server stops before it answers: end-of-text comes first there, or `max_tokens` is ignored.",
        )  # fmt: skip
    return answer.new[0]
