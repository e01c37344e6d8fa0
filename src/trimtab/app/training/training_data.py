"""Training sets of a living project: requests from ingested history and from the prediction log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.app.state.retention_needs import features_from_us, labels_from_us
from trimtab.app.training.logged_rows import EncodingOf, logged_features
from trimtab.app.training.retroactive_requests import request_hindsight
from trimtab.core.columns.data import Columns, Dtype
from trimtab.core.errors import NotFound
from trimtab.core.records import Prediction
from trimtab.core.time import DAY_US, format_time
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.features.definitions import Request
from trimtab.features.feature_set import FeatureSet
from trimtab.features.frames import FeatureFrame
from trimtab.features.labels import LabelIndex
from trimtab.monitoring.inputs.red_windows import FOUND_WITHIN_US
from trimtab.serving.answer.answering import PAST
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.training.data.answers import LoggedAnswers
from trimtab.training.data.retroactive_changes import Hindsight
from trimtab.training.data.sets import LeftOut, TrainingSet, assemble
from trimtab.training.definitions import Model

if TYPE_CHECKING:
    from trimtab.app.features.feature_runs import OpenRun

_logger = logging.getLogger(__name__)
_ASKED = frozenset({"live", "online", "replay"})
_TYPES: dict[Dtype, Any] = {"str": str | None, "int": int | None, "float": float | None, "bool": bool | None}
_TYPES["time"] = int | None
_BLOCK = 500  # requests that are decoded at once
AskedAs: TypeAlias = "Callable[[str], Request | None]"


class LivingData:
    """Builds training sets as of a cut, features as of each request's own moment.

    A request may have been ingested, asked, or both; asked wins, since its moment is then known and not derived.

    Args:
        open_run: Opens what computes a model's features, in memory or on disk, with the history of its requests and
            labels.
        predictions: Where asked requests are.
        kept_from: By source, the moment before which its events were removed: requests that would need them, for a
            feature or for their label, are left out.
        asked_as: Gives the request as a version (by its address) knew it, None where that is not known.
        check: Refuses a model, by its name, whose definitions are not to be trained here.
        encoding_of: Gives the encoding of a version with the model's features, for rows as they were logged.
        placed: Gives a version's definitions their places in the events of this project.
        left_out: By model and cut, the times whose rows are not learnt from.
    """

    def __init__(
        self,
        open_run: OpenRun,
        predictions: PredictionLog,
        *,
        kept_from: Callable[[], Mapping[str, int]] = dict,
        asked_as: AskedAs | None = None,
        check: Callable[[str], object] = lambda model: None,
        encoding_of: EncodingOf = lambda version, features: None,
        placed: Callable[[FeatureSet], FeatureSet] = lambda features: features,
        left_out: Callable[[Model, int], Sequence[LeftOut]] = lambda model, cut_us: (),
    ) -> None:
        self._kept: tuple[str, int, AskedRequests] | None = None  # from `requests` to `training_set` of one cut
        self.other_shapes = 0  # predictions passed over: their request had other columns than are declared now
        self._open_run = open_run
        self._predictions = predictions
        self._kept_from = kept_from
        self._asked_as = asked_as
        self._check = check
        self._encoding_of = encoding_of
        self._placed = placed
        self.left_out = left_out

    def training_set(
        self, model: Model, *, cut_us: int, since_us: int | None = None, answers: bool = False
    ) -> TrainingSet:
        """The set of all requests asked by `cut_us`, or of those asked since a time.

        With `answers` it has the logged answers to them, too.

        Raises:
            NotFound: There is none.
            Conflict: Other definitions of the model were applied meanwhile.
        """
        self._check(model.name)
        with self._open_run(model) as opened:
            asked = self._asked(model, cut_us, self._read_for_pin(model, cut_us, since_us, answers))
            chosen = self._chosen(model, opened.frames[model.request.name], cut_us, asked, since_us)
            requests, at_us = chosen.requests, chosen.at_us
            cut_us = settled_cut(model, opened.frames, at_us, cut_us)
            labels = LabelIndex(model.label)
            labels.update(opened.frames[model.label.source.name])
            if model.rows == "logged":
                features = logged_features(model.features, list(filter(None, chosen.rows)), self._encoding_of)
            else:
                features = opened.evaluate(model.features, requests, at_us)
                said = "%s: the features of %d requests were computed %s"
                _logger.info(said, model.name, requests.rows, opened.run.where)
            found = assemble(
                model,
                requests,
                at_us,
                features,
                labels.join(requests[model.request.key].to_list(), at_us, cut_us),
                cut_us=cut_us,
                positions=opened.run.positions,
                hindsight=chosen.hindsight(model, opened.frames[model.request.name], cut_us),
                origins=chosen.origins,
                left_out=self.left_out(model, cut_us),
            )
            return msgspec.structs.replace(found, answers=LoggedAnswers.of(chosen.rows)) if answers else found

    def features_of(
        self, model: Model, features: FeatureSet, requests: Columns, at_us: NDArray[np.int64]
    ) -> FeatureFrame:
        """The features of other definitions than the model's, for some of its requests.

        Raises:
            Misuse: They need a column of the request that is not declared any more.
            NotFound: They need a source that is not declared any more.
        """
        placed = self._placed(features)
        with self._open_run(msgspec.structs.replace(model, features=placed)) as opened:
            return opened.evaluate(placed, requests, at_us)

    def requests(self, model: Model, frame: EventFrame, cut_us: int) -> tuple[Columns, NDArray[Any]]:
        """The requests and the moments of which they were asked, in their order.

        Raises:
            NotFound: There is none.
            Conflict: Other definitions of the model were applied meanwhile.
        """
        self._check(model.name)
        found = self._asked_requests(model)
        chosen = self._chosen(model, frame, cut_us, self._asked(model, cut_us, found))
        self._kept = (model.hash, cut_us, found)
        return chosen.requests, chosen.at_us

    def _asked_requests(self, model: Model, since_us: int | None = None, answers: bool = False) -> AskedRequests:
        inputs, asked_as = answers or model.rows == "logged", self._asked_as
        return AskedRequests(model, self._predictions, since_us=since_us, inputs=inputs, asked_as=asked_as)

    def _read_for_pin(self, model: Model, cut_us: int, since_us: int | None, answers: bool) -> AskedRequests:
        """What was read of the log for the pin of this cut, of none else: older ones hold who was erased since."""
        if since_us is not None or answers:
            return self._asked_requests(model, since_us, answers)
        kept, self._kept = self._kept, None
        return kept[2] if kept is not None and kept[:2] == (model.hash, cut_us) else self._asked_requests(model)

    def _chosen(
        self, model: Model, frame: EventFrame, cut_us: int, found: list[AskedRequest], since_us: int | None = None
    ) -> _Chosen:
        if model.rows == "logged":
            return self._logged(model, found)
        asked, asked_at_us = _table(model, found)
        known, known_at_us = ingested_requests(model.request, frame, cut_us)
        fresh = ~are_among(known[model.request.key].values, asked[model.request.key].values)
        requests = Columns.concat([known.take(fresh), asked])
        at_us: NDArray[Any] = np.concatenate([known_at_us[fresh], asked_at_us])
        kept = self._of_what_is_kept(model, at_us, since_us=since_us)
        if not kept.size:
            raise NotFound(
                f"model {model.name!r}: no request {model.request.name!r} is known. Load its history: "
                f"trimtab ingest {model.request.name} FILE"
            )
        order = kept[np.argsort(at_us[kept], kind="stable")]
        history = known.take(fresh)
        from_history = int((kept < history.rows).sum())
        origins = {"history": from_history, "asked": kept.size - from_history}
        logged: list[AskedRequest | None] = [*repeat(None, history.rows), *found]
        rows = [logged[row] for row in order.tolist()]
        return _Chosen(requests.take(order), at_us[order], origins, rows, asked=asked, history=history)

    def _logged(self, model: Model, asked: list[AskedRequest]) -> _Chosen:
        """The requests that were answered by versions with the model's features, with what they were answered from."""
        rows = [row for row in asked if self._encoding_of(row.version, model.features) is not None]
        rows.sort(key=lambda row: row.at_us)
        requests, at_us = _table(model, rows)
        kept = self._of_what_is_kept(model, at_us, labels_only=True)
        if not kept.size:
            raise NotFound(
                f'model {model.name!r} learns from logged rows (rows="logged"), and none of {len(asked)} requests was '
                'answered by a version with its features. Train and serve one with rows="history" first.'
            )
        origins = {"logged": kept.size, "other_features": len(asked) - len(rows)}
        return _Chosen(requests.take(kept), at_us[kept], origins, [rows[place] for place in kept.tolist()])

    def _of_what_is_kept(
        self, model: Model, at_us: NDArray[Any], *, labels_only: bool = False, since_us: int | None = None
    ) -> NDArray[np.int64]:
        """The rows whose features and labels can still be told from the events that are kept. # D23"""
        kept_from = self._kept_from()
        from_us = labels_from_us(model, kept_from)
        if not labels_only:
            from_us = max(features_from_us(model.features, kept_from), from_us)
        kept = np.flatnonzero(at_us >= from_us)
        if kept.size < at_us.size:
            said = "%s: %d requests of before %s are left out of the training set: not all events they need are kept"
            _logger.info(said, model.name, at_us.size - kept.size, format_time(from_us))
        return kept if since_us is None else kept[at_us[kept] >= since_us]

    def _asked(self, model: Model, cut_us: int, asked: AskedRequests) -> list[AskedRequest]:
        """The first time each request was asked, from the prediction log."""
        asked.read()
        self.other_shapes = asked.other_shapes
        if asked.other_shapes:
            _logger.warning(
                "%s: %d predictions are left out of the training set: their request had other columns than are "
                "declared now",
                model.name,
                asked.other_shapes,
            )
        return [p for p in asked.first.values() if p.at_us <= cut_us]


