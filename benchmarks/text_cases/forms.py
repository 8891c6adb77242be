"""A third set of healthy texts, told in words: verse, scores, enumerations, written before the detector was run on them."""

# ruff: noqa: E501, SIM905 - the texts stand as they are read
# fmt: off

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

WORDS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def chess_told() -> str:
    rng, said = random.Random(51), ""
    for n in range(16):
        said += f"On move {n + 10} White plays the {rng.choice(('knight', 'bishop', 'rook', 'queen', 'pawn'))} to {rng.choice('abcdefgh')}{rng.randrange(1, 9)}, and Black answers with the {rng.choice(('knight', 'bishop', 'rook', 'queen', 'pawn'))} to {rng.choice('abcdefgh')}{rng.randrange(1, 9)}.\n"
    return said


def codons() -> str:
    acids = dict(zip(itertools.product("TCAG", repeat=3), "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG", strict=True))
    return "".join(f"The codon {''.join(c)} stands for {a if a != '*' else 'a stop'}.\n" for c, a in acids.items())


def in_words(n: int) -> str:
    return WORDS[n] if n < 20 else TENS[n // 10 - 2] + ("-" + WORDS[n % 10] if n % 10 else "")


def times_table() -> str:
    return "".join(f"{in_words(a).capitalize()} times {in_words(b)} is {in_words(a * b)}. " for a in (6, 7, 8) for b in range(1, 11)) + "\n"


def litany() -> str:
    saints = "Michael,Gabriel,Raphael,John the Baptist,Joseph,Peter and Paul,Andrew,James,John,Thomas,Philip,Matthew,Simon,Jude,Barnabas,Luke,Mark,Mary Magdalene,Stephen,Lawrence,Gregory,Ambrose,Jerome,Martin,Nicholas,Benedict,Bernard,Dominic,Francis,Agatha,Lucy,Agnes,Cecilia,Catherine".split(",")
    return "".join(f"Saint {s}, pray for us.\n" for s in saints)


def psalm() -> str:
    deeds = "to him who alone does great wonders,to him that by wisdom made the heavens,to him that stretched out the earth above the waters,to him that made great lights,the sun to rule by day,the moon and stars to rule by night,to him that smote the firstborn,and brought out his people from among them,with a strong hand and a stretched out arm,to him which divided the sea into parts,and made them pass through the midst of it,but overthrew the king and his host,to him which led them through the wilderness,to him which smote great kings,and slew famous kings,and gave their land for a heritage,who remembered us in our low estate,and has redeemed us from our enemies,who gives food to all flesh".split(",")
    return "".join(f"{d[0].upper()}{d[1:]}: for his mercy endures for ever.\n" for d in deeds)


def song_with_chorus() -> str:
    chorus = "Roll on, roll on, you long grey road,\nroll on to the edge of the sea,\nI have carried my share of another man's load,\nand there's nobody waiting for me.\n\n"
    verses = ["I left in the spring with a pack on my back\nand a coin for the ferryman's hand,\nthe crows on the fence and the frost on the track\nwere all that I knew of the land.\n\n", "I worked for a miller who paid me in bread,\nI slept where the barley was dry,\nhe asked me to stay till the summer was dead\nbut I never have learned how to lie.\n\n", "I danced with a widow in Ballinakill,\nshe laughed at the holes in my shoe,\nI would have come back but the winter was ill\nand the river had drowned the way through.\n\n", "Now I sit by the harbour and mend other's nets\nand I count every ship on the bay,\na man can forget all he owes and his debts\nbut the road it is never away.\n\n"]
    return "".join(v + chorus for v in verses)


def fading_chorus() -> str:
    return song_with_chorus() + "Roll on, roll on,\nroll on to the edge of the sea.\n" * 3


def faq() -> str:
    rows = "return a parcel|Print the label from your account and drop it at any counter.;change my address|Open the settings, choose the profile and type the new one.;cancel an order|You can do so within an hour, by the button below the list.;pay by invoice|Only firms may, and only after the third order.;track a delivery|The number stands in the mail that we sent you.;use a voucher|Enter its code at the last step before you pay.;close my account|Write to us from the address that you signed up with.;get a receipt|It is in the parcel, and also under your orders."
    return "".join(f"Q: How do I {q}?\nA: {a}\n\n" for q, a in (r.split("|") for r in rows.split(";")))


def villanelle() -> str:
    a, b = "The house will stand when all of us are gone,", "I keep the lamp and listen for the dawn."
    rows = [("The rain has found the roof and worn the stone,",), ("My father laid the floor, my mother sewn", "the curtains that the moths have fed upon:"), ("The orchard wall is by the ivy grown", "and every gate that used to close is drawn;"), ("The letters that I wrote and left unknown", "are in the drawer with the cut-glass swan:"), ("Sometimes at night I think I hear the tone", "of someone singing on the empty lawn;"), ("So let the river take what was its own,", "the field, the mill, the meadow and the fawn.")]
    said = f"{a}\n{rows[0][0]}\n{b}\n\n"
    for n, (x, y) in enumerate(rows[1:5]):  # type: ignore[misc]
        said += f"{x}\n{y}\n{(a, b)[n % 2]}\n\n"
    return said + f"{rows[5][0]}\n{rows[5][1]}\n{a}\n{b}\n"  # type: ignore[misc]


def pantoum() -> str:
    rows = ["The snow came early to the mill,", "the wheel stood frozen in the race,", "the miller's girl was lying ill,", "her brother would not show his face,", "we heard him singing on the hill,", "a lantern moved from place to place,", "and nobody could sleep until", "the moon had gone without a trace,", "the dogs were barking, harsh and shrill,", "the clock had stopped inside its case,", "the doctor came and drank his fill,", "and prayed aloud for means of grace,"]
    said = ""
    for k in range(0, len(rows) - 3, 2):
        said += f"{rows[k]}\n{rows[k + 1]}\n{rows[k + 2]}\n{rows[k + 3]}\n\n".replace(rows[k], rows[k - 1] if k else rows[k], 1)
    return said


def statute() -> str:
    ends = "the name of the applicant;the address of the premises;the purpose for which the licence is sought;the period for which it is sought;the number of persons employed;the nature of any previous conviction;the fee that was paid;the date of the inspection;the conditions that the authority thinks fit;any objection that was received;the reasons for the decision".split(";")
    return "".join(f"({chr(97 + n)}) the register shall state {e} as provided for in section {n + 4}(1) of this Act;\n" for n, e in enumerate(ends))


def whereas() -> str:
    rows = "the parties have entered into a lease of the land;the lessee has built a barn upon it;the barn was destroyed by fire;the insurer has paid a sum of money;the lessor claims a part of that sum;the lessee denies the claim;a court has been seized of the matter;the parties wish to settle it;neither admits a fault".split(";")
    return "".join(f"WHEREAS {r}; and\n" for r in rows)


def football_told() -> str:
    rng, teams = random.Random(62), "the Rovers,the City,the Wanderers,the Town,the Rangers,the Harriers".split(",")
    said = ""
    for a, b in itertools.permutations(teams, 2):
        said += f"On {rng.choice(('Saturday', 'Sunday'))} {a} played {b} and the result was {rng.randrange(4)} to {rng.randrange(4)}.\n"
    return said


def cricket() -> str:
    rng, said, total = random.Random(63), "", 0
    for n in range(30):
        runs = rng.choice((0, 0, 1, 1, 2, 4, 6))
        total += runs
        said += f"{n // 6}.{n % 6 + 1} {rng.choice(('Khan', 'Patel'))} to {rng.choice(('Smith', 'Jones'))}, {('no run', 'one run', 'two runs', '', 'FOUR', '', 'SIX')[runs]}, the total is {total}\n"
    return said


def truth_of_three_told() -> str:
    return "".join(f"If A is {p} and B is {q} and C is {r}, then the whole sentence is {p and (q or not r)}.\n" for p, q, r in itertools.product((True, False), repeat=3))


def half_adder_told() -> str:
    return "".join(f"With the inputs {a}, {b} and carry {c} the adder gives the sum {(a + b + c) % 2} and the carry {(a + b + c) // 2}.\n" for a, b, c in itertools.product((0, 1), repeat=3)) * 1 + "".join(f"With the inputs {a} and {b} the gate gives {int(not (a and b))}.\n" for a, b in itertools.product((0, 1), repeat=2))


def state_machine() -> str:
    rng, state, said = random.Random(64), "idle", ""
    nexts = {"idle": ("start", "busy"), "busy": ("finish", "done"), "done": ("reset", "idle")}
    other = {"idle": ("poll", "idle"), "busy": ("wait", "busy"), "done": ("read", "done")}
    for _ in range(24):
        event, to = (nexts if rng.random() < 0.6 else other)[state]
        said += f"In the state {state} the machine reads the event {event} and goes to the state {to}.\n"
        state = to
    return said


def departures_told() -> str:
    rng = random.Random(66)
    return "".join(f"The train to {s} leaves at {rng.randrange(6, 23)}:{rng.randrange(60):02d} from platform {rng.randrange(1, 9)}, and it is {rng.choice(('on time', 'five minutes late', 'cancelled'))}.\n" for s in "Aarau,Basel,Chiasso,Davos,Engelberg,Fribourg,Geneva,Horgen,Interlaken,Jona,Kerns,Locarno,Murten,Neuchatel,Olten".split(","))


def gray_code() -> str:
    return "".join(f"{k:2d} is {k:05b} in binary and {k ^ k >> 1:05b} in Gray code\n" for k in range(32))


def primality_told() -> str:
    said = ""
    for n in range(30, 62):
        d = next((d for d in range(2, n) if n % d == 0), None)
        said += f"{n} is {'a prime number' if d is None else f'not a prime number, because {d} divides it'}.\n"
    return said


def roll_call() -> str:
    rng = random.Random(67)
    return "".join(f"{n}: {rng.choice(('present', 'present', 'present', 'absent'))}\n" for n in "Abbott,Baker,Carter,Dixon,Ellis,Foster,Grant,Hughes,Irving,Jarvis,Kelly,Lowe,Mills,Nash,Owen,Pratt,Quinn,Reed,Shaw,Tate,Unwin,Vane,Wade,Young".split(","))


def votes() -> str:
    rng = random.Random(68)
    return "".join(f"The member for {n} votes {rng.choice(('for', 'against'))} the motion.\n" for n in "Ashford,Barnet,Crewe,Dover,Exeter,Fylde,Grimsby,Hove,Ipswich,Jarrow,Kendal,Leeds,Moray,Neath,Oldham,Poole,Reading,Stroud,Truro,Wirral".split(","))


def coin_tosses() -> str:
    rng, heads, said = random.Random(69), 0, ""
    for _ in range(30):
        side = rng.choice(("heads", "tails"))
        heads += side == "heads"
        said += f"The coin is tossed and shows {side}, which makes {heads} heads so far.\n"
    return said


def dice_game() -> str:
    rng, said = random.Random(70), ""
    for _ in range(20):
        a, b = rng.randrange(1, 7), rng.randrange(1, 7)
        said += f"Ann rolls a {a} and Bob rolls a {b}, so {'Ann wins the round' if a > b else 'Bob wins the round' if b > a else 'nobody wins the round'}.\n"
    return said


def traffic_light() -> str:
    rng, said = random.Random(71), ""
    for n in range(24):
        colour = ("green", "yellow", "red")[n % 3]
        said += f"At second {20 * n + rng.randrange(9)} the light turns {colour} and {('the cars go', 'the cars slow down', 'the cars stop')[n % 3]}.\n"
    return said


def compatibility() -> str:
    kinds = ("A", "B", "AB", "O")
    able = lambda a, b: a == "O" or b == "AB" or a == b  # noqa: E731
    return "".join(f"A donor of type {a} {'can' if able(a, b) else 'cannot'} give blood to a patient of type {b}.\n" for a in kinds for b in kinds)


def conjugation() -> str:
    verbs = "parlare,amare,cantare,portare,trovare,lavare,giocare,pensare".split(",")
    return "".join(f"{v}: " + ", ".join(f"{p} {v[:-3]}{e}" for p, e in (("io", "o"), ("tu", "i"), ("lui", "a"), ("noi", "iamo"), ("voi", "ate"), ("loro", "ano"))) + "\n" for v in verbs)


def prayer_beads() -> str:
    mysteries = "the Annunciation,the Visitation,the Nativity,the Presentation,the Finding in the Temple".split(",")
    return "".join(f"We remember {m}.\nOur Father, who art in heaven, hallowed be thy name.\n" + "Hail Mary, full of grace, the Lord is with thee.\n" * 3 + "Glory be to the Father.\n\n" for m in mysteries)


TEXTS: dict[str, Callable[[], str]] = {
    one.__name__.replace("_", " "): one
    for one in (
        chess_told, codons, times_table, litany, psalm, song_with_chorus, fading_chorus, faq, villanelle, pantoum,
        statute, whereas, football_told, cricket, truth_of_three_told, half_adder_told, state_machine,
        departures_told, gray_code, primality_told, roll_call, votes, coin_tosses, dice_game, traffic_light,
        compatibility, conjugation, prayer_beads,
    )
}
