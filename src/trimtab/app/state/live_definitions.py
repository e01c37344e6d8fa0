"""The feature definitions in use: applied definitions, and those of versions that an alias names.  # D35"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from trimtab.app.state.definitions import Definitions
from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound
from trimtab.events.definitions import Source
from trimtab.features.definitions import Request, View
from trimtab.features.feature_set import FeatureSet
from trimtab.features.stored import decode_features, with_sources
from trimtab.registry import LoadedModel, Registry, Version
from trimtab.registry.protection import CHAMPION
from trimtab.steering.loop_state import KIND as LOOP
from trimtab.steering.loop_state import LoopState
from trimtab.store.ports import Blob, Catalog
from trimtab.training.fitting.artifact import decode_artifact

APPLIED = "applied_features"  # the kind of catalogue record with the definitions applied for a model
_MOST = 1_024  # the most versions whose definitions are cached


class AppliedFeatures(msgspec.Struct, frozen=True):
    """The feature definitions applied for a model."""

    hash: str
    document: str  # written by `encode_features`


class LiveDefinitions:
    """The feature definitions for which online features are kept.

    Args:
        definitions: The definitions of the project file.
        registry: The versions.
        catalog: Has the applied definitions and the pending promotions.
        blob: Has the artifacts of versions, which contain their definitions.
        place: Returns a source with each column at its place in stored events.
        clock: Tells for how long a version has been out of service.
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
        self._begun = {record.key: record.body for record in catalog.find(APPLIED)}  # as applied when the file was read
        self._mutex = threading.Lock()  # guards the cache; it is not held during reads
        self._of_version: OrderedDict[str, FeatureSet] = OrderedDict()  # by version id, least recently used first
        self._applied: dict[str, FeatureSet] = {}  # by the hash of the definitions

    def of(self, version: Version, loaded: LoadedModel | None = None) -> FeatureSet:
        """Return the definitions that a version was trained with.

        Where they equal definitions of the project file, the objects of the project file are returned.

        Args:
            version: The version.
            loaded: The version in memory, if it is there, so that its artifact, which may be large, is not read again.

        Raises:
            Misuse: The version was stored without its definitions, and those of the project file differ.
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
        features = with_sources(artifact.features(version.features), self._place)
        with self._mutex:
            found = self._of_version.setdefault(version.id, features)
            if len(self._of_version) > _MOST:
                self._of_version.popitem(last=False)
        return found

    def request_of(self, version: str) -> Request | None:
        """Return the request definition that a version was trained with, or None if it is unknown.

        The version is given by its id.
        """
        try:
            return self.of(self._registry.get(version)).request
        except (NotFound, Misuse, Corrupt):  # erased, or in a form of an earlier trimtab that is not read any more
            return None

    def applied(self, model: str) -> FeatureSet | None:
        """Return the definitions applied for a model, or None before the first apply."""
        record = self._catalog.get(APPLIED, model)
        if record is None:
            return None
        found = msgspec.json.decode(record.body, type=AppliedFeatures)
        if found.hash not in self._applied:
            features = decode_features(found.document.encode(), found.hash)
            self._applied[found.hash] = with_sources(features, self._place)
        return self._applied[found.hash]

    def check_newest(self, model: str) -> None:
        """Refuse to train if newer definitions were applied since the project file was read.

        Raises:
            Conflict: Newer definitions were applied.
        """
        record, declared = self._catalog.get(APPLIED, model), self._definitions.models.get(model)
        if record is None or declared is None or record.body == self._begun.get(model):
            return
        if msgspec.json.decode(record.body, type=AppliedFeatures).hash != declared.features.hash:
            raise Conflict(
                f"train {model!r}: other definitions of it were applied after this process had read the project file. "
                "Open the project again (restart `trimtab serve`), so that it trains those."
            )

    def versions(self, model: str) -> list[Version]:
        """Return the versions of a model whose definitions are needed.

        These are the versions that an alias names and a version that is about to be promoted. During the cooldown after
        a promotion, the replaced champion is needed as well.
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
        return [self._registry.get(address) for address in dict.fromkeys(needed)]

    def features(self) -> dict[str, list[FeatureSet]]:
        """Return by model the definitions that online features must be kept for."""
        found: dict[str, list[FeatureSet]] = {}
        for name in self._models():
            sets: list[FeatureSet] = []
            for version in self.versions(name):
                try:
                    sets.append(self.of(version))
                except (Misuse, Corrupt):  # in an earlier form: predictions fail with a message
                    continue
            try:
                applied = self.applied(name)
            except Corrupt:  # in an earlier form; its views are filled at a promotion
                applied = None
            deployment = self._definitions.deployments.get(name)
            if applied is not None:
                sets.append(applied)
            elif not sets and deployment is not None:
                sets.append(deployment.model.features)
            found[name] = list({one.hash: one for one in sets}.values())
        return found

    def views(self) -> list[View]:
        """Return the views of all these definitions, each definition once."""
        sets = [features for of_model in self.features().values() for features in of_model]
        return list({view.hash: view for features in sets for view in features.views}.values())

    def _models(self) -> list[str]:
        applied = [record.key for record in self._catalog.find(APPLIED)]
        return list(dict.fromkeys([*self._definitions.deployments, *applied]))
