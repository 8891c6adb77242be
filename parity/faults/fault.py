"""What is a planted fault? A change to one engine instance, with the truth that an investigation must name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from parity.errors import UsageError
from parity.records import Site

RUNGS = ("prompt", "config", "checkpoint", "decode", "probes")
"""Rungs of the ladder that name a fault without a stage of the forward pass."""

Op = Callable[..., Any]
Wrap = Callable[[Op], Op]
Change = Callable[[str, torch.Tensor], torch.Tensor | None]


@dataclass(frozen=True)
class Prompt:
    """What an engine is about to feed: a conversation to render, or ids as they are.

    messages, tools, options: as the chat template takes them; empty for a request given as ids.
    folder: the model's; template: source of the chat template that the engine found, None without one.
    render: the engine's own rendering of a Prompt to text. text: set it to feed this text instead of a rendering.
    ids: set for a request given as ids; a fault returns it changed.
    """

    messages: tuple[Mapping[str, Any], ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    template: str | None = None
    render: Callable[[Prompt], str] | None = None
    text: str | None = None
    ids: tuple[int, ...] | None = None

    def rendered(self) -> str:
        """The text of this prompt: `text`, or what the engine's template makes of the conversation."""
        if self.text is not None:
            return self.text
        if self.render is None:
            raise UsageError(
                place="prompt",
                expected="a conversation, which can be rendered",
                found="a request given as ids",
                next_step="Return the prompt unchanged, or change its ids.",
            )
        return self.render(self)


@dataclass(frozen=True)
class Fault:
    """A defect to plant into one engine instance. docs/faults.md explains every field with an example.

    name, family, summary: its name, the model family that carries it, one sentence for a person.
    truth: the site an investigation must name; its layers are absolute, and none mean every layer that has the stage.
    also: further sites where the same defect adds error of its own; naming one of them is right as well.
    rung: one of RUNGS when the defect shows there: beside the truth, or instead of one where no stage is wrong.
    cause: the cause class. details: names and numbers that evidence should hold (a key, a tensor, a ratio).
    control: a difference that is no bug; it has no truth and must not be blamed. claim: a wrong diagnosis that comes
        with the run and must come out refuted.
    simulated: a correct result is edited, instead of the incident's own mechanism at work.
    needs: effective hyper-parameters (and `recipe`) that the model must run with for the fault to exist.

    What changes, one or more of:
    op, wrap: `wrap(op) -> op` for the op of that name (or each of several names); `wrap` may map names to functions.
    launch: launch functions by name. config: changed hyper-parameters, or a function from all of them to the changed
        ones. weights: function (name, tensor) -> tensor, or such functions by shell-style pattern of the name; None
        for a tensor that is loaded and never bound. engine: settings of the instance. sampler: function from logits
        [V] to a token, in place of the engine's greedy choice. prompt: function from a Prompt to a Prompt.
    runner: function from a whole runner to a runner, for engines that have none of these seams.

    instances: function (seed, hyper) -> Fault: the same defect at other layers, experts, strengths.
    """

    name: str
    family: str
    summary: str
    truth: Site | None = None
    cause: str | None = None
    control: bool = False
    simulated: bool = False
    launch: Mapping[str, Op] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    also: tuple[Site, ...] = ()
    rung: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    claim: str | None = None
    needs: Mapping[str, Any] = field(default_factory=dict)
    op: str | tuple[str, ...] = ()
    wrap: Wrap | Mapping[str, Wrap] | None = None
    config: Mapping[str, Any] | Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    weights: Change | Mapping[str, Change] | None = None
    sampler: Callable[[torch.Tensor], int] | None = None
    prompt: Callable[[Prompt], Prompt] | None = None
    runner: Callable[[Any], Any] | None = None
    instances: Callable[[int, Mapping[str, Any]], Fault] | None = None

    def wraps(self) -> dict[str, Any]:
        """The functions to wrap ops with, by name of the op; what is missing or superfluous shows as None."""
        named = (self.op,) if isinstance(self.op, str) else tuple(self.op)
        if isinstance(self.wrap, Mapping):
            return {name: self.wrap.get(name) for name in dict.fromkeys((*named, *self.wrap))}
        return {name: self.wrap for name in named}

    def changes_nothing(self) -> bool:
        """True when no seam is given."""
        given = (self.wrap, self.config, self.weights, self.sampler, self.prompt, self.runner)
        return not (self.op or self.launch or self.engine or any(one is not None for one in given))

    def needs_engine(self) -> bool:
        """True when it has to be planted into an engine's own tables; a prompt or a runner can be wrapped outside."""
        inside = (self.wrap, self.config, self.weights, self.sampler)
        return bool(self.op or self.launch or self.engine or any(one is not None for one in inside))

    def instance(self, seed: int, hyper: Mapping[str, Any] | None = None) -> Fault:
        """The fault at another place or strength, its truth along with it; seed 0 is the fault itself.

        hyper: the model's effective hyper-parameters (`layers`, `experts`, ...): where the places are drawn from.
        A fault without `instances` is the same for every seed.
        """
        if seed == 0 or self.instances is None:
            return self
        return self.instances(seed, hyper or {})

    def change_tensor(self, name: str, tensor: torch.Tensor) -> torch.Tensor | None:
        """The checkpoint's tensor `name` as the faulty loader binds it; None: it binds nothing."""
        if self.weights is None:
            return tensor
        if not isinstance(self.weights, Mapping):
            return self.weights(name, tensor)
        changed: torch.Tensor | None = tensor
        for pattern, change in self.weights.items():
            if changed is not None and fnmatchcase(name, pattern):
                changed = change(name, changed)
        return changed
