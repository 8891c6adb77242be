"""Does `http:` read the log-probabilities of vLLM's own server, and are they those of HF?"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch

import parity
import parity_oracles
from parity.align import align
from parity.compare import compare_aligned
from parity.errors import RunnerError
from parity.floor import Floor
from parity.ladder.sweep import oracle_trace, sweep, sweep_against
from parity.promptfile import read_prompt
from parity.records import Verdict
from parity.runner import CapturePlan, Request, Schedule, open_runner
from parity.stages import term
from parity.trace import DiskTrace, Trace, open_trace
from parity_oracles.vllm.engine import SETTINGS
from parity_oracles.vllm.opening import find_python

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "fixtures/models/moe-tiny"
NEAR = 1e-4
"""Nats. HF and vLLM in FP32 are 1e-6 apart (rel_l2 of logits of up to 30), and a log-probability is a sum of them."""

CHUNK = 64
"""Rows of a step at most: prompts that are longer are computed in several, beside rows of others."""
JUDGED = {"attn.q", "attn.k_rope", "attn.context", "moe.down", "moe.experts", "resid.out", "logits"}
PROMPTS = ("short-threading-96", "document-webbrowser-600")
MADE = {200: 6, 96: 9, 33: 24, 7: 30}
"""Ids to make after a prompt of so many: the short ones go on while the long ones are fed."""
WHOLE = {200, 33}
"""Prompts of which log-probabilities are asked too: logits of all their rows."""


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
        "--max-num-batched-tokens", str(CHUNK), "--max-num-seqs", "8",
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
    assert judged >= JUDGED
    assert {phase for phase in (c.phase for c in trace.captures)} == {"prefill", "decode"}


@pytest.fixture(scope="module")
def several(server: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trace, dict[int, Any]]:
    """Four clients at once between start and stop: the trace, and what each was told, by the length of its prompt.

    Two prompts are longer than a chunk, and one is the beginning of another: rows of equal bits lie in one batch.
    """
    folder = tmp_path_factory.mktemp("several") / "trace"
    threading, browser = (read_prompt(ROOT / f"fixtures/prompts/{name}.json").ids for name in PROMPTS)
    prompts = [list(browser[:200]), list(threading[:96]), list(threading[:33]), list(browser[300:307])]
    root, ready = server.removesuffix("/v1"), Barrier(len(prompts))

    def client(prompt: list[int]) -> Any:
        ready.wait(60)
        return ask(server, "/completions", model="tiny", prompt=prompt, max_tokens=MADE[len(prompt)], temperature=0,
                   logprobs=1, return_token_ids=True, ignore_eos=True,
                   prompt_logprobs=1 if len(prompt) in WHOLE else None)  # fmt: skip

    ask(root, "/collective_rpc", method="parity_start", args=[str(folder)])
    with ThreadPoolExecutor(len(prompts)) as clients:
        answers = list(clients.map(client, prompts))
    told = ask(root, "/collective_rpc", method="parity_stop")
    assert "of 4 requests" in str(told)
    asked = zip(prompts, answers, strict=True)
    return open_trace(folder), {len(prompt): (prompt, made["choices"][0]["token_ids"]) for prompt, made in asked}


def prompt_length(trace: Trace, number: int, told: dict[int, Any]) -> int:
    """The length of the prompt of a request of the trace, known by its ids."""
    return next(n for n, (ids, made) in told.items() if list(trace.run.requests[number]) == [*ids, *made[:-1]])


def first_row(stage: str, prompt: int) -> int:
    """Of a request with a prompt of so many ids: logits are those of what was asked."""
    return prompt - 1 if stage == "logits" and prompt not in WHOLE else 0


@pytest.mark.long
@pytest.mark.timeout(900)
def test_clients_at_once_are_packed_and_chunked_and_each_keeps_its_ids(several: tuple[Trace, dict[int, Any]]):
    trace, told = several
    assert trace.complete
    assert {len(made) for _, made in told.values()} == set(MADE.values())
    assert sorted(prompt_length(trace, number, told) for number in range(4)) == sorted(MADE)
    chunks = defaultdict[int, list[int]](list)
    for c in trace.select(stage="resid.out", layer=0, phase="prefill"):
        for number in sorted(set(c.rows.request.tolist())):
            chunks[number].append(int((c.rows.request == number).sum()))
    assert all(max(sizes) <= CHUNK for sizes in chunks.values())
    assert max(map(len, chunks.values())) > 3  # 200 rows
    # A step that ends before the prompt does is full: what is missing were rows of other clients.
    assert any(size < CHUNK for sizes in chunks.values() for size in sizes[:-1])


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_row_of_clients_at_once_is_there_once(several: tuple[Trace, dict[int, Any]]):
    """Each (request, position) at every site; expert rows once for each of its experts; logits where ids were made."""
    trace, told = several
    slots = trace.run.hyper["top_k"]
    for layer, stage in trace.run.declared:
        rows = Counter(
            row
            for c in trace.select(stage=stage, layer=layer)
            for row in zip(c.rows.request.tolist(), c.rows.position.tolist(), strict=True)
        )
        wanted = {
            (number, position): slots if term(stage).axes[0] == "R" else 1
            for number, ids in enumerate(trace.run.requests)
            for position in range(first_row(stage, prompt_length(trace, number, told)), len(ids))
        }
        assert dict(rows) == wanted, (layer, stage)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_client_at_once_computed_what_hf_computes(several: tuple[Trace, dict[int, Any]]):
    """The whole trace, and each request by itself: rows of another request would be far over the floor."""
    trace, _ = several
    oracle, floor = open_runner(f"hf:{MODEL}"), Floor.load(ROOT / "fixtures/floors/fp32.json")
    truth = oracle_trace(oracle, trace)
    summary = sweep_against(oracle, truth, trace, floor=floor)
    assert summary.healthy, summary.verdicts
    judged = {one.stage for one in summary.comparisons if one.verdict in (Verdict.WITHIN_FLOOR, Verdict.MATCH)}
    assert judged >= JUDGED
    for number in range(4):
        alone = set[str]()
        for layer, stage in trace.run.declared:
            if stage == "moe.topk_ids":
                continue  # of each request in the summary
            a, b = (align(t, stage, layer, number) for t in (truth, trace))
            assert a is not None
            assert b is not None
            same = a.tensor[-len(b.position) :]  # of logits the last rows; all of any other stage
            assert a.position[-len(b.position) :].tolist() == b.position.tolist()
            for one in compare_aligned(oracle=same, sut=b, floor=floor, mode="chained"):
                assert one.verdict.healthy, (number, one.name, one.reason)
                alone |= {stage} if one.verdict in (Verdict.WITHIN_FLOOR, Verdict.MATCH) else set()
        assert alone >= JUDGED, number
    a, b = (align(t, "attn.q", 0, 0) for t in (truth, trace))
    assert a is not None
    assert b is not None
    misfiled = compare_aligned(oracle=a.tensor.roll(1, 0), sut=b, floor=floor, mode="chained")
    assert {one.verdict for one in misfiled} == {Verdict.EXCEEDS_FLOOR}  # the floor would tell a row from its neighbour


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_command_judges_a_servers_trace(several: tuple[Trace, dict[int, Any]]):
    trace, _ = several
    assert isinstance(trace, DiskTrace)
    command = [sys.executable, "-m", "parity_oracles.vllm.compare", "--oracle", f"hf:{MODEL}", "--json"]
    given = ["--trace", str(trace.folder), "--floor", str(ROOT / "fixtures/floors/fp32.json")]
    ended = subprocess.run([*command, *given], capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["healthy"]
    assert told["unobservable"].keys() == {"moe.gate", "moe.up", "moe.act"}
    assert (told["isolated"]["added"], told["isolated"]["worst_over_floor"] < 1) == ([], True)
