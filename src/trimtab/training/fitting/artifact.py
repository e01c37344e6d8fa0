"""The artifact of a version: everything that is needed to score, stored in one blob."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from trimtab.core.errors import Corrupt
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

# no `order=`, because it would sort dicts, but the features of an encoding must keep the order of the matrix's columns
_encoder = msgspec.msgpack.Encoder()


class Golden(msgspec.Struct, frozen=True):
    """A few input rows with their scores at the time of the fit. A loaded model scores them again, as a check."""

    rows: bytes  # little-endian float64, row after row (NaN: null)
    scores: bytes  # little-endian float64; for a model of several classes, row after row


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted model: encoding, scaling, estimator, calibration, golden predictions. Equal fits give equal bytes."""

    format: Literal[1, 2] = 1  # 2: several classes
    model: str
    task: Task
    metric: Metric
    runtime: str
    trust: Trust | None
    kind: str  # the name of the estimator's class, for people
    inputs: tuple[str, ...]  # the names of the features, in the order of the matrix's columns
    encoding: Encoding
    step: Standardize | None  # None: the estimator gets the matrix as it is, with nulls
    estimator: bytes
    row_exact: bool  # whether the library promises that a row alone and in a batch get the same score, bit for bit
    # the largest difference found between the scores of a row alone and in a batch; 0 if `row_exact`
    row_tolerance: float
    golden: Golden
    definitions: bytes = b""  # the document of the feature definitions (`features.stored`)
    recalibration: Recalibration | None = None  # the map that corrects the estimator's scores
    classes: Classes | msgspec.UnsetType = msgspec.UNSET  # left out of the bytes if each row has one score

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in the order of a row's probabilities; empty if there is one number per row."""
        return () if self.classes is msgspec.UNSET else self.classes.names

    def features(self, digest: str) -> FeatureSet:
        """Return the feature definitions that the model was trained with.

        Args:
            digest: The hash that the definitions must have, from the version.

        Raises:
            Corrupt: The definitions cannot be read, or have another hash.
        """
        return decode_features(self.definitions, digest)


class CalibratedScorer:
    """A scorer that corrects the scores of another scorer. It corrects a row alone and in a batch in the same way."""

    def __init__(self, recalibration: Recalibration, scorer: Scorer) -> None:
        self._corrected = recalibration.mapping()
        self._corrected_row = recalibration.row_mapping()
        self.inner = scorer

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        return self._corrected(self.inner.predict(matrix))

    def predict_row(self, row: list[float]) -> Score:
        return self._corrected_row(self.inner.predict_row(row))  # type: ignore[arg-type]  # fits the kind of score


def encode_artifact(artifact: Artifact) -> bytes:
    """Return the bytes of an artifact. Equal artifacts give equal bytes."""
    return _encoder.encode(artifact)


def decode_artifact(data: bytes) -> Artifact:
    """Decode an artifact.

    Raises:
        Corrupt: The bytes are not an artifact.
    """
    try:
        artifact = msgspec.msgpack.decode(data, type=Artifact)
    except msgspec.DecodeError as error:
        raise Corrupt(f"artifact: these {len(data)} bytes are not an artifact: {error}") from error
    if artifact.inputs != artifact.encoding.names:
        raise Corrupt(f"artifact of {artifact.model!r}: its encoding and its inputs list the features differently.")
    return artifact


def scorer_for(artifact: Artifact) -> Scorer:
    """Return a scorer for rows of the matrix. It includes calibration.

    Raises:
        Misuse: The library that the model needs is not installed.
        Corrupt: The stored estimator is damaged.
    """
    scorer = uncalibrated_scorer(artifact)
    return scorer if artifact.recalibration is None else CalibratedScorer(artifact.recalibration, scorer)


def uncalibrated_scorer(artifact: Artifact) -> Scorer:
    """Return a scorer for rows of the matrix, without calibration; see `scorer_for`."""
    scorer = runtime_named(artifact.runtime).load(artifact.estimator)
    stepped = scorer if artifact.step is None else StandardizedScorer(artifact.step, scorer)
    return stepped if artifact.classes is msgspec.UNSET else ClassScorer(artifact.classes, stepped)


def make_golden(scorer: Scorer, matrix: NDArray[Any]) -> Golden:
    """Return golden predictions: the scores of 8 rows, evenly spread over a matrix, and of a row of nulls."""
    import numpy as np

    chosen = sorted(set(np.linspace(0, len(matrix) - 1, 8).astype(np.int64).tolist()))
    inputs = np.vstack([matrix[chosen], np.full((1, matrix.shape[1]), np.nan)])
    return Golden(inputs.astype("<f8").tobytes(), np.asarray(scorer.predict(inputs)).astype("<f8").tobytes())


def golden_difference(artifact: Artifact, scorer: Scorer) -> float:
    """Score the golden rows alone and as a batch, and return the largest difference from the stored scores."""
    rows = golden_rows(artifact)
    classes = len(artifact.class_names) or 1
    expected = list(struct.iter_unpack(f"<{classes}d", artifact.golden.scores))
    alone = [_scores_of(scorer.predict_row(row)) for row in rows]
    together = [_scores_of(score) for score in score_rows(scorer, rows)]
    return max(_largest_difference(expected, found) for found in (alone, together))


def golden_rows(artifact: Artifact) -> list[list[float]]:
    """Return the rows whose scores were stored at the time of the fit, with NaN for null."""
    return [list(row) for row in struct.iter_unpack(f"<{len(artifact.inputs)}d", artifact.golden.rows)]


def score_rows(scorer: Scorer, rows: list[list[float]]) -> list[Score]:
    """Return the scores of rows. NumPy is not used if the scorer does not need it."""
    if isinstance(scorer, PlainScorer):
        return scorer.predict_rows(rows)
    import numpy as np

    found: list[Score] = scorer.predict(np.array(rows, np.float64)).tolist()
    return found


def _scores_of(score: Score) -> Sequence[float]:
    return score if isinstance(score, list) else (score,)


def _largest_difference(expected: Sequence[Sequence[float]], found: Sequence[Sequence[float]]) -> float:
    """Return the largest difference between two arrays; infinite if their shapes differ or a score is NaN."""
    if [*map(len, expected)] != [*map(len, found)]:
        return math.inf
    apart = [abs(a - b) for one, other in zip(expected, found, strict=True) for a, b in zip(one, other, strict=True)]
    return math.inf if any(map(math.isnan, apart)) else max(apart, default=0.0)
