"""Compute the pin of a training set: hashes and positions that change if the set could change.  # D54"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from trimtab.app.data.training_data import LivingData, settled_cut
from trimtab.app.online.history import SharedHistory
from trimtab.core.hashing import bytes_hash
from trimtab.steering.ledger import FORGET, Ledger
from trimtab.store.ports import Catalog
from trimtab.training.definitions import Model


class Pin:
    """Computes the pin of a training set without computing its features.

    Training sets with equal pins are equal.

    Args:
        kept_from: Returns for each source the time before which events were removed.
        catalog: Holds the ledger of decisions, in which erasures are recorded.
    """

    def __init__(
        self,
        data: LivingData,
        history: Callable[[], SharedHistory],
        catalog: Catalog,
        *,
        kept_from: Callable[[], Mapping[str, int]],
    ) -> None:
        self._data = data
        self._history = history
        self._catalog = catalog
        self._kept_from = kept_from

    def __call__(self, model: Model, cut_us: int) -> object:
        """Return, as a JSON value, the pin of a model's training set with the data known at `cut_us`.

        Raises:
            NotFound: There are no requests of the model.
        """
        frames, positions = self._history().frames_at({model.request.name, model.label.source.name})
        requests, at_us = self._data.requests(model, frames[model.request.name], cut_us)
        lists = model.group if model.task == "ranking" else None
        settled_us = settled_cut(model, frames, at_us, cut_us)
        keys = msgspec.msgpack.encode(requests[model.request.key].to_list())
        return [
            [model.request.hash, model.features.hash, model.label.hash, model.rows, lists],
            sorted(positions.items()),
            settled_us,
            [bytes_hash(keys), bytes_hash(at_us.tobytes())],
            sorted(self._kept_from().items()),
            msgspec.to_builtins(list(self._data.left_out(model, settled_us))),
            self._erasures(),
        ]

    def _erasures(self) -> object:
        """Return a value that changes when an erasure begins, is continued after a stop, or is finished."""
        finished = sum(d.act == FORGET for d in Ledger(self._catalog).rows())
        stopped = [[one.key, one.revision] for one in self._catalog.find(FORGET)]
        return [finished, stopped] if stopped else finished
