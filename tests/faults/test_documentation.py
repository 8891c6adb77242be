"""Is docs/faults.md true? Its tables are those of the code, its example runs, its list of fields is complete."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import torch

from parity.faults import Fault, Where, load_faults, shipped_faults, where
from parity.faults.tables import cause_table, fill_page, seam_tables
from parity.fingerprint.causes import CAUSES
from parity.records import Slice
from parity.runner import CapturePlan, Request, Schedule, open_runner
from parity.stages import VOCABULARY
from parity_kernels.forward.ops import OPS, ROLES, SEAMS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"


def _tables() -> dict[str, str]:
    return {"causes": cause_table(CAUSES), **seam_tables(SEAMS)}


def test_the_tables_are_those_of_the_engine():
    page = PAGE.read_text()
    assert page == fill_page(page, _tables()), "run this file to write them anew"
    assert all(f"**{name}**" in page for name in (*SEAMS.ops, *SEAMS.launches))


def test_every_field_is_explained():
    page = PAGE.read_text()
    for name in (*SEAMS.hyper, *(field.name for field in fields(Slice))):
        assert f"`{name}`" in page, name
    for field in fields(Fault):
        assert re.search(rf"^\| [^|]*`{field.name}`", page, re.MULTILINE), field.name
    for field in fields(Where):
        assert f"`{field.name}`" in page, field.name


def test_the_example_runs_and_does_what_it_says(tmp_path: Path, fp8_model: Path, prompt: Callable[..., Request]):
    example = PAGE.read_text().split("```python\n")[1].split("```")[0]
    (tmp_path / "scale.py").write_text(example)
    (fault,), problems = load_faults(tmp_path)
    assert problems == ()
    assert fault.cause in CAUSES
    requests = [prompt(40)]
    plan = CapturePlan(stages=("moe.up", "moe.gate"))
    planted = f"{tmp_path / 'scale.py'}:{fault.name}"
    sound = open_runner(f"triton:{fp8_model}").forward(requests, capture=plan)
    wrong = open_runner(f"triton:{fp8_model}", fault=planted).forward(requests, capture=plan)
    for a, b in zip(sound.captures, wrong.captures, strict=True):
        same = torch.isclose(wrong.tensor(b).float(), sound.tensor(a).float(), rtol=0, atol=0).all(1)
        hit = torch.from_numpy(a.rows.expert == 3) if (a.layer, a.stage) == (1, "moe.up") else ~same & False
        assert torch.equal(~same, hit)
    assert any((capture.rows.expert == 3).any() for capture in sound.captures), "the expert has rows"


def test_every_shipped_fault_names_a_cause_of_the_closed_list():
    for fault in shipped_faults().values():
        assert fault.control or fault.cause in CAUSES, fault.name


def test_roles_are_those_that_the_engine_tells(fp8_model: Path, bf16_model: Path, prompt: Callable[..., Request]):
    told: dict[str, set[str]] = defaultdict(set)
    layers: dict[str, set[int | None]] = defaultdict(set)

    def wrap(op):  # no annotations: what an outsider writes
        def noted(*args, **kwargs):
            told[where().op].add(where().role or "")
            layers[where().op].add(where().layer)
            phases.add((where().phase, where().step, where().chunk))
            return op(*args, **kwargs)

        return noted

    phases: set[tuple[str, int, int]] = set()
    fault = Fault("noted", "qwen3_moe", "", truth=None, cause=None, control=True, op=tuple(OPS), wrap=wrap)
    for folder in (fp8_model, bf16_model):
        open_runner(f"triton:{folder}", fault=fault).logits([prompt(7)], schedule=Schedule(chunk=4, decode=1))
    # A grafted activation is quantized again, under a role of its own that a plain run does not show.
    told["quantize_rows"].add("moe.down")
    assert told == {name: set(roles) for name, roles in ROLES.items()}
    assert phases == {("prefill", 0, 0), ("prefill", 0, 1), ("decode", 1, 0)}
    assert layers["embed"] == {None}
    assert layers["router"] == {0, 1}
    assert layers["linear_bf16"] == {None, 0, 1}
    assert {role for roles in ROLES.values() for role in roles} - set(VOCABULARY) == {"moe.gate_up"}


if __name__ == "__main__":
    PAGE.write_text(fill_page(PAGE.read_text(), _tables()))
