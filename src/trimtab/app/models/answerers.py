"""Make answerers. Each reads the features of requests, scores them with one loaded version, and logs predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Misuse
from trimtab.core.time import HOUR_US, format_time
from trimtab.features.feature_set import FeatureSet
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.features.stored import check_functions
from trimtab.registry import LoadedModel, Version
from trimtab.registry.protection import CHAMPION
from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.inputs import BareInputs, OfflineInputs, OnlineInputs, Snapshot
from trimtab.serving.answer.request_rows import Row
from trimtab.serving.answer.score_cache import CachedScores, CacheMetrics
from trimtab.serving.answer.served import ModelInputs, Readers, RowScorer, ServedVersion
from trimtab.serving.arms.online_learning import OnlineDeployment, learner_name
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.steering.definitions import Deployment
from trimtab.store.ports import KeyValue


class FeaturesOf(Protocol):
    """Returns the feature definitions with which a version was trained."""

    def __call__(self, version: Version, loaded: LoadedModel | None = None) -> FeatureSet: ...


class KeptPast:
    """Computes model inputs as of past times, and refuses times that would need removed events.  # D23"""

    def __init__(self, inputs: OfflineInputs, features_from: Callable[[], int]) -> None:
        self._inputs = inputs
        self._features_from = features_from

    def read(self, rows: Sequence[Row], at_us: int) -> ModelInputs:
        """Return the model inputs of checked rows as of `at_us`.

        Raises:
            Misuse: Needed events were removed because of the settings in [retention].
        """
        refuse_before(at_us, self._features_from())
        return self._inputs.read(rows, at_us)


def refuse_before(at_us: int, from_us: int) -> None:
    """Raise an error for a time before `from_us`, because events that features as of this time need were removed.

    Raises:
        Misuse: The time lies before `from_us`.
    """
    if at_us < from_us:
        raise Misuse(
            f"as of {format_time(at_us)}: events that the features need were removed ([retention]). Give a "
            f"time of {format_time(from_us)} or later."
        )


class VersionFeatures(msgspec.Struct, frozen=True):
    """Three functions about feature definitions.

    `of` returns the definitions with which a version was trained. `holds` returns whether the online store has the
    features of given definitions; if not, the store begins to fill them. `from_us` returns the earliest as-of time
    for which the features of given definitions can be computed from the events that are still kept.
    """

    of: FeaturesOf
    holds: Callable[[FeatureSet], bool]
    from_us: Callable[[FeatureSet], int]


class Answerers:
    """Makes the answerers of one deployment, one for each version and arm (champion, canary, shadow).

    Args:
        online: The store of online features.
        snapshot: Returns the history of events, from which requests about past times are answered.
    """

    def __init__(
        self,
        deployment: Deployment,
        *,
        features: VersionFeatures,
        online: KeyValue,
        learners: KeyValue,
        snapshot: Callable[[Mapping[str, int] | None], Snapshot],
        log: PredictionLog,
        clock: Clock,
        ids: Callable[[], str],
    ) -> None:
        self.deployment = deployment
        self.learner: OnlineDeployment | None = None
        self.cached: CacheMetrics | None = None
        self.clock = clock
        self._features = features
        self._online = online
        self._learners = learners
        self._snapshot = snapshot
        self._log = log
        self._ids = ids

    def holds(self, features: FeatureSet) -> bool:
        """Return whether the online store has the features of some definitions.

        Otherwise, the store begins to fill them.
        """
        return self._features.holds(features)

    def features_from_us(self, features: FeatureSet) -> int:
        """Return the earliest as-of time for which features can be computed from the events that are still kept."""
        return self._features.from_us(features)

    def features(self, loaded: LoadedModel) -> FeatureSet:
        """Return the definitions with which a version was trained. Their columns are in the order of stored events."""
        return self._features.of(loaded.version, loaded)

    def checked(self, version: Version, loaded: LoadedModel | None = None) -> FeatureSet:
        """Return a version's feature definitions if all functions that they need exist on this machine.

        Raises:
            Misuse: A function that the definitions need is missing on this machine.
        """
        features = self._features.of(version, loaded)
        try:
            check_functions(features)
        except Misuse as error:
            raise Misuse(f"{version.name} cannot answer here: {error}") from error
        return features

    def served(self, loaded: LoadedModel, arm: str | None = None) -> ServedVersion:
        """Return the name, id and arm under which a version's answers are logged."""
        arm = arm or (CHAMPION if self.deployment.learn == "batch" else "online")
        version = loaded.version
        return ServedVersion(
            model=version.model,
            version=version.id,
            label=version.name,
            arm=arm,
            inputs=loaded.inputs,
            classes=loaded.artifact.class_names,
        )

    def offline(self, loaded: LoadedModel) -> OfflineInputs:
        """Return an object that computes a version's model inputs from the history of events."""
        return OfflineInputs(self.features(loaded), loaded.encoding, self._snapshot)

    def scorer(self, loaded: LoadedModel) -> RowScorer:
        """Return the fitted model (behind a score cache, if declared) or, for an online deployment, its learner."""
        if self.deployment.learn == "batch":
            return self._caching(loaded)
        name = learner_name(self.deployment.name, loaded.version.id)
        if self.learner is None or self.learner.name != name:
            from trimtab.training.fitting.online import OnlineLearner  # imported here, because it loads scikit-learn

            self.learner = OnlineDeployment(name, OnlineLearner(loaded.artifact), self._learners, every_us=HOUR_US)
        return self.learner

    def _caching(self, loaded: LoadedModel) -> RowScorer:
        cache = self.deployment.cache
        if cache is None:
            return loaded.scorer
        metrics = self.cached = self.cached or CacheMetrics()
        classes = len(loaded.artifact.class_names)
        return CachedScores(loaded.scorer, inputs=len(loaded.inputs), classes=classes, cache=cache, metrics=metrics)

    def answerer(self, loaded: LoadedModel, features: FeatureSet, arm: str | None = None) -> Answerer:
        """Return an answerer for a version, as the champion or as another arm."""
        policy = self.deployment.degrade
        bare = BareInputs(features, loaded.encoding) if policy is not None and policy.null_features else None
        return Answerer(
            self.served(loaded, arm),
            features.request,
            Readers(
                OnlineInputs(RequestPlan(features, self._online), loaded.encoding, of_others=arm is not None),
                past=KeptPast(self.offline(loaded), partial(self._features.from_us, features)),
                bare=bare,
                reads_state=bool(features.views),
                tables=None if features.views else self.offline(loaded),
            ),
            self.scorer(loaded) if arm is None else loaded,
            log=self._log,
            clock=self.clock,
            ids=self._ids,
            of_others=arm is not None,
        )
