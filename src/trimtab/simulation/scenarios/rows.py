"""The requests of a replay in the order in which they are made, with their features and labels for training."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns
from trimtab.core.expressions.by_columns import evaluate_columns
from trimtab.events.columns.frames import EventFrame
from trimtab.events.columns.history import History
from trimtab.features.definitions import Label, Request
from trimtab.features.feature_set import FeatureSet
from trimtab.features.frames import FeatureFrame
from trimtab.features.labels import LabelIndex
from trimtab.features.offline.evaluation import evaluate
from trimtab.feedback.outcomes import KnownLabels, LabelReader
from trimtab.training.data.sets import LeftOut, TrainingSet, assemble, numbered_lists
from trimtab.training.definitions import Model


class Block(msgspec.Struct, frozen=True, eq=False):
    """Consecutive requests with the indices start to stop - 1, and their features for one model."""

    start: int
    stop: int
    requests: Columns
    at_us: NDArray[Any]  # the as-of time of each request's features; see also `AnsweredRows.ahead`
    features: FeatureFrame
    payloads: Sequence[bytes]  # the columns of each request, encoded as in the prediction log
    positions: Mapping[str, int]  # for each partition of the event log, the position up to which features include it
    shared: dict[object, Any] = msgspec.field(default_factory=dict)  # see `once`

    def once(self, key: object, make: Callable[[], Any]) -> Any:
        """Return the result of `make`, which is only called for the first scenario with this key."""
        if key not in self.shared:
            self.shared[key] = make()
        return self.shared[key]


class Questions:
    """All requests of one kind, sorted by the time at which they are made.

    A request is made at its `_known_at` if it has one, and otherwise at its own time minus the lead.
    """

    def __init__(self, request: Request, table: Columns) -> None:
        time = table[request.time]
        asked_us = time.values - request.lead_us
        if "_known_at" in table:
            given = table["_known_at"]
            asked_us = np.where(given.present(), given.values, asked_us)
        order = np.lexsort((np.array(table[request.key].to_list(), dtype=str), asked_us))
        order = order[time.present()[order]]
        self.request = request
        self.table = table.take(order).select(request.columns)
        self.at_us: NDArray[Any] = asked_us[order]
        self.keys: NDArray[Any] = self.table[request.key].values
        self.row_of = {key: row for row, key in enumerate(self.keys.tolist())}

    def until(self, us: int) -> int:
        """Return the number of requests that are made before `us`."""
        return int(np.searchsorted(self.at_us, us, "left"))


class AnsweredRows:
    """The features and labels of the requests up to now, stored once for all scenarios.

    Models are fitted on the feature values that were computed for the predictions. A test checks that a training set
    built from the log has the same values.
    """

    def __init__(self, questions: Questions, history: History) -> None:
        self._questions = questions
        self._history = history
        self._frames: dict[str, list[FeatureFrame]] = {}
        self._labels: dict[str, tuple[LabelIndex, NDArray[Any]]] = {}  # each with the numbers of the requests' keys
        self._sets: dict[tuple[str, int, int | None, tuple[LeftOut, ...]], TrainingSet] = {}
        self.count = 0

    def answer(self, feature_sets: Sequence[FeatureSet], until_us: int) -> dict[str, Block]:
        """Compute features for new requests before `until_us`. Return a block for each feature set, by its hash."""
        start, stop = self.count, self._questions.until(until_us)
        requests = self._questions.table.take(slice(start, stop))
        at_us = self._questions.at_us[start:stop]
        payloads = _payloads(requests)
        blocks = {}
        for features in feature_sets:
            frame = evaluate(features, requests, at_us, self._event_frames(features))
            self._frames.setdefault(features.hash, []).append(frame)
            blocks[features.hash] = Block(start, stop, requests, at_us, frame, payloads, dict(self._history.positions))
        self.count = stop
        return blocks

    def asked_before(self, us: int) -> int:
        """Return the number of requests that are made before `us`."""
        return self._questions.until(us)

    def at_us(self, rows: slice) -> NDArray[Any]:
        """Return the times at which the given requests are made."""
        at_us: NDArray[Any] = self._questions.at_us[rows]
        return at_us

    def keys(self, rows: slice) -> list[object]:
        """Return the keys of the given requests."""
        found: list[object] = self._questions.keys[rows].tolist()
        return found

    def row_of(self, key: object) -> int:
        """Return the index of the request with a key; -1 if there is none."""
        return self._questions.row_of.get(key, -1)

    def values(self, features: FeatureSet, rows: Sequence[int]) -> Columns:
        """Return the feature values of requests that were already scored."""
        return self._features(features, self.count).values.take(np.array(rows, np.int64))

    def arrivals(self, label: Label) -> LabelArrivals:
        """Return an object that gives the labels of these requests as they become known, from now on."""
        return LabelArrivals(label, self._history, self._questions)

    def ahead(self, features: FeatureSet, as_of_us: int, start_us: int, stop_us: int) -> Block:
        """Return the requests made in [start_us, stop_us), with features as of the earlier time `as_of_us`.

        A batch job that scores them at `as_of_us`, before they are made, would read these features.
        """
        start, stop = self._questions.until(start_us), self._questions.until(stop_us)
        requests = self._questions.table.take(slice(start, stop))
        at_us = np.full(stop - start, as_of_us, np.int64)
        frame = evaluate(features, requests, at_us, self._event_frames(features))
        return Block(start, stop, requests, at_us, frame, _payloads(requests), dict(self._history.positions))

    def labels(self, label: Label, rows: slice, cut_us: int, at_us: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the labels of the given requests that are known at `cut_us`; NaN: there is none."""
        asked_us = self._questions.at_us[rows] if at_us is None else at_us
        index, numbers = self._index(label)
        joined: NDArray[Any] = index.join_numbered(numbers[rows], asked_us, cut_us).values
        return joined

    def lists(self, model: Model, rows: slice) -> NDArray[np.int64]:
        """Return the index of each given request's list; -1: it is in no list."""
        return numbered_lists(self._questions.table.take(rows), model.group)

    def label_reader(self, label: Label) -> LabelReader:
        """Return a reader that finds labels of requests in the history, as it is when the reader is called."""

        def read(keys: Column, at_us: NDArray[Any], cut_us: NDArray[Any], /) -> KnownLabels:
            found = self._index(label)[0].join(keys.values, at_us, cut_us)
            return KnownLabels(found.values, found.known_at_us)

        return read

    def frame(self, source: str) -> EventFrame:
        """Return the events of a source that are known by now."""
        return self._history.frame(source)

    def training_set(
        self, model: Model, *, cut_us: int, since_us: int | None = None, left_out: Sequence[LeftOut] = ()
    ) -> TrainingSet:
        """Return the requests from `since_us` to `cut_us` as a training set. Fits skip the time windows `left_out`."""
        key = (model.hash, cut_us, since_us, tuple(left_out))
        if key not in self._sets:
            first = 0 if since_us is None else self._questions.until(since_us)
            rows = slice(first, min(self.count, int(np.searchsorted(self._questions.at_us, cut_us, "right"))))
            at_us = self._questions.at_us[rows]
            index, numbers = self._index(model.label)
            # keep only the training sets of this cut
            self._sets = {k: s for k, s in self._sets.items() if k[1] == cut_us}
            self._sets[key] = assemble(
                model,
                self._questions.table.take(rows),
                at_us,
                self._features(model.features, rows.stop, first),
                lambda: index.join_numbered(numbers[rows], at_us, cut_us),
                cut_us=cut_us,
                positions=self._history.positions,
                left_out=left_out,
            )
        return self._sets[key]

    def features_of(
        self, model: Model, features: FeatureSet, requests: Columns, at_us: NDArray[np.int64]
    ) -> FeatureFrame:
        """Return the features of a given feature set for some of the model's requests."""
        return evaluate(features, requests, at_us, self._event_frames(features))

    def _features(self, features: FeatureSet, count: int, first: int = 0) -> FeatureFrame:
        frames = self._frames[features.hash]
        if len(frames) > 1:  # join the parts once, and keep the result
            frames[:] = [FeatureFrame.concat(frames)]
        return frames[0].take(slice(first, count))

    def _event_frames(self, features: FeatureSet) -> dict[str, EventFrame]:
        return {view.source.name: self._history.frame(view.source.name) for view in features.views}

    def _index(self, label: Label) -> tuple[LabelIndex, NDArray[Any]]:
        if label.hash not in self._labels:
            index = LabelIndex(label)
            self._labels[label.hash] = index, index.numbers(self._questions.keys.tolist())
        found = self._labels[label.hash]
        found[0].update(self._history.frame(label.source.name))
        return found


