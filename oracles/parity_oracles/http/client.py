"""How does a request reach the server, and what comes of it when either of them fails?

Repeated is only what cannot have been worked on: a connection that was never made, an answer that says "not now" (429,
503). A GET is repeated after any failure of the line as well. A completion whose answer broke off is not: the server
may have died of it, and that is a finding.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from parity.errors import RunnerError
from parity_oracles.http.address import Address
from parity_oracles.http.key import Key

NOT_NOW = (429, 503)
BROKEN = (500, 502, 504)
LONGEST_WAIT = 30.0
"""Seconds between two tries, whatever Retry-After says."""
SAID = 300
"""Characters of a server's own words that an error repeats."""


@dataclass(frozen=True)
class Limits:
    """seconds: for a whole answer, first try to last byte of one try; connect: to be connected. tries: in all.
    backoff: seconds before the second try, doubled for each further one. most_bytes: of one answer."""

    seconds: float = 600.0
    connect: float = 10.0
    tries: int = 4
    backoff: float = 0.5
    most_bytes: int = 2**30


class Said(dict[str, Any]):
    """A JSON object; `twice`: keys that stood in it more than once, of which the last value is kept."""

    twice: frozenset[str] = frozenset()


class Refusal(RunnerError):
    """The server answered with an error; `status` is its HTTP code."""

    status: int = 0


class Client:
    """Requests to one server. Each has a connection of its own; redirects are not followed (a key would follow them);
    proxies and netrc are not consulted."""

    def __init__(
        self, address: Address, key: Key, limits: Limits = Limits(), sleep: Callable[[float], None] = time.sleep
    ):
        self.address = address
        self.limits = limits
        self.repeated = 0
        self._key = key
        self._sleep = sleep
        self._http = httpx.Client(
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            timeout=httpx.Timeout(limits.seconds, connect=min(limits.connect, limits.seconds)),
            limits=httpx.Limits(max_keepalive_connections=0),
            follow_redirects=False,
            trust_env=False,
        )

    def get(self, url: str) -> Any:
        """The JSON at `url`."""
        return self._ask("GET", url, None)

    def post(self, url: str, body: Mapping[str, Any]) -> Any:
        """The JSON that the server answers `body` with."""
        return self._ask("POST", url, body)

    def hide(self, text: str) -> str:
        """A text of the server's without the key and without control characters, short enough for an error."""
        clean = "".join(letter if letter.isprintable() else " " for letter in text[: 4 * SAID])
        return " ".join(self._key.hide(clean).split())[:SAID]

    def close(self) -> None:
        self._http.close()

    def _ask(self, method: str, url: str, body: Mapping[str, Any] | None) -> Any:
        for number in range(1, self.limits.tries + 1):
            failure, again, wait = None, False, None
            try:
                status, headers, raw = self._exchange(method, url, body)
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                failure, again = self._no_answer(url, error, "no connection"), True
            except httpx.TimeoutException as error:
                failure, again = self._no_answer(url, error, f"none within {self.limits.seconds:g} s"), method == "GET"
            except httpx.HTTPError as error:
                failure, again = self._no_answer(url, error, "a connection that broke off"), method == "GET"
            except ValueError as error:  # h11 and httpx refuse what is no HTTP or no URL
                failure = self._no_answer(url, error, "no HTTP")
            else:
                if 200 <= status < 300:
                    return self._parse(url, headers, raw)
                failure = self._refusal(url, status, headers, raw)
                again = status in NOT_NOW or (method == "GET" and status in BROKEN)
                wait = _seconds(headers.get("retry-after"))
            if not again or number == self.limits.tries:
                raise failure
            self.repeated += 1
            own = self.limits.backoff * 2 ** (number - 1)
            self._sleep(min(max(own, wait or 0.0), LONGEST_WAIT))
        raise AssertionError("unreachable")

    def _exchange(self, method: str, url: str, body: Mapping[str, Any] | None) -> tuple[int, httpx.Headers, bytes]:
        """One try: status, headers and all bytes of the answer, in time and within the size that is allowed."""
        stop = time.monotonic() + self.limits.seconds
        parts, size = [], 0
        with self._http.stream(method, url, json=body, headers=self._key.headers()) as answer:
            for part in answer.iter_bytes():
                size += len(part)
                parts.append(part)
                if size > self.limits.most_bytes:
                    raise self._error(
                        url, f"an answer of at most {self.limits.most_bytes} bytes", "a longer one",
                        "Ask for fewer log-probabilities (option top), or raise the option most_bytes.",
                    )  # fmt: skip
                if time.monotonic() > stop:  # a server that drips never runs into a time-out of the line
                    raise httpx.ReadTimeout("the answer did not end in time")
            return answer.status_code, answer.headers, b"".join(parts)

    def _parse(self, url: str, headers: httpx.Headers, raw: bytes) -> Any:
        try:
            return self._key.hide_in(json.loads(raw.decode("utf-8"), object_pairs_hook=_said))
        except (ValueError, RecursionError) as error:
            kind = self.hide(headers.get("content-type", "of no kind"))
            start = self.hide(raw[:200].decode("utf-8", errors="replace"))
            streamed = raw.lstrip().startswith((b"data:", b"event:"))
            raise self._error(
                url, "one JSON answer",
                f"{len(raw)} bytes ({kind}) that " + ("are a stream of events" if streamed else "are no JSON")
                + f", beginning {start!r}",
                "The server ignores `stream`: false." if streamed else
                "An answer that breaks off, or a page that is not the API's: check the address and its /v1.",
            ) from error  # fmt: skip

    def _refusal(self, url: str, status: int, headers: httpx.Headers, raw: bytes) -> Refusal:
        said = raw[: 8 * SAID].decode("utf-8", errors="replace")
        try:
            content = json.loads(raw)
            inner = content.get("error", content) if isinstance(content, dict) else content
            said = str(inner.get("message", inner) if isinstance(inner, dict) else inner)
        except (ValueError, RecursionError):
            pass
        steps = {
            401: "Set the API key in the environment (PARITY_HTTP_API_KEY, or the variable that option key_env names).",
            403: "This key may not do that: see the server's own access rules.",
            404: "Check the address (it ends in /v1 for most servers) and the option model.",
        }
        moved = self.hide(headers.get("location", "")) if 300 <= status < 400 else ""
        error = Refusal(
            place=f"server {url}",
            expected="an answer",
            found=f"HTTP {status}" + (f" to {moved}" if moved else "") + f": {self.hide(said) or 'no word why'}",
            next_step="Give the address that it points to; redirects are not followed, a key would be sent along."
            if moved else steps.get(status, "See the server's log."),
        )  # fmt: skip
        error.status = status
        return error

    def _no_answer(self, url: str, error: Exception, found: str) -> RunnerError:
        step = "Check that the server runs at that address, and its log; a slow one needs the option timeout."
        return self._error(url, "an answer", f"{found} ({type(error).__name__}: {self.hide(str(error))})", step)

    def _error(self, url: str, expected: str, found: str, next_step: str) -> RunnerError:
        return RunnerError(place=f"server {url}", expected=expected, found=found, next_step=next_step)


def _said(pairs: list[tuple[str, Any]]) -> Said:
    value = Said(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        value.twice = frozenset(name for name, _ in pairs if name in seen or seen.add(name))
    return value


def _seconds(value: str | None) -> float | None:
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None
