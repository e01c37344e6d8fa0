"""All that scoring needs in one blob: encoding, impute-and-scale step, estimator, calibration, golden predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from trimtab.core.errors import Corrupt, Misuse
from trimtab.features.encoding import Encoding
from trimtab.features.feature_set import FeatureSet
from trimtab.features.stored import decode_features
from trimtab.stats.recalibration import Recalibration
from trimtab.training.calibrated import CalibratedScorer
from trimtab.training.definitions import Metric, Task
from trimtab.training.runtimes.choose import runtime_named
from trimtab.training.runtimes.ports import Scorer, Trust
from trimtab.training.standardize import Standardize, StandardizedScorer

if TYPE_CHECKING:
    from numpy.typing import NDArray

_encoder = msgspec.msgpack.Encoder()  # keeps the order of dicts: the encoding's is that of the matrix


class Golden(msgspec.Struct, frozen=True):
    """A few input rows and what they scored when the model was fitted; repeated wherever it is loaded."""

    rows: bytes  # little-endian float64, row after row (NaN: null)
    scores: bytes  # little-endian float64


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted model without its history: equal training gives equal bytes."""

    format: Literal[1] = 1
    model: str
    task: Task
    metric: Metric
    runtime: str
    trust: Trust | None
    kind: str  # the estimator's class, for people
    inputs: tuple[str, ...]  # the features, in the order of the matrix
    encoding: Encoding
    step: Standardize | None
    estimator: bytes
    row_exact: bool
    row_tolerance: float  # the largest difference seen between one row and a batch; 0 when `row_exact`
    golden: Golden
    definitions: bytes = b""  # the document of its feature definitions (`features.stored`); empty: of before there were
    recalibration: Recalibration | None = None  # what its scores are corrected by

    def features(self, digest: str) -> FeatureSet:
        """The feature definitions that it was trained with.

        Args:
            digest: Their address, from the version.

        Raises:
            Corrupt: They cannot be read, or are others.
            Misuse: It was stored without them, by an earlier trimtab.
        """
        if not self.definitions:
            raise Misuse(
                f"model {self.model!r}: this version was stored without its feature definitions, by an earlier "
                "trimtab. Bring the definitions back that it was trained with, or train a new one."
            )
        return decode_features(self.definitions, digest)


def encode_artifact(artifact: Artifact) -> bytes:
    """The artifact's bytes, the same for an equal one."""
    return _encoder.encode(artifact)


def decode_artifact(data: bytes) -> Artifact:
    """The artifact again.

    Raises:
        Corrupt: The bytes are none.
    """
    try:
        artifact = msgspec.msgpack.decode(data, type=Artifact)
    except msgspec.DecodeError as error:
        raise Corrupt(f"artifact: these {len(data)} bytes are none: {error}") from error
    if artifact.inputs != artifact.encoding.names:
        raise Corrupt(f"artifact of {artifact.model!r}: its encoding is not in the order of its inputs.")
    return artifact


def scorer_for(artifact: Artifact) -> Scorer:
    """What scores matrix rows with an artifact, calibration included.

    Raises:
        Misuse: The artifact's runtime is not installed.
        Corrupt: Its estimator is damaged.
    """
    scorer = uncalibrated_scorer(artifact)
    return scorer if artifact.recalibration is None else CalibratedScorer(artifact.recalibration, scorer)


def uncalibrated_scorer(artifact: Artifact) -> Scorer:
    """What scores matrix rows as the estimator alone would; see `scorer_for`."""
    scorer = runtime_named(artifact.runtime).load(artifact.estimator)
    return scorer if artifact.step is None else StandardizedScorer(artifact.step, scorer)


def make_golden(scorer: Scorer, matrix: NDArray[Any], *, rows: int = 8) -> Golden:
    """Golden predictions for rows spread over a matrix, and for one without any value."""
    import numpy as np

    chosen = np.unique(np.linspace(0, len(matrix) - 1, rows).astype(np.int64))
    inputs = np.vstack([matrix[chosen], np.full((1, matrix.shape[1]), np.nan)])
    return Golden(inputs.astype("<f8").tobytes(), np.asarray(scorer.predict(inputs)).astype("<f8").tobytes())


def golden_difference(artifact: Artifact, scorer: Scorer) -> float:
    """The largest difference between golden scores and those of now, one by one and together; 0 for equal bits."""
    import numpy as np

    expected = np.frombuffer(artifact.golden.scores, "<f8")
    rows = np.frombuffer(artifact.golden.rows, "<f8").reshape(len(expected), -1)
    together = np.asarray(scorer.predict(rows.astype(np.float64)))
    alone = np.array([scorer.predict_row(row) for row in rows.tolist()])
    if together.shape != expected.shape:
        return float("inf")
    difference = np.abs(np.stack([together, alone]) - expected)
    return float("inf") if np.isnan(difference).any() else float(difference.max())
