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
# # A real engine against Hugging Face
#
# **Question.** Does a real engine compute what Hugging Face computes on the same weights, stage by stage?
#
# On vLLM where its environment is there, else on llama.cpp, else on the engine that ships with the lab: whichever
# it is, the notebook says so. All are runners; nothing below depends on which.

# %%
from contextlib import suppress
from importlib.util import find_spec

import pandas as pd

from parity import Lab
from parity.demo import FIXTURES
from parity.errors import RunnerError
from parity.ladder import Opening, calibrate_apart
from parity.promptfile import read_prompt
from parity_oracles.vllm.opening import find_python

model = FIXTURES / "models" / "moe-tiny"
asked = ("vllm", "llama_cpp", "triton")
found = []
for name in asked:
    with suppress(RunnerError):
        if find_spec(name) is not None or (name == "vllm" and find_python() is not None):
            found.append(name)
engine = found[0]
options = {"llama_cpp": {"dtype": "bf16"}}.get(engine, {})
print("engine under test:", engine, options or "")
print("not here:", ", ".join(name for name in asked if name not in found) or "none of those asked for is missing")

# %% [markdown]
# ## What would be noise
#
# The engine says which precision recipe it runs. A stored floor serves where there is one for it; else a small
# one is calibrated here, from clean runs of the recipe's emulation on other texts, in a process where no engine
# is loaded.

# %%
prompt = FIXTURES / "prompts" / "short-threading-96.json"
unjudged = Lab(sut=f"{engine}:{model}", sut_options=options, oracle=f"hf:{model}", prompt=prompt)
recipe = unjudged.bench.info.recipe
recipe

# %%
if recipe.name == "bf16":
    floor = FIXTURES / "floors" / "bf16.json"
else:
    emulation = f"recipe:{model}"
    files = sorted((FIXTURES / "heldout").glob("*.json"))
    made = calibrate_apart(
        emulations=[Opening(emulation, {"recipe": recipe.name, "order": order}) for order in range(3)],
        oracle=Opening(emulation, {"recipe": "fp32"}),
        requests=[read_prompt(path).request for path in files],
    )
    floor = unjudged.cache / f"{recipe.name}.json"
    made.save(floor)
unjudged.close()
lab = Lab(sut=f"{engine}:{model}", sut_options=options, oracle=f"hf:{model}", prompt=prompt, floor=floor)
lab

# %% [markdown]
# ## By layer and stage
#
# The oracle runs the same ids in FP32 and is routed as the engine was; a router's choice is judged apart, since
# near-ties flip between healthy engines.

# %%
chained = lab.sweep()
chained.plot()

# %%
inside = [record for record in chained.comparisons if record.layer is not None]
cells = [(record.stage, record.layer, record.over_floor) for record in inside]
table = pd.DataFrame(cells, columns=["stage", "layer", "over its floor"])
table.pivot_table(index="stage", columns="layer", values="over its floor", sort=False).round(2)

# %% [markdown]
# ## Each stage alone
#
# What the engine does not show is named; what it shows is replayed on its own inputs.

# %%
isolated = lab.replay()
isolated

# %%
routes = [record for record in chained.comparisons if record.stage == "moe.topk_ids"]
print("stages shown:", len(lab.bench.info.stages), "of", len({record.stage for record in chained.comparisons}))
print("router choices:", {record.name: record.verdict.value for record in routes})
lab.plot()

# %% [markdown]
# ## The text

# %%
texts = lab.texts()
texts

# %%
logits = next(record for record in chained.comparisons if record.name == "logits")
judged = [record for record in chained.comparisons if record.over_floor is not None]
assert logits.whole["cosine"] > 0.999
assert len(judged) > len(chained.comparisons) / 2
broken = {"NONFINITE", "SHAPE_MISMATCH", "DTYPE_MISMATCH"}
assert not broken & {record.verdict.value for record in chained.comparisons}
assert texts.agree == len(texts.oracle.ids)
print(engine, chained, isolated, sep="\n")
lab.close()

# %% [markdown]
# ## Answer
#
# The last cell says it for the engine that ran here: how many sites lie within the floor of its own recipe,
# chained and alone, which it does not show, and which is the worst. Its text is the oracle's, token for token,
# and nothing is of another shape, or not finite. A stage that is over its floor *alone* computes otherwise than
# the recipe says whose floor it is held against; whether that is a fault or a choice of the engine is for its
# authors. A floor that was calibrated on a dozen texts is a rough one; for a verdict to act upon, calibrate on
# some hundred runs (`parity floor calibrate`).
