"""A fitted model that is not registered yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.columns.data import Columns
from trimtab.training.fitting.artifact import Artifact
from trimtab.training.runtimes.ports import Scorer
from trimtab.training.search import Chosen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trimtab.training.fitting.contributions import Contributions


class Fitted(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The result of `fit`: the artifact, its bytes, and its origin."""

    model: str
    recipe: str  # the model definition's hash
    features: str  # the feature definitions' hash
    artifact: Artifact
    data: bytes  # the artifact's bytes
    digest: str  # their SHA-256
    scorer: Scorer
    importance: dict[str, float] | None  # by feature, as the library computes it
    cut_us: int
    positions: dict[str, int]
    rows: int  # rows that it was fitted on
    seed: int
    chosen: Chosen | None = None  # the parameters that a search chose

    def matrix(self, values: Columns) -> NDArray[Any]:
        """Feature values encoded as the model's inputs."""
        return self.artifact.encoding.matrix(values)

    def predict(self, values: Columns) -> NDArray[Any]:
        """The score of each row of feature values."""
        return self.scorer.predict(self.matrix(values))

    def contributions(self, values: Columns) -> Contributions:
        """Contributions of the features to the raw score of each row of feature values (SHAP values).

        Raises:
            Misuse: The model's library computes none: LightGBM, XGBoost and CatBoost do.
        """
        from trimtab.training.fitting.contributions import contributions

        return contributions(self.artifact, self.matrix(values))
