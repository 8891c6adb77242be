"""A second set of healthy texts, written after the detector was mended for the first and before it was run on these."""

# ruff: noqa: E501 - the texts stand as they are read

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

FRAMES: dict[str, tuple[str, str]] = {
    "zodiac": ("Those who were born under the sign of the {} are said to be {} and to get along with the {}.\n",
               "ram,bold,lion;bull,patient,virgin;twins,curious,scales;crab,tender,fish;lion,proud,archer;virgin,careful,goat;scales,fair,bearer;scorpion,deep,crab;archer,free,ram;goat,stern,bull;bearer,odd,twins;fish,dreamy,scorpion"),
    "tools": ("To {} the {} you will need a {} and about {} minutes of your time. ",
              "fix,chair,hammer,20;paint,door,brush,45;cut,hedge,saw,60;clean,gutter,ladder,30;hang,mirror,drill,15;sand,table,block,50;oil,hinge,can,5;patch,wall,trowel,40;sharpen,knife,stone,10;lay,floor,mallet,300;seal,window,gun,25"),
    "italian menu": ("Per {} prendiamo {} con {} e un bicchiere di {}.\n",
                     "lunedì,pasta,funghi,rosso;martedì,riso,piselli,bianco;mercoledì,zuppa,fagioli,acqua;giovedì,gnocchi,burro,rosso;venerdì,pesce,limone,bianco;sabato,pizza,acciughe,birra;domenica,arrosto,patate,rosso;festa,lasagne,ragù,spumante;cena,minestra,verdure,acqua"),
    "dutch animals": ("Een {} woont in {} en eet het liefst {} en ook wel {}.\n",
                      "vos,bos,muizen,bessen;mol,grond,wormen,larven;eend,sloot,kroos,brood;uil,schuur,ratten,kevers;das,burcht,eikels,slakken;egel,heg,torren,peren;reiger,riet,vis,kikkers;konijn,duin,gras,klaver;kat,huis,brokjes,melk"),
    "portuguese rivers": ("O rio {} nasce em {} e corre até {} sem parar.\n",
                          "Tejo,Albarracín,Lisboa;Douro,Urbión,Porto;Minho,Meira,Caminha;Mondego,Estrela,Figueira;Sado,Caldeirão,Setúbal;Guadiana,Ruidera,Ayamonte;Lima,Talariño,Viana;Vouga,Lapa,Aveiro;Cávado,Larouco,Esposende;Ave,Cabreira,Azurara"),
    "japanese trains": ("次の駅は{}で、{}へ行く方は{}番線でお乗り換えください。\n",
                        "東京,千葉,3;品川,横浜,5;新宿,八王子,8;上野,水戸,11;池袋,川越,2;渋谷,吉祥寺,1;大宮,高崎,7;立川,奥多摩,4"),
    "polish prices": ("Za {} trzeba dziś zapłacić {} złotych, a wczoraj było to {} złotych.\n",
                      "chleb,6,5;masło,9,8;ser,31,29;mleko,4,4;jajka,14,12;kawę,38,40;herbatę,17,16;miód,44,41;mąkę,5,4;cukier,4,5;sól,2,3;ryż,7,8"),
    "court record": ("Q. And what did you see at the {} on the night of the {}?\nA. I saw the {} and a man with a {}.\n",
                     "harbour,third,boat,lamp;station,fourth,train,bag;market,sixth,cart,knife;bridge,ninth,horse,rope;inn,tenth,landlord,dog;mill,twelfth,wheel,sack;church,fifteenth,verger,key;gate,twentieth,guard,letter"),
    "proof steps": ("By {} the set {} is {}, and therefore its image under {} is {} as well.\n",
                    "compactness,K,closed,f,closed;continuity,U,open,g,connected;lemma,A,bounded,h,bounded;hypothesis,B,finite,p,countable;duality,C,convex,q,convex;density,D,dense,r,dense;symmetry,E,balanced,s,balanced;choice,F,ordered,t,ordered"),
    "museum guide": ("In room {} you will find a {} of {} that was made in {} for a {}.\n",
                     "1,bust,marble,Rome,senator;2,vase,clay,Corinth,merchant;3,cup,silver,Vienna,bishop;4,clock,brass,Geneva,banker;5,mask,gold,Mycenae,king;6,fan,silk,Kyoto,dancer;7,chest,oak,Lubeck,guild;8,sword,steel,Toledo,captain;9,harp,maple,Dublin,widow"),
    "bird song": ("The {} sings {} and {} from the top of the {} in early {}.\n",
                  "wren,fast,loud,hedge,March;robin,sad,clear,birch,October;thrush,twice,bright,ash,February;lark,high,long,field,April;finch,short,sharp,elm,May;warbler,soft,even,reed,June;starling,mixed,odd,roof,January;cuckoo,two,notes,oak,July"),
    "css variables": ("  --color-{}: var(--{}-{});\n",
                      "text,gray,900;link,blue,600;border,gray,200;error,red,700;success,green,500;warn,amber,400;muted,gray,500;accent,teal,300;focus,blue,400;shade,black,050;paper,white,100;ink,black,950;hover,blue,700;active,blue,800;visited,plum,600"),
    "cron": ("{} {} * * {} /usr/local/bin/{}.sh --quiet --log /var/log/{}.log\n",
             "0,1,1,backup,backup;15,2,*,rotate,rotate;30,3,5,report,report;5,4,*,sync,sync;45,5,0,prune,prune;10,6,*,mail,mail;0,12,6,index,index;20,22,*,stats,stats"),
    "commit log": ("commit {}\nAuthor: {} <{}@example.org>\n\n    {} the {} when the {} is empty\n\n",
                   "a91f3c,Ana,ana,Skip,header,list;77be02,Bo,bo,Close,socket,queue;1c4d9e,Cy,cy,Reset,counter,cache;f00d12,Di,di,Draw,border,frame;8e21aa,Ed,ed,Warn,user,path;39cc70,Flo,flo,Drop,lock,pool;bb18e4,Gil,gil,Trim,name,field;04ad6f,Hal,hal,Send,reply,body"),
    "errors": ("error: cannot find value `{}` in this scope\n  --> src/{}.rs:{}:{}\n   |\n   | help: a local variable with a similar name exists: `{}`\n\n",
               "lenght,parse,14,9,length;heigth,draw,88,21,height;widht,draw,91,21,width;adress,net,7,13,address;recieve,net,52,5,receive;seperator,fmt,33,17,separator;occured,log,120,8,occurred;begining,lex,61,30,beginning"),
}  # fmt: skip


