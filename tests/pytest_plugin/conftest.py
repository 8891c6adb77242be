"""A project of one test module, run by a pytest of its own in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

# In this process before a run of its own takes stock of sys.modules: torch cannot be imported twice.
import parity.pytest_plugin.golden  # noqa: F401

HEAD = """
import torch

def values(seed=0, rows=24, columns=160):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))

"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """project(source, *arguments) writes test_engine.py (once `source` is given) and runs pytest on it.

    Of the installed plugins only ours: hypothesis alone is imported anew in each run, for seconds.
    """
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(source: str | None, *arguments: str) -> Any:
        if source is not None:
            pytester.path.joinpath("test_engine.py").write_text(HEAD + source)
        return pytester.runpytest_inprocess("-p", "parity.pytest_plugin", "-p", "no:cacheprovider", *arguments)

    return run
