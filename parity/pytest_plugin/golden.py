"""What happens when a test checks a result? It is held against its golden, written if there is none, and told of."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

import pytest

from parity.errors import GoldenError, ParityError
from parity.floor import DerivedFloor
from parity.golden import (
    MAX_BYTES,
    Calibration,
    Contents,
    Golden,
    GoldenCheck,
    GoldenFloor,
    check_golden,
    contents_of,
    golden_floor,
    make_golden,
    read_golden,
    with_environment,
    write_golden,
)
from parity.pytest_plugin.failure import dump, failure_text
from parity.pytest_plugin.paths import CLAIMED, WRITTEN, golden_path, test_id
from parity.pytest_plugin.summary import PROPERTY, moved, size_words


class ParityGolden:
    """The fixture: holds the results of one test against its goldens."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._node: pytest.Item = request.node
        self._request = request
        self._unnamed = 0
        self._mine: set[Path] = set()

    def check(
        self,
        value: Any,
        name: str | None = None,
        *,
        floor: str | Path | DerivedFloor | None = None,
        calibration: Calibration | None = None,
        positions: int | None = None,
        max_bytes: int | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> GoldenCheck | None:
        """Hold a tensor, a mapping of names to tensors, a trace or a trace's folder against the stored golden.

        name: tells two checks of one test apart; without one the second is called `2`, and so on.
        floor: None for one rounding to each tensor's own dtype; `derived:DTYPE[:N]`; for traces a calibrated floor's
            file. calibration: measures what honest runs show on the machine, which widens the floor by that.
        positions: of a trace, keep the last so many positions of each request. max_bytes: of the golden's file, 500 KB
            where neither this nor the setting `parity_golden_max_bytes` says otherwise.
        provenance: JSON values to keep in the golden, besides commit, version and date.

        Returns the check when all holds, None when the golden was written on request. Fails the test when something
        does not hold and when there was no golden: then it is written, to be looked at and committed.
        Raises ParityError for a damaged golden, one of another test or floor, and for what cannot be a golden.
        """
        __tracebackhide__ = True
        try:
            path = self._claim(name)
            opened = golden_floor(floor)
            given = contents_of(value)
            limit = self._limit(max_bytes)

            def make() -> Golden:
                return make_golden(
                    given if positions is None else contents_of(value, positions=positions),
                    test=test_id(self._node),
                    name=name,
                    floor=opened,
                    positions=positions,
                    calibration=calibration,
                    provenance={**self._origin(), **(provenance or {})},
                )

            if self._node.config.getoption("--parity-update"):
                return self._update(path, make(), opened, limit)
            if not path.exists() or path in self._node.config.stash.setdefault(WRITTEN, set()):
                self._write_missing(path, make(), limit)
            golden = self._read(path, name)
            if golden.positions != positions:
                raise _stale(path, f"the last {golden.positions} positions", f"the last {positions}")
            if self._node.config.getoption("--parity-measure") and calibration is not None:
                golden = with_environment(golden, given, floor=opened, calibration=calibration)
                self._rewrite(path, golden, limit)
                self._tell("measured", path, f"{len(golden.measured)} environments in its table")
            check = check_golden(golden, given, floor=opened, calibration=calibration)
        except ParityError as error:
            raise error.with_traceback(None) from None
        if not check.healthy:
            self._fail(path, golden, given, check)
        return check

    def _claim(self, name: str | None) -> Path:
        """The file of this check, which no other check of the session may have."""
        if name is None:
            self._unnamed += 1
        path = golden_path(self._node, str(self._unnamed) if name is None and self._unnamed > 1 else name)
        claimed = self._node.config.stash.setdefault(CLAIMED, {})
        mine = test_id(self._node)
        owner = claimed.setdefault(str(path).lower(), mine)
        if owner != mine or path in self._mine:
            raise _collision(path, owner, again=path in self._mine)
        self._mine.add(path)
        return path

    def _read(self, path: Path, name: str | None) -> Golden:
        golden = read_golden(path)
        if (golden.test, golden.name) != (test_id(self._node), name):
            raise _collision(path, golden.test if golden.name is None else f"{golden.test}, check {golden.name!r}")
        return golden

    def _write_missing(self, path: Path, golden: Golden, limit: int) -> NoReturn:
        __tracebackhide__ = True
        self._node.config.stash.setdefault(WRITTEN, set()).add(path)
        try:
            size = write_golden(path, golden, max_bytes=limit)
        except FileExistsError:
            # Another worker was first: its golden is either this test's, which this one then fails as, or another's.
            self._read(path, golden.name)
            size = path.stat().st_size
        except OSError as error:
            pytest.fail(f"parity golden: there is none at {path}, and it cannot be written: {error}", pytrace=False)
        self._tell("written", path, f"{_count(golden.contents)}, {size_words(size)}, floor {golden.floor}")
        pytest.fail(
            f"parity golden: there was none, so it was written: {path}\n"
            f"  {_count(golden.contents)}, {size_words(size)}, floor {golden.floor}\n"
            "  Nothing was checked. Make sure that these numbers are right, commit the file, and run again.",
            pytrace=False,
        )

    def _update(self, path: Path, golden: Golden, floor: GoldenFloor, limit: int) -> None:
        event, words = "rewritten", []
        if not path.exists():
            event, words = "written", [f"{_count(golden.contents)}, floor {golden.floor}"]
        else:
            try:
                read_golden(path)
            except GoldenError as error:
                words = [f"the old one could not be read: {error.found}"]
            else:
                words, same = moved(self._read(path, golden.name), golden, floor)
                if same:
                    self._tell("unchanged", path)
                    return
        self._tell(event, path, *words, size_words(self._rewrite(path, golden, limit)))

    def _rewrite(self, path: Path, golden: Golden, limit: int) -> int:
        __tracebackhide__ = True
        try:
            return write_golden(path, golden, max_bytes=limit, replace=True)
        except OSError as error:
            pytest.fail(f"parity golden: {path} cannot be rewritten: {error}", pytrace=False)

    def _fail(self, path: Path, golden: Golden, actual: Contents, check: GoldenCheck) -> NoReturn:
        __tracebackhide__ = True
        base = self._node.config.getoption("--parity-dump")
        folder = Path(base).resolve() if base else self._request.getfixturevalue("tmp_path_factory").mktemp("parity")
        sides = dump(folder, path, golden, actual)
        pytest.fail(failure_text(path, check, sides, self._node.nodeid), pytrace=False)

    def _limit(self, given: int | None) -> int:
        setting = self._node.config.getini("parity_golden_max_bytes")
        return given if given is not None else int(setting) if setting else MAX_BYTES

    def _tell(self, event: str, path: Path, *words: str) -> None:
        """Put it into the test's report, which also travels from a worker process to the one that prints."""
        root = self._node.config.rootpath
        shown = path.relative_to(root) if path.is_relative_to(root) else path
        self._node.user_properties.append((PROPERTY, json.dumps([event, str(shown), *words])))

    def _origin(self) -> dict[str, Any]:
        found: dict[str, Any] = {"written": datetime.now(UTC).strftime("%Y-%m-%d")}
        with suppress(PackageNotFoundError):  # run from a checkout
            found["parity_lab"] = version("parity-lab")
        commit = _git(self._node.path.parent, "rev-parse", "HEAD")
        if commit:
            found["commit"] = commit
            found["changed_since"] = bool(_git(self._node.path.parent, "status", "--porcelain", "-uno"))
        return found


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _count(contents: Contents) -> str:
    if contents.trace is not None:
        return f"a trace of {len(contents.trace.captures)} captures"
    count = len(contents.tensors or {})
    return f"{count} tensor" if count == 1 else f"{count} tensors"


def _collision(path: Path, owner: str, *, again: bool = False) -> GoldenError:
    return GoldenError(
        place=str(path),
        expected="a golden of this check alone",
        found="a second check of this test with the same name" if again else f"the golden of {owner}",
        next_step="Give the check another name=..., or the parameters another id; delete the file if the test was "
        "renamed.",
    )


def _stale(path: Path, expected: str, found: str) -> GoldenError:
    return GoldenError(
        place=str(path), expected=expected, found=found, next_step="Rewrite it with --parity-update if that is meant."
    )
