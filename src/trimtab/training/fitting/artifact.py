"""The artifact of a version: encoding, scaling, estimator, classes, calibration and golden predictions in one blob."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from trimtab.core.errors import Corrupt, Misuse
from trimtab.features.encoding import Encoding
from trimtab.features.feature_set import FeatureSet
from trimtab.features.stored import decode_features
from trimtab.stats.recalibration import Recalibration
from trimtab.training.definitions import Metric, Task
from trimtab.training.fitting.classes import Classes, ClassScorer
from trimtab.training.fitting.standardize import Standardize, StandardizedScorer
from trimtab.training.runtimes.ports import PlainScorer, Score, Scorer, Trust
from trimtab.training.runtimes.table import runtime_named

if TYPE_CHECKING:
    from numpy.typing import NDArray

# keeps the order of dicts, because the order of the encoding is that of the matrix
_encoder = msgspec.msgpack.Encoder()


class Golden(msgspec.Struct, frozen=True):
    """A few input rows with their scores at the time of the fit. Every load of the model compares the scores again."""

    rows: bytes  # little-endian float64, row after row (NaN: null)
    scores: bytes  # little-endian float64; with several classes row after row


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted model without its history: equal trainings give equal bytes."""

    format: Literal[1, 2] = 1  # 2: several classes, which an earlier trimtab cannot score
    model: str
    task: Task
    metric: Metric
    runtime: str
    trust: Trust | None
    kind: str  # the name of the estimator's class, shown to people
    inputs: tuple[str, ...]  # the features, in the order of the matrix
    encoding: Encoding
    step: Standardize | None
    estimator: bytes
    row_exact: bool
    # the largest difference seen between the score of one row and that of a batch; 0 if `row_exact`
    row_tolerance: float
    golden: Golden
    # the document of the feature definitions (`features.stored`); empty: stored by an earlier trimtab
    definitions: bytes = b""
    recalibration: Recalibration | None = None  # the map that corrects the estimator's scores
    classes: Classes | msgspec.UnsetType = msgspec.UNSET  # left out of the bytes if each row has one number

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of a row's probabilities, in order; empty if a row has one number."""
        return () if self.classes is msgspec.UNSET else self.classes.names

    def features(self, digest: str) -> FeatureSet:
        """The feature definitions that the model was trained with.

        Args:
            digest: The hash of the definitions, from the version.

        Raises:
            Corrupt: The definitions cannot be read, or have another hash.
            Misuse: The artifact was stored without definitions, by an earlier trimtab.
        """
        if not self.definitions:
            raise Misuse(
                f"model {self.model!r}: this version was stored without its feature definitions, by an earlier "
                "trimtab. Bring the definitions back that it was trained with, or train a new one."
            )
        return decode_features(self.definitions, digest)


class CalibratedScorer:
    """A scorer that recalibrates the scores of another one, by the same operations for one row and for many."""

    def __init__(self, recalibration: Recalibration, scorer: Scorer) -> None:
        self._corrected = recalibration.mapping()
        self._corrected_row = recalibration.row_mapping()
        self.inner = scorer

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        return self._corrected(self.inner.predict(matrix))

    def predict_row(self, row: list[float]) -> Score:
        return self._corrected_row(self.inner.predict_row(row))  # type: ignore[arg-type]  # a map is of their kind


def encode_artifact(artifact: Artifact) -> bytes:
    """Return the artifact's bytes; equal artifacts give equal bytes."""
    return _encoder.encode(artifact)


def decode_artifact(data: bytes) -> Artifact:
    """Return the artifact that the bytes hold.

    Raises:
        Corrupt: The bytes hold no artifact.
    """
    try:
        artifact = msgspec.msgpack.decode(data, type=Artifact)
    except msgspec.DecodeError as error:
        raise Corrupt(f"artifact: these {len(data)} bytes hold no artifact: {error}") from error
    if artifact.inputs != artifact.encoding.names:
        raise Corrupt(f"artifact of {artifact.model!r}: its encoding is not in the order of its inputs.")
    return artifact


def scorer_for(artifact: Artifact) -> Scorer:
    """Return a scorer of matrix rows, calibration included.

    Raises:
        Misuse: The artifact's runtime is not installed.
        Corrupt: The stored estimator is damaged.
    """
    scorer = uncalibrated_scorer(artifact)
    return scorer if artifact.recalibration is None else CalibratedScorer(artifact.recalibration, scorer)


def uncalibrated_scorer(artifact: Artifact) -> Scorer:
    """Return a scorer of matrix rows without calibration; see `scorer_for`."""
    scorer = runtime_named(artifact.runtime).load(artifact.estimator)
    stepped = scorer if artifact.step is None else StandardizedScorer(artifact.step, scorer)
    return stepped if artifact.classes is msgspec.UNSET else ClassScorer(artifact.classes, stepped)


def make_golden(scorer: Scorer, matrix: NDArray[Any], *, rows: int = 8) -> Golden:
    """Return the golden predictions for some rows spread over a matrix, and for a row of nulls."""
    import numpy as np

    chosen = np.unique(np.linspace(0, len(matrix) - 1, rows).astype(np.int64))
    inputs = np.vstack([matrix[chosen], np.full((1, matrix.shape[1]), np.nan)])
    return Golden(inputs.astype("<f8").tobytes(), np.asarray(scorer.predict(inputs)).astype("<f8").tobytes())


def golden_difference(artifact: Artifact, scorer: Scorer) -> float:
    """Return the largest difference between golden and present scores, row by row and as a batch; 0 for equal bits."""
    rows = golden_rows(artifact)
    classes = len(artifact.class_names) or 1
    expected = list(struct.iter_unpack(f"<{classes}d", artifact.golden.scores))
    alone = [_scores_of(scorer.predict_row(row)) for row in rows]
    together = [_scores_of(score) for score in score_rows(scorer, rows)]
    return max(_largest_difference(expected, found) for found in (alone, together))


def golden_rows(artifact: Artifact) -> list[list[float]]:
    """Return the rows of the golden predictions, with NaN for null."""
    return [list(row) for row in struct.iter_unpack(f"<{len(artifact.inputs)}d", artifact.golden.rows)]


def score_rows(scorer: Scorer, rows: list[list[float]]) -> list[Score]:
    """Return the scores of a batch, computed without NumPy if the scorer works without NumPy."""
    if isinstance(scorer, PlainScorer):
        return scorer.predict_rows(rows)
    import numpy as np

    found: list[Score] = scorer.predict(np.array(rows, np.float64)).tolist()
    return found


def _scores_of(score: Score) -> Sequence[float]:
    return score if isinstance(score, list) else (score,)


def _largest_difference(expected: Sequence[Sequence[float]], found: Sequence[Sequence[float]]) -> float:
    """Return the largest difference of two arrays; infinite if their shapes differ or a score is NaN."""
    if [*map(len, expected)] != [*map(len, found)]:
        return math.inf
    apart = [abs(a - b) for one, other in zip(expected, found, strict=True) for a, b in zip(one, other, strict=True)]
    return math.inf if any(map(math.isnan, apart)) else max(apart, default=0.0)
