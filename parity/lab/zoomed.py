"""What is wrong with one stage of one layer? Its verdict, every kind of slice ranked, its error field and its shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from parity.compare.pair import measure_replayed
from parity.display import Displayed
from parity.errors import UsageError
from parity.fingerprint import ErrorField, Fingerprint, ReducedField, reduce_field
from parity.floor import Floor
from parity.invariance import Coverage
from parity.lab.ranking import Ranking, rank_slices
from parity.ladder.reading import read_site
from parity.ladder.replay import Replay
from parity.reading import read_record
from parity.records import Comparison, site_name
from parity.stages import term


@dataclass(frozen=True)
class ZoomedSite(Displayed):
    """One site, each stage fed the SUT's own inputs.

    records: its comparisons, one a phase. rankings: by kind. fingerprints: cause classes read from its error field,
    the best first; none are read from a healthy one. field: None for ids. launch: what its kernel covered, None where
    it does not say. obstacle: why there is nothing to look at, empty otherwise.
    """

    name: str
    records: tuple[Comparison, ...]
    rankings: Mapping[str, Ranking]
    fingerprints: tuple[Fingerprint, ...]
    field: ReducedField | None = None
    launch: Coverage | None = None
    obstacle: str = ""

    def __repr__(self) -> str:
        verdicts = ", ".join(f"{record.phase} {record.verdict.value}" for record in self.records)
        shape = f"; {self.fingerprints[0].cause}" if self.fingerprints else ""
        return f"ZoomedSite({self.name}: {verdicts}{shape}; by {', '.join(self.rankings) or 'nothing'})"

    def by(self, kind: str) -> Ranking:
        """The slices of one kind, worst first: `head`, `expert`, `tile`, `columns`, `row` or `tensor`.

        Raises UsageError for a kind that the stage does not have.
        """
        if kind not in self.rankings:
            raise UsageError(
                place=f"zoom into {self.name}",
                expected="one of " + ", ".join(self.rankings) if self.rankings else f"slices ({self.obstacle})",
                found=repr(kind),
                next_step="Heads are of attention's stages, experts and tiles of an expert's; see parity/stages.py.",
            )
        return replace(self.rankings[kind], field=self.field, launch=self.launch)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ZoomedSite:
        """The record that `parity.records.as_json` made of one."""
        field = content.get("field")
        plain = read_record(cls, {**content, "field": None}, place="zoomed site")
        return plain if field is None else replace(plain, field=ReducedField.from_json(field))


def zoom_site(
    replay: Replay, layer: int | None, stage: str, *, floor: Floor | None, launch: Coverage | None = None
) -> ZoomedSite:
    """Look at one site closely; raises UsageError for one that the model does not have.

    floor: judges every slice; None ranks them by their error.
    """
    name = site_name(layer, stage)
    site = replay.site(layer, stage)
    records = replay.judge(site, floor=floor)
    if site.sut is None or site.oracle is None:
        return ZoomedSite(name, records, {}, (), obstacle=site.obstacle)
    if term(stage).values == "ids" or any(record.verdict.name.endswith("_MISMATCH") for record in records):
        why = "ids have no distance" if term(stage).values == "ids" else records[0].reason
        return ZoomedSite(name, records, {}, (), launch=launch, obstacle=why)
    sut, oracle = site.sut, site.oracle
    if floor is not None and "distance" in floor.gates:
        site = replay.emulate(site, floor.recipe.name)
    errors = measure_replayed([(oracle, sut)])
    distances = [] if site.emulated is None else measure_replayed([(site.emulated, sut)])
    field = ErrorField.of(sut, oracle, hyper=replay.trace.run.hyper)
    return ZoomedSite(
        name=name,
        records=records,
        rankings=rank_slices(name, errors, distances, sut, floor),
        fingerprints=() if all(record.verdict.healthy for record in records) else read_site(replay, site),
        field=reduce_field(field),
        launch=launch,
    )
