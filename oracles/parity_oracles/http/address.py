"""Which server is meant? A URL that may stand in a trace: no user, no password, no query."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from parity.errors import UsageError


@dataclass(frozen=True)
class Address:
    """base: where `/completions` hangs, without a slash at its end (`http://host:8000/v1`); root: without `/v1`."""

    base: str

    @property
    def root(self) -> str:
        return self.base.removesuffix("/v1")


def parse_address(text: str) -> Address:
    """`http://host:port` or `https://host/path`; `/v1` is put behind a bare host, `//host` is read as `http://host`.

    Raises UsageError for anything else, and for an address that carries a secret, which is not shown.
    """
    url = f"http:{text}" if text.startswith("//") else text
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    secret = parts.username is not None or parts.password is not None or bool(parts.query)
    plain = url.isascii() and url.isprintable() and " " not in url
    if secret or not host or parts.scheme not in ("http", "https") or parts.fragment or not plain or len(url) > 2000:
        raise UsageError(
            place="address of the server",
            expected="http://HOST:PORT or https://HOST/PATH, without user, password, query or fragment",
            found="one that carries a user, a password or a query" if secret else repr(text)[:200],
            next_step="Give http:http://127.0.0.1:8000/v1; a key goes into the environment, never into the address.",
        )
    path = parts.path.rstrip("/").removesuffix("/completions")
    return Address(f"{parts.scheme}://{parts.netloc}{path or '/v1'}")
