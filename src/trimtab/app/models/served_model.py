"""The served model of a deployment: it loads versions, and replaces the answering version when an alias moves."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import msgspec

from trimtab.app.models.answerers import Answerers
from trimtab.app.models.experiment_split import StoredArms
from trimtab.app.models.version_memory import VersionMemory
from trimtab.core.errors import Misuse, NotFound, TrimtabError, Unavailable
from trimtab.core.time import HOUR_US
from trimtab.features.feature_set import FeatureSet
from trimtab.registry import LoadedModel, Registry, Version
from trimtab.registry.protection import CHAMPION
from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.precomputed import Precomputed
from trimtab.serving.arms.arms import CANARY, SHADOW, ArmShares, Canary, Shadow, Share
from trimtab.serving.arms.endpoint import Endpoint
from trimtab.serving.protect.degradation import Degradation, Degrading
from trimtab.steering.definitions import Deployment
from trimtab.store.ports import KeyValue

Find: TypeAlias = Callable[[Version], LoadedModel | None]  # returns a version if it is in memory; otherwise None
_logger = logging.getLogger(__name__)


class ServedModel:
    """Connects the endpoint of one deployment with the versions that answer its requests.

    Args:
        answers: The store of precomputed answers.
        max_age_us: The age up to which a precomputed answer is given.
    """

    def __init__(
        self,
        answerers: Answerers,
        *,
        registry: Registry,
        memory: VersionMemory,
        arms: StoredArms,
        answers: KeyValue,
        max_age_us: int = 36 * HOUR_US,
    ) -> None:
        deployment = answerers.deployment
        self.answerers = answerers
        self._use = answerers.clock.now_us(), 0  # when a use was last noticed, and the number of uses at that time
        self._registry = registry
        self._mutex = threading.Lock()  # held during `_follow`, which several threads call
        self._memory = memory
        self._arms = arms
        self._loaded: LoadedModel | None = None
        self._last: Version | None = None  # the version that answers, or that answered before the model was unloaded
        self._failed_to_wake = False  # whether a request could not load the unloaded model, so that `follow` has to
        self._reported_waiting: str | None = None  # the version that was last reported as not ready
        self._waits: set[str] = set()  # ids of versions that are not ready to answer; they stay in memory
        self.precomputed = Precomputed(answers, deployment.name, max_age_us=max_age_us)
        # answerers other than the champion's, by alias (canary, shadow, declared fallback) or by a variant's version id
        self._other_arms: dict[str, Answerer] = {}
        self._arm_failure: TrimtabError | None = None  # why one of these answerers is missing
        degrading = None if deployment.degrade is None else self._degrading(deployment.degrade)
        self.endpoint = Endpoint(deployment.name, degrading=degrading)

    @property
    def deployment(self) -> Deployment:
        return self.answerers.deployment

    def refresh(self) -> LoadedModel:
        """Load the version to which the alias points, and return the version that answers from now on.

        A version answers with the feature definitions of its training, even if the project file has changed since.
        While the online features of a new version are being filled, the previous version continues to answer. After
        that, the previous version stays in memory as long as there is room, so that a rollback is immediate.

        Raises:
            NotFound: No version has been promoted yet.
            Corrupt: The version cannot be loaded; the previous one continues to answer.
            Misuse: Code that its features need is missing; the previous version continues to answer.
        """
        return self._load_and_follow(arms=True)

    def _load_and_follow(self, *, arms: bool) -> LoadedModel:
        """Load the champion and put it into service; with `arms`, also the versions of the other arms.

        `_follow` is called with the lock, and lists the versions that are not in memory. The first of them is loaded
        without the lock. Then `_follow` is called again, until it finds all versions in memory.
        """
        missing: list[Version] = []
        failed: dict[str, Exception] = {}
        while True:
            with self._mutex:
                loaded = self._follow(partial(self._find, missing=missing, failed=failed))
            if loaded is not None and not (arms and missing):
                return loaded
            version = missing[0]
            missing.clear()
            try:
                self._memory.get(version, self.deployment.name)
            except Exception as error:  # a user's estimator may raise any error
                failed[version.id] = error

    def _find(self, version: Version, *, missing: list[Version], failed: Mapping[str, Exception]) -> LoadedModel | None:
        if version.id in failed:
            raise failed[version.id]
        found = self._memory.find(version, self.deployment.name)
        if found is None:
            missing.append(version)
        return found

    def follow(self, *, wait: bool = False) -> None:
        """Follow the alias. A background thread calls this regularly.

        An unloaded model stays unloaded, unless a request has failed to load it. If a version is not in memory, a
        thread begins to load it, and a later call puts it into service. With `wait`, this call loads it and puts it
        into service.
        """
        self.last_used_us()
        if self._stays_unloaded:
            return
        if wait:
            self.refresh()
        else:
            with self._mutex:
                if not self._stays_unloaded:
                    self._follow(partial(self._memory.begin, holder=self.deployment.name))
        if self._arm_failure is not None:
            raise self._arm_failure

    def last_used_us(self) -> int:
        """Return when the model was last used or loaded. Uses are noticed, and dated, when this method is called."""
        used_at_us, uses = self._use
        if self.endpoint.uses != uses:
            used_at_us = self.answerers.clock.now_us()
            self._use = used_at_us, self.endpoint.uses
        return used_at_us

    @property
    def _stays_unloaded(self) -> bool:
        return self.endpoint.unloaded and not self._failed_to_wake

    @property
    def is_whole(self) -> bool:
        """Whether a champion answers, and no other arm has failed. (An arm that still has to wait is no failure.)"""
        return self._loaded is not None and self._arm_failure is None

    def see_stored(self) -> None:
        """Let the endpoint give precomputed answers if any are stored, and log waiting exposures of experiments."""
        self.endpoint.precomputed = self.precomputed if self.precomputed.holds_any() else None
        self.flush()

    def deployed(self) -> list[str]:
        """Return the models whose deployments answer requests of this one now, because an experiment compares them."""
        return [*self._arms.deployed().values()]

    def flush(self) -> None:
        """Log the exposures of experiments that wait."""
        self._arms.flush()

    def sleep(self) -> bool:
        """Unload all versions until the next request, and return whether this was possible.

        Nothing is unloaded if no version is loaded, or if the state of an online learner would be lost. The same holds
        while the alias points to another version, because only a loaded model checks whether that version is ready.
        """
        with self._mutex:
            if self._loaded is None or self.answerers.learner is not None or self.endpoint.unloaded:
                return False
            champion = self._registry.alias(self.deployment.name, CHAMPION)
            if champion is None or champion.id != self._loaded.version.id:
                return False
            self.endpoint.unload(self._wake)
            self._loaded = None
            self._other_arms = {}
            self._memory.hold(self.deployment.name, ())
            return True

    def _wake(self) -> None:
        """Load the champion of an unloaded model for a request.

        The canary and the shadow are loaded later by the thread that follows aliases.
        """
        try:
            self._load_and_follow(arms=False)
            self._use = self.answerers.clock.now_us(), self._use[1]  # the endpoint has not counted this request yet
        except Exception:  # may come from a user's estimator; the thread that follows aliases logs it and retries
            self._failed_to_wake = self.endpoint.unloaded
            raise

    def _follow(self, find: Find) -> LoadedModel | None:
        """Put versions that are in memory into service. Return the one that answers; None: it must be loaded.  # D80"""
        name = self.deployment.name
        version = self._registry.alias(name, CHAMPION)
        if version is None:
            raise NotFound(f"model {name!r}: no version is in service. See: trimtab status, trimtab train {name}")
        self.see_stored()
        self._waits = set()
        try:
            return self._follow_champion(version, find)
        finally:  # even if the champion failed, so that a canary can always be ended
            if self._loaded is not None:
                self._follow_arms(find)

    def _follow_champion(self, version: Version, find: Find) -> LoadedModel | None:
        before = self._loaded
        if before is None and self._last is not None and self._last.id != version.id:
            return self._wake_with(version, self._last, find)
        if before is None or before.version.id != version.id:
            loaded = find(version)
            if loaded is not None:
                features = self.answerers.checked(version, loaded)
                if before is None or self.answerers.holds(features):
                    return self._put(loaded, features)
                self._log_waiting(version, before.version)
            self._waits.add(version.id)
        if self.answerers.learner is not None:
            self.answerers.learner.follow()
        return before

    def _wake_with(self, version: Version, before: Version, find: Find) -> LoadedModel | None:
        """Put the deployed version into service if it can answer, or else the version that answered before it. # D80

        The result is None if the version must be loaded first.

        Raises:
            Unavailable: Neither of the two versions can answer.
        """
        try:
            features = self.answerers.checked(version)
            if self.answerers.holds(features):
                loaded = find(version)
                return None if loaded is None else self._put(loaded, features)
            why = "its online features are being filled"
            self._log_waiting(version, before)
        except Exception as error:  # may come from a user's estimator; it is logged once the model is loaded
            why = f"{type(error).__name__}: {error}"
        try:
            loaded = find(before)
            return None if loaded is None else self._put(loaded, self.answerers.checked(before, loaded))
        except Exception as error:  # also from a user's estimator
            raise Unavailable(
                f"{version.name} cannot answer yet ({why}), and {before.name}, which answered before it, cannot any "
                f"more: {error}"
            ) from error

    def _put(self, loaded: LoadedModel, features: FeatureSet) -> LoadedModel:
        """Let a version answer requests from now on."""
        costs = self._memory.costs(loaded.version) if self.deployment.learn == "batch" else None
        answerer = self.answerers.answerer(loaded, features)
        self.endpoint.cached = self.answerers.cached
        answerer.warm_up()
        self.endpoint.swap(answerer, costs=costs)
        self._loaded, self._last, self._failed_to_wake = loaded, loaded.version, False
        return loaded

    def _follow_arms(self, find: Find) -> None:
        """Put the other arms into service: canary, shadow, fallback version, and the variants of an experiment.

        If one cannot be loaded, the others are put into service, and `follow` raises the error.
        """
        try:
            self._put_arms(find)
        finally:
            answering = {one.served.version for one in self._other_arms.values()}
            if self._loaded is not None:
                answering.add(self._loaded.version.id)
            self._memory.hold(self.deployment.name, answering, self._waits)

    def _put_arms(self, find: Find) -> None:
        policy, shares = self.deployment.degrade, self._arms.shares()
        experiment = shares.experiment
        versions = {} if experiment is msgspec.UNSET else self._arms.versions(experiment)
        wanted = {CANARY: 0.0 if versions else shares.canary, SHADOW: shares.shadow}
        if policy is not None and policy.version is not None:
            wanted[policy.version] = 1.0
        wanted |= dict.fromkeys(versions.values(), 1.0)
        found: dict[str, Answerer] = {}
        self._arm_failure = None
        for name, share in wanted.items():
            try:
                if (
                    share
                    and (one := self._arm_answerer(name, find, is_alias=name not in versions.values())) is not None
                ):
                    found[name] = one
            except TrimtabError as error:  # the champion and the other arms continue without this arm
                self._arm_failure = error
            except Exception as error:  # keep only the text: the traceback refers to all data that was read
                self._arm_failure = Misuse(
                    f"{self.deployment.name} ({name}): it cannot be loaded here: {type(error).__name__}: {error}"
                )
        self._other_arms = found
        variants = {one: found[version] for one, version in versions.items() if version in found}
        self._show_arms(found, shares, {**variants, **self._arms.answerers()})

    def _show_arms(self, found: Mapping[str, Answerer], shares: ArmShares, variants: Mapping[str, Answerer]) -> None:
        endpoint, name, about = self.endpoint, self.deployment.name, self.deployment.model.about
        canary, shadow = next(iter(variants.values()), found.get(CANARY)), found.get(SHADOW)
        before, named = endpoint.canary, shares.experiment
        if canary is None:
            endpoint.canary = None
        elif before is None or (before.answerer, before.variants, before.shares) != (canary, variants, shares):
            if named is msgspec.UNSET:
                endpoint.canary = Canary(canary, Share(name, shares.canary, about), shares)
            else:
                split = self._arms.split(named)
                endpoint.canary = Canary(canary, split, shares, split.unanswered, variants)
        if shadow is None:
            endpoint.shadow = None
        elif endpoint.shadow is None or endpoint.shadow.answerer is not shadow:
            endpoint.shadow = Shadow(shadow, Share(name, shares.shadow, about, line=SHADOW), endpoint.shadowed)
        elif endpoint.shadow.share.share != shares.shadow:
            endpoint.shadow.share = Share(name, shares.shadow, about, line=SHADOW)
        for one in (*found.values(), *variants.values()):
            # repeated each time, so that this version stays among the newest eight, which the endpoint knows in full
            endpoint.know(one.served)

    def _arm_answerer(self, alias: str, find: Find, *, is_alias: bool = True) -> Answerer | None:
        """Return the answerer of the version to which `alias` points (if not `is_alias`: of the version with this id).

        The result is None if there is no version, or while its features are being filled. While the version is being
        loaded, the result is the previous answerer of the alias, if there was one.
        """
        version = self._registry.alias(self.deployment.name, alias) if is_alias else self._registry.get(alias)
        before = self._other_arms.get(alias)
        if version is None or (before is not None and before.served.version == version.id):
            return None if version is None else before
        loaded = find(version)
        if loaded is None:
            self._waits.add(version.id)
            return before
        features = self.answerers.checked(version, loaded)
        if features.request.hash != self.deployment.model.request.hash:
            raise Misuse(
                f"{version.name} ({alias}): it was trained with another request than is declared now. Train again."
            )
        if not self.answerers.holds(features):
            self._waits.add(version.id)
            return None
        return self.answerers.answerer(loaded, features, arm=alias if is_alias else CANARY)

    def _degrading(self, policy: Degradation) -> Degrading:
        return Degrading(
            policy, about=self.deployment.model.about, fallback=lambda: self._other_arms.get(policy.version or "")
        )

    def _log_waiting(self, version: Version, before: Version) -> None:
        if self._reported_waiting != version.id:
            self._reported_waiting = version.id
            said = "%s is in service once the online features of its definitions are filled; %s answers until then"
            _logger.info(said, version.name, before.name)