def framed(frame: str, rows: str) -> Callable[[], str]:
    return lambda: "".join(frame.format(*row.split(",")) for row in rows.split(";"))


def queens() -> str:
    said, cols = "", [0, 4, 7, 5, 2, 6, 1, 3]
    for row in range(8):
        tries = [c for c in range(cols[row] + 1) if c != cols[row]]
        said += "".join(f"We try row {row} column {c}, but it is attacked, so we move on.\n" for c in tries)
        said += f"We put the queen of row {row} in column {cols[row]} and go down to row {row + 1}.\n"
    return said


def sieve() -> str:
    said, left = "", list(range(2, 60))
    while left[0] < 8:
        p = left[0]
        out = [n for n in left if n % p == 0 and n != p]
        said += "".join(f"We cross out {n} because it is {p} times {n // p} and so it is not prime.\n" for n in out)
        left = [n for n in left[1:] if n % p]
    return said


def long_division() -> str:
    rest, said = 1, ""
    for n in range(1, 30):
        said += f"Digit {n}: ten times {rest} is {10 * rest}, which holds 29 {10 * rest // 29} times and leaves {10 * rest % 29}.\n"
        rest = 10 * rest % 29
    return said


def newton() -> str:
    x, said = 20.0, ""
    for _ in range(6):
        said += f"We take half of {x:.6f} and {150 / x:.6f} and get {(x + 150 / x) / 2:.6f} as a better value.\n"
        x = (x + 150 / x) / 2
    return said


def dijkstra() -> str:
    rng, names, said = random.Random(31), "ABCDEFGHJKLMNP", ""
    for n, name in enumerate(names[1:], 1):
        before, far = names[rng.randrange(n)], rng.randrange(9, 99)
        said += f"The nearest open node is {name}, which we reach from {before} with a total length of {far + 7 * n}.\n"
    return said


def stack_machine() -> str:
    rng, stack, said = random.Random(32), [2, 3], ""
    for _ in range(26):
        if len(stack) > 1 and rng.random() < 0.45:
            b, a = stack.pop(), stack.pop()
            stack.append(a + b)
            said += f"We pop {b} and {a} and push their sum {a + b}, so the stack has {len(stack)} entries.\n"
        else:
            stack.append(rng.randrange(1, 60))
            said += f"We push {stack[-1]} on top, so the stack has {len(stack)} entries.\n"
    return said


def tennis() -> str:
    rng, said, score = random.Random(33), "", [0, 0]
    for _ in range(18):
        who = rng.randrange(2)
        score[who] += 1
        said += f"{('Berg', 'Silva')[who]} wins the game with a {rng.choice(('volley', 'lob', 'smash', 'serve', 'slice'))} and it is now {score[0]} to {score[1]} in games.\n"
    return said


def hymn() -> str:
    things = [
        "sun that rises",
        "moon at night",
        "wind that blows",
        "rain that falls",
        "fire that warms",
        "earth that bears",
        "stars above",
        "snow in winter",
        "fruit in autumn",
        "birds of morning",
    ]
    return "".join(
        f"Be praised for the {thing},\nfor all that is and all that was,\nbe praised.\n\n" for thing in things
    )


def green_grass() -> str:
    parts: Sequence[str] = (
        "hole in the ground",
        "tree in the hole",
        "branch on the tree",
        "nest on the branch",
        "egg in the nest",
        "bird in the egg",
        "wing on the bird",
    )
    said = ""
    for n, part in enumerate(parts):
        said += f"And {'in' if n < 2 else 'on'} that place there was a {part},\nthe prettiest {part.split()[0]} that you ever did see,\n"
        said += (
            "".join(f"and the {parts[k]},\n" for k in range(n - 1, -1, -1)) + "and the green grass grew all around.\n\n"
        )
    return said


def multiplication_told() -> str:
    return "".join(
        f"If {a} children have {b} marbles each, they have {a * b} marbles together.\n"
        for a, b in (
            (3, 4),
            (7, 2),
            (5, 9),
            (8, 6),
            (4, 11),
            (9, 3),
            (6, 12),
            (2, 15),
            (10, 7),
            (12, 5),
            (11, 8),
            (13, 4),
            (3, 17),
            (14, 2),
        )
    )


def programs() -> Iterator[tuple[str, Callable[[], str]]]:
    for one in (
        queens,
        sieve,
        long_division,
        newton,
        dijkstra,
        stack_machine,
        tennis,
        hymn,
        green_grass,
        multiplication_told,
    ):
        yield one.__name__.replace("_", " "), one


TEXTS: dict[str, Callable[[], str]] = {name: framed(*rows) for name, rows in FRAMES.items()} | dict(programs())
