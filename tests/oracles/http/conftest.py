"""A real server process on loopback, told how to misbehave, and a runner on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from parity.runner import open_runner

pytest.importorskip("httpx")
ROOT = Path(__file__).resolve().parents[3]


class Server:
    def __init__(self, engine: str) -> None:
        path = os.pathsep.join(str(ROOT / part) for part in (".", "kernels", "oracles"))
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("server.py")), engine],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.root = f"http://127.0.0.1:{self.port}"

    def behave(self, **how: Any) -> None:
        self._call("/test/behave", json.dumps(how).encode())

    @property
    def seen(self) -> list[Any]:
        return self._call("/test/seen", None)

    def _call(self, path: str, data: bytes | None) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(self.root + path, data), timeout=30) as answer:
            return json.load(answer)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def serve(engine: str) -> Iterator[Server]:
    server = Server(engine)
    yield server
    server.close()


@pytest.fixture(scope="module")
def _toy() -> Iterator[Server]:
    yield from serve("toy:48")


@pytest.fixture
def toy(_toy: Server) -> Server:
    """A server of a toy model of 48 ids, behaving well until it is told otherwise."""
    _toy.behave()
    return _toy


@pytest.fixture(scope="module")
def served(fp8_model: Path) -> Iterator[Server]:
    """A server of the emulation of a small random model."""
    yield from serve(f"recipe:{fp8_model}")


@pytest.fixture(scope="module")
def shipped() -> Iterator[Server]:
    """A server of the emulation of the shipped model."""
    yield from serve(f"recipe:{ROOT / 'fixtures/models/moe-tiny'}")


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the client would have waited between two tries."""
    import parity_oracles.http.client as client

    waits: list[float] = []
    monkeypatch.setattr(client.Client.__init__, "__defaults__", (client.Limits(), waits.append))
    return waits


@pytest.fixture
def runner(toy: Server, waited: list[float]) -> Callable[..., Any]:
    """runner(**options): on the toy's server."""
    return lambda **options: open_runner(f"http:{toy.root}", **{"vocab": 48, "timeout": 20.0, **options})
