"""Which faults does a folder have? Good ones load whatever stands beside them, bad ones are reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.errors import UsageError
from parity.faults import Fault, check, load_faults, named_fault, shipped_faults, where
from parity.records import Site
from parity_kernels.forward.ops import SEAMS
from parity_kernels.forward.runner import open_runner

HEAD = """
from parity.faults import Fault, Prompt
from parity.records import Site
def wrap(op): return op
def fault(name="x", family="qwen3_moe", truth=Site((0,), "moe.up"), cause="constant ratio", **more):
    more = more or {"op": "router", "wrap": wrap}
    return Fault(name, family, "", truth=truth, cause=cause, **more)
"""
GOOD = HEAD + "FAULTS = [fault('good')]"
BAD = {
    "no_truth": (HEAD + "FAULTS = [Fault('x', 'qwen3_moe', '', op='router', wrap=wrap)]", "truth"),
    "syntax": ("FAULTS = [", "SyntaxError"),
    "missing": ("import no_such_module", "no_such_module"),
    "exits": ("raise SystemExit(3)", "SystemExit"),
    "raises": ("1 / 0", "ZeroDivisionError"),
    "nothing": ("", "no list FAULTS"),
    "no_list": ("FAULTS = 7", "no list FAULTS"),
    "text": ("FAULTS = 'moe'", "no list FAULTS"),
    "no_fault": (HEAD + "FAULTS = [3]", "no Fault"),
    "old_field": (HEAD + "FAULTS = [Fault(nme='x')]", "nme"),
    "op": (HEAD + "FAULTS = [fault(op='conv', wrap=wrap)]", "unknown op conv"),
    "launch": (HEAD + "FAULTS = [fault(launch={'conv': wrap})]", "unknown launch conv"),
    "setting": (HEAD + "FAULTS = [fault(engine={'turbo': 1})]", "unknown engine setting turbo"),
    "hyper": (HEAD + "FAULTS = [fault(config={'theta': 1})]", "unknown hyper-parameter theta"),
    "needs": (HEAD + "FAULTS = [fault(needs={'theta': 1}, op='router', wrap=wrap)]", "unknown hyper-parameter theta"),
    "stage": (HEAD + "FAULTS = [fault(truth=Site((), 'moe.upp'))]", "unknown stage 'moe.upp'"),
    "also": (HEAD + "FAULTS = [fault(also=(Site((), 'gdn.gates'),), op='router', wrap=wrap)]", "gdn.gates"),
    "truthless": (HEAD + "FAULTS = [fault(truth=None)]", "no truth"),
    "causeless": (HEAD + "FAULTS = [fault(cause=None)]", "no cause"),
    "control": (HEAD + "FAULTS = [fault(control=True, op='router', wrap=wrap)]", "a control has no truth"),
    "rung": (HEAD + "FAULTS = [fault(rung='stairs', op='router', wrap=wrap)]", "unknown rung 'stairs'"),
    "idle": (HEAD + "FAULTS = [fault(simulated=False)]", "changes nothing"),
    "unwrapped": (HEAD + "FAULTS = [fault(op='router')]", "no function to wrap"),
    "nowhere": (HEAD + "FAULTS = [fault(wrap=wrap)]", "without the name of an op"),
    "uncallable": (HEAD + "FAULTS = [fault(sampler=3)]", "sampler is no function"),
    "nameless": (HEAD + "FAULTS = [fault(name='')]", "has a name"),
    "odd_name": (HEAD + "FAULTS = [fault(name=['x'])]", "has a name"),
    "odd_truth": (HEAD + "FAULTS = [fault(truth='moe.up')]", "unknown stage"),
    "odd_op": (HEAD + "FAULTS = [fault(op=3, wrap=wrap)]", "cannot be read"),
    "twin": (HEAD + "FAULTS = [fault('good')]", "there already"),
}


def test_bad_files_are_reported_and_good_ones_load(tmp_path: Path):
    (tmp_path / "a_good.py").write_text(GOOD)
    (tmp_path / "_shared.py").write_text("raise ValueError")
    (tmp_path / "notes.txt").write_text("not Python")
    for name, (text, _) in BAD.items():
        (tmp_path / f"bad_{name}.py").write_text(text)
    faults, problems = load_faults(tmp_path)
    assert [fault.name for fault in faults] == ["good"]
    said = {name: [str(p) for p in problems if p.file == tmp_path / f"bad_{name}.py"] for name in BAD}
    for name, (_, reason) in BAD.items():
        assert any(reason in line for line in said[name]), (name, said[name])
    assert len(problems) == sum(map(len, said.values()))


def test_one_bad_fault_does_not_take_its_file_along(tmp_path: Path):
    path = tmp_path / "mixed.py"
    path.write_text(HEAD + "FAULTS = [fault('a'), fault('b', truth=None), fault('c')]")
    faults, problems = load_faults(path)
    assert [fault.name for fault in faults] == ["a", "c"]
    assert [problem.fault for problem in problems] == ["b"]
    assert named_fault(f"{path}:c").name == "c"
    with pytest.raises(UsageError, match="no truth"):
        named_fault(f"{path}:b")


def test_an_empty_folder_has_none_and_a_missing_one_is_refused(tmp_path: Path):
    assert load_faults(tmp_path) == ((), ())
    with pytest.raises(UsageError, match="nowhere"):
        load_faults(tmp_path / "nowhere")


def test_a_foreign_family_needs_no_tables(tmp_path: Path):
    (tmp_path / "f.py").write_text(HEAD + "FAULTS = [fault(family='llama', truth=Site((), 'attn.q'), runner=wrap)]")
    faults, problems = load_faults(tmp_path)
    assert (len(faults), problems) == (1, ())


def test_a_fault_that_does_not_fit_the_engine_is_refused_at_the_door(fp8_model: Path, bf16_model: Path):
    with pytest.raises(UsageError, match="recipe"):
        open_runner(str(bf16_model), fault="moe_scale_swapped")
    with pytest.raises(UsageError, match="norm_topk_prob"):
        open_runner(str(fp8_model), fault="moe_router_order_unnormalized")
    made = Fault("x", "qwen3_moe", "", Site((), "moe.up"), "x", op="router", wrap=lambda op: None)
    with pytest.raises(UsageError, match="wrap of router"):
        open_runner(str(fp8_model), fault=made)
    foreign = Fault("x", "llama", "", Site((), "attn.q"), "x", op="router", wrap=lambda op: op)
    with pytest.raises(UsageError, match="llama"):
        open_runner(str(fp8_model), fault=foreign)


def test_instances_are_drawn_by_seed_within_the_model_and_pass_the_check():
    hyper = {"layers": 5, "experts": 7, "vocab": 300, "rope_theta": 1e6}
    varied = 0
    for name, fault in shipped_faults().items():
        assert fault.instance(0, hyper) is fault
        if fault.instances is None:
            assert fault.instance(3, hyper) is fault
            continue
        several = [fault.instance(seed, hyper) for seed in range(1, 9)]
        assert [(one.truth, one.details) for one in several] == [
            (one.truth, one.details) for one in (fault.instance(seed, hyper) for seed in range(1, 9))
        ]
        assert len({repr((one.truth, one.details)) for one in several}) > 1, name
        for one in several:
            assert one.name == name
            assert check(one, SEAMS) == ()
            for site in (one.truth, *one.also):
                assert site is None or set(site.layers) <= set(range(5))
                assert site is None or set(site.slice.experts or ()) <= set(range(7))
        varied += 1
    assert varied >= 10
    assert (
        named_fault("moe_tile_amplified@4", hyper=hyper).truth
        == shipped_faults()["moe_tile_amplified"].instance(4, hyper).truth
    )


def test_where_is_for_calls_in_progress():
    with pytest.raises(UsageError, match="inside a call"):
        where()


def test_a_control_needs_no_truth_and_no_cause(tmp_path: Path):
    given = "FAULTS = [Fault(name='same', family='qwen3_moe', summary='', control=True, op='router', wrap=wrap)]"
    (tmp_path / "control.py").write_text(HEAD + given)
    (found,), problems = load_faults(tmp_path)
    assert (found.truth, found.cause, problems) == (None, None, ())
