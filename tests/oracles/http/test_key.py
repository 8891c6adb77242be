"""The API key stands in the request's header and nowhere else: not in errors, logs, traces, reports, pickles."""

from __future__ import annotations

import json
import logging
import pickle
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.errors import ParityError, UsageError
from parity.runner import CapturePlan, Request
from parity_oracles.http.key import Key, read_key

SECRET = 'sk-"q\\9/+parity='
REQUEST = Request("a", (5, 6, 7, 8))


@pytest.fixture
def keyed(toy: Any, runner: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """keyed(fault, **options): a runner with the key, on a server that asks for it."""

    def make(fault: Any = None, **options: Any) -> Any:
        monkeypatch.setenv("PARITY_HTTP_API_KEY", SECRET)
        toy.behave(key=SECRET, fault=fault)
        return runner(model_name="toy", tries=2, **options)

    return make


def hidden(text: str) -> bool:
    return all(spelled not in text for spelled in (SECRET, json.dumps(SECRET)[1:-1], "parity="))


def test_it_is_sent(keyed: Callable[..., Any], toy: Any):
    assert len(keyed().generate(REQUEST, max_new_tokens=2).ids) == 2
    assert all(one["authorized"] for one in toy.seen)


@pytest.mark.parametrize("fault", [400, 401, 500, 503, 302, "key in html", "no http", "half", "drip", "no choices"])
def test_no_failure_shows_it(keyed: Callable[..., Any], caplog: pytest.LogCaptureFixture, fault: Any):
    engine = keyed(fault, timeout=0.5)
    with caplog.at_level(logging.DEBUG), pytest.raises(ParityError) as refusal:
        engine.generate(REQUEST, max_new_tokens=2)
    whole = "".join(traceback.format_exception(refusal.value))
    assert hidden(whole), whole
    assert hidden(repr(pickle.dumps(refusal.value)))
    written = "".join(record.getMessage() for record in caplog.records)
    assert caplog.records
    assert SECRET not in written.replace("\\\\", "\\").replace('\\"', '"') or fault in (302, "no http")


def test_a_wrong_key_is_not_repeated_by_the_refusal(keyed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    engine = keyed()
    monkeypatch.setenv("OTHER_KEY", "another-secret-word")
    other = keyed(key_env="OTHER_KEY")
    with pytest.raises(ParityError, match="HTTP 401") as refusal:
        other.generate(REQUEST, max_new_tokens=2)
    assert "another-secret-word" not in "".join(traceback.format_exception(refusal.value))
    assert engine.generate(REQUEST, max_new_tokens=1).ids


def test_nothing_that_is_written_holds_it(keyed: Callable[..., Any], tmp_path: Path):
    engine = keyed("key in text")
    engine.forward([REQUEST], capture=CapturePlan(stages=("logits",), out=tmp_path / "trace"))
    generated = engine.generate(REQUEST, max_new_tokens=2)
    assert "[API key]" in str(generated.text)
    shown = [
        repr(engine.describe()),
        repr(generated),
        repr(engine.client),
        repr(vars(engine.client)),
        str(vars(engine)),
    ]
    shown += [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(shown) > 6
    assert all(hidden(text) for text in shown)
    with pytest.raises(TypeError):
        pickle.dumps(Key(SECRET))


def test_a_command_writes_nothing_of_it(
    keyed: Callable[..., Any], toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    from parity import cli

    keyed()
    for fault in (None, 401):
        toy.behave(key=SECRET, fault=fault)
        monkeypatch.setattr(sys, "argv", [
            "parity", "--debug", "capture", f"http:{toy.root}", "--option", "vocab=48", "--ids", "5,6,7",
            "--stages", "logits", "--out", str(tmp_path / f"run-{fault}"), "--json",
        ])  # fmt: skip
        with pytest.raises((SystemExit, ParityError)) as end:
            cli.main()
        printed = capsys.readouterr()
        assert hidden(printed.out + printed.err + str(end.value))
        if fault is None:
            assert isinstance(end.value, SystemExit)
            assert end.value.code == 0, printed
    assert all(hidden(path.read_bytes().decode("latin-1")) for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("value", ["short", "with blanks in", "with\nnewline", "schlüssel-lang-genug"])
def test_a_key_that_no_header_carries_is_refused_unseen(monkeypatch: pytest.MonkeyPatch, value: str):
    monkeypatch.setenv("PARITY_HTTP_API_KEY", value)
    with pytest.raises(UsageError) as refusal:
        read_key()
    assert value not in str(refusal.value)


def test_no_key_sends_no_header(runner: Callable[..., Any], toy: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PARITY_HTTP_API_KEY", " ")
    runner().generate(REQUEST, max_new_tokens=1)
    assert not any(one["authorized"] for one in toy.seen)
