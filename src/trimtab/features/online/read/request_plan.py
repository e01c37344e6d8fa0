"""Online reads for one model, compiled again when the keys of a view's states change.

A read needs one look-up, for all views and rows together. Only if the entity of a view is itself a feature, a further
stage with another look-up follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from itertools import groupby
from typing import Any

import msgspec

from trimtab.core.codegen import define
from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse, Unavailable
from trimtab.core.expressions.by_rows import BOUNDS, FLOAT_COLUMN, compile_row
from trimtab.core.expressions.failed import failures
from trimtab.features.feature_set import FeatureSet, Stage
from trimtab.features.frames import REASONS, Reason
from trimtab.features.online.generations import GOING, place
from trimtab.features.online.packed.keys import entity_of, name_bytes
from trimtab.features.online.packed.plan import ViewPlan
from trimtab.features.online.read.reader import FAILED, FOUND, NULL, reader
from trimtab.features.online.store import BEGIN, POSITIONS_KEY, Cursor, cursors_of
from trimtab.store.ports import KeyValue

NOWHERE = b"-"  # a key that is never written
_TRIES = 20

_TYPES: dict[Dtype, frozenset[type]] = {
    "float": frozenset((float, int, type(None))),
    "int": frozenset((int, type(None))),
    "bool": frozenset((bool, type(None))),
    "str": frozenset((str, type(None))),
    "time": frozenset((int, type(None))),
}


# gc=False is safe, because the object cannot be part of a cycle
class OnlineRows(msgspec.Struct, frozen=True, gc=False):
    """The features of some requests: a list for each request, in order."""

    names: tuple[str, ...]  # the names of the features
    values: list[list[Any]]  # None: null; a category is a text
    reasons: list[list[int]]  # indexes into `REASONS`; for a transform "found", "null" or "failed"
    # t: the time as of which features were read, not before the append time of any record that was used
    at_us: int
    # P: how far the log was used: the last position in each partition; do not change this dict
    positions: dict[str, int]

    def reason(self, row: int, feature: str) -> Reason:
        """Return the reason why a value is null or not."""
        return REASONS[self.reasons[row][self.names.index(feature)]]


class RequestPlan:
    """The compiled look-ups for one model, and how they become feature values.

    Several threads may use it, also in processes other than the one that keeps the store up to date.

    Args:
        kv: The key-value store that an `OnlineStore` with the same views writes to.
    """

    def __init__(self, features: FeatureSet, kv: KeyValue) -> None:
        self.features = features
        self.names = features.names
        self._plans = [ViewPlan(view) for view in {view.hash: view for view in features.views}.values()]
        self._get_many = kv.get_many
        self._layout = _Layout(features)
        self._width = self._layout.width
        generations = (0,) * len(self._plans)
        self._placed = generations, self._stages_of(generations)
        read = features.request_columns
        self._needed = [(n, _TYPES[dtype]) for n, dtype in features.request.columns.items() if n in read]
        self._cursor: tuple[bytes | None, Cursor, tuple[int, ...]] = (None, BEGIN, generations)

    def read(self, rows: Sequence[Mapping[str, Any]], now_us: int) -> OnlineRows:
        """Read the features of requests that are made at `now_us`.

        Raises:
            Misuse: A request lacks a column, or a value has another type than its column.
            Unavailable: Views have read the log up to different positions, because one is being filled; or views kept
                changing between look-ups that depend on each other.
            Corrupt: A stored state is damaged.
        """
        for row in rows:
            for name, types in self._needed:
                if type(row.get(name, NOWHERE)) not in types:
                    raise self._wrong(row, name)
        return self.read_checked(rows, now_us)

    def read_checked(self, rows: Sequence[Mapping[str, Any]], now_us: int) -> OnlineRows:
        """Read the features of requests whose columns have been checked before."""
        for _ in range(_TRIES):
            answer = self._read(rows, now_us)
            if answer is not None:
                return answer
        raise Unavailable(
            f"request {self.features.request.name!r}: the views were updated {_TRIES} times during the look-up. Try "
            "again."
        )

    def _read(self, rows: Sequence[Mapping[str, Any]], now_us: int) -> OnlineRows | None:
        """Read the features, with all look-ups from the same positions of the log.

        Return None if the caller has to try again, because a view was filled again after the look-ups were compiled, or
        the positions changed between two look-ups.
        """
        nulls: list[Any] = [None] * self._width
        found_all = [FOUND] * self._width
        values, reasons = [nulls], [found_all]
        if len(rows) != 1:
            values, reasons = [nulls[:] for _ in rows], [found_all[:] for _ in rows]
        placed, stages = self._placed
        if not self._plans:  # a model without views has one stage, and does not depend on the store
            stages[0].fill(rows, (), now_us, values, reasons)
            return OnlineRows(self.names, values, reasons, now_us, BEGIN.positions)
        packed: bytes | None = None
        cursor, t_us = BEGIN, now_us
        for n, stage in enumerate(stages):
            found = self._get_many(stage.keys(rows, values))
            if n == 0:
                packed = found[0]
                cursor, generations = self._cursor_of(packed)
                if generations != placed:  # a view was filled again, so its states have other keys now
                    self._placed = generations, self._stages_of(generations)
                    return None
                if cursor.s_us > now_us:
                    t_us = cursor.s_us
            elif found[0] != packed:
                return None
            stage.fill(rows, found, t_us, values, reasons)
        if self._width > len(self.names):  # leave out features that were only needed to compute others
            read = len(self.names)
            values, reasons = [row[:read] for row in values], [row[:read] for row in reasons]
        return OnlineRows(self.names, values, reasons, t_us, cursor.positions)

    def _stages_of(self, generations: tuple[int, ...]) -> list[_StagePlan]:
        """Compile the look-ups for the given generation (set of states) of each view."""
        pairs = zip(self._plans, generations, strict=True)
        plans = {plan.view.hash: place(ViewPlan(plan.view), generation) for plan, generation in pairs}
        return [_StagePlan(stage, self.features, plans, self._layout) for stage in self.features.stages]

    def _cursor_of(self, packed: bytes | None) -> tuple[Cursor, tuple[int, ...]]:
        """Decode the stored cursors. Return the position that all views have reached, and the generation of each."""
        seen, cursor, generations = self._cursor
        if packed == seen:
            return cursor, generations
        cursors = cursors_of(packed)
        going = [plan.name for plan in self._plans if GOING + plan.cursor_name in cursors]
        if going:
            raise Unavailable(f"views {', '.join(going)} are being filled again from the log. Try again shortly.")
        unfilled = [plan.name for plan in self._plans if cursors and plan.cursor_name not in cursors]
        if unfilled:
            raise Unavailable(f"views {', '.join(unfilled)} are not filled yet. Try again shortly.")
        found = {plan.name: cursors.get(plan.cursor_name, BEGIN) for plan in self._plans}
        if len({(c.s_us, *sorted(c.positions.items())) for c in found.values()}) > 1:
            where = "; ".join(f"{name} at {c.positions}" for name, c in found.items())
            raise Unavailable(
                f"views are still being filled, and have reached different positions of the log: {where}. Try again "
                "shortly."
            )
        cursor = next(iter(found.values()), BEGIN)
        generations = tuple(cursors.get(plan.cursor_name, BEGIN).generation for plan in self._plans)
        self._cursor = (packed, cursor, generations)
        return cursor, generations

    def _wrong(self, row: Mapping[str, Any], name: str) -> Misuse:
        request = self.features.request
        needed = request.columns[name]
        if name not in row:
            return Misuse(
                f"request {request.name!r}: {name!r} ({needed}) is missing; found {', '.join(row) or 'nothing'}. "
                "Send it, or null."
            )
        value = row[name]
        return Misuse(
            f"request {request.name!r}: {name!r} must be {needed}; found {value!r}, a {type(value).__name__}."
        )


class _Layout:
    """The place of each feature in a row.

    First come the features that the model gets, in order. Then, for each view of which the model gets only some
    features, all of the view's features follow, from which these are copied.
    """

    def __init__(self, features: FeatureSet) -> None:
        self.places = {name: i for i, name in enumerate(features.names)}
        self.width = len(features.names)
        self.starts: dict[str, int] = {}  # for each join (a look-up of one view), the place of its first feature
        # for each join: pairs of places in the row: where the join writes a feature, and where the model expects it
        self.copies: dict[str, list[tuple[int, int]]] = {}
        for join in features.joins:
            names = [f"{join.name}.{feature}" for feature in join.view.features]
            if join.select is None:
                self.starts[join.name] = self.places[names[0]]
                continue
            self.starts[join.name] = self.width
            block = dict(zip(names, range(self.width, self.width + len(names)), strict=True))
            self.copies[join.name] = [(at, self.places[n]) for n, at in block.items() if n in self.places]
            self.places |= block
            self.width += len(names)


class _StagePlan:
    """One look-up, and the features that can be computed after it."""

    def __init__(self, stage: Stage, features: FeatureSet, plans: Mapping[str, ViewPlan], layout: _Layout) -> None:
        columns = features.request.columns
        # sorted so that the keys of one entity are next to each other
        joins = sorted(stage.joins, key=lambda join: join.by)
        self._prefixes = [
            (entity_of(by), [plans[join.view.hash].keys.states for join in of])
            for by, of in groupby(joins, lambda join: join.by)
        ]
        self._views = [reader(plans[join.view.hash], layout.starts[join.name]) for join in joins]
        self._copies = [copy for join in joins for copy in layout.copies.get(join.name, ())]
        self._keyed_by = _others({name for join in joins for name in join.by}, columns, layout)
        read = set().union(*(expression.columns() for expression in stage.transforms.values()))
        self._reads = _others(read - stage.transforms.keys(), columns, layout)
        self._chained = bool(read & (stage.transforms.keys() - columns.keys()))
        self._write = _writer(stage, features, layout, chained=self._chained) if stage.transforms else None

    def keys(self, rows: Sequence[Mapping[str, Any]], values: Sequence[list[Any]]) -> list[bytes]:
        """Return the keys to look up: first that of the positions, then those of each row's states."""
        keys = [POSITIONS_KEY]
        for row in self._with(self._keyed_by, rows, values) if self._keyed_by else rows:
            for key_of, prefixes in self._prefixes:
                entity = key_of(row)
                if entity is None:
                    keys += [NOWHERE] * len(prefixes)
                else:
                    suffix = name_bytes(entity)
                    for prefix in prefixes:
                        keys.append(prefix + suffix)  # faster than a list comprehension for so few keys
        return keys

    def fill(
        self,
        rows: Sequence[Mapping[str, Any]],
        found: Sequence[bytes | None],
        t_us: int,
        values: Sequence[list[Any]],
        reasons: Sequence[list[int]],
    ) -> None:
        """Write the features of this stage into the rows."""
        at = 1
        for answer, why in zip(values, reasons) if self._views else ():  # noqa: B905  # faster without `strict`
            for read in self._views:
                read(found[at], t_us, answer, why)
                at += 1
            for source, target in self._copies:
                answer[target], why[target] = answer[source], why[source]
        if self._write is not None:
            given = self._with(self._reads, rows, values) if self._reads else rows
            for row, answer, why in zip(given, values, reasons):  # noqa: B905  # as above
                self._write({**row} if self._chained else row, answer, why)

    @staticmethod
    def _with(
        others: Sequence[tuple[str, int]], rows: Sequence[Mapping[str, Any]], values: Sequence[list[Any]]
    ) -> Sequence[Mapping[str, Any]]:
        """Return the requests with features added as columns."""
        return [
            {**row, **{name: answer[place] for name, place in others}} for row, answer in zip(rows, values, strict=True)
        ]


