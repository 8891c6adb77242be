"""Healthy texts of signs: code, dumps, tables, calendars, written before the detector was run on any of them."""

# ruff: noqa: E501, SIM905 - the texts stand as they are read
# fmt: off

from __future__ import annotations

import calendar
import itertools
import json
import math
import random
from collections.abc import Callable


def chess() -> str:
    moves = "e4 e5 Nf3 Nc6 Bb5 a6 Ba4 Nf6 O-O Be7 Re1 b5 Bb3 d6 c3 O-O h3 Nb8 d4 Nbd7 c4 c6 cxb5 axb5 Nc3 Bb7 Bg5 b4 Nb1 h6 Bh4 c5 dxe5 Nxe4 Bxe7 Qxe7 exd6 Qf6 Nbd2 Nxd6 Nc4 Nxc4 Bxc4 Nb6 Ne5 Rae8 Bxf7+ Rxf7 Nxf7 Rxe1+ Qxe1 Kxf7 Qe3 Qg5 Qxg5 hxg5 b3 Ke6 a3 Kd6 axb4 cxb4 Ra5 Nd5 f3 Bc8 Kf2 Bf5 Ra7 g6 Ra6+ Kc5 Ke1 Nf4 g3 Nxh3 Kd2 Kb5 Rd6 Kc5 Ra6 Nf2 g4 Bd3 Re6".split()
    return " ".join(f"{n // 2 + 1}. {moves[n]} {moves[n + 1]}" for n in range(0, len(moves) - 1, 2)) + "\n"


def assembly() -> str:
    rng, said = random.Random(52), "saxpy:\n"
    for k in range(16):
        said += f"        movss   xmm0, DWORD PTR [rsi+{4 * k}]\n        mulss   xmm0, xmm2\n        addss   xmm0, DWORD PTR [rdi+{4 * k}]\n        movss   DWORD PTR [rdi+{4 * k}], xmm0\n"
    said += "        cmp     rcx, rdx\n        jne     saxpy\n        ret\n\nswap_regs:\n"
    regs = ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9"]
    for _ in range(24):
        said += f"        mov     {rng.choice(regs)}, {rng.choice(regs)}\n"
    return said + "        ret\n"


def push_pop() -> str:
    regs = ["rbp", "r15", "r14", "r13", "r12", "rbx", "rdi", "rsi", "rdx", "rcx", "r8", "r9", "r10", "r11"]
    return "save_all:\n" + "".join(f"    push {r}\n" for r in regs) + "    call body\n" + "".join(f"    pop {r}\n" for r in regs[::-1]) + "    ret\n"


def fasta() -> str:
    rng = random.Random(53)
    unit = "GGGCCGGGCGCGGTGGCTCACGCCTGTAATCCCAGCACTTTGGGAGGCCGAGG"
    dna = "".join(rng.choice("ACGT") for _ in range(700)) + unit[:40] + "".join(rng.choice("ACGT") for _ in range(500))
    return ">chr7:5566-6800 fixture\n" + "\n".join(dna[k : k + 60] for k in range(0, len(dna), 60)) + "\n"


def hex_dump() -> str:
    data = b"\x7fELF\x02\x01\x01" + bytes(25) + bytes(range(64)) + b"the quick brown fox jumps over the lazy dog" + bytes(120) + bytes(k * k % 256 for k in range(160))
    said = ""
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        said += f"{at:08x}  {' '.join(f'{b:02x}' for b in row):<47}  |{''.join(chr(b) if 32 <= b < 127 else '.' for b in row)}|\n"
    return said


def survey_csv() -> str:
    rng = random.Random(54)
    return "id,gender,smoker,answer,region\n" + "".join(f"{n},{rng.choice('MF')},{rng.choice(('yes', 'no'))},{rng.choice(('agree', 'disagree', 'neutral'))},{rng.choice(('north', 'south'))}\n" for n in range(1, 61))


def csv_without_ids() -> str:
    rng = random.Random(55)
    return "colour,size,stock\n" + "".join(f"{rng.choice(('red', 'blue'))},{rng.choice(('small', 'large'))},{rng.choice(('yes', 'no'))}\n" for _ in range(50))


def identity_matrix() -> str:
    return "[" + ",\n ".join("[" + ", ".join("1.0" if i == j else "0.0" for j in range(12)) + "]" for i in range(12)) + "]\n"


def zero_one_matrix() -> str:
    rng = random.Random(56)
    return "".join(" ".join(str(int(rng.random() < 0.2)) for _ in range(20)) + "\n" for _ in range(20))


def tridiagonal() -> str:
    return "".join(" ".join(f"{2 if i == j else -1 if abs(i - j) == 1 else 0:3d}" for j in range(14)) + "\n" for i in range(14))


