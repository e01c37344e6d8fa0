"""The stored model of the champion: find out whether training now would give an equal one; restore a lost one."""

from __future__ import annotations

from trimtab.core.errors import Corrupt, NotFound
from trimtab.registry import Version
from trimtab.registry.loading import lost_artifact
from trimtab.registry.protection import CHAMPION
from trimtab.steering.candidates.fits import Fits
from trimtab.steering.candidates.ports import DeploymentParts
from trimtab.steering.candidates.training_sets import TrainingSets, Unusable
from trimtab.training.data.sets import load_training_set


class ChampionArtifact:
    """The stored model (artifact) of the champion. The same rows, code and seed give the same bytes again."""

    def __init__(self, parts: DeploymentParts, sets: TrainingSets, fits: Fits) -> None:
        self._parts = parts
        self._sets = sets
        self._fits = fits

    def lost(self) -> bool:
        """Return whether the stored model is missing or damaged."""
        champion = self._parts.registry.alias(self._parts.deployment.name, CHAMPION)
        return champion is not None and lost_artifact(self._parts.blob, champion) is not None

    def put_back(self) -> None:
        """If the stored model is lost, fit the champion again on its stored training set, which stores the model again.

        Nothing is done if the champion's recipe is no longer declared, or if its training set is lost, too.
        """
        champion = self._same_recipe()
        if champion is None or not self.lost():
            return
        key = self._parts.deployment.model.request.key
        try:
            training_set = load_training_set(champion.training_set, self._parts.blob, key=key)
        except (NotFound, Corrupt):
            return  # also if the training set was stored without its rows
        self._fits.fit("refit", training_set, training_set.usable, champion.half_life_us)

    def same(self, cut_us: int) -> Version | None:
        """Return the champion if training now would give an equal model (same recipe and training set); otherwise None.

        If the stored model is lost, the champion is fitted again, and must then have the same bytes.
        """
        champion = self._same_recipe()
        if champion is None:
            return None
        try:
            training_set = self._sets.at(cut_us, self._sets.differs_from(champion))
        except (NotFound, Unusable):
            return None
        if not self.lost():
            return champion
        again = self._fits.fit("refit", training_set, training_set.usable, champion.half_life_us)
        return champion if again.digest == champion.artifact else None

    def _same_recipe(self) -> Version | None:
        """Return the champion if its recipe (definition and way of fitting) is declared now; otherwise None."""
        champion = self._parts.registry.alias(self._parts.deployment.name, CHAMPION)
        return champion if champion is not None and champion.recipe == self._parts.deployment.model.hash else None
