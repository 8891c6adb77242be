"""How do grafts cross to the engine's process? Their tensors in a file of safetensors, all else as JSON.

A graft that is computed inside the pass crosses when it is a replay (`parity.ladder.replay_graft`): it says which
oracle to open, and the engine's process opens it. Others are refused: their code does not cross.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from parity.errors import RunnerError
from parity.ladder.calibrate import Opening
from parity.ladder.replay_graft import ReplayGraft
from parity.records import Rows
from parity.runner import ComputedGraft, Graft


def encode_grafts(grafts: Sequence[Graft | ComputedGraft], file: Path) -> dict[str, Any]:
    """The grafts as a message; tensors go into `file`. Raises RunnerError for one that does not cross."""
    tensors: dict[str, torch.Tensor] = {}
    told = []
    for number, graft in enumerate(grafts):
        if isinstance(graft, Graft):
            tensors[str(number)] = graft.tensor.detach().cpu().contiguous().clone()
            told.append({
                "layer": graft.layer, "stage": graft.stage, "tensor": str(number), "rows": _encode_rows(graft.rows),
                "columns": None if graft.columns is None else [list(one) for one in graft.columns],
            })  # fmt: skip
        elif isinstance(graft, ReplayGraft):
            told.append({
                "layer": graft.layer, "stage": graft.stage, "span": list(graft.span), "recipe": graft.recipe,
                "oracle": {"spec": graft.oracle.spec, "options": dict(graft.oracle.options)},
                "needs": [list(site) for site in graft.needs], "history": graft.history,
            })  # fmt: skip
        else:
            raise RunnerError(
                place="graft in vLLM's process",
                expected="tensors, or replays of an oracle",
                found=type(graft).__name__,
                next_step="Run vLLM in this process, where any graft can be computed.",
            )
    if tensors:
        save_file(tensors, file)
    return {"file": str(file) if tensors else None, "grafts": told}


def decode_grafts(given: Mapping[str, Any] | None) -> list[Graft | ComputedGraft]:
    """The grafts of such a message."""
    if given is None:
        return []
    tensors = {} if given["file"] is None else load_file(given["file"])
    found: list[Graft | ComputedGraft] = []
    for one in given["grafts"]:
        if "tensor" in one:
            columns = None if one["columns"] is None else tuple((first, stop) for first, stop in one["columns"])
            found.append(
                Graft(one["layer"], one["stage"], tensors[one["tensor"]], _decode_rows(one["rows"]), columns)
            )  # fmt: skip
        else:
            opening = Opening(one["oracle"]["spec"], one["oracle"]["options"])
            needs = tuple((layer, stage) for layer, stage in one["needs"])
            found.append(
                ReplayGraft(one["layer"], one["stage"], tuple(one["span"]), opening, one["recipe"], needs,
                            one["history"])
            )  # fmt: skip
    return found


def _encode_rows(rows: Rows) -> dict[str, Any]:
    parts = {"request": rows.request, "position": rows.position, "slot": rows.slot, "expert": rows.expert}
    return {name: None if part is None else part.tolist() for name, part in parts.items()}


def _decode_rows(given: Mapping[str, Any]) -> Rows:
    slot, expert = (None if given[n] is None else np.array(given[n], np.int32) for n in ("slot", "expert"))
    return Rows(np.array(given["request"], np.int32), np.array(given["position"], np.int64), slot, expert)
