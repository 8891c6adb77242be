"""The vocabulary is closed, and a family's graph can be computed in the order in which it is written."""

from __future__ import annotations

import pytest

from parity.errors import ConfigError, UsageError
from parity.stages import AXES, FAMILIES, VOCABULARY, Family, Stage, family, matches, term


@pytest.mark.parametrize("graph", FAMILIES.values(), ids=lambda graph: graph.name)
def test_every_stage_comes_after_its_inputs(graph: Family):
    seen: set[tuple[int | None, str]] = set()
    for layer, stage in graph.sites(3):
        for name in stage.inputs:
            assert graph.resolve(layer, name, layers=3) in seen, (layer, stage.name, name)
        seen.add((layer, stage.name))


def test_an_input_computed_later_is_seen():
    broken = Family("x", (Stage("embed.out"),), (Stage("attn.q", ("attn.norm",)), Stage("attn.norm")), ())
    with pytest.raises(AssertionError):
        test_every_stage_comes_after_its_inputs(broken)


def test_axes_are_explained_and_words_are_unique():
    for word in VOCABULARY.values():
        assert set(word.axes) <= set(AXES)
        assert word.values in ("float", "ids")


def test_the_input_residual_is_the_previous_layers_output():
    graph = family("qwen3_moe")
    assert graph.resolve(0, "resid.in", layers=4) == (None, "embed.out")
    assert graph.resolve(2, "resid.in", layers=4) == (1, "resid.out")
    assert graph.resolve(None, "resid.in", layers=4) == (3, "resid.out")
    assert graph.resolve(2, "attn.q", layers=4) == (2, "attn.q")


def test_positions_follow_the_order_of_computation():
    graph = family("qwen3_moe")
    order = [graph.position(layer, stage.name, layers=2) for layer, stage in graph.sites(2)]
    assert order == sorted(order)
    with pytest.raises(UsageError, match="layer 2"):
        graph.position(2, "attn.q", layers=2)


def test_words_outside_the_vocabulary_are_refused():
    with pytest.raises(ConfigError, match=r"attn\.qq"):
        term("attn.qq")
    with pytest.raises(ConfigError, match="llama9"):
        family("llama9")
    with pytest.raises(ConfigError, match=r"moe\.shared"):
        family("qwen3_moe").stage("moe.shared")


def test_patterns():
    assert matches("moe.gate", ())
    assert matches("moe.gate", ("attn.*", "moe.*"))
    assert not matches("moe.gate", ("attn.*",))
