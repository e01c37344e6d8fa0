"""Feature definitions as JSON documents. A version keeps its definitions, even if the project file changes. # D35"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.expressions.functions import function_of
from trimtab.core.expressions.nodes import Expression
from trimtab.events.about import NOTHING
from trimtab.events.definitions import Source
from trimtab.features.definitions import Join, Request, View
from trimtab.features.feature_set import FeatureSet, Item, feature_set


class StoredFeatures(msgspec.Struct, frozen=True, kw_only=True):
    """What a feature set consists of. Everything else in a feature set is derived from this."""

    format: Literal[1] = 1
    request: Request
    joins: tuple[Join, ...]
    transforms: dict[str, Expression]
    names: tuple[str, ...]  # the features that the model gets, in order


def encode_features(features: FeatureSet) -> bytes:
    """Return a feature set as a JSON document.

    Equal definitions give equal documents. Descriptions and other texts for people are not included.

    >>> from trimtab.core.expressions.nodes import col
    >>> from trimtab.features.definitions import request
    >>> question = request("visit", key="id", time="at", columns={"id": str, "x": float})
    >>> features = feature_set(question, [{"double": col("x") * 2}])
    >>> decode_features(encode_features(features), features.hash).hash == features.hash
    True
    """
    bare, replace = with_sources(features, _bare), msgspec.structs.replace
    stored = StoredFeatures(
        request=bare.request,
        joins=tuple(replace(join, view=replace(join.view, about=NOTHING)) for join in bare.joins),
        transforms=bare.transforms,
        names=bare.names,
    )
    return msgspec.json.encode(stored)


def decode_features(data: bytes, digest: str) -> FeatureSet:
    """Return the feature set in a document.

    Args:
        digest: The hash that the definitions must have (`FeatureSet.hash`).

    Raises:
        Corrupt: The document cannot be read, or has other definitions.
    """
    what = f"feature definitions {digest[:12]}"
    try:
        stored = msgspec.json.decode(data, type=StoredFeatures)
        found = feature_set(stored.request, _items(stored))
    except (msgspec.MsgspecError, Misuse) as error:
        raise Corrupt(
            f"{what}: their document cannot be read ({error}). Restore it, or install the version of trimtab that "
            "wrote it."
        ) from error
    if found.hash != digest:
        raise Corrupt(f"{what}: their document has the hash {found.hash[:12]}. Restore it from a copy.")
    return found


def with_sources(features: FeatureSet, change: Callable[[Source], Source]) -> FeatureSet:
    """Return the features with changed sources. The change must not affect the hashes of the features."""
    views: dict[str, View] = {}

    def of(join: Join) -> Join:
        view = join.view
        views.setdefault(view.hash, msgspec.structs.replace(view, source=change(view.source)))
        return msgspec.structs.replace(join, view=views[view.hash])

    request = msgspec.structs.replace(features.request, source=change(features.request.source))
    joins = {join.name: of(join) for join in features.joins}
    stages = tuple(
        msgspec.structs.replace(stage, joins=tuple(joins[join.name] for join in stage.joins))
        for stage in features.stages
    )
    return msgspec.structs.replace(features, request=request, joins=tuple(joins.values()), stages=stages)


def check_functions(features: FeatureSet) -> None:
    """Check that this process has the code of all Python functions in the features.

    Raises:
        Misuse: A function was changed or removed. The message names it, and says what to do.
    """
    aggregates = [aggregate for view in features.views for aggregate in view.features.values()]
    of_views = [e for aggregate in aggregates for e in (aggregate.of, aggregate.where) if e is not None]
    for expression in [*features.transforms.values(), *of_views]:
        _check_functions(expression)


def _check_functions(expression: Expression) -> None:
    if expression.op == "python":
        try:
            function_of(expression)
        except Misuse as error:
            raise Misuse(
                f"{error} Until a new version is in service, keep the old function, unchanged, in a file that the "
                "project file imports, because functions are found by their code."
            ) from None
    for arg in expression.args:
        _check_functions(arg)


def _items(stored: StoredFeatures) -> list[Item]:
    """Return views and expressions in such an order that `feature_set` yields the stored order of names."""
    joins = {f"{join.name}.{feature}": join for join in stored.joins for feature in join.view.features}
    left = list(stored.joins)
    items: list[Item] = []
    for name in stored.names:
        join = joins.get(name) if name not in stored.transforms else None
        if join is None:
            items.append({name: stored.transforms[name]})
            continue
        while join in left:  # also joins before this one, of which the model gets no feature
            items.append(left.pop(0))
    return [*items, *left]


def _bare(source: Source) -> Source:
    return msgspec.structs.replace(
        source,
        columns=source.declared,
        hidden=(),
        first=None,
        about=NOTHING,
        time_formats=msgspec.UNSET,
        reads=msgspec.UNSET,
    )
