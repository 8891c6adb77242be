"""Which ids do two short sequences share, in order? A longest common subsequence, a row of bits at a time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def matching_blocks(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[tuple[int, int, int]]:
    """Stretches (place in a, place in b, length) of one longest common subsequence, in order; none for empty sides.

    Time is len(a) * len(b) / 64 word operations, memory as many bits: rows of the dynamic programme are whole numbers
    of len(a) bits. Source: Hyyroe 2004, "Bit-parallel LCS-length computation revisited", with the rows kept to walk
    back through them.
    """
    width = len(a)
    full = (1 << width) - 1
    places: dict[Hashable, int] = {}
    for at, one in enumerate(a):
        places[one] = places.get(one, 0) | (1 << at)
    row, rows = full, [full]
    for one in b:
        hit = row & places.get(one, 0)
        row = ((row + hit) | (row - hit)) & full
        rows.append(row)
    # A zero bit i of row k: the subsequence of a[:i+1] and b[:k] is one longer than that of a[:i] and b[:k].
    pairs = []
    i, k = width, len(b)
    while i and k:
        if (rows[k] >> (i - 1)) & 1:
            i -= 1
        elif not (rows[k - 1] >> (i - 1)) & 1:
            k -= 1
        else:
            i, k = i - 1, k - 1
            pairs.append((i, k))
    blocks: list[tuple[int, int, int]] = []
    for i, k in reversed(pairs):
        if blocks and blocks[-1][0] + blocks[-1][2] == i and blocks[-1][1] + blocks[-1][2] == k:
            blocks[-1] = (*blocks[-1][:2], blocks[-1][2] + 1)
        else:
            blocks.append((i, k, 1))
    return blocks
