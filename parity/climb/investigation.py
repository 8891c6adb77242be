"""Is this engine wrong, where, why, and how is that known? One investigation, run, resumed or read from its folder."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from parity.climb.bench import Bench
from parity.climb.case import Case
from parity.climb.claims import raise_claims, try_claims
from parity.climb.climb import Hear, climb
from parity.climb.conclude import Conclusion, conclude
from parity.climb.counted import Counted
from parity.climb.rung import RungResult
from parity.climb.store import CASE, FINDING, read_case, read_json, read_results, write_json
from parity.display import Displayed
from parity.errors import UsageError
from parity.floor import Floor
from parity.ladder.calibrate import Opening
from parity.ladder.ledger import LEDGER, Ledger
from parity.ladder.recipe_floor import calibrate_recipe, read_calibration
from parity.ladder.replay_trace import OTHER_WEIGHTS
from parity.process_runner import OnStep, ProcessRunner
from parity.reading import read_record
from parity.records import Finding, Summary, as_json
from parity.runner import CapturePlan, Request, open_runner
from parity.trace import capture_environment

FLOOR = "floor.json"
"""File of a floor that was made here."""

EXITS = {"clean": 0, "fault": 1, "refused": 2, "unresolved": 2}


@dataclass(frozen=True)
class Investigation(Displayed):
    """What an investigation came to; everything in it lies in `folder` as well.

    finding: the first; others: what it does not explain. fix, withheld: see Conclusion. results: of the rungs.
    """

    folder: Path
    case: Case
    results: tuple[RungResult, ...]
    finding: Finding
    others: tuple[Finding, ...] = ()
    fix: str = ""
    withheld: str = ""

    @classmethod
    def read(cls, folder: str | Path) -> Investigation:
        """The investigation in a folder, as far as it got. Raises UsageError for a folder that holds none."""
        folder = Path(folder)
        case = read_record(Case, read_case(folder)["case"], place=str(folder / CASE))
        results = read_results(folder)
        return cls(folder, case, results, *_parts(conclude({one.number: one for one in results})))

    def __repr__(self) -> str:
        return f"Investigation({self.folder}: {len(self.results)} rungs; {self.finding!r})"

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder)

    @property
    def exit_code(self) -> int:
        """0: clean. 1: a fault. 2: refused or unresolved."""
        return EXITS[self.finding.verdict]

    @property
    def seconds(self) -> float:
        return round(sum(one.seconds for one in self.results), 3)

    def rung(self, number: int) -> RungResult | None:
        return next((one for one in self.results if one.number == number), None)

    def summary(self, number: int, name: str) -> Summary | None:
        """A summary that a rung keeps as evidence; None where it did not run or keeps none."""
        result = self.rung(number)
        return None if result is None else result.summary(name)


def investigate(
    case: Case,
    out: str | Path,
    *,
    sut: Any | None = None,
    oracle: Any | None = None,
    resume: bool = False,
    skip: Collection[int] = (),
    only: Collection[int] = (),
    hear: Hear | None = None,
    on_step: OnStep | None = None,
) -> Investigation:
    """Climb the ladder on one case, and leave everything in the folder `out`.

    sut, oracle: runners that are open already, in place of the case's names; the engine's otherwise gets a process of
    its own. resume: go on with what lies in `out`; rungs that are done are read back, not run again.
    Raises UsageError for runners of different families or unrelated weights, for a floor of another recipe, and for a
    folder that holds another case.
    """
    out = Path(out)
    claim_folder(case, out, resume=resume)
    with ExitStack() as stack:
        if sut is None and case.trace_folder is None:
            sut = stack.enter_context(
                ProcessRunner(case.sut, threads=case.threads, on_step=on_step, **dict(case.sut_options))
            )
        oracle = oracle if oracle is not None else open_runner(case.oracle, **dict(case.oracle_options))
        bench = Bench(
            case,
            out,
            sut=None if sut is None else sut if isinstance(sut, Counted) else Counted(sut),
            oracle=oracle,
            emulation=None if case.emulation is None else Opening(case.emulation),
            floor=None if case.floor is None else Floor.load(Path(case.floor)),
            on_step=on_step,
        )
        try:
            require_related(bench)
        except UsageError:
            if not (out / LEDGER).exists():
                (out / CASE).unlink()  # nothing was investigated: another try may have the folder
            raise
        if case.calibrate:
            bench.floor = made_floor(bench)
            bench.case = replace(case, floor=str(out / FLOOR))
        raise_claims(bench, Ledger(out))
        results = climb(bench, skip=skip, only=only, hear=hear)
        claimed = try_claims(bench, Ledger(out))
    conclusion = conclude(results)
    if claimed:
        evidence = {**conclusion.finding.evidence, **claimed}
        conclusion = replace(conclusion, finding=replace(conclusion.finding, evidence=evidence))
    found = Investigation(out, case, tuple(results.values()), *_parts(conclusion))
    write_json(out / FINDING, finding_content(found))
    return found


def finding_content(found: Investigation) -> dict[str, Any]:
    """What `finding.json` holds: the fields of the finding, and around them what else follows."""
    return {
        **as_json(found.finding),
        "others": found.others,
        "fix": found.fix,
        "fix_withheld": found.withheld,
        "rungs": [
            {
                "number": one.number,
                "name": one.name,
                "status": one.status,
                "sentence": one.sentence,
                "seconds": one.seconds,
                "forwards": one.forwards,
                "generations": one.generations,
            }
            for one in found.results
        ],
        "seconds": found.seconds,
        "exit_code": found.exit_code,
    }


def made_floor(bench: Bench) -> Floor:
    """A floor of the engine's recipe from the case's prompts, each cut to the length of the one that is investigated;
    made once, and read back when the investigation is resumed."""
    path = bench.folder / FLOOR
    if not path.exists():
        requests = read_calibration([Path(one) for one in bench.case.calibrate], besides=bench.case.request.name)
        model = bench.case.oracle.partition(":")[2]
        floor = calibrate_recipe(
            bench.info.recipe.name, model, requests, longest=len(bench.case.request.ids), hide=hidden_stages(bench),
            on_step=bench.tell,
        )  # fmt: skip
        floor.save(path)
    return Floor.load(path)


def hidden_stages(bench: Bench) -> frozenset[str]:
    """Stages that the engine has inside its kernels; empty where it hides whole layers, whose floor is that of what it
    shows. Asked by one id, before any rung runs."""
    if bench.sut is None:
        said = bench.run.unobservable
    else:
        first = Request("first id", bench.case.request.ids[:1])
        said = bench.engine.forward([first], capture=CapturePlan(stages=("logits",))).run.unobservable
    return frozenset() if "resid.out" in said else said


def require_related(bench: Bench) -> None:
    """Refuse, with UsageError, runners that have nothing to say about each other, and a floor of another recipe."""
    oracle, sut = bench.oracle.describe(), bench.info
    for what, expected, found, next_step in (
        ("family", oracle.family, sut.family, "Compare runners of one family."),
        ("layers", oracle.layers, sut.layers, "Open both on the same model."),
        (
            "weights",
            oracle.lineage.short,
            sut.lineage.short,
            OTHER_WEIGHTS,
        ),
    ):
        if expected != found:
            raise UsageError(
                place=f"investigation of {sut.name} by {oracle.name}",
                expected=f"an engine of the oracle's {what}: {expected}",
                found=str(found),
                next_step=next_step,
            )
    if bench.floor is not None and (bench.floor.recipe.name, bench.floor.lineage) != (sut.recipe.name, sut.lineage):
        raise UsageError(
            place="investigation",
            expected=f"a floor of recipe {sut.recipe.name} and of the engine's weights",
            found=f"one of {bench.floor.recipe.name}, {bench.floor.lineage.root}",
            next_step="Choose the floor of this checkpoint, or calibrate one with `parity floor`.",
        )
    run = None if bench.sut is not None else bench.run
    if run is not None and len(run.requests) != 1:
        raise UsageError(
            place=f"trace {bench.trace_folder}",
            expected="a trace of one request: what a stage adds is judged request by request",
            found=f"{len(run.requests)} requests",
            next_step="Capture and investigate each request by itself.",
        )


def claim_folder(case: Case, out: Path, *, resume: bool) -> None:
    """Write what was asked, or see that the folder holds the same; UsageError where it holds another case, or without
    `resume` any."""
    path, asked = out / CASE, as_json(case)
    if not resume and (path.exists() or (out / LEDGER).exists()):
        raise UsageError(
            place=str(out),
            expected="a folder without an investigation",
            found=CASE if path.exists() else LEDGER,
            next_step="Go on with it (--resume), or name another folder.",
        )
    if path.exists():
        if read_json(path)["case"] != asked:
            raise UsageError(
                place=str(path),
                expected="the case that is resumed",
                found="another one: the engine, the prompt or the settings differ",
                next_step="Resume with the arguments it was begun with, or name another folder.",
            )
        return
    content = {"case": asked, "environment": capture_environment(device="cpu"), "commands": commands_of(case)}
    write_json(path, content)


def commands_of(case: Case) -> list[str]:
    """How to run it again."""
    floor = "" if case.floor is None else f" --floor {case.floor}"
    floor += "".join(f" --calibrate {one}" for one in case.calibrate)
    options = "".join(f" --option {name}={value}" for name, value in case.sut_options.items())
    return [
        f"parity investigate --sut {case.sut} --oracle {case.oracle} --prompt {case.request.name}.json{floor}{options} "
        "--out DIR"
    ]


def _parts(conclusion: Conclusion) -> tuple[Finding, tuple[Finding, ...], str, str]:
    return conclusion.finding, conclusion.others, conclusion.fix, conclusion.withheld
