"""Which figures does an investigation get? The map always, the expert load where a launch fell short."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from parity.ladder import CaptureInvestigation
from parity.report.markdown import launches_over


def draw_figures(found: CaptureInvestigation, control: CaptureInvestigation, out: Path) -> dict[str, str]:
    """Draw the figures of an investigation and its control into `out`; returns file names by figure name.

    Empty without matplotlib (extra `plots`): a report can do without pictures.
    """
    if find_spec("matplotlib") is None:
        return {}
    from parity.report.plots.expert_load import draw_expert_load, expert_loads
    from parity.report.plots.layer_stage_map import draw_layer_stage_map

    panels = (
        ("Engine under test, chained: error as it adds up through the layers", found.chained),
        ("Engine under test, isolated: each stage alone, on the engine's own inputs", found.isolated),
        ("The same prompt without the fault, chained", control.chained),
    )
    figures = {"map": draw_layer_stage_map(panels).save(out / "layer-stage-map.png").name}
    short = launches_over(found.coverage)
    if short:
        figures["load"] = draw_expert_load(expert_loads(short, ())).save(out / "expert-load.png").name
    return figures
