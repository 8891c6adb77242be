"""What the line and the server can do to a request: each ends in one readable refusal, and is repeated only if safe."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from parity.errors import RunnerError, UsageError
from parity.runner import CapturePlan, Request, open_runner

Make = Callable[..., Any]
REQUEST = Request("a", (5, 6, 7, 8))


def completions(server: Any) -> int:
    return sum(one["path"] == "/v1/completions" for one in server.seen)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("html", "are no JSON, beginning '<html>502 Bad Gateway"),
        ("events", "a stream of events"),
        ("empty", "0 bytes"),
        ("deep", "are no JSON"),
        ("not utf-8", "are no JSON"),
        ("half", "a connection that broke off"),
        ("half chunked", "a connection that broke off"),
        ("hang up", "a connection that broke off"),
        ("no http", "a connection that broke off"),
        ("huge", "a longer one"),
        (500, "HTTP 500: trouble with"),
        (404, "Check the address"),
        (302, "redirects are not followed"),
    ],
)
def test_a_failure_is_one_refusal_and_no_second_request(runner: Make, toy: Any, fault: Any, said: str):
    engine = runner(model_name="toy", most_bytes=200_000)
    toy.behave(fault=fault)
    with pytest.raises(RunnerError) as refusal:
        engine.generate(REQUEST, max_new_tokens=2)
    assert said in str(refusal.value)
    assert completions(toy) == 1


@pytest.mark.parametrize("fault", ["slow", "drip"])
def test_a_server_that_takes_too_long_is_left(runner: Make, toy: Any, fault: str):
    engine = runner(model_name="toy", timeout=0.4)
    toy.behave(fault=fault)
    start = time.monotonic()
    with pytest.raises(RunnerError, match=r"none within 0\.4 s"):
        engine.generate(REQUEST, max_new_tokens=2)
    assert time.monotonic() - start < 1.1  # the drip goes on for 3 s
    assert completions(toy) == 1


@pytest.mark.parametrize(("fault", "waits"), [(503, [0.5, 1.0]), ("later", [7.0, 7.0])])
def test_not_now_is_tried_again(runner: Make, toy: Any, waited: list[float], fault: Any, waits: list[float]):
    engine = runner(model_name="toy")
    healthy = engine.generate(REQUEST, max_new_tokens=2)
    toy.behave(fault=fault, times=2)
    assert engine.generate(REQUEST, max_new_tokens=2) == healthy
    assert completions(toy) == 3
    assert waited == waits
    assert engine.forward([REQUEST]).run.flags["repeated"] == 2


def test_not_now_for_ever_is_a_refusal(runner: Make, toy: Any, waited: list[float]):
    engine = runner(model_name="toy", tries=3)
    toy.behave(fault=503)
    with pytest.raises(RunnerError, match="HTTP 503"):
        engine.generate(REQUEST, max_new_tokens=2)
    assert completions(toy) == 3
    assert len(waited) == 2


@pytest.mark.parametrize("fault", [502, "hang up", "half"])
def test_asking_for_the_models_is_safe_to_repeat(runner: Make, toy: Any, fault: Any):
    toy.behave(fault=fault, times=1)
    assert len(runner().generate(REQUEST, max_new_tokens=2).ids) == 2
    assert [one["path"] for one in toy.seen] == ["/v1/models", "/v1/models", "/v1/completions"]


def test_a_server_that_is_not_there(waited: list[float]):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening: whoever connects is refused
        engine = open_runner(f"http:http://127.0.0.1:{taken.getsockname()[1]}", vocab=9, model_name="m", tries=3)
        with pytest.raises(RunnerError, match="no connection"):
            engine.generate(Request("a", (1, 2)), max_new_tokens=1)
    assert waited == [0.5, 1.0]


@pytest.mark.parametrize(
    "address",
    ["ftp://host", "http://", "host:8000", "http://me:secret-word@host", "http://host?key=secret-word", "http://h#f",
     "http://ho st", "http://host:99999999", "http://h\n", "http://" + "h" * 3000],
)  # fmt: skip
def test_addresses_that_are_none_or_carry_a_secret(address: str):
    with pytest.raises(UsageError) as refusal:
        open_runner(f"http:{address}", vocab=9)
    assert "secret-word" not in str(refusal.value)


def test_a_bare_address_is_a_specification(toy: Any):
    engine = open_runner(toy.root, vocab=48)
    assert engine.client.address.base == f"{toy.root}/v1"
    assert len(engine.generate(REQUEST, max_new_tokens=1).ids) == 1


@pytest.mark.parametrize(
    "options",
    [{"prompt": "guess"}, {"top": 0}, {"tries": 0}, {"timeout": 0.0}, {"banned": "x"}, {"vocab": 0}, {"vocab": None}],
)
def test_options_that_make_no_sense(runner: Make, options: dict[str, Any]):
    with pytest.raises(UsageError):
        runner(**options)


def test_what_it_cannot_do_it_says(runner: Make):
    from parity.runner import Schedule

    engine = runner()
    assert engine.describe().can == {"forward", "generate", "chat"}
    assert engine.describe().stages == ("logits",)
    for schedule in (Schedule(chunk=2), Schedule(slots=(1,)), Schedule(poison=1)):
        with pytest.raises(RunnerError):
            engine.forward([REQUEST], schedule=schedule)
    with pytest.raises(RunnerError, match="a graft"):
        engine.forward([REQUEST], graft=[object()])
    with pytest.raises(UsageError, match="48 at position 1"):
        engine.forward([Request("a", (5, 48))])
    with pytest.raises(UsageError, match="attn"):
        engine.forward([REQUEST], capture=CapturePlan(stages=("attn.q",)))
