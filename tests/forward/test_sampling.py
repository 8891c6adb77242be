"""Each sampler draws from the distribution that the settings name: engine, plain oracle, HF and the judge alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parity.decode.asked import drawn_from
from parity.errors import UsageError
from parity.runner import Request, open_runner
from parity.sampling import Sampling, differing, require_ids
from parity_kernels.forward.sampling import Sampling as Engine
from parity_kernels.forward.sampling import kept, penalized
from parity_oracles import sampling as plain
from parity_oracles.hf import sampling as hf

SETTINGS = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.3),
    Sampling(temperature=1.7, top_k=1),
    Sampling(temperature=0.9, top_k=5),
    Sampling(temperature=0.9, top_k=500),
    Sampling(temperature=0.9, top_p=0.5),
    Sampling(temperature=0.9, top_p=1e-6),
    Sampling(temperature=0.9, min_p=0.2),
    Sampling(temperature=0.9, min_p=1.0),
    Sampling(temperature=1.2, top_k=20, top_p=0.8, min_p=0.05),
    Sampling(temperature=1.0, repetition_penalty=1.3),
    Sampling(temperature=1.0, repetition_penalty=0.7, presence_penalty=0.5, frequency_penalty=0.2),
    Sampling(temperature=1.0, presence_penalty=-2.0, banned=(0, 7, 36)),
    Sampling(temperature=1.0, allowed=(3, 4, 5, 6), top_k=2),
    Sampling(temperature=1.0, allowed=(3, 4, 5, 6), banned=(4,), top_p=0.9),
]
IDS = (3, 3, 9, 12, 5, 5, 5, 8)
PROMPT = 3


def row(seed: int, vocab: int = 37) -> torch.Tensor:
    return 3 * torch.randn(vocab, generator=torch.Generator().manual_seed(seed))


def of_engine(logits: torch.Tensor, asked: Sampling) -> torch.Tensor:
    order, share = kept(penalized(logits, IDS, PROMPT, asked), asked)
    found = torch.zeros(len(logits), dtype=torch.float64)
    found[torch.from_numpy(order.copy())] = torch.from_numpy(share / share.sum())
    return found


def of_judge(logits: torch.Tensor, asked: Sampling) -> torch.Tensor:
    # Row n has seen the prompt and n chosen tokens: the last one has seen all of IDS.
    rows = logits[None].repeat(len(IDS) - PROMPT + 1, 1)
    return drawn_from(rows, IDS[:PROMPT], (*IDS[PROMPT:], 0), asked).logprobs[-1].exp()


@pytest.mark.parametrize("asked", SETTINGS, ids=repr)
@pytest.mark.parametrize("seed", range(3))
def test_four_samplers_name_one_distribution(asked: Sampling, seed: int):
    logits = row(seed)
    engine = of_engine(logits, asked)
    for other in (
        plain.processed(logits, IDS, prompt=PROMPT, sampling=asked).softmax(0),
        hf.processed(logits, IDS, prompt=PROMPT, sampling=asked).double().softmax(0),
        of_judge(logits, asked),
    ):
        assert torch.equal(engine > 0, other > 0)
        # HF's scores are fp32: a relative error of 2^-24 of logits up to 20 moves a probability by 20 * 2^-23.
        assert torch.allclose(engine, other, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("choose", ["engine", "plain", "hf"])
def test_draws_follow_the_distribution(choose: str):
    asked, logits, draws = Sampling(temperature=1.0, top_k=6), row(5), 600
    want = of_engine(logits, asked)

    def draw(seed: int) -> int:
        one = asked.with_seed(seed)
        if choose == "engine":
            return Engine().choose(logits, IDS, prompt=PROMPT, asked=one)
        return (plain if choose == "plain" else hf).choose(logits, IDS, prompt=PROMPT, sampling=one)

    counts = torch.bincount(torch.tensor([draw(seed) for seed in range(draws)]), minlength=len(logits)).double()
    live = want > 0
    assert not counts[~live].any()
    chi = float(((counts - draws * want)[live] ** 2 / (draws * want[live])).sum())
    assert chi < 20.5  # the 99.9 % quantile of chi-square with 5 degrees of freedom
    assert draw(3) == draw(3)


@pytest.mark.parametrize("spec", ["triton", "recipe", "hf"])
def test_runners_take_settings_and_say_which_were_in_force(bf16_model: Path, spec: str):
    runner = open_runner(f"{spec}:{bf16_model}")
    request, hot = Request("p", (3, 1, 4, 1, 5)), Sampling(temperature=60.0, top_k=30, banned=(2,))
    assert "sample" in runner.describe().can
    made = [runner.generate(request, max_new_tokens=4, sampling=hot.with_seed(seed)) for seed in (0, 0, 1)]
    assert made[0].ids == made[1].ids != made[2].ids
    assert differing(hot, made[0].sampler) == {}
    assert set(differing(Sampling(temperature=0.5, top_k=30), made[0].sampler)) == {"temperature"}
    greedy = runner.generate(request, max_new_tokens=2).ids
    assert runner.generate(request, max_new_tokens=2, sampling=Sampling()).ids == greedy
    assert greedy[0] not in runner.generate(request, max_new_tokens=2, sampling=Sampling(banned=greedy[:1])).ids
    with pytest.raises(UsageError, match="id 80"):
        runner.generate(request, max_new_tokens=1, sampling=Sampling(banned=(80,)))


def test_what_an_instance_fixes_holds_over_what_is_asked(tmp_path: Path):
    (tmp_path / "generation_config.json").write_text(json.dumps({"suppress_tokens": [5]}))
    engine = Engine.beside(tmp_path, vocab=37, settings={"temperature": 0.5, "top_k": 1})
    stated = engine.describe(Sampling(temperature=1.0, banned=(6,)))
    assert (stated["temperature"], stated["top_k"], stated["suppress_tokens"]) == (0.5, 1, [5, 6])
    assert set(differing(Sampling(temperature=1.0, banned=(6,)), stated)) == {"temperature", "top_k"}
    assert np.isin(engine.choose(row(1), IDS, prompt=PROMPT, asked=Sampling(temperature=1.0)), [int(row(1).argmax())])


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_k": 2.5}, {"top_p": 0.0},
     {"top_p": 1.1}, {"min_p": -0.1}, {"repetition_penalty": 0.0}, {"presence_penalty": float("inf")}, {"seed": -1},
     {"banned": (-1,)}, {"banned": (1.5,)}, {"allowed": (3,), "banned": (3,)}],
    ids=str,
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(wrong: Any):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_banning_everything_is_refused():
    with pytest.raises(UsageError, match="every id banned"):
        require_ids(Sampling(banned=tuple(range(4))), 4)
