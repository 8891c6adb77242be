"""Can somebody write a trace from docs/trace-format.md alone? A writer of ten lines that imports nothing of ours."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

from parity.stages import VOCABULARY
from parity.trace import open_trace, verify_trace
from parity.trace.rowdata import FIELDS
from parity.trace.shard import BY_NAME, DTYPES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "trace-format.md"


def example_lines() -> list[dict[str, Any]]:
    """The page's example: lines of the manifest, with the placeholders for computed numbers as text."""
    block = PAGE.read_text().split("<!-- example -->\n```json\n")[1].split("```")[0]
    text = block.replace("\n ", " ").replace("CRC,", '"CRC",').replace("CHAIN}", '"CHAIN"}')
    return [json.loads(line) for line in text.splitlines()]


def test_the_example_of_the_page_is_a_trace(tmp_path: Path) -> None:
    payload = struct.pack("<8f", *range(8))
    entry = {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, len(payload)]}
    header = json.dumps({"capture.0": entry}).encode()
    header += b" " * (-len(header) % 8)
    (tmp_path / "shard-00000.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + payload)
    written = b""
    for line in example_lines():
        if "crc" in line:
            line["crc"] = zlib.crc32(payload)
        del line["chain"]
        written += json.dumps(line)[:-1].encode() + b',"chain":'
        written += b"%d}\n" % zlib.crc32(written)
    (tmp_path / "manifest.jsonl").write_bytes(written)

    trace = open_trace(tmp_path)
    assert trace.complete
    assert trace.run.requests == ((11, 12),)
    assert trace.captures[0].rows.position.tolist() == [0, 1]
    assert trace.tensor(trace.captures[0]).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert verify_trace(tmp_path).missing == ()


def test_the_page_knows_every_dtype_and_row_field() -> None:
    text = PAGE.read_text()
    for word in (*BY_NAME, *DTYPES, *FIELDS):
        assert word in text, word
    assert zlib.crc32(b"123456789") == 3421780262
    assert "3421780262" in text
    assert "embed.out" in VOCABULARY
