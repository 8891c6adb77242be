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
# # Layer bisection
#
# **Question.** On a long prompt the text loops. Which stage of which layer makes that, and which rows?
#
# The engine carries the launch arithmetic of a real incident; nothing below is told which.

# %%
from parity import Lab
from parity.demo import FIXTURES, PROMPT

model = FIXTURES / "models" / "moe-tiny-fp8"
lab = Lab(
    sut=f"triton:{model}",
    sut_options={"fault": "moe_tile_truncation"},
    oracle=f"hf:{model}",
    prompt=FIXTURES / "prompts" / f"{PROMPT}.json",
    floor=FIXTURES / "floors" / "fp8_block.json",
    new_tokens=16,
)
lab

# %% [markdown]
# ## The symptom
#
# Greedy, the same ids on both sides.

# %%
texts = lab.texts()
texts

# %%
texts.plot()

# %% [markdown]
# ## Sweep: how far off at each depth?
#
# The oracle runs the same ids and is routed as the engine was. Error from upstream is included, so much of what
# is over the floor here is innocent.

# %%
chained = lab.sweep()
chained.plot()

# %%
residual = next(record for record in chained.comparisons if record.name == "L00.resid.out")
print(f"residual leaving layer 0 as one tensor: cosine {residual.whole['cosine']:.4f}")
residual

# %% [markdown]
# A gate of 0.99 on that cosine passes layer 0, and even the residual's worst slice lies just within its floor: in
# the sum of everything the fault drowns. In the stages that make it, it does not.
#
# ## Replay: where does the error arise?
#
# Each stage alone, the oracle fed the engine's own inputs. What is inherited is then on both sides.

# %%
isolated = lab.replay()
isolated

# %%
lab.plot()

# %% [markdown]
# Two stages add error, in all four layers: the first in order of computation is `moe.gate`. Everything else
# inherits.
#
# ## Zoom: by head
#
# Attention comes before the experts. Is any head wrong?

# %%
heads = lab.zoom(0, "attn.context").by("head")
heads

# %% [markdown]
# None. Now the stage that the replay blames.

# %%
gate = lab.zoom(0, "moe.gate")
gate

# %% [markdown]
# ## By expert

# %%
experts = gate.by("expert")
experts

# %%
experts.plot()

# %% [markdown]
# ## By row
#
# One expert, the busiest. Not all of its rows: the last ones.

# %%
rows = gate.by("row")
rows

# %% [markdown]
# ## By tile
#
# The kernel works in tiles of 64 rows. The rows are lost from a tile edge on.

# %%
tiles = gate.by("tile")
tiles

# %%
gate.plot()

# %% [markdown]
# The launch says the same in one line, without any oracle: the grid is sized for twice the *average* load.

# %%
[launch.line() for launch in lab.coverage() if launch.truncated and launch.stage == "moe.gate"]

# %% [markdown]
# ## Graft: does mending it there mend the result?
#
# First the sham. The engine's own tensor put back must change no bit, or the instrument is at fault.

# %%
sham = lab.graft(0, "moe.gate", donor="self")
sham

# %% [markdown]
# `moe.gate` alone, as it should have been on the engine's own inputs, in all layers. It changes **nothing**:
# where the rows of `moe.gate` were lost those of `moe.up` were lost too, and their product is zero either way.

# %%
layers = range(4)
alone = lab.graft(layers, "moe.gate", donor="replay")
alone

# %% [markdown]
# The three projections together. `moe.down` showed no error of its own: it got zeros, and mapped them to zero
# rightly, although it loses the same rows. One fault hid the other.

# %%
together = lab.graft(layers, ("moe.gate", "moe.up", "moe.down"), donor="replay", tokens=16)
together

# %% [markdown]
# ## The ledger and the finding
#
# Every step is entered with its prediction, what was refuted included.

# %%
finding = lab.zoom()
finding

# %%
lab.ledger

# %%
adds = {record.name for record in isolated.comparisons if record.verdict.faulty}
assert texts.agree == 0
assert chained.diverged and residual.whole["cosine"] > 0.99
assert adds == {f"L{layer:02d}.{stage}" for layer in layers for stage in ("moe.gate", "moe.up")}
assert heads.over == 0
assert experts.over == 1 and experts.slices[0].where.startswith("expert 7")
assert rows.over == 145 and all(row.lost for row in rows.slices[:145])
assert {tile.where for tile in tiles.slices[:3]} == {f"expert 7, its rows {n}..{n + 63}" for n in (256, 320, 384)}
assert sham.effect.changed == 0 and alone.effect.changed == 0
assert together.effect.kl_after < together.effect.kl_before / 10
assert together.agree_before == 0 and together.text.agree == 16
assert finding.cause == "rows past a tile edge were never written"
assert lab.report().is_file()
lab.close()

# %% [markdown]
# ## Answer
#
# The grouped GEMM of the experts, in all four layers. In layer 0 rows 256 and up of expert 7 were never written,
# 145 rows: four tiles of 64, twice the average load of 128. With the three projections mended in the forward
# pass, the text is the oracle's again, 16 of 16 tokens.
#
# `lab.prove()` runs the three arms of the proof and finds the hidden projection by itself; `lab.investigate()`
# climbs the rest of the ladder (prompt, checkpoint, sampler, invariances), without which no fix is recommended.
