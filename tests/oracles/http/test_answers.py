"""Rows of log-probabilities by every way of asking, and answers that are not what was asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parity.errors import RunnerError, UsageError
from parity.runner import CapturePlan, Request, Schedule
from parity.trace import open_trace
from parity_oracles.http.client import _said
from parity_oracles.http.rows import LEAST, read_row
from parity_oracles.http.spelling import Spelling

Make = Callable[..., Any]
REQUEST = Request("a", (5, 6, 7, 8, 9, 10, 11))
PLAN = CapturePlan(stages=("logits",))


def toy_logprobs(ids: tuple[int, ...], vocab: int = 48) -> torch.Tensor:
    """The formula of the toy in server.py."""
    v = torch.arange(vocab, dtype=torch.float64)
    rows = [4 * torch.sin(0.37 * v * (1 + last % 7) + 0.9 * at) + torch.sin(v) for at, last in enumerate(ids)]
    return torch.stack(rows).log_softmax(1)


def table(engine: Any, request: Request = REQUEST, decode: int = 0) -> torch.Tensor:
    trace = engine.forward([request], schedule=Schedule(decode=decode), capture=PLAN)
    return torch.cat([trace.tensor(capture) for capture in trace.captures])


WAYS = [
    ({}, {}, "prompt_logprobs"),
    ({"prompt_logprobs": False}, {}, "echo"),
    ({"strict": ["prompt_logprobs", "return_token_ids", "ignore_eos", "add_special_tokens"]}, {}, "echo"),
    ({"prompt_logprobs": False, "echo": False}, {"prompt": "steps"}, "steps"),
    ({"prompt_logprobs": False, "echo": False, "content": True, "token_ids": False}, {"prompt": "steps"}, "steps"),
    ({"token_ids": False}, {"prompt": "echo"}, "echo"),
]


@pytest.mark.parametrize(("how", "options", "way"), WAYS)
@pytest.mark.parametrize(("decode", "top"), [(0, 48), (3, 48), (3, 5)])
def test_every_way_gives_the_rows(runner: Make, toy: Any, how: Any, options: Any, way: str, decode: int, top: int):
    toy.behave(**how)
    engine = runner(top=top, **options)
    trace = engine.forward([REQUEST], schedule=Schedule(decode=decode), capture=PLAN)
    assert trace.run.flags["prompt"] == way
    assert trace.run.flags["left_out"] == how.get("strict", [])
    found = torch.cat([trace.tensor(capture) for capture in trace.captures])
    want = toy_logprobs(REQUEST.ids)
    shown = torch.isfinite(found)
    assert int(shown.sum(1).min()) >= top
    # float32 holds them to half a unit in the last place of numbers up to 16
    assert torch.allclose(found[shown].double(), want[shown], atol=2**-20, rtol=0)
    assert torch.equal(found.argmax(1), want.argmax(1))
    assert [c.phase for c in trace.captures] == ["prefill", *["decode"] * decode]
    assert np.concatenate([c.rows.position for c in trace.captures]).tolist() == list(range(7))
    assert {c.basis for c in trace.captures} == {"log-probabilities"}


def test_decoded_rows_come_from_its_own_decoding(runner: Make, toy: Any):
    engine = runner(top=4)
    own = engine.generate(REQUEST, max_new_tokens=4).ids
    toy.behave()
    trace = engine.forward([Request("a", (*REQUEST.ids, *own[:3]))], schedule=Schedule(decode=3), capture=PLAN)
    assert len(toy.seen) == 1  # one continuation shows all of them
    assert [c.variant for c in trace.captures] == [None] * 4
    other = (own[0], (own[1] + 1) % 48, 3)
    toy.behave()
    trace = engine.forward([Request("a", (*REQUEST.ids, *other))], schedule=Schedule(decode=3), capture=PLAN)
    prompts = [len(one["body"]["prompt"]) for one in toy.seen]
    assert prompts[:2] == [7, 9]  # asked again after the id that it does not choose
    assert [c.variant for c in trace.captures][2] == "prompt"


def test_requests_go_to_disk_with_what_was_hidden(runner: Make, tmp_path: Path):
    plan = CapturePlan(stages=("logits",), out=tmp_path / "t")
    requests = [REQUEST, Request("b", (1, 2))]
    runner(top=5).forward(requests, capture=plan)
    trace = open_trace(tmp_path / "t")
    assert trace.complete
    assert trace.run.flags["least_shown"] == 5
    assert trace.run.recipe.name == "unknown"
    assert [len(c.rows) for c in trace.captures] == [7, 2]


def test_an_end_of_text_is_a_short_continuation(runner: Make, toy: Any):
    toy.behave(stop=2)
    assert len(runner().generate(REQUEST, max_new_tokens=6).ids) == 2
    # teacher-forced it is asked again until every row is there
    assert torch.allclose(table(runner(top=48), decode=4).double(), toy_logprobs(REQUEST.ids), atol=2**-20)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"fault": "no logprobs"}, "choices[0].logprobs, asked for with `logprobs`"),
        ({"fault": "no top_logprobs"}, "logprobs.top_logprobs of 1 tokens"),
        ({"fault": "short logprobs"}, "of one length"),
        ({"fault": "short prompt_logprobs"}, "prompt_logprobs of 7 ids"),
        ({"fault": "hole in prompt_logprobs"}, "prompt position 2"),
        ({"fault": "probabilities"}, "a log-probability, at most 0"),
        ({"fault": "words"}, "a log-probability, at most 0"),
        ({"fault": "foreign id"}, "ids from 0 to 47"),
        ({"fault": "no max_tokens"}, "ignores `max_tokens`"),
        ({"fault": "adds bos"}, "8 ids, the first other one at position 0"),
        ({"fault": "adds bos", "token_ids": False}, "8 prompt tokens by its own count"),
        ({"fault": "no choices"}, "one completion under choices"),
        ({"fault": "two choices"}, "one completion under choices"),
        ({"fault": "a list"}, "one completion under choices"),
        ({"most": 5}, "give the option top=N"),
        ({"prompt_logprobs": False, "echo": False}, "prompt=steps"),
        ({"stop": 0}, "ids by"),
    ],
)
def test_answers_that_are_not_what_was_asked(runner: Make, toy: Any, how: dict[str, Any], said: str):
    engine = runner(model_name="toy")
    toy.behave(**how)
    with pytest.raises(RunnerError) as refusal:
        table(engine)
    assert said in str(refusal.value)


def test_a_way_that_was_asked_for_is_not_replaced(runner: Make, toy: Any):
    toy.behave(prompt_logprobs=False)
    with pytest.raises(RunnerError, match="the server ignores `prompt_logprobs`"):
        table(runner(prompt="prompt_logprobs"))
    toy.behave(echo=False)
    with pytest.raises(RunnerError, match="ignores `echo`"):
        table(runner(prompt="echo"))


def test_new_ids_outside_the_vocabulary(runner: Make, toy: Any):
    toy.behave(fault="foreign new id")
    with pytest.raises(RunnerError, match="ids from 0 to 47"):
        runner().generate(REQUEST, max_new_tokens=1)


def test_not_a_number_stays_one(runner: Make, toy: Any):
    toy.behave(fault="not a number")
    found = table(runner(top=48))
    assert torch.isnan(found[1]).all()
    assert not torch.isnan(found[[0, 2]]).any()


def test_several_models_need_a_name(runner: Make, monkeypatch: pytest.MonkeyPatch):
    engine = runner()
    monkeypatch.setattr(engine.client, "get", lambda url: {"data": [{"id": "a"}, {"id": "b"}]})
    with pytest.raises(UsageError, match="a, b"):
        engine.generate(REQUEST, max_new_tokens=1)


class Spelled(Spelling):
    """Texts of a vocabulary where two ids decode alike."""

    def __init__(self) -> None:
        super().__init__(None)
        self._ids = {"x": (1,), "y": (2,), "?": (3, 7), "z": (4,)}


def test_a_collision_below_the_certain_ones_cuts_the_row():
    # x and y take 0.6 + 0.3; what is lost under "?" has at most the 0.06 left over, or the 0.04 shown.
    top = {"x": math.log(0.6), "y": math.log(0.3), "?": math.log(0.04), "z": math.log(0.01)}
    row = read_row(top, Spelled(), place="p")
    assert set(row.shown) == {1, 2}
    assert row.cut == ("?",)


def test_a_collision_that_may_hide_the_largest_is_refused():
    # Here 0.55 is left over: the lost id may be larger than x.
    with pytest.raises(RunnerError, match=r"'\?', which stands for ids 3, 7"):
        read_row({"x": math.log(0.4), "?": math.log(0.05)}, Spelled(), place="p")


def test_a_key_twice_in_the_json_is_a_collision():
    top = _said([("x", math.log(0.7)), ("y", math.log(0.01)), ("y", math.log(0.2))])
    assert top.twice == {"y"}
    assert set(read_row(top, Spelled(), place="p").shown) == {1}


def test_minus_infinity_is_a_number_that_was_shown():
    row = read_row({"5": {"logprob": -math.inf}, "6": {"logprob": 0.0}}, Spelled(), place="p")
    assert row.shown == {5: LEAST, 6: 0.0}


MODEL = Path(__file__).resolve().parents[3] / "fixtures/models/moe-tiny"


def test_texts_become_ids_by_the_folder_s_tokenizer(runner: Make, toy: Any):
    tokenizers = pytest.importorskip("tokenizers")
    inner = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    texts = {str(n): inner.decode([n], skip_special_tokens=False) for n in range(48)}
    unclear = [n for n, text in texts.items() if list(texts.values()).count(text) > 1]
    toy.behave(prompt_logprobs=False, as_ids=False, token_ids=False, texts=texts)
    with pytest.raises(RunnerError, match="option folder=DIR"):
        table(runner(top=5))
    found = table(runner(top=5, folder=str(MODEL), vocab=48))
    shown = torch.isfinite(found)
    assert unclear == []  # the first 48 ids of this tokenizer are letters and signs
    assert torch.allclose(found[shown].double(), toy_logprobs(REQUEST.ids)[shown], atol=2**-20, rtol=0)
    # Now the largest of the third position decodes as another id does.
    best = int(toy_logprobs(REQUEST.ids)[2].argmax())
    shared = {**texts, str(best): "\ufffd"}
    toy.behave(prompt_logprobs=False, as_ids=False, token_ids=False, texts=shared)
    with pytest.raises(RunnerError, match=r"position 3: .*which stands for ids"):
        table(runner(top=5, folder=str(MODEL), vocab=48))


@pytest.mark.parametrize("kind", ["ids", "tokenize", "template"])
def test_a_conversation_becomes_ids(runner: Make, toy: Any, kind: str):
    toy.behave(chat=kind, conversation=[4, 5, 6])
    asked = runner().chat([{"role": "user", "content": "a"}], tools=[{"name": "t"}], enable_thinking=False,
                          add_generation_prompt=True)  # fmt: skip
    assert (asked.ids, asked.counted) == ((4, 5, 6), 3)
    body = next(one["body"] for one in toy.seen if one["path"] == "/v1/chat/completions")
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["add_generation_prompt"] is True
    assert body["tools"] == [{"name": "t"}]


def test_a_server_that_tells_no_ids_is_refused(runner: Make, toy: Any):
    toy.behave(chat="none", conversation=[4])
    with pytest.raises(RunnerError, match=r"/v1/chat/completions: .*; /tokenize gives no ids"):
        runner().chat([{"role": "user", "content": "a"}])
