"""Records, logs, code and notation that repeat a form, written before the detector they test was run on them."""

# ruff: noqa: E501 - the texts stand as they are read

from __future__ import annotations

import json
import random
from collections.abc import Callable

NAMES = [
    "alder",
    "ash",
    "aspen",
    "beech",
    "birch",
    "cedar",
    "cherry",
    "cypress",
    "elder",
    "elm",
    "fir",
    "hazel",
    "hemlock",
    "holly",
    "juniper",
    "larch",
    "laurel",
    "lime",
    "maple",
    "oak",
    "olive",
    "pear",
    "pine",
    "plane",
    "plum",
    "poplar",
    "rowan",
    "spruce",
    "sycamore",
    "walnut",
    "willow",
    "yew",
]
VERBS = [
    "load",
    "save",
    "open",
    "close",
    "read",
    "write",
    "merge",
    "split",
    "sort",
    "filter",
    "parse",
    "render",
    "encode",
    "decode",
    "fetch",
    "store",
]


def json_lines() -> str:
    rng = random.Random(11)
    return "".join(
        json.dumps(
            {
                "ts": 1700000000 + n * 13,
                "level": rng.choice(["info", "warn"]),
                "msg": f"the {rng.choice(NAMES)} job was started by the {rng.choice(NAMES)} worker",
            }
        )
        + "\n"
        for n in range(40)
    )


def server_log() -> str:
    rng = random.Random(12)
    return "".join(
        f"[{n // 60:02d}:{n % 60:02d}] the request for page {rng.choice(NAMES)} took {rng.randrange(9, 900)} ms and returned {rng.choice([200, 200, 304, 404])}\n"
        for n in range(60)
    )


def sql() -> str:
    rng = random.Random(13)
    return "".join(
        f"INSERT INTO trees (id, name, height, note) VALUES ({n}, '{w}', {rng.randrange(3, 60)}, 'seen in the park');\n"
        for n, w in enumerate(NAMES, 1)
    )


def chess() -> str:
    rng = random.Random(14)
    files, said = "abcdefgh", ""
    for n in range(1, 45):
        a, b = (rng.choice(["", "N", "B", "R", "Q"]) + rng.choice(files) + str(rng.randrange(2, 8)) for _ in "wb")
        said += f"{n}. {a} {b} "
    return said + "1/2-1/2\n"


def chess_told() -> str:
    rng, said = random.Random(15), ""
    for _ in range(25):
        side, other = ("White", "Black") if len(said) % 2 else ("Black", "White")
        piece, square = (
            rng.choice(["knight", "bishop", "rook", "queen", "pawn", "king"]),
            rng.choice("abcdefgh") + str(rng.randrange(1, 9)),
        )
        said += f"{side} moves the {piece} to {square}, and {other} has to think about the {rng.choice(['centre', 'flank', 'pin', 'fork', 'file', 'rank'])}.\n"
    return said


def css() -> str:
    rng = random.Random(16)
    return "".join(
        f".{w} {{\n  color: #{rng.randrange(1 << 24):06x};\n  margin: {rng.randrange(32)}px;\n  padding: {rng.randrange(32)}px;\n  border: 1px solid black;\n}}\n\n"
        for w in NAMES[:24]
    )


def unit_tests() -> str:
    return "".join(
        f"def test_{v}_of_{w}_returns_the_same_value():\n    tree = make_tree({w!r})\n    assert {v}(tree) == {v}(tree.copy())\n\n\n"
        for v, w in zip(VERBS, NAMES, strict=False)
    )


def changelog() -> str:
    rng = random.Random(17)
    return "".join(
        f"## 1.{n}.0\n\n- Fixed a bug in which the {rng.choice(NAMES)} module could not {rng.choice(VERBS)} its files\n- Added a way to {rng.choice(VERBS)} the {rng.choice(NAMES)} table\n\n"
        for n in range(16, 0, -1)
    )


def git_diff() -> str:
    rng = random.Random(18)
    return "".join(
        f"diff --git a/src/{w}.py b/src/{w}.py\nindex {rng.randrange(1 << 28):07x}..{rng.randrange(1 << 28):07x} 100644\n--- a/src/{w}.py\n+++ b/src/{w}.py\n"
        f"@@ -{n},2 +{n},2 @@\n-from old.package import {v}\n+from new.package import {v}\n"
        for n, (w, v) in enumerate(zip(NAMES, VERBS * 2, strict=True), 3)
    )


