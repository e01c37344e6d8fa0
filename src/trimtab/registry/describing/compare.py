"""Comparison of two versions: their records, their evaluations, and their predictions for the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Corrupt, Misuse, Unavailable
from trimtab.core.shown import Shown
from trimtab.core.time import DAY_US, format_duration, format_time
from trimtab.registry.versions import Version, possibly_seen
from trimtab.stats.inference.paired import paired_mean_bound
from trimtab.stats.interval import Interval
from trimtab.stats.metrics.lists import list_places, unit_losses
from trimtab.stats.metrics.metric_value import Better
from trimtab.store.ports import Blob
from trimtab.training.data.sets import ORIGINS, Manifest, load_manifest
from trimtab.training.fitting.artifact import Artifact, decode_artifact
from trimtab.training.judge.evaluation import Evaluation
from trimtab.training.runtimes.table import runtime_named

_WITHOUT_EFFECT = frozenset(  # parameters that only affect where and how fast a model is fitted
    {"device_type", "gpu_id", "nthread", "num_threads", "thread_count", "n_jobs", "verbosity"}
)
_MOST_ROWS = 10  # how many rows are listed, beginning with the largest difference
Value: TypeAlias = str | int | float | None
Floats: TypeAlias = NDArray[np.float64]


class Pair(msgspec.Struct, frozen=True):
    """A property of both versions; None where a version has no such property."""

    what: str
    one: Value
    other: Value

    @property
    def same(self) -> bool:
        return self.one == self.other


class FeatureChange(msgspec.Struct, frozen=True, kw_only=True):
    """The change of one feature whose definition is not the same in both versions."""

    name: str
    what: Literal["added", "removed", "changed"]
    words: str  # the change, for example "over 7d -> 14d"


class MetricPair(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of both versions, each measured on the holdout of the version's own evaluation."""

    name: str
    better: Better
    one: float | None
    one_interval: Interval | None
    other: float | None
    other_interval: Interval | None


class RowDifference(msgspec.Struct, frozen=True, kw_only=True):
    """A row for which the two versions predict differently."""

    key: str
    at_us: int
    one: float
    other: float
    label: float | str
    of: str = ""  # for a model of several classes: the class whose probability differs most


class Mean(msgspec.Struct, frozen=True):
    """A mean over rows, with an interval. Rows of one day are not taken as independent."""

    value: float
    interval: Interval | None  # None if all rows are of one day


class PredictionComparison(msgspec.Struct, frozen=True, kw_only=True):
    """A comparison of the predictions of both versions for the same labelled rows.

    Each version predicts from its own features, as of the time of the row.
    """

    rows: int
    start_us: int
    end_us: int
    metric: str
    one: Mean  # the mean loss of `one`, by the model's metric
    other: Mean
    difference: Mean  # mean loss of `other` minus that of `one`; if it is below 0, `other` is better
    moved_by: float  # an argument of `compare_predictions`
    moved: float  # the share of rows whose two predictions differ by more than `moved_by`
    mean_moved: float  # the mean absolute difference of the two predictions
    most_moved: float  # the largest one
    seen_one: int  # the number of rows that `one` may have been trained on
    seen_other: int
    most: tuple[RowDifference, ...]  # the rows that differ most


