"""The features of a model in order: those of views, and those computed from the request and from other features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import groupby
from typing import TypeAlias

import msgspec

from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse
from trimtab.core.expressions.nodes import Expression
from trimtab.core.hashing import content_hash
from trimtab.core.shown import shown
from trimtab.events.definitions import check_name
from trimtab.features.definitions import Join, Request, View

Item: TypeAlias = View | Join | Mapping[str, Expression]


class Stage(msgspec.Struct, frozen=True):
    """Joins and transforms that can be computed at the same time, from the request and from earlier stages."""

    joins: tuple[Join, ...]
    transforms: dict[str, Expression]


class FeatureSet(msgspec.Struct, frozen=True, kw_only=True):
    """The features of a model, in the order in which they are declared. `feature_set()` makes and checks one.

    A name stands for a column of the request, a feature of a view (`view.feature`), or a transform (a named
    expression).
    """

    request: Request
    joins: tuple[Join, ...]
    transforms: dict[str, Expression]  # transforms by name: expressions over the request's columns and other features
    known: dict[str, Dtype]  # all columns and features that expressions can read, with their types
    dtypes: dict[str, Dtype]  # all features that the model gets, with their types, in order
    categories: tuple[str, ...]  # features that are encoded with a vocabulary
    stages: tuple[Stage, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features that the model gets, in order."""
        return tuple(self.dtypes)

    @property
    def views(self) -> tuple[View, ...]:
        """The views that are used, in the order in which they first appear."""
        return tuple({join.view.hash: join.view for join in self.joins}.values())

    @property
    def request_columns(self) -> frozenset[str]:
        """The columns of the request that features are computed from."""
        read = {name for join in self.joins for name in join.by}.union(*(e.columns() for e in self.transforms.values()))
        return frozenset(read & self.request.columns.keys())

    @property
    def hash(self) -> str:
        """The hash that identifies this definition, including the order of the features."""
        return content_hash([self.request.hash, [join.hash for join in self.joins], self.transforms, self.names])


def feature_set(request: Request, features: Sequence[Item], *, texts: bool = False) -> FeatureSet:
    """Declare the features of a model.

    Args:
        request: The request. Its columns can be used in expressions, and to look up views.
        features: Views, views that are joined under another name, and dicts of named expressions. Expressions can use
            columns of the request and other features.
        texts: Whether features may be texts, for tables that people read and not for estimators. Then a column of the
            request may have the same name as a feature; expressions with this name read the column.

    Raises:
        Misuse: Two features have the same name, the key of a view is neither a column nor a feature, features need each
            other in a circle, or a text has no `.category()`.
    """
    if isinstance(features, View | Join | Mapping | str) or not isinstance(features, Iterable):
        raise Misuse(
            f"features of request {request.name!r}: {shown(features)[:100]} is not a list. Write features=[...]."
        )
    joins: dict[str, Join] = {}
    transforms: dict[str, Expression] = {}
    names: list[str] = []  # the features that the model gets
    for item in features:
        if isinstance(item, View | Join):
            join = item.join() if isinstance(item, View) else item
            if _is_new(join, joins):
                joins[join.name] = join
                names += [f"{join.name}.{feature}" for feature in join.view.features if _is_read(join, feature)]
        elif isinstance(item, Mapping):
            for name, expression in item.items():
                _check_transform(name, expression, transforms)
                transforms[name] = expression
                names.append(name)
        else:
            raise Misuse(f'features: {item!r} is neither a view nor a dict {{"name": expression}}.')
    if not names:
        raise Misuse(f"features of request {request.name!r}: found none. Give at least one view or expression.")
    known = dict(request.columns)
    for join in joins.values():
        for feature, aggregate in join.view.features.items():
            if f"{join.name}.{feature}" in request.columns and not texts:
                raise Misuse(
                    f"features: {join.name + '.' + feature!r} is a column of request {request.name!r} and a feature of "
                    f'view {join.view.name!r}. Rename one: {join.view.name}.join("another_name").'
                )
            known[f"{join.name}.{feature}"] = aggregate.dtype(join.view.source.columns)
    stages = _stages(request, joins, transforms)
    dtypes: dict[str, Dtype] = {}
    for stage in stages:
        for name, expression in stage.transforms.items():
            dtypes[name] = expression.dtype(known, f"feature {name!r}")
            known.setdefault(name, dtypes[name])
    for join in joins.values():
        _check_entity(request, join, known)
    found = FeatureSet(
        request=request,
        joins=tuple(joins.values()),
        transforms=transforms,
        known=known,
        dtypes={name: dtypes.get(name) or known[name] for name in names},
        categories=tuple(name for name in names if _is_category(name, joins, transforms)),
        stages=stages,
    )
    for name, dtype in found.dtypes.items():
        if dtype == "str" and name not in found.categories and not texts:
            raise Misuse(
                f"feature {name!r} is a string. Mark it with .category(), compare it with something, or leave it out "
                "with view.join(select=[...])."
            )
    return found


