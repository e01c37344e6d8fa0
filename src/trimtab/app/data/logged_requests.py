"""Requests of a model from the prediction log and from ingested history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Columns, Dtype
from trimtab.core.records import Prediction
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.features.definitions import Request
from trimtab.serving.answer.answering import PAST
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.training.definitions import Model

if TYPE_CHECKING:
    pass

_TYPES: dict[Dtype, Any] = {"str": str | None, "int": int | None, "float": float | None, "bool": bool | None}
_TYPES["time"] = int | None
_BLOCK = 500  # requests decoded at once
_LIVE_MODES = frozenset({"live", "online", "replay"})

RequestOf: TypeAlias = "Callable[[str], Request | None]"


class LoggedRequest(msgspec.Struct, frozen=True, gc=False):
    """A request as it was first answered."""

    request_id: str
    at_us: int
    version: str  # the id of the version that answered
    request: bytes  # its columns, as encoded in the prediction log
    values: bytes  # the model's inputs, if requested
    reasons: bytes = b""  # the reasons of missing inputs
    answer: float | dict[str, float] | None = None  # the version's own score of these inputs, if requested


class LoggedRequests:
    """Requests as they were first answered, from the prediction log.

    Only live requests count: no precomputed or batch answers, no requests about the past. A request that a version knew
    with other columns is matched by column name, with nulls for new columns; if that is impossible, it is skipped and
    counted.

    Args:
        model: The model.
        predictions: The prediction log.
        since_us: Skip requests before this time.
        inputs: Keep the model's inputs and its answer, too.
        asked_as: Returns the request as a version (by id) knew it; default: as declared now.
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
        self.first: dict[str, LoggedRequest] = {}  # by request key, in the order asked
        self.other_shapes = 0
        self._model = model
        self._predictions = predictions
        self._since_us = since_us
        self._inputs = inputs
        self._asked_as = request_of
        self._taken: dict[str, Callable[[bytes], bytes | None]] = {}  # by version
        self._reached = {} if since_us is None else predictions.positions_before(since_us)

    def read(self) -> None:
        """Read new predictions of the log."""
        for block, reached in self._predictions.blocks(self._reached, model=self._model.name):
            self._reached = reached
            for p in block:
                if p.mode in _LIVE_MODES and PAST not in p.flags:
                    self._take(p)

    def forget(self, before_us: int) -> list[str]:
        """Drop requests before a time; their keys."""
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
            self.first[p.request_id] = LoggedRequest(p.request_id, p.at_us, p.version, request, values, reasons, answer)


def _own_answer(p: Prediction) -> float | dict[str, float] | None:
    """The score of a prediction if its registered version gave it to the logged inputs; else None."""
    if p.mode != "live" or p.arm == "online" or p.is_degraded:  # an online learner has changed since
        return None
    return p.score if p.scores is None else p.scores


def _taken_as(known: Request, now: Request) -> Callable[[bytes], bytes | None]:
    """A converter from a logged request to the columns declared now; it gives None where that is impossible."""
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
    """A test whether a logged request has the columns declared now, by number and type."""
    decode = _row_decoder(request)

    def fits(packed: bytes) -> bool:
        try:
            decode(packed)
        except msgspec.ValidationError:
            return False
        return True

    return fits


def decode_requests(request: Request, packed: Sequence[bytes]) -> Columns:
    """The columns of logged requests of the declared shape (see `request_shape`)."""
    decode = _row_decoder(request)
    parts = []
    for start in range(0, len(packed), _BLOCK):  # small enough for the processor's cache
        values = zip(*map(decode, packed[start : start + _BLOCK]), strict=True)
        of_columns = zip(request.columns.items(), values, strict=True)
        parts.append(Columns.of({name: (dtype, given) for (name, dtype), given in of_columns}))
    return Columns.concat(parts or [Columns.of({name: (dtype, ()) for name, dtype in request.columns.items()})])


def _row_decoder(request: Request) -> Callable[[bytes], tuple[Any, ...]]:
    columns: Any = tuple[tuple(_TYPES[dtype] for dtype in request.columns.values())]  # type: ignore[misc]  # made from data
    return msgspec.msgpack.Decoder(columns).decode


def are_among(keys: NDArray[Any], some: NDArray[Any]) -> NDArray[np.bool_]:
    """Mask of the keys that are among some others; NumPy's own `isin` compares texts pairwise.

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
    """Requests ingested and known at a cut, each once, with their times.

    A changed request is taken as it stood at its own time; a version replaced before its time does not count. One
    deleted by the cut does not count either, or (`deleted`) only if its time had not come.
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
