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
# # A first look
#
# **Question.** An engine writes text that looks fine. Does it compute what its model says it should, and how does
# one see that?
#
# The engine is the Triton forward pass that ships with the lab, on a trained mixture of experts in block-FP8; the
# oracle is Hugging Face in FP32, on the same weights, dequantized by code that the engine does not share. Both
# are *runners*: anything that turns token ids into a *trace*.

# %%
from parity import Lab
from parity.demo import FIXTURES

model = FIXTURES / "models" / "moe-tiny-fp8"
lab = Lab(
    sut=f"triton:{model}",
    oracle=f"hf:{model}",
    prompt=FIXTURES / "prompts" / "short-threading-96.json",
    floor=FIXTURES / "floors" / "fp8_block.json",
)
lab

# %% [markdown]
# ## The trace
#
# One run of the engine with every probe on. The probes are the production path: with them on or off the same bits
# come out.

# %%
trace = lab.bench.trace
trace

# %%
(gate,) = trace.select(stage="moe.gate", layer=2)
print(gate.name, gate.axes, gate.shape, gate.dtype)
print("experts of the first three rows:", gate.rows.expert[:3], "tile height:", gate.geometry["tile_m"])

# %% [markdown]
# ## How far off at each depth
#
# Every stage of every layer against the oracle, errors from upstream included. A stage is judged by its *worst
# slice* (row, head, expert, block of columns), held against what a **correct** implementation of the same recipe
# shows.

# %%
chained = lab.sweep()
chained

# %% [markdown]
# The number that most tools print is the cosine of a whole tensor. It is there too, and it says little: it passes
# most faults.

# %%
residuals = [record for record in chained.comparisons if record.stage == "resid.out"]
[round(record.whole["cosine"], 5) for record in residuals]

# %%
residuals[-1]

# %% [markdown]
# ## Where error arises
#
# Each stage alone: the oracle's stage is fed the engine's own inputs, so that nothing is inherited.

# %%
isolated = lab.replay()
lab.plot()

# %% [markdown]
# ## One stage closely
#
# Every stage has slices of its own kinds. Attention's have heads.

# %%
site = lab.zoom(1, "attn.q_rope")
site

# %%
site.by("head").plot()

# %% [markdown]
# ## What follows
#
# A finding says what was looked at, and what was *not*.

# %%
finding = lab.zoom()
finding

# %%
assert chained.healthy and isolated.healthy
assert finding.verdict == "clean"
assert finding.not_excluded
assert residuals[-1].whole["cosine"] > 0.99
assert site.by("head").over == 0
lab.close()

# %% [markdown]
# ## Answer
#
# On this prompt, yes: all 87 sites lie within the floor, chained and alone, and no head, expert or row stands
# out. That is a statement about these 96 ids in prefill, and the finding lists what it leaves open: the prompt
# itself, the sampler, decoding, and lengths that were not run. How a fault looks is in
# [02](02_layer_bisection.py).
