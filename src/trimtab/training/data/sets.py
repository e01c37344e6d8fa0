"""Training sets: requests with features as of their own times, and with the labels known at a given time (the cut)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns
from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.time import format_time
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.features.definitions import LabelWait
from trimtab.features.frames import REASONS, FeatureFrame
from trimtab.features.labels import LABEL_STATES, LABELLED, LATE, LabelFrame, find_labels
from trimtab.features.offline.evaluation import evaluate
from trimtab.stats.metrics.lists import is_informative
from trimtab.store.ports import Blob
from trimtab.training.data.answers import LoggedAnswers
from trimtab.training.data.parquet import add_to_hash, columns_hash, read_parquet, write_parquet
from trimtab.training.data.retroactive_changes import RetroactiveChange
from trimtab.training.definitions import Model


class ListCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The lists in the training set of a ranking."""

    column: str  # the column of the request whose value all rows of a list share
    lists: int
    whole: int  # the number of lists that are used: every row has a final label, and none is in a left-out interval
    told: int  # of these, how many have rows of different relevance; other lists have no best order
    longest: int  # the number of rows of the longest list
    rows_without: int  # rows that belong to no list because the column is null

    @property
    def text(self) -> str:
        """The number of usable lists, as part of a sentence."""
        without = f", and {self.rows_without:,} rows have no {self.column!r}" if self.rows_without else ""
        return f"{self.whole:,} of {self.lists:,} lists have a final label for each of their rows{without}"


