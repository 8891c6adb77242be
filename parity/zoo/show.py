"""The zoo's result for a person: a table by family, then rates, and what could not be run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parity.records import Finding, Site, site_name
from parity.zoo.catalogue import Catalogue
from parity.zoo.interval import Rate
from parity.zoo.verdicts import FaultRecord, RunRecord, ZooResult

COLUMNS = ("detected", "localized", "sliced", "cause_named", "proved")


def show_result(result: ZooResult, console: Console) -> None:
    """Print every case, then the rates."""
    by_family = sorted(result.faults, key=lambda one: one.family)
    for family, faults in groupby(by_family, key=lambda one: one.family):
        _show_faults(family, list(faults), console)
    if result.controls:
        table = _table("Negative controls", "control", "blamed", "verdict", "s")
        for one in result.controls:
            table.add_row(f"{one.name}@{one.instance}", _bad(one.blamed), _verdict(one), f"{one.seconds:.0f}")
        console.print(table)
    if result.clean:
        table = _table("Clean runs", "prompt", "fed", "alarm", "verdict", "s")
        for one in result.clean:
            fed = f"chunk {one.chunk or 'all'}, decode {one.decode}"
            table.add_row(escape(one.prompt), fed, _bad(one.alarm), _verdict(one), f"{one.seconds:.0f}")
        console.print(table)
    for problem in result.problems:
        console.print(f"[red]not usable:[/] {escape(str(problem))}", highlight=False)
    for one in result.not_run:
        console.print(f"not run: {escape(one.name)}: {escape(one.reason)}", highlight=False)
    if result.pending:
        console.print(f"not run yet (--resume runs them): {escape(', '.join(result.pending))}", highlight=False)
    _show_summary(result, console)


def show_catalogue(catalogue: Catalogue, console: Console) -> None:
    """Print what the zoo holds."""
    table = _table("Faults", "name", "where it is, and what")
    by_family = sorted(catalogue.exhibits, key=lambda one: one.fault.family)
    for family, exhibits in groupby(by_family, key=lambda one: one.fault.family):
        table.add_section()
        table.add_row(f"[bold]{escape(family)}[/]")
        for fault in (exhibit.fault for exhibit in exhibits):
            where = "negative control" if fault.control else _truth(fault.truth, fault.rung)
            needs = ", ".join(f"{key} {value}" for key, value in fault.needs.items())
            words = where + (f": {fault.cause}" if fault.cause else "") + (f" (needs {needs})" if needs else "")
            table.add_row(escape(fault.name), escape(words))
    console.print(table)
    for problem in catalogue.problems:
        console.print(f"[red]not usable:[/] {escape(str(problem))}", highlight=False)


def _show_faults(family: str, faults: Sequence[FaultRecord], console: Console) -> None:
    """One row a fault; below the table, in words, what was found where a column says no."""
    columns = ("fault", "seen", "place", "slice", "cause", "proof", "s", "runs")
    table = _table(f"Planted faults, {escape(family)}", *columns)
    for one in faults:
        table.add_row(
            escape(_label(one)),
            *(_good(getattr(one, column)) for column in COLUMNS),
            f"{one.seconds:.0f}",
            "" if one.forwards is None else f"{one.forwards}+{one.generations}",
        )
    console.print(table)
    for one in faults:
        if not all(getattr(one, column) in (True, None) for column in COLUMNS):
            planted = f"{_truth(one.truth, one.rung)}: {one.cause}"
            line = f"{_label(one)}: found {_found(one)}; planted {planted}"
            console.print(escape(line), highlight=False)


def _label(one: FaultRecord) -> str:
    marks = [mark for mark, true in (("simulated", one.simulated), ("below power", one.below_power)) if true]
    return f"{one.name}@{one.instance}" + (f" ({', '.join(marks)})" if marks else "")


def _show_summary(result: ZooResult, console: Console) -> None:
    summary = result.summary()
    table = _table("Rates, 95 % intervals", "what", "rate")
    for column in (*COLUMNS, "controls_blamed", "false_alarms"):
        rate: Rate = summary[column]
        table.add_row(column.replace("_", " "), rate.line())
    console.print(table)
    below = summary["below_power"]
    counts = [
        f"{summary['cases']} cases",
        f"{summary['failed']} failed",
        f"{summary['timeouts']} ran out of time",
        f"{below['count']} faults below the floor's power, {below['detected']} of them detected",
        f"{summary['unresolved']['controls'] + summary['unresolved']['clean']} unresolved controls and clean runs",
        f"{summary['not_run']} faults without a model",
        f"{summary['problems']} unusable",
    ]
    console.print("; ".join(counts) + f". {summary['seconds']:.0f} s.", highlight=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in ("s", "runs") else "left",
            overflow="fold",
            no_wrap=column in ("name", "fault", "what"),
        )
    return table


def _good(value: bool | None) -> str:
    return "" if value is None else "[green]yes[/]" if value else "[red]no[/]"


def _bad(value: bool) -> str:
    return "[red]yes[/]" if value else "[green]no[/]"


def _verdict(one: RunRecord) -> str:
    return escape(_found(one))


def _found(one: RunRecord) -> str:
    if one.status != "done":
        return f"nothing ({one.status}: {one.error[-200:]})"
    return _site(one.finding) + (f": {one.finding.cause}" if one.finding and one.finding.cause else "")


def _site(finding: Finding | None) -> str:
    if finding is None:
        return "nothing"
    if finding.stage is None:
        return finding.verdict if finding.verdict == "clean" else f"{finding.verdict} ({finding.rung})"
    return _truth(Site(finding.layers, finding.stage), None)


def _truth(site: Site | None, rung: str | None) -> str:
    if site is None:
        return f"rung {rung}"
    layers = f" of {', '.join(map(str, site.layers))}" if site.layers else ""
    return site_name(None, site.stage) + layers
