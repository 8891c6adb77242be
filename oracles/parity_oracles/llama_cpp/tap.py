"""How do the nodes of llama.cpp's graph become stages? The stage map held against the nodes, one step at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

from parity.records import Rows
from parity.stages import term
from parity_oracles.llama_cpp.library import Node, See
from parity_oracles.stagemap import Found, Source, StageMap, match_map, slot_rows

OP, PAIRS, INTO, FIRST = "op", "pairs", "into", "first"
"""What of a node's name is taken: see the maps' own first lines."""

ROUTES = "moe.topk_ids"


class Tap:
    """The stages of one graph. `probe` and `rows` are those of the step in progress."""

    def __init__(self, found: Found, sizes: Mapping[str, int]) -> None:
        self.probe: Any = None
        self.rows: Rows | None = None
        self._sizes = sizes
        self._named: dict[str, list[Source]] = {}
        for source in found.sources:
            self._named.setdefault(source.name, []).append(source)
        self._arrived: set[int] = set()
        self._ids: dict[int | None, torch.Tensor] = {}

    @property
    def see(self) -> See:
        """What a context asks and shows."""
        return See(self._wants, self._show)

    def begin(self, probe: Any, rows: Rows) -> None:
        """A step begins."""
        self.probe, self.rows = probe, rows
        self._arrived, self._ids = set(), {}

    def _wants(self, node: Node) -> bool:
        source = self._source(node)
        if source is None or self.probe is None:
            return False
        stage = source.stages[0]
        # The rows of experts are known by the router's choice.
        return self.probe.wants(stage, source.layer) or stage == ROUTES

    def _source(self, node: Node) -> Source | None:
        for name in names_of(node):
            for source in self._named.get(name, ()):
                if id(source) not in self._arrived and takes(source, node, name):
                    return source
        return None

    def _show(self, node: Node) -> None:
        source = self._source(node)
        if source is None:
            return
        self._arrived.add(id(source))
        axes = source.tensor.parts[0].axes
        ((stage, own),) = source.deliver(node.values(len(axes)), self._sizes)
        pairs = source.tensor.take.startswith(PAIRS)
        shown = halves(own) if pairs else own
        about: dict[str, Any] = {}
        if term(stage).axes[0] == "R":
            assert self.rows is not None
            about["rows"] = slot_rows(self.rows, self._ids[source.layer])
        back = self.probe(stage, shown, source.layer, **about)
        if back is not shown:
            own.copy_(neighbours(back) if pairs else back)  # the node's own memory: what comes next reads it
        if stage == ROUTES:
            self._ids[source.layer] = own.clone()


def names_of(node: Node) -> tuple[str, ...]:
    """The names that a node can be known by: its own, and that of the activations that it multiplies."""
    operand = node.source(1)
    return (node.name,) if operand is None else (node.name, operand.name)


def takes(source: Source, node: Node, name: str) -> bool:
    """True when `source`, known by `name`, is this node."""
    kind, _, op = source.tensor.take.partition(":")
    if kind == INTO:
        return name != node.name and node.op == op
    return name == node.name and (kind == FIRST or node.op == op)


def match_nodes(stage_map: StageMap, seen: Counter[tuple[str, str]], *, layers: int) -> Found:
    """Hold a map against the nodes of a graph, given as (name, operation): how many; ProbeError where they disagree."""
    offered = Counter(name for name, _ in seen)
    found = match_map(stage_map, dict(offered), layers=layers)
    for source in found.sources:
        kind, _, op = source.tensor.take.partition(":")
        if kind in (OP, PAIRS) and seen[source.name, op] != 1:
            # As if the name were not there: a node of that name and that operation is what the map declares.
            return match_map(stage_map, {n: c for n, c in offered.items() if n != source.name}, layers=layers)
    return found


def halves(x: torch.Tensor) -> torch.Tensor:
    """[T, H, K] whose rope pairs lie side by side, with the first of each pair in the first half of K."""
    return x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)


def neighbours(x: torch.Tensor) -> torch.Tensor:
    """`halves`, undone."""
    return x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
