"""Does `http:` read the log-probabilities of vLLM's own server, and are they those of HF?"""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from parity.align import align
from parity.errors import RunnerError
from parity.promptfile import read_prompt
from parity.runner import CapturePlan, Request, Schedule, open_runner
from parity_oracles.vllm.engine import SETTINGS
from parity_oracles.vllm.opening import find_python

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "fixtures/models/moe-tiny"
NEAR = 1e-4
"""Nats. HF and vLLM in FP32 are 1e-6 apart (rel_l2 of logits of up to 30), and a log-probability is a sum of them."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that was started for these tests."""
    try:
        python = str(find_python())
    except RunnerError as error:
        pytest.skip(f"no vLLM here: {error.next_step}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    environment = {**os.environ, **SETTINGS, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    environment.pop("PYTHONPATH", None)
    command = [
        python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL), "--served-model-name", "tiny",
        "--dtype", "float32", "--enforce-eager", "--max-model-len", "256", "--host", "127.0.0.1", "--port", str(port),
        "--gpu-memory-utilization", "0.3", "--max-logprobs", "64",
    ]  # fmt: skip
    with log.open("wb") as written:
        process = subprocess.Popen(command, env=environment, stdout=written, stderr=written)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(240):
            if process.poll() is not None:
                raise AssertionError(log.read_text()[-3000:])
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=5):
                    break
            except OSError:
                time.sleep(1)
        else:
            raise AssertionError("the server did not come up in four minutes: " + log.read_text()[-3000:])
        yield f"{address}/v1"
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_servers_log_probabilities_are_those_of_hf(server: str):
    asked = read_prompt(ROOT / "fixtures/prompts/short-threading-96.json").request
    request = Request("a", asked.ids[:48])
    oracle = open_runner(f"hf:{MODEL}")
    sut = open_runner(f"http:{server}", folder=str(MODEL), recipe="fp32", top=20)
    trace = sut.forward([request], schedule=Schedule(decode=2), capture=CapturePlan())
    truth = oracle.forward([request], capture=CapturePlan(stages=("logits",)))
    a, b = (align(t, "logits", None, 0) for t in (truth, trace))
    assert a is not None
    assert b is not None
    assert b.position.tolist() == list(range(48))
    shown = torch.isfinite(b.tensor)
    assert shown.sum(1).min() >= 20
    assert (a.tensor.log_softmax(-1) - b.tensor)[shown].abs().max() < NEAR
    made = [runner.generate(request, max_new_tokens=6).ids for runner in (sut, oracle)]
    assert made[0] == made[1]
