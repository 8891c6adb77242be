"""Oracles that read the small random model, and an audit of an engine with something planted into it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.audit import Audit, audit
from parity.faults import Fault
from parity_kernels.forward.runner import open_runner
from parity_oracles.recipes.runner import RecipeRunner
from parity_oracles.recipes.runner import open_runner as open_oracle

Audited = Callable[..., Audit]


@pytest.fixture(scope="session")
def fp8_oracle(fp8_model: Path) -> RecipeRunner:
    return open_oracle(str(fp8_model))


@pytest.fixture(scope="session")
def audited(fp8_model: Path, fp8_oracle: RecipeRunner) -> Audited:
    """audited("name") audits the engine on the FP8 model with that shipped fault, audited(config=...) with one made of
    these seams."""

    def run(fault: str | None = None, **seams: Any) -> Audit:
        made = Fault("x", "qwen3_moe", "x", truth=None, cause="x", rung="checkpoint", **seams) if seams else fault
        return audit(oracle=fp8_oracle, sut=open_runner(str(fp8_model), fault=made))

    return run
