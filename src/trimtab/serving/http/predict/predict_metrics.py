"""Metrics of predict requests. Each model's counters are looked up only once, so that counting is fast."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.core.records import Prediction
from trimtab.features.frames import REASONS
from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.served import UNREMARKABLE, Answer
from trimtab.serving.answer.timed import TimedAnswerer
from trimtab.serving.arms.endpoint import Endpoint
from trimtab.serving.http.requests.request_record import STAGES
from trimtab.serving.log.prediction_record import PackedPredictions
from trimtab.serving.observe.metrics import SIZE_BUCKETS, Histogram, Metrics

_PARTS = ("features", "model")  # the parts of the stage `predict`


class PredictMetrics:
    """The metrics that all models share."""

    def __init__(self, metrics: Metrics, latency: Histogram) -> None:
        self.latency = latency
        inputs = "Model inputs without a fresh value, by reason."
        self.rows = metrics.histogram("trimtab_request_rows", "Rows per predict request.", ("model",), SIZE_BUCKETS)
        self.nulls = metrics.counter("trimtab_null_inputs_total", inputs, ("model", "reason"))
        self.flags = metrics.counter("trimtab_flagged_predictions_total", "Flags of answers.", ("model", "flag"))


class ModelMetrics:
    """Counts and times of the predict requests of one model."""

    def __init__(self, endpoint: Endpoint, shared: PredictMetrics) -> None:
        self.requests = 0
        self.logged = 0
        self.stored = 0  # the number of rows answered by precomputed predictions
        self.answers: dict[tuple[str, str], int] = {}  # by version and arm (champion, canary): new predictions
        self._endpoint = endpoint
        self._nulls, self._flags = shared.nulls, shared.flags
        name = endpoint.name
        self._total = shared.latency.of((name, "total"))
        self._stages = [shared.latency.of((name, stage)) for stage in STAGES]
        self._parts = [shared.latency.of((name, part)) for part in _PARTS]
        self._rows = shared.rows.of((name,))

    def answered(
        self, answerer: Answerer, rows: int, made: Sequence[Prediction | Answer], times: tuple[float, ...]
    ) -> None:
        """Count one answered request.

        Args:
            made: The new predictions, which were logged.
            times: The start of the request, then the end of each stage.
        """
        self.requests += 1
        logged = len(made)
        self.logged += logged
        if logged != rows:
            self.stored += rows - logged
        self._total(times[-1] - times[0])
        if answerer.__class__ is TimedAnswerer:
            self._show(answerer, made, rows, times)
        counted = self.answers
        if isinstance(made, PackedPredictions):
            by = made.common.version, made.common.arm
            counted[by] = counted.get(by, 0) + logged
            self._count_reasons(made.reasons.tobytes())
            return
        for one in made:
            if isinstance(one, Answer):  # of this version, and without flags (see `Endpoint.answer_one`)
                by = answerer.served.version, one.arm
                for reason in one.reasons.values():
                    self._nulls.add(self._endpoint.name, reason)
            else:
                by = one.version, one.arm
                if one.flags or one.reasons.strip(UNREMARKABLE):
                    self._count_remarks(one)
            counted[by] = counted.get(by, 0) + 1

    def _show(
        self, timed: TimedAnswerer, made: Sequence[Prediction | Answer], rows: int, times: tuple[float, ...]
    ) -> None:
        """Add a request to the histograms of stages and rows, and to the request's own record."""
        if timed.sampled:
            self._rows(rows)
            for observe, start, end in zip(self._stages, times, times[1:], strict=False):
                if end != start:  # otherwise the request skipped the stage
                    observe(end - start)
            for observe, taken_s in zip(self._parts, (timed.features_s, timed.model_s), strict=True):
                if taken_s:
                    observe(taken_s)
        if (record := timed.record) is not None:
            record.made, record.answers, record.times = made[:1], rows, times
            record.label = self._endpoint.label(made[0].version) if made else timed.served.label
            record.features_s, record.model_s = timed.features_s, timed.model_s

    def _count_remarks(self, one: Prediction) -> None:
        for flag in one.flags:
            self._flags.add(self._endpoint.name, flag)
        self._count_reasons(one.reasons)

    def _count_reasons(self, reasons: bytes) -> None:
        for code in reasons.translate(None, UNREMARKABLE):
            self._nulls.add(self._endpoint.name, REASONS[code])
