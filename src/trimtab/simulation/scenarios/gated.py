"""A scenario that runs the project's own loop: monitoring, retraining, and a gate for new versions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
from numpy.typing import NDArray

from trimtab.core.ids import Ids
from trimtab.core.records import Decision, Prediction, Signal
from trimtab.monitoring.inputs.red_windows import left_out
from trimtab.monitoring.quality.quality_signals import KINDS
from trimtab.monitoring.signals import listed_signals
from trimtab.registry.protection import CHAMPION
from trimtab.simulation.scenarios.inputs import InputChecks
from trimtab.simulation.scenarios.rows import Block, ScenarioData
from trimtab.simulation.scenarios.shared import Shared, Stores
from trimtab.steering.candidates.ports import CandidateOptions, DeploymentParts
from trimtab.steering.candidates.recipes import LiveScores, Recipe
from trimtab.steering.definitions import Deployment
from trimtab.steering.loop.loop import Loop
from trimtab.steering.loop_state import Changes
from trimtab.training.data.sets import save_manifest


class Gated:
    """The project's own loop in virtual time, made of the same classes as in service.

    Args:
        live: The scores that this scenario gave to requests.
        around: Takes a recipe (how a model is fitted), and returns the recipe to use instead, for example a faulty one.
        ids: Makes the ids under which results of the gate are stored.
        served: Whether service metrics such as latencies are simulated. If so, a canary must keep within the guardrails
            (limits of these metrics).
    """

    alias = CHAMPION

    def __init__(
        self,
        deployment: Deployment,
        shared: Shared,
        stores: Stores,
        *,
        live: LiveScores,
        around: Callable[[Recipe], Recipe],
        ids: Ids,
        served: bool,
    ) -> None:
        deployment = msgspec.structs.replace(deployment, approval_us=None)  # no one is there to approve
        self.signals: list[Signal] = []
        self._clock, self._catalog, self._model = shared.clock, stores.catalog, deployment.model.name
        self._decisions: list[Decision] = []
        self._inputs = InputChecks(deployment, shared, stores)
        rows = shared.rows
        parts = DeploymentParts(
            deployment=deployment,
            data=ScenarioData(rows, partial(left_out, stores.catalog, deployment.model)),
            labels=rows.label_reader(deployment.model.label),
            registry=stores.registry,
            catalog=stores.catalog,
            blob=shared.blob,
            clock=shared.clock,
            ids=ids,
        )
        options = CandidateOptions(
            seed=shared.seed,
            around=around,
            save=save_manifest,
            evaluates=False,
            baselines=shared.fits.baselines,
            profile=self._inputs.profiles.make if shared.look_every_us else None,
        )
        self._loop = Loop(parts, options, live=live, served=served)

    @property
    def input_signals(self) -> list[Signal]:
        """All signals so far about inputs, feeds, traffic and labels."""
        return self._inputs.signals

    def take(
        self, block: Block, version: str, matrix: NDArray[Any], predictions: Sequence[Prediction], until_us: int
    ) -> None:
        """Add the predictions for a block of requests that ends at `until_us`; see `Steering.take`."""
        self._loop.add(predictions)
        self._inputs.watch(block, version, matrix, predictions, until_us)

    def tick(self) -> list[Decision]:
        """Close the days whose labels are due, check these days and the inputs, and let the controller act."""
        self.signals += self._loop.close_days()
        self._inputs.close(self._clock.now_us(), self._loop.newly_closed)
        decisions = self._loop.controller.tick()
        if decisions:  # a promotion may begin signals, too
            known = {one.id for one in self.signals}
            listed = listed_signals(self._catalog, self._model)
            self.signals += [one for one in listed if one.kind in KINDS and one.id not in known]
        self._decisions += decisions
        self._inputs.follow()
        return decisions

    def resume(self, before: Gated, predictions: Sequence[Prediction]) -> None:
        """Continue from the stored state, as a new process would after another one ended.

        Args:
            before: The loop that was running. Only its lists of signals and decisions are taken over.
            predictions: All logged predictions.
        """
        self.signals, self._decisions = before.signals, before._decisions
        self._inputs.signals = before._inputs.signals
        self._loop.add([p for p in predictions if p.at_us >= self._loop.closed_until_us])
        self._inputs.resume(predictions)

    def lack(self) -> str:
        """Return why there is no version yet."""
        refused = (d.cause for d in reversed(self._decisions) if d.act in ("refuse", "failed"))
        return next(refused, "") or self._loop.builder.blocked(self._clock.now_us(), Changes()) or ""
