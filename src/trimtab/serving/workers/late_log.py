"""A prediction log for a service with several workers, which write their predictions to the log a little late."""

from __future__ import annotations

import time

from trimtab.core.clock import Clock
from trimtab.core.errors import Misuse
from trimtab.serving.log.prediction_ids import id_time_us
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.store.ports import Log, LogRecord

_YOUNG_US = 2_000_000
_WAIT_S, _LOOK_S = 0.3, 0.02


class LateLog(PredictionLog):
    """A prediction log that searches for up to 0.3 s for a prediction that is less than 2 s old.

    Another worker may have the prediction in its buffer.
    """

    def __init__(self, log: Log, clock: Clock) -> None:
        super().__init__(log)
        self._clock = clock

    def look_up(self, prediction_id: str, deadline_s: float | None = None) -> LogRecord | None:
        """Return the record of the prediction with an id, even if it was erased, or None if it is not in the log."""
        end_s = time.monotonic() + _WAIT_S
        while True:
            record = super().look_up(prediction_id, deadline_s)
            if record is not None or not self._is_young(prediction_id) or time.monotonic() >= end_s:
                return record
            time.sleep(_LOOK_S)

    def _is_young(self, prediction_id: str) -> bool:
        try:
            return self._clock.now_us() - id_time_us(prediction_id) < _YOUNG_US
        except Misuse:  # the text is not the id of a prediction
            return False