class Comparison(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The differences of two versions."""

    format: Literal[1] = 1
    one: str
    other: str
    about: tuple[Pair, ...]
    data: tuple[Pair, ...]
    features: tuple[FeatureChange, ...]
    same_features: int  # the number of features with the same definition
    recipe: tuple[Pair, ...]
    parameters: tuple[Pair, ...] | None  # None: not known for one of the versions
    environment: tuple[Pair, ...]
    metrics: tuple[MetricPair, ...]
    metrics_on: tuple[str, str]  # for each version, the rows of its evaluation in words; "": not evaluated
    predictions: PredictionComparison | None
    not_scored: str = ""  # the reason why `predictions` is None
    same_rows: bool = False  # whether both were evaluated on the same rows


class Record(msgspec.Struct, frozen=True, eq=False):
    """A version with its stored records."""

    version: Version
    artifact: Artifact
    manifest: Manifest
    evaluation: Evaluation | None  # the evaluation of the version, or of the candidate that it refits

    @property
    def learnt_until_us(self) -> int:
        """The latest time of the rows that the version may have been trained on."""
        version = self.version
        if version.imported is not None:
            return version.cut_us
        until_us = self.manifest.labels_until_us
        if self.evaluation is not None and version.evaluation is not None:  # fitted on rows final before its holdout
            until_us = min(until_us, self.evaluation.start_us)
        return self.manifest.final_until(until_us)


class Rows(msgspec.Struct, frozen=True, eq=False):
    """Labelled rows, and the scores of both versions."""

    metric: str
    keys: list[Any]
    at_us: NDArray[np.int64]
    labels: Floats
    one: Floats  # shape (rows,); for a model of several classes (rows, classes)
    other: Floats
    class_names: tuple[str, ...] = ()
    lists: NDArray[np.int64] | None = None  # for a ranking: the index of each row's list


def record_of(version: Version, blob: Blob, evaluation: Evaluation | None) -> Record:
    """Read the artifact and the manifest of a version.

    Raises:
        NotFound: The artifact or the manifest was removed.
        Corrupt: The artifact or the manifest is damaged.
    """
    return Record(
        version, decode_artifact(blob.get(version.artifact)), load_manifest(version.training_set, blob), evaluation
    )


def compare(
    one: Record,
    other: Record,
    *,
    features: tuple[list[FeatureChange], int],
    predictions: PredictionComparison | None,
    not_scored: str = "",
) -> Comparison:
    """Compare two versions of one model.

    Args:
        one: The first version, usually the older.
        other: The second version.
        features: The changed features, and the number of unchanged features.
        predictions: The result of `compare_predictions`.
        not_scored: The reason why there are no predictions.

    Raises:
        Misuse: The versions are of different models.
    """
    if one.version.model != other.version.model:
        raise Misuse(
            f"compare {one.version.name} and {other.version.name}: versions of two models predict different labels. "
            "Give two versions of one model."
        )
    mine, theirs = parameters_of(one.artifact), parameters_of(other.artifact)
    return Comparison(
        one=one.version.name,
        other=other.version.name,
        about=_pairs(_about(one), _about(other)),
        data=_pairs(_data(one), _data(other)),
        features=tuple(features[0]),
        same_features=features[1],
        recipe=_pairs(_recipe(one), _recipe(other)),
        parameters=None if mine is None or theirs is None else _pairs(mine, theirs),
        environment=_pairs(_environment(one.version), _environment(other.version)),
        metrics=tuple(_metrics(one.evaluation, other.evaluation)),
        metrics_on=(_judged_on(one), _judged_on(other)),
        predictions=predictions,
        not_scored=not_scored,
        same_rows=_rows_of(one.evaluation) is not None and _rows_of(one.evaluation) == _rows_of(other.evaluation),
    )


def compare_predictions(rows: Rows, *, moved_by: float, learnt_until_us: tuple[int, int]) -> PredictionComparison:
    """Compare the predictions of two versions for the same labelled rows.

    Args:
        rows: The rows to compare; at least one.
        moved_by: A prediction counts as moved if it differs by more than this. For a ranking, this is a difference of
            positions, as a share of the list.
        learnt_until_us: For each version, the latest time of the rows that it may have been trained on.
    """
    one, units = unit_losses(rows.metric, rows.labels, rows.one, rows.lists)
    losses = one, unit_losses(rows.metric, rows.labels, rows.other, rows.lists)[0]
    days = rows.at_us[units] // DAY_US
    apart = np.abs(rows.other - rows.one)
    if rows.lists is not None:  # scores of a ranking have no scale, so compare positions in the list
        apart = np.abs(list_places(rows.other, rows.lists) - list_places(rows.one, rows.lists))
    distance = apart if apart.ndim == 1 else apart.max(axis=1)
    order = np.argsort(-distance, kind="stable")[:_MOST_ROWS]
    return PredictionComparison(
        rows=len(rows.labels),
        start_us=int(rows.at_us.min()),
        end_us=int(rows.at_us.max()),
        metric=rows.metric,
        one=_mean(losses[0], days),
        other=_mean(losses[1], days),
        difference=_mean(losses[1] - losses[0], days),
        moved_by=moved_by,
        moved=float((distance > moved_by).mean()),
        mean_moved=float(distance.mean()),
        most_moved=float(distance.max()),
        seen_one=int((rows.at_us <= learnt_until_us[0]).sum()),
        seen_other=int((rows.at_us <= learnt_until_us[1]).sum()),
        most=tuple(_row(rows, apart, row) for row in order.tolist() if distance[row] > 0.0),
    )


def _mean(losses: Floats, days: NDArray[np.int64]) -> Mean:
    return Mean(float(losses.mean()), paired_mean_bound(losses, days) if np.unique(days).size > 1 else None)


def _row(rows: Rows, apart: Floats, row: int) -> RowDifference:
    label: float | str = float(rows.labels[row])
    of, one, other = "", rows.one[row], rows.other[row]
    if apart.ndim == 2:
        place = int(apart[row].argmax())
        of, one, other = rows.class_names[place], one[place], other[place]
        label = rows.class_names[int(rows.labels[row])]
    return RowDifference(
        key=str(rows.keys[row]), at_us=int(rows.at_us[row]), one=float(one), other=float(other), label=label, of=of
    )


def _pairs(one: Mapping[str, Value], other: Mapping[str, Value]) -> tuple[Pair, ...]:
    return tuple(Pair(what, one.get(what), other.get(what)) for what in dict.fromkeys([*one, *other]))


def _about(record: Record) -> dict[str, Value]:
    version = record.version
    return {
        "address": version.id[:16],
        "made": format_time(version.made_at_us)[:19],
        "made by": version.actor,
        "refits": None if version.refit_of is None else version.refit_of[:16],
    }


def _data(record: Record) -> dict[str, Value]:
    version, manifest = record.version, record.manifest
    found: dict[str, Value] = {
        "training set": version.training_set[:16],
        "hash of the values": manifest.data_hash[:16],
        "known until": format_time(manifest.cut_us)[:19],
        "labels wait": format_duration(manifest.wait_us),
        "rows": manifest.rows,
        "usable rows": manifest.usable,
        "rows fitted": version.rows,
        "label definition": manifest.label[:16],
        "request definition": manifest.request[:16],
        **{f"rows {state}": count for state, count in sorted(manifest.by_state.items())},
        "rows left out": sum(one.rows for one in manifest.left_out or ()),
        **{f"rows {ORIGINS.get(origin, origin)}": count for origin, count in sorted(manifest.origins.items())},
        **{f"position of {name}": at for name, at in sorted(manifest.positions.items())},
    }
    for name, reasons in manifest.by_reason.items():
        total = sum(reasons.values())
        found[f"{name} found"] = f"{reasons.get('found', 0) / total:.1%}" if total else None
    for name, values in record.artifact.encoding.vocabularies.items():
        found[f"categories of {name}"] = len(values)
    return found


def _recipe(record: Record) -> dict[str, Value]:
    artifact, recalibration = record.artifact, record.artifact.recalibration
    return {
        "recipe": record.version.recipe[:16],
        "features": record.version.features[:16],
        "number of features": len(artifact.inputs),
        "estimator": artifact.kind,
        "runtime": artifact.runtime,
        "task": artifact.task,
        "metric": artifact.metric,
        "nulls": "kept" if artifact.step is None else "imputed, and columns scaled",
        "calibration": "none" if recalibration is None else recalibration.kind,
        "size": len(artifact.estimator),
        "trust": artifact.trust or "none needed",
    }


def _environment(version: Version) -> dict[str, Value]:
    environment = version.environment
    return {
        "python": environment.python,
        **dict(sorted(environment.packages.items())),
        "processor": environment.cpu,
        "system": environment.system or None,
        "architecture": environment.architecture or None,
        "commit": environment.commit,
    }


def _metrics(one: Evaluation | None, other: Evaluation | None) -> Iterator[MetricPair]:
    mine = {} if one is None else {metric.name: metric for metric in one.figures}
    theirs = {} if other is None else {metric.name: metric for metric in other.figures}
    for name in dict.fromkeys([*mine, *theirs]):
        a, b = mine.get(name), theirs.get(name)
        known = a or b
        assert known is not None  # the name was taken from one of the two evaluations
        yield MetricPair(
            name=name,
            better=known.better,
            one=None if a is None else a.value,
            one_interval=None if a is None else a.interval,
            other=None if b is None else b.value,
            other_interval=None if b is None else b.interval,
        )


def _rows_of(evaluation: Evaluation | None) -> tuple[int, int, int] | None:
    return None if evaluation is None else (evaluation.rows, evaluation.start_us, evaluation.end_us)


def _judged_on(record: Record) -> str:
    evaluation, version = record.evaluation, record.version
    if evaluation is None:
        return ""
    start, end = format_time(evaluation.start_us)[:10], format_time(evaluation.end_us)[:10]
    of = (
        f"; this is the evaluation of {version.refit_of[:12]}, which this version refits"
        if version.evaluation is None and version.refit_of
        else ""
    )
    learnt = "; it was imported, and may have been trained on these rows" * bool(
        possibly_seen(version, evaluation.start_us)
    )
    return f"{evaluation.rows:,} rows, {start} to {end}{of}{learnt}"


def parameters_of(artifact: Artifact) -> dict[str, str] | None:
    """Return the parameters of a stored estimator that affect its fit, as text.

    The result is None if the stored format has no parameters, or if the library is not installed or cannot read
    the bytes. A pickle is never loaded for this.
    """
    try:
        read = runtime_named(artifact.runtime).format.parameters
        found = None if read is None else read(artifact.estimator)
    except (Corrupt, Misuse, Unavailable, ImportError):
        return None
    return None if found is None else {name: found[name] for name in sorted(found) if name not in _WITHOUT_EFFECT}
