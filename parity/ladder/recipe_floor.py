"""Which floor judges an engine for which none is stored? One of its own recipe, from clean runs made here.

What an engine says it computes in (`describe().recipe`) is opened as an emulation on the model's folder: never a number
of the engine itself. A recipe that nobody emulates has no floor.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from parity.errors import UsageError
from parity.floor import Floor
from parity.ladder.calibrate import Opening, calibrate_apart
from parity.ladder.make_floor import read_documents
from parity.ladder.plan import STRICT_ORDERS
from parity.process_runner import OnStep
from parity.runner import Request

RUNS = 12
"""Clean runs; a floor that was calibrated beforehand has more, and its false alarms are counted."""

LEAST = 4
"""Documents that a calibration needs."""


def read_calibration(prompts: Sequence[Path], *, besides: str) -> list[Request]:
    """The requests of prompt files and folders of them, one a document; one named `besides` is left out, since a floor
    has not seen what it judges. Raises UsageError for fewer than LEAST, and for a file without ids."""
    requests = [Request(name, ids) for name, ids in read_documents(prompts).items() if name != besides]
    _refuse_few(requests)
    return requests


def calibrate_recipe(
    recipe: str,
    model: str,
    requests: Sequence[Request],
    *,
    longest: int | None = None,
    hide: Collection[str] = (),
    on_step: OnStep | None = None,
) -> Floor:
    """A floor of `recipe` on the weights in folder `model`, from at most RUNS of `requests`, the longest first.

    hide: stages that the engine cannot show: where it has several in one kernel, the floor is of that kernel.
    longest: ids taken of each; a floor reaches no further than its clean runs, so take at least the prompt's length.
    It is made in a process of its own, since an engine may be loaded in this one. Raises UsageError for fewer than
    LEAST requests, and for a recipe without an emulation.
    """
    _refuse_few(requests)
    by_length = sorted(requests, key=lambda request: (-len(request.ids), request.name))[:RUNS]
    spec, hidden = f"recipe:{model}", {"hide": ",".join(sorted(hide))} if hide else {}
    return calibrate_apart(
        emulations=[Opening(spec, {"recipe": recipe, "order": order, **hidden}) for order in STRICT_ORDERS],
        oracle=Opening(spec, {"recipe": "fp32"}),
        requests=[Request(request.name, request.ids[:longest]) for request in by_length],
        on_step=on_step,
    )


def _refuse_few(requests: Sequence[Request]) -> None:
    if len(requests) < LEAST:
        raise UsageError(
            place="calibration of a noise floor",
            expected=f"at least {LEAST} prompts, each of its own document and name, besides the one that is judged",
            found=str(len(requests)),
            next_step='Name prompt files, {"name": ..., "ids": [...]} each, or a folder of them, as fixtures/heldout.',
        )
