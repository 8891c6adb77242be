"""What is examined: one runner on one prompt, its runs kept for the checks that share them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from parity.errors import UsageError
from parity.floor import Floor
from parity.runner import CapturePlan, ComputedGraft, Graft, Request, Runner, RunnerInfo, Schedule, options_of
from parity.trace import Trace

BRIEF = 72
"""Ids of the short prompt: just past a tile of 64 rows, so that second tiles and masked tails are in play."""

LONG = 384
"""Ids of the default long prompt: with up to 6 experts a chosen one (E = 6 k) experts hold 64 rows or more on average,
and a router that is skewed by two, as trained ones are (1.8 to 5.7 measured), loads one past two tiles of 64."""


class Subject:
    """A runner, the prompt it is examined on, and the runs that several checks share.

    request: the long prompt, for faults that need loaded experts; the others use its first `brief` ids.
    floor: judges what the runner promises no bits of. on_run: hears of each forward pass, in words.
    other: what runs between two runs of the long prompt, all of it captured; None for a prompt made of the long one.
    again: the second of these runs, once `check_history` has made it.
    Raises UsageError for a prompt too short to be cut into chunks.
    """

    def __init__(
        self,
        runner: Runner,
        request: Request,
        *,
        brief: int = BRIEF,
        floor: Floor | None = None,
        on_run: Callable[[str], None] | None = None,
        other: Request | None = None,
    ) -> None:
        if len(request.ids) < 8 or brief < 8:
            raise UsageError(
                place=f"request {request.name}",
                expected="at least 8 ids: they are fed in chunks and one by one",
                found=f"{min(len(request.ids), brief)}",
                next_step="Use a longer prompt.",
            )
        self.runner = runner
        self.info: RunnerInfo = runner.describe()
        self.request = request
        self.brief = Request(request.name, request.ids[:brief])
        self.floor = floor
        self.other = other
        self._on_run = on_run
        self._kept: dict[str, Trace] = {}
        self.again: Trace | None = None

    def forward(
        self,
        what: str,
        requests: Sequence[Request],
        *,
        schedule: Schedule = Schedule(),
        stages: tuple[str, ...] = (),
        graft: Sequence[Graft | ComputedGraft] = (),
        variant: Mapping[str, str] | None = None,
    ) -> Trace:
        """One captured forward pass; `what` names it for whoever watches."""
        if self._on_run is not None:
            self._on_run(what)
        under = options_of(graft=graft, variant=variant)
        return self.runner.forward(requests, schedule=schedule, capture=CapturePlan(stages=stages), **under)

    def keep(self, request: Request, trace: Trace) -> None:
        """Take a plain captured run of `request` that was made elsewhere in place of one of its own."""
        self._kept["long" if request is self.request else "brief"] = trace

    def between(self) -> tuple[Request, Trace]:
        """Another request of the long prompt's length, and its run."""
        between = self.other or other_request(self.request)
        if "between" not in self._kept:
            stages = () if self.other is not None else ("embed.out",)
            self._kept["between"] = self.forward("another request", [between], stages=stages)
        return between, self._kept["between"]

    def base(self, request: Request) -> Trace:
        """The plain run of the long or the brief prompt, run once."""
        key = "long" if request is self.request else "brief"
        if key not in self._kept:
            self._kept[key] = self.forward(f"{len(request.ids)} ids, plain", [request])
        return self._kept[key]

    def lacks(self, *abilities: str) -> str:
        """Why a check cannot run, empty when it can."""
        missing = [name for name in abilities if name not in self.info.can]
        if not missing:
            return ""
        return f"runner {self.info.name} cannot turn this: it does not declare {', '.join(missing)}."

    def anchors(self, base: Trace, stages: Sequence[str]) -> tuple[Graft, ...]:
        """Grafts that put the base's tensors of `stages` into a run, so that no layer inherits from the one before.

        Empty where the runner cannot graft.
        """
        if "graft" not in self.info.can:
            return ()
        wanted = [stage for stage in stages if stage not in self.info.inner]
        return tuple(
            Graft(capture.layer, capture.stage, base.tensor(capture), capture.rows)
            for stage in wanted
            for capture in base.select(stage=stage)
        )


def other_request(request: Request, name: str = "other") -> Request:
    """Another prompt of the same length and, where it can be, the same tokens: reversed, so experts load alike."""
    turned = tuple(reversed(request.ids))
    if turned == request.ids:
        turned = (0 if request.ids[0] else 1,) * len(request.ids)
    return Request(name, turned)
