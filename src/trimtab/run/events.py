"""Events of running work: steps that begin and end, their progress, and lines they print."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from trimtab.core.errors import Conflict


class StepBegan(msgspec.Struct, frozen=True, tag="began", array_like=True):
    """A step begins: its result is computed or looked up."""

    name: str
    inputs_hash: str | None  # None: it is never cached


class StepEnded(msgspec.Struct, frozen=True, tag="ended", array_like=True):
    """A step has its result, or failed; its run may go on without it."""

    name: str
    cached: bool
    attempts: int
    failed: bool = False


class Progress(msgspec.Struct, frozen=True, tag="progress", array_like=True):
    """The share of the running step that is done."""

    done: float
    total: float


class Line(msgspec.Struct, frozen=True, tag="line", array_like=True):
    """A line that the work logged or printed."""

    text: str


Event: TypeAlias = StepBegan | StepEnded | Progress | Line


class Cancelled(Conflict):
    """The run was cancelled; nothing of the running step is kept."""
