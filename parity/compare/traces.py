"""Where do two traces differ, and is it noise? Every declared site gets a record, in order of computation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from parity.align import Routing
from parity.compare.blocks import site_blocks
from parity.compare.gathered import Gathered
from parity.compare.judge import judge, judge_gathered
from parity.compare.labels import RowLabels, label_rows
from parity.compare.measure import Measured, measure
from parity.compare.pair import check_pair
from parity.compare.ranges import WIDEST_ROW, layouts, position_blocks, widest_row
from parity.compare.routes import GatheredRoutes
from parity.compare.sites import SitePair, TracePair
from parity.errors import TraceError, UsageError
from parity.floor import Floor, FloorSample, NoiseFloor
from parity.metrics import RowRepeats
from parity.records import Comparison, Summary, Verdict, site_name
from parity.stages import matches, term
from parity.trace import Trace


def compare_traces(
    *,
    oracle: Trace,
    sut: Trace,
    floor: NoiseFloor | None = None,
    mode: str = "chained",
    layers: Sequence[int] = (),
    stages: Sequence[str] = (),
    same_model_because: str | None = None,
    allow_grafts: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Summary:
    """Compare two traces of the same prompts, site by site.

    Order: ids, grafts, layers, family and lineage (TraceError) -> presence -> model and basis -> shape -> dtype ->
    nonfinite -> numbers. Presence: a site that either side declared or captured must be there on both; `layers` and
    `stages` (shell-style patterns) restrict what is compared, sites outside the layers included when `layers` is empty.
    Rows meet by absolute position, expert rows by (token, expert). A token whose experts differ by a near-tie that the
    floor excuses is judged apart from there on; a (token, expert) pair that one side has not computed is excluded, both
    counted. Rows that the SUT took from a prefix cache, as its run says (`flags["absent"]`), are not there to be
    compared: their positions are counted (`positions_absent`). The phase of a row is the SUT's.
    allow_grafts: of a run in which tensors were replaced, which is refused else: for who replaced them.
    floor: None measures and ranks without a verdict. progress: called with each site's name.
    Returns a Summary with one comparison for every (site, phase).
    Raises UsageError for a floor of another recipe or lineage than the SUT's.
    """
    if isinstance(floor, Floor):
        floor.refuse_other(sut.run)
    pair = TracePair(oracle, sut, floor, mode, same_model_because, allow_grafts)
    comparisons: list[Comparison] = []
    wanted = _selected(pair, layers, stages)
    for layer, stage in wanted:
        if progress is not None:
            progress(site_name(layer, stage))
        comparisons += _compare_site(pair, layer, stage)
    phases = pair.phases()
    names = tuple(site_name(*site) for site in wanted for _ in phases)
    return Summary(names, tuple(comparisons), pair.unobservable(pair.declared()), pair.notes())


def sample_traces(
    *, oracle: Trace, clean: Trace, run: str, into: FloorSample | None = None, mode: str = "chained"
) -> FloorSample:
    """One clean run's sample of the chained floor: the recipe's emulation against the exact oracle.

    mode: `chained` for an oracle that was routed as the run was, `free` for one that chose its own experts.
    run: the sample's name. into: a sample to add to (that holds the run's isolated part), else a new one.
    Every router flip counts as a near-tie, since both sides are clean.
    Raises UsageError for a site that one side does not have: a floor must not have holes that nobody chose.
    """
    sample = FloorSample(run) if into is None else into
    pair = TracePair(oracle, clean, None, mode, allow_grafts=True)
    for layer, stage in pair.declared():
        if term(stage).values == "ids" or stage in clean.run.unobservable:
            continue
        site = pair.site(layer, stage)
        if isinstance(site, Comparison):
            raise UsageError(
                place=f"clean run {run}, {site.name}",
                expected="the stage on both sides",
                found=f"{site.verdict.value}: {site.reason}",
                next_step="Capture the emulation and the oracle under the same plan.",
            )
        for measured in measure(site.parts, stage=stage, layer=layer, axes=site.axes):
            measured.sample(sample, mode=mode)
    return sample


def measure_site(
    *, oracle: Trace, sut: Trace, layer: int | None, stage: str, floor: NoiseFloor | None = None, mode: str = "chained"
) -> list[Measured]:
    """The numbers of one site of two traces, phase by phase, for a closer look; empty when there is nothing to
    measure."""
    site = TracePair(oracle, sut, floor, mode, allow_grafts=True).site(layer, stage)
    return (
        []
        if isinstance(site, Comparison)
        else measure(site.parts, stage=stage, layer=layer, axes=site.axes, floor=floor)
    )


def _selected(pair: TracePair, layers: Sequence[int], stages: Sequence[str]) -> list[tuple[int | None, str]]:
    return [
        (layer, stage)
        for layer, stage in pair.declared()
        if (not layers or layer in layers) and matches(stage, tuple(stages))
    ]


def _compare_site(pair: TracePair, layer: int | None, stage: str) -> Iterator[Comparison]:
    """One record for each phase of the SUT's run."""
    phases, sides = pair.phases(), (pair.oracle, pair.sut)
    unlike = pair.unlike(layer, stage)
    if unlike is not None:
        yield from (replace(unlike, phase=phase) for phase in phases)
        return
    widest = widest_row(sides, layer, stage)
    if widest > WIDEST_ROW:
        reason = (
            f"a row of {widest} elements; of a trace at most {WIDEST_ROW} are compared within 256 MB: "
            f"compare the tensors as plain .safetensors files, which are read in pieces of columns"
        )
        name = site_name(layer, stage)
        record = Comparison(name, layer, stage, "prefill", Verdict.NOT_COMPARED, reason=reason, mode=pair.mode)
        yield from (replace(record, phase=phase) for phase in phases)
        return
    try:
        if position_blocks(sides, layer, stage):
            judged = _judged_in_blocks(pair, layer, stage)
            for phase in phases:
                if isinstance(judged, Comparison):
                    yield replace(judged, phase=phase)
                else:
                    yield judged.get(phase) or _absent(pair, layer, stage, phase)
            return
        site = pair.site(layer, stage)
    except TraceError as error:
        # Rows that contradict each other are a finding about this site, and no reason to lose all others.
        name = site_name(layer, stage)
        record = Comparison(name, layer, stage, "prefill", Verdict.NOT_COMPARED, reason=str(error), mode=pair.mode)
        yield from (replace(record, phase=phase) for phase in phases)
        return
    if isinstance(site, Comparison):
        yield from (replace(site, phase=phase) for phase in phases)
        return
    for a, b, _ in site.parts:
        mismatch = check_pair(oracle=a, sut=b, axes=site.axes, stage=stage, layer=layer, mode=pair.mode)
        if mismatch is not None:
            yield from (replace(mismatch, phase=phase) for phase in phases)
            return
    found = {record.phase: record for record in _judged(pair, site, layer, stage)}
    for phase in phases:
        yield found.get(phase) or _absent(pair, layer, stage, phase)


