"""Is something wrong at an end of the prompt? Its first token, its last, the opening of the assistant's turn, a cut."""

from __future__ import annotations

from parity.prompt.evidence import Case, bare
from parity.prompt.record import Explanation
from parity.prompt.vocabulary import visible


def first_token(case: Case) -> tuple[Explanation | None, Case]:
    """What is wrong with the token that begins the sequence, and the case with that put right."""
    bos = case.vocabulary.number(case.folder.special.get("bos_token"))
    want, got = case.reference.ids, case.sut.ids
    if bos is None or not want or not got:
        control = got[:1] and got[0] in case.vocabulary.control
        if control and got[1:] == want:
            return _of("bos_extra", case, got[0], "the folder names no token that begins a sequence"), case.fed(want)
        return None, case
    begins = _leading(want, bos), _leading(got, bos)
    if begins[0] == begins[1]:
        return None, case
    right = case.fed((bos,) * begins[0] + got[begins[1] :])
    if begins[1] < begins[0]:
        if begins[1] == 0 and case.sut.text.startswith(case.vocabulary.text((bos,))):
            return None, case  # it is there, and spelled out
        return _of("bos_missing", case, bos, "the template writes it"), right
    if begins[1] > 1:
        writer = "the template writes it, and the tokenizer adds another" if begins[0] else "the template writes none"
        return _of("bos_doubled", case, bos, writer), right
    return _of("bos_extra", case, bos, "the template writes none"), right


def last_token(case: Case) -> tuple[Explanation | None, Case]:
    """An appended token that ends a sequence, and the case without it."""
    eos = case.vocabulary.number(case.folder.special.get("eos_token"))
    got, want = case.sut.ids, case.reference.ids
    if eos is None or got[-1:] != (eos,) or want[-1:] == (eos,) or got[:-1] != want:
        return None, case
    said = f"The SUT appends {_token(case, eos)}: the model takes its turn for ended."
    return Explanation("eos_appended", said, evidence={"token": eos}), case.fed(got[:-1])


def opening(case: Case) -> tuple[Explanation | None, Case]:
    """A missing opening of the assistant's turn, and the case against the template without it."""
    header = _before_thinking(case.opening)
    if not case.primed or not bare(header):
        return None, case
    gaps = case.gaps(case.sut.text)
    # The opening has to stand behind the last message, wherever a newline is amiss.
    behind = gaps[-1] if gaps is not None else case.sut.text[-2 * len(case.reference.text) :]
    if bare(header) in bare(behind) or bare(case.sut.text).endswith(bare(header)):
        return None, case
    if gaps is not None and _opened_otherwise(case, bare(behind)):
        return None, case
    said = f"The template opens the assistant's turn with {visible(case.opening)}; the SUT's prompt does not."
    found = Explanation("assistant_priming_missing", said, evidence={"opening": case.opening})
    return found, case.against(case.unprimed)


def _opened_otherwise(case: Case, behind: str) -> bool:
    """Whether something else stands where the template opens the assistant's turn, as `<|im_start|>bot` does."""
    from parity.prompt.turns import THINKING

    closed = case.gaps(case.unprimed.text)
    if closed is None or not behind.startswith(bare(closed[-1])):
        return False
    rest = THINKING.sub("", behind[len(bare(closed[-1])) :])
    return bool(rest.replace(case.folder.special.get("eos_token") or "", ""))


def repeated(case: Case) -> Explanation | None:
    """The whole prompt stands there more than once."""
    want, got = tuple(case.reference.ids), tuple(case.sut.ids)
    times = len(got) // len(want) if want else 0
    if times < 2 or got != want * times:
        return None
    return Explanation("prompt_repeated", f"The whole prompt is fed {times} times over.", True, {"times": times})


def cut(case: Case) -> Explanation | None:
    """The prompt is a part of the template's: its end or its start."""
    want, got = case.reference.ids, case.sut.ids
    lost = len(want) - len(got)
    if lost <= 0 or not got:
        return None
    ids = f"{lost} id is" if lost == 1 else f"{lost} ids are"
    if want[lost:] == got:
        said = f"The first {ids} cut off: the prompt was too long for a limit, or for a chunk."
        return Explanation("truncated_start", said, True, {"lost": lost})
    if want[: len(got)] == got and case.gaps(case.sut.text) is None:  # else only the opening of a turn is missing
        return Explanation("truncated_end", f"The last {ids} cut off.", True, {"lost": lost})
    return None


def _before_thinking(text: str) -> str:
    from parity.prompt.turns import THINKING

    found = THINKING.search(text)
    return text if found is None else text[: found.start()]


def _leading(ids: tuple[int, ...], token: int) -> int:
    return next((at for at, one in enumerate(ids) if one != token), len(ids))


def _token(case: Case, number: int) -> str:
    return f"{case.vocabulary.text((number,))} ({number})"


def _of(name: str, case: Case, number: int, why: str) -> Explanation:
    what = {"bos_missing": "lacks", "bos_doubled": "begins more than once with", "bos_extra": "begins with"}[name]
    return Explanation(name, f"The SUT's prompt {what} {_token(case, number)}: {why}.", evidence={"token": number})
