"""Make the training loops of a project's deployments, one for each deployment."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

from trimtab.app.data.logged_rows import encodings
from trimtab.app.data.training_data import LivingData
from trimtab.app.state.state import kept_from
from trimtab.app.system import System
from trimtab.app.training.learning import Teacher
from trimtab.app.training.loop import DeploymentLoop
from trimtab.app.training.searches import with_chosen
from trimtab.features.stored import with_sources
from trimtab.monitoring.inputs.red_windows import left_out
from trimtab.steering.loop.stages import Stage, stages
from trimtab.steering.loop_state import FREEZE, REQUEST, Requested, loop_state
from trimtab.store.ports import read_record
from trimtab.training.definitions import Model

if TYPE_CHECKING:
    from trimtab.app.features.feature_runs import OpenedRun


def stages_of(system: System, model: str | None = None) -> list[Stage]:
    """Return the stages of a deployment's present repair (a new version) or of its next one; see `stages`."""
    deployment, catalog = system.definitions.deployment(model), system.state.catalog
    state, frozen = loop_state(catalog, deployment.name), read_record(catalog, FREEZE, "all", str)
    requested = read_record(catalog, REQUEST, deployment.name, Requested)
    now_us = system.clock.now_us()
    excluded = left_out(catalog, deployment.model, now_us)
    return stages(deployment, state, now_us, frozen=frozen, requested=requested, left_out=excluded)


class Loops:
    """The training loops and the teachers of online learners of one open project. Get them by `system.part(Loops)`."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._loops: dict[str, DeploymentLoop] = {}
        self._teachers: dict[str, Teacher] = {}

    def loop(self, model: str | None = None) -> DeploymentLoop:
        """Return the training loop of a deployment, with the parameters of its newest search (see `with_chosen`).

        The first call after a search makes a new loop.
        """
        system = self._system
        catalog = system.state.catalog
        deployment = with_chosen(catalog, system.definitions.deployment(model))
        found = self._loops.get(deployment.name)
        if found is None or found.deployment.model.chosen != deployment.model.chosen:
            found = self._loops[deployment.name] = DeploymentLoop(system, deployment, self.living_data())
        return found

    def teacher(self, model: str) -> Teacher:
        """Return the teacher of an online deployment's learner."""
        deployment = self._system.definitions.deployment(model)
        if deployment.name not in self._teachers:
            self._teachers[deployment.name] = Teacher(self._system, deployment)
        return self._teachers[deployment.name]

    def living_data(self) -> LivingData:
        """Return an object that makes training sets, with the project's or with a stored version's features."""
        system = self._system
        return LivingData(
            self._run_of_model,
            system.predictions,
            kept_from=partial(kept_from, system.state.catalog),
            request_of=system.live.request_of,
            check=system.live.check_newest,
            encoding_of=encodings(system.registry, system.state.blob),
            placed=lambda features: with_sources(features, system.layouts.place),
            left_out=partial(left_out, system.state.catalog),
        )

    def read_ahead(self, model: str) -> None:
        """Read new predictions between two ticks (regular passes of the loop), if the loop has ticked before.

        With many requests, even the predictions of one minute take long to read.
        """
        loop = self._loops.get(model)
        if loop is not None:
            loop.read_ahead()

    def _run_of_model(self, model: Model) -> AbstractContextManager[OpenedRun]:
        from trimtab.app.features.feature_runs import run_of_model  # imported here, because it loads DuckDB

        return run_of_model(self._system, model)