def _writer(stage: Stage, features: FeatureSet, layout: _Layout, *, chained: bool) -> Callable[..., None]:
    """Generate the function that writes a stage's transforms for one row, because a loop takes three times as long.

    Its arguments are the row, to which it adds the transforms if they are `chained`, the row's values and its reasons.
    """
    names: dict[str, Any] = {"failures": failures, **BOUNDS}
    lines = ["def write(row, values, reasons):"]
    for n, (name, expression) in enumerate(stage.transforms.items()):
        place, compute = layout.places[name], compile_row(expression, features.known, f"feature {name!r}")
        if expression.op == "col" and expression.dtype(features.known, name) == "float":
            names[f"x{n}"] = expression.params[0]
            lines += [f"  v = row[x{n}]", f"  values[{place}] = v = {FLOAT_COLUMN}"]
            lines.append(f"  if v is None: reasons[{place}] = {NULL}")
        else:
            names[f"x{n}"] = compute
            lines += ["  before = failures.count", f"  values[{place}] = v = x{n}(row)"]
            lines.append(f"  if v is None: reasons[{place}] = {NULL} if failures.count == before else {FAILED}")
        if chained and name not in features.request.columns:
            names[f"name{n}"] = name
            lines.append(f"  row[name{n}] = v")
    write: Callable[..., None] = define("write", lines, names, about="transforms of a request")
    return write


def _others(names: Set[str], columns: Mapping[str, Dtype], layout: _Layout) -> list[tuple[str, int]]:
    """Return which of the names are features, with their places."""
    return [(name, layout.places[name]) for name in sorted(names - columns.keys())]
