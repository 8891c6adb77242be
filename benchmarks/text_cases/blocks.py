"""A fifth set of healthy texts: blocks that repeat with fields of many lengths, and records in which only numbers vary,
written before the detector was run on them."""

# ruff: noqa: E501, SIM905 - the texts stand as they are read
# fmt: off

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable

NOUNS = "bridge lantern harbour orchard ledger chapel mirror basket saddle violin kettle anchor carpet ladder quarry beacon".split()
VERBS = "opens checks repairs carries paints counts sells cleans measures locks".split()
PHRASES = ["at the end of a long day", "with great care", "because nobody else would", "in spite of the rain", "as agreed in March", "and leaves", "when asked twice", "for the third time this year", "without a word", "by hand", "to everyone's surprise", "under the supervision of an engineer"]
NAMES = "Ada Bruno Carla Dmitri Elif Farid Greta Hugo Ines Jonas Kaori Liam Mona Nils Olga Pavel".split()


def _rng(seed: int) -> random.Random:
    return random.Random(8500 + seed)


def svg() -> str:
    r = _rng(1)
    return "".join(f'<circle cx="{r.randrange(400)}" cy="{r.randrange(300)}" r="5" fill="red" stroke="black" stroke-width="2"/>\n' for _ in range(40))


def ping() -> str:
    r = _rng(2)
    return "".join(f"64 bytes from 192.168.0.7: icmp_seq={n} ttl=64 time={r.randrange(1, 30)}.{r.randrange(10)} ms\n" for n in range(1, 50))


def training() -> str:
    r = _rng(3)
    return "".join(f"Epoch {n}/40 - loss: {2 / n + r.random() / 10:.4f} - accuracy: {1 - 0.8 / n:.4f} - val_loss: {2.2 / n + r.random() / 8:.4f}\n" for n in range(1, 41))


def geojson() -> str:
    r = _rng(4)
    return json.dumps({"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": {"type": "Point", "coordinates": [round(r.uniform(5, 15), 4), round(r.uniform(45, 55), 4)]}, "properties": {"kind": "tree"}} for _ in range(20)]}, indent=2)


def sensors() -> str:
    r = _rng(5)
    return "\n".join(json.dumps({"time": 1717171717 + 60 * n + r.randrange(9), "sensor": "boiler", "unit": "celsius", "value": r.randrange(40, 90), "status": "ok", "source": {"building": "east", "room": "cellar", "maintained": True}}) for n in range(40))


def html_table() -> str:
    r = _rng(6)
    return "<table>\n" + "".join(f'<tr class="row">\n  <td class="number left">{r.randrange(999)}</td>\n  <td class="number right">{r.randrange(999)}</td>\n</tr>\n' for _ in range(24)) + "</table>\n"


def services() -> str:
    r = _rng(7)
    said = "services:\n"
    for name in NOUNS:
        said += f"  {name}:\n    image: registry.local/{name}:{r.randrange(9)}.{r.randrange(9)}\n    restart: always\n"
        said += "".join(f"    {key}\n" for key in ("privileged: true", "read_only: true", "network_mode: host", f"depends_on: [{r.choice(NOUNS)}]") if r.random() < 0.4)
        said += "    logging:\n      driver: journald\n"
    return said


def bibliography() -> str:
    r = _rng(8)
    return "".join(f"@article{{{n.lower()}{1990 + k},\n  author = {{{n} {r.choice(NAMES)}son}},\n  title = {{On the {' '.join(r.sample(NOUNS, r.randrange(2, 6)))}}},\n  journal = {{Annals of Craft}},\n  year = {{{1990 + k}}},\n" + (f"  volume = {{{r.randrange(40)}}},\n" if r.random() < 0.6 else "") + (f"  note = {{{r.choice(PHRASES)}}},\n" if r.random() < 0.4 else "") + "}\n\n" for k, n in enumerate(NAMES))


def kernels() -> str:
    return "".join(f"template <>\n__global__ void add_kernel<{t}>(const {t}* a, const {t}* b, {t}* out, int n) {{\n  int i = blockIdx.x * blockDim.x + threadIdx.x;\n  if (i < n) {{\n    out[i] = {c}(a[i], b[i]);\n  }}\n}}\n\n" for t, c in (("float", "fadd"), ("double", "dadd"), ("half", "__hadd"), ("int", "iadd"), ("unsigned", "uadd"), ("long", "ladd"), ("short", "sadd"), ("char", "cadd"), ("bfloat16", "__hadd_rn"), ("complex", "cuCadd")))


