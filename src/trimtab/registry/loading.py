"""From a version's record to a model that scores, with every promise about its bytes checked on the way."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.errors import Corrupt, Misuse, NotFound
from trimtab.features.encoding import Encoding
from trimtab.features.feature_set import FeatureSet
from trimtab.registry.versions import Version
from trimtab.store.ports import Blob
from trimtab.training.artifact import Artifact, decode_artifact, golden_difference, scorer_for
from trimtab.training.environment import current_environment
from trimtab.training.runtimes.ports import Scorer

if TYPE_CHECKING:
    from numpy.typing import NDArray

_log = logging.getLogger("trimtab.registry")
_ELSEWHERE = 1e-9  # how far scores may be off under another processor or library version


class LoadedModel(msgspec.Struct, frozen=True, eq=False):
    """A version that is ready to score. Threads may share it."""

    version: Version
    artifact: Artifact
    scorer: Scorer

    @property
    def encoding(self) -> Encoding:
        """From feature values to matrix rows, as training fitted it."""
        return self.artifact.encoding

    @property
    def inputs(self) -> tuple[str, ...]:
        """The features in the order of the matrix."""
        return self.artifact.inputs

    def features(self) -> FeatureSet:
        """The feature definitions that it was trained with, whatever the project file says by now.

        Raises:
            Corrupt: They cannot be read, or are others.
            Misuse: It was stored without them, by an earlier trimtab.
        """
        return self.artifact.features(self.version.features)

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """The score of each matrix row."""
        return self.scorer.predict(matrix)

    def predict_row(self, row: list[float]) -> float:
        """The score of one row, NaN for null."""
        return self.scorer.predict_row(row)


def load_version(blob: Blob, version: Version, *, features: FeatureSet | str | None = None) -> LoadedModel:
    """Load a version's blob, check it, and repeat its golden predictions.

    Raises:
        Corrupt: The blob is missing or damaged, or does not belong to the version.
        Misuse: Other feature definitions, or a machine that does not repeat the golden predictions.
    """
    what = f"version {version.name} ({version.id[:12]})"
    given = features.hash if isinstance(features, FeatureSet) else features
    if given is not None and given != version.features:
        raise Misuse(
            f"{what}: it was trained with feature definitions {version.features[:12]}, it would be given "
            f"{given[:12]}. Retrain it, or bring the old definitions back."
        )
    try:
        artifact = decode_artifact(blob.get(version.artifact))
        if (artifact.model, artifact.runtime, artifact.trust) != (version.model, version.runtime, version.trust):
            raise Corrupt("it belongs to another version.")
        scorer = scorer_for(artifact)
    except (Corrupt, NotFound) as error:
        raise Corrupt(f"{what}: blob {version.artifact}: {error}") from error
    if isinstance(features, FeatureSet) and features.names != artifact.inputs:
        raise Misuse(
            f"{what}: it reads its features in the order {', '.join(artifact.inputs)}; they are now declared as "
            f"{', '.join(features.names)}. Bring the old order back, or retrain it."
        )
    _check_golden(what, version, artifact, scorer)
    return LoadedModel(version, artifact, scorer)


def _check_golden(what: str, version: Version, artifact: Artifact, scorer: Scorer) -> None:
    here, there = current_environment(), version.environment
    changed = [
        f"{name} {there.packages.get(name)} -> {now}"
        for name, now in here.packages.items()
        if name != "trimtab" and there.packages.get(name) != now
    ]
    if here.cpu != there.cpu:
        changed.append(f"processor {there.cpu} -> {here.cpu}")
    allowed = 0.0 if artifact.row_exact else max(artifact.row_tolerance, 1e-12)
    found = golden_difference(artifact, scorer)
    if found <= allowed:
        return
    said = f"golden predictions differ by {found:.3g} (allowed {allowed:.3g}); changed since training: "
    if not changed or not found <= max(allowed, _ELSEWHERE):
        raise Misuse(
            f"{what}: {said}{', '.join(changed) or 'nothing that is recorded'}. "
            "Install the versions that it was made with, or retrain it here."
        )
    _log.warning("%s: %s%s", what, said, ", ".join(changed))
