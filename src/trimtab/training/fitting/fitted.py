"""A fitted model that is not registered yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.columns.data import Columns
from trimtab.training.fitting.artifact import Artifact
from trimtab.training.fitting.contributions import contributions
from trimtab.training.runtimes.ports import Scorer
from trimtab.training.search import Chosen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trimtab.training.fitting.contributions import Contributions


class Fitted(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The result of `fit`: the artifact, its bytes, and what it was made from."""

    model: str
    recipe: str  # the hash of the model's declaration
    features: str  # the hash of the feature definitions
    artifact: Artifact
    data: bytes  # the artifact's bytes
    digest: str  # the SHA-256 of these bytes
    scorer: Scorer
    importance: dict[str, float] | None  # of each feature, as computed by the model's library; None: it computes none
    cut_us: int
    positions: dict[str, int]
    rows: int  # the number of rows that the model was fitted on
    seed: int
    chosen: Chosen | None = None  # the parameters that a search found; None: there was no search
    half_life_us: int | None = None  # a row of this age had half the weight of the newest; None: age did not matter

    def matrix(self, values: Columns) -> NDArray[Any]:
        """Return feature values as the matrix of the model's inputs."""
        return self.artifact.encoding.matrix(values)

    def predict(self, values: Columns) -> NDArray[Any]:
        """Return the score of each row of feature values."""
        return self.scorer.predict(self.matrix(values))

    def contributions(self, values: Columns) -> Contributions:
        """Return the SHAP values of each row: how much each feature adds to the raw score.

        Raises:
            Misuse: There are no SHAP values for this model, or they do not add up to its raw scores.
        """
        return contributions(self.artifact, self.matrix(values))