class ScenarioData:
    """The training sets of one scenario. No fit uses rows from time windows with red input signals.

    Args:
        left_out: Given a cut, returns the time windows whose rows no fit uses. It is called for each training set.
    """

    def __init__(self, rows: AnsweredRows, left_out: Callable[[int], Sequence[LeftOut]]) -> None:
        self._rows = rows
        self._left_out = left_out

    def training_set(
        self, model: Model, *, cut_us: int, since_us: int | None = None, answers: bool = False
    ) -> TrainingSet:
        """Return a training set; see `AnsweredRows.training_set`. `answers` has no effect here."""
        return self._rows.training_set(model, cut_us=cut_us, since_us=since_us, left_out=self._left_out(cut_us))

    def features_of(
        self, model: Model, features: FeatureSet, requests: Columns, at_us: NDArray[np.int64]
    ) -> FeatureFrame:
        """Return features; see `AnsweredRows.features_of`."""
        return self._rows.features_of(model, features, requests, at_us)


class LabelArrivals:
    """Labels in the order in which they become known, each with the index of its request."""

    def __init__(self, label: Label, history: History, questions: Questions) -> None:
        self._label = label
        self._history = history
        self._questions = questions
        self._seen = history.frame(label.source.name).rows
        self._waiting: list[tuple[int, int, float]] = []  # sorted by (known at, row, value)

    def until(self, us: int) -> list[tuple[int, float]]:
        """Return the labels that became known since the last call and before `us`, each with its request's index."""
        self._read()
        taken = bisect_left(self._waiting, (us, -1, 0.0))
        out = [(row, value) for _, row, value in self._waiting[:taken]]
        del self._waiting[:taken]
        return out

    def _read(self) -> None:
        frame = self._history.frame(self._label.source.name)
        if frame.rows == self._seen:
            return
        new = frame.take(slice(self._seen, frame.rows))
        self._seen = frame.rows
        values = evaluate_columns(self._label.value, new.columns)
        keys = new.columns[self._label.key].to_list()
        for key, known_us, event_us, gone, value, there in zip(
            keys,
            new.known_at_us.tolist(),
            new.event_at_us.tolist(),
            new.deleted.tolist(),
            values.values.tolist(),
            values.present().tolist(),
            strict=True,
        ):
            row = self._questions.row_of.get(key)
            if row is not None and there and not gone and event_us >= self._questions.at_us[row]:
                self._waiting.append((known_us, row, float(value)))
        self._waiting.sort()


def _payloads(requests: Columns) -> list[bytes]:
    encode = msgspec.msgpack.Encoder().encode
    return [encode(row) for row in zip(*(c.to_list() for c in requests.by_name.values()), strict=True)]
