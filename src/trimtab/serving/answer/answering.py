"""Answers in process: from checked request rows to logged predictions."""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.records import Mode, Prediction
from trimtab.core.time import format_time, parse_time_us
from trimtab.features.definitions import Request
from trimtab.features.frames import NO_VIEW, REASONS
from trimtab.serving.answer.model_scores import model_raised, no_number, scores_of
from trimtab.serving.answer.request_rows import RequestRows, Row
from trimtab.serving.failures import check_deadline
from trimtab.serving.log.prediction_log import PredictionLog, payload_writer

if TYPE_CHECKING:
    import datetime as dt

    from numpy.typing import NDArray

_logger = logging.getLogger(__name__)
PAST = "past"  # the flag of an answer about another moment than that of asking
_UNREMARKABLE = bytes((0, NO_VIEW))  # found, or from no view
_NO_REASONS: dict[str, str] = {}


class ModelInputs(msgspec.Struct, frozen=True, gc=False):
    """What a model is shown for some requests, and the as-of pair (t, P) it was read at."""

    rows: Sequence[list[float]]  # encoded, null is NaN: one row a request, in the version's declared order
    reasons: Sequence[bytes]  # a code of features.REASONS a model input; NO_VIEW: a transform
    at_us: int
    positions: dict[str, int]


class InputReader(Protocol):
    """Reads model inputs as of now from online state, by a plan compiled once for one version."""

    def read(self, rows: Sequence[Row], now_us: int) -> ModelInputs:
        """The inputs of checked rows, all as of one moment: `now_us`, never below what has been applied.

        Raises:
            Unavailable: Online state cannot be read now.
        """
        ...


class PastReader(Protocol):
    """Computes model inputs as of a moment in the past, from history and never from online state."""

    def read(self, rows: Sequence[Row], at_us: int) -> ModelInputs: ...


class RowScorer(Protocol):
    """A fitted model: one row at a time, or many."""

    def predict(self, matrix: NDArray[Any], /) -> NDArray[Any]:
        """Scores of a float64 matrix, shape (rows,); of several classes (rows, classes)."""
        ...

    def predict_row(self, row: list[float], /) -> float | list[float]:
        """The score of one row: the bits of `predict` where the runtime is row-exact."""
        ...


class ServedVersion(msgspec.Struct, frozen=True, kw_only=True):
    """Which version answers, and as what."""

    model: str  # "late_flight"
    version: str  # the content address, which predictions carry
    label: str  # "late_flight@7", which answers show
    arm: str  # the alias or deployment line: "champion", ...
    inputs: tuple[str, ...]  # names of the model inputs, in order
    classes: tuple[str, ...] = ()  # what a row of scores stands for; empty: one number a row


