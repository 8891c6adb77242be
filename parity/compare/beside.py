"""What is said of a block of columns that is wrong by its own measure, and small beside the rest of its row?

A derived floor allows accumulation of the size of a whole row, since nothing says what was added up to give an element.
Beside a block a thousand times larger that allowance covers whatever a small block holds. Most arithmetic is kinder:
an element-wise stage, a norm, a product by blocks errs by what its own values are. So each stretch of a row is measured
by its own size too; what is over that and under the other is neither cleared nor called wrong.
"""

from __future__ import annotations


def beside_larger(over: float, row: str, columns: str, rows: int) -> str:
    """The reason of a NO_POWER. over: |d| over what the block's own size explains; rows: how many have such a block."""
    return (
        f"{columns} of {row} differ by {over:.3g} times what roundings and accumulation of their own size explain "
        f"({rows} rows have such a block); beside the larger rest of the row accumulation of the row's size would "
        f"explain it: compare these columns as a tensor of their own"
    )
