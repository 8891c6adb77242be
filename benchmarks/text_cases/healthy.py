"""Healthy texts that repeat themselves, written before the detector they test was run on any of them.

Prose and speech in fixed frames, in several languages. Records, code and notation are in `records`.
"""

# ruff: noqa: E501, RUF001, RUF007 - the texts stand as they are read

from __future__ import annotations

from collections.abc import Callable

PLANETS = {
    "Mercury": ("58", "no moons", "rock"), "Venus": ("108", "no moons", "rock"), "Earth": ("150", "one moon", "rock"),
    "Mars": ("228", "two moons", "rock"), "Jupiter": ("778", "many moons", "gas"),
    "Saturn": ("1434", "many moons", "gas"), "Uranus": ("2871", "many moons", "ice"),
    "Neptune": ("4495", "some moons", "ice"), "Ceres": ("414", "no moons", "rock"), "Pluto": ("5906", "five moons", "ice"),
}  # fmt: skip


def planets() -> str:
    return "".join(
        f"{name} is {far} million kilometres from the Sun, has {moons} and is made mostly of {kind}.\n"
        for name, (far, moons, kind) in PLANETS.items()
    )


def guests() -> str:
    seats = [
        "Anna",
        "Boris",
        "Clara",
        "David",
        "Elena",
        "Frank",
        "Greta",
        "Hugo",
        "Irene",
        "Jonas",
        "Karla",
        "Lukas",
        "Maria",
        "Niels",
        "Olga",
        "Peter",
    ]
    likes = [
        "fish",
        "soup",
        "rice",
        "pasta",
        "beans",
        "lamb",
        "duck",
        "bread",
        "cheese",
        "eggs",
        "salad",
        "tofu",
        "pork",
        "plums",
        "figs",
        "pears",
    ]
    return "".join(
        f"{a} sits next to {b} and would like {f} for dinner. "
        for a, b, f in zip(seats, seats[1:], likes, strict=False)
    )


def german_table() -> str:
    words = {
        "der Hund": "the dog", "die Katze": "the cat", "das Pferd": "the horse", "der Vogel": "the bird",
        "die Kuh": "the cow", "das Schaf": "the sheep", "der Fisch": "the fish", "die Maus": "the mouse",
        "das Huhn": "the hen", "der Wolf": "the wolf", "die Biene": "the bee", "das Reh": "the deer",
        "der Igel": "the hedgehog", "die Ente": "the duck", "der Fuchs": "the fox", "die Ziege": "the goat",
    }  # fmt: skip
    return "".join(f"Auf Deutsch sagt man {de} und auf Englisch sagt man dazu {en}.\n" for de, en in words.items())


def french_days() -> str:
    said = {
        "lundi": "la lessive", "mardi": "le repassage", "mercredi": "les courses", "jeudi": "le jardin",
        "vendredi": "la cuisine", "samedi": "les fenêtres", "dimanche": "une longue sieste",
    }  # fmt: skip
    first = "".join(
        f"Le {day} matin, ma tante fait toujours {work} avant de prendre son café.\n" for day, work in said.items()
    )
    return first + "".join(
        f"Le {day} soir, ma tante pense encore à {work} avant de dormir.\n" for day, work in said.items()
    )


def spanish_capitals() -> str:
    pairs = (
        "España Madrid,Francia París,Italia Roma,Grecia Atenas,Suecia Estocolmo,Noruega Oslo,Polonia Varsovia,Hungría Budapest,"
        "Austria Viena,Portugal Lisboa,Irlanda Dublín,Japón Tokio,Egipto Cairo,Perú Lima,Chile Santiago,Cuba Habana,"
        "Turquía Ankara,Rusia Moscú,Bulgaria Sofía,Rumanía Bucarest,Croacia Zagreb,Kenia Nairobi,Ghana Acra,Canadá Ottawa"
    )
    return "".join("La capital de {} es la ciudad de {}.\n".format(*pair.split()) for pair in pairs.split(","))


def russian_years() -> str:
    said = {1801: "хлеб", 1815: "соль", 1823: "чай", 1834: "сахар", 1847: "мёд", 1852: "рыба", 1861: "масло", 1873: "мука",
            1889: "сыр", 1894: "вино", 1899: "лён", 1903: "лес"}  # fmt: skip
    return "".join(
        f"В {year} году на этой ярмарке лучше всего продавали {ware}, и цены были высокие.\n"
        for year, ware in said.items()
    )


def chinese_proverbs() -> str:
    said = [
        "春天种花",
        "夏天养鱼",
        "秋天收米",
        "冬天读书",
        "早晨跑步",
        "中午做饭",
        "下午写字",
        "晚上喝茶",
        "雨天修屋",
        "晴天晒衣",
        "月初算账",
        "月末访友",
    ]
    return "".join(f"老人说,{one}是一件很好的事,所以大家都应该记住。\n" for one in said)


