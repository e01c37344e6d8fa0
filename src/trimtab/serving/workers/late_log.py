"""A prediction log that other processes append to as well, a moment after they answered."""

from __future__ import annotations

import time

from trimtab.core.clock import Clock
from trimtab.core.errors import Misuse
from trimtab.core.records import Prediction
from trimtab.serving.prediction_ids import id_time_us
from trimtab.serving.prediction_log import PredictionLog
from trimtab.store.ports import Log

_YOUNG_US = 2_000_000
_WAIT_S, _LOOK_S = 0.3, 0.02


class LateLog(PredictionLog):
    """Looks again for a young prediction: another worker may have it noted, and append it in some milliseconds."""

    def __init__(self, log: Log, clock: Clock) -> None:
        super().__init__(log)
        self._clock = clock

    def find(self, prediction_id: str) -> Prediction:
        """The prediction with this identifier.

        Raises:
            NotFound: The log holds none, or it was erased; the message says which.
        """
        end_s = time.monotonic() + _WAIT_S
        while self.locate(prediction_id) is None and self._is_young(prediction_id) and time.monotonic() < end_s:
            time.sleep(_LOOK_S)
        return super().find(prediction_id)

    def _is_young(self, prediction_id: str) -> bool:
        try:
            return self._clock.now_us() - id_time_us(prediction_id) < _YOUNG_US
        except Misuse:  # no identifier at all
            return False