def guitar_tab() -> str:
    rows = ["e|-----0---------0-------|-----3---------3-------|-----1---------1-------|", "B|---1---1-----1---1-----|---0---0-----0---0-----|---1---1-----1---1-----|", "G|-0-------0-0-------0---|-0-------0-0-------0---|-2-------2-2-------2---|", "D|-----------------------|-----------------------|-3---------------------|", "A|-3---------------------|-----------------------|-----------------------|", "E|-----------------------|-3---------------------|-1---------------------|"]
    return "\n".join(rows) + "\n\n" + "\n".join(r.replace("3", "5") for r in rows) + "\n\n" + "\n".join(r.replace("1", "2") for r in rows) + "\n"


def abc_music() -> str:
    return "X:1\nT:The Heron\nM:6/8\nL:1/8\nK:Gmaj\n|:" + "|".join("GBd gdB,ceg ecA,fdB AFD,GBd gfe,dBG AFD,GAB cde,fga gfe,dBG G3,BAG AFD,EGB dBG,ceg fdB,Ace gec,BdB AFA,GFG G3".split(",")) + ":|\n"


def ascii_art() -> str:
    return "".join(" " * (20 - k) + "/" + "*" * (2 * k) + "\\\n" for k in range(20)) + "".join(" " * 18 + "||||\n" for _ in range(5))


def checkerboard() -> str:
    return "".join(("# . " * 4 if k % 2 else ". # " * 4) + "\n" for k in range(8))


def html_list() -> str:
    items = "Home,About us,Products,Prices,Support,Downloads,Documentation,Community,Blog,Careers,Press,Contact,Privacy,Imprint,Sitemap,Accessibility".split(",")
    return '<ul class="menu">\n' + "".join(f'  <li class="item"><a href="/{i.lower().replace(" ", "-")}">{i}</a></li>\n' for i in items) + "</ul>\n"


def html_select() -> str:
    states = "Alabama AL,Alaska AK,Arizona AZ,Arkansas AR,California CA,Colorado CO,Delaware DE,Florida FL,Georgia GA,Hawaii HI,Idaho ID,Illinois IL,Indiana IN,Iowa IA,Kansas KS,Kentucky KY,Maine ME,Ohio OH,Oregon OR,Texas TX,Utah UT".split(",")
    return '<select name="state">\n' + "".join(f'  <option value="{s.split()[1]}">{s.split()[0]}</option>\n' for s in states) + "</select>\n"


def sql_inserts() -> str:
    rng = random.Random(57)
    return "".join(f"INSERT INTO visits (id, user_id, page, ok) VALUES ({n}, {rng.randrange(1, 9)}, '{rng.choice(('home', 'cart', 'help'))}', {rng.choice(('TRUE', 'FALSE'))});\n" for n in range(1, 41))


def test_names() -> str:
    said = "".join(f"tests/test_parse.py::test_{v}_{t}_is_{o} PASSED\n" for v in ("empty", "short", "long", "nested") for t in ("list", "string", "number", "object") for o in ("read", "written"))
    return said + "\n32 passed in 0.41s\n"


def go_tests() -> str:
    rng = random.Random(58)
    return "".join(f"=== RUN   TestRound/{k}\n--- PASS: TestRound/{k} (0.{rng.randrange(10)}0s)\n" for k in ("zero", "half", "minus_half", "inf", "nan", "tiny", "huge", "denormal", "odd", "even", "third", "pi", "e", "one", "two")) + "PASS\nok      round   0.312s\n"


def contents() -> str:
    rows = "Preface,Getting started,Installing the tools,A first program,Numbers and names,Lists,Functions,Modules,Files,Errors,Testing,Packaging,Threads,Sockets,Profiling,Appendix A,Appendix B,Index".split(",")
    return "".join(f"{r} {'.' * (50 - len(r))} {7 + 11 * n}\n" for n, r in enumerate(rows))


def kernel_log() -> str:
    rng, t, said = random.Random(59), 0.0, ""
    for n in range(30):
        t += rng.random()
        said += f"[{t:12.6f}] usb 1-{rng.randrange(1, 5)}: new high-speed USB device number {n + 2} using xhci_hcd\n"
    return said


def retry_log() -> str:
    return "".join(f"2026-03-0{1 + n // 12} {8 + n % 12:02d}:00:{3 * n % 60:02d} WARN  connection to db-{n % 3} was refused, retry in {2 ** min(n % 6, 5)} seconds\n" for n in range(36)) + "2026-03-04 09:12:44 INFO  connection to db-1 is up again\n"


def json_array() -> str:
    return json.dumps([round(math.sin(k / 7), 3) for k in range(120)]) + "\n"


def json_objects() -> str:
    rng = random.Random(60)
    return json.dumps([{"x": rng.randrange(9), "y": rng.randrange(9), "alive": bool(rng.randrange(2))} for _ in range(40)], indent=1) + "\n"


