"""Events of running work: steps that begin and end, progress, and printed lines."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from trimtab.core.errors import Conflict


class StepBegan(msgspec.Struct, frozen=True, tag="began", array_like=True):
    """A step has begun. Its result will be computed or read from the cache."""

    name: str
    inputs_hash: str | None  # a hash of the inputs; None if the step is never cached


class StepEnded(msgspec.Struct, frozen=True, tag="ended", array_like=True):
    """A step has ended with a result or an error. Even after an error, the run of the step may continue."""

    name: str
    cached: bool
    attempts: int
    failed: bool = False


class Progress(msgspec.Struct, frozen=True, tag="progress", array_like=True):
    """How much of the running step is done."""

    done: float
    total: float


class Line(msgspec.Struct, frozen=True, tag="line", array_like=True):
    """A line of text that the work has logged or printed."""

    text: str


Event: TypeAlias = StepBegan | StepEnded | Progress | Line


class Cancelled(Conflict):
    """The run was cancelled. The result of the running step is not stored."""