class _Chosen(msgspec.Struct, frozen=True, eq=False):
    """The requests of a training set, in the order asked."""

    requests: Columns
    at_us: NDArray[Any]
    origins: dict[str, int]
    rows: Sequence[AskedRequest | None]  # as the prediction log has them; None: known from history alone
    asked: Columns | None = None  # without `rows="logged"`: those of the prediction log
    history: Columns | None = None  # and those that are known from history alone

    def hindsight(self, model: Model, frame: EventFrame, cut_us: int) -> dict[str, Hindsight]:
        """What the columns that features read held when requests were asked, and what they hold at the cut."""
        if self.asked is None or self.history is None:
            return {}
        read = model.features.request_columns
        return request_hindsight(model.request, read, frame, self.asked, self.history, cut_us)


def _table(model: Model, rows: Sequence[AskedRequest]) -> tuple[Columns, NDArray[Any]]:
    return decode_requests(model.request, [p.request for p in rows]), np.array([p.at_us for p in rows], np.int64)


def settled_cut(model: Model, frames: Mapping[str, EventFrame], at_us: NDArray[Any], cut_us: int) -> int:
    """The last moment up to `cut_us` at which anything about a training set changed.

    A set of this cut has the rows, labels, states and closed days of one of `cut_us`. So what is trained twice of the
    same data has the same address, however much time has passed in between.

    Args:
        model: Whose set.
        frames: At least the events of its requests and labels.
        at_us: The moments of its requests.
        cut_us: What became known later does not count.
    """
    day_ends_us = (at_us // DAY_US + 1) * DAY_US
    wait_us = model.label.wait_us
    moments = [at_us, at_us + wait_us, at_us + max(wait_us, FOUND_WITHIN_US), day_ends_us + wait_us]
    for name in sorted({model.request.name, model.label.source.name}):
        frame = frames[name]
        moments += [frame.known_at_us, frame.superseded_at_us]
    return max((int(m[m <= cut_us].max()) for m in moments if (m <= cut_us).any()), default=cut_us)


class AskedRequest(msgspec.Struct, frozen=True, gc=False):
    """A request as it was first asked."""

    request_id: str
    at_us: int
    version: str  # the address of the version that answered
    request: bytes  # its columns as the prediction log keeps them
    values: bytes  # the model's inputs, if they are wanted
    reasons: bytes = b""  # theirs
    answer: float | dict[str, float] | None = None  # the version's own score of these inputs, if they are wanted


class AskedRequests:
    """Requests as they were first asked, from the prediction log.

    Only questions of their own moment count: not answers made ahead or in batches, nor questions about the past.
    A request that was asked of a version which knew it with other columns is taken by the names of its columns, null
    where it had none. Predictions whose request cannot be taken so are passed over and counted.

    Args:
        model: Whose requests.
        predictions: The log.
        since_us: Pass over what was asked before.
        inputs: Keep the model's inputs and its answer, too.
        asked_as: Gives the request as a version (by its address) knew it; left out, as it is declared now.
    """

    def __init__(
        self,
        model: Model,
        predictions: PredictionLog,
        *,
        since_us: int | None = None,
        inputs: bool = False,
        asked_as: AskedAs | None = None,
    ) -> None:
        self.first: dict[str, AskedRequest] = {}  # by request key, in the order asked
        self.other_shapes = 0
        self._model = model
        self._predictions = predictions
        self._since_us = since_us
        self._inputs = inputs
        self._asked_as = asked_as
        self._taken: dict[str, Callable[[bytes], bytes | None]] = {}  # by version
        self._reached = {} if since_us is None else predictions.positions_before(since_us)

    def read(self) -> None:
        """Read what is new in the log."""
        for block, reached in self._predictions.blocks(self._reached, model=self._model.name):
            self._reached = reached
            for p in block:
                if p.mode in _ASKED and PAST not in p.flags:
                    self._take(p)

    def forget(self, before_us: int) -> list[str]:
        """Drop what was asked before a moment; the keys."""
        old = [key for key, p in self.first.items() if p.at_us < before_us]
        for key in old:
            del self.first[key]
        return old

    def _take(self, p: Prediction) -> None:
        if self._since_us is not None and p.at_us < self._since_us:
            return
        take = self._taken.get(p.version)
        if take is None:
            known = None if self._asked_as is None else self._asked_as(p.version)
            take = self._taken[p.version] = _taken_as(known or self._model.request, self._model.request)
        request = take(p.request)
        if request is None:
            self.other_shapes += 1
            return
        before = self.first.get(p.request_id)
        if before is None or p.at_us < before.at_us:
            values, reasons, answer = (p.values, p.reasons, _own_answer(p)) if self._inputs else (b"", b"", None)
            self.first[p.request_id] = AskedRequest(p.request_id, p.at_us, p.version, request, values, reasons, answer)


def _own_answer(p: Prediction) -> float | dict[str, float] | None:
    """The score of a prediction if its version, as it was registered, gave it to the logged inputs; else None."""
    if p.mode != "live" or p.arm == "online" or p.is_degraded:  # a learner is not as it was registered
        return None
    return p.score if p.scores is None else p.scores


def _taken_as(known: Request, now: Request) -> Callable[[bytes], bytes | None]:
    """From a request as the prediction log keeps it to the columns that are declared now; None where that cannot be."""
    unchanged = list(known.columns.items()) == list(now.columns.items())
    names, same = list(known.columns), known.columns.items() & now.columns.items()
    places = [names.index(name) if (name, dtype) in same else None for name, dtype in now.columns.items()]
    retyped = any((name, dtype) not in same and name in known.columns for name, dtype in now.columns.items())
    if retyped or {(now.key, now.columns[now.key]), (now.time, "time")} - same:
        return lambda packed: None
    decode, encode = _row_decoder(known), msgspec.msgpack.Encoder().encode

    def take(packed: bytes) -> bytes | None:
        try:
            row = decode(packed)
        except msgspec.ValidationError:
            return None
        return packed if unchanged else encode([None if place is None else row[place] for place in places])

    return take


def request_shape(request: Request) -> Callable[[bytes], bool]:
    """Whether a request, as the prediction log keeps it, has as many columns as are declared now, of their types."""
    decode = _row_decoder(request)

    def fits(packed: bytes) -> bool:
        try:
            decode(packed)
        except msgspec.ValidationError:
            return False
        return True

    return fits


def decode_requests(request: Request, packed: Sequence[bytes]) -> Columns:
    """The columns of requests as the prediction log keeps them; `request_shape` says whether each is of this shape."""
    decode = _row_decoder(request)
    parts = []
    for start in range(0, len(packed), _BLOCK):  # so few that the values of one are still in the processor's cache
        values = zip(*map(decode, packed[start : start + _BLOCK]), strict=True)
        of_columns = zip(request.columns.items(), values, strict=True)
        parts.append(Columns.of({name: (dtype, given) for (name, dtype), given in of_columns}))
    return Columns.concat(parts or [Columns.of({name: (dtype, ()) for name, dtype in request.columns.items()})])


def _row_decoder(request: Request) -> Callable[[bytes], tuple[Any, ...]]:
    columns: Any = tuple[tuple(_TYPES[dtype] for dtype in request.columns.values())]  # type: ignore[misc]  # made from data
    return msgspec.msgpack.Decoder(columns).decode


def are_among(keys: NDArray[Any], some: NDArray[Any]) -> NDArray[np.bool_]:
    """Which keys are among some others, a mask. NumPy compares texts all with all.

    >>> are_among(np.array(["a", "b", "a"], object), np.array(["a", "c"], object)).tolist()
    [True, False, True]
    """
    if keys.dtype != object:
        return np.isin(keys, some)
    known = frozenset(some.tolist())
    return np.fromiter((key in known for key in keys.tolist()), np.bool_, len(keys))


def ingested_requests(
    request: Request, frame: EventFrame, cut_us: int, *, deleted: bool = False
) -> tuple[Columns, NDArray[Any]]:
    """Requests that were ingested and known at a cut, each once, and when they were asked.

    A request that was changed is asked as it stood when its moment came: a version that was replaced before its own
    moment was never asked. One whose deletion is known at the cut is none, or (`deleted`) only if it was never asked.
    """
    at_us: NDArray[Any] = frame.event_at_us - request.lead_us
    keys = frame.columns[request.key].values
    known = frame.known_at_us <= cut_us
    gone = keys[known & frame.deleted & (frame.superseded_at_us > cut_us)]
    counts = known & ~frame.deleted & (at_us <= cut_us) & (frame.superseded_at_us > at_us)
    if len(gone) and not deleted:
        counts &= ~are_among(keys, gone)
    rows = np.flatnonzero(counts)
    rows = rows[np.argsort(at_us[rows], kind="stable")]
    if (frame.superseded_at_us != NEVER_US).any():
        _, first = np.unique(keys[rows], return_index=True)
        rows = rows[np.sort(first)]
    return frame.columns.take(rows).select(request.columns), at_us[rows]