def copied_tests() -> str:
    r = _rng(10)
    return "".join(f"def test_{n}_can_be_{v[:-1]}ed(client):\n    item = client.create({n!r}, owner={r.choice(NAMES)!r})\n    response = client.post(f\"/items/{{item.id}}/{v[:-1]}\")\n    assert response.status_code == {r.choice((200, 201, 204))}\n    assert client.get(item.id).state == {v!r}\n\n\n" for n, v in zip(NOUNS, VERBS + VERBS, strict=False))


def traces() -> str:
    r = _rng(11)
    return "".join(f"2024-06-0{1 + n // 3} {r.randrange(10, 24)}:{r.randrange(10, 60)}:{r.randrange(10, 60)} ERROR request {r.randrange(16**6):06x} failed\nTraceback (most recent call last):\n  File \"/srv/app/{r.choice(NOUNS)}.py\", line {r.randrange(20, 400)}, in {r.choice(VERBS)}\n    return self.session.{r.choice(('get', 'post', 'head'))}(url, timeout=self.timeout)\n{r.choice(('TimeoutError', 'ConnectionError', 'ValueError'))}: {r.choice(NOUNS)} did not answer {r.choice(PHRASES)}\n" for n in range(14))


def minutes() -> str:
    r = _rng(12)
    return "".join(f"Item {n}. {a} reports on the {b}. " + (f"{r.choice(NAMES)} objects {r.choice(PHRASES)}. " if r.random() < 0.5 else "") + f"The board thanks {a} and decides to {r.choice(('wait', 'buy a new one', 'ask for a second offer', 'close the matter', 'write to the council'))}.\n" for n, (a, b) in enumerate(zip(NAMES, NOUNS, strict=True), 1))


def diary() -> str:
    r = _rng(13)
    days = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
    return "".join(f"On {d} I got up at {r.choice(('six', 'seven', 'half past eight'))}, {r.choice(VERBS)[:-1]}ed the {r.choice(NOUNS)} {r.choice(PHRASES)}, and met {r.choice(NAMES)}, who {r.choice(VERBS)} a {r.choice(NOUNS)} {r.choice(PHRASES)}. In the evening we {r.choice(('played cards', 'sat by the fire', 'went home early', 'read aloud'))}.\n" for d in days + days)


def assembly() -> str:
    return "".join(f"    movups xmm{n % 8}, [rsi + {16 * n}]\n    mulps xmm{n % 8}, xmm8\n    addps xmm{n % 8}, [rdi + {16 * n}]\n    movups [rdi + {16 * n}], xmm{n % 8}\n" for n in range(24))


def gcode() -> str:
    r = _rng(15)
    return "".join(f"G1 X{r.uniform(0, 200):.3f} Y{r.uniform(0, 200):.3f} E{0.03 * n:.5f}\n" for n in range(80))


def fixtures() -> str:
    r = _rng(16)
    return "".join(f"Person.objects.create(\n    name={n!r},\n    age={r.randrange(20, 70)},\n    city={r.choice(('Lyon', 'New York', 'Porto', 'Ulm'))!r},\n" + (f"    hobby={r.choice(PHRASES)!r},\n" if r.random() < 0.5 else "") + "    active=True,\n    groups=[default_group],\n)\n" for n in NAMES)


def messages() -> str:
    r = _rng(17)
    return "".join(f"message {n.title()}Request {{\n  string id = 1;\n  {r.choice(('int32', 'int64', 'bool'))} {r.choice(VERBS)} = 2;\n" + "".join(f"  repeated string {one} = {k};\n" for k, one in enumerate(r.sample(NOUNS, r.randrange(3)), 3)) + "}\n\n" for n in NOUNS)


def dialogue() -> str:
    r = _rng(18)
    return "".join(f'"And the {n}?" asked {a}.\n"The {n} {r.choice(VERBS)} nothing {r.choice(PHRASES)}," said {b}.\n' for n, a, b in zip(NOUNS, NAMES, reversed(NAMES), strict=True))


def villanelle() -> str:
    a, b = "The tide returns whatever it has lent,\n", "and no one asks it where the summer went.\n"
    inner = ["A child has built a harbour out of sand,\nwith shells for ships and feathers for a tent;\n", "Her brother holds a bucket in his hand\nand pours the sea wherever he is sent;\n", "The evening walks in silver up the strand,\nthe gulls complain of all the bread unspent;\n", "A lamp is lit, a far-off village band\nplays something that the wind has bowed and bent;\n"]
    return "".join(verse + (a if k % 2 else b) + "\n" for k, verse in enumerate([a + "and", *inner]))


def creed() -> str:
    return "".join(f"Who made the {n}? The one who made the {m} made the {n}.\n" for n, m in itertools.pairwise(NOUNS))


