"""Split the requests of a model among the versions or deployments that an experiment compares."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from trimtab.app.state.definitions import Definitions
from trimtab.app.state.state import State
from trimtab.core.clock import Clock
from trimtab.core.config import Config
from trimtab.core.errors import Misuse, NotFound
from trimtab.experiments.assignment import ELIGIBLE, FEATURE_MISSING, ROUTED, Assigner, Reason
from trimtab.experiments.definitions import Experiment
from trimtab.experiments.eligibility import EligibilityReader
from trimtab.experiments.records import Exposure, experiment_state, stored_definition
from trimtab.serving.answer.answering import Answerer
from trimtab.serving.arms.arms import ArmShares, arm_shares
from trimtab.serving.arms.endpoint import Endpoint
from trimtab.serving.failures import Late
from trimtab.store.ports import Catalog, Log

_FLAGS: dict[Reason, tuple[str, ...]] = {
    **dict.fromkeys(("assigned", "not in share", "carry-over gap"), (ELIGIBLE,)),
    "feature missing": (FEATURE_MISSING,),
}
_MOST_WAITING = 10_000  # if more exposures wait, the oldest are dropped


class ExperimentSplit:
    """Chooses for each request the variant of an experiment that answers it.

    A unit whose request gets no answer counts as exposed, too. `unanswered` only keeps its exposure in memory, because
    a failing service should not also become slower. `flush` logs it.
    """

    def __init__(
        self,
        assigner: Assigner,
        generation: int,
        clock: Clock,
        log: Callable[[], Log],
        reader: EligibilityReader | None = None,
    ) -> None:
        self._assigner = assigner
        self._reader = reader
        self._generation = generation
        self._clock = clock
        self._log = log
        self._waiting: deque[Exposure] = deque(maxlen=_MOST_WAITING)

    def arms(self, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, tuple[str, ...]]]:
        """Return for each request the variant whose version answers ("" for the control) and the flags."""
        now_us, control = self._clock.now_us(), self._assigner.definition.control
        known = self._known(rows, now_us)
        found = [self._assigner.assign(row, now_us) for row, _ in known]
        of = [
            () if self._reader is None else (*_FLAGS.get(one.reason, ()), *_lacking(one.reason, missing))
            for one, (_, missing) in zip(found, known, strict=True)
        ]
        routed = (ROUTED,) if self._assigner.definition.deployments else ()
        return [
            ("", flags) if one.variant == control else (one.variant, (*flags, *routed))
            for one, flags in zip(found, of, strict=True)
        ]

    def _known(self, rows: Sequence[Mapping[str, Any]], now_us: int) -> Sequence[tuple[Mapping[str, Any], str]]:
        """Return each request with the features that the experiment reads, and a text about those that are missing."""
        return [(row, "") for row in rows] if self._reader is None else self._reader.with_features(rows, now_us)

    def unanswered(self, rows: Sequence[Mapping[str, Any]], error: Exception) -> None:
        """Keep an exposure of each unit whose request got no answer, until `flush`. Invalid requests do not count."""
        now_us, reason = self._clock.now_us(), "timeout" if isinstance(error, Late) else "error"
        if not isinstance(error, Misuse):
            found = [
                self._assigner.exposure(row, now_us, self._generation, reason=reason, missing=missing)
                for row, missing in self._known(rows, now_us)
            ]
            self._waiting += [one for one in found if one is not None and one.reason != "not eligible"]

    def flush(self) -> None:
        """Log the exposures that wait."""
        waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if waiting:
            from trimtab.experiments.exposures import log_exposures  # loads NumPy

            log_exposures(self._log(), waiting)


def _lacking(reason: Reason, missing: str) -> list[str]:
    """Return the missing features because of which a unit takes no part, each with its reason."""
    return missing.split(", ") if reason == "feature missing" and missing else []


class StoredArms:
    """The stored shares of a model's canary and shadow, and the experiments that split its requests."""

    def __init__(
        self,
        model: str,
        state: State,
        clock: Clock,
        config: Config,
        definitions: Definitions,
        reader: Callable[[Experiment], EligibilityReader | None],
        endpoint_of: Callable[[str], Endpoint],
    ) -> None:
        self._model, self._state, self._clock, self._reader = model, state, clock, reader
        self._endpoint_of = endpoint_of
        self._config, self._definitions = config, definitions
        # the two newest splits, because a request that began with the earlier one may still fail and add an exposure
        self._splits: deque[ExperimentSplit] = deque(maxlen=2)

    def shares(self) -> ArmShares:
        """Return the shares of the canary and the shadow."""
        return arm_shares(self._state.catalog, self._model)

    def split(self, experiment: str) -> ExperimentSplit:
        """Return the split by an experiment as it is now.

        Raises:
            NotFound: There is no such experiment.
        """
        state = self._state
        rule, found = (
            assigner_of(state.catalog, self._config, self._definitions, experiment),
            experiment_state(state.catalog, experiment),
        )
        generation = 0 if found is None else found.generation
        reader = self._reader(rule.definition)
        split = ExperimentSplit(rule, generation, self._clock, lambda: state.exposures, reader)
        self._splits.append(split)
        return split

    def versions(self, experiment: str) -> dict[str, str]:
        """Return the version ids of all variants but the control.

        The result is empty if the experiment is neither running nor paused, or if its variants are deployments.
        """
        state = experiment_state(self._state.catalog, experiment)
        definition = None if state is None else stored_definition(state)
        if state is None or definition is None or definition.deployments or state.phase not in ("running", "paused"):
            return {}
        return {variant: version for variant, version in state.versions.items() if variant != definition.control}

    def deployed(self) -> dict[str, str]:
        """Return for each variant except the control the model whose deployment answers requests of this model now.

        The result is empty unless an experiment over deployments splits the requests of this model.
        """
        experiment = self.shares().experiment
        state = None if experiment is msgspec.UNSET else experiment_state(self._state.catalog, experiment)
        if state is None or not (definition := stored_definition(state)).deployments:
            return {}
        others = [(variant, model) for variant, model in definition.variants.items() if variant != definition.control]
        return {variant: model for variant, model in others if model in self._definitions.deployments}

    def answerers(self) -> dict[str, Answerer]:
        """Return the loaded answerers of the deployments in `deployed`, by variant. The call counts as their use."""
        found = {}
        for variant, model in self.deployed().items():
            endpoint = self._endpoint_of(model)
            endpoint.uses += 1  # so that it stays loaded: it may answer requests of this deployment
            if endpoint.loaded is not None:
                found[variant] = endpoint.loaded
        return found

    def flush(self) -> None:
        """Log the exposures that wait."""
        for split in list(self._splits):
            split.flush()


def assigner_of(
    catalog: Catalog, config: Config, definitions: Definitions, name: str, *, winner_serves: bool = True
) -> Assigner:
    """Return the compiled rule by which an experiment assigns units.

    After the start of the experiment, the rule is that of its start, but the overrides are those declared now. If a
    version won and is not in service (not `winner_serves`), all units get the control, which is the champion.

    Raises:
        NotFound: There is no such experiment.
    """
    state, declared = experiment_state(catalog, name), definitions.experiments.get(name)
    if state is None and declared is None:
        raise NotFound(f"no experiment {name!r}. Experiments: {', '.join(definitions.experiments) or 'none'}.")
    definition = declared if state is None else stored_definition(state)
    assert definition is not None  # it is declared if it was never started
    overrides = (declared or definition).overrides
    known = {unit: variant for unit, variant in overrides.items() if variant in definition.variants}
    holdout = config.experiments.holdout
    if state is not None and state.holdout is not None and state.phase in ("running", "paused"):
        holdout = state.holdout
    if state is not None and not winner_serves:
        state = msgspec.structs.replace(state, winner=None)
    return Assigner(definition, state, holdout=holdout, overrides=known)