def _judged(pair: TracePair, site: SitePair, layer: int | None, stage: str) -> Iterator[Comparison]:
    if term(stage).values == "ids" and layer is not None:
        gathered: dict[str, GatheredRoutes] = {}
        _take_routes(gathered, pair, layer, None)
        yield from (_with_unpaired(one.finish(), site.unpaired, pair.absent(stage)) for one in gathered.values())
        return
    for measured in measure(site.parts, stage=stage, layer=layer, axes=site.axes, floor=pair.floor):
        yield _with_unpaired(judge(measured, floor=pair.floor, mode=pair.mode), site.unpaired, pair.absent(stage))


def _with_unpaired(record: Comparison, unpaired: int, absent: int) -> Comparison:
    if absent:
        record = replace(record, whole={**record.whole, "positions_absent": float(absent)})
    if unpaired and record.verdict.healthy:
        # What one side alone has captured may hold anything: the rest of it is no clean bill.
        reason = f"{unpaired} rows of one side have no counterpart on the other"
        record = replace(record, verdict=Verdict.NO_POWER, reason=reason)
    return replace(record, whole={**record.whole, "rows_unpaired": float(unpaired)})


def _judged_in_blocks(pair: TracePair, layer: int | None, stage: str) -> dict[str, Comparison] | Comparison:
    """The record of each phase that occurs, or one for all, of a site that is too large to be held at once."""
    oracle, sut = (layouts(trace, layer, stage) for trace in (pair.oracle, pair.sut))
    if not oracle or not sut or {(axes, row) for axes, _, row in oracle} != {(axes, row) for axes, _, row in sut}:
        site = pair.site(layer, stage)  # nothing to measure: it says why
        if isinstance(site, Comparison):
            return site
    rows = sum(len(c.rows.position) for c in pair.sut.select(stage=stage, layer=layer))
    gathered: dict[str, Gathered] = {}
    routed: dict[str, GatheredRoutes] = {}
    repeats, unpaired, excluded, labelled = RowRepeats(), 0, 0, 0
    for between, site in site_blocks(pair, layer, stage):
        unpaired += site.unpaired
        if not site.parts:
            continue
        for a, b, of in site.parts:
            mismatch = check_pair(oracle=a, sut=b, axes=site.axes, stage=stage, layer=layer, mode=pair.mode)
            if mismatch is not None:
                return mismatch
            excluded, labelled = excluded + int(of.excluded.sum()), labelled + len(of)
        if term(stage).values == "ids" and layer is not None:
            _take_routes(routed, pair, layer, between)
            continue
        for part in measure(site.parts, stage=stage, layer=layer, axes=site.axes, floor=pair.floor, repeats=repeats):
            gathered.setdefault(part.phase, Gathered(pair.floor, pair.mode, rows)).take(part)
    absent = pair.absent(stage)
    if routed:
        return {phase: _with_unpaired(one.finish(), unpaired, absent) for phase, one in routed.items()}
    if not gathered:
        reason = f"no position in common ({unpaired} rows unpaired)"
        name = site_name(layer, stage)
        return Comparison(name, layer, stage, "prefill", Verdict.NOT_COMPARED, reason=reason, mode=pair.mode)
    for one in gathered.values():
        one.excluded_share = excluded / labelled
    return {phase: _with_unpaired(judge_gathered(one), unpaired, absent) for phase, one in gathered.items()}


