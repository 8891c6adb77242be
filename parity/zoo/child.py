"""One case in a process of its own: `python -m parity.zoo.child TASK ANSWER`.

The task says how to open the engine and which prompt to run; the answer is what the investigator returned, or why it
returned nothing. What is planted is known here as an option of the engine, and its truth not at all.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from parity.records import as_json
from parity.runner import Request, Schedule


def run_task(task: dict[str, Any]) -> dict[str, Any]:
    """Call the investigator that the task names, and return its answer as JSON values."""
    import torch

    from parity.zoo.blind import Setup

    torch.set_num_threads(task["threads"])
    module, _, function = task["investigator"].partition(":")
    investigator = getattr(import_module(module), function)
    setup = Setup(
        model=task["model"],
        floor=Path(task["floor"]),
        scratch=Path(task["scratch"]),
        new_tokens=task["new_tokens"],
        schedule=Schedule(chunk=task["chunk"], decode=task["decode"]),
        threads=task["threads"],
        claim=task["claim"],
    )
    request = Request(task["prompt"], tuple(task["ids"]))
    found = investigator(task["engine"], task["options"], request, setup)
    return {
        "status": "done",
        "finding": as_json(found.finding),
        "parts": dict(found.seconds),
        "forwards": found.forwards,
        "generations": found.generations,
        "stages": list(found.stages),
        "layers": found.layers,
        "said": dict(found.said),
    }


def main(task: Path, answer: Path) -> None:
    """Run the task in the file `task`; whatever happens, the file `answer` says it."""
    try:
        content = run_task(json.loads(task.read_text(encoding="utf-8")))
    except Exception as error:
        import traceback

        traceback.print_exc()
        content = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
    # Renamed into place: a process that is killed while it writes must not leave half an answer.
    half = answer.with_suffix(".half")
    half.write_text(json.dumps(content), encoding="utf-8")
    half.rename(answer)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
