"""Training sets: rows of requests with features as of their time and with the labels known at a cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from trimtab.features.labels import LABEL_STATES, LABELLED, LATE, LabelFrame, LabelIndex
from trimtab.features.offline.evaluation import evaluate
from trimtab.stats.metrics.lists import is_informative
from trimtab.store.ports import Blob
from trimtab.training.data.answers import LoggedAnswers
from trimtab.training.data.parquet import columns_hash, read_parquet, write_parquet
from trimtab.training.data.retroactive_changes import RetroactiveChange
from trimtab.training.definitions import Model


class ListCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The lists of a ranking's training set."""

    column: str  # the column of the request that has the same value in all rows of a list
    lists: int
    whole: int  # lists in which every row has a final label: only these are learnt from and judged
    told: int  # whole lists whose rows differ in relevance: other lists have no best order
    longest: int  # the number of rows of the longest list
    rows_without: int  # rows that belong to no list, because the column is null

    @property
    def text(self) -> str:
        """How many lists may be learnt from, as a part of a sentence."""
        without = f", and {self.rows_without:,} rows have no {self.column!r}" if self.rows_without else ""
        return f"of {self.lists:,} lists {self.whole:,} have a final label for each of their rows{without}"


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """A time interval that is left out of training and judging, because its inputs or labels were faulty."""

    start_us: int
    end_us: int | None  # None: the interval had not ended when the set was made
    why: str  # "null_values of column temp"
    rows: int = 0  # the number of rows of the set that would have been usable

    def covers(self, at_us: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return a mask of the times within the interval."""
        within = at_us >= self.start_us
        return within if self.end_us is None else within & (at_us < self.end_us)


class Manifest(LabelWait, msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a training set. The hash of the manifest identifies the set."""

    format: Literal[1] = 1
    model: str
    request: str  # the hash of the request's definition
    features: str  # the hash of the feature definitions
    label: str  # the hash of the label's definition
    cut_us: int  # the set has only what was known at this time
    wait_us: int  # the wait after which a label counts as final
    positions: dict[str, int]  # the log positions that the set was built from
    rows: int
    usable: int  # rows with a final label: only these may be learnt from
    by_state: dict[str, int]  # the number of rows by label state
    by_reason: dict[str, dict[str, int]]  # the number of rows by reason, for each feature of a view
    data_hash: str  # the hash of all values, reasons and labels
    hindsight: dict[str, RetroactiveChange] = {}  # the changes by column of the request
    origins: dict[str, int] = {}  # the number of rows by origin: "history", "asked" or "logged"; empty: not recorded
    lists: ListCounts | msgspec.UnsetType = msgspec.UNSET  # set only for rankings
    left_out: tuple[LeftOut, ...] | msgspec.UnsetType = msgspec.UNSET  # unset if nothing is left out
    parquet: str | None = None  # the blob that holds the rows, if they were saved


class TrainingSet(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Rows in the order of the requests. Each array has one entry per row."""

    manifest: Manifest
    keys: Column  # the keys of the requests
    requests: Columns
    at_us: NDArray[np.int64]  # the request time of each row
    features: FeatureFrame
    labels: LabelFrame
    lists: NDArray[np.int64] | None = None  # for rankings: the number of each row's list; -1: the row is in no list
    answers: LoggedAnswers | None = None  # logged answers to the rows, if they were loaded; not stored
    half_life_us: int | None = None  # a row that is older by this age counts half in a fit; None: age does not matter

    @property
    def rows(self) -> int:
        return len(self.at_us)

    @property
    def target(self) -> NDArray[np.float64]:
        """The labels; NaN where a row has no label."""
        return self.labels.values

    @property
    def label_known_at_us(self) -> NDArray[np.int64]:
        """The time at which each label became known; `NEVER_US` if it is not known."""
        return self.labels.known_at_us

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Rows that may be learnt from: labelled, and requested long enough before the cut for any label to be final.

        A label that came early does not make its row usable, because rows with fast labels would then be
        over-represented. In a ranking a row is usable only if all rows of its list are usable. Rows of left-out
        intervals are not usable.
        """
        usable = self._final
        for one in self.manifest.left_out or ():
            usable &= ~one.covers(self.at_us)
        return self.whole(usable)

    @property
    def _final(self) -> NDArray[np.bool_]:
        """Rows with a final label."""
        there: NDArray[np.bool_] = np.isin(self.labels.state, (LABELLED, LATE))
        return there & (self.at_us <= self.manifest.final_until(self.manifest.cut_us))

    @property
    def begun_us(self) -> NDArray[np.int64]:
        """The time that puts each row on one side of a split. In a ranking it is that of the first row of the list."""
        if self.lists is None or not self.rows:
            return self.at_us
        begun = np.full(int(self.lists.max()) + 2, NEVER_US, np.int64)  # the last entry is for rows without a list
        np.minimum.at(begun, self.lists, self.at_us)
        return np.where(self.lists < 0, self.at_us, begun[self.lists])

    @property
    def informative(self) -> NDArray[np.bool_]:
        """Usable rows that a model can be judged by. In a ranking: rows of lists whose rows differ in relevance."""
        usable = self.usable
        if self.lists is None or not usable.any():
            return usable
        kept = self.lists[usable]
        place = np.unique(kept, return_inverse=True)[1].reshape(-1)
        mask = usable.copy()
        mask[usable] = is_informative(self.target[usable], place)[place]
        return mask

    def whole(self, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the rows whose whole list is among `rows`. Without lists these are all of `rows`."""
        return rows if self.lists is None else whole_lists(self.lists, rows)

    def lists_of(self, rows: NDArray[Any]) -> NDArray[np.int64] | None:
        """Return the list of each of some rows (numbers or a mask); None if the set has no lists."""
        return None if self.lists is None else self.lists[rows]

    def take(self, rows: NDArray[Any]) -> TrainingSet:
        """Return some rows. The manifest stays that of the whole set."""
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
    """Build the training set of requests from history, with features as serving would have computed them.

    Args:
        model: The model with its request, features and label.
        requests: The columns of the requests. Rows after the cut are left out.
        frames: The history of every source that the features and the label use, by name.
        cut_us: The cut. Nothing that became known later is used.
        positions: The log positions up to which the frames were read.
        left_out: Intervals that are left out of training and judging.

    Raises:
        Misuse: A column or a source is missing, a key or a time is null, or no request is older than the cut.
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
        raise Misuse(f"{what}: none of {requests.rows} requests is before {format_time(cut_us)}. Move the cut.")
    requests, at_us = requests.take(early), at_us[early]
    needed = {view.source.name for view in model.features.views} | {model.label.source.name}
    if absent := sorted(needed - frames.keys()):
        raise Misuse(f"{what}: no history of {', '.join(absent)}. Ingest it, or pass its frame (even an empty one).")
    features = evaluate(model.features, requests, at_us, frames)
    index = LabelIndex(model.label)
    index.update(frames[model.label.source.name])
    labels = index.join(requests[model.request.key].to_list(), at_us, cut_us)
    return assemble(model, requests, at_us, features, labels, cut_us=cut_us, positions=positions, left_out=left_out)


def assemble(
    model: Model,
    requests: Columns,
    at_us: NDArray[np.int64],
    features: FeatureFrame,
    labels: LabelFrame,
    *,
    cut_us: int,
    positions: Mapping[str, int],
    hindsight: Mapping[str, RetroactiveChange] | None = None,
    origins: Mapping[str, int] | None = None,
    left_out: Sequence[LeftOut] = (),
) -> TrainingSet:
    """Make a training set of values that are already known: those of served predictions (log and wait).

    Rows of the intervals in `left_out` stay in the set and are counted, but they are not used in training or judging.

    Raises:
        Misuse: The parts have different lengths, or the features are not those of the model.
    """
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
            f"{what}: features {', '.join(features.values.names)} where {', '.join(model.features.names)} are needed."
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
        ),
        keys=requests[model.request.key],
        requests=requests,
        at_us=at_us,
        features=features,
        labels=labels,
        lists=numbered_lists(requests, model.group) if model.task == "ranking" else None,
    )
    if left_out:
        final = draft._final
        spans = [
            msgspec.structs.replace(one, rows=int((final & one.covers(at_us)).sum()))
            for one in sorted(left_out, key=lambda one: (one.start_us, one.why))
        ]
        found = tuple(one for one in spans if one.rows)
        if found:
            draft = msgspec.structs.replace(draft, manifest=msgspec.structs.replace(draft.manifest, left_out=found))
    manifest = msgspec.structs.replace(
        draft.manifest,
        usable=int(draft.usable.sum()),
        data_hash=columns_hash(_flat(draft)),
        lists=_counted(draft, model.group),
    )
    return msgspec.structs.replace(draft, manifest=manifest)


def save_training_set(training_set: TrainingSet, blob: Blob) -> str:
    """Store a set as Parquet with its manifest, and return the manifest's hash. Equal sets have equal hashes."""
    parquet = blob.put(write_parquet(_flat(training_set)))
    return blob.put(_encoded(msgspec.structs.replace(training_set.manifest, parquet=parquet)))


def save_manifest(training_set: TrainingSet, blob: Blob) -> str:
    """Store a set's manifest without the rows, and return the manifest's hash.

    The rows can be built again from the log by definitions, positions and cut, and compared by the data hash. Replays
    use this function, because they make many sets.
    """
    return blob.put(_encoded(training_set.manifest))


def load_manifest(digest: str, blob: Blob) -> Manifest:
    """Load the manifest of a saved set.

    Raises:
        NotFound: The manifest is not stored.
        Corrupt: The manifest is damaged.
    """
    try:
        return msgspec.json.decode(blob.get(digest), type=Manifest)
    except msgspec.DecodeError as error:
        raise Corrupt(f"training set {digest}: its manifest cannot be read: {error}") from error


def load_training_set(digest: str, blob: Blob, *, key: str) -> TrainingSet:
    """Load a saved set. `key` is the name of the request's key column.

    Raises:
        NotFound: The set is not stored.
        Corrupt: The stored values are not those of the manifest.
    """
    manifest = load_manifest(digest, blob)
    if manifest.parquet is None:
        raise Corrupt(f"training set {digest}: its manifest names no data.")
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
        raise Corrupt(f"training set {digest}: blob {manifest.parquet} does not hold the values of its manifest.")
    return found


def whole_lists(lists: NDArray[np.int64], rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the rows whose whole list is among `rows`.

    Args:
        lists: The number of each row's list, shape (rows,); -1 for rows in no list.
        rows: A mask over the rows.

    >>> whole_lists(np.array([0, 0, 1, 1, -1]), np.array([True, True, True, False, True])).tolist()
    [True, True, False, False, False]
    """
    cut = np.zeros(int(lists.max(initial=-1)) + 2, np.bool_)
    cut[lists[~rows]] = True
    mask: NDArray[np.bool_] = rows & (lists >= 0) & ~cut[lists]
    return mask


def numbered_lists(requests: Columns, column: str | None) -> NDArray[np.int64]:
    """The number of each row's list; -1 for no list. Lists are numbered by id, whatever the order of rows."""
    assert column is not None  # always declared by a ranking
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
    """Return the whole set as one table."""
    labels = training_set.labels
    return Columns(
        {
            **{f"request.{name}": column for name, column in training_set.requests.by_name.items()},
            **{f"feature.{name}": column for name, column in training_set.features.values.by_name.items()},
            **{
                f"reason.{name}": Column("int", codes.astype(np.int64))
                for name, codes in training_set.features.reasons.items()
            },
            **{f"failed.{name}": Column("bool", failed) for name, failed in training_set.features.failed.items()},
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