def assembly() -> str:
    rng = random.Random(19)
    ops = ["mov", "add", "sub", "xor", "cmp", "lea", "and", "or"]
    regs = ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9"]
    return (
        "".join(f"    {rng.choice(ops):<6} {rng.choice(regs)}, {rng.choice(regs)}\n" for _ in range(120)) + "    ret\n"
    )


def fortran_data() -> str:
    rng = random.Random(20)
    return "".join(
        "      data " + f"x{n:02d} / " + ", ".join(f"{rng.random():.6f}" for _ in range(4)) + " /\n" for n in range(40)
    )


def latex_table() -> str:
    rng = random.Random(21)
    return "".join(f"{w} & {rng.random():.2f} & {rng.random():.2f} & {rng.randrange(99)} \\\\ \\hline\n" for w in NAMES)


def makefile() -> str:
    return "".join(
        f"build/{w}.o: src/{w}.c include/{w}.h include/common.h\n\t$(CC) $(CFLAGS) -c -o $@ $<\n\n" for w in NAMES
    )


def yaml_jobs() -> str:
    return "".join(
        f"  - name: {v} the {w}\n    run: make {v} TARGET={w}\n    timeout: {n * 5}\n    retry: false\n"
        for n, (v, w) in enumerate(zip(VERBS, NAMES, strict=False), 1)
    )


def sorted_listing() -> str:
    rng = random.Random(22)
    return "".join(
        f"-rw-r--r-- 1 user user {rng.randrange(99, 99999):>6} Mar {rng.randrange(1, 29):>2} 12:{rng.randrange(60):02d} {w}.txt\n"
        for w in NAMES
    )


def html_rows() -> str:
    rng = random.Random(23)
    return "".join(f"<tr><td>{w}</td><td>{rng.randrange(100)}</td><td>not yet seen</td></tr>\n" for w in NAMES)


def rust_match() -> str:
    return "".join(f'            Tree::{w.title()} => write!(f, "the {w} tree of the park"),\n' for w in NAMES)


def typed_fields() -> str:
    return "".join(
        f"    /** The {w} of this tree, or null if there is no {w}. */\n    private final String {w};\n\n"
        for w in NAMES[:24]
    )


def kubernetes() -> str:
    return "".join(
        f"---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {w}\nspec:\n  selector:\n    app: {w}\n  ports:\n    - port: {8000 + n}\n      targetPort: 80\n"
        for n, w in enumerate(NAMES[:20])
    )


def pip_log() -> str:
    rng = random.Random(24)
    return "".join(
        f"Collecting {w}\n  Downloading {w}-{rng.randrange(9)}.{rng.randrange(20)}.{rng.randrange(9)}-py3-none-any.whl ({rng.randrange(9, 900)} kB)\n"
        for w in NAMES
    )


def stack_trace() -> str:
    rng = random.Random(25)
    return "".join(
        f"    at com.example.{rng.choice(NAMES)}.{rng.choice(NAMES).title()}.{rng.choice(VERBS)}({rng.choice(NAMES).title()}.java:{rng.randrange(9, 900)})\n"
        for _ in range(40)
    )


def midi() -> str:
    rng = random.Random(26)
    return "".join(
        f"note on channel {rng.randrange(4)} pitch {rng.randrange(40, 80)} velocity {rng.randrange(40, 120)} at beat {n / 2:.1f} of the song\n"
        for n in range(60)
    )


def timetable() -> str:
    rng, said, minute = random.Random(27), "", 362
    for w in NAMES[:26]:
        minute += rng.randrange(9, 40)
        said += f"The {minute // 60:02d}:{minute % 60:02d} train to {w.title()} leaves from platform {rng.randrange(1, 12)} and calls at all stations.\n"
    return said


def bibliography() -> str:
    rng = random.Random(28)
    return "".join(
        f"[{n}] {rng.choice(NAMES).title()}, {rng.choice('ABCDEFGH')}. ({rng.randrange(1960, 2024)}). On the {rng.choice(VERBS)} of the {rng.choice(NAMES)} and the {rng.choice(NAMES)}. Journal of Trees, {rng.randrange(1, 60)}, {rng.randrange(1, 400)}.\n"
        for n in range(1, 30)
    )


TEXTS: dict[str, Callable[[], str]] = {
    one.__name__.replace("_", " "): one
    for one in (
        json_lines, server_log, sql, chess, chess_told, css, unit_tests, changelog, git_diff, assembly, fortran_data,
        latex_table, makefile, yaml_jobs, sorted_listing, html_rows, rust_match, typed_fields, kubernetes, pip_log,
        stack_trace, midi, timetable, bibliography,
    )
}  # fmt: skip