def _is_new(join: Join, joins: Mapping[str, Join]) -> bool:
    other = joins.get(join.name)
    if other is not None and other.hash != join.hash:
        if other.view.hash != join.view.hash:
            raise Misuse(f"features: two different views are called {join.name!r}. Rename one.")
        raise Misuse(
            f"features: view {join.view.name!r} is joined twice as {join.name!r}, by {', '.join(other.by)} and by "
            f'{", ".join(join.by)}. Name one: {join.view.name}.join("another_name", ...).'
        )
    return other is None


def _is_read(join: Join, feature: str) -> bool:
    return join.select is None or feature in join.select


def _is_category(name: str, joins: Mapping[str, Join], transforms: Mapping[str, Expression]) -> bool:
    if name in transforms:
        return transforms[name].is_category
    join, _, feature = name.partition(".")
    of = joins[join].view.features[feature].of
    return of is not None and of.is_category


def _check_transform(name: str, expression: Expression, transforms: Mapping[str, Expression]) -> None:
    check_name(name, "feature")
    if name in transforms:
        raise Misuse(f"features: {name!r} is defined twice. Rename one.")
    if not isinstance(expression, Expression):
        raise Misuse(f"feature {name!r}: {expression!r} is not an expression. Start from tt.col(...).")


def _check_entity(request: Request, join: Join, known: Mapping[str, Dtype]) -> None:
    for column, name in zip(join.view.by, join.by, strict=True):
        found, needed = known.get(name), join.view.source.columns[column]
        if found != needed:
            there = f"it is {found}" if found else f"it has {', '.join(known)}"
            raise Misuse(
                f"view {join.view.name!r}: request {request.name!r} needs a column or feature {name!r} of {needed}; "
                f'{there}. Look the view up by another column with {join.view.name}.join(by="...").'
            )


def _stages(request: Request, joins: Mapping[str, Join], transforms: Mapping[str, Expression]) -> tuple[Stage, ...]:
    """Return joins and transforms in an order in which they can be computed.

    Raises:
        Misuse: Some need each other in a circle, or need a name that does not exist.
    """
    homes = {**{f"{j.name}.{f}": f"view {j.name}" for j in joins.values() for f in j.view.features}}
    homes |= {name: f"feature {name}" for name in transforms if name not in request.columns}

    def needs(names: Iterable[str]) -> set[str]:
        return {homes[name] for name in names if name in homes}

    graph = {f"view {join.name}": needs(join.by) for join in joins.values()}
    graph |= {f"feature {name}": needs(e.columns()) for name, e in transforms.items()}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        circle = error.args[1]
        if len(circle) == 2 and (name := circle[0].partition("feature ")[2]):  # it is meant to be a column
            columns = ", ".join(request.columns)
            raise Misuse(f"feature {name!r}: request {request.name!r} has no such column. It has {columns}.") from None
        raise Misuse(f"features: {' needs '.join(circle[::-1])}. Break the circle.") from None
    depth: dict[str, int] = {}
    # A view is looked up one stage after its keys are computed. A transform is computed in the same stage as the last
    # of the features that it reads.
    for node in order:
        least = max((depth[n] for n in graph[node]), default=0)
        depth[node] = least + 1 if node.startswith("view ") and graph[node] else least
    place = {node: i for i, node in enumerate(order)}
    ordered = sorted(order, key=lambda node: (depth[node], place[node]))
    stages = []
    for _, nodes in groupby(ordered, key=lambda node: depth[node]):
        of_stage = list(nodes)
        chosen = set(of_stage)
        stages.append(
            Stage(
                tuple(join for join in joins.values() if f"view {join.name}" in chosen),
                {n[8:]: transforms[n[8:]] for n in of_stage if n.startswith("feature ")},
            )
        )
    return tuple(stages)