def dialogue() -> str:
    said = (
        ("a loaf of bread", "two coins"), ("a jug of milk", "three coins"), ("a dozen eggs", "four coins"),
        ("a pound of butter", "nine coins"), ("a wheel of cheese", "thirty coins"), ("a sack of flour", "twelve coins"),
        ("a jar of honey", "eight coins"), ("a string of onions", "one coin"), ("a basket of plums", "five coins"),
        ("a side of bacon", "forty coins"), ("a box of salt", "two coins"), ("a bunch of mint", "half a coin"),
    )  # fmt: skip
    return "".join(
        f"'How much do you ask for {a}?' said the old man.\n'For {a} I ask {b},' said the girl.\n" for a, b in said
    )


def proof_by_cases() -> str:
    said = "Let n be a number that leaves the rest r when it is divided by nine. We look at the square of n.\n"
    for r in range(9):
        said += f"If r is {r}, then the square of n leaves the rest of {r * r} by nine, which is {r * r % 9}, so the claim holds.\n"
    return said + "Since these are all cases the claim is proved.\n"


def induction() -> str:
    total, said = 0, ""
    for n in range(1, 15):
        total += n**3
        root = n * (n + 1) // 2
        said += f"The sum of the first {n} cubes is {total}, and this is the square of {root}.\n"
    return said


def refrain() -> str:
    verses = (
        "The tide came in on a Monday night\nand took the boats from the quay,\n",
        "My brother sailed with a Dutchman's crew\nto fetch us pepper and tea,\n",
        "He wrote one letter from Lisbon town\nand one from over the sea,\n",
        "The third was brought by a stranger's hand\nwho would not look at me,\n",
        "I sold the house and I sold the cow\nand cut down the apple tree,\n",
        "And now I stand where the boats had been\nas far as the eye can see,\n",
    )
    return "".join(verse + "and oh, the wind, the cold, cold wind,\nit never let us be.\n\n" for verse in verses)


def twelve_days() -> str:
    gifts = (
        "a partridge in a pear tree", "two turtle doves", "three French hens", "four calling birds", "five gold rings",
        "six geese a-laying", "seven swans a-swimming", "eight maids a-milking", "nine ladies dancing",
        "ten lords a-leaping", "eleven pipers piping", "twelve drummers drumming",
    )  # fmt: skip
    days = [
        "first",
        "second",
        "third",
        "fourth",
        "fifth",
        "sixth",
        "seventh",
        "eighth",
        "ninth",
        "tenth",
        "eleventh",
        "twelfth",
    ]
    said = ""
    for n, day in enumerate(days):
        given = [("and " if n and k == 0 else "") + gifts[k] for k in range(n, -1, -1)]
        said += f"On the {day} day of Christmas my true love sent to me\n" + ",\n".join(given) + ".\n\n"
    return said


def house_that_jack_built() -> str:
    parts = (
        "the house that Jack built", "the malt that lay in", "the rat that ate", "the cat that killed",
        "the dog that worried", "the cow with the crumpled horn that tossed", "the maiden all forlorn that milked",
        "the man all tattered and torn that kissed", "the priest all shaven and shorn that married",
        "the cock that crowed in the morn that waked", "the farmer sowing his corn that kept",
    )  # fmt: skip
    return "".join("This is " + "\n".join(parts[k] for k in range(n, -1, -1)) + ".\n\n" for n in range(len(parts)))


def directions() -> str:
    ways = (
        ("left", "bakery", 200), ("right", "post office", 450), ("left", "small bridge", 90), ("right", "old mill", 700),
        ("right", "railway station", 350), ("left", "town hall", 120), ("left", "cinema", 60), ("right", "school", 800),
        ("left", "hospital", 250), ("right", "football ground", 1100), ("left", "river", 300), ("right", "blue house", 40),
    )  # fmt: skip
    return "".join(f"Turn {way} at the {place} and then go straight on for {far} metres.\n" for way, place, far in ways)


def quiz() -> str:
    asked = {
        "wrote Hamlet": "Shakespeare", "painted the Mona Lisa": "Leonardo", "discovered penicillin": "Fleming",
        "composed the Messiah": "Handel", "built the first telephone": "Bell", "sailed to America in 1492": "Columbus",
        "proved that light bends": "Eddington", "found the law of gravity": "Newton", "wrote Don Quixote": "Cervantes",
        "designed the Eiffel Tower": "Eiffel", "invented dynamite": "Nobel", "wrote Faust": "Goethe",
    }  # fmt: skip
    return "".join(
        f"Question: Who was it that {what}?\nAnswer: It was {who}, as most of you will know.\n\n"
        for what, who in asked.items()
    )


