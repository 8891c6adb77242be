"""Where is this engine wrong? One prompt on the bench, and every experiment a call that gives a record."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from parity.climb import RUNGS, Investigation, investigate
from parity.climb.ask import ask_case
from parity.climb.case import NEW_TOKENS, Case
from parity.climb.climb import climb_rung
from parity.climb.counted import Counted
from parity.climb.investigation import claim_folder, require_related
from parity.climb.rung import RungResult, Status
from parity.climb.store import RUNGS as RESULTS
from parity.climb.store import read_json, read_result, write_json
from parity.display import Displayed
from parity.errors import UsageError
from parity.floor import Floor
from parity.invariance import Coverage, launch_coverage
from parity.lab.bench import RememberingBench
from parity.lab.grafted import Grafted, graft_into
from parity.lab.identity import digest, engine_identity
from parity.lab.progress import Bars
from parity.lab.prompts import as_request
from parity.lab.remembered import Remembered
from parity.lab.texts import Texts
from parity.lab.zoomed import ZoomedSite, zoom_site
from parity.ladder import Opening
from parity.ladder.ledger import Ledger, Standing
from parity.process_runner import ProcessRunner
from parity.reading import read_record
from parity.records import Finding, Slice, Summary, site_name
from parity.report.document import report_investigation
from parity.runner import Request, Schedule, open_runner

CACHE = "PARITY_CACHE"
"""Environment variable that names the folder of captures and cases; `~/.cache/parity-lab` where it is not set."""


class Lab(Displayed):
    """An engine under test, an oracle on its weights, and a prompt.

    sut, oracle: `NAME:MODEL`, or runners that are open; the engine may be `trace:FOLDER`, a trace alone. prompt: a
    Request, token ids, or a prompt file with `ids`; of a trace its own where nothing is said. floor: file of the noise
    floor of the engine's recipe; without one nothing is judged, only measured and ranked.
    emulation: who replays the recipe, `recipe:` on the oracle's model where nothing is said; without one there is no
    proof. sut_options, oracle_options: of runners named by text. second: the prompt that a finding must repeat on.
    version: tells this engine from its other versions, where its code is not in the package that opens it; an open
    runner without one is not remembered by the next session.
    cache: folder of everything kept. quiet: no progress bars; None shows them to people only.

    Every experiment is done once: asked again, here or in a later session on the same content, it is read back.
    Raises UsageError for a prompt that is none, runners that are not of one model, and a floor of another recipe.
    """

    def __init__(
        self,
        *,
        sut: Any,
        oracle: Any,
        prompt: Request | Sequence[int] | str | Path | None = None,
        floor: str | Path | None = None,
        emulation: str | None = None,
        second: Request | Sequence[int] | str | Path | None = None,
        schedule: Schedule = Schedule(),
        new_tokens: int = NEW_TOKENS,
        sut_options: Mapping[str, Any] | None = None,
        oracle_options: Mapping[str, Any] | None = None,
        version: str | None = None,
        threads: int = 1,
        cache: str | Path | None = None,
        quiet: bool | None = None,
    ) -> None:
        self.cache = Path(cache or os.environ.get(CACHE) or Path.home() / ".cache" / "parity-lab")
        self.heard: list[str] = []
        self._bars = Bars(quiet)
        self._stack = ExitStack()
        case = ask_case(
            sut=sut if isinstance(sut, str) else _named(sut),
            oracle=oracle if isinstance(oracle, str) else _named(oracle),
            request=None if prompt is None else as_request(prompt, "prompt"),
            floor=None if floor is None else Path(floor),
            second=None if second is None else as_request(second, "second prompt"),
            emulation=emulation,
            new_tokens=new_tokens,
            sut_options=sut_options if isinstance(sut, str) else None,
            oracle_options=oracle_options if isinstance(oracle, str) else None,
        )
        if emulation is None and not isinstance(oracle, str):
            case = replace(case, emulation=None)
        case = replace(case, schedule=schedule, threads=threads)
        try:
            self.bench = self._open(case, sut, oracle, version)
        except BaseException:
            self.close()
            raise

    def _open(self, case: Case, sut: Any, oracle: Any, version: str | None) -> RememberingBench:
        engine: Any = None
        if isinstance(sut, str) and case.trace_folder is None:
            engine = self._stack.enter_context(
                ProcessRunner(sut, threads=case.threads, on_step=self._bars.tell, **dict(case.sut_options))
            )
        elif not isinstance(sut, str):
            engine = sut
        counted = None if engine is None else engine if isinstance(engine, Counted) else Counted(engine)
        exact = open_runner(oracle, **dict(case.oracle_options)) if isinstance(oracle, str) else oracle
        who = None
        if counted is not None:
            spec = sut if isinstance(sut, str) else None
            who = engine_identity(counted, spec=spec, options=case.sut_options, version=version)
        truth = engine_identity(
            exact, spec=oracle if isinstance(oracle, str) else None, options=case.oracle_options, version=version
        )
        floor = None if case.floor is None else Floor.load(Path(case.floor))
        asked = [case, who, truth, None if case.floor is None else Path(case.floor).read_bytes().hex()]
        name = re.sub(r"[^\w.-]+", "-", case.request.name)[:60] or "prompt"
        bench = RememberingBench(
            case,
            self.cache / "cases" / f"{name}-{digest(asked)[:16]}",
            sut=counted,
            oracle=Remembered(exact, truth, self.cache, hear=self.heard.append),
            emulation=None if case.emulation is None else Opening(case.emulation),
            floor=floor,
            on_step=self._bars.tell,
        )
        bench.cache = self.cache
        if counted is not None and who is not None:
            bench.remembered = Remembered(counted, who, self.cache, hear=self.heard.append)
        require_related(bench)
        claim_folder(case, bench.folder, resume=True)
        return bench

    # Experiments, in the order of the ladder.

    def texts(self, tokens: int | None = None) -> Texts:
        """Both greedy continuations, `tokens` new ones or as many as the lab was opened with."""
        new, case = tokens or self.bench.case.new_tokens, self.bench.case
        with self._bars.step("continuations"):
            made = [
                runner.generate(case.request, max_new_tokens=new, schedule=schedule)
                for runner, schedule in ((self.bench.oracle, Schedule()), (self.bench.own, case.schedule))
            ]
        return Texts(made[0], made[1], (self._pieces(made[0].ids), self._pieces(made[1].ids)))

    def coverage(self) -> tuple[Coverage, ...]:
        """What each launch covered of its work, from the engine's trace alone."""
        with self._bars.step("capture"):
            return launch_coverage(self.bench.trace)

    def sweep(self) -> Summary:
        """Every site against the oracle, error from upstream included (chained)."""
        self.rung(4)
        return self.bench.summary(4, "chained")

    def replay(self) -> Summary:
        """Every stage alone, on the engine's own inputs (isolated)."""
        self.rung(5)
        return self.bench.summary(5, "isolated")

    def zoom(self, layer: int | None = None, stage: str | None = None) -> ZoomedSite | Finding:
        """One site closely, by head, expert, tile, columns and row; without a stage the finding, over all sites.

        Raises UsageError for a site that the model does not have.
        """
        if stage is None:
            if layer is not None:
                raise _no_stage(layer, self.bench.replay.family.layer)
            for number in (4, 5):
                self.rung(number)
            self.rung(6)
            return self.finding
        self.bench.replay.refuse_unknown(layer, stage)
        path = self.folder / "zoom" / f"{site_name(layer, stage)}.json"
        if path.is_file():
            return ZoomedSite.from_json(read_json(path))
        with self._bars.step(f"zoom into {site_name(layer, stage)}"):
            launch = next((one for one in self.coverage() if (one.layer, one.stage) == (layer, stage)), None)
            found = zoom_site(self.bench.replay, layer, stage, floor=self.bench.floor, launch=launch)
        write_json(path, found)
        return ZoomedSite.from_json(read_json(path))

    def graft(
        self,
        layer: int | Sequence[int] | None,
        stage: str | Sequence[str],
        *,
        donor: str = "oracle",
        heads: Sequence[int] | None = None,
        experts: Sequence[int] | None = None,
        rows: Sequence[int] | None = None,
        columns: tuple[int, int] | None = None,
        positions: tuple[int, int] | None = None,
        tokens: int = 0,
    ) -> Grafted:
        """Put a tensor, or a slice of it, into the engine's forward pass, and see what it does.

        layer, stage: one or several, jointly; layer None for a stage outside the layers. donor: `oracle`, `replay` (the
        stage as it should have been on the engine's own inputs) or `self` (the sham). tokens: how many to continue.
        It is entered into the ledger with its prediction; a number is no proof, `prove` is.
        """
        layers = (layer,) if layer is None or isinstance(layer, int) else tuple(layer)
        stages = (stage,) if isinstance(stage, str) else tuple(stage)
        sites = [(one, name) for one in layers for name in stages]
        for site in sites:
            self.bench.replay.refuse_unknown(*site)
        where = Slice(
            heads=None if heads is None else tuple(heads),
            experts=None if experts is None else tuple(experts),
            rows=None if rows is None else tuple(rows),
            columns=columns,
            positions=positions,
        )
        path = self.folder / "grafts" / f"{digest([sites, donor, where, tokens])}.json"
        if not path.is_file():
            with self._bars.step("graft"):
                found = graft_into(
                    self.bench, sites, donor=donor, where=where, tokens=tokens, texts=lambda: self.texts(tokens)
                )
            write_json(path, found)
            self._enter(found, path)
        return read_record(Grafted, read_json(path), place=str(path))

    def prove(self) -> Finding:
        """The finding with its proof: the sham, the oracle's inputs, the replayed output."""
        self.zoom()
        self.rung(7)
        return self.finding

    def rung(self, number: int) -> RungResult:
        """The result of a rung of the ladder, run when it is not there; one that could not run before is tried again.

        Raises UsageError for a rung that there is not, and with the reason for one that did not come to its end.
        """
        rung = next((one for one in RUNGS if one.number == number), None)
        if rung is None:
            raise UsageError(
                place="rung of the ladder",
                expected="one of " + ", ".join(f"{one.number} ({one.name})" for one in RUNGS),
                found=repr(number),
                next_step="METHODOLOGY.md describes them.",
            )
        if number in self.bench.results:
            return self.bench.results[number]
        stored = read_result(self.folder, rung)
        if stored is not None and not _answered(stored):
            (self.folder / RESULTS / rung.file).unlink()
        with self._bars.step(rung.name):
            result = climb_rung(self.bench, rung)
        if not _answered(result):
            del self.bench.results[number]
            raise UsageError(
                place=f"rung {rung.number} {rung.name}",
                expected=", ".join(rung.needs),
                found=result.sentence,
                next_step="Give the lab what is missing; the rungs before it are kept.",
            )
        return result

    def investigate(self) -> Investigation:
        """Climb the whole ladder; what was done here is not done again."""
        if self.bench.sut is not None:
            _ = self.bench.trace
        with self._bars.step("investigation"):
            found = investigate(
                self.bench.case, self.folder, sut=self.bench.sut, oracle=self.bench.oracle, resume=True,
                on_step=self._bars.tell,
            )  # fmt: skip
        self.bench.results.update({one.number: one for one in found.results})
        return found

    # What is known so far.

    @property
    def folder(self) -> Path:
        """Where this case lies: what `parity report` and `parity investigate --resume` read."""
        return self.bench.folder

    @property
    def ledger(self) -> Ledger:
        """Every claim with its prediction and what became of it."""
        return Ledger(self.folder)

    @property
    def investigation(self) -> Investigation:
        """Everything done so far, as one record."""
        return Investigation.read(self.folder)

    @property
    def finding(self) -> Finding:
        """What follows from the rungs done so far; those that were not are not excluded."""
        found, done = self.investigation, self.bench.results
        left = [f"rung {one.number} {one.name} was not run" for one in RUNGS if one.number not in done]
        return replace(found.finding, not_excluded=(*found.finding.not_excluded, *left))

    def report(self, html: str | Path | None = None) -> Path:
        """Write the report of what was done so far, one self-contained file; returns its path."""
        path = Path(html) if html is not None else self.folder / "report.html"
        report_investigation(self.folder, html=path)
        return path

    def close(self) -> None:
        """End the engine's process. What was kept stays."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        case, done = self.bench.case, ", ".join(one.name for _, one in sorted(self.bench.results.items()))
        prompt = f"{case.request.name}, {len(case.request.ids)} ids"
        return f"Lab({case.sut} against {case.oracle} on {prompt}; done: {done or 'nothing yet'})"

    def _pieces(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Each id as text by the oracle's tokenizer, empty where it has none; half a letter comes out as U+FFFD."""
        decoder = getattr(self.bench.oracle, "decoder", None)
        return () if decoder is None else tuple(str(decoder.decode((token,))) for token in ids)

    def _enter(self, found: Grafted, path: Path) -> None:
        """The graft as a test in the ledger."""
        sites = ", ".join(found.sites)
        sham = found.donor == "self"
        where = "" if found.where == Slice() else f", {found.where}"
        claim = (
            f"Grafting as such changes nothing: the engine's own tensors at {sites}{where}"
            if sham
            else f"Putting the {found.donor}'s tensors at {sites}{where} brings the logits nearer to the oracle's"
        )
        before, after, changed = found.effect.kl_before, found.effect.kl_after, found.effect.changed
        holds = changed == 0 if sham else after < before
        ledger = self.ledger
        prediction = "No logit changes a bit." if sham else "The mean KL to the oracle's logits falls."
        hypothesis = ledger.suppose(claim, prediction=prediction, raised_by="lab.graft")
        ledger.conclude(
            hypothesis.id,
            Standing.SUPPORTED if holds else Standing.REFUTED,
            command="Lab.graft",
            numbers={"kl_before": before, "kl_after": after, "logits_changed": changed},
            artifacts=[path],
        )


def _named(runner: Any) -> str:
    return str(runner.describe().name)


def _answered(result: RungResult) -> bool:
    """Whether a rung came to its end; INCONCLUSIVE with numbers is an answer."""
    return result.ran and (result.status is not Status.INCONCLUSIVE or bool(result.numbers) or bool(result.evidence))


def _no_stage(layer: int, stages: Sequence[Any]) -> UsageError:
    return UsageError(
        place=f"zoom into layer {layer}",
        expected="a stage: " + ", ".join(stage.name for stage in stages),
        found="none",
        next_step="Name one, or leave the layer out for the finding over all of them.",
    )