def sudoku() -> str:
    rows = [[(3 * (r % 3) + r // 3 + c) % 9 + 1 for c in range(9)] for r in range(9)]
    bar = "+-------+-------+-------+\n"
    body = ""
    for r, row in enumerate(rows):
        body += (bar if r % 3 == 0 else "") + "| " + " | ".join(" ".join(map(str, row[k : k + 3])) for k in (0, 3, 6)) + " |\n"
    return body + bar


def year_calendar() -> str:
    return "".join(calendar.TextCalendar().formatmonth(2027, m) + "\n" for m in range(1, 13))


def football() -> str:
    rng, teams = random.Random(61), "Rovers,City,United,Wanderers,Athletic,Town,Albion,Rangers,Harriers,Orient".split(",")
    said = ""
    for _ in range(24):
        a, b = rng.sample(teams, 2)
        said += f"{a} {rng.randrange(5)} - {rng.randrange(5)} {b}\n"
    return said


def truth_of_three() -> str:
    said = "| p | q | r | p and q | q or r | p implies r |\n|---|---|---|---|---|---|\n"
    for p, q, r in itertools.product((True, False), repeat=3):
        said += "| " + " | ".join("T" if x else "F" for x in (p, q, r, p and q, q or r, not p or r)) + " |\n"
    return said


def automaton() -> str:
    rng, said = random.Random(65), ""
    for s, c in itertools.product(range(8), "ab01"):
        said += f"delta(q{s}, {c}) = q{rng.randrange(8)}\n"
    return said


def timetable() -> str:
    stops = "Altdorf,Brugg,Chur,Davos,Egg,Flims,Gais,Horgen".split(",")
    said = ""
    for k in range(4):
        said += f"Train {100 + 2 * k}\n" + "".join(f"{s:<10} {6 + 2 * k + (13 * n) // 60:02d}:{(13 * n + 7 * k) % 60:02d}\n" for n, s in enumerate(stops)) + "\n"
    return said


def binary_counting() -> str:
    return "".join(f"{k:06b}\n" for k in range(64))


def primes() -> str:
    found = [n for n in range(2, 600) if all(n % d for d in range(2, int(n**0.5) + 1))]
    return "\n".join(" ".join(f"{p:4d}" for p in found[k : k + 10]) for k in range(0, len(found), 10)) + "\n"


def regex_table() -> str:
    rows = [(r"\d", "a digit"), (r"\D", "no digit"), (r"\s", "a blank"), (r"\S", "no blank"), (r"\w", "a letter of a word"), (r"\W", "no letter of a word"), (r"\b", "an edge of a word"), (r"\B", "no edge of a word"), ("^", "the start of a line"), ("$", "the end of a line"), (".", "any character"), ("*", "none or more"), ("+", "one or more"), ("?", "none or one")]
    return "| pattern | meaning |\n|---|---|\n" + "".join(f"| `{a}` | matches {b} |\n" for a, b in rows)


def switch() -> str:
    names = "Add,Sub,Mul,Div,Mod,And,Or,Xor,Shl,Shr,Not,Neg,Eq,Ne,Lt,Le,Gt,Ge".split(",")
    return "switch (op) {\n" + "".join(f'    case Op::{n}:\n        return "{n.lower()}";\n' for n in names) + "    default:\n        return \"unknown\";\n}\n"


def getters() -> str:
    said = "class Order:\n"
    for n in "buyer,seller,price,amount,date,state,carrier,parcel,voucher,note".split(","):
        said += f"    @property\n    def {n}(self):\n        return self._{n}\n\n    @{n}.setter\n    def {n}(self, value):\n        self._{n} = value\n\n"
    return said


def fizzbuzz() -> str:
    return "".join("FizzBuzz\n" if n % 15 == 0 else "Fizz\n" if n % 3 == 0 else "Buzz\n" if n % 5 == 0 else f"{n}\n" for n in range(1, 101))


def makefile_targets() -> str:
    return "".join(f"{t}.o: {t}.c {t}.h common.h\n\t$(CC) $(CFLAGS) -c {t}.c -o {t}.o\n\n" for t in "main,parse,lex,emit,graph,list,hash,pool,file,error,debug".split(","))


TEXTS: dict[str, Callable[[], str]] = {
    one.__name__.replace("_", " "): one
    for one in (
        chess, assembly, push_pop, fasta, hex_dump, survey_csv, csv_without_ids, identity_matrix, zero_one_matrix,
        tridiagonal, guitar_tab, abc_music, ascii_art, checkerboard, html_list, html_select, sql_inserts, test_names,
        go_tests, contents, kernel_log, retry_log, json_array, json_objects, sudoku, year_calendar, football,
        truth_of_three, automaton, timetable, binary_counting, primes, regex_table, switch, getters, fizzbuzz,
        makefile_targets,
    )
}
