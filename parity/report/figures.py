"""Which figures does an investigation get? The map always, the expert load where a launch fell short."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from parity.ladder import Investigation
from parity.report.markdown import launches_over


def draw_figures(found: Investigation, control: Investigation, out: Path) -> dict[str, str]:
    """Draw the figures of an investigation and its control into `out`; returns file names by figure name.

    Empty without matplotlib (extra `plots`): a report can do without pictures.
    """
    if find_spec("matplotlib") is None:
        return {}
    from parity.report.plots.expert_load import plot_expert_load
    from parity.report.plots.layer_stage_map import plot_layer_stage_map

    panels = (
        ("Engine under test, chained: error as it adds up through the layers", found.chained),
        ("Engine under test, isolated: each stage alone, on the engine's own inputs", found.isolated),
        ("The same prompt without the fault, chained", control.chained),
    )
    figures = {"map": plot_layer_stage_map(panels, out / "layer-stage-map.png").name}
    short = launches_over(found.coverage)
    if short:
        loads = {launch.layer: launch.loads for launch in short if launch.layer is not None and launch.loads}
        lost, rows = sum(launch.lost for launch in short), sum(sum(launch.loads) for launch in short)
        title = f"The grid ends at {short[0].covered} rows an expert: {lost} of {rows} expert rows are never written"
        figures["load"] = plot_expert_load(
            loads, short[0].covered, short[0].tile or short[0].covered, title, out / "expert-load.png"
        ).name
    return figures
