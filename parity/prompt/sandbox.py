"""What does a chat template say, rendered where it can do no harm? A child process: jinja2's sandbox, limits, no lab.

Templates come with weights from anywhere: they are code. The sandbox refuses attributes of Python's internals; what it
lets through (huge ranges, powers, paddings) meets limits of processor time, memory and output that the kernel holds.
Run as a script by parity.prompt.render: one JSON object in on stdin, one out on stdout. Imports nothing but jinja2.
"""

from __future__ import annotations

import json
import signal
import sys
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.sandbox

CPU_SECONDS = 2
"""For one rendering. Published templates take milliseconds for conversations of 100,000 tokens."""

MEMORY = 512 << 20
"""Address space of the child, bytes: many times MAX_OUTPUT."""

MAX_OUTPUT = 8_000_000
"""Characters of one rendering: two million tokens of four characters, twice the longest contexts in use."""


class TooLong(BaseException):
    """The processor time of one rendering is used up. Not an Exception: jinja2 must not handle it."""


class Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}`, which marks the assistant's text for training: renders its body."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Any) -> str:
        return caller()


class PlainNamespace(jinja2.utils.Namespace):
    """`namespace()` that takes no underscored name, as transformers' renderer has it."""

    def __setitem__(self, name: Any, value: Any) -> None:
        if str(name).startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace holds no {name}")
        super().__setitem__(name, value)


def environment(now: datetime | None, formats: list[str]) -> jinja2.Environment:
    """The environment of transformers' renderer. now: what `strftime_now` takes for today; formats: what it was asked
    for is appended here."""

    def raise_exception(message: str) -> None:
        raise jinja2.exceptions.TemplateError(str(message))

    def strftime_now(form: str) -> str:
        formats.append(form)
        return (now or datetime.now()).strftime(form)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def new_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = tojson
    made.globals.update(
        raise_exception=raise_exception, strftime_now=strftime_now, dict=new_dict, namespace=PlainNamespace
    )
    return made


def render(template: str, variables: dict[str, Any], now: str | None) -> dict[str, Any]:
    """`{"text", "formats"}`, or `{"refused", "message"}` with the kind of refusal."""
    formats: list[str] = []
    _start_clock()
    try:
        today = None if now is None else datetime.fromisoformat(now)
        parts, size = [], 0
        for part in environment(today, formats).from_string(template).generate(variables):
            parts.append(part)
            size += len(part)
            if size > MAX_OUTPUT:
                return {"refused": "limit", "message": f"more than {MAX_OUTPUT:,} characters"}
        return {"text": "".join(parts), "formats": list(dict.fromkeys(formats))}
    except TooLong:
        return {"refused": "limit", "message": f"more than {CPU_SECONDS} s of processor time"}
    except MemoryError:
        return {"refused": "limit", "message": f"more than {MEMORY >> 20} MiB of memory"}
    except (jinja2.exceptions.SecurityError, OverflowError) as error:
        # The sandbox limits ranges with an OverflowError.
        return {"refused": "unsafe", "message": str(error)[:300]}
    except jinja2.exceptions.TemplateSyntaxError as error:
        return {"refused": "syntax", "message": f"line {error.lineno}: {str(error)[:300]}"}
    except jinja2.exceptions.TemplateError as error:
        return {"refused": "template", "message": str(error)[:300]}
    except RecursionError:
        return {"refused": "limit", "message": "nested too deeply"}
    except Exception as error:  # whatever a template makes of values that it did not expect
        return {"refused": "template", "message": f"{type(error).__name__}: {error}"[:300]}
    finally:
        _stop_clock()


def inspect(template: str) -> dict[str, Any]:
    """`{"reads": names the template takes from outside, "compared": constants each is compared with}`; empty when it
    does not parse, which the rendering then says."""
    made = environment(None, [])
    _start_clock()
    try:
        tree = made.parse(template)
        compared: dict[str, list[Any]] = {}
        for node in tree.find_all(jinja2.nodes.Compare):
            sides = [node.expr, *(operand.expr for operand in node.ops)]
            for name in [side.name for side in sides if isinstance(side, jinja2.nodes.Name)]:
                compared.setdefault(name, []).extend(value for side in sides for value in _constants(side))
        # Only now: this folds constants in the tree.
        reads = jinja2.meta.find_undeclared_variables(tree) - set(made.globals)
        compared = {name: values for name, values in compared.items() if name in reads}
        return {"reads": sorted(reads), "compared": compared}
    except (Exception, TooLong):
        return {"reads": [], "compared": {}}
    finally:
        _stop_clock()


def _constants(node: Any) -> list[Any]:
    if isinstance(node, jinja2.nodes.Const):
        return [node.value] if isinstance(node.value, (str, int, float, bool)) else []
    if isinstance(node, (jinja2.nodes.List, jinja2.nodes.Tuple)):
        return [value for item in node.items for value in _constants(item)]
    return []


def _start_clock() -> None:
    try:
        import resource
    except ImportError:  # no such limits on this system: the parent's clock remains
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    # The timer interrupts Python code; the kernel ends what never comes back to it, such as a power of huge numbers.
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + CPU_SECONDS + 2, hard))
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)


def _stop_clock() -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, 0)


def _too_long(*_: Any) -> None:
    raise TooLong


def main() -> None:
    """Answer `{"inspect": [template], "jobs": [{"template", "variables", "now"}]}` with a list for each of both.

    After a job that met a limit the rest is answered `skipped`: it would meet it as well.
    """
    asked = json.load(sys.stdin)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        signal.signal(signal.SIGPROF, _too_long)
    except (ImportError, ValueError, OSError):
        pass  # the parent's clock remains
    answers: list[dict[str, Any]] = []
    slow: set[str] = set()
    for job in asked["jobs"]:
        if job["template"] in slow:
            answers.append({"refused": "limit", "message": "met a limit before"})
            continue
        answers.append(render(job["template"], job["variables"], job.get("now")))
        if answers[-1].get("refused") == "limit":
            slow.add(job["template"])
    json.dump({"inspected": [inspect(template) for template in asked["inspect"]], "rendered": answers}, sys.stdout)


if __name__ == "__main__":
    main()
