"""Does `make notebook` open? The target's own command starts a server that shows the page and runs a notebook."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "0123456789abcdef"

pytestmark = [pytest.mark.long, pytest.mark.timeout(500)]


def command() -> str:
    """What the target runs, as a shell reads it, with the programs of this Python."""
    (recipe,) = re.findall(r"^notebook:.*\n\t(.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    asked = f"--no-browser --allow-root --port=0 --IdentityProvider.token={TOKEN}"
    return recipe.replace("../$(BIN)/", f"{Path(sys.executable).parent}/").replace("$(LAB)", asked)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a running JupyterLab on the notebooks, and its runtime folder."""
    pytest.importorskip("jupyterlab")
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    for source in (ROOT / "notebooks").glob("*.py"):
        shutil.copy(source, folder / "notebooks")
    for shared in ("fixtures", "docs", "sdk"):
        (folder / shared).symlink_to(ROOT / shared)
    runtime = folder / "runtime"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in (".", "kernels", "oracles")),
        "JUPYTER_RUNTIME_DIR": str(runtime), "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "PARITY_CACHE": str(folder / "cache"), "CI": "1",
    }  # fmt: skip
    with (folder / "log").open("w") as log:
        # `exec`: the shell becomes the server, which is then what is ended.
        shell = command().replace("&& " + str(Path(sys.executable).parent / "jupyter"), "&& exec "
                                  + str(Path(sys.executable).parent / "jupyter"))  # fmt: skip
        process = subprocess.Popen(["sh", "-c", shell], cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            yield wait_for(process, runtime, folder / "log"), runtime
        finally:
            process.terminate()
            process.wait(30)


def wait_for(process: subprocess.Popen[bytes], runtime: Path, log: Path) -> str:
    """The server's address once it answers, from the file that it leaves for others."""
    for _ in range(240):
        assert process.poll() is None, log.read_text()
        for file in runtime.glob("jpserver-*.json"):
            address = json.loads(file.read_text())["url"]
            try:
                ask(f"{address}api/status")
                return address
            except OSError:
                pass
        time.sleep(0.5)
    raise AssertionError(log.read_text())


def ask(url: str, content: Any = None) -> Any:
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, body, {"Authorization": f"token {TOKEN}", "Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status in (200, 201)
        text = answer.read().decode()
    return json.loads(text) if "/api/" in url else text


def test_it_answers_and_shows_every_notebook(server: tuple[str, Path]):
    address, _ = server
    assert "started" in ask(f"{address}api/status")
    listed = {entry["name"] for entry in ask(f"{address}api/contents")["content"] if entry["type"] == "notebook"}
    assert listed >= {f"{source.stem}.ipynb" for source in (ROOT / "notebooks").glob("*.py")}
    page = ask(f"{address}lab/tree/01_first_look.ipynb")
    assert "<title>JupyterLab</title>" in page


def test_a_notebook_runs_in_a_kernel_of_the_server(server: tuple[str, Path]):
    client_of = pytest.importorskip("jupyter_client").BlockingKernelClient
    address, runtime = server
    name = "01_first_look.ipynb"
    session = {"path": name, "name": name, "type": "notebook", "kernel": {"name": "python3"}}
    kernel = ask(f"{address}api/sessions", session)["kernel"]["id"]
    client = client_of(connection_file=str(runtime / f"kernel-{kernel}.json"))
    client.load_connection_file()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    kinds: set[str] = set()

    def hear(message: dict[str, Any]) -> None:
        kinds.update(message["content"].get("data", {}))

    for cell in ask(f"{address}api/contents/{name}?content=1")["content"]["cells"]:
        if cell["cell_type"] == "code":
            reply = client.execute_interactive(cell["source"], output_hook=hear, timeout=300)["content"]
            assert reply["status"] == "ok", "\n".join(reply.get("traceback", ()))
    client.stop_channels()
    assert {"text/html", "image/png"} <= kinds
