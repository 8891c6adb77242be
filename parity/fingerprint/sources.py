"""How is an error field made of two traces, or of two tensors in files?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from parity.align import Aligned, align, route
from parity.errors import TraceError, UsageError
from parity.fingerprint.field import ErrorField
from parity.records import site_name
from parity.stages import AXES, VOCABULARY, family
from parity.trace import Trace

PARTNERS = {"moe.gate": "moe.up", "moe.up": "moe.gate"}


def shared_sites(*, oracle: Trace, sut: Trace) -> Iterator[tuple[int | None, str]]:
    """Sites that both traces captured, in order of computation."""
    here, there = ({(c.layer, c.stage) for c in trace.captures} for trace in (oracle, sut))
    for layer, stage in family(sut.run.family).sites(sut.run.layers):
        if (layer, stage.name) in here & there:
            yield layer, stage.name


def field_of_traces(
    *, oracle: Trace, sut: Trace, stage: str, layer: int | None, request: tuple[int, int] = (0, 0)
) -> ErrorField:
    """The chained field of one site: each side as it ran, error inherited from earlier stages included.

    request: index on either side. Tokens meet by position, expert rows by (token, expert); tokens that one side does
    not have, or sent to other experts, are left out. The SUT's inputs come along where they were captured.
    Raises TraceError where a side has no such site, the layouts differ, or no token is left.
    """
    a, b = align(oracle, stage, layer, request[0]), align(sut, stage, layer, request[1])
    if a is None or b is None or a.axes != b.axes or a.tensor.shape[1:] != b.tensor.shape[1:]:
        raise TraceError(
            place=site_name(layer, stage),
            expected="one layout on both sides",
            found=f"oracle {_layout(a)}, sut {_layout(b)}",
            next_step="Capture the stage on both sides: `parity trace` lists what a trace holds.",
        )
    _, of_a, of_b = np.intersect1d(a.position, b.position, return_indices=True)
    slots = None
    if a.expert is not None and b.expert is not None and len(of_a):
        routing = route(oracle_ids=b.expert[of_b], sut_ids=a.expert[of_a])
        kept = routing.matched.all(1)
        of_a, of_b, slots = of_a[kept], of_b[kept], routing.slot[kept]
    if not len(of_a):
        raise TraceError(
            place=site_name(layer, stage),
            expected="tokens that both sides have, at the same experts",
            found="none",
            next_step="Compare traces of the same prompt.",
        )
    mine = a.tensor[torch.from_numpy(of_a)]
    if slots is not None:
        mine = mine[torch.arange(len(mine))[:, None], torch.from_numpy(slots)]
    partner = PARTNERS.get(stage)
    other = align(oracle, partner, layer, request[0]) if partner else None
    related = {}
    if partner and other is not None and other.tensor.shape == a.tensor.shape and slots is not None:
        related[partner] = other.tensor[torch.from_numpy(of_a)][
            torch.arange(len(mine))[:, None], torch.from_numpy(slots)
        ]
    return ErrorField.of(
        _take(b, of_b),
        mine,
        inputs=_inputs(sut, b, of_b, request[1]),
        related=related,
        hyper=dict(oracle.run.hyper),
    )


def field_of_tensors(
    *,
    oracle: Path,
    sut: Path,
    tensor: str | None = None,
    axes: str = "",
    stage: str = "tensor",
    layer: int | None = None,
) -> ErrorField:
    """The field of two tensors in safetensors files.

    tensor: its name in both files; None where each holds one. axes: letters of parity.stages, `THK` for instance; by
    default the stage's own, else T and then D. Raises UsageError for what cannot be read or named so.
    """
    sides = {name: _load(path, tensor) for name, path in (("oracle", oracle), ("sut", sut))}
    own = VOCABULARY[stage].axes if stage in VOCABULARY else ()
    letters = tuple(axes) or (own if len(own) == sides["sut"].ndim else ("T", *"D" * (sides["sut"].ndim - 1)))
    unknown = [letter for letter in letters if letter not in AXES]
    if unknown or len(letters) != sides["sut"].ndim:
        raise UsageError(
            place="--axes",
            expected=f"{sides['sut'].ndim} letters of {', '.join(AXES)}",
            found="".join(letters),
            next_step="Name every axis, slowest first: THK for [tokens, heads, inside one head].",
        )
    return ErrorField(stage, layer, sides["oracle"], sides["sut"], letters)


def _layout(aligned: Aligned | None) -> str:
    return "not captured" if aligned is None else f"{' '.join(aligned.axes)} {list(aligned.tensor.shape)}"


def _take(aligned: Aligned, rows: np.ndarray) -> Aligned:
    return replace(
        aligned,
        tensor=aligned.tensor[torch.from_numpy(rows)],
        position=aligned.position[rows],
        phase=aligned.phase[rows],
        launch=aligned.launch[rows],
        expert=None if aligned.expert is None else aligned.expert[rows],
        row_in_expert=None if aligned.row_in_expert is None else aligned.row_in_expert[rows],
    )


def _inputs(sut: Trace, own: Aligned, rows: np.ndarray, request: int) -> dict[str, torch.Tensor]:
    """The SUT's inputs of the stage at the same positions, as far as captured."""
    graph = family(sut.run.family)
    found = {}
    for name in graph.stage(own.stage).inputs:
        layer, stage = graph.resolve(own.layer, name, layers=sut.run.layers)
        given = align(sut, stage, layer, request)
        if given is not None and np.array_equal(given.position, own.position):
            found[name] = given.tensor[torch.from_numpy(rows)]
    return found


def _load(path: Path, tensor: str | None) -> torch.Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if tensor in names or (tensor is None and len(names) == 1):
                return file.get_tensor(tensor or names[0])
    except (OSError, SafetensorError) as error:
        raise UsageError(
            place=str(path), expected="a safetensors file", found=str(error), next_step="Correct the path."
        ) from error
    raise UsageError(
        place=str(path),
        expected=f"a tensor {tensor}" if tensor else "one tensor, or --tensor NAME",
        found=", ".join(names[:10]) or "no tensor",
        next_step="Name the tensor with --tensor.",
    )
