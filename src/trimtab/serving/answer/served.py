"""The version that answers, its model inputs, and the answer that a client gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from trimtab.core.records import Mode, Prediction
from trimtab.features.frames import NO_VIEW, REASONS
from trimtab.serving.answer.request_rows import Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

_UNREMARKABLE = bytes((0, NO_VIEW))  # found, or from no view
_NO_REASONS: dict[str, str] = {}


class ModelInputs(msgspec.Struct, frozen=True, gc=False):
    """The model inputs of some requests, with the time and the log positions as of which they were read."""

    rows: Sequence[
        list[float]
    ]  # encoded inputs, NaN for null: one row for each request, in the version's declared order
    reasons: Sequence[bytes]  # for each model input a code of features.REASONS, or NO_VIEW for a transform
    at_us: int
    positions: dict[str, int]


class InputReader(Protocol):
    """Reads model inputs as of now from online state, by a plan compiled once for one version."""

    def read(self, rows: Sequence[Row], now_us: int) -> ModelInputs:
        """Return the inputs of checked rows, all as of one time.

        The time is `now_us`, or that of the latest applied event if that is later.

        Raises:
            Unavailable: The online state cannot be read now.
        """
        ...


class PastReader(Protocol):
    """Computes model inputs as of a time in the past, from history and never from online state."""

    def read(self, rows: Sequence[Row], at_us: int) -> ModelInputs: ...


class Readers(msgspec.Struct):
    """The readers from which one version gets its model inputs."""

    now: InputReader
    past: PastReader | None = None  # if None, requests about the past are refused
    bare: InputReader | None = None  # gives inputs without features of views, for degraded responses
    reads_state: bool = True  # whether `now` reads online state at all


class RowScorer(Protocol):
    """A fitted model: one row at a time, or many."""

    def predict(self, matrix: NDArray[Any], /) -> NDArray[Any]:
        """Return the scores of a float64 matrix, of shape (rows,) or for several classes (rows, classes)."""
        ...

    def predict_row(self, row: list[float], /) -> float | list[float]:
        """Return the score of one row.

        The bits are those of `predict` where the runtime gives the same bits for any number of rows.
        """
        ...


class ServedVersion(msgspec.Struct, frozen=True, kw_only=True):
    """The version that answers, and the names under which it answers."""

    model: str  # "late_flight"
    version: str  # the content address, which predictions carry
    label: str  # "late_flight@7", which answers show
    arm: str  # the alias or deployment line: "champion", ...
    inputs: tuple[str, ...]  # names of the model inputs, in order
    classes: tuple[str, ...] = ()  # the class names of the scores; empty if the model gives one number for a row


class Answer(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One answer as the client gets it; as JSON, `prediction` and `scores` are there for several classes only."""

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


def shown(prediction: Prediction, served: ServedVersion) -> Answer:
    """Return the answer that shows a prediction of a version to a client."""
    return Answer(
        id=prediction.id,
        request_id=prediction.request_id,
        model=prediction.model,
        version=served.label,
        arm=prediction.arm,
        mode=prediction.mode,
        score=prediction.score,
        at_us=prediction.at_us,
        reasons=named_reasons(prediction.reasons, served.inputs),
        flags=prediction.flags,
        prediction=prediction.prediction,
        scores=prediction.scores,
    )


def named_reasons(reasons: bytes, inputs: Sequence[str]) -> dict[str, str]:
    """Return by name why inputs have no fresh value. Inputs that were found are left out.

    >>> named_reasons(bytes([0, 4, 255]), ["sky.wind", "sky.temp", "hour"])
    {'sky.temp': 'expired'}
    """
    if not reasons.strip(_UNREMARKABLE):
        return _NO_REASONS
    return {name: REASONS[code] for name, code in zip(inputs, reasons, strict=True) if code not in _UNREMARKABLE}
