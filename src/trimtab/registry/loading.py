"""Load stored versions: check their bytes, and repeat their golden predictions (stored scores of stored rows)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.errors import Corrupt, Misuse, NotFound
from trimtab.features.encoding import Encoding
from trimtab.features.feature_set import FeatureSet
from trimtab.registry.versions import Version
from trimtab.store.ports import Blob
from trimtab.training.environment import current_environment, what_matters
from trimtab.training.fitting.artifact import Artifact, decode_artifact, golden_difference, golden_rows, scorer_for
from trimtab.training.fitting.path_choice import ROUNDING, allowed_difference, refuse_unlike_here
from trimtab.training.runtimes.ports import Score, Scorer
from trimtab.training.runtimes.scoring_paths import several_paths

if TYPE_CHECKING:
    from numpy.typing import NDArray

_log = logging.getLogger("trimtab.registry")
_OTHER_MACHINE = 1e-9  # the allowed difference of scores if the processor or a library's version differs
_CODE = (
    "Pickle does not store the code of the model's class: bring that code back as it was when the version was trained."
)


class LoadedModel(msgspec.Struct, frozen=True, eq=False):
    """A version that was loaded. Several threads may use it at once."""

    version: Version
    artifact: Artifact
    scorer: Scorer

    @property
    def row_call(self) -> str | None:
        """The name of the code path that scores single rows; None if there is only one such path."""
        inner = several_paths(self.scorer)
        return None if inner is None else inner.row_call

    @property
    def encoding(self) -> Encoding:
        """The rules that turn feature values into rows of the matrix."""
        return self.artifact.encoding

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the features, in the order of the matrix's columns."""
        return self.artifact.inputs

    def features(self) -> FeatureSet:
        """The feature definitions that the version was trained with. (The project may now declare others.)

        Raises:
            Corrupt: The definitions cannot be read, or have another hash.
        """
        return self.artifact.features(self.version.features)

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """Return the scores of matrix rows, shape (rows,), or (rows, classes) for a model of several classes."""
        return self.scorer.predict(matrix)

    def predict_row(self, row: list[float]) -> Score:
        """Return the score of one row, in which NaN means null. For a model of several classes return a list."""
        return self.scorer.predict_row(row)


def lost_artifact(blob: Blob, version: Version) -> str | None:
    """Return what is wrong with a stored artifact (missing, or a wrong hash); None if it is intact."""
    try:
        blob.get(version.artifact)
    except (Corrupt, NotFound) as error:
        return str(error)
    return None


def repair_lost(model: str, *, imported: str | None, changed: bool = False) -> str:
    """Return the commands to use if the artifact of the version in service is lost.

    Args:
        imported: The name of the file that the version was imported from; None if the version was trained here.
        changed: Whether the project now declares the model differently.

    >>> repair_lost("late_flight", imported=None)[:72]
    'Run: trimtab train late_flight (it fits the version again and restores t'
    """
    if imported is not None:
        first = f"Import its file again: trimtab versions import {imported} --model {model}"
    elif changed:
        first = f"Declare the model again as it was when the version was trained, and run: trimtab train {model}"
    else:
        first = f"Run: trimtab train {model} (it fits the version again and restores the same bytes)"
    return f"{first}. Or bring all of the state back from a backup: trimtab storage restore BACKUP --force"


