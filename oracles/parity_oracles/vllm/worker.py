"""The engine's process: vLLM behind a pipe. Reads messages from standard input, answers where its standard output was.

    python -m parity_oracles.vllm.worker

The first message holds the options of `opening.open_here`. vLLM's own printing goes to standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

from parity_oracles.vllm.opening import open_here
from parity_oracles.vllm.wire import (
    decode_plan,
    decode_requests,
    decode_schedule,
    encode_error,
    encode_info,
    read_line,
    write_line,
)
from parity_oracles.vllm.wire_grafts import decode_grafts


def answer(runner: Any, message: dict[str, Any]) -> Any:
    """What the runner answers to a message: `describe`, `forward`, `generate`, `scale_parameter`."""
    what = message["do"]
    if what == "describe":
        return encode_info(runner.describe())
    if what == "unobservable":
        return runner.unobservable
    if what == "forward":
        runner.forward(
            decode_requests(message["requests"]),
            schedule=decode_schedule(message["schedule"]),
            capture=decode_plan(message["plan"]),
            **_grafts(message),
        )
        return None
    if what == "generate":
        (request,) = decode_requests(message["requests"])
        schedule = decode_schedule(message["schedule"])
        made = runner.generate(request, max_new_tokens=message["new"], schedule=schedule, **_grafts(message))
        return {"ids": list(made.ids), "text": made.text, "sampler": dict(made.sampler)}
    if what == "scale_parameter":
        return runner.scale_parameter(message["name"], message["index"], message["factor"])
    raise ValueError(f"no such message: {what!r}")


def _grafts(message: dict[str, Any]) -> dict[str, Any]:
    """The grafts of a call, where it has some."""
    grafts = decode_grafts(message.get("grafts"))
    return {"graft": grafts} if grafts else {}


def serve(messages: BinaryIO, answers: BinaryIO, open_runner: Callable[..., Any]) -> None:
    """Answer messages until there are no more; an error is an answer, and the next message is read."""

    def say(message: dict[str, Any]) -> None:
        answers.write(write_line(message))
        answers.flush()

    runner: Any = None
    for line in messages:
        try:
            message = read_line(line)
            if message["do"] == "open":
                runner = open_runner(**message["options"])
                runner.on_step = lambda *event: say({"step": list(event)})
                say({"ok": None})
            else:
                say({"ok": answer(runner, message)})
        except Exception as error:
            say({"error": encode_error(error)})
    if runner is not None:
        runner.close()


def main() -> None:
    """Serve on the standard streams; whatever else writes to standard output goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, answers, open_here)
    answers.close()


if __name__ == "__main__":
    main()
