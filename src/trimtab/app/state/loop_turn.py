"""Store what each deployment's training loop did last: a tick (a regular pass), a training or a decision."""

from __future__ import annotations

from typing import Literal

import msgspec

from trimtab.store.ports import Catalog, read_record

KIND = "loop_turn"

Doing = Literal["tick", "train", "promote", "approve", "reject"]


class LoopActivity(msgspec.Struct, frozen=True, kw_only=True):
    """The last activity of a training loop, and the result of its last tick."""

    doing: Doing
    holder: str  # "process 412 on wheelhouse"
    began_us: int
    ended_us: int | None  # None: the activity goes on, or its process died
    last_tick_us: int | None  # the time at which the last successful tick ended
    last_error: str | None  # the error of the last tick; None: it succeeded


def last_activity(catalog: Catalog, model: str) -> LoopActivity | None:
    """Return the last activity of a deployment's training loop; None if there was none.

    The loop is failing if `last_error` is not None, or if `last_tick_us` is long ago.
    """
    return read_record(catalog, KIND, model, LoopActivity)
