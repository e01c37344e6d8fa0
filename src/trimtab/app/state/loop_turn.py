"""The newest tick, training or decision of each deployment's loop, as stored in the catalogue."""

from __future__ import annotations

from typing import Literal

import msgspec

from trimtab.store.ports import Catalog

KIND = "loop_turn"

Doing = Literal["tick", "train", "promote", "approve", "reject"]


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """The newest activity of a loop, and the result of its last tick."""

    doing: Doing
    holder: str  # "process 412 on wheelhouse"
    began_us: int
    ended_us: int | None  # None if the turn is running or its process died
    last_tick_us: int | None  # the end of the last successful tick
    last_error: str | None  # the error of the last tick; None if it succeeded


def last_turn(catalog: Catalog, model: str) -> Turn | None:
    """Return the newest turn of a deployment's loop, or None if it never had a turn.

    A loop is failing if `last_error` is not None, or if `last_tick_us` is long ago.
    """
    record = catalog.get(KIND, model)
    return None if record is None else msgspec.json.decode(record.body, type=Turn)
