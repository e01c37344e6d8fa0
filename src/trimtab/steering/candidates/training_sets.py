"""The training sets of one deployment. A set is not stored if no candidate can be made from it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import msgspec

from trimtab.core.errors import Corrupt, NotFound
from trimtab.registry import Version
from trimtab.steering.candidates.ports import CandidateOptions, DeploymentParts
from trimtab.steering.candidates.stored import set_codec
from trimtab.training.data.sets import TrainingSet, load_manifest, save_training_set


class Unusable(Exception):
    """Raised if no candidate can be made from a training set. The message says why."""


class TrainingSets:
    """Builds training sets. If steps are recorded, a set is not built again after an interruption."""

    def __init__(self, parts: DeploymentParts, options: CandidateOptions) -> None:
        self._model = parts.deployment.model
        self._parts = parts
        self._options = options

    def at(self, cut_us: int, lack: Callable[[TrainingSet], str | None] = lambda training_set: None) -> TrainingSet:
        """Return the training set of a time (the cut).

        Args:
            cut_us: The set only has what was known at this time.
            lack: Returns why no candidate can be made from a set, which is then not stored; None if one can be made.

        Raises:
            Unusable: No candidate can be made from the set, for the reason that `lack` returned.
        """
        model, recording = self._model, self._options.recording

        def build() -> TrainingSet:
            return checked(self._parts.data.training_set(model, cut_us=cut_us))

        def checked(training_set: TrainingSet) -> TrainingSet:
            why = lack(training_set)
            if why is not None:
                raise Unusable(why)
            return training_set

        codec = set_codec(self._parts.blob, model.request.key)
        return checked(recording.steps.do("snapshot", lambda: recording.pin(model, cut_us), build, codec))

    def save(self, training_set: TrainingSet) -> str:
        """Store the training set of a version, and return the hash of its manifest."""
        return self._options.save(training_set, self._parts.blob)

    def discard(self, training_set: TrainingSet) -> None:
        """Delete a stored training set, unless a version was made from it."""
        blob, digest = self._parts.blob, save_training_set(training_set, self._parts.blob)
        parquet = load_manifest(digest, blob).parquet
        for version in self._parts.registry.versions(self._model.name):
            with suppress(NotFound):
                if version.training_set == digest or load_manifest(version.training_set, blob).parquet == parquet:
                    return
        for one in filter(None, (digest, parquet)):
            blob.delete(one)

    def differs_from(self, version: Version) -> Callable[[TrainingSet], str | None]:
        """Return a function for the argument `lack` of `at` that refuses all training sets except that of a version."""
        try:
            made_of = msgspec.structs.replace(load_manifest(version.training_set, self._parts.blob), parquet=None)
        except (NotFound, Corrupt):
            return lambda found: None if self.save(found) == version.training_set else "It is another training set."
        return lambda found: None if found.manifest == made_of else "It is another training set."
