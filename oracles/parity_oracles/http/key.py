"""Where does the API key come from, and what keeps it out of everything that is written?"""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import quote

from parity.errors import UsageError

VARIABLE = "PARITY_HTTP_API_KEY"
SHORTEST = 8
"""Characters; a shorter word could stand in an answer by chance, and taking it out would change the answer."""
REMOVED = "[API key]"


class Key:
    """The API key of a server, or none. It shows itself nowhere: not printed, not pickled."""

    def __init__(self, secret: str | None = None) -> None:
        self._secret = secret
        spelled = () if secret is None else (secret, json.dumps(secret)[1:-1], quote(secret, safe=""))
        self._spelled = tuple(dict.fromkeys(spelled))

    def headers(self) -> dict[str, str]:
        """What a request carries."""
        return {} if self._secret is None else {"Authorization": f"Bearer {self._secret}"}

    def hide(self, text: str) -> str:
        """`text` without the key: servers repeat it in their messages."""
        for spelled in self._spelled:
            text = text.replace(spelled, REMOVED)
        return text

    def hide_in(self, value: Any) -> Any:
        """A parsed answer without the key, at any depth; itself where there is no key."""
        if not self._spelled:
            return value
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, list):
            return [one if isinstance(one, (int, float)) else self.hide_in(one) for one in value]
        if isinstance(value, dict):
            for name in list(value):
                held = value.pop(name)
                value[self.hide(name)] = self.hide_in(held)
        return value

    def __repr__(self) -> str:
        return "Key(none)" if self._secret is None else f"Key({REMOVED})"

    def __reduce__(self) -> Any:
        raise TypeError("an API key is not handed to another process; it reads its own environment")


def read_key(variable: str = VARIABLE) -> Key:
    """The key in that environment variable, blanks around it cut off; none where it is unset or empty.

    Raises UsageError, without the value, for one that no header can carry and for one too short to be kept out of
    what is written.
    """
    value = os.environ.get(variable, "").strip()
    if not value:
        return Key()
    if len(value) < SHORTEST or not all(33 <= ord(letter) <= 126 for letter in value):
        raise UsageError(
            place=f"environment variable {variable}",
            expected=f"an API key of at least {SHORTEST} printable ASCII characters without blanks",
            found=f"{len(value)} characters" + (", others among them" if len(value) >= SHORTEST else ""),
            next_step="Unset it for a server that asks for no key.",
        )
    return Key(value)
