"""How do a foreign tensor's axes become those of its stage? Sizes split an axis, letters say the order."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from parity.errors import ParityError
from parity.stages import Term

Refuse = Callable[[str, str], ParityError]
"""Makes the error to raise from (expected, found), in the caller's words."""


def spells_axes(own: tuple[str, ...], word: Term) -> bool:
    """True when `own` names each axis of the stage once, in any order; `1` is dropped, R may lie as T and S."""
    letters = "".join(own).replace("1", "")
    wanted = "".join(word.axes)
    spelled = sorted(letters) in (sorted(wanted), sorted(wanted.replace("R", "TS")))
    return spelled and not any("1" in one and len(one) > 1 for one in own)


def lay_out(
    tensor: torch.Tensor, own: tuple[str, ...] | None, word: Term, sizes: Mapping[str, int], *, refuse: Refuse
) -> tuple[torch.Tensor, int]:
    """A view or copy of `tensor` with the axes of the stage `word`, and how many rows a token has there.

    own: the axes as they lie, slowest first, each a letter, `1` for a size of one, or letters that lie in one axis
    (`HK`); None: as the vocabulary has them. Expert rows that lie as T and S become rows in (token, slot) order.
    At most one of the letters in one axis may be without a size; a known size is checked. Raises what `refuse` makes.
    """
    wanted = word.axes
    own = own or (("T", "S", *wanted[1:]) if wanted[0] == "R" and tensor.dim() > len(wanted) else wanted)
    if tensor.dim() != len(own):
        raise refuse(f"axes {list(own)}", f"shape {list(tensor.shape)}")
    shape: list[int] = []
    for size, letters in zip(tensor.shape, own, strict=True):
        shape += _split(size, letters, sizes, refuse)
    tensor = tensor.reshape(shape)
    flat = "".join(own).replace("1", "")
    order = "".join(wanted).replace("R", "TS") if "R" not in flat else "".join(wanted)
    tensor = tensor.permute([flat.index(letter) for letter in order])
    slots = 1
    if wanted[0] == "R":
        slots = tensor.shape[1] if order[:2] == "TS" else sizes.get("S", 0)
        if not slots or (order[0] == "R" and len(tensor) % slots):
            raise refuse("rows in (token, slot) order, and the size of S in the map", f"{list(tensor.shape)}")
        if order[:2] == "TS":
            tensor = tensor.flatten(0, 1)
    for letter, size in zip(wanted, tensor.shape, strict=True):
        if letter in sizes and size != sizes[letter]:
            raise refuse(f"{letter} of size {sizes[letter]}", str(size))
    return tensor, slots


def _split(size: int, letters: str, sizes: Mapping[str, int], refuse: Refuse) -> list[int]:
    """The sizes of the axes that lie in one; none for an axis of one that is dropped."""
    if letters == "1":
        if size != 1:
            raise refuse("a size of 1 at the axis `1`", str(size))
        return []
    known = [sizes.get(letter) for letter in letters] if len(letters) > 1 else [None]
    rest = 1
    for value in known:
        rest *= value or 1
    if known.count(None) > 1 or size % rest or (None not in known and size != rest):
        raise refuse(f"an axis {letters} that the map's sizes split", str(size))
    return [size // rest if value is None else value for value in known]
