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
    """What `fit` gives: the artifact, its bytes, and what it was fitted on."""

    model: str
    recipe: str  # the model definition's hash
    features: str  # the feature definitions' hash
    artifact: Artifact
    data: bytes  # the artifact's bytes
    digest: str  # their SHA-256
    scorer: Scorer
    importance: dict[str, float] | None  # by feature, as the library sees it
    cut_us: int
    positions: dict[str, int]
    rows: int  # how many rows it was fitted on
    seed: int
    chosen: Chosen | None = None  # the parameters that a search found for it

    def matrix(self, values: Columns) -> NDArray[Any]:
        """The model's input of feature values, as its training encoded them."""
        return self.artifact.encoding.matrix(values)

    def predict(self, values: Columns) -> NDArray[Any]:
        """The score of each row of feature values."""
        return self.scorer.predict(self.matrix(values))

    def contributions(self, values: Columns) -> Contributions:
        """What each feature adds to the raw score of each row of feature values (SHAP values of trees).

        Raises:
            Misuse: The model's library computes none: LightGBM, XGBoost and CatBoost do.
        """
        from trimtab.training.fitting.contributions import contributions

        return contributions(self.artifact, self.matrix(values))
