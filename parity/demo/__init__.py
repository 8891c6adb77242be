"""The main job on shipped input, and what it looks like in a terminal."""

from __future__ import annotations

from parity.demo.run import (
    FAULT,
    FIXTURES,
    MODEL,
    PROMPT,
    DemoResult,
    Texts,
    demo_case,
    demo_prompt,
    run_demo,
    write_demo,
)

__all__ = [
    "FAULT",
    "FIXTURES",
    "MODEL",
    "PROMPT",
    "DemoResult",
    "Texts",
    "demo_case",
    "demo_prompt",
    "run_demo",
    "write_demo",
]