def _take_routes(into: dict[str, GatheredRoutes], pair: TracePair, layer: int, between: tuple[int, int] | None) -> None:
    """Add the routing of a layer, or of a range of its positions, to what is known of each phase."""
    routes = [r for r in pair.routes(layer, between) if r is not None]
    for phase in pair.phases():
        parts = [(r, r.phase == phase) for r in routes if (r.phase == phase).any()]
        if parts:
            labels = RowLabels.join(
                [label_rows(position=r.position[m], phase=phase, request=r.request) for r, m in parts]
            )
            joined = Routing.join([(r.routing, mask) for r, mask in parts])
            into.setdefault(phase, GatheredRoutes(layer, pair.floor, pair.mode)).take(joined, labels)


def _absent(pair: TracePair, layer: int | None, stage: str, phase: str) -> Comparison:
    """The record of a phase in which a site that was compared otherwise has no pair of rows."""
    verdict, who = Verdict.NOT_COMPARED, "either side"
    if pair.sut.select(stage=stage, layer=layer, phase=phase):
        verdict, who = Verdict.MISSING_IN_ORACLE, "the oracle"
    elif pair.oracle_reaches(layer, stage, phase):
        verdict, who = Verdict.MISSING_IN_SUT, "the SUT"
    reason = f"no row of the {phase} phase captured by {who}"
    return Comparison(site_name(layer, stage), layer, stage, phase, verdict, reason=reason, mode=pair.mode)
