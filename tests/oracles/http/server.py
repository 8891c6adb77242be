"""A completions server on a free port that misbehaves on demand: what tests of the HTTP runner talk to.

Run as `python server.py ENGINE`, ENGINE being `toy:VOCABULARY` or the specification of a runner (`recipe:FOLDER`). It
prints its port. `POST /test/behave {...}` sets how it behaves from then on; `GET /test/seen` tells what it was sent.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

DEFAULT: dict[str, Any] = {
    "prompt_logprobs": True,  # answers prompt_logprobs
    "echo": True,
    "token_ids": True,  # answers return_token_ids
    "as_ids": True,  # honours return_tokens_as_token_ids
    "content": False,  # logprobs in the chat form, as llama.cpp
    "most": 10**9,  # log-probabilities it allows
    "strict": [],  # parameters it refuses
    "fault": None,  # of the line or the answer
    "times": 10**9,  # how often the fault strikes
    "key": None,
    "texts": None,  # id -> text, for answers keyed by text
    "logit": None,  # [first position, factor]: the engine's logits from there on
    "sampler": None,  # "second" now and then, "penalty"
    "stop": None,  # ends after so many new ids
    "chat": "ids",  # ids, tokenize, template, none
    "conversation": [],  # the ids that a conversation becomes
}


class Toy:
    """Logits by a formula: no model, no wait."""

    def __init__(self, vocab: int) -> None:
        self.vocab = vocab

    def logits(self, ids: list[int]) -> list[list[float]]:
        rows = []
        for at, last in enumerate(ids):
            rows.append([4 * math.sin(0.37 * v * (1 + last % 7) + 0.9 * at) + math.sin(v) for v in range(self.vocab)])
        return rows


class Engine:
    """A runner of the lab, asked as a server would."""

    def __init__(self, spec: str) -> None:
        from parity.runner import Request, open_runner

        self.runner = open_runner(spec)
        self.vocab = self.runner.hyper.vocab
        self.known: dict[tuple[int, ...], list[list[float]]] = {}
        self.request = Request

    def logits(self, ids: list[int]) -> list[list[float]]:
        if tuple(ids) not in self.known:
            self.known[tuple(ids)] = self.runner.logits([self.request("r", tuple(ids))]).tolist()
        return self.known[tuple(ids)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: Any
    behaviour: ClassVar[dict[str, Any]] = dict(DEFAULT)
    seen: ClassVar[list[Any]] = []
    lock = threading.Lock()

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/test/seen":
            return self.send(self.seen)
        self.note(None)
        if self.broken():
            return None
        if self.path == "/v1/models":
            return self.send({"object": "list", "data": [{"id": "toy", "object": "model"}]})
        return self.send({"error": {"message": f"no {self.path}"}}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/test/behave":
            with self.lock:
                Handler.behaviour = {**DEFAULT, **body}
                Handler.seen = []
            return self.send({})
        self.note(body)
        key = self.behaviour["key"]
        if key and self.headers.get("Authorization") != f"Bearer {key}":
            given = self.headers.get("Authorization")
            return self.send({"error": {"message": f"Incorrect API key provided: {given}"}}, 401)
        if self.broken():
            return None
        for name in self.behaviour["strict"]:
            if name in body:
                return self.send({"error": {"message": f"Unrecognized request argument supplied: {name}"}}, 400)
        routes = {"/v1/completions": self.complete, "/v1/chat/completions": self.chat, "/tokenize": self.tokenize,
                  "/apply-template": self.template}  # fmt: skip
        if self.path not in routes:
            return self.send({"error": {"message": f"no {self.path}"}}, 404)
        return routes[self.path](body)

    def note(self, body: Any) -> None:
        self.seen.append({"path": self.path, "body": body, "authorized": "Authorization" in self.headers})

    def send(self, content: Any, status: int = 200, **headers: str) -> None:
        self.send_raw(json.dumps(content).encode(), status, **{"Content-Type": "application/json", **headers})

    def send_raw(self, raw: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw) if length is None else length))
        self.end_headers()
        self.wfile.write(raw)

    def broken(self) -> bool:
        """Faults of the line; True when one struck."""
        fault = self.behaviour["fault"]
        with self.lock:
            if fault is None or self.behaviour["times"] <= 0:
                return False
            self.behaviour["times"] -= 1
        key = self.behaviour["key"] or ""
        plain = {
            "html": b"<html>502 Bad Gateway from a proxy</html>",
            "events": b'data: {"choices": []}\n\ndata: [DONE]\n\n',
            "empty": b"",
            "deep": b"[" * 100_000,
            "not utf-8": b'{"choices": "\xff\xfe"}',
            "key in html": b"<html>you sent " + key.encode() + b"</html>",
            "no choices": b'{"id": "x"}',
            "two choices": b'{"choices": [{}, {}]}',
            "a list": b"[1, 2, 3]",
            "huge": b'"' + b"x" * 300_000 + b'"',
        }
        if fault in plain:
            self.send_raw(plain[fault])
        elif isinstance(fault, int):
            message = {"error": {"message": f"trouble with {key}"}}
            self.send(message, fault, **({"Location": f"http://127.0.0.1:9/?k={key}"} if fault < 400 else {}))
        elif fault == "later":
            self.send({"message": "busy"}, 429, **{"Retry-After": "7"})
        elif fault == "slow":
            time.sleep(1.2)
            self.close_connection = True
        elif fault == "drip":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            try:
                for _ in range(30):
                    self.wfile.write(b" ")
                    time.sleep(0.1)
            except OSError:
                pass
            self.close_connection = True
        elif fault == "half":
            self.send_raw(b'{"choices": [{"text": "ab', length=5000)
            self.close_connection = True
        elif fault == "half chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b'10\r\n{"choices": [{"t\r\n')
            self.close_connection = True
        elif fault == "hang up":
            self.close_connection = True
        elif fault == "no http":
            self.wfile.write(b"SSH-2.0-OpenSSH_9.2 " + key.encode() + b"\r\n")
            self.close_connection = True
        else:
            return False
        return True

    def complete(self, body: dict[str, Any]) -> None:
        how, top = self.behaviour, body.get("logprobs")
        for name in ("logprobs", "prompt_logprobs"):
            if (body.get(name) or 0) > how["most"]:
                return self.send({"error": {"message": f"{name} must be at most {how['most']} logprobs"}}, 400)
        prompt, new = list(body["prompt"]), int(body["max_tokens"])
        fault = how["fault"]
        if fault == "adds bos":
            prompt = [0, *prompt]
        if fault == "no max_tokens":
            new = 5
        new = min(new, how["stop"]) if how["stop"] is not None else new
        rows, ids = self.run(prompt, new, body)
        first = len(prompt) - 1
        rows = rows[: first + len(ids)]
        choice: dict[str, Any] = {"index": 0, "text": "".join(map(self.text, ids)), "finish_reason": "length"}
        shown_prompt = rows[:first]
        if how["token_ids"] and body.get("return_token_ids"):
            choice |= {"token_ids": ids, "prompt_token_ids": prompt}
        if how["prompt_logprobs"] and body.get("prompt_logprobs"):
            listed = [
                self.by_id(row, body["prompt_logprobs"], own) for row, own in zip(shown_prompt, prompt[1:], strict=True)
            ]
            choice["prompt_logprobs"] = [None, *listed]
        if top is not None:
            tokens, shown = ids, rows[first:]
            if how["echo"] and body.get("echo"):
                tokens, shown = [*prompt, *ids], [None, *rows]
            choice["logprobs"] = self.logprobs(tokens, shown, top, body)
        if fault == "no logprobs":
            choice["logprobs"] = None
        if fault == "no top_logprobs":
            choice["logprobs"]["top_logprobs"] = None
        if fault == "short logprobs":
            choice["logprobs"]["tokens"].pop()
        if fault == "short prompt_logprobs":
            choice["prompt_logprobs"].pop()
        if fault == "hole in prompt_logprobs":
            choice["prompt_logprobs"][2] = None
        if fault == "probabilities":
            choice["prompt_logprobs"][1] = {"3": {"logprob": 0.7}}
        if fault == "words":
            choice["prompt_logprobs"][1] = {"3": {"logprob": "-0.7"}}
        if fault == "foreign id":
            choice["prompt_logprobs"][1] = {"999999": {"logprob": -0.7}}
        if fault == "not a number":
            choice["prompt_logprobs"][2] = {str(n): {"logprob": math.nan} for n in range(self.engine.vocab)}
        if fault == "foreign new id":
            choice["token_ids"] = [10**6 for _ in ids]
        answer: dict[str, Any] = {
            "id": "cmpl-1",
            "object": "text_completion",
            "model": body["model"],
            "choices": [choice],
        }
        answer["usage"] = {"prompt_tokens": len(prompt), "completion_tokens": len(ids)}
        if fault == "key in text":
            choice["text"] = f"the key is {how['key']}"
        return self.send(answer)

    def run(self, prompt: list[int], new: int, body: dict[str, Any]) -> tuple[list[list[float]], list[int]]:
        """Log-probabilities of prompt and new ids but the last, and the ids chosen."""
        ids, chosen = list(prompt), []
        rows = self.logprob_rows(ids)
        bias = {int(name): value for name, value in (body.get("logit_bias") or {}).items()}
        for _ in range(new):
            row = [value + bias.get(v, 0) for v, value in enumerate(rows[-1])]
            if self.behaviour["sampler"] == "penalty":
                row = [value - 100.0 * (v in chosen) for v, value in enumerate(row)]
            order = sorted(range(len(row)), key=lambda v: -row[v])
            second = self.behaviour["sampler"] == "second" and len(chosen) % 2 == 1
            chosen.append(order[1 if second else 0])
            ids.append(chosen[-1])
            if len(chosen) < new:
                rows = self.logprob_rows(ids)
        return rows, chosen

    def logprob_rows(self, ids: list[int]) -> list[list[float]]:
        found = []
        for at, row in enumerate(self.engine.logits(ids)):
            if self.behaviour["logit"] and at >= self.behaviour["logit"][0]:
                row = [value * self.behaviour["logit"][1] for value in row]
            top = max(row)
            total = top + math.log(sum(math.exp(value - top) for value in row))
            found.append([value - total for value in row])
        return found

    def text(self, number: int) -> str:
        texts = self.behaviour["texts"] or {}
        return texts.get(str(number), f"<{number}>")

    def best(self, row: list[float], top: int, own: int) -> list[int]:
        order = sorted(range(len(row)), key=lambda v: -row[v])[:top]
        return order if own in order else [*order, own]

    def by_id(self, row: list[float], top: int, own: int) -> dict[str, Any]:
        return {str(v): {"logprob": row[v], "rank": n, "decoded_token": self.text(v)}
                for n, v in enumerate(self.best(row, top, own), 1)}  # fmt: skip

    def logprobs(self, tokens: list[int], rows: list[Any], top: int, body: dict[str, Any]) -> dict[str, Any]:
        as_ids = self.behaviour["as_ids"] and body.get("return_tokens_as_token_ids")
        spell = (lambda v: f"token_id:{v}") if as_ids else self.text
        if self.behaviour["content"]:
            entries = []
            for token, row in zip(tokens, rows, strict=True):
                best = [{"id": v, "token": self.text(v), "logprob": row[v]} for v in self.best(row, top, token)]
                word = {"id": token, "token": self.text(token), "logprob": row[token], "top_logprobs": best}
                entries.append(word)
            return {"content": entries}
        return {
            "tokens": [spell(token) for token in tokens],
            "token_logprobs": [None if row is None else row[token] for token, row in zip(tokens, rows, strict=True)],
            "top_logprobs": [
                None if row is None else {spell(v): row[v] for v in self.best(row, top, token)}
                for token, row in zip(tokens, rows, strict=True)
            ],
        }

    def chat(self, body: dict[str, Any]) -> None:
        kind, ids = self.behaviour["chat"], self.behaviour["conversation"]
        if kind == "none":
            return self.send({"error": {"message": "no chat"}}, 404)
        answer: dict[str, Any] = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "a"}}]}
        answer["usage"] = {"prompt_tokens": len(ids) + (self.behaviour["fault"] == "counts one more")}
        if kind == "ids":
            answer["prompt_token_ids"] = ids
        return self.send(answer)

    def tokenize(self, body: dict[str, Any]) -> None:
        kind, ids = self.behaviour["chat"], self.behaviour["conversation"]
        known = (kind == "tokenize" and "messages" in body) or (kind == "template" and "content" in body)
        return self.send({"tokens": ids if known else []})

    def template(self, body: dict[str, Any]) -> None:
        if self.behaviour["chat"] != "template":
            return self.send({"error": {"message": "no template"}}, 404)
        return self.send({"prompt": "some text"})


def main() -> None:
    kind, _, rest = sys.argv[1].partition(":")
    Handler.engine = Toy(int(rest)) if kind == "toy" else Engine(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    # Ends with its parent: a test that dies leaves no server behind.
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
