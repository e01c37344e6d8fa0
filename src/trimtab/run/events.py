"""What is heard of work under way: steps that begin and end, how far they are, and lines they print."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from trimtab.core.errors import Conflict


class StepBegan(msgspec.Struct, frozen=True, tag="began", array_like=True):
    """A step is about to be done or looked up."""

    name: str
    inputs_hash: str | None  # None: it is always done


class StepEnded(msgspec.Struct, frozen=True, tag="ended", array_like=True):
    """A step has its result, or failed: what it is part of may go on without."""

    name: str
    cached: bool
    attempts: int
    failed: bool = False


class Progress(msgspec.Struct, frozen=True, tag="progress", array_like=True):
    """How much of the step under way is done."""

    done: float
    total: float


class Line(msgspec.Struct, frozen=True, tag="line", array_like=True):
    """A line that the work logged or printed."""

    text: str


Event: TypeAlias = StepBegan | StepEnded | Progress | Line


class Cancelled(Conflict):
    """Somebody asked for the run to end; nothing of the step under way is kept."""
