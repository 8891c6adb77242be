"""Does `http:` read the log-probabilities of vLLM's own server, and are they those of HF?"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import parity
import parity_oracles
from parity.align import align
from parity.errors import RunnerError
from parity.floor import Floor
from parity.ladder.sweep import sweep
from parity.promptfile import read_prompt
from parity.records import Verdict
from parity.runner import CapturePlan, Request, Schedule, open_runner
from parity.trace import open_trace
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
    packages = tmp_path_factory.mktemp("packages")  # the lab alone, not what is installed beside it
    for package in (parity, parity_oracles):
        home = Path(next(iter(package.__path__))).resolve()
        (packages / home.name).symlink_to(home)
    environment = {**os.environ, **SETTINGS, "VLLM_ENABLE_V1_MULTIPROCESSING": "1", "PYTHONPATH": str(packages),
                   "VLLM_SERVER_DEV_MODE": "1"}  # fmt: skip
    command = [
        python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL), "--served-model-name", "tiny",
        "--dtype", "float32", "--enforce-eager", "--max-model-len", "256", "--host", "127.0.0.1", "--port", str(port),
        "--gpu-memory-utilization", "0.3", "--max-logprobs", "64", "--no-async-scheduling",
        "--worker-extension-cls", "parity_oracles.vllm.server.Capturing",
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


def ask(address: str, path: str, **content: Any) -> Any:
    """The answer to a POST of JSON."""
    body = json.dumps(content).encode()
    request = urllib.request.Request(f"{address}{path}", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_stages_are_captured_inside_the_server(server: str, tmp_path: Path):
    """Between two calls, of a client's own request: every stage that the runner shows, within the floor of FP32."""
    root, ids = (
        server.removesuffix("/v1"),
        list(read_prompt(ROOT / "fixtures/prompts/short-threading-96.json").ids[:60]),
    )
    ask(root, "/collective_rpc", method="parity_start", args=[str(tmp_path / "trace")])
    made = ask(server, "/completions", model="tiny", prompt=ids, max_tokens=4, temperature=0, logprobs=1,
               return_token_ids=True)  # fmt: skip
    told = ask(root, "/collective_rpc", method="parity_stop")
    assert "of 1 requests" in str(told)
    trace = open_trace(tmp_path / "trace")
    assert trace.complete
    assert list(trace.run.requests[0][:60]) == ids
    assert list(trace.run.requests[0][60:]) == made["choices"][0]["token_ids"][:3]
    summary = sweep(open_runner(f"hf:{MODEL}"), trace, floor=Floor.load(ROOT / "fixtures/floors/fp32.json"))
    assert not [one.name for one in summary.comparisons if one.verdict is Verdict.EXCEEDS_FLOOR]
    judged = {one.stage for one in summary.comparisons if one.verdict in (Verdict.WITHIN_FLOOR, Verdict.MATCH)}
    assert {"attn.q", "attn.k_rope", "attn.context", "moe.down", "moe.experts", "resid.out", "logits"} <= judged
    assert {phase for phase in (c.phase for c in trace.captures)} == {"prefill", "decode"}
