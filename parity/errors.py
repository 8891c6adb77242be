"""What an error of this library says: the place, what was expected, what was found, and the next step."""

from __future__ import annotations

from typing import Any


class ParityError(Exception):
    """Base of every error this library raises on purpose.

    place: what was being looked at (a file, a tensor, an argument, a stage of a layer).
    expected / found: both sides of the contradiction, in words or numbers.
    next_step: what the reader should do now.
    The message is one readable paragraph; the four parts stay available as attributes.
    """

    def __init__(self, *, place: str, expected: str, found: str, next_step: str) -> None:
        self.place = place
        self.expected = expected
        self.found = found
        self.next_step = next_step
        super().__init__(f"{place}: expected {expected}; found {found}. {next_step}")

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross process borders; the default would call the constructor with the message alone.
        return _rebuild, (type(self), self.place, self.expected, self.found, self.next_step)


def _rebuild(kind: type[ParityError], place: str, expected: str, found: str, next_step: str) -> ParityError:
    return kind(place=place, expected=expected, found=found, next_step=next_step)


class ShapeError(ParityError):
    """Shapes, strides or sizes contradict each other."""


class DtypeError(ParityError):
    """A dtype is not one that the operation is defined for."""


class ValueRangeError(ParityError):
    """A value lies outside the range the operation is defined for."""


class CheckpointError(ParityError):
    """A checkpoint on disk is incomplete, inconsistent or not consumed exactly once."""


class ConfigError(ParityError):
    """A configuration names a model or a setting that cannot be honoured."""


class TraceError(ParityError):
    """A trace on disk is damaged, incomplete or not comparable with the other one."""


class GoldenError(ParityError):
    """A stored golden is damaged, belongs to another test, or cannot be made of what it was given."""


class ProbeError(ParityError):
    """A declared probe did not fire as often as declared, or fired where none was declared."""


class RunnerError(ParityError):
    """A runner cannot do what it was asked for."""


class RunnerDiedError(RunnerError):
    """The process of an engine ended while it was asked something: a crash, or no memory."""


class UsageError(ParityError):
    """The caller's arguments contradict each other."""
