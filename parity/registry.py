"""Which runners are there, and with which options? Entry points found by name, opened with arguments that fit."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from parity.errors import RunnerError, UsageError


def open_runner(spec: str, **options: Any) -> Any:
    """Open runner `NAME:MODEL`; NAME is an entry point of the group `parity.runners`, or `package.module.function`.

    The function gets the model as a string and the options, and returns a Runner. Options are checked against its
    signature, and texts (the command line has no other values) are converted where it asks for `int`, `float` or
    `bool`. Raises UsageError for a spec of another form and for options it does not have, RunnerError for an unknown
    name, listing the known ones.
    """
    opener, model = find_opener(spec)
    return opener(model, **fit_options(opener, options, place=f"runner {spec.partition(':')[0]}"))


@contextmanager
def opened(spec: str, **options: Any) -> Iterator[Any]:
    """A runner for the length of a `with`: opened as `open_runner` does, closed at the end, by an error too, where it
    holds something to close (an engine, a process)."""
    runner = open_runner(spec, **options)
    try:
        yield runner
    finally:
        close = getattr(runner, "close", None)
        if close is not None:
            close()


def fit_options(opener: Callable[..., Any], options: Mapping[str, Any], *, place: str) -> dict[str, Any]:
    """`options` as the function `opener` takes them; UsageError for a name or a value that it does not."""
    parameters = list(inspect.signature(opener).parameters.values())[1:]
    known = {p.name: p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    fitted = {}
    for name, value in options.items():
        if name not in known and not takes_any:
            close = get_close_matches(name, known, n=1)
            raise UsageError(
                place=f"{place}, option {name}",
                expected="one of " + ", ".join(known) if known else "no options",
                found=repr(name),
                next_step=f"Did you mean {close[0]}?" if close else "Leave it out.",
            )
        # Annotations are texts where a module postpones their evaluation, as all of ours do.
        kind = str(getattr(known.get(name), "annotation", "")).removeprefix("<class '").removesuffix("'>")
        fitted[name] = _converted(value, kind, f"{place}, option {name}")
    return fitted


def _converted(value: Any, annotation: str, place: str) -> Any:
    kinds = {word.strip() for word in annotation.split("|")}
    if not isinstance(value, str) or "str" in kinds:
        return value
    words = {"true": True, "false": False}
    for kind, convert, expected in (
        ("int", int, "a whole number"),
        ("float", float, "a number"),
        ("bool", lambda word: words[word.lower()], "true or false"),
    ):
        if kind in kinds:
            try:
                return convert(value)
            except (ValueError, KeyError):
                raise UsageError(
                    place=place, expected=expected, found=repr(value), next_step="Correct the value."
                ) from None
    return value


def find_opener(spec: str) -> tuple[Callable[..., Any], str]:
    """The function that opens runner `NAME:MODEL`, and the model."""
    name, colon, model = spec.partition(":")
    if not colon or not name or not model:
        raise UsageError(
            place="runner specification",
            expected="NAME:MODEL, for instance hf:fixtures/models/moe-tiny",
            found=repr(spec),
            next_step="Known names: " + ", ".join(sorted(registered("parity.runners"))) + ".",
        )
    module, dot, function = name.rpartition(".")
    opener = getattr(_import(module, name), function, None) if dot else load(name, group="parity.runners")
    if not callable(opener):
        raise RunnerError(
            place=f"runner {name}",
            expected=f"a function {function} in module {module}",
            found="none" if opener is None else type(opener).__name__,
            next_step="Correct the name; the function takes the model and returns a Runner.",
        )
    return opener, model


def registered(group: str) -> dict[str, str]:
    """Entry points of a group, name to `module:attribute`: the installed ones and those of this checkout."""
    found = {point.name: point.value for point in entry_points(group=group)}
    pyproject = Path(__file__).resolve().parent.parent / "pyproject.toml"
    if pyproject.is_file():
        declared = tomllib.loads(pyproject.read_text())["project"].get("entry-points", {}).get(group, {})
        found = {**declared, **found}
    return found


def load(name: str, *, group: str) -> Callable[..., Any] | Any:
    """Import what entry point `name` of `group` refers to; raises RunnerError with the known names otherwise."""
    known = registered(group)
    if name not in known:
        raise RunnerError(
            place=f"entry-point group {group}",
            expected="one of " + (", ".join(sorted(known)) or "none registered"),
            found=repr(name),
            next_step="Install the package that provides it, or correct the name.",
        )
    module, _, attribute = known[name].partition(":")
    target = _import(module, f"{name} of {group}")
    return getattr(target, attribute) if attribute else target


def _import(module: str, what: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise RunnerError(
            place=what,
            expected=f"module {module} to import",
            found=str(error),
            next_step="Install the extra that brings it (hf, triton, http), or put its folder on PYTHONPATH.",
        ) from error


def refuse_missing_model(spec: str) -> None:
    """Refuse, before anything is imported or opened, `NAME:MODEL` whose model is a path to nothing.

    A path is what is absolute, begins with `.` or `~`, or begins with a folder that exists; any other text may be the
    name that a runner gives to a model. Raises UsageError.
    """
    name, _, model = spec.partition(":")
    path = Path(model).expanduser()
    below = len(path.parts) > 1 and Path(path.parts[0]).is_dir()
    is_path = path.is_absolute() or model.startswith((".", "~")) or below
    if "://" in model or not is_path or path.exists():
        return
    raise UsageError(
        place=f"{name}:{model}",
        expected="a model's folder or file",
        found="nothing at that path",
        next_step="Check the path; relative ones start at the current folder.",
    )
