"""Was sampled text drawn as it was asked to be? Tokens of many seeds against the distribution they had to come from.

What cannot happen: a banned id, or one that a cut leaves out. What is unlikely, by an exact bound:

sharper or flatter    the tokens are more, or less, likely than the distribution says: another temperature.
penalties             tokens seen before come too seldom, or too often.
cuts not asked for    no token ever came from beyond the first k, from beyond a probability, or below a share of the
                      largest: the chance of that is the product of what the distribution gives to the rest.
the seed              all seeds give the same tokens, or one seed gives others when it is used again.

The bound of the first two is Chernoff's: a sum S of f(token) has P(S >= s) <= min over h of exp(K(h) - h s), with
K the sum of the rows' cumulant generating functions under the distribution asked for. It holds for any number of
tokens and however sharp the rows are, where a normal approximation does not; the h that gives the least is the
maximum-likelihood estimate of what the logits were moved by along f, and where the likelihood falls by half the 95 %
quantile of chi-square with one degree of freedom is its interval (Wilks 1938).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from parity.decode.asked import Drawn, drawn_from, mass_before
from parity.decode.pairs import LEAST
from parity.decode.sampler import REORDER
from parity.decode.side import Forced
from parity.sampling import Sampling, differing

ALARM = 1e-3
"""Chance, over all tests together (Bonferroni), that a sampler that does what it was asked is called otherwise."""

TESTS = 12
"""Two sides of four tilts, three cuts, equal seeds."""

DROP = 1.920729
"""Half the 95 % quantile of chi-square with one degree of freedom."""

LARGEST = 40.0
"""Largest move of a logit that is searched: exp(-40) of a probability is below what fp64 sums tell apart."""


@dataclass(frozen=True)
class Departure:
    """One way in which the tokens are not what was asked. p: bound on its chance under what was asked. estimate, low,
    high: of the setting that was applied, 95 %; None where it is no number, or has no bound."""

    setting: str
    p: float
    sentence: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class DrawCheck:
    """outcome: `as_asked`, `differs`, `unresolved` or `refused` (fewer than LEAST seeds).

    asked, stated: settings by name. violations: (seed number, new token, id, setting) of tokens that the settings leave
    out. departures: least likely first. estimates: of temperature and penalties as applied, name to (estimate, low,
    high); a name is missing where the tokens say nothing of it.
    """

    outcome: str
    seeds: int
    tokens: int
    violations: tuple[tuple[int, int, int, str], ...]
    departures: tuple[Departure, ...]
    estimates: Mapping[str, tuple[float, float, float]]
    sentence: str
    asked: Mapping[str, Any] = field(default_factory=dict)
    stated: Mapping[str, Any] = field(default_factory=dict)


def check_draws(
    own: Sequence[Forced],
    asked: Sampling,
    *,
    stated: Mapping[str, Any] | None = None,
    moves: Sequence[torch.Tensor] | None = None,
    again: tuple[int, ...] | None = None,
) -> DrawCheck:
    """Hold sampled continuations, one a seed, against the distributions that the settings make of the engine's logits.

    own: each forced on its own continuation. stated: settings that the runner says were in force; ids that it
    suppresses of itself count as asked. moves: [N] a continuation, how far logits move between two ways of feeding it.
    again: the first seed's continuation, made once more. Fewer than LEAST seeds conclude nothing.
    """
    stated = dict(stated or {})
    told = asked.settings()
    tokens = sum(len(one.ids) - one.prompt for one in own)
    differs = differing(asked, stated)
    saying = [f"it declares {name} {got}, asked {want}" for name, (want, got) in differs.items()]
    if len(own) < LEAST:
        text = f"Refused: {len(own)} seeds conclude nothing about a sampler; {LEAST} are needed"
        return DrawCheck("refused", len(own), tokens, (), (), {}, "; ".join([text, *saying]) + ".", told, stated)
    under = replace(asked, banned=(*asked.banned, *stated.get("suppress_tokens", ())))
    drawn = [drawn_from(one.choices, one.ids[: one.prompt], one.ids[one.prompt :], under) for one in own]
    slack = [_slack(one, None if moves is None else moves[n], asked) for n, one in enumerate(own)]
    violations = [hit for n, one in enumerate(drawn) for hit in _violations(n, one, under, slack[n])]
    departures: list[Departure] = []
    estimates: dict[str, tuple[float, float, float]] = {}
    inside = [_inside(one) for one in drawn]
    for name, along, read in _tilts(own, under):
        tilt = tilted(
            [(a.logprobs[ok], along(n, a)[ok], a.chosen[ok]) for n, (a, ok) in enumerate(_each(drawn, inside))]
        )
        if tilt is None:
            continue
        p, moved, low, high = tilt
        found = sorted((read(low), read(high)))
        estimates[name] = (read(moved), found[0], found[1])
        if p < ALARM / TESTS:
            departures.append(_moved(name, p, asked, estimates[name]))
    departures += [one for one in _unasked_cuts(drawn, inside, under) if one.p < ALARM / TESTS]
    departures += _of_the_seed(own, drawn, again)
    departures.sort(key=lambda one: one.p)
    loose = bool(violations) and moves is None
    outcome = "differs" if violations or departures or saying else "as_asked"
    if loose and not departures and not saying:
        outcome = "unresolved"
    return DrawCheck(
        outcome, len(own), tokens, tuple(violations), tuple(departures), estimates,
        _sentence(outcome, len(own), tokens, violations, departures, saying), told, stated,
    )  # fmt: skip


def tilted(rows: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> tuple[float, float, float, float] | None:
    """Chernoff's bound for the sum of f over the tokens, the move h that gives it, and its interval.

    rows: log-probabilities [N, V], f [N, V] and chosen ids [N]. None where f is the same for all ids of every row.
    """
    logprobs = torch.cat([one[0] for one in rows])
    f = torch.cat([one[1] for one in rows])
    chosen = torch.cat([one[2] for one in rows])
    if not len(chosen):
        return None
    live = logprobs > -torch.inf
    f = torch.where(live, f, torch.zeros_like(f))
    mean = (logprobs.exp() * f).sum(1, keepdim=True)
    f = torch.where(live, f - mean, torch.zeros_like(f))
    spread = (logprobs.exp() * f.square()).sum(1)
    told = spread > 0
    if not bool(told.any()):
        return None
    logprobs, f, chosen = logprobs[told], f[told], chosen[told]
    total = float(f.gather(1, chosen[:, None]).sum())
    reach = LARGEST / max(float(f.abs().max()), 1e-300)

    def gain(h: float) -> float:
        """Log-likelihood of the tokens with logits moved by h f, over that without."""
        return h * total - float((logprobs + h * f).logsumexp(1).sum())

    best = _largest(gain, -reach, reach)
    top = gain(best)
    low = _crossing(gain, best, -reach, top - DROP)
    high = _crossing(gain, best, reach, top - DROP)
    return math.exp(min(0.0, -top)), best, low, high


def _largest(gain: Callable[[float], float], low: float, high: float, steps: int = 60) -> float:
    """Where a concave function is largest, by golden section."""
    golden = (math.sqrt(5) - 1) / 2
    a, b = high - golden * (high - low), low + golden * (high - low)
    at_a, at_b = gain(a), gain(b)
    for _ in range(steps):
        if at_a < at_b:
            low, a, at_a = a, b, at_b
            b = low + golden * (high - low)
            at_b = gain(b)
        else:
            high, b, at_b = b, a, at_a
            a = high - golden * (high - low)
            at_a = gain(a)
        if high - low < 1e-4 * max(abs(a), 1e-3):
            break
    return (low + high) / 2


def _crossing(gain: Callable[[float], float], best: float, end: float, level: float) -> float:
    """Where the function falls to `level` between `best` and `end`; infinite where it does not."""
    if gain(end) > level:
        return math.copysign(math.inf, end - best)
    inner, outer = best, end
    for _ in range(40):
        middle = (inner + outer) / 2
        if gain(middle) > level:
            inner = middle
        else:
            outer = middle
        if abs(outer - inner) < 1e-4 * max(abs(outer), 1e-3):
            break
    return (inner + outer) / 2


Tilt = tuple[str, Callable[[int, Drawn], torch.Tensor], Callable[[float], float]]


def _tilts(own: Sequence[Forced], asked: Sampling) -> list[Tilt]:
    """Settings that move logits: name, direction for one continuation, and what a move by h makes of the setting."""
    heat = asked.temperature

    def temperature(h: float) -> float:
        share = 1 + h
        return heat / share if share > 0 else math.inf

    def presence(h: float) -> float:
        return asked.presence_penalty + h * heat

    def counts(n: int, prompt: bool) -> torch.Tensor:
        one = own[n]
        times = torch.zeros(len(one.ids) - one.prompt, one.logits.shape[1], dtype=torch.float64)
        if prompt:
            times += torch.bincount(torch.tensor(one.ids[: one.prompt]), minlength=times.shape[1])
        for step, token in enumerate(one.ids[one.prompt : -1], 1):
            times[step:, token] += 1
        return times

    def finite(x: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.isfinite(x), x, torch.zeros_like(x))

    return [
        ("temperature", lambda n, one: finite(one.scores), temperature),
        ("presence_penalty", lambda n, one: -(counts(n, False) > 0).double(), presence),
        ("frequency_penalty", lambda n, one: -counts(n, False), lambda h: asked.frequency_penalty + h * heat),
        (
            "repetition_penalty",
            lambda n, one: -finite(one.scores).abs() * (counts(n, True) > 0),
            lambda h: asked.repetition_penalty * math.exp(min(h, LARGEST)),
        ),
    ]  # fmt: skip


def _moved(name: str, p: float, asked: Sampling, found: tuple[float, float, float]) -> Departure:
    estimate, low, high = found
    want = getattr(asked, name)
    said = f"{name} as applied is about {estimate:.3g}, 95 % {low:.3g} to {high:.3g}, asked {want:g}"
    return Departure(name, p, said, estimate, low, high)


def _violations(number: int, one: Drawn, asked: Sampling, slack: torch.Tensor) -> list[tuple[int, int, int, str]]:
    """Tokens that no slack of the scores lets in. slack: [N], by how much two scores of a row may move apart."""
    found = []
    for step, token in enumerate(one.chosen.tolist()):
        if bool(one.kept[step, token]):
            continue
        row = one.scores[step]
        if token in asked.banned or (asked.allowed and token not in asked.allowed):
            found.append((number, step, token, "banned" if token in asked.banned else "allowed"))
            continue
        ahead = row > row[token] + slack[step]
        share = row.softmax(0)
        if asked.top_k and int(ahead.sum()) >= asked.top_k:
            found.append((number, step, token, "top_k"))
        elif asked.top_p < 1 and float(share[ahead].sum() / _held(row, share, asked)) >= asked.top_p:
            found.append((number, step, token, "top_p"))
        elif asked.min_p and float((row[token] - row.max() + slack[step]).exp()) < asked.min_p:
            found.append((number, step, token, "min_p"))
    return found


def _held(row: torch.Tensor, share: torch.Tensor, asked: Sampling) -> torch.Tensor:
    """Probability of what top-k leaves, of which top-p takes its part."""
    if not asked.top_k:
        return share.sum()
    return share[row >= row.topk(min(asked.top_k, len(row))).values[-1]].sum()


def _slack(one: Forced, move: torch.Tensor | None, asked: Sampling) -> torch.Tensor:
    size = one.choices.double().abs().amax(1) * REORDER
    return 2 * (size if move is None else size + move.double()) / asked.temperature


def _inside(one: Drawn) -> torch.Tensor:
    """[N] tokens that could be drawn at all."""
    return one.kept.gather(1, one.chosen[:, None])[:, 0]


def _each(drawn: Sequence[Drawn], inside: Sequence[torch.Tensor]) -> zip[tuple[Drawn, torch.Tensor]]:
    return zip(drawn, inside, strict=True)


def _unasked_cuts(drawn: Sequence[Drawn], inside: Sequence[torch.Tensor], asked: Sampling) -> list[Departure]:
    """How likely it is that no token came from beyond where the furthest one did, for three meanings of beyond."""
    chance = {"top_k": [], "top_p": [], "min_p": []}
    for one, ok in _each(drawn, inside):
        scores = one.logprobs[ok]
        order, before = mass_before(scores)
        share = scores.exp().gather(1, order)
        place = (order == one.chosen[ok][:, None]).double().argmax(1)
        ranks = torch.arange(scores.shape[1]).expand_as(before)
        ratio = share / share[:, :1]
        for name, far in (("top_k", ranks.double()), ("top_p", before), ("min_p", -ratio)):
            chance[name].append((far, share, far.gather(1, place[:, None])[:, 0]))
    found = []
    for name, parts in chance.items():
        furthest = max((float(own.max()) for _, _, own in parts if len(own)), default=math.inf)
        logs = sum(float(torch.where(far <= furthest, share, 0.0).sum(1).clamp(max=1).log().sum())
                   for far, share, _ in parts)  # fmt: skip
        value = {"top_k": furthest + 1, "top_p": furthest, "min_p": -furthest}[name]
        what = {
            "top_k": f"came from beyond the {value:.0f} likeliest",
            "min_p": f"was below {value:.3g} of the likeliest",
        }
        said = what.get(name, f"came from beyond probability {value:.3g}")
        text = f"no token {said}, as under a {name} that was not asked for (asked {getattr(asked, name)})"
        found.append(Departure(name, math.exp(min(logs, 0.0)), text))
    return found


def _of_the_seed(own: Sequence[Forced], drawn: Sequence[Drawn], again: tuple[int, ...] | None) -> list[Departure]:
    found = []
    texts = [one.ids[one.prompt :] for one in own]
    if again is not None and tuple(again) != tuple(texts[0]):
        found.append(Departure("seed", 0.0, "the first seed gave other tokens when it was used again"))
    if len(set(texts)) == 1:
        logs = float(drawn[0].logprobs.gather(1, drawn[0].chosen[:, None]).sum()) * (len(texts) - 1)
        if logs < math.log(ALARM / TESTS):
            found.append(Departure("seed", math.exp(max(logs, -700.0)), f"all {len(texts)} seeds gave the same tokens"))
    return found


def _sentence(
    outcome: str, seeds: int, tokens: int, violations: Sequence[tuple[int, int, int, str]],
    departures: Sequence[Departure], saying: Sequence[str],
) -> str:  # fmt: skip
    over = f"{tokens} tokens of {seeds} seeds"
    if outcome == "as_asked":
        return f"{over} are what the settings make of the engine's own logits (chance of a false alarm {ALARM:g})."
    said = list(saying)
    if violations:
        n, step, token, name = violations[0]
        said.append(f"{len(violations)} tokens that {name} leaves out, the first {token}, new token {step} of seed {n}")
    said += [f"{one.sentence} (chance at most {one.p:.1g})" for one in departures]
    return f"{over}: " + "; ".join(said) + "."
