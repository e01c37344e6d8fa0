"""Features that decide who takes part in an experiment, read as of the assignment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse, Unavailable
from trimtab.core.shown import shown
from trimtab.events.definitions import Time
from trimtab.experiments.assignment import whole
from trimtab.experiments.definitions import Experiment
from trimtab.features.definitions import Join, View, request
from trimtab.features.feature_set import FeatureSet, feature_set
from trimtab.features.frames import REASONS
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.store.ports import KeyValue

UNAVAILABLE = "unavailable"  # the reason of features that cannot be read now, such as those that are being filled
_KEY, _TIME = "experiment_unit", "experiment_time"  # columns that a request must have; no feature reads them


def eligibility_joins(
    what: str, given: Sequence[View | Join], of_model: FeatureSet | None, read: set[str], columns: Mapping[str, Dtype]
) -> tuple[Join, ...]:
    """Return the views that an experiment reads when it assigns a unit.

    These are the given views, the views of its model that have a feature in `read`, and those that give their keys.

    Args:
        what: The experiment, for errors.
        given: Views, or views that are joined under another name or by other columns.
        of_model: The features of the model whose versions are compared.
        read: The names that `where` and `slices` read, such as "customer.orders_7d".
        columns: The columns by which views can be looked up, with their types; "" if the type is not known.

    Raises:
        Misuse: An item is no view, or a view cannot be looked up by the given columns.
    """
    if isinstance(given, View | Join | str | Mapping) or not isinstance(given, Sequence):
        raise Misuse(f"{what}: features={shown(given)[:100]} is not a list. Write features=[...] with views.")
    joins: list[Join] = []
    for item in given:
        if not isinstance(item, View | Join):
            raise Misuse(
                f"{what}: features= has {shown(item)[:100]}. Give views; where= can compute with their features."
            )
        join = item.join() if isinstance(item, View) else item
        joins += [] if join in joins else [join]
    named, wanted = {join.name for join in joins}, set(read)
    for join in reversed(of_model.joins if of_model is not None else ()):
        if join.name not in named and any(name.startswith(f"{join.name}.") for name in wanted):
            joins.insert(0, join)
            wanted |= {*join.by}  # a view may be looked up by a feature of another one
    types: dict[str, Dtype] = {}
    known = {f"{join.name}.{name}" for join in joins for name in join.view.features}
    for name in sorted(read - columns.keys() - known):
        if "." in name:
            raise Misuse(f"{what}: {name!r} is no feature of the given views. Give its view: features=[...].")
    if twice := sorted(known & columns.keys()):
        raise Misuse(f"{what}: {twice[0]!r} is an attribute and a feature. Rename the attribute.")
    for join in joins:
        for column, name in zip(join.view.by, join.by, strict=True):
            needed, found = join.view.source.columns[column], columns.get(name)
            if found is None and "." not in name:
                given_columns = ", ".join(columns)
                raise Misuse(
                    f"{what}: view {join.view.name!r} is looked up by {name!r}, which is no column of the unit and no "
                    f'attribute. Known: {given_columns}. Declare it, or use {join.view.name}.join(by="...").'
                )
            if found not in (None, "", needed) or types.setdefault(name, needed) != needed:
                other = found or types[name]
                raise Misuse(f"{what}: {name!r} is {other}, but view {join.view.name!r} is looked up by {needed}.")
    return tuple(joins)


def eligibility_features(definition: Experiment) -> FeatureSet | None:
    """Return the features that an experiment reads as of the assignment; None if it reads none.

    Raises:
        Misuse: Two views have the same name, or one is looked up by a feature that does not exist.
    """
    if not definition.features:
        return None
    columns: dict[str, type] = {_KEY: str, _TIME: Time}
    for join in definition.features:
        for column, name in zip(join.view.by, join.by, strict=True):
            if "." not in name:
                columns[name] = int if join.view.source.columns[column] == "int" else str
    try:
        return feature_set(request("unit", key=_KEY, time=_TIME, columns=columns), definition.features, texts=True)
    except Misuse as error:
        raise Misuse(f"experiment {definition.name!r}: {error}") from error


def entity_values(features: FeatureSet, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a unit by which its features are looked up. "7" and 7 are the same entity."""
    columns = features.request.columns
    return {name: _typed(row[name], columns[name]) for name in features.request_columns}


class EligibilityReader:
    """Reads the current values of the features that an experiment needs. Several threads may use it.

    Args:
        features: Its features. The columns of their sources are laid out as in stored events (see `Layouts`).
        kv: The store of online features.
        ready: Returns whether the store holds these features.
    """

    def __init__(self, definition: Experiment, features: FeatureSet, kv: KeyValue, ready: Callable[[], bool]) -> None:
        self._plan = RequestPlan(features, kv)
        self._features = features
        self._ready = ready
        self._is_ready = False
        read = set() if definition.where is None else definition.where.columns()
        self._needed = [name for name in features.names if name in read]

    def with_features(self, rows: Sequence[Mapping[str, Any]], now_us: int) -> list[tuple[dict[str, Any], str]]:
        """Return each row with its features, and a text that says which features of `where` are null, and why.

        If the features cannot be read now, they are null.
        """
        names = self._features.names
        try:
            self._is_ready = self._is_ready or self._ready()
            if not self._is_ready:
                raise Unavailable("the features of an experiment are not filled yet.")
            found = self._plan.read_checked([entity_values(self._features, row) for row in rows], now_us)
        except Unavailable:
            return [({**row, **dict.fromkeys(names)}, self._missing([UNAVAILABLE] * len(names))) for row in rows]
        return [
            (
                {**row, **dict(zip(names, values, strict=True))},
                self._missing(
                    ["" if value is not None else REASONS[why] for value, why in zip(values, of, strict=True)]
                ),
            )
            for row, values, of in zip(rows, found.values, found.reasons, strict=True)
        ]

    def _missing(self, reasons: Sequence[str]) -> str:
        of = dict(zip(self._features.names, reasons, strict=True))
        return ", ".join(f"{name} ({of[name]})" for name in self._needed if of[name])


def _typed(value: Any, kind: Dtype) -> str | int | None:
    if value is None:
        return None
    return str(value) if kind == "str" else whole(str(value))
