"""The served model of a deployment: versions loaded and swapped when an alias moves."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeAlias

from trimtab.app.models.version_memory import VersionMemory
from trimtab.core.clock import Clock
from trimtab.core.errors import Misuse, NotFound, TrimtabError, Unavailable
from trimtab.core.time import HOUR_US, format_time
from trimtab.features.feature_set import FeatureSet
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.features.stored import check_functions
from trimtab.registry import LoadedModel, Registry, Version
from trimtab.registry.protection import CHAMPION
from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.inputs import BareInputs, OfflineInputs, OnlineInputs, Snapshot
from trimtab.serving.answer.precomputed import Precomputed
from trimtab.serving.answer.request_rows import Row
from trimtab.serving.answer.score_cache import CachedScores, CacheMetrics
from trimtab.serving.answer.served import ModelInputs, Readers, RowScorer, ServedVersion
from trimtab.serving.arms.arms import CANARY, SHADOW, ArmShares, Canary, Shadow, Share
from trimtab.serving.arms.endpoint import Endpoint
from trimtab.serving.arms.online_learning import OnlineDeployment, learner_name
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.serving.protect.degradation import Degradation, Degrading
from trimtab.steering.definitions import Deployment
from trimtab.store.ports import KeyValue

Find: TypeAlias = Callable[[Version], LoadedModel | None]  # None while the version is not in memory
_logger = logging.getLogger(__name__)


class FeaturesOf(Protocol):
    """Returns the feature definitions that a version was trained with."""

    def __call__(self, version: Version, loaded: LoadedModel | None = None) -> FeatureSet: ...


class KeptPast:
    """A `PastReader` that refuses times whose events are no longer all kept. # D23"""

    def __init__(self, inputs: OfflineInputs, features_from: Callable[[], int]) -> None:
        self._inputs = inputs
        self._features_from = features_from

    def read(self, rows: Sequence[Row], at_us: int) -> ModelInputs:
        """The inputs of checked rows as of `at_us`.

        Raises:
            Misuse: Needed events were removed, as [retention] says.
        """
        refuse_before(at_us, self._features_from())
        return self._inputs.read(rows, at_us)


def refuse_before(at_us: int, from_us: int) -> None:
    """Refuse a time from which not all events are left.

    Raises:
        Misuse: It is such a time.
    """
    if at_us < from_us:
        raise Misuse(
            f"as of {format_time(at_us)}: events that the features need were removed ([retention]). Ask as of "
            f"{format_time(from_us)} or later."
        )


