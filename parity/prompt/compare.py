"""Did the engine feed what the checkpoint's own template makes of the conversation, and if not, why?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from parity.errors import CheckpointError, UsageError
from parity.prompt.alignment import Hunk, align
from parity.prompt.conversation import Conversation
from parity.prompt.evidence import Candidate, Case, Prompted
from parity.prompt.fed import FedPrompt
from parity.prompt.folder import ModelFolder, Template, read_folder
from parity.prompt.record import Difference, Explanation, PromptComparison
from parity.prompt.render import Rendering, render_jobs
from parity.prompt.rules import explain
from parity.prompt.search import UNPRIMED, Rendered, Search, encoded, job_for
from parity.prompt.settings import Setting
from parity.prompt.vocabulary import Vocabulary

SETTING_COSTS = 2
"""Ids that a changed argument has to explain before the reference is rendered with it; decides what a difference is
shown against, never whether there is one."""

ALIGNED = 200_000
"""Ids in all renderings together up to which each is aligned to find the nearest; beyond, their ends are compared."""


def compare_prompts(model: str | Path, conversation: Conversation, fed: FedPrompt | Sequence[int]) -> PromptComparison:
    """Hold the ids that an engine fed against the model folder's own template and tokenizer.

    The arguments in `conversation.arguments` are the caller's; every other variable that the template reads is varied
    over a few values, and ids that one of these settings gives are the same prompt. Whether the assistant's turn is
    opened and the tools are described is no matter of taste: it follows from the conversation unless it is asked for.
    No weights are read; templates run in a sandboxed child process.

    Raises UsageError for ids outside the vocabulary and for a conversation that the template refuses, CheckpointError
    for a folder without template or tokenizer.json, ConfigError for damaged or hostile files, RunnerError where the
    `tokenizers` library is missing.
    """
    given = fed if isinstance(fed, FedPrompt) else FedPrompt(tuple(fed), "ids")
    folder = read_folder(Path(model))
    template = folder.chosen(tools=bool(conversation.tools))
    vocabulary = Vocabulary.read(folder.path, folder.special)
    vocabulary.require_known(given.ids)
    sut = Prompted(given.ids, vocabulary.text(given.ids))
    (first,), (inspection,) = render_jobs([job_for(folder, template, conversation)], inspect=[template.text])
    plain = Rendered(Setting({}), encoded(vocabulary, _text(first, template)))
    nearest, tried, all_tried, explanations = plain, 1, True, ()
    hunks: tuple[Hunk, ...] = ()
    if plain.prompt.ids != sut.ids:
        search = Search(folder, template, vocabulary, conversation, sut)
        found, others, all_tried = search.run(inspection, first.formats)
        rendered = [plain, *found]
        tried = len(rendered)
        nearest = _nearest(rendered, sut)
        if nearest.prompt.ids != sut.ids:
            case = _case(folder, template, vocabulary, conversation, sut, nearest, others)
            explanations = explain(case)
            hunks = case.hunks
    if given.counted is not None and given.counted != len(sut.ids):
        explanations = (*explanations, _counted(given.counted, len(sut.ids), alone=not explanations))
    pieces = tuple(vocabulary.shown(ids) for ids in (nearest.prompt.ids, sut.ids))
    return PromptComparison(
        same=not explanations,
        model=folder.path.resolve().name,
        template=template.source if template.name == "default" else f"{template.source} ({template.name})",
        source=given.source,
        asked=dict(conversation.arguments),
        settings=nearest.setting.said(),
        tried=tried,
        all_tried=all_tried,
        reference_ids=nearest.prompt.ids,
        sut_ids=sut.ids,
        reference_text=nearest.prompt.text,
        sut_text=sut.text,
        reference_pieces=pieces[0],
        sut_pieces=pieces[1],
        hunks=hunks,
        first=_first(hunks, nearest.prompt.ids, sut.ids, pieces),
        counted=given.counted,
        explanations=explanations,
        unread=tuple(
            name for name in conversation.arguments if name not in (*inspection.reads, "add_generation_prompt")
        ),
    )


def render_prompt(model: str | Path, conversation: Conversation) -> tuple[str, tuple[int, ...]]:
    """The text and ids that the folder's template and tokenizer make of a conversation. Raises as `compare_prompts`."""
    folder = read_folder(Path(model))
    template = folder.chosen(tools=bool(conversation.tools))
    vocabulary = Vocabulary.read(folder.path, folder.special)
    (one,), _ = render_jobs([job_for(folder, template, conversation)])
    text = _text(one, template)
    return text, vocabulary.encode(text)