class Answer(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One answer as its asker sees it; as JSON, `prediction` and `scores` are there for several classes only."""

    id: str  # of the prediction: `why` and outcomes go by it
    request_id: str
    model: str
    version: str  # "late_flight@7"
    arm: str
    mode: Mode
    score: float  # with `scores` that of the likeliest class
    at_us: int
    reasons: dict[str, str]  # feature -> why it has no fresh value; features that were found are left out
    flags: tuple[str, ...]
    prediction: str | None = None  # the likeliest class, of a model of several
    scores: dict[str, float] | None = None  # the probability of each, as declared


class Answerer:
    """Answers requests with one version of one model; compiled once when the version is loaded.

    Args:
        served: Which version, and its inputs' names.
        request: The request's definition.
        reader: Reads model inputs as of now.
        scorer: The fitted model.
        log: Where every prediction goes.
        clock: The moment of asking.
        ids: Gives a new identifier at each call.
        past: Answers questions about the past; without one they are refused.
        bare: Gives inputs without any feature of a view, for answers that have to do without.
        reads_state: Whether `reader` reads online state at all.
        of_others: Rows were checked for another version, the champion, whose request may have other columns, or the
            same in another order; they are logged as this one's request declares them.
    """

    def __init__(
        self,
        served: ServedVersion,
        request: Request,
        *,
        reader: InputReader,
        scorer: RowScorer,
        log: PredictionLog,
        clock: Clock,
        ids: Callable[[], str],
        past: PastReader | None = None,
        bare: InputReader | None = None,
        reads_state: bool = True,
        of_others: bool = False,
    ) -> None:
        self.served = served
        self.rows = RequestRows(request, clock.now_us)
        self.log = log
        self.bare = bare
        self.reads_state = reads_state
        self._read = reader.read
        self._predict_row = scorer.predict_row
        self.scorer = scorer
        self._now_us = clock.now_us
        self._ids = ids
        self._past = past
        self._key, self._time = request.key, request.time
        self._nobody: str | int = "-" if request.key_dtype == "str" else 0
        self._model, self._version, self._arm = served.model, served.version, served.arm
        self._label, self._inputs, self._classes = served.label, served.inputs, served.classes
        self._payload = payload_writer(served.model, served.version, served.arm)
        self._width = len(served.inputs)
        self._pack = struct.Struct(f"<{self._width}d").pack
        self._encode = msgspec.msgpack.Encoder().encode
        names = self.rows.names
        self._columns: Callable[[Row], list[Any]] = (
            (lambda row: [row.get(name) for name in names]) if of_others else _in_order
        )

    def warm_up(self) -> None:
        """Read the features of a row that nobody asked: the first asker waited 9 ms for what is made at the first use.

        The model has been asked by then: it repeats its golden predictions when it is loaded.
        """
        row = dict.fromkeys(self.rows.names) | {self._key: self._nobody, self._time: self._now_us()}
        try:
            self._read(self.rows.check([row]), self._now_us())
        except Exception as error:  # whatever a user's function makes of nulls, or a store that is not there yet
            _logger.info("%s: not warmed up: %s: %s", self.served.label, type(error).__name__, error)

    def answer(self, rows: Sequence[Mapping[str, Any]], *, at: str | int | dt.datetime | None = None) -> list[Answer]:
        """Answers to rows from Python, in their order, once their predictions are in the log.

        Args:
            rows: Request rows; every declared column must be there.
            at: A moment in the past to answer as of; left out, now.

        Raises:
            Misuse: A row is not as declared (names the field), or `at` lies in the future.
            Unavailable: Online state or the log cannot be used now; nothing was logged.
        """
        if at is None and len(rows) == 1 and not self._classes:
            return [self._answer_row(rows[0])]
        predictions = self.predict(self.rows.check(rows), at_us=None if at is None else parse_time_us(at))
        self.log.note(predictions)
        return [self.shown(p) for p in predictions]

    def _answer_row(self, given: Mapping[str, Any]) -> Answer:
        """The answer to one row as of now: what `predict`, `note` and `shown` do, without the steps between. # D132"""
        row = self.rows.plain(given) or self.rows.check((given,))[0]
        now_us = self._now_us()
        inputs = self._read((row,), now_us)
        values, reasons = inputs.rows[0], inputs.reasons[0]
        try:
            score: Any = self._predict_row(values)
            finite = math.isfinite(score)
        except Exception as error:  # whatever a user's model raises, or gives for a number
            raise model_raised(self.served, error) from error
        if not finite:
            raise no_number(self.served)
        prediction_id, request_id, at_us = self._ids(), str(row[self._key]), inputs.at_us
        request, packed = self._encode([*row.values()]), self._pack(*values)
        payload = self._payload(
            prediction_id, request_id, now_us, at_us, inputs.positions, score, request, packed, reasons
        )
        self.log.note_payloads((payload,))
        return Answer(
            id=prediction_id,
            request_id=request_id,
            model=self._model,
            version=self._label,
            arm=self._arm,
            mode="live",
            score=score,
            at_us=at_us,
            reasons=named_reasons(reasons, self._inputs) or _NO_REASONS,
            flags=(),
        )

    def predict(
        self,
        rows: Sequence[Row],
        *,
        at_us: int | None = None,
        flags: tuple[str, ...] = (),
        deadline_s: float | None = None,
    ) -> list[Prediction]:
        """Predictions for checked rows, not logged yet: whoever calls appends them before showing an answer."""
        if not rows:
            return []
        now_us = self._now_us()
        if at_us is None:
            return self.scored(rows, self.inputs(rows, now_us, deadline_s), now_us, flags)
        return self.scored(rows, self._read_past(rows, at_us, now_us), now_us, (*flags, PAST))

    def inputs(self, rows: Sequence[Row], now_us: int, deadline_s: float | None = None) -> ModelInputs:
        """What the model is shown as of now; `Late` when that cannot be begun, or is not there, by the deadline."""
        if deadline_s is None:
            return self._read(rows, now_us)
        check_deadline(deadline_s)
        found = self._read(rows, now_us)
        check_deadline(deadline_s)
        return found

    def scored(self, rows: Sequence[Row], inputs: ModelInputs, now_us: int, flags: tuple[str, ...]) -> list[Prediction]:
        """The model's predictions from its inputs.

        Raises:
            ModelFailed: It raised, or gave no number, or not one for each row.
        """
        if len(rows) == 1:
            values = inputs.rows[0]
            try:
                score = self._predict_row(values)
                sound = _is_number(score, len(self._classes))
            except Exception as error:  # whatever a user's model raises, or gives for a number
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
        scores = None
        if isinstance(score, list):
            scores, score = dict(zip(self._classes, score, strict=True)), max(score)
        return Prediction(
            id=self._ids(),
            request_id=str(row[self._key]),
            model=self._model,
            version=self._version,
            arm=self._arm,
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

    def repeated(self, last: Prediction, row: Row, now_us: int, flags: tuple[str, ...]) -> Prediction:
        """An answer that was given before, as the answer to another request."""
        return msgspec.structs.replace(
            last,
            id=self._ids(),
            request_id=str(row[self._key]),
            made_at_us=now_us,
            request=self._encode(self._columns(row)),
            flags=flags,
        )

    def ruled(self, row: Row, score: float, now_us: int, flags: tuple[str, ...]) -> Prediction:
        """An answer that neither features nor the model have part in."""
        nothing = ModelInputs((), (), now_us, {})
        values, reasons = [math.nan] * self._width, bytes([NO_VIEW]) * self._width
        return self._prediction(row, values, reasons, score, now_us, nothing, flags)

    def now_us(self) -> int:
        """The moment of asking."""
        return self._now_us()

    def shown(self, prediction: Prediction) -> Answer:
        """A prediction of this version as its asker sees it."""
        return shown(prediction, self.served)

    def _read_past(self, rows: Sequence[Row], at_us: int, now_us: int) -> ModelInputs:
        if at_us > now_us:
            raise Misuse(
                f"at={format_time(at_us)} lies in the future (now {format_time(now_us)}). "
                "Give a moment in the past, or leave it out for now."
            )
        if self._past is None:
            raise NotFound(
                f"{self.served.label}: answers about the past need history, which is not here. Leave `at` out."
            )
        return self._past.read(rows, at_us)


def shown(prediction: Prediction, served: ServedVersion) -> Answer:
    """A prediction of a version as its asker sees it."""
    return Answer(
        id=prediction.id,
        request_id=prediction.request_id,
        model=prediction.model,
        version=served.label,
        arm=prediction.arm,
        mode=prediction.mode,
        score=prediction.score,
        at_us=prediction.at_us,
        reasons=named_reasons(prediction.reasons, served.inputs) or _NO_REASONS,
        flags=prediction.flags,
        prediction=prediction.prediction,
        scores=prediction.scores,
    )


def _in_order(row: Row) -> list[Any]:
    """The columns of a row that was checked for the version itself."""
    return [*row.values()]


def _is_number(score: object, classes: int) -> bool:
    """Whether a score is a finite number, or such a number for each of so many classes."""
    if isinstance(score, list):
        return len(score) == classes and all(map(math.isfinite, score))
    return isinstance(score, float) and not classes and math.isfinite(score)


def named_reasons(reasons: bytes, inputs: Sequence[str]) -> dict[str, str]:
    """Why inputs have no fresh value, by name; those that were found are left out.

    >>> named_reasons(bytes([0, 4, 255]), ["sky.wind", "sky.temp", "hour"])
    {'sky.temp': 'expired'}
    """
    if not reasons.strip(_UNREMARKABLE):  # of all of it nothing is left
        return {}
    return {name: REASONS[code] for name, code in zip(inputs, reasons, strict=True) if code not in _UNREMARKABLE}


class LoggedPrediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A row of the prediction log, readable."""

    id: str
    request_id: str
    model: str
    version: str
    arm: str
    mode: str
    made_at_us: int
    at_us: int
    positions: dict[str, int]
    score: float
    request: list[Any]  # the request's columns in declared order
    values: list[float]  # the model's inputs, null for NaN
    reasons: list[str | None]  # of each input, None: from no view
    flags: tuple[str, ...]
    prediction: str | None = None  # as in an `Answer`
    scores: dict[str, float] | None = None


def logged_prediction(p: Prediction) -> LoggedPrediction:
    """A prediction with its packed parts unpacked."""
    return LoggedPrediction(
        id=p.id,
        request_id=p.request_id,
        model=p.model,
        version=p.version,
        arm=p.arm,
        mode=p.mode,
        made_at_us=p.made_at_us,
        at_us=p.at_us,
        positions=p.positions,
        score=p.score,
        request=msgspec.msgpack.decode(p.request),
        values=list(struct.unpack(f"<{len(p.values) // 8}d", p.values)),
        reasons=[None if code == NO_VIEW else REASONS[code] for code in p.reasons],
        flags=p.flags,
        prediction=p.prediction,
        scores=p.scores,
    )
