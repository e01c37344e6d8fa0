"""The online read of one model: compiled once, one look-up in the store for all views of all rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec

from trimtab.core.columns import Dtype
from trimtab.core.errors import Misuse, Unavailable
from trimtab.core.evaluate_rows import compile_row
from trimtab.features.feature_set import FeatureSet
from trimtab.features.frames import REASONS, Reason
from trimtab.features.online import BEGIN, GOING, POSITIONS_KEY, Cursor, cursors_of
from trimtab.features.online_plan import ViewPlan, name_bytes
from trimtab.features.online_read import FOUND, NULL, read_state
from trimtab.store.ports import KeyValue

_TYPES: dict[Dtype, frozenset[type]] = {
    "float": frozenset((float, int, type(None))),
    "int": frozenset((int, type(None))),
    "bool": frozenset((bool, type(None))),
    "str": frozenset((str, type(None))),
    "time": frozenset((int, type(None))),
}


class OnlineRows(msgspec.Struct, frozen=True):
    """Features of some requests as of (t, P): one list a request, in its order."""

    names: tuple[str, ...]  # of the features
    values: list[list[Any]]  # None for null; a category is its text
    reasons: list[list[int]]  # codes: places in `REASONS`; of a transform "found" or "null"
    at_us: int  # t: the moment of asking, at least the greatest append time in P
    positions: Mapping[str, int]  # P

    def reason(self, row: int, feature: str) -> Reason:
        """Why a value is what it is."""
        return REASONS[self.reasons[row][self.names.index(feature)]]


class RequestPlan:
    """What to look up for one model, and how to put a row of features together from it.

    Safe to use from many threads, and from other processes than the one that keeps the store up to date.

    Args:
        features: The model's features.
        kv: The key-value store that an `OnlineStore` of the same views writes to.
    """

    def __init__(self, features: FeatureSet, kv: KeyValue) -> None:
        self.features = features
        self.names = features.names
        self._get_many = kv.get_many
        columns = features.request.columns
        place = {name: i for i, name in enumerate(self.names)}
        plans = [ViewPlan(view) for view in features.views]
        plans.sort(key=lambda plan: plan.view.by)  # views of one entity side by side
        self._views = [(plan, plan.view.by, place[plan.features[0].name]) for plan in plans]
        self._prefixes = [(by, [p.state_prefix for p in of]) for by, of in groupby(plans, lambda plan: plan.view.by)]
        self._transforms = [
            (place[name], compile_row(expression, columns, f"feature {name!r}"))
            for name, expression in features.transforms.items()
        ]
        needed = {plan.view.by for plan in plans}.union(*(e.columns() for e in features.transforms.values()))
        self._needed = [(name, _TYPES[dtype]) for name, dtype in columns.items() if name in needed]
        self._cursor: tuple[bytes | None, Cursor] = (None, BEGIN)

    def read(self, rows: Sequence[Mapping[str, Any]], now_us: int) -> OnlineRows:
        """The features of requests asked at `now_us`.

        Raises:
            Misuse: A request lacks a column or has another type there; or an integer sum exceeds 64 bits.
            Unavailable: The views have read the log up to different positions: one of them is being filled.
            Corrupt: A stored state is not what was written.
        """
        keys = [POSITIONS_KEY]
        for row in rows:
            for name, types in self._needed:
                if name not in row or type(row[name]) not in types:
                    raise self._wrong(row, name)
            for by, prefixes in self._prefixes:
                entity = row[by]
                if entity is not None:
                    suffix = name_bytes(entity)
                    keys += [prefix + suffix for prefix in prefixes]
        found = self._get_many(keys)
        cursor = self._cursor_of(found[0])
        t_us = max(now_us, cursor.s_us)
        width = len(self.names)
        values, reasons = [], []
        at = 1
        for row in rows:
            answer: list[Any] = [None] * width
            why = [FOUND] * width
            for plan, by, offset in self._views:
                packed = None
                if row[by] is not None:
                    packed = found[at]
                    at += 1
                read_state(plan, packed, t_us, answer, why, offset)
            for place, transform in self._transforms:
                value = answer[place] = transform(row)
                if value is None:
                    why[place] = NULL
            values.append(answer)
            reasons.append(why)
        return OnlineRows(self.names, values, reasons, t_us, cursor.positions)

    def _cursor_of(self, packed: bytes | None) -> Cursor:
        seen, cursor = self._cursor
        if packed == seen:
            return cursor
        cursors = cursors_of(packed)
        going = [plan.name for plan, _, _ in self._views if GOING + plan.id.hex() in cursors]
        if going:
            raise Unavailable(f"views {', '.join(going)} are being reset. Apply the log, then ask again.")
        found = {plan.name: cursors.get(plan.id.hex(), BEGIN) for plan, _, _ in self._views}
        if len({(c.s_us, *sorted(c.positions.items())) for c in found.values()}) > 1:
            where = "; ".join(f"{name} at {c.positions}" for name, c in found.items())
            raise Unavailable(
                f"views are being filled, and stand at different positions: {where}. Apply the log first."
            )
        cursor = next(iter(found.values()), BEGIN)
        self._cursor = (packed, cursor)
        return cursor

    def _wrong(self, row: Mapping[str, Any], name: str) -> Misuse:
        request = self.features.request
        needed = request.columns[name]
        if name not in row:
            return Misuse(f"request {request.name!r}: no {name!r} ({needed}) among {', '.join(row)}. Send it, or null.")
        value = row[name]
        return Misuse(
            f"request {request.name!r}: {name!r} must be {needed}; found {value!r}, a {type(value).__name__}."
        )
