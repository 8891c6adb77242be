"""What the lab asks of anything that turns token ids into a trace: the engine under test and the oracle alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from parity.errors import RunnerError, UsageError
from parity.records import Capture, Environment, Lineage, Recipe, Rows
from parity.registry import load, open_runner, opened, registered
from parity.sampling import Sampling

if TYPE_CHECKING:
    # An engine's process is started from here before the lab imports torch, which takes seconds.
    import torch

    from parity.trace import Trace

__all__ = [
    "CapturePlan",
    "ComputedGraft",
    "Generation",
    "Graft",
    "Relabel",
    "Replayer",
    "Request",
    "Runner",
    "RunnerInfo",
    "Sampling",
    "Schedule",
    "check_requests",
    "check_schedule",
    "load",
    "open_runner",
    "opened",
    "registered",
]


@dataclass(frozen=True)
class Request:
    """One sequence to run: its name, its token ids, and how many of them are already in the cache.

    ids: whole numbers >= 0 of any integer type, kept as Python integers; whether they lie in a model's vocabulary is
    for `check_requests` to say. Raises UsageError for floats, booleans, texts and negative numbers.
    """

    name: str
    ids: tuple[int, ...]
    cached: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise _not_ids(repr(self.name)[:80], "a name that is text", type(self.name).__name__)
        object.__setattr__(self, "ids", _whole_ids(self.ids, self.name))


@dataclass(frozen=True)
class Relabel:
    """Which number each expert and head goes by: new number n holds what was number `experts[n]`, `heads[n]`.

    experts: a permutation of 0..E-1, empty for none. heads: a permutation of the H query heads that keeps groups
    together (heads of one key/value head stay neighbours, so that key/value heads move along), empty for none.
    """

    experts: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()


@dataclass(frozen=True)
class Schedule:
    """How the requests are fed: prefill chunk length (None: all at once), and how many ids at the end of each request
    are fed one by one as decode steps instead.

    The rest turns what must not matter; a runner names in `describe().can` what it can turn, and refuses the others.
    slots (`slots`): cache slot of each request, empty for 0, 1, 2, ...
    padding (`padding`): cache slots, and positions in each slot, beyond what the requests need.
    poison (`poison`): a byte, 0..255, that fills all memory a kernel may write, before every launch, and the cache.
    relabel (`relabel`): weights handed out under other numbers.
    """

    chunk: int | None = None
    decode: int = 0
    slots: tuple[int, ...] = ()
    padding: int = 0
    poison: int | None = None
    relabel: Relabel | None = None

    def turned(self) -> frozenset[str]:
        """Abilities that this schedule asks of a runner, beyond feeding."""
        asked = {"slots": self.slots, "padding": self.padding, "relabel": self.relabel}
        return frozenset(name for name, value in asked.items() if value) | (
            frozenset({"poison"}) if self.poison is not None else frozenset()
        )


@dataclass(frozen=True)
class CapturePlan:
    """What to capture. Empty `layers` or `stages` mean all; stages are shell-style patterns (`moe.*`).

    tokens: `all`, `last` (the last position of each request's prompt, and each decode step), or `a:b` in absolute
    positions. mode: `tensor`, or `stats` for statistics only. out: a folder for the trace; None keeps it in memory.
    """

    layers: tuple[int, ...] = ()
    stages: tuple[str, ...] = ()
    tokens: str = "all"
    mode: str = "tensor"
    out: Path | None = None


@dataclass(frozen=True)
class Graft:
    """A tensor to put into a forward pass in place of the one computed there.

    Rows are matched by (request, absolute position) and, for expert rows, slot; rows not named keep their value.
    columns: ranges [first, stop) of the row as it lies in memory (all trailing axes flattened) that are replaced; the
        others keep their value too. None replaces whole rows. `tensor` has whole rows either way.
    """

    layer: int | None
    stage: str
    tensor: torch.Tensor
    rows: Rows
    columns: tuple[tuple[int, int], ...] | None = None


class ComputedGraft(Protocol):
    """A graft whose tensor follows from what the same forward pass has computed so far.

    needs: the sites it reads. history: whether it reads them at earlier positions too (attention does), or only at the
    rows of the step that is running.
    """

    @property
    def layer(self) -> int | None: ...

    @property
    def stage(self) -> str: ...

    @property
    def needs(self) -> tuple[tuple[int | None, str], ...]: ...

    @property
    def history(self) -> bool: ...

    def compute(self, own: Capture, tensor: torch.Tensor, seen: Trace) -> torch.Tensor:
        """What goes on in place of `tensor`, the engine's own value there: same shape and dtype, same rows as `own`.

        seen: captures of `needs`, and of this site at earlier steps when `history`; grafted values where they were.
        """
        ...


@dataclass(frozen=True)
class Generation:
    """A continuation: the new ids, their text when the runner has a tokenizer, and the sampler settings that were in
    force (names as in `parity.sampling.Sampling`), empty where the runner does not say.

    logits: [N, V], what each of the N ids was chosen from, before penalties and bans; None where the runner does not
    show them.
    """

    ids: tuple[int, ...]
    text: str | None = None
    sampler: Mapping[str, Any] = field(default_factory=dict)
    logits: torch.Tensor | None = field(default=None, compare=False, repr=False, metadata={"json": False})


@dataclass(frozen=True)
class RunnerInfo:
    """What a runner is: family, effective hyper-parameters, recipe, lineage, the stages it can show, its variants.

    inner: stages that live inside a fused kernel: they can be shown, and a graft cannot replace them.
    bound: names of the checkpoint's tensors that the weights in use were made from; None where the runner cannot tell.
    sampler: settings of `generate` that hold when none are asked for (`greedy`, `suppress_tokens`, and the names of
        `parity.sampling.Sampling`).
    variants: paths an op can take besides its own, by op name; `forward(variant={op: path})` chooses.
    knobs: options it can be opened with, each with the other values that it takes here; what it runs under now is among
        the flags of its runs. They are turned by opening it anew.
    knob_needs: options that have a meaning only beside a value of another, as (other option, value); they are left out
        where the other is turned away from it.
    promises: by name of an invariance (`chunk size`), the largest relative distance (rel_l2 of a row) that this engine
        allows between both arms; 0 is the same bits. One that is not named is not promised.
    """

    name: str
    family: str
    layers: int
    hyper: Mapping[str, Any]
    recipe: Recipe
    lineage: Lineage
    environment: Environment
    stages: tuple[str, ...]
    can: frozenset[str]
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    knobs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    knob_needs: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    inner: frozenset[str] = frozenset()
    bound: frozenset[str] | None = None
    sampler: Mapping[str, Any] = field(default_factory=dict)
    promises: Mapping[str, float] = field(default_factory=dict)


class Runner(Protocol):
    """Anything that turns token ids into a trace.

    `describe().can` says which of `forward`, `generate`, `graft`, `replay`, `chunk` it supports, and of `slots`,
    `padding`, `poison`, `relabel` (see Schedule) and `variant`: a keyword of `forward`, a mapping from the name of an
    op to one of the paths that `describe().variants` gives it; `sample` (`generate(sampling=...)`); `bindings` or
    `parameters` (what it reads, or holds, of the checkpoint) and, of an oracle, `stored` (what the checkpoint holds):
    see parity/audit/tensors.py. Calling what it cannot do raises RunnerError, and an experiment that needs it is
    reported as not run.
    """

    def describe(self) -> RunnerInfo: ...

    def forward(
        self,
        requests: Sequence[Request],
        *,
        schedule: Schedule = ...,
        capture: CapturePlan | None = ...,
        graft: Sequence[Graft | ComputedGraft] = ...,
    ) -> Trace:
        """Run the requests, teacher-forced, and return what the probes saw (nothing when `capture` is None)."""
        ...

    def generate(
        self,
        request: Request,
        *,
        max_new_tokens: int,
        schedule: Schedule = ...,
        graft: Sequence[Graft | ComputedGraft] = ...,
        sampling: Sampling | None = ...,
    ) -> Generation:
        """Continue one request, prompt and new tokens under the grafts; greedily without `sampling`, which only runners
        that can `sample` take."""
        ...


@runtime_checkable
class Watched(Protocol):
    """A runner that can be watched while it generates: one pass in the place of a generation and a forward pass."""

    def generate_watched(
        self, request: Request, *, max_new_tokens: int, capture: CapturePlan, sampling: Sampling | None = ...
    ) -> tuple[Generation, Trace]:
        """The continuation, and the trace that `forward` gives of the prompt and all of it but the last id, the
        continuation fed one by one."""
        ...


class Replayer(Protocol):
    """A runner that can compute one stage from given inputs."""

    def replay(
        self, stage: str, layer: int | None, inputs: Mapping[str, torch.Tensor], *, positions: torch.Tensor, recipe: str
    ) -> torch.Tensor:
        """Compute one stage from its inputs, alone.

        inputs: by the input names of the family's graph (`resid.in` included), rows of ONE request at positions
            0..T-1 in order: [T, ...] for token rows, [T, S, ...] for expert rows in (token, slot) order.
        positions: [T] int64.
        recipe: `fp32` for exact arithmetic on these inputs, or the name of a precision recipe to emulate.
        Returns the stage's tensor, [T, ...] or [T, S, ...], in fp32 for `fp32`, else in the recipe's dtype.
        """
        ...


def options_of(
    *,
    graft: Sequence[Graft | ComputedGraft] = (),
    variant: Mapping[str, str] | None = None,
    sampling: Sampling | None = None,
) -> dict[str, Any]:
    """The keyword arguments of a call that ask for something: who lacks an ability need not know its argument."""
    given = {"graft": tuple(graft), "variant": dict(variant or {})}
    under: dict[str, Any] = {name: value for name, value in given.items() if value}
    return under if sampling is None else {**under, "sampling": sampling}


def check_schedule(schedule: Schedule, requests: Sequence[Request], *, can: frozenset[str], runner: str) -> None:
    """Refuse a schedule that turns what the runner cannot turn (RunnerError) or says nonsense (UsageError)."""
    lacking = sorted(schedule.turned() - can)
    if lacking:
        raise RunnerError(
            place=f"runner {runner}",
            expected="a schedule that asks only for " + (", ".join(sorted(can)) or "nothing"),
            found=", ".join(lacking),
            next_step="Leave it out: this runner cannot turn it, and must not seem to.",
        )
    slots, poison = schedule.slots, schedule.poison
    wrong = []
    if slots and (len(slots) != len(requests) or len(set(slots)) != len(slots) or min(slots) < 0):
        wrong.append(f"slots {slots} for {len(requests)} requests")
    if schedule.padding < 0:
        wrong.append(f"padding {schedule.padding}")
    if poison is not None and not 0 <= poison <= 255:
        wrong.append(f"poison {poison}")
    if wrong:
        raise UsageError(
            place="schedule",
            expected="a slot of its own for each request, padding of at least 0, a poison byte from 0 to 255",
            found=", ".join(wrong),
            next_step="Correct it, or leave it out.",
        )


def check_requests(
    requests: Sequence[Request], schedule: Schedule, *, vocab: int, max_positions: int, new_tokens: int = 0
) -> None:
    """Refuse requests that a model of `vocab` ids and `max_positions` positions cannot run under `schedule`.

    new_tokens: to be generated after each request. Raises UsageError naming the request and the first wrong id.
    """
    for name, value, least in (("chunk", schedule.chunk, 1), ("decode", schedule.decode, 0), ("new", new_tokens, 0)):
        if (value is not None or name != "chunk") and (type(value) is not int or value < least):
            raise UsageError(
                place="schedule" if name != "new" else "max_new_tokens",
                expected="whole numbers: chunk None or at least 1, decode and new tokens at least 0",
                found=f"chunk={schedule.chunk!r}, decode={schedule.decode!r}, new tokens {new_tokens!r}",
                next_step="Leave chunk out to feed the prompt at once.",
            )
    names = [request.name for request in requests]
    if len(set(names)) != len(names):
        raise UsageError(
            place="requests",
            expected="a name of its own for each",
            found=", ".join(names),
            next_step="Name them apart: traces are paired by name.",
        )
    for request in requests:
        wrong = [(at, token) for at, token in enumerate(request.ids) if token >= vocab]
        length = len(request.ids) + new_tokens
        if wrong or len(request.ids) <= schedule.decode or length > max_positions:
            found = f"{len(request.ids)} ids" + (f" and {new_tokens} new ones" if new_tokens else "")
            raise UsageError(
                place=f"request {request.name}",
                expected=f"more than {schedule.decode} and at most {max_positions} token ids, integers from 0 to "
                f"{vocab - 1}",
                found=found + (f", among them {wrong[0][1]} at position {wrong[0][0]}" if wrong else ""),
                next_step="Check the tokenizer against the model, and the prompt's length against the schedule.",
            )


def _whole_ids(ids: Any, name: str) -> tuple[int, ...]:
    place = f"request {name}"
    if isinstance(ids, (str, bytes)) or not hasattr(ids, "__iter__"):
        raise _not_ids(place, "token ids", repr(ids)[:80])
    whole = []
    for at, token in enumerate(ids):
        try:
            value = -1 if isinstance(token, (bool, str)) else index(token)
        except TypeError:
            value = -1
        if value < 0:
            raise _not_ids(place, "token ids: whole numbers from 0", f"{token!r} at position {at}")
        whole.append(value)
    return tuple(whole)


def _not_ids(place: str, expected: str, found: str) -> UsageError:
    return UsageError(
        place=place, expected=expected, found=found, next_step="Give the ids that the model's own tokenizer makes."
    )
