"""`parity prompt`: the ids that an engine feeds against the checkpoint's own chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from parity.cli.app import AsJson, app, print_json


@app.command()
def prompt(
    model: Annotated[
        Path | None, typer.Option(help="Model folder: template, tokenizer.json; no weights needed.")
    ] = None,
    messages: Annotated[Path | None, typer.Option(help="JSON: a list of messages, or a whole request.")] = None,
    ids: Annotated[Path | None, typer.Option(help="The ids fed: JSON list, or a server's saved answer.")] = None,
    sut: Annotated[str | None, typer.Option(help="Runner that renders conversations itself: NAME:MODEL.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Trace folder whose ids were fed.")] = None,
    request: Annotated[str | None, typer.Option(help="Which request of the trace.")] = None,
    tools: Annotated[Path | None, typer.Option(help="JSON list of tools, instead of those in --messages.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Template argument NAME=VALUE that was asked for; repeatable.")
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="Runner option NAME=VALUE, for instance fault=NAME.")] = None,
    show_template: Annotated[
        Path | None, typer.Option("--show-template", help="Print this folder's template as it stands, and end.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the ids that an engine feeds with those of the model's own chat template; exit 1 when they differ.

    Arguments of the template that were not asked for with --set are varied before a prompt is called wrong.

    Example: parity prompt --model fixtures/models/moe-tiny --messages messages.json --ids ids.json
    """
    from parity.prompt import (
        compare_prompts,
        read_conversation,
        report_lines,
    )
    from parity.prompt import show_template as template_of

    if show_template is not None:
        template = template_of(show_template, tools=tools is not None)
        if as_json:
            print_json(template)
        else:
            typer.echo(template.text, nl=not template.text.endswith("\n"))
        return
    folder = _model(model, sut)
    if messages is None:
        raise _misuse("--messages FILE", "none")
    conversation = read_conversation(messages, _arguments(set_), tools=tools)
    found = compare_prompts(folder, conversation, _fed(ids, sut, trace, request, option, conversation))
    if as_json:
        from parity.fingerprint.causes import PROMPT_TEMPLATE

        fields = {name: getattr(found, name) for name in found.__dataclass_fields__}
        print_json({**fields, "explanation": found.explanation, "cause": None if found.same else PROMPT_TEMPLATE})
    else:
        typer.echo("\n".join(report_lines(found)))
    raise typer.Exit(0 if found.same else 1)


def _model(model: Path | None, sut: str | None) -> Path:
    if model is None and sut is not None and ":" in sut:
        model = Path(sut.partition(":")[2])
    if model is None:
        raise _misuse("--model DIR", "none")
    return model


def _fed(ids: Path | None, sut: str | None, trace: Path | None, request: str | None, option: list[str] | None,
         conversation: Any) -> Any:  # fmt: skip
    from parity.prompt import fed_by_runner, fed_in_trace, read_fed

    given = [name for name, value in (("--ids", ids), ("--sut", sut), ("--trace", trace)) if value is not None]
    if len(given) != 1:
        raise _misuse("one of --ids, --sut and --trace", ", ".join(given) or "none")
    if ids is not None:
        return read_fed(ids)
    if trace is not None:
        return fed_in_trace(trace, request)
    from parity.cli.inputs import parse_options
    from parity.runner import open_runner

    assert sut is not None
    return fed_by_runner(open_runner(sut, **parse_options(option)), conversation, source=f"runner {sut}")


def _arguments(pairs: list[str] | None) -> dict[str, Any]:
    """`enable_thinking=false` as False: values are JSON, and texts where they are none."""
    from parity.cli.inputs import parse_options

    found: dict[str, Any] = {}
    for name, value in parse_options(pairs, place="--set").items():
        word = value.lower() if value in ("True", "False") else "null" if value == "None" else value
        try:
            found[name] = json.loads(word)
        except ValueError:
            found[name] = value
    return found


def _misuse(expected: str, found: str) -> Exception:
    from parity.errors import UsageError

    return UsageError(
        place="parity prompt",
        expected=expected,
        found=found,
        next_step="For instance: parity prompt --model DIR --messages FILE --ids FILE.",
    )