def weather() -> str:
    towns = (
        ("Bergen", "rain", 7), ("Oslo", "sun", 11), ("Malmo", "wind", 9), ("Turku", "fog", 4), ("Riga", "cloud", 6),
        ("Gdansk", "drizzle", 8), ("Lubeck", "hail", 5), ("Aarhus", "sun", 10), ("Tartu", "snow", -1), ("Vilnius", "frost", -3),
        ("Minsk", "sleet", 0), ("Kaunas", "mist", 2), ("Narva", "ice", -5), ("Umea", "snow", -8),
    )  # fmt: skip
    return "".join(
        f"In {town} there will be {sky} in the morning and {warm} degrees in the afternoon.\n"
        for town, sky, warm in towns
    )


def relay() -> str:
    order = [
        "Ada",
        "Ben",
        "Cem",
        "Dora",
        "Emil",
        "Fay",
        "Gus",
        "Hana",
        "Ivo",
        "Jana",
        "Kurt",
        "Lea",
        "Milo",
        "Nora",
        "Otto",
    ]
    return "".join(
        f"{a} passed the baton to {b}, and {b} ran on as fast as the wind.\n"
        for a, b in zip(order, order[1:], strict=False)
    )


def euclid() -> str:
    a, b, said = 1_346_269, 514_229 * 2 + 7, ""
    while b:
        said += f"Dividing {a} by {b} gives {a // b} and leaves a rest of {a % b}.\n"
        a, b = b, a % b
    return said + f"So the greatest common divisor is {a}.\n"


def bubble_sort() -> str:
    row, said = [9, 4, 7, 1, 8, 3], ""
    for end in range(len(row) - 1, 0, -1):
        for at in range(end):
            a, b = row[at], row[at + 1]
            if a > b:
                row[at], row[at + 1] = b, a
                said += f"Since {a} is more than {b} we swap them, and the list is now {', '.join(map(str, row))}.\n"
            else:
                said += (
                    f"Since {a} is not more than {b} we leave them, and the list is still {', '.join(map(str, row))}.\n"
                )
    return said


def truth_table() -> str:
    said = ""
    for n in range(16):
        p, q, r, s = ("true" if n >> k & 1 else "false" for k in (3, 2, 1, 0))
        holds = (n >> 3 & 1 and n >> 2 & 1) or (n >> 1 & 1 and not n & 1)
        said += f"When p is {p}, q is {q}, r is {r} and s is {s}, the formula is {'true' if holds else 'false'}.\n"
    return said


def interview() -> str:
    years = {
        1991: ("I was born in a village by the lake", "my mother ran the only shop"),
        1997: ("I went to school for the first time", "the teacher let me draw all day"),
        2003: ("We moved into a flat in the city", "I missed the goats more than my friends"),
        2008: ("I began to play the cello", "nobody in the house could sleep"),
        2012: ("I left for the conservatory", "the bus broke down at the border"),
        2016: ("I played my first concert abroad", "half of the hall was empty"),
        2021: ("I came back to the lake", "the shop had become a museum"),
    }
    return "".join(
        f"Interviewer: And what happened to you in {y}?\nGuest: {a}, and {b}.\n" for y, (a, b) in years.items()
    )


def family() -> str:
    rows = (
        "Abel Seth,Seth Enos,Enos Kenan,Kenan Jared,Jared Enoch,Enoch Lamech,Lamech Noah,Noah Shem,Shem Eber,Eber Peleg,"
        "Peleg Reu,Reu Serug,Serug Nahor,Nahor Terah,Terah Abram,Abram Isaac,Isaac Jacob,Jacob Judah,Judah Perez,Perez Ram"
    )
    return "".join(
        "And {0} was the father of {1}, and {1} grew up and took a wife.\n".format(*r.split()) for r in rows.split(",")
    )


def exercise_plan() -> str:
    plan = (
        ("Monday", "squats", 3, 12), ("Tuesday", "rows", 4, 8), ("Wednesday", "lunges", 3, 15), ("Thursday", "presses", 5, 5),
        ("Friday", "planks", 2, 60), ("Saturday", "sprints", 6, 40), ("Sunday", "stretches", 1, 20),
    )  # fmt: skip
    first = "".join(
        f"On {day} do {n} sets of {k} {what} with a short break after each of them.\n" for day, what, n, k in plan
    )
    return first + "".join(
        f"On {day} of the second week do {n + 1} sets of {k + 2} {what} with a short break after each of them.\n"
        for day, what, n, k in plan
    )


TEXTS: dict[str, Callable[[], str]] = {
    one.__name__.replace("_", " "): one
    for one in (
        planets, guests, german_table, french_days, spanish_capitals, russian_years, chinese_proverbs, dialogue,
        proof_by_cases, induction, refrain, twelve_days, house_that_jack_built, directions, quiz, weather, relay, euclid,
        bubble_sort, truth_table, interview, family, exercise_plan,
    )
}  # fmt: skip
