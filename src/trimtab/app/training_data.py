"""Training sets of a living project: requests from ingested history and from the prediction log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.app.history import SharedHistory
from trimtab.app.retention_needs import features_from_us, labels_from_us
from trimtab.core.columns import Columns, Dtype
from trimtab.core.errors import NotFound
from trimtab.core.records import Prediction
from trimtab.core.time import format_moment
from trimtab.events.frames import NEVER_US, EventFrame
from trimtab.features.definitions import Request
from trimtab.features.labels import LabelIndex
from trimtab.features.offline.evaluation import evaluate
from trimtab.serving.answering import PAST
from trimtab.serving.prediction_log import PredictionLog
from trimtab.training.definitions import Model
from trimtab.training.sets import TrainingSet, assemble

_logger = logging.getLogger(__name__)
_ASKED = frozenset({"live", "online", "replay"})
_TYPES: dict[Dtype, Any] = {"str": str | None, "int": int | None, "float": float | None, "bool": bool | None}
_TYPES["time"] = int | None
AskedAs: TypeAlias = "Callable[[str], Request | None]"


class LivingData:
    """Builds training sets as of a cut, features as of each request's own moment.

    A request may have been ingested, asked, or both; asked wins, since its moment is then known and not derived.

    Args:
        history: Of all sources, the requests' own included.
        predictions: Where asked requests are.
        kept_from: By source, the moment before which its events were removed: requests that would need them, for a
            feature or for their label, are left out.
        asked_as: Gives the request as a version (by its address) knew it, None where that is not known.
        check: Refuses a model, by its name, whose definitions are not to be trained here.
    """

    def __init__(
        self,
        history: SharedHistory,
        predictions: PredictionLog,
        *,
        kept_from: Callable[[], Mapping[str, int]] = dict,
        asked_as: AskedAs | None = None,
        check: Callable[[str], object] = lambda model: None,
    ) -> None:
        self.other_shapes = 0  # predictions passed over: their request had other columns than are declared now
        self._history = history
        self._predictions = predictions
        self._kept_from = kept_from
        self._asked_as = asked_as
        self._check = check

    def training_set(self, model: Model, *, cut_us: int) -> TrainingSet:
        """The set of all requests asked by `cut_us`.

        Raises:
            NotFound: There is none.
            Conflict: Other definitions of the model were applied meanwhile.
        """
        self._check(model.name)
        names = {model.request.name, model.label.source.name, *(view.source.name for view in model.features.views)}
        frames, positions = self._history.moment(names)
        asked, asked_at_us = self._asked(model, cut_us)
        known, known_at_us = ingested_requests(model.request, frames[model.request.name], cut_us)
        fresh = ~np.isin(known[model.request.key].values, asked[model.request.key].values)
        requests = Columns.concat([known.take(fresh), asked])
        at_us: NDArray[Any] = np.concatenate([known_at_us[fresh], asked_at_us])
        requests, at_us = self._of_what_is_kept(model, requests, at_us)
        if not requests.rows:
            raise NotFound(
                f"model {model.name!r}: no request {model.request.name!r} is known. Load its history: "
                f"trimtab ingest {model.request.name} FILE"
            )
        order = np.argsort(at_us, kind="stable")
        requests, at_us = requests.take(order), at_us[order]
        labels = LabelIndex(model.label)
        labels.update(frames[model.label.source.name])
        return assemble(
            model,
            requests,
            at_us,
            evaluate(model.features, requests, at_us, frames),
            labels.join(requests[model.request.key].to_list(), at_us, cut_us),
            cut_us=cut_us,
            positions=positions,
        )

    def _of_what_is_kept(self, model: Model, requests: Columns, at_us: NDArray[Any]) -> tuple[Columns, NDArray[Any]]:
        """The requests whose features and labels can still be told from the events that are kept. # D23"""
        kept_from = self._kept_from()
        from_us = max(features_from_us(model.features, kept_from), labels_from_us(model, kept_from))
        whole = at_us >= from_us
        if whole.all():
            return requests, at_us
        said = "%s: %d requests of before %s are left out of the training set: not all events they need are kept"
        _logger.info(said, model.name, int((~whole).sum()), format_moment(from_us))
        return requests.take(whole), at_us[whole]

    def _asked(self, model: Model, cut_us: int) -> tuple[Columns, NDArray[Any]]:
        """The first time each request was asked, from the prediction log."""
        asked = AskedRequests(model, self._predictions, asked_as=self._asked_as)
        asked.read()
        self.other_shapes = asked.other_shapes
        if asked.other_shapes:
            _logger.warning(
                "%s: %d predictions are left out of the training set: their request had other columns than are "
                "declared now",
                model.name,
                asked.other_shapes,
            )
        rows = [p for p in asked.first.values() if p.at_us <= cut_us]
        return decode_requests(model.request, [p.request for p in rows]), np.array([p.at_us for p in rows], np.int64)


