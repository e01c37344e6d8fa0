"""Read the requests of a model from the prediction log and from the ingested history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns, Dtype, column, float_column
from trimtab.core.records import Prediction
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.features.definitions import Request
from trimtab.feedback.open_days import is_in_time
from trimtab.serving.answer.answering import PAST
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.training.definitions import Model

_TYPES: dict[Dtype, Any] = {"str": str | None, "int": int | None, "float": float | None, "bool": bool | None}
_TYPES["time"] = int | None
_BLOCK = 250  # the number of requests that are decoded together: these fit into the processor's cache
_LIVE_MODES = frozenset({"live", "online", "replay"})

RequestOf: TypeAlias = "Callable[[str], Request | None]"


class LoggedRequest(msgspec.Struct, frozen=True, gc=False):
    """A request with its first answer: the one with the earliest as-of time."""

    request_id: str
    at_us: int
    version: str  # the id of the version that answered
    request: bytes  # the columns of the request, as encoded in the prediction log
    values: bytes  # the model's inputs; empty unless `LoggedRequests` was created with `inputs`
    reasons: bytes = b""  # for each input, the code that says why it is missing
    answer: float | dict[str, float] | None = None  # the score that the version computed from `values`, if known


class LoggedRequests:
    """The requests of a model with their first answers, from the prediction log.

    Live requests count, and so do rows of batches and answers computed in advance that were answered before their own
    time (see `is_in_time`), as in closed days. Requests about the past do not. If the declared columns changed after a
    request was logged, its columns are matched by name, and new columns are null. A request that cannot be converted
    like this is skipped and counted.

    Args:
        since_us: Requests before this time are skipped.
        inputs: Whether to keep the model's inputs and its answer, too.
        request_of: Returns, for a version's id, the request definition of its training. Without it, all logged
            requests are assumed to have the columns that are declared now.
    """

    def __init__(
        self,
        model: Model,
        predictions: PredictionLog,
        *,
        since_us: int | None = None,
        inputs: bool = False,
        request_of: RequestOf | None = None,
    ) -> None:
        self.first: dict[str, LoggedRequest] = {}  # by request key
        self.other_shapes = 0  # how many predictions were skipped, because their columns cannot be converted
        self._model = model
        self._predictions = predictions
        self._since_us = since_us
        self._inputs = inputs
        self._asked_as = request_of
        self._taken: dict[str, Callable[[bytes], bytes | None]] = {}  # the converter of each version's requests
        self._reached = {} if since_us is None else predictions.positions_before(since_us)

    def read(self) -> None:
        """Read the predictions that were added to the log since the last call."""
        for block, reached in self._predictions.blocks(self._reached, model=self._model.name, batch=2 * _BLOCK):
            self._reached = reached
            for p in block:
                if (p.mode in _LIVE_MODES or is_in_time(p)) and PAST not in p.flags:
                    self._take(p)

    def forget(self, before_us: int) -> list[str]:
        """Drop the requests before a time from memory, and return their keys."""
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
            take = self._taken[p.version] = _taken_as(known, self._model.request)
        request = take(p.request)
        if request is None:
            self.other_shapes += 1
            return
        before = self.first.get(p.request_id)
        if before is None or p.at_us < before.at_us:
            values, reasons, answer = (p.values, p.reasons, _own_answer(p)) if self._inputs else (b"", b"", None)
            self.first[p.request_id] = LoggedRequest(p.request_id, p.at_us, p.version, request, values, reasons, answer)


def _own_answer(p: Prediction) -> float | dict[str, float] | None:
    """Return the score of a prediction if a registered version computed it from the logged inputs, else None."""
    if p.mode != "live" or p.arm == "online" or p.is_degraded:  # an online learner is no registered version
        return None
    return p.score if p.scores is None else p.scores


def _taken_as(recorded: Request | None, now: Request) -> Callable[[bytes], bytes | None]:
    """Return a function that converts a logged request to the columns declared now. It returns None if it cannot.

    Without a recorded request, each request is decoded, to check that it has the columns declared now.
    """
    known = recorded or now
    unchanged = list(known.columns.items()) == list(now.columns.items())
    names, same = list(known.columns), known.columns.items() & now.columns.items()
    places = [names.index(name) if (name, dtype) in same else None for name, dtype in now.columns.items()]
    retyped = any((name, dtype) not in same and name in known.columns for name, dtype in now.columns.items())
    if retyped or {(now.key, now.columns[now.key]), (now.time, "time")} - same:
        return lambda packed: None
    if unchanged and recorded is not None:
        return lambda packed: packed
    decode, encode = _row_decoder(known), msgspec.msgpack.Encoder().encode

    def take(packed: bytes) -> bytes | None:
        try:
            row = decode(packed)
        except msgspec.ValidationError:
            return None
        return packed if unchanged else encode([None if place is None else row[place] for place in places])

    return take


def request_shape(request: Request) -> Callable[[bytes], bool]:
    """Return a function that tells whether a logged request has the columns of `request`, with the same types."""
    decode = _row_decoder(request)

    def fits(packed: bytes) -> bool:
        try:
            decode(packed)
        except msgspec.ValidationError:
            return False
        return True

    return fits


def decode_requests(request: Request, packed: Sequence[bytes]) -> Columns:
    """Return the columns of logged requests. All must have the columns of `request` (see `request_shape`)."""
    decode = _row_decoder(request)
    pieces: dict[str, list[Any]] = {name: [] for name in request.columns}
    for start in range(0, len(packed), _BLOCK):
        values = zip(*map(decode, packed[start : start + _BLOCK]), strict=True)
        for (name, dtype), given in zip(request.columns.items(), values, strict=True):
            pieces[name].append(np.array(given, np.float64) if dtype == "float" else given)  # NaN for None
    return Columns({name: _joined(dtype, pieces[name]) for name, dtype in request.columns.items()})


def _joined(dtype: Dtype, pieces: Sequence[Any]) -> Column:
    if dtype == "float":
        return float_column(np.concatenate(pieces) if pieces else np.empty(0))
    return column(dtype, [*chain.from_iterable(pieces)])


def _row_decoder(request: Request) -> Callable[[bytes], tuple[Any, ...]]:
    columns: Any = tuple[tuple(_TYPES[dtype] for dtype in request.columns.values())]  # type: ignore[misc]  # the type is built at run time
    return msgspec.msgpack.Decoder(columns).decode


def are_among(keys: NDArray[Any], some: NDArray[Any]) -> NDArray[np.bool_]:
    """Return a mask of the keys that occur in `some`.

    NumPy's own `isin` would compare texts pairwise, which is slow.

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
    """Return the ingested requests that were known at `cut_us`, each once, and their times.

    If a request was corrected, its values are those at its own time, or if none were known then, the first ones.
    Requests deleted before `cut_us` are left out; with `deleted`, only those that were deleted before their own time.
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
    return frame.columns.select(request.columns).take(rows), at_us[rows]
