"""Events of running work: beginnings and ends of steps, progress, and printed lines."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from trimtab.core.errors import Conflict


class StepBegan(msgspec.Struct, frozen=True, tag="began", array_like=True):
    """A step begins. Its result is computed or looked up."""

    name: str
    inputs_hash: str | None  # None: the step is never cached


class StepEnded(msgspec.Struct, frozen=True, tag="ended", array_like=True):
    """A step has its result, or has failed. Its run may go on even without the result."""

    name: str
    cached: bool
    attempts: int
    failed: bool = False


class Progress(msgspec.Struct, frozen=True, tag="progress", array_like=True):
    """The finished share of the running step."""

    done: float
    total: float


class Line(msgspec.Struct, frozen=True, tag="line", array_like=True):
    """A line that the work logged or printed."""

    text: str


Event: TypeAlias = StepBegan | StepEnded | Progress | Line


class Cancelled(Conflict):
    """The run was cancelled. No result of the running step is kept."""