class AskedRequest(msgspec.Struct, frozen=True, gc=False):
    """A request as it was first asked."""

    request_id: str
    at_us: int
    version: str  # the address of the version that answered
    request: bytes  # its columns as the prediction log keeps them
    values: bytes  # the model's inputs, if they are wanted


class AskedRequests:
    """Requests as they were first asked, from the prediction log.

    Only questions of their own moment count: not answers made ahead or in batches, nor questions about the past.
    A request that was asked of a version which knew it with other columns is taken by the names of its columns, null
    where it had none. Predictions whose request cannot be taken so are passed over and counted.

    Args:
        model: Whose requests.
        predictions: The log.
        since_us: Pass over what was asked before.
        inputs: Keep what the model was shown, too.
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
        while True:
            block, self._reached = self._predictions.read(self._reached)
            if not block:
                return
            for p in block:
                if p.model == self._model.name and p.mode in _ASKED and PAST not in p.flags:
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
        if p.version not in self._taken:
            known = None if self._asked_as is None else self._asked_as(p.version)
            self._taken[p.version] = _taken_as(known or self._model.request, self._model.request)
        request = self._taken[p.version](p.request)
        if request is None:
            self.other_shapes += 1
            return
        before = self.first.get(p.request_id)
        if before is None or p.at_us < before.at_us:
            values = p.values if self._inputs else b""
            self.first[p.request_id] = AskedRequest(p.request_id, p.at_us, p.version, request, values)


def _taken_as(known: Request, now: Request) -> Callable[[bytes], bytes | None]:
    """From a request as the prediction log keeps it to the columns that are declared now; None where that cannot be."""
    fits = request_shape(known)
    if list(known.columns.items()) == list(now.columns.items()):
        return lambda packed: packed if fits(packed) else None
    names, same = list(known.columns), known.columns.items() & now.columns.items()
    places = [names.index(name) if (name, dtype) in same else None for name, dtype in now.columns.items()]
    retyped = any((name, dtype) not in same and name in known.columns for name, dtype in now.columns.items())
    lost = {(now.key, now.columns[now.key]), (now.time, "time")} - same

    def take(packed: bytes) -> bytes | None:
        if retyped or lost or not fits(packed):
            return None
        row = msgspec.msgpack.decode(packed)
        return msgspec.msgpack.encode([None if place is None else row[place] for place in places])

    return take


def request_shape(request: Request) -> Callable[[bytes], bool]:
    """Whether a request, as the prediction log keeps it, has as many columns as are declared now, of their types."""
    columns: Any = tuple[tuple(_TYPES[dtype] for dtype in request.columns.values())]  # type: ignore[misc]  # made from data
    decode = msgspec.msgpack.Decoder(columns).decode

    def fits(packed: bytes) -> bool:
        try:
            decode(packed)
        except msgspec.ValidationError:
            return False
        return True

    return fits


def decode_requests(request: Request, packed: Sequence[bytes]) -> Columns:
    """Requests as the prediction log keeps them, in columns."""
    rows = [msgspec.msgpack.decode(one) for one in packed]
    columns = {
        name: (dtype, [row[place] for row in rows]) for place, (name, dtype) in enumerate(request.columns.items())
    }
    return Columns.of(columns)


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
        counts &= ~np.isin(keys, gone)
    rows = np.flatnonzero(counts)
    rows = rows[np.argsort(at_us[rows], kind="stable")]
    if (frame.superseded_at_us != NEVER_US).any():
        _, first = np.unique(keys[rows].astype(str), return_index=True)
        rows = rows[np.sort(first)]
    return frame.columns.take(rows).select(request.columns), at_us[rows]
