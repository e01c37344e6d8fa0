"""Read the current online features of one entity, without a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from trimtab.core.errors import Unavailable
from trimtab.features.definitions import View
from trimtab.features.frames import REASONS
from trimtab.features.online.generations import GOING, place
from trimtab.features.online.packed.keys import EVENT_AT, KNOWN_AT, UNTIL, name_bytes
from trimtab.features.online.packed.plan import ViewPlan
from trimtab.features.online.packed.state import EntityState
from trimtab.features.online.packed.tiles import TILE
from trimtab.features.online.read.reader import FOUND, reader
from trimtab.features.online.store import BEGIN, POSITIONS_KEY, Cursor, cursors_of
from trimtab.store.ports import KeyValue

_TRIES = 20


class FeatureNow(msgspec.Struct, frozen=True):
    """A feature's value, and the reason why it is null or not."""

    value: float | int | bool | str | None
    reason: str  # "found", "no_entity", "not_yet", "outside_window", "expired", "null" or "failed"


class ViewNow(msgspec.Struct, frozen=True, kw_only=True):
    """One view's features of an entity."""

    view: str
    # the time of the newest event that counts; without latest values, it may be rounded down to the hop (the step of
    # windows); None: no event counts, or all windows are unlimited
    newest_at_us: int | None
    age_us: int | None  # the time since `newest_at_us`
    features: dict[str, FeatureNow]


class EntityNow(msgspec.Struct, frozen=True, kw_only=True):
    """The features of an entity at the time `at_us`, computed from the log up to `positions`."""

    at_us: int
    positions: dict[str, int]
    views: list[ViewNow]


def read_entity(kv: KeyValue, views: Sequence[View], entity: Sequence[str | int], now_us: int) -> EntityNow:
    """Read the features of one entity in some views, all as of the same time.

    Args:
        kv: The key-value store of an `OnlineStore`.
        views: The views. Each must have as many columns in its `by` as `entity` has values.
        entity: The values that identify the entity, with the types of the views' columns.

    Raises:
        Unavailable: A view is being filled, or the views were updated during every look-up. Try again later.
        Corrupt: A stored state is damaged.
    """
    name = entity[0] if len(entity) == 1 else tuple(entity)
    suffix = name_bytes(name)
    packed = kv.get(POSITIONS_KEY)
    for _ in range(_TRIES):
        plans = [place(plan, cursor.generation) for plan, cursor in _placed(views, packed)]
        found = kv.get_many([POSITIONS_KEY, *(plan.keys.states + suffix for plan in plans)])
        if found[0] == packed:
            cursors = [cursor for _, cursor in _placed(views, packed)]
            front = max(cursors, key=lambda cursor: cursor.s_us, default=BEGIN)
            t_us = max(now_us, front.s_us)
            read = [_read(plan, state, t_us) for plan, state in zip(plans, found[1:], strict=True)]
            return EntityNow(at_us=t_us, positions=dict(front.positions), views=read)
        packed = found[0]
    raise Unavailable(f"the views were updated {_TRIES} times during the look-up. Try again.")


def _placed(views: Sequence[View], packed: bytes | None) -> list[tuple[ViewPlan, Cursor]]:
    cursors = cursors_of(packed)
    plans = [ViewPlan(view) for view in views]
    unfilled = [
        plan.name
        for plan in plans
        if GOING + plan.cursor_name in cursors or (cursors and plan.cursor_name not in cursors)
    ]
    if unfilled:
        raise Unavailable(f"views {', '.join(unfilled)} are not filled yet. Try again shortly.")
    return [(plan, cursors.get(plan.cursor_name, BEGIN)) for plan in plans]


def _read(plan: ViewPlan, packed: bytes | None, t_us: int) -> ViewNow:
    values: list[Any] = [None] * len(plan.features)
    reasons = [FOUND] * len(plan.features)
    reader(plan, 0)(packed, t_us, values, reasons)
    newest_us = None if packed is None else _newest_us(EntityState(plan, packed), t_us)
    names = [feature.name for feature in plan.features]
    return ViewNow(
        view=plan.name,
        newest_at_us=newest_us,
        age_us=None if newest_us is None else t_us - newest_us,
        features={
            name: FeatureNow(value, REASONS[code]) for name, value, code in zip(names, values, reasons, strict=True)
        },
    )


def _newest_us(state: EntityState, t_us: int) -> int | None:
    last = t_us if state.plan.inclusive else t_us - 1
    found = [row[EVENT_AT] for row in state.unsealed if row[EVENT_AT] <= last and row[KNOWN_AT] <= t_us < row[UNTIL]]
    found += [row[EVENT_AT] for row in state.latest_rows]
    return max([*found, *(tiles[TILE] for tiles in state.tiles if tiles[TILE] is not None)], default=None)
