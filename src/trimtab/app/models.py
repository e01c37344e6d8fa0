"""What answers for each deployment: its version in service, loaded, compiled and swapped when the alias moves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from trimtab.core.clock import Clock
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.time import HOUR_US, format_moment
from trimtab.features.feature_set import FeatureSet
from trimtab.features.online.request_plan import RequestPlan
from trimtab.features.stored import check_functions
from trimtab.registry import LoadedModel, Registry, Version
from trimtab.serving.answering import Answerer, ModelInputs, RowScorer, ServedVersion
from trimtab.serving.endpoint import Endpoint
from trimtab.serving.inputs import OfflineInputs, OnlineInputs, Snapshot
from trimtab.serving.online_learning import OnlineDeployment, learner_name
from trimtab.serving.precomputed import Precomputed
from trimtab.serving.prediction_log import PredictionLog
from trimtab.serving.request_rows import Row
from trimtab.steering.controller import CHAMPION
from trimtab.steering.definitions import Deployment
from trimtab.store.ports import KeyValue

_logger = logging.getLogger(__name__)


class KeptPast:
    """A `PastReader` that refuses moments whose events are not all kept any more. # D23"""

    def __init__(self, inputs: OfflineInputs, features_from: Callable[[], int]) -> None:
        self._inputs = inputs
        self._features_from = features_from

    def read(self, rows: Sequence[Row], at_us: int) -> ModelInputs:
        """The inputs of checked rows as of `at_us`.

        Raises:
            Misuse: Events that they need were removed, as [retention] says.
        """
        refuse_before(at_us, self._features_from())
        return self._inputs.read(rows, at_us)


def refuse_before(at_us: int, from_us: int) -> None:
    """Refuse a question about a moment from which not all events are left.

    Raises:
        Misuse: It is one.
    """
    if at_us < from_us:
        raise Misuse(
            f"as of {format_moment(at_us)}: events that the features need were removed ([retention]). Ask as of "
            f"{format_moment(from_us)} or later."
        )


class ServedModel:
    """One deployment's endpoint and the version behind it.

    Args:
        deployment: What is served.
        registry: Says which version is champion.
        log: Where predictions go.
        online: Online feature state.
        answers: Precomputed answers.
        learners: What online learners know.
        snapshot: History for questions about the past.
        clock: The moment of asking.
        ids: Gives prediction identifiers.
        features_of: The feature definitions that a version was trained with.
        holds: Whether the online features of definitions can be read; those that nobody keeps yet begin to be filled.
        features_from: The first moment as of which a version's features can be computed from what is kept.
        max_age_us: How old a precomputed answer may be.
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
        features_of: Callable[[Version], FeatureSet],
        holds: Callable[[FeatureSet], bool],
        features_from: Callable[[FeatureSet], int] = lambda _: -(2**62),
        max_age_us: int = 36 * HOUR_US,
    ) -> None:
        self.deployment = deployment
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
        self._loaded: LoadedModel | None = None
        self._waiting: str | None = None  # the version that is waited for, once that was said
        self.precomputed = Precomputed(answers, deployment.name, max_age_us=max_age_us)
        self.endpoint = Endpoint(deployment.name)

    def refresh(self) -> LoadedModel:
        """Follow the alias: load and swap when it has moved; the version that answers from now on.

        A version answers with the feature definitions that it was trained with, whatever the project file says by
        now. While their online features are being filled, the version before goes on answering.

        Raises:
            NotFound: No version was ever promoted.
            Corrupt: The version cannot be loaded; the one before goes on answering.
            Misuse: Code that its features need is not there any more, or not on this machine; the same holds.
        """
        name = self.deployment.name
        version = self._registry.alias(name, CHAMPION)
        if version is None:
            raise NotFound(f"model {name!r}: no version is in service. Train one: trimtab train {name}")
        self.endpoint.precomputed = self.precomputed if self.precomputed.holds_any() else None
        if self._loaded is None or self._loaded.version.id != version.id:
            loaded = self._registry.load(version)
            features = self._checked(loaded)
            if not self._holds(features) and self._loaded is not None and self.endpoint.ready:
                self._say_waiting(version, self._loaded.version)
                return self._loaded
            self.endpoint.swap(self._answerer(loaded, features))
            self._loaded = loaded
        elif self.learner is not None:
            self.learner.follow()
        return self._loaded

    def features(self, loaded: LoadedModel) -> FeatureSet:
        """The feature definitions that a version was trained with, each column of a source in its place."""
        return self._features_of(loaded.version)

    def _checked(self, loaded: LoadedModel) -> FeatureSet:
        features = self.features(loaded)
        try:
            check_functions(features)
        except Misuse as error:
            raise Misuse(f"{loaded.version.name} cannot answer here: {error}") from error
        return features

    def _say_waiting(self, version: Version, before: Version) -> None:
        if self._waiting != version.id:
            self._waiting = version.id
            said = "%s is in service once the online features of its definitions are filled; %s answers until then"
            _logger.info(said, version.name, before.name)

    def served(self, loaded: LoadedModel) -> ServedVersion:
        """How answers name the version."""
        arm = CHAMPION if self.deployment.learn == "batch" else "online"
        version = loaded.version
        return ServedVersion(model=version.model, version=version.id, label=version.name, arm=arm, inputs=loaded.inputs)

    def offline(self, loaded: LoadedModel) -> OfflineInputs:
        """Model inputs from history."""
        return OfflineInputs(self.features(loaded), loaded.encoding, self._snapshot)

    def scorer(self, loaded: LoadedModel) -> RowScorer:
        """The fitted model; of an online deployment the learner, with all that it has learnt."""
        if self.deployment.learn == "batch":
            return loaded
        name = learner_name(self.deployment.name, loaded.version.id)
        if self.learner is None or self.learner.name != name:
            from trimtab.training.online import OnlineLearner  # here: it loads scikit-learn

            self.learner = OnlineDeployment(name, OnlineLearner(loaded.artifact), self._learners, every_us=HOUR_US)
        return self.learner

    def _answerer(self, loaded: LoadedModel, features: FeatureSet) -> Answerer:
        return Answerer(
            self.served(loaded),
            features.request,
            reader=OnlineInputs(RequestPlan(features, self._online), loaded.encoding),
            scorer=self.scorer(loaded),
            log=self._log,
            clock=self._clock,
            ids=self._ids,
            past=KeptPast(self.offline(loaded), partial(self.features_from, features)),
        )
