"""Answer requests in this process, without HTTP: from checked request rows to logged predictions."""

from __future__ import annotations

import datetime as dt
import logging
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.records import Prediction
from trimtab.core.time import DAY_US, format_time, parse_time_us
from trimtab.features.definitions import Request
from trimtab.features.frames import FAILED, NO_VIEW
from trimtab.serving.answer.model_scores import model_raised, no_number, scores_by_halves, scores_of
from trimtab.serving.answer.request_rows import RequestRows, Row
from trimtab.serving.answer.served import Answer, ModelInputs, Readers, RowScorer, ServedVersion, named_reasons, shown
from trimtab.serving.failures import check_deadline
from trimtab.serving.log.prediction_ids import id_time_us, packed_batch_ids
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.serving.log.prediction_record import payload_writer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trimtab.serving.answer.table_rows import TableAnswers, TableRows

_logger = logging.getLogger(__name__)
PAST = "past"  # the flag of an answer that was computed as of a time in the past
# the flag of an answer that was given more than a day away from the time that training assumes: the row's time minus
# the lead (see `_off_lead`). Batch predictions get it only if they were made as of now and too early (batch_rows.py).
NOT_AT_LEAD = "not_at_lead"
# the fields of a prediction that differ between live answers
_GIVEN = ("id", "request_id", "made_at_us", "at_us", "positions", "score", "request", "values", "reasons")


