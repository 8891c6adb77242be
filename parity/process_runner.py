"""A runner in a process of its own: an engine that crashes, or that may not share a process with the oracle.

Interpreted and compiled Triton kernels cannot share a process, floors are calibrated where no engine is loaded, and a
fault may kill what it is planted into; the lab survives all three by keeping each engine in its own child.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Self

from parity.errors import RunnerDiedError
from parity.runner import (
    CapturePlan,
    ComputedGraft,
    Generation,
    Graft,
    Request,
    RunnerInfo,
    Schedule,
    open_runner,
    options_of,
)
from parity.sampling import Sampling

if TYPE_CHECKING:
    from parity.trace import Trace

OnStep = Callable[[str, int, int], None]
"""Called with what is being done, how many steps are done, and how many there are."""


class ProcessRunner:
    """Runner `spec` (`NAME:MODEL`) in a spawned child process; same calls, same results.

    threads: OpenMP threads the child may use. on_step: hears of each step of a runner that reports them.
    Raises RunnerDiedError when the child dies. Left by an error (`with`), it ends the child at once, opening or not.
    """

    def __init__(self, spec: str, *, threads: int = 1, on_step: OnStep | None = None, **options: Any) -> None:
        self.spec = spec
        context = multiprocessing.get_context("spawn")
        self._steps = context.Queue()
        self._closing = threading.Event()
        self._listener = threading.Thread(target=self._listen, args=(on_step,), daemon=True)
        self._listener.start()
        held, self._leash = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(
            max_workers=1, mp_context=context, initializer=_open, initargs=(spec, options, threads, self._steps, held)
        )
        # A pool starts its process with the first call; an engine takes seconds to open, while the oracle opens here.
        self._pool.submit(_begin)

    def describe(self) -> RunnerInfo:
        return self._call("describe")

    def forward(
        self,
        requests: Sequence[Request],
        *,
        schedule: Schedule = Schedule(),
        capture: CapturePlan | None = None,
        graft: Sequence[Graft | ComputedGraft] = (),
        variant: Mapping[str, str] | None = None,
    ) -> Trace:
        under = {"variant": dict(variant)} if variant else {}
        return self._call("forward", tuple(requests), schedule=schedule, capture=capture, graft=tuple(graft), **under)

    def generate(
        self,
        request: Request,
        *,
        max_new_tokens: int,
        schedule: Schedule = Schedule(),
        graft: Sequence[Graft | ComputedGraft] = (),
        sampling: Sampling | None = None,
    ) -> Generation:
        under = options_of(graft=graft, sampling=sampling)
        return self._call("generate", request, max_new_tokens=max_new_tokens, schedule=schedule, **under)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run `function(runner, *args)` in the child; it must be importable there, its result must pickle."""
        return self._submit(_apply, function, *args)

    def close(self) -> None:
        """End the child and the thread that listens to it."""
        # The listener drains the queue until the child is gone: a child does not end with steps still to hand over.
        self._pool.shutdown()
        self._leash.close()
        self._closing.set()
        self._listener.join()
        self._steps.cancel_join_thread()
        self._steps.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._leash.close()  # nobody waits for an engine that is still opening
        self.close()

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._submit(_method, method, args, kwargs)

    def _submit(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return self._pool.submit(function, *args).result()
        except BrokenProcessPool as error:
            raise RunnerDiedError(
                place=f"runner {self.spec}",
                expected="the engine's process to answer",
                found="it died (a crash, or out of memory)",
                next_step="Run the engine by itself on the same prompt to see its own message.",
            ) from error

    def _listen(self, on_step: OnStep | None) -> None:
        while not self._closing.is_set():
            try:
                event = self._steps.get(timeout=0.1)
            except queue.Empty:
                continue
            if on_step is not None:
                # A progress bar that fails must not stop the run it shows.
                with contextlib.suppress(Exception):
                    on_step(*event)


def _end_with_parent(leash: Connection) -> None:
    """End this process when the one that opened it lets go or is gone, killed or not: it would go on writing its
    trace."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([leash, parent.sentinel])
        os._exit(1)


def _begin() -> None:
    """Nothing: that the process was started is all that is asked."""


_runner: Any = None
_refusal: Exception | None = None


def _open(spec: str, options: dict[str, Any], threads: int, steps: Any, leash: Connection) -> None:
    threading.Thread(target=_end_with_parent, args=(leash,), daemon=True).start()
    import torch
    from threadpoolctl import threadpool_limits

    global _runner, _refusal
    torch.set_num_threads(threads)
    # The interpreter multiplies with numpy's BLAS, whose threads spin when two engines share the cores.
    threadpool_limits(threads)
    try:
        _runner = open_runner(spec, **options)
    except Exception as error:
        # Raised here it would read as a dead process; the first call raises it instead.
        _refusal = error
    if hasattr(_runner, "on_step"):
        _runner.on_step = lambda *event: steps.put(event)


def _method(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return getattr(_opened(), name)(*args, **kwargs)


def _apply(function: Callable[..., Any], *args: Any) -> Any:
    return function(_opened(), *args)


def _opened() -> Any:
    if _refusal is not None:
        raise _refusal
    return _runner
