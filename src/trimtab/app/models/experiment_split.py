"""Split the requests of a model between two versions by the assignment of an experiment."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trimtab.app.state.definitions import Definitions
from trimtab.app.state.state import State
from trimtab.core.clock import Clock
from trimtab.core.config import Config
from trimtab.core.errors import Misuse, NotFound
from trimtab.experiments.assignment import Assigner
from trimtab.experiments.records import Exposure, experiment_state, stored_definition
from trimtab.serving.arms.arms import ArmShares, arm_shares
from trimtab.serving.failures import Late
from trimtab.store.ports import Catalog, Log

_MOST_WAITING = 10_000  # if more exposures wait, the oldest are dropped


class ExperimentSplit:
    """Selects the requests whose unit an experiment assigns to a variant other than the control.

    A unit whose request gets no answer counts as exposed, too. Its exposure waits until `flush` logs it, because
    failures should not make a service slower.
    """

    def __init__(self, assigner: Assigner, generation: int, clock: Clock, log: Callable[[], Log]) -> None:
        self._assigner = assigner
        self._generation = generation
        self._clock = clock
        self._log = log
        self._waiting: deque[Exposure] = deque(maxlen=_MOST_WAITING)

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Return whether the other version answers a request."""
        return self._assigner.assign(row, self._clock.now_us()).variant != self._assigner.definition.control

    def unanswered(self, rows: Sequence[Mapping[str, Any]], error: Exception) -> None:
        """Count the units of requests that got no answer as exposed to their variants, except for invalid requests."""
        now_us, reason = self._clock.now_us(), "timeout" if isinstance(error, Late) else "error"
        if not isinstance(error, Misuse):
            found = [self._assigner.exposure(row, now_us, self._generation, reason=reason) for row in rows]
            self._waiting += [one for one in found if one is not None]

    def flush(self) -> None:
        """Log the exposures that wait."""
        waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if waiting:
            from trimtab.experiments.exposures import log_exposures  # loads NumPy

            log_exposures(self._log(), waiting)


class StoredArms:
    """The stored shares of a model's canary and shadow, and the experiments that split its requests."""

    def __init__(self, model: str, state: State, clock: Clock, config: Config, definitions: Definitions) -> None:
        self._model, self._state, self._clock = model, state, clock
        self._config, self._definitions = config, definitions
        # the two newest splits, because a request that began with the earlier one may still end
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
        split = ExperimentSplit(rule, 0 if found is None else found.generation, self._clock, lambda: state.exposures)
        self._splits.append(split)
        return split

    def flush(self) -> None:
        """Log the exposures that wait."""
        for split in list(self._splits):
            split.flush()


def assigner_of(catalog: Catalog, config: Config, definitions: Definitions, name: str) -> Assigner:
    """Return the compiled rule by which an experiment assigns units.

    Once the experiment was started, this is the rule of its start, with the overrides that are declared now.

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
    return Assigner(definition, state, holdout=holdout, overrides=known)
