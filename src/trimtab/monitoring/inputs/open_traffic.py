"""Count live requests of hours that are not closed yet, by id and by question (the request without key and time)."""

from __future__ import annotations

from collections import Counter
from collections.abc import KeysView, Sequence

import numpy as np
from numpy.typing import NDArray

from trimtab.core.records import Prediction
from trimtab.core.time import HOUR_US
from trimtab.features.definitions import Request
from trimtab.monitoring.inputs.checks.traffic import TrafficHour
from trimtab.monitoring.inputs.input_hours import text_hashes
from trimtab.monitoring.profiles.question_hashes import aside_of, question_hashes


class OpenTraffic:
    """Counts live requests by hour; `last_us` is the time of the newest request."""

    def __init__(self, request: Request, last_us: int | None) -> None:
        self.last_us = last_us
        self._aside = aside_of(request)
        self._ids: dict[int, list[NDArray[np.int64]]] = {}
        self._questions: dict[int, list[NDArray[np.int64]]] = {}

    @property
    def hours(self) -> KeysView[int]:
        """The open hours with requests."""
        return self._ids.keys()

    def add(self, requests: Sequence[Prediction]) -> None:
        """Count the predictions that answered live requests."""
        made_at_us = np.array([p.made_at_us for p in requests], np.int64)
        questions = question_hashes([p.request for p in requests], self._aside)
        self.add_columns(made_at_us, text_hashes([p.request_id for p in requests]), questions)

    def add_columns(self, made_at_us: NDArray[np.int64], ids: NDArray[np.int64], questions: NDArray[np.int64]) -> None:
        """Like `add`, from the times and the hashes of ids and questions, each of shape (rows,)."""
        hours = made_at_us // HOUR_US
        for hour in np.unique(hours).tolist():
            self._ids.setdefault(hour, []).append(ids[hours == hour])
            self._questions.setdefault(hour, []).append(questions[hours == hour])
        newest_us = int(made_at_us.max())
        self.last_us = newest_us if self.last_us is None else max(newest_us, self.last_us)

    def counted(self, hour: int) -> TrafficHour:
        """Return the counts of an hour."""
        ids = np.concatenate(self._ids.get(hour) or [np.zeros(0, np.int64)])
        questions = np.concatenate(self._questions.get(hour) or [np.zeros(0, np.int64)])
        often = Counter(questions.tolist()).values()  # for a few dozen values quicker than `np.unique`
        return TrafficHour(ids.size, len(set(ids.tolist())), len(often), sum(count > 1 for count in often))

    def drop(self, hour: int) -> None:
        self._ids.pop(hour, None)
        self._questions.pop(hour, None)
