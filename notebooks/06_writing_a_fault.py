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
# # Writing a fault
#
# **Question.** Would the lab find *my* bug? Plant it, and see.
#
# A fault is a Python record that changes one engine instance and says what an investigation must name. Any folder
# of files will do; [docs/faults.md](../docs/faults.md) lists what can be changed.

# %%
import tempfile
from pathlib import Path

from parity import Lab
from parity.demo import FIXTURES
from parity.faults import load_faults

work = tempfile.TemporaryDirectory(prefix="parity-notebook-")
folder = Path(work.name) / "my_faults"
folder.mkdir()
source = '''
"""The up projection of expert 3 in layer 1 is quantized with a scale that is 10 % too small."""

from parity.faults import Fault, where
from parity.records import Site, Slice


def wrap(op):
    def smaller(x_q, x_s, weight, weight_scale, **rest):
        if where().layer == 1 and where().role == "moe.gate_up":
            weight_scale = weight_scale.clone()
            rows = weight_scale.shape[1] // 2  # gate's blocks first, then up's
            weight_scale[3, rows:] *= 0.9
        return op(x_q, x_s, weight, weight_scale, **rest)

    return smaller


FAULTS = [
    Fault(
        name="up_scale_small",
        family="qwen3_moe",
        summary="One expert's up projection comes out 10 % too small.",
        truth=Site(layers=(1,), stage="moe.up", slice=Slice(experts=(3,))),
        cause="constant ratio",
        op="grouped_gemm_fp8",
        wrap=wrap,
    )
]
'''
path = folder / "scale.py"
_ = path.write_text(source.lstrip())

# %% [markdown]
# ## Is it a fault that fits?
#
# Reading a folder never fails: what cannot be planted becomes a problem that says why.

# %%
loaded = load_faults(folder)
fault = loaded.faults[0]
print(loaded.problems or "no problems")
fault.truth

# %%
typo = source.lstrip().replace("grouped_gemm_fp8", "grouped_gem_fp8").replace("up_scale", "down_scale")
_ = (folder / "typo.py").write_text(typo)
[str(problem) for problem in load_faults(folder).problems]

# %% [markdown]
# ## Blind
#
# The engine is opened with the fault; the lab gets the engine, an oracle, a prompt and a floor. It is not told
# anything of the fault.

# %%
model = FIXTURES / "models" / "moe-tiny-fp8"
lab = Lab(
    sut=f"triton:{model}",
    sut_options={"fault": f"{path}:up_scale_small"},
    oracle=f"hf:{model}",
    prompt=FIXTURES / "prompts" / "short-concurrent-futures-base-192.json",
    floor=FIXTURES / "floors" / "fp8_block.json",
)
texts = lab.texts()
texts

# %% [markdown]
# The text may not change at all. That is why nobody finds such a bug by reading output.

# %%
isolated = lab.replay()
isolated

# %%
finding = lab.zoom()
finding

# %%
site = lab.zoom(1, "moe.up")
experts = site.by("expert")
experts

# %%
experts.plot()

# %% [markdown]
# ## Is it right?
#
# The zoo does this for whole folders, for other instances of each fault and with controls that must not be
# blamed:
#
#     parity zoo run --faults my_faults/ --out zoo-report

# %%
assert not loaded.problems
assert any("grouped_gem_fp8" in str(problem) for problem in load_faults(folder).problems)
assert finding.verdict == "fault"
assert (finding.stage, finding.layers) == (fault.truth.stage, fault.truth.layers)
assert finding.slice.experts == fault.truth.slice.experts
assert experts.over == 1 and experts.slices[0].where.startswith("expert 3")
assert finding.cause == fault.cause
print(finding.sentence)
lab.close()
work.cleanup()

# %% [markdown]
# ## Answer
#
# Yes, this one: stage, layer, expert and cause are those that the fault states, from the error field alone. A bug
# that is *not* found is worth more: it is a detector or a gate to write, with its test already there.