class ServedModel:
    """One deployment's endpoint and the versions behind it.

    Args:
        deployment: The deployment.
        registry: The versions and aliases.
        log: The prediction log.
        online: The online feature state.
        answers: Precomputed answers.
        learners: The states of online learners.
        snapshot: Returns history for requests about the past.
        clock: The request time.
        ids: Assigns prediction ids.
        features_of: Returns the feature definitions that a version was trained with.
        holds: Whether the online features of definitions can be read; unknown ones start to be filled.
        memory: The loaded versions.
        shares: Returns the shares of the canary and the shadow.
        features_from: Returns the first time as of which a version's features can be computed from kept events.
        max_age_us: The maximum age of a precomputed answer.
    """

    def __init__(
        self,
        deployment: Deployment,
        *,
        registry: Registry,
        log: PredictionLog,
        online: KeyValue,
        answers: KeyValue,
        learners: KeyValue,
        snapshot: Callable[[Mapping[str, int] | None], Snapshot],
        clock: Clock,
        ids: Callable[[], str],
        features_of: FeaturesOf,
        holds: Callable[[FeatureSet], bool],
        memory: VersionMemory,
        shares: Callable[[], ArmShares] = ArmShares,
        features_from: Callable[[FeatureSet], int] = lambda _: -(2**62),
        max_age_us: int = 36 * HOUR_US,
    ) -> None:
        self.deployment = deployment
        self._used_at_us = clock.now_us()  # the last time a request was seen
        self._uses = 0
        self.learner: OnlineDeployment | None = None
        self._registry = registry
        self._log = log
        self._learners = learners
        self._snapshot = snapshot
        self._features_of = features_of
        self._holds = holds
        self._online = online
        self.features_from = features_from
        self._clock = clock
        self._ids = ids
        self._mutex = threading.Lock()  # for `_follow`: one thread follows aliases, another teaches learners
        self._memory = memory
        self._shares = shares
        self._loaded: LoadedModel | None = None
        self._last: Version | None = None  # the version that answers, or did when the model was unloaded
        self._asked_in_vain = False  # unloaded: to be loaded at the next request
        self._told_waiting: str | None = None  # the version being waited for, once logged
        self._waits: set[str] = set()  # versions being loaded or filled with features: they stay in memory
        self.precomputed = Precomputed(answers, deployment.name, max_age_us=max_age_us)
        self._beside: dict[str, Answerer] = {}  # by alias: versions that answer alongside the champion
        self._beside_failure: TrimtabError | None = None  # why one of them cannot answer
        degrading = None if deployment.degrade is None else self._degrading(deployment.degrade)
        self.endpoint = Endpoint(deployment.name, degrading=degrading)

    def refresh(self) -> LoadedModel:
        """Follow the alias: load and swap when it has moved; the version that answers from now on.

        A version answers with the feature definitions that it was trained with, whatever the project file says now.
        While their online features are being filled, the previous version continues to answer. It stays in memory, so
        that a rollback waits for no load.

        Raises:
            NotFound: No version was ever promoted.
            Corrupt: The version cannot be loaded; the previous one continues to answer.
            Misuse: Code that its features need is missing; the previous version continues to answer.
        """
        return self._load_and_follow(beside=True)

    def _load_and_follow(self, *, beside: bool) -> LoadedModel:
        """Follow the alias once its version is loaded; with `beside`, the canary and shadow, too."""
        missing: list[Version] = []
        failed: dict[str, Exception] = {}
        while True:
            with self._mutex:
                loaded = self._follow(partial(self._find, missing=missing, failed=failed))
            if loaded is not None and not (beside and missing):
                return loaded
            version = missing[0]
            missing.clear()
            try:
                self._memory.get(version, self.deployment.name)
            except Exception as error:  # any error of a user's estimator
                failed[version.id] = error

    def _find(self, version: Version, *, missing: list[Version], failed: Mapping[str, Exception]) -> LoadedModel | None:
        if version.id in failed:
            raise failed[version.id]
        found = self._memory.find(version, self.deployment.name)
        if found is None:
            missing.append(version)
        return found

    def follow(self, *, wait: bool = False) -> None:
        """Follow the alias for a process that polls; an unloaded model stays unloaded unless a request failed for it.

        Versions not in memory are loaded by a thread and put in place by a later call, unless it is to `wait`.
        """
        self.last_used_us()
        if self._sleeps_on:
            return
        if wait:
            self.refresh()
        else:
            with self._mutex:
                if not self._sleeps_on:
                    self._follow(partial(self._memory.begin, holder=self.deployment.name))
        if self._beside_failure is not None:
            raise self._beside_failure

    def last_used_us(self) -> int:
        """The time of the last request or load, as far as it was seen."""
        if self.endpoint.uses != self._uses:
            self._uses, self._used_at_us = self.endpoint.uses, self._clock.now_us()
        return self._used_at_us

    @property
    def _sleeps_on(self) -> bool:
        return self.endpoint.unloaded and not self._asked_in_vain

    @property
    def is_whole(self) -> bool:
        """Whether all versions that should answer do: champion, canary and shadow."""
        return self._loaded is not None and self._beside_failure is None

    def see_stored(self) -> None:
        """Start to give precomputed answers if there are any now."""
        self.endpoint.precomputed = self.precomputed if self.precomputed.holds_any() else None

    def sleep(self) -> bool:
        """Unload all versions until the next request; False when there are none, or a learner would be lost.

        False, too, while another version is about to take over: that is checked only while the model is loaded.
        """
        with self._mutex:
            if self._loaded is None or self.learner is not None or self.endpoint.unloaded:
                return False
            champion = self._registry.alias(self.deployment.name, CHAMPION)
            if champion is None or champion.id != self._loaded.version.id:
                return False
            self.endpoint.unload(self._wake)
            self._loaded = None
            self._beside = {}
            self._memory.hold(self.deployment.name, ())
            return True

    def _wake(self) -> None:
        """Load an unloaded model for a request; canary and shadow are left to the thread that follows aliases."""
        try:
            self._load_and_follow(beside=False)
            self._used_at_us = self._clock.now_us()  # the request is still to come
        except Exception:  # any error of a user's estimator; the thread that follows aliases logs it and retries
            self._asked_in_vain = self.endpoint.unloaded
            raise

    def _follow(self, find: Find) -> LoadedModel | None:
        """Put loaded versions in place; no load happens while the mutex is held.  # D128"""
        name = self.deployment.name
        version = self._registry.alias(name, CHAMPION)
        if version is None:
            raise NotFound(f"model {name!r}: no version is in service. Train one: trimtab train {name}")
        self.see_stored()
        self._waits = set()
        try:
            return self._follow_champion(version, find)
        finally:  # ending a canary must not wait for the champion's features or repair
            if self._loaded is not None:
                self._follow_beside(find)

    def _follow_champion(self, version: Version, find: Find) -> LoadedModel | None:
        before = self._loaded
        if before is None and self._last is not None and self._last.id != version.id:
            return self._wake_with(version, self._last, find)
        if before is None or before.version.id != version.id:
            loaded = find(version)
            if loaded is not None:
                features = self._checked(version, loaded)
                if before is None or self._holds(features):
                    return self._put(loaded, features)
                self._say_waiting(version, before.version)
            self._waits.add(version.id)
        if self.learner is not None:
            self.learner.follow()
        return before

    def _wake_with(self, version: Version, before: Version, find: Find) -> LoadedModel | None:
        """Load the version in service if it can answer now, else the one that did before.  # D139

        Raises:
            Unavailable: Neither can answer.
        """
        try:
            features = self._checked(version)
            if self._holds(features):
                loaded = find(version)
                return None if loaded is None else self._put(loaded, features)
            why = "its online features are being filled"
            self._say_waiting(version, before)
        except Exception as error:  # any error of a user's estimator; logged once the model is loaded
            why = f"{type(error).__name__}: {error}"
        try:
            loaded = find(before)
            return None if loaded is None else self._put(loaded, self._checked(before, loaded))
        except Exception as error:  # the same
            raise Unavailable(
                f"{version.name} cannot answer yet ({why}), and {before.name}, which answered before it, cannot any "
                f"more: {error}"
            ) from error

    def _put(self, loaded: LoadedModel, features: FeatureSet) -> LoadedModel:
        """Make a version answer from now on."""
        costs = self._memory.costs(loaded.version) if self.deployment.learn == "batch" else None
        answerer = self._answerer(loaded, features)
        answerer.warm_up()
        self.endpoint.swap(answerer, costs=costs)
        self._loaded, self._last, self._asked_in_vain = loaded, loaded.version, False
        return loaded

    def _follow_beside(self, find: Find) -> None:
        """Put canary and shadow in place; the errors where that fails."""
        try:
            self._put_beside(find)
        finally:
            answering = {one.served.version for one in self._beside.values()}
            if self._loaded is not None:
                answering.add(self._loaded.version.id)
            self._memory.hold(self.deployment.name, answering, self._waits)

    def _put_beside(self, find: Find) -> None:
        policy, shares = self.deployment.degrade, self._shares()
        wanted = {CANARY: shares.canary, SHADOW: shares.shadow}
        if policy is not None and policy.version is not None:
            wanted[policy.version] = 1.0
        found: dict[str, Answerer] = {}
        self._beside_failure = None
        for alias, share in wanted.items():
            try:
                if share and (one := self._beside_as(alias, find)) is not None:
                    found[alias] = one
            except TrimtabError as error:  # the champion and the other arm do not wait for it
                self._beside_failure = error
            except Exception as error:  # only the text is kept: the error's frames hold what was read
                self._beside_failure = Misuse(
                    f"{self.deployment.name} ({alias}): it cannot be loaded here: {type(error).__name__}: {error}"
                )
        self._beside = found
        self._show_beside(found, shares)

    def _show_beside(self, found: Mapping[str, Answerer], shares: ArmShares) -> None:
        endpoint, name, about = self.endpoint, self.deployment.name, self.deployment.model.about
        canary, shadow = found.get(CANARY), found.get(SHADOW)
        if canary is None:
            endpoint.canary = None
        elif endpoint.canary is None or (endpoint.canary.answerer, endpoint.canary.share.share) != (
            canary,
            shares.canary,
        ):
            endpoint.canary = Canary(canary, Share(name, shares.canary, about))
        if shadow is None:
            endpoint.shadow = None
        elif endpoint.shadow is None or endpoint.shadow.answerer is not shadow:
            endpoint.shadow = Shadow(shadow, Share(name, shares.shadow, about, line=SHADOW), endpoint.shadowed)
        elif endpoint.shadow.share.share != shares.shadow:
            endpoint.shadow.share = Share(name, shares.shadow, about, line=SHADOW)
        for one in found.values():
            endpoint.know(one.served)  # also after more promotions than are cached

    def _beside_as(self, alias: str, find: Find) -> Answerer | None:
        """The answerer of an alias's version; None while there is none, or its features are being filled.

        While it is loaded, the previous one answers.
        """
        version = self._registry.alias(self.deployment.name, alias)
        before = self._beside.get(alias)
        if version is None or (before is not None and before.served.version == version.id):
            return None if version is None else before
        loaded = find(version)
        if loaded is None:
            self._waits.add(version.id)
            return before
        features = self._checked(version, loaded)
        if features.request.hash != self.deployment.model.request.hash:
            raise Misuse(
                f"{version.name} ({alias}): it takes other request columns than the model has now. Train it again."
            )
        if not self._holds(features):
            self._waits.add(version.id)
            return None
        return self._answerer(loaded, features, arm=alias)

    def _degrading(self, policy: Degradation) -> Degrading:
        return Degrading(
            policy, about=self.deployment.model.about, fallback=lambda: self._beside.get(policy.version or "")
        )

    def features(self, loaded: LoadedModel) -> FeatureSet:
        """The feature definitions that a version was trained with, each column of a source in its place."""
        return self._features_of(loaded.version, loaded)

    def _checked(self, version: Version, loaded: LoadedModel | None = None) -> FeatureSet:
        features = self._features_of(version, loaded)
        try:
            check_functions(features)
        except Misuse as error:
            raise Misuse(f"{version.name} cannot answer here: {error}") from error
        return features

    def _say_waiting(self, version: Version, before: Version) -> None:
        if self._told_waiting != version.id:
            self._told_waiting = version.id
            said = "%s is in service once the online features of its definitions are filled; %s answers until then"
            _logger.info(said, version.name, before.name)

    def served(self, loaded: LoadedModel, arm: str | None = None) -> ServedVersion:
        """How answers name the version."""
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
        """Model inputs from history."""
        return OfflineInputs(self.features(loaded), loaded.encoding, self._snapshot)

    def scorer(self, loaded: LoadedModel) -> RowScorer:
        """The fitted model; for an online deployment, the learner with everything it has learnt."""
        if self.deployment.learn == "batch":
            return self._remembering(loaded)
        name = learner_name(self.deployment.name, loaded.version.id)
        if self.learner is None or self.learner.name != name:
            from trimtab.training.fitting.online import OnlineLearner  # imported here: it loads scikit-learn

            self.learner = OnlineDeployment(name, OnlineLearner(loaded.artifact), self._learners, every_us=HOUR_US)
        return self.learner

    def _remembering(self, loaded: LoadedModel) -> RowScorer:
        cache = self.deployment.cache
        if cache is None:
            return loaded.scorer
        figures = self.endpoint.cached = self.endpoint.cached or CacheMetrics()
        classes = len(loaded.artifact.class_names)
        return CachedScores(loaded.scorer, inputs=len(loaded.inputs), classes=classes, cache=cache, figures=figures)

    def _answerer(self, loaded: LoadedModel, features: FeatureSet, arm: str | None = None) -> Answerer:
        policy = self.deployment.degrade
        bare = BareInputs(features, loaded.encoding) if policy is not None and policy.null_features else None
        return Answerer(
            self.served(loaded, arm),
            features.request,
            Readers(
                OnlineInputs(RequestPlan(features, self._online), loaded.encoding, of_others=arm is not None),
                past=KeptPast(self.offline(loaded), partial(self.features_from, features)),
                bare=bare,
                reads_state=bool(features.views),
            ),
            self.scorer(loaded) if arm is None else loaded,
            log=self._log,
            clock=self._clock,
            ids=self._ids,
            of_others=arm is not None,
        )
