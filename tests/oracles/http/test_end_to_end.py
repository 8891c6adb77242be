"""The rungs on an engine behind a server: cleared when healthy, and a planted prompt, sampler or logit fault found."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.decode import DecodingVerdict, compare_decoding
from parity.runner import Request, open_runner
from parity.sampling import Sampling
from parity.text import read_completion, score_text

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs/http.md"
MODEL = ROOT / "fixtures/models/moe-tiny"


def prompt(length: int, seed: int = 0) -> Request:
    """Random ids of the small model's 80."""
    ids = torch.randint(0, 80, (length,), generator=torch.Generator().manual_seed(seed))
    return Request(f"prompt-{seed}", tuple(ids.tolist()))


@pytest.fixture(scope="module")
def lab(fp8_model: Path) -> dict[str, Any]:
    """Oracle, emulation and exact arithmetic of the model that the server runs."""
    exact = open_runner(f"recipe:{fp8_model}", recipe="fp32")
    return {"oracle": exact, "exact": exact, "emulation": open_runner(f"recipe:{fp8_model}")}


@pytest.fixture
def compare(served: Any, lab: dict[str, Any], fp8_model: Path) -> Callable[..., Any]:
    def run(length: int = 24, tokens: int = 5, seed: int = 0, asked: Any = None, top: int = 20, **how: Any) -> Any:
        served.behave(**how)
        sut = open_runner(f"http:{served.root}", folder=str(fp8_model), recipe="fp8_block", top=top, timeout=60.0)
        return compare_decoding(sut=sut, request=prompt(length, seed), tokens=tokens, **lab, **(asked or {}))

    return run


@pytest.mark.parametrize(("top", "seed"), [(80, 0), (20, 1), (5, 2)])
def test_a_healthy_server_is_cleared(compare: Callable[..., Any], top: int, seed: int):
    found = compare(top=top, seed=seed)
    assert found.verdict in (DecodingVerdict.SAME, DecodingVerdict.NEAR_TIE), found.sentence
    assert found.sampler.outcome == "as_asked"
    assert not any(one.exceeds for one in found.excess)
    assert f"at least {top} of 80 log-probabilities" in found.shown
    assert ("lower bounds" in found.shown) == (top < 80)
    assert [phase.positions for phase in found.phases] == [24, 4]


def test_shown_numbers_say_what_all_of_them_say(compare: Callable[..., Any]):
    whole, part = compare(top=80), compare(top=20)
    assert part.oracle_ids == whole.oracle_ids
    # One bucket for what is hidden: never more than the whole, up to rounding of the server's float32.
    assert (part.kl <= whole.kl + 1e-6).all()
    assert part.kl.sum() > 0.3 * whole.kl.sum()
    assert (part.top1 == whole.top1).all()


@pytest.mark.parametrize("top", [80, 10])
@pytest.mark.parametrize(("start", "starts"), [(0, "prefill"), (26, "decode")])
def test_wrong_logits_are_found(compare: Callable[..., Any], top: int, start: int, starts: str):
    found = compare(top=top, tokens=5, logit=[start, -1.0])
    assert (found.verdict, found.starts, found.first_out) == (DecodingVerdict.DIVERGED, starts, start), found.sentence
    assert found.sampler.outcome == "as_asked"


def test_logits_of_another_scale_are_found_though_tokens_agree(compare: Callable[..., Any]):
    found = compare(logit=[0, 1.4])
    assert found.sut_ids == found.oracle_ids
    assert found.verdict is DecodingVerdict.DIVERGED
    assert found.excess[0].exceeds


@pytest.mark.parametrize(("sampler", "cause"), [("penalty", "a penalty explains"), ("second", "no single penalty")])
def test_a_wrong_sampler_is_found(compare: Callable[..., Any], sampler: str, cause: str):
    found = compare(length=12, tokens=6, sampler=sampler)
    assert found.sampler.outcome == "differs", found.sentence
    assert found.verdict is DecodingVerdict.DIVERGED
    assert not any(one.exceeds for one in found.excess)
    assert cause in found.sampler.sentence


def test_an_ignored_ban_is_found(compare: Callable[..., Any]):
    token = compare(tokens=2).sut_ids[0]
    found = compare(tokens=2, asked={"sampling": Sampling(banned=(token,))})
    assert "banned tokens came out" in found.sampler.sentence


def test_its_text_is_scored(served: Any, fp8_model: Path, tmp_path: Path):
    served.behave()
    engine = open_runner(f"http:{served.root}", folder=str(fp8_model))
    ids = engine.generate(prompt(12), max_new_tokens=64).ids
    (tmp_path / "answer.json").write_text(json.dumps({"ids": ids}))
    found = score_text(read_completion(tmp_path / "answer.json"))
    assert found.tokens == 64
    assert len(set(ids[8:])) == 1  # a random model repeats itself for ever
    assert found.loop is not None


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """command(line, root): runs a command of docs/http.md against the server at `root`."""
    from parity import cli

    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    monkeypatch.chdir(tmp_path)

    def run(line: str, root: str) -> tuple[int, str]:
        arguments = shlex.split(line.replace("http://127.0.0.1:8000", root))
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, printed.out + printed.err

    return run


def commands() -> dict[str, str]:
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    lines = [line[2:] for block in blocks for line in block.replace("\\\n", " ").splitlines() if line[:2] == "$ "]
    return {shlex.split(line)[1]: line for line in lines}


def test_the_page_s_prompt_command_finds_a_wrong_prompt(command: Callable[..., Any], toy: Any, tmp_path: Path):
    pytest.importorskip("tokenizers")
    from parity.prompt import Conversation, render_prompt

    messages = [{"role": "user", "content": "What is a noise floor?"}]
    (tmp_path / "request.json").write_text(json.dumps({"messages": messages}))
    _, ids = render_prompt(MODEL, Conversation(tuple(messages)))
    line = commands()["prompt"]
    for how, code, said in (
        ({"conversation": list(ids)}, 0, "same: 17 ids"),
        ({"conversation": list(ids), "chat": "tokenize"}, 0, "same: 17 ids"),
        ({"conversation": list(ids[:-3])}, 1, "assistant_priming_missing"),
        ({"conversation": list(ids), "fault": "counts one more"}, 1, "counts 18 prompt tokens and shows 17"),
        ({"chat": "none"}, 2, "the ids that it becomes"),
    ):
        toy.behave(**how)
        ended, printed = command(line, toy.root)
        assert (ended, said in " ".join(printed.split())) == (code, True), printed


@pytest.mark.long
def test_the_page_s_decode_command_judges_the_shipped_model(command: Callable[..., Any], shipped: Any):
    line = commands()["decode"]
    for how, code, said in (({}, 0, "agree, forced and free"), ({"logit": [3, -1.0]}, 1, "Diverged from position 3")):
        shipped.behave(**how)
        ended, printed = command(line, shipped.root)
        assert (ended, said in " ".join(printed.split())) == (code, True), printed
