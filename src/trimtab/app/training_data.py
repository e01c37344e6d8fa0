"""Training sets of a living project: requests from ingested history and from the prediction log."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns import Columns
from trimtab.core.errors import NotFound
from trimtab.events.history import History
from trimtab.features.labels import LabelIndex
from trimtab.features.offline import evaluate
from trimtab.serving.prediction_log import PredictionLog
from trimtab.training.definitions import Model
from trimtab.training.sets import TrainingSet, assemble


class LivingData:
    """Builds training sets as of a cut, features as of each request's own moment.

    A request may have been ingested, asked, or both; asked wins, since its moment is then known and not derived.

    Args:
        history: Of all sources, the requests' own included.
        predictions: Where asked requests are.
    """

    def __init__(self, history: History, predictions: PredictionLog) -> None:
        self._history = history
        self._predictions = predictions

    def training_set(self, model: Model, *, cut_us: int) -> TrainingSet:
        """The set of all requests asked by `cut_us`.

        Raises:
            NotFound: There is none.
        """
        self._history.refresh()
        asked, asked_at_us = self._asked(model, cut_us)
        known, known_at_us = self._ingested(model, cut_us)
        fresh = ~np.isin(known[model.request.key].values, asked[model.request.key].values)
        requests = Columns.concat([known.take(fresh), asked])
        at_us: NDArray[Any] = np.concatenate([known_at_us[fresh], asked_at_us])
        if not requests.rows:
            raise NotFound(
                f"model {model.name!r}: no request {model.request.name!r} is known. Load its history: "
                f"trimtab ingest {model.request.name} FILE"
            )
        order = np.argsort(at_us, kind="stable")
        requests, at_us = requests.take(order), at_us[order]
        frames = {view.source.name: self._history.frame(view.source.name) for view in model.features.views}
        labels = LabelIndex(model.label)
        labels.update(self._history.frame(model.label.source.name))
        return assemble(
            model,
            requests,
            at_us,
            evaluate(model.features, requests, at_us, frames),
            labels.join(requests[model.request.key].to_list(), at_us, cut_us),
            cut_us=cut_us,
            positions=self._history.positions,
        )

    def _ingested(self, model: Model, cut_us: int) -> tuple[Columns, NDArray[Any]]:
        request = model.request
        frame = self._history.frame(request.name)
        newest = ~frame.deleted & (frame.superseded_at_us > cut_us)
        at_us = frame.event_at_us - request.lead_us
        rows = newest & (at_us <= cut_us)
        return frame.columns.take(rows).select(request.columns), at_us[rows]

    def _asked(self, model: Model, cut_us: int) -> tuple[Columns, NDArray[Any]]:
        """The first time each request was asked, from the prediction log."""
        request = model.request
        first: dict[str, tuple[int, bytes]] = {}
        for block in self._predictions.scan():
            for p in block:
                if p.model == model.name and p.at_us <= cut_us and p.request_id not in first:
                    first[p.request_id] = (p.at_us, p.request)
        rows = [msgspec.msgpack.decode(packed) for _, packed in first.values()]
        columns = {
            name: (dtype, [row[place] for row in rows]) for place, (name, dtype) in enumerate(request.columns.items())
        }
        return Columns.of(columns), np.array([at_us for at_us, _ in first.values()], np.int64)
