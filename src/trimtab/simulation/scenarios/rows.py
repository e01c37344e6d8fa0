"""The questions of a replay in the order in which they are asked, with their features: what training learns from."""

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
    """Consecutive questions [start, stop) with one model's features, as of each question's own time."""

    start: int
    stop: int
    requests: Columns
    at_us: NDArray[Any]
    features: FeatureFrame
    payloads: Sequence[bytes]  # the columns of each request, as the prediction log stores them
    positions: Mapping[str, int]


class Questions:
    """All requests of one kind, sorted by the time of asking: `_known_at`, or their time minus the lead."""

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
        """The number of questions that are asked before `us`."""
        return int(np.searchsorted(self.at_us, us, "left"))


class AnsweredRows:
    """Features and labels of the questions so far, stored once for all scenarios.

    The feature values are those from which the predictions were made. Tests of `simulation` compare them with a
    training set built from the log.
    """

    def __init__(self, questions: Questions, history: History) -> None:
        self._questions = questions
        self._history = history
        self._frames: dict[str, list[FeatureFrame]] = {}
        self._labels: dict[str, LabelIndex] = {}
        self._sets: dict[tuple[str, int, int | None, tuple[LeftOut, ...]], TrainingSet] = {}
        self.count = 0

    def answer(self, feature_sets: Sequence[FeatureSet], until_us: int) -> dict[str, Block]:
        """Compute the questions asked before `until_us` that are not answered yet: a block by feature set's hash."""
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
        """The number of questions that are asked before `us`."""
        return self._questions.until(us)

    def at_us(self, rows: slice) -> NDArray[Any]:
        """The times at which some questions are asked."""
        at_us: NDArray[Any] = self._questions.at_us[rows]
        return at_us

    def keys(self, rows: slice) -> list[object]:
        """The keys of some questions."""
        found: list[object] = self._questions.keys[rows].tolist()
        return found

    def row_of(self, key: object) -> int:
        """The index of the question that has this key; -1 if there is none."""
        return self._questions.row_of.get(key, -1)

    def values(self, features: FeatureSet, rows: Sequence[int]) -> Columns:
        """The feature values of questions that were already answered."""
        return self._features(features, self.count).values.take(np.array(rows, np.int64))

    def arrivals(self, label: Label) -> LabelArrivals:
        """The labels of these questions one by one, from now on, in the order in which the labels become known."""
        return LabelArrivals(label, self._history, self._questions)

    def ahead(self, features: FeatureSet, as_of_us: int, start_us: int, stop_us: int) -> Block:
        """Questions that will be asked in [start_us, stop_us), with features as of `as_of_us`: a batch made ahead."""
        start, stop = self._questions.until(start_us), self._questions.until(stop_us)
        requests = self._questions.table.take(slice(start, stop))
        at_us = np.full(stop - start, as_of_us, np.int64)
        frame = evaluate(features, requests, at_us, self._event_frames(features))
        return Block(start, stop, requests, at_us, frame, _payloads(requests), dict(self._history.positions))

    def labels(self, label: Label, rows: slice, cut_us: int, at_us: NDArray[Any] | None = None) -> NDArray[Any]:
        """The labels of some questions that are known at `cut_us`, NaN if there is no label."""
        asked_us = self._questions.at_us[rows] if at_us is None else at_us
        joined: NDArray[Any] = self._index(label).join(self._questions.keys[rows], asked_us, cut_us).values
        return joined

    def lists(self, model: Model, rows: slice) -> NDArray[np.int64]:
        """The index of the list that each of some questions belongs to, -1 for none."""
        return numbered_lists(self._questions.table.take(rows), model.group)

    def label_reader(self, label: Label) -> LabelReader:
        """A reader that finds the labels of questions in the history that exists when it is called."""

        def read(keys: Column, at_us: NDArray[Any], cut_us: NDArray[Any], /) -> KnownLabels:
            found = self._index(label).join(keys.values, at_us, cut_us)
            return KnownLabels(found.values, found.known_at_us)

        return read

    def frame(self, source: str) -> EventFrame:
        """The events of a source that are known by now."""
        return self._history.frame(source)

    def training_set(
        self, model: Model, *, cut_us: int, since_us: int | None = None, left_out: Sequence[LeftOut] = ()
    ) -> TrainingSet:
        """The questions asked by `cut_us` as a training set; rows from times in `left_out` are not learnt from."""
        key = (model.hash, cut_us, since_us, tuple(left_out))
        if key not in self._sets:
            first = 0 if since_us is None else self._questions.until(since_us)
            rows = slice(first, min(self.count, int(np.searchsorted(self._questions.at_us, cut_us, "right"))))
            at_us = self._questions.at_us[rows]
            labels = self._index(model.label).join(self._questions.keys[rows], at_us, cut_us)
            # only the sets of this cut are kept
            self._sets = {k: s for k, s in self._sets.items() if k[1] == cut_us}
            self._sets[key] = assemble(
                model,
                self._questions.table.take(rows),
                at_us,
                self._features(model.features, rows.stop, first),
                labels,
                cut_us=cut_us,
                positions=self._history.positions,
                left_out=left_out,
            )
        return self._sets[key]

    def features_of(
        self, model: Model, features: FeatureSet, requests: Columns, at_us: NDArray[np.int64]
    ) -> FeatureFrame:
        """The features of definitions other than the model's, for some of the model's questions."""
        return evaluate(features, requests, at_us, self._event_frames(features))

    def _features(self, features: FeatureSet, count: int, first: int = 0) -> FeatureFrame:
        frames = self._frames[features.hash]
        if len(frames) > 1:  # the parts are joined once, and then kept joined
            frames[:] = [FeatureFrame.concat(frames)]
        return frames[0].take(slice(first, count))

    def _event_frames(self, features: FeatureSet) -> dict[str, EventFrame]:
        return {view.source.name: self._history.frame(view.source.name) for view in features.views}

    def _index(self, label: Label) -> LabelIndex:
        index = self._labels.setdefault(label.hash, LabelIndex(label))
        index.update(self._history.frame(label.source.name))
        return index


class ScenarioData:
    """The training sets of one scenario, without the rows of the scenario's red windows.

    Args:
        rows: The questions and their features.
        left_out: Returns the times whose rows are not learnt from at a cut, as they are when it is called.
    """

    def __init__(self, rows: AnsweredRows, left_out: Callable[[int], Sequence[LeftOut]]) -> None:
        self._rows = rows
        self._left_out = left_out

    def training_set(
        self, model: Model, *, cut_us: int, since_us: int | None = None, answers: bool = False
    ) -> TrainingSet:
        """See `AnsweredRows.training_set`. Logged answers are not read back, so `answers` has no effect."""
        return self._rows.training_set(model, cut_us=cut_us, since_us=since_us, left_out=self._left_out(cut_us))

    def features_of(
        self, model: Model, features: FeatureSet, requests: Columns, at_us: NDArray[np.int64]
    ) -> FeatureFrame:
        """See `AnsweredRows.features_of`."""
        return self._rows.features_of(model, features, requests, at_us)


class LabelArrivals:
    """Label events as they arrive, each with the question that it belongs to."""

    def __init__(self, label: Label, history: History, questions: Questions) -> None:
        self._label = label
        self._history = history
        self._questions = questions
        self._seen = history.frame(label.source.name).rows
        self._waiting: list[tuple[int, int, float]] = []  # sorted by (known at, row, value)

    def until(self, us: int) -> list[tuple[int, float]]:
        """Rows and labels that became known after the last call and before `us`."""
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
