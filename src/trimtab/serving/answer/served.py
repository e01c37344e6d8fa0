"""The version that answers requests, its model inputs, and the answer that a client gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from trimtab.core.records import Mode, Prediction
from trimtab.core.shown import Shown
from trimtab.features.frames import NO_VIEW, REASONS
from trimtab.serving.answer.request_rows import Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trimtab.core.columns.data import Columns
    from trimtab.events.columns.frames import EventFrame

UNREMARKABLE = bytes((0, NO_VIEW))  # the reason codes of inputs that were found, or that are not from a view
_NO_REASONS: dict[str, str] = {}


class ModelInputs(msgspec.Struct, frozen=True, gc=False):
    """The model inputs of some requests, with the time and the event log positions as of which they were read."""

    rows: Sequence[list[float]]  # the encoded inputs of each request in the version's order, with NaN for null
    reasons: Sequence[bytes]  # for each request: the reason code of each input (see features.REASONS), or NO_VIEW
    at_us: int
    positions: dict[str, int]


class InputReader(Protocol):
    """Reads model inputs as of now from online features, in a way that was compiled for one version."""

    def read(self, rows: Sequence[Row], now_us: int) -> ModelInputs:
        """Return the inputs of checked rows, all as of the same time.

        This is the time `now_us`, or the time of the last applied event if that is later.

        Raises:
            Unavailable: The online state cannot be read now.
        """
        ...


class PastReader(Protocol):
    """Computes model inputs as of a time in the past, from the history of events."""

    def read(self, rows: Sequence[Row], at_us: int) -> ModelInputs: ...


class TableReader(Protocol):
    """Computes the model inputs of many requests, in columns."""

    def compute(
        self, requests: Columns, at_us: NDArray[Any], frames: Mapping[str, EventFrame], /
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the model inputs, float64 (rows, inputs), and their reason codes, uint8 (rows, inputs)."""
        ...


class Readers(msgspec.Struct):
    """The readers from which one version gets its model inputs."""

    now: InputReader
    past: PastReader | None = None  # reads inputs as of past times; if None, requests about the past are refused
    bare: InputReader | None = None  # reads inputs without features of views, for degraded responses
    reads_state: bool = True  # whether `now` reads any online features
    tables: TableReader | None = None  # gives the same inputs as `now`, for tables; None: `now` reads online features


class RowScorer(Protocol):
    """A fitted model, which scores either one row or many rows."""

    def predict(self, matrix: NDArray[Any], /) -> NDArray[Any]:
        """Return the scores of a float64 matrix: shape (rows,), or (rows, classes) for several classes."""
        ...

    def predict_row(self, row: list[float], /) -> float | list[float]:
        """Return the score of one row.

        If the model's library gives equal bits for any number of rows, the score equals that of `predict` bit for bit.
        """
        ...


class ServedVersion(msgspec.Struct, frozen=True, kw_only=True):
    """The version that answers, with its name, its inputs and its classes."""

    model: str  # "late_flight"
    version: str  # the id, which is stored with predictions
    label: str  # the name in answers, such as "late_flight@7"
    arm: str  # the role of the version in the deployment: "champion", "canary", ...
    inputs: tuple[str, ...]  # the names of the model inputs, in order
    classes: tuple[str, ...] = ()  # the names of the classes; empty if the model gives a single number for a row


class Answer(Shown, msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One answer as the client gets it. Its JSON has `prediction` and `scores` only for several classes."""

    id: str  # the id of the prediction, needed to ask for explanations and to send labels
    request_id: str
    model: str
    version: str  # "late_flight@7"
    arm: str
    mode: Mode
    score: float  # the score; with several classes, the score of the most likely one
    at_us: int
    reasons: dict[str, str]  # for each feature without a fresh value: why
    flags: tuple[str, ...]
    prediction: str | None = None  # only with several classes: the most likely class
    scores: dict[str, float] | None = None  # only with several classes: the probability of each class


def shown(prediction: Prediction, served: ServedVersion) -> Answer:
    """Return the answer that a client gets for a prediction."""
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
    """Return for each input without a fresh value the reason, by name. Inputs that were found are left out.

    >>> named_reasons(bytes([0, 4, 255]), ["sky.wind", "sky.temp", "hour"])
    {'sky.temp': 'expired'}
    """
    if not reasons.strip(UNREMARKABLE):
        return _NO_REASONS
    return {name: REASONS[code] for name, code in zip(inputs, reasons, strict=True) if code not in UNREMARKABLE}
