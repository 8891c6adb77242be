# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own engine
#
# **Question.** My engine is not Python; all it can do is dump tensors. What does the lab make of them?
#
# Two ways in: a [C, C++ or CUDA header](../sdk/README.md) by which the engine writes the lab's open trace format
# itself, or [files that another tool dumped](../docs/importing.md) and a map that says which is which. Here both,
# of one run, and they must give the same trace.

# %%
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

from parity import Lab
from parity.align import align
from parity.compare import compare_traces
from parity.demo import FIXTURES
from parity.importers import import_dump, read_map
from parity.process_runner import ProcessRunner
from parity.promptfile import read_prompt
from parity.records import as_json
from parity.runner import CapturePlan
from parity.trace import open_trace, verify_trace

model = FIXTURES / "models" / "moe-tiny-fp8"
request = read_prompt(FIXTURES / "prompts" / "short-sysconfig-160.json").request
work = tempfile.TemporaryDirectory(prefix="parity-notebook-")
dump = Path(work.name) / "dump"
dump.mkdir()

# %% [markdown]
# ## The engine
#
# So that this runs anywhere, its tensors are made here, by an engine with a fault of which nothing below is told.
# Yours computes its own.

# %%
with ProcessRunner(f"triton:{model}", fault="rope_theta_default") as engine:
    dumped = engine.forward([request], capture=CapturePlan())
print(len(dumped.captures), "tensors")

# %% [markdown]
# ## From C
#
# [sdk/engine_of_files.c](../sdk/engine_of_files.c) is an engine as far as a trace goes: it has its tensors in memory,
# says which stage, layer and rows each is, and calls `pt_put`. What it would know of itself (ids, recipe, checkpoint)
# it reads here.

# %%
tensors = Path(work.name) / "tensors"
tensors.mkdir()
run = dumped.run
lines = [f"run {run.family} {run.layers} {run.recipe.name} {run.lineage.root} {request.name}"]
lines += [f"hyper {name} {value}" for name, value in run.hyper.items()]
lines += [f"conversion {text}" for text in run.lineage.conversions]
lines += ["ids " + " ".join(map(str, request.ids))]
for number, capture in enumerate(dumped.captures):
    array = dumped.tensor(capture).contiguous()
    array.view(torch.uint8).numpy().tofile(tensors / f"{number}.bin")
    rows, expert_rows = capture.rows, int(capture.rows.expert is not None)
    if expert_rows:
        rows.position.astype(np.int64).tofile(tensors / f"{number}.bin.position")
        rows.slot.astype(np.int32).tofile(tensors / f"{number}.bin.slot")
        rows.expert.astype(np.int32).tofile(tensors / f"{number}.bin.expert")
    layer = -1 if capture.layer is None else capture.layer
    sizes = " ".join(map(str, array.shape))
    lines.append(f"tensor {capture.stage} {layer} {capture.dtype} {expert_rows} {number}.bin {sizes}")
_ = (tensors / "index.txt").write_text("\n".join(lines) + "\n")

# %%
sdk, compiler = FIXTURES.parent / "sdk", shutil.which("cc") or shutil.which("gcc")
written = None
if compiler is None:
    print("NOTE: there is no C compiler on this machine. The trace from C is left out; the dump below takes its place.")
else:
    program, folder = Path(work.name) / "engine", Path(work.name) / "from-c"
    source = ["-I", str(sdk), str(sdk / "engine_of_files.c"), "-o", str(program), "-lpthread"]
    subprocess.run([compiler, "-std=c99", "-D_DEFAULT_SOURCE", "-O1", *source], check=True)
    subprocess.run([str(program), str(tensors), str(folder)], check=True)
    assert verify_trace(folder).complete
    written = open_trace(folder)
written

# %% [markdown]
# ## From a dump
#
# A tool that knows nothing of the lab leaves a folder of `.npy` files: names as a foreign engine would give them,
# arrays by token, BF16 as 16-bit integers.