def show_template(model: str | Path, *, tools: bool = False) -> Template:
    """The template in force. Raises CheckpointError, ConfigError as `read_folder`, and for a folder without one."""
    return read_folder(Path(model)).chosen(tools=tools)


def _text(rendering: Rendering, template: Template) -> str:
    if rendering.text is not None:
        return rendering.text
    if rendering.refused in ("limit", "unsafe", "syntax"):
        expected = {
            "limit": "a template that renders within the limits of time, memory and size",
            "unsafe": "a template that reads its variables and nothing of Python",
            "syntax": "a template that parses",
        }[rendering.refused]
        raise CheckpointError(
            place=f"chat template {template.source}",
            expected=expected,
            found=rendering.message,
            next_step="Take the template from the model's own source; this one is damaged or hostile.",
        )
    raise UsageError(
        place=f"chat template {template.source}",
        expected="a conversation that the template accepts",
        found=rendering.message,
        next_step="Check roles, their order and the contents against `parity prompt --show-template`.",
    )


def _nearest(rendered: Sequence[Rendered], sut: Prompted) -> Rendered:
    """The setting whose ids are the SUT's, else whose text is, else whose ids are nearest; fewer changes win."""
    ids = sut.ids
    exact = [one for one in rendered if one.prompt.ids == ids] or [o for o in rendered if o.prompt.text == sut.text]
    if exact:
        return exact[0]
    small = sum(len(one.prompt.ids) + len(ids) for one in rendered) <= ALIGNED

    def cost(one: Rendered) -> int:
        hunks = align(one.prompt.ids, ids) if small else (_between_ends(one.prompt.ids, ids),)
        return sum(hunk.edits for hunk in hunks) + SETTING_COSTS * one.setting.count

    return min(rendered, key=cost)


def _between_ends(a: tuple[int, ...], b: tuple[int, ...]) -> Hunk:
    most = min(len(a), len(b))
    start = next((n for n in range(most) if a[n] != b[n]), most)
    end = next((n for n in range(most - start) if a[-1 - n] != b[-1 - n]), most - start)
    return Hunk((start, len(a) - end), (start, len(b) - end))


def _case(
    folder: ModelFolder, template: Template, vocabulary: Vocabulary, conversation: Conversation, sut: Prompted,
    nearest: Rendered, candidates: tuple[Candidate, ...],
) -> Case:  # fmt: skip
    primed = bool(conversation.arguments.get("add_generation_prompt", conversation.asks))
    known = [one.prompt for one in candidates if one.name == UNPRIMED and not nearest.setting.count]
    if known:
        unprimed = _unended(known[0], nearest.prompt, folder, vocabulary)
        return Case(folder, vocabulary, conversation, nearest.prompt, sut, unprimed, primed, candidates)
    job = job_for(folder, template, conversation, nearest.setting, add_generation_prompt=False)
    ((bare,), _) = render_jobs([job])
    unprimed = nearest.prompt if bare.text is None else encoded(vocabulary, bare.text)
    unprimed = _unended(unprimed, nearest.prompt, folder, vocabulary)
    return Case(folder, vocabulary, conversation, nearest.prompt, sut, unprimed, primed, candidates)


def _unended(unprimed: Prompted, primed: Prompted, folder: ModelFolder, vocabulary: Vocabulary) -> Prompted:
    """Without the token that ends a sequence, where the template writes it only if no turn is opened behind."""
    ends = folder.special.get("eos_token")
    shorter = unprimed.text.removesuffix(ends) if ends else unprimed.text
    if primed.text.startswith(unprimed.text) or not primed.text.startswith(shorter):
        return unprimed
    return encoded(vocabulary, shorter)


def _counted(counted: int, fed: int, *, alone: bool) -> Explanation:
    said = (
        f"The engine counts {counted} prompt tokens and shows {fed}: what it shows is not what it feeds, or it caches."
    )
    return Explanation("count_differs", said, alone, evidence={"counted": counted, "ids": fed})


def _first(
    hunks: Sequence[Hunk], reference: tuple[int, ...], sut: tuple[int, ...], pieces: tuple[tuple[str, ...], ...]
) -> Difference | None:
    if not hunks:
        return None
    at = _between_ends(reference, sut).reference[0]
    sides = [(ids[at], shown[at]) if at < len(ids) else None
             for ids, shown in zip((reference, sut), pieces, strict=True)]  # fmt: skip
    return Difference(at, sides[0], sides[1], "".join(pieces[0][max(0, at - 8) : at]))
