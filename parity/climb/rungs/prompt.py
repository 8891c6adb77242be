"""Rung 0: are the ids that the engine feeds those that the checkpoint's own template makes of the conversation?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from parity.climb.bench import Bench
from parity.climb.conversations import standard_conversations
from parity.climb.rung import Cost, Rung, RungResult, Status
from parity.errors import ParityError
from parity.fingerprint.causes import PROMPT_TEMPLATE
from parity.prompt import Conversation, FedPrompt, PromptComparison, compare_prompts, fed_by_runner, report_lines
from parity.prompt.compare import render_prompt
from parity.records import Finding
from parity.runner import CapturePlan, Request

AS_GIVEN = 8
"""Ids of the prompt that are fed once to see whether the engine feeds what it is given."""


def obstacle(bench: Bench) -> str:
    if bench.case.sut_ids and not bench.case.conversations:
        return "ids of the engine were given and no conversation: give the messages that they were made of"
    if bench.sut is None and not bench.case.sut_ids:
        return "the engine is a trace of ids, and no conversation and ids of the engine's own were given"
    if bench.sut is not None and not _renders(bench) and not bench.case.sut_ids and "forward" not in bench.info.can:
        return "the engine neither renders conversations nor says which ids it fed"
    return ""


def run(bench: Bench) -> RungResult:
    compared, refused = _conversations(bench)
    different = [one for one in compared if not one.same]
    given = _fed_as_given(bench)
    numbers: dict[str, Any] = {"conversations": len(compared), "that_differ": len(different)}
    if given is not None:
        numbers |= {"ids_given": given[0], "of_them_fed": given[1]}
    control = _control(bench)
    evidence = {"comparisons": compared, "refused": refused, "lines": [list(report_lines(one)) for one in different]}
    commands = (f"parity prompt --model {bench.case.model} --runner {bench.case.sut} --messages FILE",)
    more = {"numbers": numbers, "control": control, "evidence": evidence, "commands": commands}
    findings = _findings(different, compared, given)
    if findings:
        return PROMPT.result(Status.FOUND, findings[0].sentence, findings=findings, **more)
    if not compared:
        said = "The engine feeds the ids that it is given; no conversation was rendered, so the template is open."
        return PROMPT.result(Status.INCONCLUSIVE, said, **more)
    said = f"The ids of {len(compared)} conversations are those of the checkpoint's own template."
    return PROMPT.result(Status.RULED_OUT, said, **more)


def _renders(bench: Bench) -> bool:
    return bench.sut is not None and "chat" in bench.info.can and bench.case.model is not None


def _conversations(bench: Bench) -> tuple[list[PromptComparison], list[str]]:
    """Every conversation that both sides render, compared; those that the template refuses, in words."""
    asked = list(bench.case.conversations)
    model = bench.case.model
    if model is None:
        return [], ["no model folder with a template was named"]
    found: list[PromptComparison] = []
    refused: list[str] = []
    if bench.case.sut_ids:
        fed = FedPrompt(bench.case.sut_ids, "the engine's ids, as given")
        return [compare_prompts(model, asked[0], fed)], []
    if not _renders(bench):
        return [], ["the engine renders no conversations"]
    for conversation in asked or standard_conversations():
        try:
            fed = fed_by_runner(bench.engine, conversation, source=bench.case.sut)
            found.append(compare_prompts(model, conversation, fed))
        except ParityError as error:
            if asked:
                raise
            # Not every template knows tools or a system message; what it refuses is no evidence either way.
            refused.append(str(error))
    return found, refused


def _fed_as_given(bench: Bench) -> tuple[int, int] | None:
    """Ids given, and how many of them the engine then fed unchanged from the start on; None for a trace."""
    if bench.sut is None or "forward" not in bench.info.can:
        return None
    ids = bench.case.request.ids[:AS_GIVEN]
    fed = bench.engine.forward([Request("as given", ids)], capture=CapturePlan(stages=("embed.out",))).run.requests[0]
    same = next((n for n, (a, b) in enumerate(zip(ids, fed, strict=False)) if a != b), min(len(ids), len(fed)))
    return len(ids), same if len(fed) == len(ids) else min(same, len(ids) - 1)


def _control(bench: Bench) -> dict[str, Any]:
    """The template's own rendering, held against itself, must be the same."""
    model = bench.case.model
    conversation: Conversation = (*bench.case.conversations, *standard_conversations())[0]
    if model is None or not Path(model).is_dir():
        return {}
    try:
        _, ids = render_prompt(model, conversation)
        same = compare_prompts(model, conversation, ids).same
    except ParityError as error:
        return {"arm": PROMPT.control, "refused": str(error)}
    return {"arm": PROMPT.control, "ids": len(ids), "same": same, "healthy": same}


def _findings(
    different: list[PromptComparison], compared: list[PromptComparison], given: tuple[int, int] | None
) -> tuple[Finding, ...]:
    found = []
    if different:
        first = different[0]
        said = first.explanations[0].sentence if first.explanations else "The ids differ."
        repeated = len(different) > 1
        found.append(
            Finding(
                verdict="fault",
                rung="prompt",
                cause=PROMPT_TEMPLATE,
                sentence=f"The engine feeds other ids than the checkpoint's template: {said}",
                evidence={
                    "explanations": [[one.name for one in comparison.explanations] for comparison in different],
                    "first_difference": first.first,
                    "repeated": repeated,
                    "repetition": f"{len(different)} of {len(compared)} conversations differ"
                    if repeated
                    else f"not repeated: one conversation differs, of {len(compared)}",
                },
            )
        )
    if given is not None and given[0] != given[1]:
        found.append(
            Finding(
                verdict="fault",
                rung="prompt",
                cause=PROMPT_TEMPLATE,
                sentence=f"Given {given[0]} ids, the engine feeds others from id {given[1]} on.",
                evidence={"repeated": False, "repetition": "not repeated: one run was made"},
            )
        )
    return tuple(found)


PROMPT = Rung(
    number=0,
    name="prompt",
    question="Are the ids that the engine feeds those that the checkpoint's own template makes of the conversation?",
    claim="The engine is fed a prompt that the model was not trained on.",
    prediction="The engine's ids of some conversation are not the template's.",
    needs=("a conversation or an engine that renders one", "the model folder with template and tokenizer"),
    rules_out=("a wrong prompt: template, special tokens, injected text",),
    control="the template's own ids, held against the template",
    obstacle=obstacle,
    cost=lambda case: Cost(forwards=0.1, lab_seconds=2.0),
    run=run,
)