def catalogue() -> str:
    r = _rng(21)
    return "".join(f"### {n.title()}\n\n**Material:** {r.choice(('oak', 'brass', 'cast iron', 'glass and lead'))}  \n**Made by:** {r.choice(NAMES)} & Sons  \n**Condition:** {r.choice(('as new', 'worn at the edges', 'restored in the last century', 'incomplete'))}\n\nThis {n} was found {r.choice(PHRASES)}.\n\n" for n in NOUNS)


def latex() -> str:
    r = _rng(22)
    return "\\begin{tabular}{lrrr}\n" + "".join(f"{n} & {r.randrange(999)} & {r.random():.3f} & \\textbf{{{r.random():.3f}}} \\\\\n\\hline\n" for n in NOUNS * 2) + "\\end{tabular}\n"


def timers() -> str:
    r, t, said = _rng(23), 0.0, ""
    for _ in range(40):
        t += r.random() * 3
        said += f"[{t:10.6f}] usb 1-4: device descriptor read/64, error -71, retrying in {r.randrange(100, 900)} ms on the root hub of the controller\n"
    return said


def calendar() -> str:
    r = _rng(24)
    return "".join(f"BEGIN:VEVENT\nUID:{r.randrange(10**8)}@cal.local\nDTSTART:202406{n + 1:02d}T{r.randrange(8, 18):02d}0000Z\nSUMMARY:{r.choice(NAMES)} {r.choice(VERBS)} the {r.choice(NOUNS)}\nSTATUS:CONFIRMED\nTRANSP:OPAQUE\nEND:VEVENT\n" for n in range(28))


def proof() -> str:
    return "".join(f"Suppose that {a} holds. Then by the lemma {b} holds, and since {b} rules out {c}, the case {c} cannot occur{', ' + p if p else ''}.\n" for a, b, c, p in zip("ABCDEFGHIJ", "KLMNOPQRST", "PQRSTUVWXY", [*PHRASES[:4], "", "", *PHRASES[4:8]], strict=True))


def commits() -> str:
    r = _rng(26)
    return "".join(f"commit {r.randrange(16**40):040x}\nAuthor: {a} <{a.lower()}@site.local>\nDate:   Mon Jun {n + 1} {r.randrange(8, 20):02d}:{r.randrange(60):02d}:{r.randrange(60):02d} 2024 +0200\n\n    The {r.choice(NOUNS)} {r.choice(VERBS)} the {r.choice(NOUNS)} {r.choice(PHRASES)}\n\n" for n, a in enumerate(NAMES))


def routes() -> str:
    return "".join(f"router.{m}('/{n}s/:id', authenticate, async (request, response, next) => {{\n  try {{\n    const {n} = await {n.title()}.findById(request.params.id);\n    response.json({n});\n  }} catch (error) {{\n    next(error);\n  }}\n}});\n\n" for n, m in zip(NOUNS, ("get", "put", "delete", "get") * 4, strict=True))


def shells() -> str:
    r = _rng(28)
    return "".join(f"echo 'building {n}'\ncmake -S {n} -B build/{n} -DCMAKE_BUILD_TYPE=Release{' -DWITH_' + r.choice(NOUNS).upper() + '=ON' if r.random() < 0.4 else ''}\ncmake --build build/{n} -j {r.choice((2, 4, 8))}\nctest --test-dir build/{n} --output-on-failure\n" for n in NOUNS)


def letters() -> str:
    r = _rng(29)
    return "".join(f"Dear {n},\nthank you for the {r.choice(NOUNS)}, which came {r.choice(PHRASES)}. We {r.choice(('have put it in the hall', 'shall give it to the school', 'did not expect it so soon', 'use it every day'))} and hope to see you {r.choice(('soon', 'at Easter', 'in the new house', 'when the roads are open'))}.\nYours, Ruth\n\n" for n in NAMES[:12])


def states() -> str:
    r, at, said = _rng(30), 0, ""
    for n in range(26):
        move = r.choice((-1, 1))
        said += f"Move {n + 1}: the robot is on square {at}, it turns {'right' if move > 0 else 'left'}, takes one step, and stands on square {at + move}.\n"
        at += move
    return said


TEXTS: dict[str, Callable[[], str]] = {make.__name__: make for make in (svg, ping, training, geojson, sensors, html_table, services, bibliography, kernels, copied_tests, traces, minutes, diary, assembly, gcode, fixtures, messages, dialogue, villanelle, creed, catalogue, latex, timers, calendar, proof, commits, routes, shells, letters, states)}
