"""A golden of a trace: the trace that comes back, the last positions alone, and what is judged of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from parity.errors import GoldenError, TraceError
from parity.golden import Calibration, check_golden, contents_of, golden_floor, make_golden, read_golden, write_golden
from parity.probes import watch
from parity.records import Verdict
from parity.trace import MemoryTrace, diff_traces, save_trace

FLOOR = golden_floor(None)
IDS = tuple(range(3, 40))


def traced(ids=IDS, *, fault=None, dtype=torch.float32):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(100, 48), torch.nn.RMSNorm(48), torch.nn.Linear(48, 100)).to(dtype)
    if fault is not None:
        model[1].register_forward_hook(lambda m, i, y: fault(y))
    with watch(model, {"0": ("embed.out",), "1": ("final_norm",), "2": ("logits",)}) as seen, torch.no_grad():
        model(torch.tensor([ids]))
    return seen.trace()


def scaled(position: int):
    def fault(y):
        y = y.clone()
        y[:, position] *= 1.01
        return y

    return fault


def golden_of(trace, tmp_path, **options):
    made = make_golden(
        contents_of(trace, positions=options.get("positions")), test="t", name=None, floor=FLOOR, **options
    )
    write_golden(tmp_path / "g.safetensors", made)
    return read_golden(tmp_path / "g.safetensors")


def test_the_same_trace_comes_back(tmp_path):
    trace = traced()
    golden = golden_of(trace, tmp_path)
    assert golden.contents.trace is not None
    save_trace(tmp_path / "a", trace)
    save_trace(tmp_path / "b", golden.contents.trace)
    assert diff_traces(tmp_path / "a", tmp_path / "b").same
    assert check_golden(golden, contents_of(tmp_path / "a"), floor=FLOOR).healthy


def test_the_site_and_position_of_a_fault_are_named(tmp_path):
    golden = golden_of(traced(), tmp_path)
    check = check_golden(golden, contents_of(traced(fault=scaled(17))), floor=FLOOR)
    assert {c.name for c in check.unhealthy} == {"final_norm", "logits"}
    assert check.worst is not None
    assert "position 17" in check.worst.worst[0].where


def test_a_stage_that_the_engine_says_it_cannot_show_any_more_is_a_finding(tmp_path):
    golden, trace = golden_of(traced(), tmp_path), traced()
    run = replace(
        trace.run, flags={"unobservable": {"final_norm": "fused now"}},
        declared=tuple(site for site in trace.run.declared if site[1] != "final_norm"),
    )  # fmt: skip
    kept = tuple(c for c in trace.captures if c.stage != "final_norm")
    less = MemoryTrace(run, kept, {c.number: trace.tensor(c) for c in kept})
    (found,) = check_golden(golden, contents_of(less), floor=FLOOR).unhealthy
    assert (found.name, found.verdict) == ("final_norm", Verdict.MISSING_IN_SUT)
    assert "fused now" in found.reason


def test_the_last_positions_alone_see_what_is_in_them(tmp_path):
    golden = golden_of(traced(), tmp_path, positions=8)
    assert golden.contents.trace is not None
    assert {c.shape[0] for c in golden.contents.trace.captures} == {8}
    assert check_golden(golden, contents_of(traced()), floor=FLOOR).healthy
    assert not check_golden(golden, contents_of(traced(fault=scaled(30))), floor=FLOOR).healthy
    # What was not kept is not judged: the price of a small file.
    assert check_golden(golden, contents_of(traced(fault=scaled(10))), floor=FLOOR).healthy
    assert check_golden(golden, contents_of(traced()), floor=FLOOR).summary.comparisons[0].rows == 8


def test_the_floor_of_a_trace_is_measured_site_by_site(tmp_path):
    calibration = Calibration(
        exact=lambda: traced(dtype=torch.float32), honest=lambda n: traced(dtype=torch.bfloat16), runs=2
    )
    contents = contents_of(traced(dtype=torch.bfloat16))
    golden = make_golden(contents, test="t", name=None, floor=FLOOR, calibration=calibration)
    limits = golden.measured[0].limits
    assert set(limits) == {"embed.out prefill", "final_norm prefill", "logits prefill"}
    # The embedding is rounded once, the logits three times in a row.
    assert 0 < limits["embed.out prefill"]["row rel_l2"] < limits["logits prefill"]["row rel_l2"]
    assert check_golden(golden, contents, floor=FLOOR, calibration=calibration).healthy
    doubled = contents_of(traced(dtype=torch.bfloat16, fault=lambda y: 2 * y))
    assert not check_golden(golden, doubled, floor=FLOOR, calibration=calibration).healthy


def test_another_prompt_is_no_comparison(tmp_path):
    golden = golden_of(traced(), tmp_path)
    with pytest.raises(TraceError):
        check_golden(golden, contents_of(traced((*IDS[:-1], 99))), floor=FLOOR)


def test_another_dtype_is_a_finding(tmp_path):
    golden = golden_of(traced(), tmp_path)
    check = check_golden(golden, contents_of(traced(dtype=torch.bfloat16)), floor=FLOOR)
    assert check.summary.verdicts == {"DTYPE_MISMATCH": 3}


def test_tensors_do_not_hold_a_traces_golden(tmp_path):
    golden = golden_of(traced(), tmp_path)
    with pytest.raises(GoldenError):
        check_golden(golden, contents_of({"y": torch.ones(3)}), floor=FLOOR)


@pytest.mark.parametrize("count", [0, -1, True, 1.5])
def test_positions_are_a_count(count):
    with pytest.raises(GoldenError):
        contents_of(traced(), positions=count)


def test_positions_of_tensors_are_refused():
    with pytest.raises(GoldenError):
        contents_of(torch.ones(3), positions=2)


def test_kinds_of_tensors_keep_their_bits(tmp_path):
    g = torch.Generator().manual_seed(0)
    wide = torch.randn(7, 33, generator=g)
    tensors = {
        **{str(d): wide.to(d) for d in (torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn)},
        "complex": torch.complex(wide, -wide), "bool": wide > 0, "ids": torch.arange(5), "scalar": torch.tensor(2.5),
        "strided": wide.t()[::2], "gradient": wide.clone().requires_grad_(), "view": wide[3:],
    }  # fmt: skip
    made = make_golden(contents_of(tensors), test="t", name=None, floor=FLOOR)
    write_golden(tmp_path / "g.safetensors", made)
    golden = read_golden(tmp_path / "g.safetensors")
    check = check_golden(golden, contents_of(tensors), floor=FLOOR)
    assert check.summary.verdicts == {"MATCH": len(tensors)}
    for name, changed in (
        ("ids", tensors["ids"] + 1),
        ("bool", ~tensors["bool"]),
        ("complex", tensors["complex"] * 1.01),
    ):
        worse = check_golden(golden, contents_of({**tensors, name: changed}), floor=FLOOR)
        assert [c.name for c in worse.unhealthy] == [name]


def test_what_is_no_dense_tensor_is_refused():
    for bad in (torch.ones(3, 3).to_sparse(), torch.empty(3, device="meta"), torch.ones(2, dtype=torch.complex128)):
        with pytest.raises(GoldenError):
            contents_of({"y": bad})
    with pytest.raises(GoldenError):
        contents_of({1: torch.ones(2)})