class Answerer:
    """Answers requests with one version of one model.

    The code that handles a request is compiled once, when the version is loaded.

    Args:
        served: The version, with the names of its inputs.
        readers: The readers of the version's model inputs, for the present and for past times.
        log: The log to which every prediction is written.
        ids: Returns a new prediction id at each call.
        of_others: Whether rows were checked for the champion, because this version is a canary or a shadow. The
            champion's request may have other columns or another order of columns. The log still gets the columns that
            this version's request declares.
    """

    def __init__(
        self,
        served: ServedVersion,
        request: Request,
        readers: Readers,
        scorer: RowScorer,
        *,
        log: PredictionLog,
        clock: Clock,
        ids: Callable[[], str],
        of_others: bool = False,
    ) -> None:
        self.served = served
        self.rows = RequestRows(request, clock.now_us)
        self.readers = readers
        self.scorer = scorer
        self.log = log
        self.now_us = clock.now_us
        self._ids = ids
        self._key = request.key
        self._off_lead: Callable[[Row, int], bool] | None = partial(_off_lead, request) if request.lead_us else None
        self._read = readers.now.read  # bind these methods once, which saves time for each request
        self._predict_row = scorer.predict_row
        self._payload = payload_writer(
            _GIVEN, {"model": served.model, "version": served.version, "arm": served.arm, "mode": "live"}
        )
        self._pack = struct.Struct(f"<{len(served.inputs)}d").pack
        self._encode = msgspec.msgpack.Encoder().encode
        names = self.rows.names
        self._columns: Callable[[Row], list[Any]] = (
            (lambda row: [row.get(name) for name in names]) if of_others else _in_order
        )

    def warm_up(self) -> None:
        """Read the features of a made-up row, so that the first request is not delayed by lazy initialisation (9 ms).

        The model was already called when it was loaded, to compare its scores with stored (golden) predictions.
        """
        request, now_us = self.rows.request, self.now_us()
        key: str | int = "-" if request.key_dtype == "str" else 0
        try:
            self._read(
                self.rows.check([dict.fromkeys(self.rows.names) | {request.key: key, request.time: now_us}]), now_us
            )
        except Exception as error:  # a user's function may fail on nulls, or the store may not exist yet
            _logger.info("%s: the warm-up call failed: %s: %s", self.served.label, type(error).__name__, error)

    def answer(self, rows: Sequence[Mapping[str, Any]], *, at: str | int | dt.datetime | None = None) -> list[Answer]:
        """Answer rows given as Python dicts, and return the answers in the order of the rows.

        The predictions are logged before the answers are returned.

        Args:
            rows: Request rows. Every declared column must be present.
            at: A time in the past as of which to answer. By default, the answers are as of now.

        Raises:
            Misuse: A row is not as declared (the message names the field), or `at` lies in the future.
            NotFound: `at` is given, but this process does not have the history of events.
            ModelFailed: The model raised an error, or did not return a finite number for each row.
            Unavailable: The online state or the log cannot be used now. Nothing was logged.
        """
        if at is None and len(rows) == 1 and not self.served.classes:
            return [self._answer_row(rows[0])]
        predictions = self.predict(self.rows.check(rows), at_us=None if at is None else parse_time_us(at))
        self.log.buffer(predictions)
        return [shown(p, self.served) for p in predictions]

    def _answer_row(self, given: Mapping[str, Any]) -> Answer:
        """Return the answer to a single row as of now."""
        row = self.rows.plain(given) or self.rows.check((given,))[0]
        if (made := self.answer_one(row)) is None:
            predictions = self.predict((row,))
            self.log.buffer(predictions)
            return shown(predictions[0], self.served)
        self.log.buffer_payloads(made[:1])
        return made[1]

    def answer_one(self, row: Row) -> tuple[bytes, Answer, float, float] | None:
        """Answer a checked row as of now. Return None if it needs `predict`.

        The result is the payload for the log, the answer, and the seconds that features and model took. Payload and
        answer equal those from `predict`, `encode` and `shown`, whose code is copied here for speed. # D0229
        """
        served, now_us = self.served, self.now_us()
        if served.classes or (self._off_lead is not None and self._off_lead(row, now_us)):  # only `predict` sets flags
            return None
        begun_s = perf_counter()
        inputs = self._read((row,), now_us)
        read_s = perf_counter()
        values, reasons = inputs.rows[0], inputs.reasons[0]
        try:
            score: Any = self._predict_row(values)
            finite = isinstance(score, float) and math.isfinite(score)
            scored_s = perf_counter()
        except Exception as error:  # a user's model may raise any error, and return any object instead of a number
            raise model_raised(served, error) from error
        if not finite:
            raise no_number(served)
        prediction_id, request_id, at_us = self._ids(), str(row[self._key]), inputs.at_us
        request, packed = self._encode(self._columns(row)), self._pack(*values)
        payload = self._payload(
            prediction_id, request_id, now_us, at_us, inputs.positions, score, request, packed, reasons
        )
        answer = Answer(
            id=prediction_id,
            request_id=request_id,
            model=served.model,
            version=served.label,
            arm=served.arm,
            mode="live",
            score=score,
            at_us=at_us,
            reasons=named_reasons(reasons, served.inputs),
            flags=(),
        )
        return payload, answer, read_s - begun_s, scored_s - read_s

    def predict(
        self,
        rows: Sequence[Row],
        *,
        at_us: int | None = None,
        flags: tuple[str, ...] = (),
        deadline_s: float | None = None,
    ) -> list[Prediction]:
        """Return predictions for checked rows. The caller must log them before it shows an answer."""
        if not rows:
            return []
        now_us = self.now_us()
        if at_us is None:
            return self.scored(rows, self.inputs(rows, now_us, deadline_s), now_us, flags)
        return self.scored(rows, self._read_past(rows, at_us, now_us), now_us, (*flags, PAST))

    def inputs(self, rows: Sequence[Row], now_us: int, deadline_s: float | None = None) -> ModelInputs:
        """Return the model inputs of rows as of now.

        Raises `Late` if the deadline has passed before or after the inputs are read.
        """
        if deadline_s is None:
            return self._read(rows, now_us)
        check_deadline(deadline_s)
        found = self._read(rows, now_us)
        check_deadline(deadline_s)
        return found

    def scored(self, rows: Sequence[Row], inputs: ModelInputs, now_us: int, flags: tuple[str, ...]) -> list[Prediction]:
        """Return the model's predictions for its inputs.

        Raises:
            ModelFailed: The model raised an error, or did not return a finite number for each row.
        """
        if len(rows) == 1:
            values = inputs.rows[0]
            try:
                score = self._predict_row(values)
                sound = _is_number(score, len(self.served.classes))
            except Exception as error:  # a user's model may raise any error, and return any object instead of a number
                raise model_raised(self.served, error) from error
            if not sound:
                raise no_number(self.served)
            return [self._prediction(rows[0], values, inputs.reasons[0], score, now_us, inputs, flags)]
        import numpy as np

        scores = scores_of(self.served, self.scorer, np.array(inputs.rows, np.float64)).tolist()
        return [
            self._prediction(row, values, reasons, score, now_us, inputs, flags)
            for row, values, reasons, score in zip(rows, inputs.rows, inputs.reasons, scores, strict=True)
        ]

    def _prediction(
        self,
        row: Row,
        values: list[float],
        reasons: bytes,
        score: float | list[float],
        now_us: int,
        inputs: ModelInputs,
        flags: tuple[str, ...],
    ) -> Prediction:
        scores, served = None, self.served
        if self._off_lead is not None and PAST not in flags and self._off_lead(row, now_us):
            flags = (*flags, NOT_AT_LEAD)
        if isinstance(score, list):
            scores, score = dict(zip(served.classes, score, strict=True)), max(score)
        return Prediction(
            id=self._ids(),
            request_id=str(row[self._key]),
            model=served.model,
            version=served.version,
            arm=served.arm,
            mode="live",
            made_at_us=now_us,
            at_us=inputs.at_us,
            positions=inputs.positions,
            score=score,
            request=self._encode(self._columns(row)),
            values=self._pack(*values),
            reasons=reasons,
            flags=flags,
            scores=scores,
        )

    def predict_table(self, rows: TableRows, deadline_s: float | None = None) -> TableAnswers | None:
        """Return predictions for checked rows in columns, as of now. The caller must log them.

        They equal those of `predict`. None means that `predict` must be called instead.
        """
        if not len(rows) or self.readers.tables is None or self._off_lead is not None:
            return None
        from trimtab.serving.answer.table_rows import TableAnswers

        check_deadline(deadline_s)
        now_us = self.now_us()
        matrix, reasons = self.table_inputs(rows, now_us)
        if (reasons == FAILED).any():  # `predict` logs why
            return None
        check_deadline(deadline_s)
        scores, first_id = scores_by_halves(self.served, self.scorer, matrix), self._ids()
        common = self.ruled(dict.fromkeys(self.rows.names), 0.0, now_us, ())
        ids = packed_batch_ids(first_id, id_time_us(first_id), range(len(rows)))
        return TableAnswers(self.served, common, rows, self._key, ids, scores, matrix, reasons)

    def table_inputs(self, rows: TableRows, now_us: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the model inputs of rows as of now, and the codes of their reasons; see `OfflineInputs.compute`."""
        import numpy as np

        assert self.readers.tables is not None
        return self.readers.tables.compute(rows.table, np.full(len(rows), now_us, np.int64), {})

    def repeated(self, last: Prediction, row: Row, now_us: int, flags: tuple[str, ...]) -> Prediction:
        """Return a prediction for `row` that has the score and inputs of `last`, an earlier prediction."""
        return msgspec.structs.replace(
            last,
            id=self._ids(),
            request_id=str(row[self._key]),
            made_at_us=now_us,
            request=self._encode(self._columns(row)),
            flags=flags,
        )

    def ruled(self, row: Row, score: float, now_us: int, flags: tuple[str, ...]) -> Prediction:
        """Return a prediction with a given score, made without features and without the model."""
        width, nothing = len(self.served.inputs), ModelInputs((), (), now_us, {})
        return self._prediction(row, [math.nan] * width, bytes([NO_VIEW]) * width, score, now_us, nothing, flags)

    def _read_past(self, rows: Sequence[Row], at_us: int, now_us: int) -> ModelInputs:
        if at_us > now_us:
            raise Misuse(
                f"at={format_time(at_us)} lies in the future (now {format_time(now_us)}). "
                "Give a time in the past, or leave `at` out, which means now."
            )
        if self.readers.past is None:
            raise NotFound(
                f"{self.served.label}: an answer as of a past time needs the history of events, which this process "
                "does not have. Leave `at` out."
            )
        return self.readers.past.read(rows, at_us)


def _off_lead(request: Request, row: Row, now_us: int) -> bool:
    """Return whether now is more than a day away from the time that training assumes: the row's time minus the lead."""
    return request.time in row and abs(row[request.time] - request.lead_us - now_us) > DAY_US


def _in_order(row: Row) -> list[Any]:
    """Return the values of a row. They are in declared order, because the row was checked for this version."""
    return [*row.values()]


def _is_number(score: object, classes: int) -> bool:
    """Return whether a score is a finite number or, for several classes, one finite number for each class."""
    if isinstance(score, list):
        return len(score) == classes and all(map(math.isfinite, score))
    return isinstance(score, float) and not classes and math.isfinite(score)