def load_version(
    blob: Blob,
    version: Version,
    *,
    features: FeatureSet | str | None = None,
    row_call: Callable[[Version], str | None] = lambda _: None,
) -> LoadedModel:
    """Load the artifact of a version, check its bytes, and repeat its golden predictions.

    Args:
        features: The definitions of the features that the caller will pass in, or the hash of these definitions.
        row_call: Returns a version's chosen path for scoring single rows. It is only called if there are several paths.

    Raises:
        Corrupt: The blob is missing or damaged, or does not belong to the version.
        Misuse: The feature definitions or their order differ, this machine cannot load the version (another
            architecture or library), or its golden predictions differ on this machine.
    """
    what = f"version {version.name} ({version.id[:12]})"
    given = features.hash if isinstance(features, FeatureSet) else features
    if given is not None and given != version.features:
        raise Misuse(
            f"{what}: it was trained with feature definitions {version.features[:12]}, but the project now declares "
            f"{given[:12]}. Retrain it, or bring the old definitions back."
        )
    sound = False
    try:
        artifact = decode_artifact(blob.get(version.artifact))
        if (artifact.model, artifact.runtime, artifact.trust) != (version.model, version.runtime, version.trust):
            raise Corrupt("it belongs to another version.")
        sound = True
        scorer = scorer_for(artifact)
    except (Corrupt, NotFound) as error:
        here = current_environment()
        if sound and version.runtime == "pickle":
            raise Misuse(f"{what}: {error} {_CODE} Or retrain it here.") from error
        if sound and (changed := what_matters(version.environment, here, version.runtime)):
            raise Misuse(  # the bytes are intact, but libraries on this machine cannot read them
                f"{what}: {version.runtime} cannot load it here: {error} Changed since training: "
                f"{', '.join(changed)}. Load it on a machine like the one where it was made, install the versions it "
                "was made with, or retrain it here."
            ) from error
        raise Corrupt(f"{what}: blob {version.artifact}: {error}") from error
    if isinstance(features, FeatureSet) and features.names != artifact.inputs:
        raise Misuse(
            f"{what}: it reads its features in the order {', '.join(artifact.inputs)}; they are now declared as "
            f"{', '.join(features.names)}. Bring the old order back, or retrain it."
        )
    _choose(what, version, scorer, row_call)
    _check_golden(what, version, artifact, scorer)
    return LoadedModel(version, artifact, scorer)


def _choose(what: str, version: Version, scorer: Scorer, row_call: Callable[[Version], str | None]) -> None:
    """Make the scorer use the chosen scoring path, if one was chosen."""
    inner = several_paths(scorer)
    name = None if inner is None else row_call(version)
    if inner is None or name is None:
        return
    try:
        inner.choose(name)
    except NotFound as error:
        _log.warning("%s: %s Using %r.", what, error, inner.row_call)


def _check_golden(what: str, version: Version, artifact: Artifact, scorer: Scorer) -> None:
    """Raise `Misuse` if golden predictions differ too much. If only the chosen path is at fault, use the library's."""
    here, there = current_environment(), version.environment
    matters = what_matters(there, here, version.runtime)
    if matters:
        _log.warning("%s: it was made in another environment: %s", what, ", ".join(matters))
    changed = [
        f"{name} {there.packages.get(name)} -> {now}"
        for name, now in here.packages.items()
        if name != "trimtab" and there.packages.get(name) != now
    ]
    changed += [one for one in matters if one.partition(" ")[0] in ("architecture", "processor", "Python")]
    allowed = allowed_difference(artifact)
    found = golden_difference(artifact, scorer)
    inner = several_paths(scorer)
    lost = None if inner is None else inner.row_call
    # The stored tolerance may have been measured with a path that was wrong already. So if the difference is more than
    # rounding, the path's scores are also compared with those of the library.
    if (inner is not None and lost != "library") and (
        not found <= allowed or (found > ROUNDING and refuse_unlike_here(artifact, scorer, golden_rows(artifact)))
    ):
        inner.choose("library")
        found = golden_difference(artifact, scorer)
        if found <= allowed:
            _log.warning(
                "%s: path %r does not reproduce the golden predictions on this machine; the library does.", what, lost
            )
    if found <= allowed:
        return
    text = f"golden predictions differ by {found:.3g} (allowed {allowed:.3g}); changed since training: "
    if not changed or not found <= max(allowed, _OTHER_MACHINE):
        code = f"{_CODE} " if artifact.runtime == "pickle" else ""
        raise Misuse(
            f"{what}: {text}{', '.join(changed) or 'nothing recorded'}. {code}"
            "Install the versions that it was made with, or retrain it here."
        )
    _log.warning("%s: %s%s", what, text, ", ".join(changed))
