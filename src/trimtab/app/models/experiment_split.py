"""Split the requests of a model between two versions by the assignment of an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trimtab.app.state.definitions import Definitions
from trimtab.core.clock import Clock
from trimtab.core.config import Config
from trimtab.core.errors import NotFound
from trimtab.experiments.assignment import Assigner
from trimtab.experiments.records import experiment_state, stored_definition
from trimtab.store.ports import Catalog


class ExperimentSplit:
    """The requests whose unit an experiment assigns to the other version than the control."""

    def __init__(self, assigner: Assigner, clock: Clock) -> None:
        self._assigner = assigner
        self._clock = clock

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Return whether the other version answers a request."""
        return self._assigner.assign(row, self._clock.now_us()).variant != self._assigner.definition.control


def experiment_split(
    catalog: Catalog, clock: Clock, config: Config, definitions: Definitions, name: str
) -> ExperimentSplit:
    """Return the split by an experiment as it is now.

    Raises:
        NotFound: The experiment was never started.
    """
    return ExperimentSplit(assigner_of(catalog, config, definitions, name), clock)


def assigner_of(catalog: Catalog, config: Config, definitions: Definitions, name: str) -> Assigner:
    """Return the compiled rule of an experiment as it is now.

    While the experiment runs and afterwards, this is the rule with which it was started, except for testers.

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
    return Assigner(definition, state, holdout=config.experiments.holdout, overrides=known)
