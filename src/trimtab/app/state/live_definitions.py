"""Find the feature definitions in use: the applied ones, and those of versions to which an alias points.  # D35"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

import msgspec

from trimtab.app.state.definitions import Definitions
from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound
from trimtab.events.definitions import Source
from trimtab.experiments.definitions import Experiment
from trimtab.experiments.eligibility import eligibility_features
from trimtab.experiments.records import ExperimentState, running_experiments, stored_definition
from trimtab.features.definitions import Request, View
from trimtab.features.feature_set import FeatureSet
from trimtab.features.stored import decode_features, with_sources
from trimtab.registry import LoadedModel, Registry, Version
from trimtab.registry.protection import CHAMPION
from trimtab.steering.loop_state import KIND as LOOP
from trimtab.steering.loop_state import LoopState
from trimtab.store.ports import Blob, Catalog
from trimtab.training.fitting.artifact import decode_artifact

APPLIED = "applied_features"  # the kind of the catalogue records with each model's applied feature definitions
_MOST = 1_024  # the maximum number of versions whose definitions are cached


class AppliedFeatures(msgspec.Struct, frozen=True):
    """The feature definitions that were applied for a model."""

    hash: str
    document: str  # the definitions as encoded by `encode_features`


class LiveDefinitions:
    """Finds the feature definitions for which online features must be kept up to date.

    Args:
        catalog: Holds the applied definitions and the promotions that are about to happen.
        blob: Holds the artifacts of versions, which contain their definitions.
        place: Returns a source with its columns in the order of stored events.
        clock: Tells how long ago a champion was replaced.
    """

    def __init__(
        self,
        definitions: Definitions,
        *,
        registry: Registry,
        catalog: Catalog,
        blob: Blob,
        place: Callable[[Source], Source],
        clock: Clock,
    ) -> None:
        self._definitions = definitions
        self._registry = registry
        self._catalog = catalog
        self._blob = blob
        self._place = place
        self._clock = clock
        self._begun = {record.key: record.body for record in catalog.find(APPLIED)}  # applied when the project opened
        self._mutex = threading.Lock()  # protects the cache; not held while definitions are read
        self._of_version: OrderedDict[str, FeatureSet] = OrderedDict()  # by version id, least recently used first
        self._applied: dict[str, FeatureSet] = {}  # a cache by the hash of the stored definitions

    def of(self, version: Version, loaded: LoadedModel | None = None) -> FeatureSet:
        """Return the feature definitions with which a version was trained.

        If they equal the definitions of the project file, the project file's own objects are returned.

        Args:
            loaded: The loaded version, if it is in memory. It saves reading the artifact, which may be large.

        Raises:
            Misuse: A column has another type than in recorded events.
            Corrupt: The definitions cannot be read.
        """
        declared = self._definitions.models.get(version.model)
        if declared is not None and declared.features.hash == version.features:
            return declared.features
        with self._mutex:
            if version.id in self._of_version:
                self._of_version.move_to_end(version.id)
                return self._of_version[version.id]
        artifact = decode_artifact(self._blob.get(version.artifact)) if loaded is None else loaded.artifact
        features = with_sources(artifact.features(version.features), self._as_declared)
        with self._mutex:
            found = self._of_version.setdefault(version.id, features)
            if len(self._of_version) > _MOST:
                self._of_version.popitem(last=False)
        return found

    def _as_declared(self, source: Source) -> Source:
        """Return a stored source with columns in the order of stored events, and today's rules of reading. # D0208"""
        placed, declared = self._place(source), self._definitions.sources.get(source.name)
        if declared is None:
            return placed
        return msgspec.structs.replace(placed, time_formats=declared.time_formats, reads=declared.reads)

    def request_of(self, version: str) -> Request | None:
        """Return for the id of a version the request with which it was trained; None if it is unknown."""
        try:
            return self.of(self._registry.get(version)).request
        except (NotFound, Misuse, Corrupt):  # erased or damaged, or a column has another type now
            return None

    def applied(self, model: str) -> FeatureSet | None:
        """Return a model's applied feature definitions; None if none were applied yet."""
        record = self._catalog.get(APPLIED, model)
        if record is None:
            return None
        found = msgspec.json.decode(record.body, type=AppliedFeatures)
        if found.hash not in self._applied:
            features = decode_features(found.document.encode(), found.hash)
            self._applied[found.hash] = with_sources(features, self._as_declared)
        return self._applied[found.hash]

    def check_newest(self, model: str) -> None:
        """Raise an error if training would not use the newest definitions of a model.

        Raises:
            Conflict: Other definitions were applied after this process had read the project file.
        """
        record, declared = self._catalog.get(APPLIED, model), self._definitions.models.get(model)
        if record is None or declared is None or record.body == self._begun.get(model):
            return
        if msgspec.json.decode(record.body, type=AppliedFeatures).hash != declared.features.hash:
            raise Conflict(
                f"train {model!r}: other definitions of this model were applied after this process had read the "
                "project file. Open the project again (restart `trimtab serve`), so that they are trained."
            )

    def versions(self, model: str) -> list[Version]:
        """Return the versions of a model whose features must be kept up to date.

        These are the versions to which an alias points, a version that is about to be promoted, the variants of running
        experiments and, during the cooldown after a promotion, the replaced champion.
        """
        moves = self._registry.aliases(model)
        needed = [move.version for move in moves.values()]
        champion = moves.get(CHAMPION)
        deployment = self._definitions.deployments.get(model)
        quiet_us = 0 if deployment is None else deployment.cooldown_us
        if champion is not None and champion.previous and self._clock.now_us() < champion.at_us + quiet_us:
            needed.append(champion.previous)
        record = self._catalog.get(LOOP, model)
        repair = None if record is None else msgspec.json.decode(record.body, type=LoopState).repair
        if repair is not None and repair.successor is not None:
            needed.append(repair.successor)
        found = [self._registry.get(address) for address in dict.fromkeys(needed)]
        for state in self._running():
            for address in {*state.versions.values()} - {one.id for one in found}:
                with suppress(NotFound):  # an erased version is left out; the experiment goes on without it
                    found += [one for one in [self._registry.get(address)] if one.model == model]
        return found

    def features(self) -> dict[str, list[FeatureSet]]:
        """Return for each model the definitions whose online features must be kept up to date."""
        found: dict[str, list[FeatureSet]] = {}
        for name in self._models():
            sets: list[FeatureSet] = []
            for version in self.versions(name):
                try:
                    sets.append(self.of(version))
                except (Misuse, Corrupt):  # cannot be used; a prediction with this version reports why
                    continue
            try:
                applied = self.applied(name)
            # cannot be read: views that only these definitions need are not kept up to date, but filled when a version
            # that needs them is promoted
            except Corrupt:
                applied = None
            deployment = self._definitions.deployments.get(name)
            if applied is not None:
                sets.append(applied)
            elif not sets and deployment is not None:
                sets.append(deployment.model.features)
            found[name] = list({one.hash: one for one in sets}.values())
        return found

    def views(self) -> list[View]:
        """Return the views of all definitions in `features`, and those that experiments read. Equal ones occur once."""
        sets = [features for of_model in self.features().values() for features in of_model]
        found = {view.hash: view for features in sets for view in features.views}
        for experiment in self._experiments():
            features = self.eligibility(experiment)
            found |= {} if features is None else {view.hash: view for view in features.views if view.hash not in found}
        return list(found.values())

    def eligibility(self, experiment: Experiment) -> FeatureSet | None:
        """Return the features that an experiment reads when it assigns a unit; None if it reads none."""
        features = eligibility_features(experiment)
        if features is None:
            return None
        own = features.request.source  # made up, so no events of it are stored
        return with_sources(features, lambda source: source if source is own else self._as_declared(source))

    def _experiments(self) -> list[Experiment]:
        """Return the experiments whose features must be kept up to date: those declared, and those that run."""
        return [*self._definitions.experiments.values(), *map(stored_definition, self._running())]

    def _running(self) -> list[ExperimentState]:
        return running_experiments(self._catalog)

    def _models(self) -> list[str]:
        applied = [record.key for record in self._catalog.find(APPLIED)]
        return list(dict.fromkeys([*self._definitions.deployments, *applied]))