TOO_NEW = "too new to be judged"
LABEL_FAULTS = ("labels_missing", "one_class", "label_shift")
ORIGINS = {  # for each origin of rows, words that follow a number of rows
    "history": "from history",
    "asked": "only from the prediction log",
    "logged": "with logged features",
    "other_features": "left out, because they were answered from other features",
}


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """A time interval whose rows are not used, because inputs or labels were wrong."""

    start_us: int
    end_us: int | None  # None: it had not ended when the training set was made
    why: str  # for example "null_values of column temp"
    rows: int = 0  # how many of its rows would otherwise be used; a row in several intervals counts in the first only

    @property
    def of_inputs(self) -> bool:
        """Whether the inputs of the rows were wrong, and not only their labels; False if it is not known yet."""
        return not self.why.startswith((*LABEL_FAULTS, TOO_NEW))

    def covers(self, at_us: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which times are in the interval, as a boolean array."""
        within = at_us >= self.start_us
        return within if self.end_us is None else within & (at_us < self.end_us)


class Manifest(LabelWait, msgspec.Struct, frozen=True, kw_only=True):
    """The description of a training set. Its hash identifies the training set."""

    format: Literal[1] = 1
    model: str
    request: str  # the hash of the request's declaration
    features: str  # the hash of the feature definitions
    label: str  # the hash of the label's declaration
    cut_us: int  # the training set only contains what was known at this time
    wait_us: int  # how long after a request its label becomes final
    positions: dict[str, int]  # the positions in the log up to which events were used
    rows: int
    usable: int  # the number of usable rows (see `TrainingSet.usable`); only these are learnt from
    by_state: dict[str, int]  # for each state of labels, the number of rows
    # for each feature of a view, the number of rows by the reason why the value is null, or "found"; for other
    # features, only how often they failed
    by_reason: dict[str, dict[str, int]]
    data_hash: str  # the hash of all values, reasons and labels
    hindsight: dict[str, RetroactiveChange] = {}  # for each column of the request, how its values changed afterwards
    origins: dict[str, int] = {}  # the number of rows from each origin (see `ORIGINS`); empty: unknown
    lists: ListCounts | msgspec.UnsetType = msgspec.UNSET  # only set for rankings
    left_out: tuple[LeftOut, ...] | msgspec.UnsetType = msgspec.UNSET  # unset if nothing is left out
    parquet: str | None = None  # the hash of the blob with the rows, if they are stored
    # the end of the file that the labels come from, if it is before the cut: labels are complete only up to this time
    complete_us: int | msgspec.UnsetType = msgspec.UNSET

    @property
    def labels_until_us(self) -> int:
        """The time up to which labels are complete. A label is final if the wait for it ended before this time."""
        return self.cut_us if self.complete_us is msgspec.UNSET else self.complete_us


class TrainingSet(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A training set. Each array has one value per row, in the order of the requests."""

    manifest: Manifest
    keys: Column  # the key of each request
    requests: Columns
    at_us: NDArray[np.int64]  # the time of each request
    features: FeatureFrame
    labels: LabelFrame
    lists: NDArray[np.int64] | None = None  # for a ranking, the index of each row's list; -1: it belongs to no list
    # the predictions that were logged for the rows, if they were loaded; not stored with the set
    answers: LoggedAnswers | None = None
    # in a fit, a row of this age has half the weight of the newest row, one of twice this age a quarter, and so on;
    # None: age does not matter
    half_life_us: int | None = None

    @property
    def rows(self) -> int:
        return len(self.at_us)

    @property
    def target(self) -> NDArray[np.float64]:
        """The label of each row; NaN if there is none."""
        return self.labels.values

    @property
    def label_known_at_us(self) -> NDArray[np.int64]:
        """The time at which each label became known; `NEVER_US` if it is not known."""
        return self.labels.known_at_us

    @property
    def usable(self) -> NDArray[np.bool_]:
        """The rows that can be learnt from: those whose label is final; see `Manifest.labels_until_us`.

        A label that arrives early does not make its row usable, because rows with early labels would then be too
        frequent. In a ranking, a row is only usable if all rows of its list are. Rows in left-out intervals are not
        usable.
        """
        usable = self._final
        for one in self.manifest.left_out or ():
            usable &= ~one.covers(self.at_us)
        return self.whole(usable)

    @property
    def _final(self) -> NDArray[np.bool_]:
        """The rows that have a final label."""
        there: NDArray[np.bool_] = (self.labels.state == LABELLED) | (self.labels.state == LATE)
        return there & (self.at_us <= self.manifest.final_until(self.manifest.labels_until_us))

    @property
    def begun_us(self) -> NDArray[np.int64]:
        """The time by which a split divides the rows: the row's own or, in a ranking, that of its list's first row."""
        if self.lists is None or not self.rows:
            return self.at_us
        # the last value is for rows without a list, whose index is -1
        begun = np.full(int(self.lists.max()) + 2, NEVER_US, np.int64)
        np.minimum.at(begun, self.lists, self.at_us)
        return np.where(self.lists < 0, self.at_us, begun[self.lists])

    @property
    def informative(self) -> NDArray[np.bool_]:
        """The usable rows that a model can be judged on: in a ranking, those of lists with unequal relevances."""
        usable = self.usable
        if self.lists is None or not usable.any():
            return usable
        kept = self.lists[usable]
        place = np.unique(kept, return_inverse=True)[1].reshape(-1)
        mask = usable.copy()
        mask[usable] = is_informative(self.target[usable], place)[place]
        return mask

    def whole(self, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return those of `rows` whose whole list is in `rows`. If the set has no lists, return `rows`."""
        return rows if self.lists is None else whole_lists(self.lists, rows)

    def lists_of(self, rows: NDArray[Any]) -> NDArray[np.int64] | None:
        """Return the list of each of the given rows (numbers or boolean array); None if the set has no lists."""
        return None if self.lists is None else self.lists[rows]

    def take(self, rows: NDArray[Any]) -> TrainingSet:
        """Return a set of the given rows. It keeps the manifest of the whole set."""
        labels = self.labels
        return msgspec.structs.replace(
            self,
            keys=self.keys.take(rows),
            requests=self.requests.take(rows),
            at_us=self.at_us[rows],
            features=self.features.take(rows),
            labels=LabelFrame(labels.values[rows], labels.state[rows], labels.known_at_us[rows]),
            lists=self.lists_of(rows),
            answers=None if self.answers is None else self.answers.take(rows),
        )


def build_training_set(
    model: Model,
    requests: Columns,
    frames: Mapping[str, EventFrame],
    *,
    cut_us: int,
    positions: Mapping[str, int],
    left_out: Sequence[LeftOut] = (),
) -> TrainingSet:
    """Build a training set from history. Features are computed as they would have been in service.

    Args:
        model: The model, with its request, features and label.
        requests: The columns of the requests. Requests after the cut are left out.
        frames: For each source that features or label use, its history.
        cut_us: The time of the cut. Nothing that became known later is used.
        positions: The positions in the log up to which the history in `frames` was read.
        left_out: Time intervals whose rows are not used.

    Raises:
        Misuse: A column or a source is missing, a key or a time is null, or no request is before the cut.
    """
    what = f"training set of {model.name!r}"
    requests = requests.select(model.request.columns)
    for name in (model.request.key, model.request.time):
        missing = int((~requests[name].present()).sum())
        if missing:
            raise Misuse(f"{what}: {missing} of {requests.rows} requests have no {name!r}. Every request needs one.")
    at_us = requests[model.request.time].values - model.request.lead_us
    early = np.flatnonzero(at_us <= cut_us)
    if not early.size:
        raise Misuse(
            f"{what}: none of {requests.rows} requests is before {format_time(cut_us)}. Move the cut to a later time."
        )
    requests, at_us = requests.take(early), at_us[early]
    needed = {view.source.name for view in model.features.views} | {model.label.source.name}
    if absent := sorted(needed - frames.keys()):
        raise Misuse(f"{what}: no history of {', '.join(absent)}. Ingest it, or pass its frame (even an empty one).")
    features = evaluate(model.features, requests, at_us, frames)
    events = frames[model.label.source.name]
    find = partial(find_labels, model.label, events, requests[model.request.key], at_us, cut_us)
    return assemble(model, requests, at_us, features, find, cut_us=cut_us, positions=positions, left_out=left_out)


def assemble(
    model: Model,
    requests: Columns,
    at_us: NDArray[np.int64],
    features: FeatureFrame,
    find: Callable[[], LabelFrame],
    *,
    cut_us: int,
    positions: Mapping[str, int],
    hindsight: Mapping[str, RetroactiveChange] | None = None,
    origins: Mapping[str, int] | None = None,
    left_out: Sequence[LeftOut] = (),
    complete_us: int | None = None,
) -> TrainingSet:
    """Build a training set from given feature values and labels, such as those of logged predictions.

    `find` returns the labels, and is called while another thread hashes the rest. Rows in the intervals `left_out` stay
    in the set and are counted, but are not used. Labels are complete up to `complete_us` (None: up to the cut).

    Raises:
        Misuse: The parts have different lengths, or the features are not those of the model.
    """
    thread = ThreadPoolExecutor(1)
    hashed = thread.submit(lambda: add_to_hash(hashlib.sha256(), _inputs(requests, features)))
    thread.shutdown(wait=False)  # it ends when the hash is done
    labels = find()
    what = f"training set of {model.name!r}"
    lengths = {
        "requests": requests.rows,
        "at_us": len(at_us),
        "features": features.values.rows,
        "labels": len(labels.values),
    }
    if len(set(lengths.values())) > 1:
        raise Misuse(f"{what}: its parts have different lengths: {lengths}.")
    if features.values.names != model.features.names:
        raise Misuse(
            f"{what}: found the features {', '.join(features.values.names)}, needed {', '.join(model.features.names)}."
        )
    draft = TrainingSet(
        manifest=Manifest(
            model=model.name,
            request=model.request.hash,
            features=model.features.hash,
            label=model.label.hash,
            cut_us=cut_us,
            wait_us=model.label.wait_us,
            positions=dict(sorted(positions.items())),
            rows=requests.rows,
            usable=0,
            by_state=_counts(labels.state, LABEL_STATES),
            by_reason={name: _counts(codes, REASONS) for name, codes in features.reasons.items()}
            | {name: {"failed": int(failed.sum())} for name, failed in features.failed.items()},
            data_hash="",
            hindsight=dict(hindsight or {}),
            origins=dict(origins or {}),
            complete_us=msgspec.UNSET if complete_us is None or complete_us >= cut_us else complete_us,
        ),
        keys=requests[model.request.key],
        requests=requests,
        at_us=at_us,
        features=features,
        labels=labels,
        lists=numbered_lists(requests, model.group) if model.task == "ranking" else None,
    )
    if left_out:
        free, found = draft._final, list[LeftOut]()
        for one in sorted(left_out, key=lambda one: (one.start_us, one.why)):
            within = one.covers(at_us)
            if within.any():
                found.append(msgspec.structs.replace(one, rows=int((free & within).sum())))
            free = free & ~within
        if found:
            manifest = msgspec.structs.replace(draft.manifest, left_out=tuple(found))
            draft = msgspec.structs.replace(draft, manifest=manifest)
    manifest = msgspec.structs.replace(
        draft.manifest,
        usable=int(draft.usable.sum()),
        data_hash=add_to_hash(hashed.result(), _targets(draft)).hexdigest(),
        lists=_counted(draft, model.group),
    )
    return msgspec.structs.replace(draft, manifest=manifest)


def save_training_set(training_set: TrainingSet, blob: Blob) -> str:
    """Store a training set as Parquet with its manifest. Return the manifest's hash, which is equal for equal sets."""
    parquet = blob.put(write_parquet(_flat(training_set)))
    return blob.put(_encoded(msgspec.structs.replace(training_set.manifest, parquet=parquet)))


def save_manifest(training_set: TrainingSet, blob: Blob) -> str:
    """Store only the manifest of a training set, and return its hash.

    The rows can be built again from the log with the definitions, positions and cut in the manifest, and be compared
    with its data hash. Replays store only manifests, because they make many training sets.
    """
    return blob.put(_encoded(training_set.manifest))


def load_manifest(digest: str, blob: Blob) -> Manifest:
    """Load the manifest of a stored training set.

    Raises:
        NotFound: The manifest is not stored.
        Corrupt: The manifest is damaged.
    """
    try:
        return msgspec.json.decode(blob.get(digest), type=Manifest)
    except msgspec.DecodeError as error:
        raise Corrupt(f"training set {digest}: its manifest cannot be read: {error}") from error


def load_training_set(digest: str, blob: Blob, *, key: str) -> TrainingSet:
    """Load a stored training set. `key` is the name of the request's key column.

    Raises:
        NotFound: The training set is not stored.
        Corrupt: The rows are not stored, or are not those that the manifest describes.
    """
    manifest = load_manifest(digest, blob)
    if manifest.parquet is None:
        raise Corrupt(f"training set {digest}: its rows are not stored, only its manifest.")
    flat = read_parquet(blob.get(manifest.parquet))
    manifest = msgspec.structs.replace(manifest, parquet=None)
    parts: dict[str, dict[str, Column]] = {"request": {}, "feature": {}, "reason": {}, "failed": {}, "label": {}}
    for name, column in flat.by_name.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = column
    label = parts["label"]
    requests = Columns(parts["request"])
    found = TrainingSet(
        manifest=manifest,
        keys=requests[key],
        requests=requests,
        at_us=label.pop("at_us").values,
        features=FeatureFrame(
            Columns(parts["feature"]),
            {name: c.values.astype(np.uint8) for name, c in parts["reason"].items()},
            {name: c.values for name, c in parts["failed"].items()},
        ),
        labels=LabelFrame(label["value"].values, label["state"].values.astype(np.uint8), label["known_at_us"].values),
        lists=None if manifest.lists is msgspec.UNSET else numbered_lists(requests, manifest.lists.column),
    )
    if columns_hash(flat) != manifest.data_hash:
        raise Corrupt(f"training set {digest}: blob {manifest.parquet} has other values than the manifest says.")
    return found


def whole_lists(lists: NDArray[np.int64], rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return those of `rows` whose whole list is in `rows`, as a boolean array.

    Args:
        lists: The index of each row's list, shape (rows,); -1 if it belongs to no list.
        rows: Some rows, as a boolean array.

    >>> whole_lists(np.array([0, 0, 1, 1, -1]), np.array([True, True, True, False, True])).tolist()
    [True, True, False, False, False]
    """
    cut = np.zeros(int(lists.max(initial=-1)) + 2, np.bool_)
    cut[lists[~rows]] = True
    mask: NDArray[np.bool_] = rows & (lists >= 0) & ~cut[lists]
    return mask


def numbered_lists(requests: Columns, column: str | None) -> NDArray[np.int64]:
    """Return the index of each row's list, or -1 if it is in no list. Lists are numbered in the order of their ids."""
    assert column is not None  # a ranking always declares this column
    given = requests[column]
    there = given.present()
    lists = np.full(len(there), -1, np.int64)
    lists[there] = np.unique(given.values[there], return_inverse=True)[1].reshape(-1)
    return lists


def _counted(draft: TrainingSet, column: str | None) -> ListCounts | msgspec.UnsetType:
    if draft.lists is None or column is None:
        return msgspec.UNSET
    there = draft.lists[draft.lists >= 0]
    return ListCounts(
        column=column,
        lists=int(np.unique(there).size),
        whole=int(np.unique(draft.lists[draft.usable]).size),
        told=int(np.unique(draft.lists[draft.informative]).size),
        longest=int(np.bincount(there).max(initial=0)),
        rows_without=draft.rows - there.size,
    )


def _flat(training_set: TrainingSet) -> Columns:
    """Return the whole training set as one table."""
    return _inputs(training_set.requests, training_set.features).replace(_targets(training_set).by_name)


def _inputs(requests: Columns, features: FeatureFrame) -> Columns:
    return Columns(
        {
            **{f"request.{name}": column for name, column in requests.by_name.items()},
            **{f"feature.{name}": column for name, column in features.values.by_name.items()},
            **{f"reason.{name}": Column("int", codes.astype(np.int64)) for name, codes in features.reasons.items()},
            **{f"failed.{name}": Column("bool", failed) for name, failed in features.failed.items()},
        }
    )


def _targets(training_set: TrainingSet) -> Columns:
    labels = training_set.labels
    return Columns(
        {
            "label.at_us": Column("int", training_set.at_us),
            "label.value": _floats(labels.values),
            "label.state": Column("int", labels.state.astype(np.int64)),
            "label.known_at_us": Column("int", labels.known_at_us),
        }
    )


def _floats(values: NDArray[np.float64]) -> Column:
    there = ~np.isnan(values)
    return Column("float", values, None if there.all() else there)


def _counts(codes: NDArray[Any], names: tuple[str, ...]) -> dict[str, int]:
    found = np.bincount(codes, minlength=len(names)).tolist()
    return {name: count for name, count in zip(names, found, strict=True) if count}


def _encoded(manifest: Manifest) -> bytes:
    return msgspec.json.encode(manifest, order="deterministic")
