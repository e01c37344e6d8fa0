"""The features of a model, in order: those of views and those computed from the request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from trimtab.core.columns import Dtype
from trimtab.core.errors import Misuse
from trimtab.core.expressions import Expression
from trimtab.core.hashing import content_hash
from trimtab.events.definitions import check_name
from trimtab.features.definitions import Aggregate, Request, View


class FeatureSet(msgspec.Struct, frozen=True, kw_only=True):
    """Features in declared order. Make one with `feature_set()`."""

    request: Request
    views: tuple[View, ...]  # each once, in the order first listed
    transforms: dict[str, Expression]  # over the request's columns
    dtypes: dict[str, Dtype]  # of every feature, in order; those of views are named `view.feature`
    categories: tuple[str, ...]  # the features that are encoded by a vocabulary

    @property
    def names(self) -> tuple[str, ...]:
        """The features' names, in order."""
        return tuple(self.dtypes)

    @property
    def hash(self) -> str:
        """The content address of this definition, the order of the features included."""
        return content_hash([self, self.names])


def feature_set(request: Request, features: Sequence[View | Mapping[str, Expression]]) -> FeatureSet:
    """The features a model declares: views, and dicts of named expressions over the request's columns.

    Raises:
        Misuse: Two features of one name, an entity that the request does not carry, a string without `.category()`.
    """
    views: dict[str, View] = {}
    transforms: dict[str, Expression] = {}
    expressions: dict[str, tuple[Dtype, Expression | None]] = {}
    for item in features:
        if isinstance(item, View):
            if item.name in views and views[item.name].hash == item.hash:
                continue
            if item.name in views:
                raise Misuse(f"features: two different views are called {item.name!r}. Rename one.")
            _check_entity(request, item)
            views[item.name] = item
            for name, aggregate in item.features.items():
                expressions[f"{item.name}.{name}"] = (aggregate_dtype(aggregate, item.source.columns), aggregate.of)
        elif isinstance(item, Mapping):
            for name, expression in item.items():
                _check_transform(request, name, expression, transforms)
                transforms[name] = expression
                expressions[name] = (expression.dtype(request.columns, f"feature {name!r}"), expression)
        else:
            raise Misuse(f'features: {item!r} is neither a view nor a dict {{"name": expression}}.')
    if not expressions:
        raise Misuse(f"features of request {request.name!r}: none. Give at least one view or expression.")
    categories = [name for name, (_, e) in expressions.items() if e is not None and e.is_category]
    for name, (dtype, _) in expressions.items():
        if dtype == "str" and name not in categories:
            raise Misuse(f"feature {name!r} is a string. Mark it with .category(), or compare it with something.")
    return FeatureSet(
        request=request,
        views=tuple(views.values()),
        transforms=transforms,
        dtypes={name: dtype for name, (dtype, _) in expressions.items()},
        categories=tuple(categories),
    )


def aggregate_dtype(aggregate: Aggregate, columns: Mapping[str, Dtype]) -> Dtype:
    """The type of an aggregate's value over a source with these columns."""
    if aggregate.kind == "count" or aggregate.of is None:
        return "int"
    if aggregate.kind == "mean":
        return "float"
    dtype = aggregate.of.dtype(columns, aggregate.kind)
    return "int" if aggregate.kind == "sum" and dtype == "bool" else dtype


def _check_entity(request: Request, view: View) -> None:
    found, needed = request.columns.get(view.by), view.source.columns[view.by]
    if found != needed:
        there = f"it is {found}" if found else f"it has {', '.join(request.columns)}"
        raise Misuse(f"view {view.name!r}: request {request.name!r} needs a column {view.by!r} of {needed}; {there}.")


def _check_transform(request: Request, name: str, expression: Expression, transforms: Mapping[str, Expression]) -> None:
    check_name(name, "feature")
    if name in transforms:
        raise Misuse(f"features: {name!r} is defined twice. Rename one.")
    if not isinstance(expression, Expression):
        raise Misuse(f"feature {name!r}: {expression!r} is no expression. Start from tt.col(...).")
