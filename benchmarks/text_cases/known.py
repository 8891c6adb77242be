"""Healthy texts that once raised a false alarm: fixed frames whose fields carry information."""

# ruff: noqa: E501 - the texts stand as they are read

from __future__ import annotations

from collections.abc import Callable, Iterator


def binary_search() -> str:
    low, high, goal, said = 0, 1023, 677, ""
    while low < high:
        middle = (low + high) // 2
        side = "too low, so we go right" if middle < goal else "high enough, so we go left"
        said += f"The range is {low} to {high}, the middle is {middle} and that is {side}.\n"
        low, high = (middle + 1, high) if middle < goal else (low, middle)
    return said + f"The number is {low}.\n"


def loan() -> str:
    left, said = 20_000.0, ""
    for month in range(1, 37):
        interest = left * 0.004
        paid = 598.0 - interest
        left -= paid
        said += f"In month {month} you pay {interest:.2f} in interest and {paid:.2f} of the loan, which leaves {left:.2f}.\n"
    return said


def leap_years() -> str:
    said = ""
    for year in (1600, 1700, 1780, 1800, 1812, 1900, 1911, 1936, 1984, 1999, 2000, 2004, 2023, 2024, 2050, 2100, 2104):
        if year % 400 == 0:
            said += f"The year {year} is a leap year because it can be divided by 400.\n"
        elif year % 100 == 0:
            said += f"The year {year} is not a leap year because it can be divided by 100 but not by 400.\n"
        elif year % 4 == 0:
            said += f"The year {year} is a leap year because it can be divided by 4 and not by 100.\n"
        else:
            said += f"The year {year} is not a leap year because it can not be divided by 4.\n"
    return said


def hanoi_moves(disks: int, a: str, b: str, c: str) -> Iterator[tuple[int, str, str]]:
    if disks:
        yield from hanoi_moves(disks - 1, a, c, b)
        yield disks, a, b
        yield from hanoi_moves(disks - 1, c, b, a)


def hanoi() -> str:
    moves = hanoi_moves(5, "left", "right", "middle")
    return "".join(f"Move disk {disk} from the {a} peg to the {b} peg.\n" for disk, a, b in moves)


def recipe() -> str:
    steps = (
        "flour in the bowl", "sugar in the bowl", "butter in the pan", "eggs in the bowl", "milk in the jug",
        "yeast in the jug", "salt in the bowl", "dough on the board", "nuts on the board", "raisins on the dough",
        "loaf in the tin", "tin in the oven", "glaze on the loaf", "loaf on the rack", "slices on the plate",
    )  # fmt: skip
    return "".join(
        f"{n}. Now put the {step} and leave it there for {n % 4 + 1} minutes.\n" for n, step in enumerate(steps, 1)
    )


def glossary() -> str:
    terms = {
        "anchor": "holds the boat", "boom": "holds the sail", "cleat": "holds the rope", "keel": "steadies the hull",
        "mast": "carries the sail", "rudder": "turns the boat", "stay": "steadies the mast", "tiller": "moves the rudder",
        "hatch": "closes the cabin", "bilge": "gathers the water", "pump": "clears the bilge", "winch": "pulls the rope",
        "fender": "guards the hull", "batten": "stiffens the sail", "galley": "feeds the crew", "helm": "steers the boat",
    }  # fmt: skip
    return "".join(f"The {word} is the part of a boat that {does}.\n" for word, does in terms.items())


def verse() -> str:
    pairs = [
        "cat",
        "mouse",
        "dog",
        "cat",
        "stick",
        "dog",
        "fire",
        "stick",
        "water",
        "fire",
        "ox",
        "water",
        "butcher",
        "ox",
        "rope",
        "butcher",
        "rat",
        "rope",
        "king",
        "rat",
    ]
    return "".join(
        f"And along came the {a}, the {a} that chased the {b},\nall on a day in the month of May.\n"
        for a, b in zip(pairs[::2], pairs[1::2], strict=True)
    )


def quarters() -> str:
    sales = (41, 44, 39, 52, 47, 49, 45, 58, 51, 50, 48, 63, 57, 55, 53, 70)
    names = ("first", "second", "third", "fourth")
    return "".join(
        f"In the {names[n % 4]} quarter of {2019 + n // 4} the company sold {value} thousand units and made {value * 3 - n} million.\n"
        for n, value in enumerate(sales)
    )


TEXTS: dict[str, Callable[[], str]] = {
    "binary search": binary_search, "loan": loan, "leap years": leap_years, "hanoi": hanoi, "recipe": recipe,
    "glossary": glossary, "verse": verse, "quarters": quarters,
}  # fmt: skip