# %%
names = {
    "attn.norm": "attn_norm", "attn.q": "q_cur", "attn.k": "k_cur", "attn.v": "v_cur", "attn.q_norm": "q_norm",
    "attn.k_norm": "k_norm", "attn.q_rope": "q_rope", "attn.k_rope": "k_rope", "attn.context": "kqv",
    "attn.out": "kqv_out", "resid.mid": "ffn_inp", "mlp.norm": "ffn_norm", "moe.router_logits": "ffn_moe_logits",
    "moe.topk_ids": "ffn_moe_topk", "moe.topk_weights": "ffn_moe_weights", "moe.gate": "ffn_moe_gate",
    "moe.up": "ffn_moe_up", "moe.act": "ffn_moe_act", "moe.down": "ffn_moe_down",
    "moe.experts": "ffn_moe_out", "resid.out": "l_out",
}  # fmt: skip
# %%
kinds = {}
for capture in dumped.captures:
    rows = align(dumped, capture.stage, capture.layer, 0)
    array = rows.tensor
    kinds[capture.stage] = "bfloat16" if array.dtype == torch.bfloat16 else None
    bits = array.contiguous().view(torch.int16) if array.dtype == torch.bfloat16 else array
    prefix = "" if capture.layer is None else f"L{capture.layer:02d}."
    np.save(dump / f"{prefix}{names.get(capture.stage, capture.stage)}.npy", bits.numpy())
sorted(path.name for path in dump.iterdir())[:6]

# %% [markdown]
# ## The map
#
# Which file is which stage, what its bits are, and what was run: the ids, the recipe, and the checkpoint, whose
# folder gives the lineage. An oracle on other weights is refused.

# %%
content = {
    "run": {
        "family": "qwen3_moe", "model": "my engine", "layers": 4, "request_names": [request.name],
        "requests": [list(request.ids)], "recipe": "fp8_block", "lineage": str(model),
        "hyper": as_json(dumped.run.hyper),
    },
    "stages": {
        names.get(stage, stage): {"stage": stage} | ({"dtype": kind} if kind else {}) for stage, kind in kinds.items()
    },
}  # fmt: skip
path = Path(work.name) / "map.json"
_ = path.write_text(json.dumps(content, indent=1))
imported = import_dump(dump, read_map(path), Path(work.name) / "trace")
assert verify_trace(Path(work.name) / "trace").complete

# %% [markdown]
# Both ways give the same trace, row by row and bit by bit, although the one has the experts' rows in the order of the
# launch and the other by token:

# %%
same = None if written is None else compare_traces(oracle=written, sut=open_trace(Path(work.name) / "trace"))
same

# %% [markdown]
# ## The bench
#
# A trace stands for the engine. It cannot be run again: no continuation, no graft, no second prompt. Everything
# else works.

# %%
lab = Lab(
    sut=f"trace:{Path(work.name) / ('trace' if written is None else 'from-c')}",
    oracle=f"hf:{model}",
    floor=FIXTURES / "floors" / "fp8_block.json",
)
lab.bench.trace

# %%
chained = lab.sweep()
chained.plot()

# %%
isolated = lab.replay()
isolated

# %%
finding = lab.zoom()
finding

# %% [markdown]
# Rotations of the wrong angle: nothing is wrong at position 0, where nothing is turned, and the error comes
# within some tokens.

# %%
site = lab.zoom(0, "attn.q_rope")
site

# %%
site.by("row").plot()

# %% [markdown]
# ## The report
#
# One file, no network, written from the ledger and the records alone; what a trace cannot show stands in it as
# not excluded.

# %%
report = lab.report()
print(report.name, f"{report.stat().st_size / 1e6:.1f} MB")
finding.not_excluded

# %%
adds = {record.stage for record in isolated.comparisons if record.verdict.faulty}
assert imported.captures == len(dumped.captures)
assert same is None or same.verdicts == {"MATCH": len(dumped.captures)}
assert adds == {"attn.q_rope", "attn.k_rope"}
assert finding.verdict == "fault" and finding.stage == "attn.q_rope" and finding.layers == (0, 1, 2, 3)
assert "rope base" in finding.cause
assert "attn.q_rope" in report.read_text()
assert any("was not run" in one for one in finding.not_excluded)
lab.close()
work.cleanup()

# %% [markdown]
# ## Answer
#
# All that a trace can tell: what C or a dump gave is verified, compared with the oracle on the same ids and
# weights, and every stage is replayed alone on the engine's own inputs. Here the rotation of queries and keys is the
# only thing that adds error, in every layer, with the shape of another rope base. Whether the engine read that base
# from its metadata is for `parity audit`, which needs the engine.
