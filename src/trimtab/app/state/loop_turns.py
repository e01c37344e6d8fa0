"""The newest turn of each deployment's loop, as the catalogue keeps it."""

from __future__ import annotations

from typing import Literal

import msgspec

from trimtab.store.ports import Catalog

KIND = "loop_turn"

Doing = Literal["tick", "train", "promote", "approve", "reject"]


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """The newest turn of a loop, and how its ticks fare."""

    doing: Doing
    holder: str  # "process 412 on wheelhouse"
    began_us: int
    ended_us: int | None  # None: under way, or its process died
    last_tick_us: int | None  # the end of the newest tick that went well
    last_error: str | None  # of the newest tick; None: it went well


def last_turn(catalog: Catalog, model: str) -> Turn | None:
    """The newest turn of a deployment's loop; None: it never had one.

    A loop is ill when `last_error` is not None, or when `last_tick_us` lies far back.
    """
    record = catalog.get(KIND, model)
    return None if record is None else msgspec.json.decode(record.body, type=Turn)
