"""Search for versions by text, tag, metric, feature or source."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from trimtab.core.errors import Corrupt, Misuse, NotFound
from trimtab.core.shown import Shown
from trimtab.registry.aliases import Aliases
from trimtab.registry.removed import removed
from trimtab.registry.tags import Note, Tags
from trimtab.registry.versions import Version
from trimtab.store.ports import Blob, Catalog
from trimtab.training.fitting.artifact import decode_artifact

if TYPE_CHECKING:
    from trimtab.training.judge.evaluation import Evaluation

_METRIC = re.compile(r"\s*([a-z][a-z0-9_]*)\s*(?:(<=|>=|<|>)\s*([-+0-9.eE]+))?\s*")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """The conditions of a search. A version must fulfil all given conditions."""

    # text that occurs in the name, id, actor, runtime, metric, tags, notes, aliases, or names of inputs and views
    text: str | None = None
    tag: str | None = None
    metric: str | None = None  # the name of an evaluated metric ("log_loss"), or a name with a bound ("auc>0.8")
    feature: str | None = None  # a feature that the model reads, or a view that has such features
    source: str | None = None  # the name of an event source that the model's features read, or of the model's request

    def __post_init__(self) -> None:
        if self.metric is not None:
            self.bound()

    def bound(self) -> tuple[str, Callable[[float], bool] | None]:
        """Return the name of the metric, and the condition that its value must fulfil (None: any value).

        Raises:
            Misuse: The metric cannot be parsed.
        """
        found = _METRIC.fullmatch(self.metric or "")
        try:
            if found is None:
                raise ValueError(self.metric)
            name, sign, number = found.groups()
            if sign is None:
                return name, None
            compare, limit = _COMPARE[sign], float(number)
        except ValueError:
            raise Misuse(f'search: metric {self.metric!r}: write "log_loss" or "log_loss<0.4".') from None
        return name, lambda value: compare(value, limit)


class Found(Shown, msgspec.Struct, frozen=True):
    """A version, and what a list of versions shows about it."""

    version: Version
    metric: str  # the metric of the search, or else the version's own metric
    # the value of `metric`; None: no stored evaluation of this version, or of the one that it refits, has this metric
    value: float | None
    tags: tuple[str, ...]
    notes: tuple[Note, ...]
    aliases: tuple[str, ...]
    removed: bool  # whether the version's artifact was removed


class _Names(msgspec.Struct, frozen=True):
    """The names that `Search.feature` and `Search.source` are compared with."""

    features: frozenset[str]  # the names of the model's features and of their views
    sources: frozenset[str]


class Searcher:
    """Finds versions by their records and their feature definitions."""

    def __init__(self, catalog: Catalog, blob: Blob, *, tags: Tags, aliases: Aliases) -> None:
        self._catalog = catalog
        self._blob = blob
        self._tags = tags
        self._aliases = aliases
        # the names of features, views and sources, by the hash of the feature definitions
        self._names: dict[str, _Names] = {}

    def find(self, versions: list[Version], search: Search) -> list[Found]:
        """Return the versions that match, in the given order.

        Raises:
            NotFound: None of the versions has such a metric, feature or source.
        """
        metrics = {version.id: self._metrics(version, versions) for version in versions}
        self._check(versions, search, metrics)
        tags = self._tags.all()
        aliases = {model: self._aliases.places(model) for model in {version.model for version in versions}}
        out = []
        for version in versions:
            metric = version.metric if search.metric is None else search.bound()[0]
            found = Found(
                version,
                metric,
                metrics[version.id].get(metric),
                tuple(tag.tag for tag in tags.get(version.id, ())),
                tuple(self._tags.notes(version.id)),
                tuple(name for name, move in aliases[version.model].items() if move.version == version.id),
                removed(self._catalog, version.id) is not None,
            )
            if self._fits(found, search):
                out.append(found)
        return out

    def _check(self, versions: list[Version], search: Search, metrics: dict[str, dict[str, float]]) -> None:
        """Refuse a metric, feature or source that no version has."""
        if not versions:
            return
        if search.metric is not None:
            names = {version.metric for version in versions}.union(*metrics.values())
            _known("metric", search.bound()[0], names)
        if search.feature is not None:
            _known("feature or view", search.feature, set().union(*(self._of(one).features for one in versions)))
        if search.source is not None:
            _known("source", search.source, set().union(*(self._of(one).sources for one in versions)))

    def _fits(self, found: Found, search: Search) -> bool:
        version = found.version
        if search.tag is not None and search.tag not in found.tags:
            return False
        if search.metric is not None:
            name, holds = search.bound()
            if found.value is None and (name != version.metric or holds is not None):
                return False
            if found.value is not None and holds is not None and not holds(found.value):
                return False
        if search.feature is not None and search.feature not in self._of(version).features:
            return False
        if search.source is not None and search.source not in self._of(version).sources:
            return False
        return search.text is None or search.text.lower() in self._text(found).lower()

    def _text(self, found: Found) -> str:
        version = found.version
        texts = [version.name, version.id, version.actor, version.runtime, version.metric]
        texts += [*found.tags, *found.aliases, *(note.text for note in found.notes)]
        return "\n".join([*texts, *sorted(self._of(version).features)])

    def _of(self, version: Version) -> _Names:
        if version.features not in self._names:
            try:
                artifact = decode_artifact(self._blob.get(version.artifact))
                features = artifact.features(version.features)
            except (NotFound, Corrupt):  # removed or damaged
                return _Names(frozenset(), frozenset())
            views = {view.name for view in features.views}
            sources = {view.source.name for view in features.views} | {features.request.name}
            self._names[version.features] = _Names(frozenset({*artifact.inputs, *views}), frozenset(sources))
        return self._names[version.features]

    def _metrics(self, version: Version, versions: list[Version]) -> dict[str, float]:
        """Return the evaluated metrics of a version by name; an empty dict if the version was not evaluated."""
        judged = version.evaluation or next((v.evaluation for v in versions if v.id == version.refit_of), None)
        if judged is None:
            return {}
        try:
            # imported only here, because serving imports this module, and must not load the code for evaluations
            from trimtab.training.judge.evaluation import load_evaluation

            return _metrics_of(load_evaluation(judged, self._blob))
        except NotFound:
            return {}


def _metrics_of(evaluation: Evaluation) -> dict[str, float]:
    found = {"auc": evaluation.auc, "calibration_error": evaluation.calibration_error}
    found |= {one.name: one.value for one in evaluation.figures} | {evaluation.metric: evaluation.value}
    return {name: value for name, value in found.items() if value is not None}


def _known(what: str, name: str, names: Iterable[str]) -> None:
    there = sorted(names)
    if name not in there:
        raise NotFound(f"search: no version has a {what} {name!r}. There are: {', '.join(there) or 'none'}.")
