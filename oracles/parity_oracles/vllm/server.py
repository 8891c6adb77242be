"""How are stages captured inside vLLM's own server? An extension of its worker, called over HTTP.

    VLLM_SERVER_DEV_MODE=1 PYTHONPATH=FOLDER_WITH_THE_LAB python -m vllm.entrypoints.openai.api_server --model MODEL \
        --enforce-eager --no-async-scheduling --worker-extension-cls parity_oracles.vllm.server.Capturing
    curl -X POST localhost:8000/collective_rpc -H 'Content-Type: application/json' \
        -d '{"method": "parity_start", "args": ["/tmp/trace"]}'
    ... requests, as any client sends them ...
    curl -X POST localhost:8000/collective_rpc -H 'Content-Type: application/json' -d '{"method": "parity_stop"}'

What the steps between the two calls computed is a trace in that folder: requests in the order in which they came in,
prompt and decode rows by absolute position, ids as the engine fed them. Tensors are held in memory until the end, so
that a few requests of interest are sent, and no production traffic. Decoding is the server's own: its sampled ids are
the ids of the trace.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from parity.errors import UsageError
from parity.probes import Recorder
from parity.runner import CapturePlan, Request, Schedule
from parity.trace import Trace
from parity_oracles.vllm.batch import Batch, Feeding, Progress, read_batch
from parity_oracles.vllm.inside import Inside
from parity_oracles.vllm.packing import Packed
from parity_oracles.vllm.runner import VllmRunner
from parity_oracles.vllm.tap import Step, Told


class Session:
    """What the engine computes between `start` and `stop`, whoever asks for it.

    runner: on the engine's model; its own calls are not used. prompts: says of a request, by the engine's name, the ids
    of its prompt.
    """

    def __init__(
        self, runner: VllmRunner, packed: Callable[[], Packed], prompts: Callable[[str], tuple[int, ...]]
    ) -> None:
        self._runner = runner
        self._packed = packed
        self._prompts = prompts
        self._ids: dict[str, dict[int, int]] = {}
        self._steps: list[Step] = []
        self._stack = ExitStack()

    def start(self) -> None:
        """Hooks on."""
        told = Told(self._batch, self._steps.append, lambda _batch, _row: None)
        self._stack.enter_context(self._runner.tap.installed(told, frozenset(self._runner.sites)))

    def stop(self, out: Path | None = None) -> Trace:
        """Hooks off; the trace, in the folder `out` or in memory. Raises UsageError when nothing was computed, and
        for requests that were on their way before."""
        self._stack.close()
        names = list(self._ids)
        if not names:
            raise UsageError(
                place="capture in vLLM's server",
                expected="a request between start and stop",
                found="none",
                next_step="Send the requests after parity_start has answered.",
            )
        if early := [name for name in names if -1 in self._fed(name)]:
            raise UsageError(
                place="capture in vLLM's server",
                expected="requests that came in between start and stop",
                found=f"on the way before: {', '.join(early)}, whose first ids were not seen",
                next_step="Start the capture while the server is idle.",
            )
        feeding = Feeding(tuple(map(self._fed, names)), tuple(len(self._prompts(name)) for name in names))
        requests = [Request(name, ids) for name, ids in zip(names, feeding.requests, strict=True)]
        asked = [self._logits_from(number, name) for number, name in enumerate(names)]
        run = self._runner.run_of(requests, Schedule(), absent=self._absent(asked))
        self._drop_logits_before(asked)
        recorder, progress = Recorder(CapturePlan(out=out), run), Progress(feeding)
        with recorder:
            for step in self._steps:
                for group in progress.groups(step.batch):
                    self._runner.record(recorder, step, group, feeding, None)
        return recorder.trace()

    def _batch(self, positions: torch.Tensor, ids: torch.Tensor | None) -> Batch:
        now, first = self._packed(), 0
        assert ids is not None  # a language model is fed ids
        at, fed = positions.tolist(), ids.reshape(-1).tolist()
        packed = [(name, count) for name, count in zip(now.names, now.counts, strict=True) if count]
        for name, count in packed:
            rows = range(first, first + count)
            self._ids.setdefault(name, {}).update({at[row]: fed[row] for row in rows})
            first += count
        known = {name: number for number, name in enumerate(self._ids)}
        feeding = Feeding(tuple(map(self._fed, self._ids)), ())
        names, counts = [name for name, _ in packed], [count for _, count in packed]
        return read_batch(names, counts, positions, ids, known=known, feeding=feeding)

    def _fed(self, name: str) -> tuple[int, ...]:
        """The ids of a request as far as it was computed: its prompt as it came in, then what the engine fed."""
        prompt, seen = self._prompts(name), self._ids[name]
        return tuple(prompt[n] if n < len(prompt) else seen.get(n, -1) for n in range(max(seen) + 1))

    def _logits_from(self, number: int, name: str) -> int:
        """The position from which on the logits of a request were asked for: of its whole prompt or of its last row.

        The engine computes them for the last row of each step, of a chunk in the middle of a prompt too, and throws
        those away: they stand alone, and a trace that had them would have gaps that nobody explains.
        """
        rows = {
            int(step.batch.rows.position[row])
            for step in self._steps
            for row in step.logits
            if int(step.batch.rows.request[row]) == number
        }
        first = min(self._ids[name])
        return first if rows.issuperset(self._ids[name]) else max(first, len(self._prompts(name)) - 1)

    def _drop_logits_before(self, asked: list[int]) -> None:
        for step in self._steps:
            of, at = step.batch.rows.request, step.batch.rows.position
            step.logits = {row: one for row, one in step.logits.items() if at[row] >= asked[of[row]]}

    def _absent(self, asked: list[int]) -> dict[str, dict[str, int]]:
        """Rows that were not computed here (a prefix of the cache), and prompt rows of which no logits were asked."""
        found = {}
        for name, without in zip(self._ids, asked, strict=True):
            first = min(self._ids[name])
            if first or without:
                found[name] = {**({"*": first} if first else {}), "logits": without}
        return found


class Served(Inside):
    """The engine of a server as the runner sees it, from inside its worker."""

    def __init__(self, worker: Any) -> None:
        super().__init__(worker.model_runner)
        self.config = worker.vllm_config


class Capturing:
    """Mixed into vLLM's worker by `--worker-extension-cls`."""

    def parity_start(self, folder: str) -> str:
        """Capture from now on, into a trace in `folder`, which must not exist or be empty."""
        if getattr(self, "_parity", None) is not None:
            raise RuntimeError("a capture is running: parity_stop first")
        engine: Any = Served(self)
        eager = bool(engine.config.model_config.enforce_eager)
        runner = VllmRunner(str(engine.config.model_config.model), engine, eager=eager, apart=True)
        stack = ExitStack()
        packed = stack.enter_context(engine.packed())
        session = Session(runner, packed, lambda name: engine.packing.prompts.get(name, ()))
        session.start()
        self._parity = session, stack, Path(folder)
        return f"capturing {len(runner.sites)} sites"

    def parity_stop(self) -> str:
        """Write the trace; says what is in it."""
        held = getattr(self, "_parity", None)
        if held is None:
            raise RuntimeError("no capture is running: parity_start first")
        session, stack, folder = held
        self._parity = None
        stack.close()
        trace = session.stop(folder)
        return f"{len(trace.captures)} captures of {len(trace.run.requests)} requests in {folder}"
