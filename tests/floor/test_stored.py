"""Is a floor's file whose JSON is right and whose fields are not refused, whichever field it is?"""

from __future__ import annotations

import copy
import json
import math

import pytest

from parity.errors import UsageError
from parity.floor import Floor
from parity.floor.gate import RULE

NASTY = [None, True, -3, 2**70, 1.5, math.nan, math.inf, "", "x", [], {}, [None], [[]], {"a": 1}]


def paths_of(value, prefix=()):
    found = [prefix] if prefix else []
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            found += paths_of(value[key], (*prefix, key))
    return found


@pytest.fixture
def content(clean, tmp_path):
    clean.floor().save(tmp_path / "whole.json")
    content = json.loads((tmp_path / "whole.json").read_text())
    content["bins"] = [[group, members[:2]] for group, members in content["bins"][:2]]
    return content


def test_any_field_of_another_kind_is_refused_or_harmless(content, tmp_path):
    path, refused = tmp_path / "floor.json", 0
    for at in paths_of(content):
        for value in NASTY:
            changed = copy.deepcopy(content)
            inner = changed
            for key in at[:-1]:
                inner = inner[key]
            inner[at[-1]] = value
            path.write_text(json.dumps(changed))
            try:
                floor = Floor.load(path)
            except UsageError:
                refused += 1
                continue
            # What it took can be judged by: no bound and no scale that counts is anything but a finite number.
            assert all(math.isfinite(gate.z) for gate in floor.gates.values())
            assert all(math.isfinite(s.centre) and math.isfinite(s.spread) for s in floor.scales.values())
    assert refused > 300


@pytest.mark.parametrize("name", ["recipe", "lineage", "runs", "documents", "source", "bins", "gates", "power"])
def test_a_missing_field_is_named(content, tmp_path, name):
    del content[name]
    (tmp_path / "floor.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=name):
        Floor.load(tmp_path / "floor.json")


@pytest.mark.parametrize(
    "raw", [b"\xff\xfe", b"[" * 100_000, b'{"format":"parity-floor","version":' + b"9" * 5000 + b"}"]
)
def test_no_json_is_refused(tmp_path, raw):
    (tmp_path / "floor.json").write_bytes(raw)
    with pytest.raises(UsageError, match="parity-floor"):
        Floor.load(tmp_path / "floor.json")


def test_a_bin_twice_is_refused(content, tmp_path):
    content["bins"].append(content["bins"][0])
    (tmp_path / "floor.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match="twice"):
        Floor.load(tmp_path / "floor.json")


def test_a_floor_of_another_rule_says_so(clean, content, tmp_path):
    path = tmp_path / "floor.json"
    clean.floor().save(path)
    assert Floor.load(path).rule == RULE
    assert "rule" not in Floor.load(path).sentence()
    del content["rule"]  # as files were before rules had numbers
    path.write_text(json.dumps(content))
    assert Floor.load(path).rule == 0
    assert f"made by rule 0 of this lab; rule {RULE} stands" in Floor.load(path).sentence()
