"""Compare two versions: their records, their feature definitions, and their scores on the same labelled rows."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.app.data.training_data import labels_complete_until
from trimtab.app.features.feature_runs import run_of_model
from trimtab.app.state.documents import Part, expression_words, part_differences, phrase_of, words_of
from trimtab.app.state.retention_needs import features_from_us, labels_from_us
from trimtab.app.state.state import kept_from
from trimtab.app.system import System
from trimtab.app.training.loops import Loops
from trimtab.app.versions.evaluation_page import evaluation_of
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound, Unavailable
from trimtab.core.hashing import content_hash
from trimtab.core.time import duration_us, format_duration, format_time
from trimtab.features.aggregates import Aggregate
from trimtab.features.definitions import Join
from trimtab.features.feature_set import FeatureSet
from trimtab.features.labels import LABELLED, find_labels
from trimtab.registry import Version
from trimtab.registry.describing.compare import (
    Comparison,
    FeatureChange,
    Floats,
    PredictionComparison,
    Record,
    Rows,
    compare,
    compare_predictions,
    record_of,
)
from trimtab.steering.gate.scales import label_unit
from trimtab.training.data.sets import numbered_lists, whole_lists
from trimtab.training.definitions import Model
from trimtab.training.fitting.classes import aligned

# by default, a score counts as moved if it differs by more than 0.05 (for probabilities) or by more than 0.05 standard
# deviations of the label
_MOVED_UNITS = 0.05


def compare_versions(
    system: System, one: str, other: str, *, window_us: int | None, moved_by: float | None
) -> Comparison:
    """Compare two versions; see `Project.compare`."""
    sides = _record(system, one), _record(system, other)
    features = feature_changes(system.live.of(sides[0].version), system.live.of(sides[1].version))
    predictions, why = None, ""
    if window_us is not None and sides[0].version.model == sides[1].version.model:
        try:
            predictions = _answers(system, sides, window_us, moved_by)
        except (NotFound, Misuse, Conflict, Corrupt, Unavailable) as error:  # the other parts are still compared
            why = str(error)
    return compare(*sides, features=features, predictions=predictions, not_scored=why)


def window_of(window: str | int | None) -> int | None:
    """Return the length of a window in microseconds.

    Raises:
        Misuse: The text is no duration, or the duration is 0.
    """
    try:
        window_us = None if window is None else duration_us(window)
    except Misuse as error:
        raise Misuse(f"compare: window: {str(error).removeprefix('duration: ')}") from None
    if window_us == 0:
        raise Misuse(f'compare: window: {window!r} is empty. Give a longer one, such as "14d".')
    return window_us


def check_moved(moved: float | None) -> None:
    """Check the difference above which the scores of two versions count as moved.

    Raises:
        Misuse: The difference is negative or not a number.
    """
    if moved is not None and not 0.0 <= moved < float("inf"):
        raise Misuse(
            f"compare: moved: {moved} is not a difference of two scores. Give a number from 0 on, such as 0.05."
        )


def feature_changes(one: FeatureSet, other: FeatureSet) -> tuple[list[FeatureChange], int]:
    """Return the features that were added, removed or changed, and the number of all others."""
    before, now = dict(_features(one)), dict(_features(other))
    found, same = [], 0
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if old is None or new is None:
            words = phrase_of((old or new or ("", {}))[1])
            found.append(FeatureChange(name=name, what="added" if old is None else "removed", words=words))
        elif old[0] != new[0]:
            changed = list(part_differences(old[1], new[1])) or ["a feature or column that it reads has changed"]
            found.append(FeatureChange(name=name, what="changed", words=", ".join(changed)))
        else:
            same += 1
    return found, same


def _record(system: System, reference: str) -> Record:
    version = system.registry.as_known(system.registry.get(reference))
    try:
        evaluation = evaluation_of(system.registry, system.state.blob, version)
    except NotFound:
        evaluation = None
    try:
        return record_of(version, system.state.blob, evaluation)
    except NotFound:
        system.registry.load(version)  # its error says who removed the version, and when
        raise


def _features(features: FeatureSet) -> Iterator[tuple[str, tuple[str, Part]]]:
    """Yield each feature's name with a hash and a description of its definition.

    The hash also covers all features and columns that the feature is computed from.
    """
    for name in features.names:
        yield name, (content_hash(_made_of(features, name)), _words(features, name))


def _made_of(features: FeatureSet, name: str) -> object:
    """Return everything that determines the values of a feature, as a JSON value."""
    if name in features.transforms:
        expression = features.transforms[name]
        reads = [[read, _made_of(features, read)] for read in sorted(expression.columns()) if read != name]
        return [expression, reads]
    if name in features.request.columns:
        return ["request", features.request.columns[name], features.request.lead_us]
    join, aggregate = _view_feature(features, name)
    view = join.view
    read = set(view.by).union(*(e.columns() for e in (aggregate.of, aggregate.where) if e is not None))
    looked_up = [[key, _made_of(features, key)] for key in join.by]
    content = view.source.content_of(sorted(read))
    return [content, view.by, view.boundary, aggregate, looked_up, features.request.lead_us]


def _words(features: FeatureSet, name: str) -> Part:
    if name in features.transforms:
        return {"": expression_words(features.transforms[name])}
    join, aggregate = _view_feature(features, name)
    view = join.view
    part = {"source": view.source.name, "by": ", ".join(view.by)} | words_of(aggregate)
    part |= {} if join.by == view.by else {"looked up by": ", ".join(join.by)}
    return part | ({} if view.boundary == "before" else {"boundary": view.boundary})


def _view_feature(features: FeatureSet, name: str) -> tuple[Join, Aggregate]:
    view, _, feature = name.partition(".")
    join = next(join for join in features.joins if join.name == view)
    return join, join.view.features[feature]


class _LabelledRows(msgspec.Struct, frozen=True, eq=False):
    """Requests whose labels will no longer change."""

    requests: Columns
    at_us: NDArray[np.int64]
    labels: Floats
    lists: NDArray[np.int64] | None  # for a ranking, the index of each request's list


def _answers(
    system: System, sides: tuple[Record, Record], window_us: int, moved_by: float | None
) -> PredictionComparison:
    versions = sides[0].version, sides[1].version
    model = system.definitions.models.get(versions[0].model)
    if model is None:
        raise NotFound(f"model {versions[0].model!r} is no longer declared, so there is no label to judge it by.")
    rows = _labelled(system, model, versions, window_us)
    scores = [_scores(system, model, version, rows) for version in versions]
    names, what = model.label.class_names, f"compare {versions[0].name} and {versions[1].name}"
    if names:
        scores = [aligned(one, side.artifact.class_names, names, what) for one, side in zip(scores, sides, strict=True)]
    metric = sides[1].artifact.metric
    scored = Rows(
        metric=metric,
        keys=rows.requests[model.request.key].to_list(),
        at_us=rows.at_us,
        labels=rows.labels,
        one=scores[0],
        other=scores[1],
        class_names=names,
        lists=rows.lists,
    )
    unit = 1.0 if names else label_unit(metric, rows.labels)
    return compare_predictions(
        scored,
        moved_by=_MOVED_UNITS * unit if moved_by is None else moved_by,
        learnt_until_us=(sides[0].learnt_until_us, sides[1].learnt_until_us),
    )


def _labelled(system: System, model: Model, versions: tuple[Version, Version], window_us: int) -> _LabelledRows:
    """Return the newest requests with final labels, known in time, whose features can be computed for both versions."""
    now_us = system.clock.now_us()
    kept = kept_from(system.state.catalog)
    from_us = max(labels_from_us(model, kept), *(features_from_us(system.live.of(v), kept) for v in versions))
    plain = msgspec.structs.replace(model, rows="history")
    with run_of_model(system, plain) as opened:
        requests, at_us = system.part(Loops).living_data().requests(plain, opened.frames[model.request.name], now_us)
        given = opened.frames[model.label.source.name]
        cut_us = model.label.final_at(at_us)  # labels of closed days: later ones, and corrections, do not count
        found = find_labels(model.label, given, requests[model.request.key], at_us, cut_us)
        complete_us = labels_complete_until(given, now_us)
    there = (found.state == LABELLED) & np.isfinite(found.values)
    there &= (at_us <= model.label.final_until(complete_us)) & (at_us >= from_us)
    lists = numbered_lists(requests, model.group) if model.task == "ranking" else None
    there = there if lists is None else whole_lists(lists, there)
    if not there.any():
        raise NotFound(
            f"no request of {model.request.name!r} from {format_time(max(from_us, 0))[:10]} on has a final label "
            "that came in time: there are no rows on which both versions can be compared."
        )
    end_us = int(at_us[there].max())
    inside = there & (at_us > end_us - window_us)
    chosen = np.flatnonzero(inside if lists is None else whole_lists(lists, inside))
    if not chosen.size:
        raise Misuse(f"window {format_duration(window_us)}: it holds no labelled request. Widen it.")
    return _LabelledRows(
        requests.take(chosen), at_us[chosen], found.values[chosen], None if lists is None else lists[chosen]
    )


def _scores(system: System, model: Model, version: Version, rows: _LabelledRows) -> Floats:
    loaded = system.registry.load(version)
    features = system.part(Loops).living_data().features_of(model, system.live.of(version), rows.requests, rows.at_us)
    return np.asarray(loaded.predict(loaded.encoding.matrix(features.values)), np.float64)
