"""A line under the project's own loop: closed days, watched quality and inputs, and a controller with its gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from numpy.typing import NDArray

from trimtab.core.clock import Clock
from trimtab.core.ids import Ids
from trimtab.core.records import Decision, Prediction, Signal
from trimtab.monitoring.inputs.red_windows import left_out
from trimtab.registry import Registry
from trimtab.registry.protection import CHAMPION
from trimtab.simulation.scenarios.inputs import SharedCounts, WatchedInputs
from trimtab.simulation.scenarios.rows import AnsweredRows, Block, LineData
from trimtab.steering.candidates.ports import CandidateOptions, DeploymentParts
from trimtab.steering.candidates.recipes import LiveScores, Recipe
from trimtab.steering.definitions import Deployment
from trimtab.steering.loop.loop import Loop
from trimtab.steering.loop_state import Changes
from trimtab.store.ports import Blob, Catalog
from trimtab.training.data.sets import save_manifest


class Gated:
    """The same classes as in service, in virtual time.

    Args:
        deployment: What is kept good, and by which rules.
        rows: The questions and their features.
        live: What the line answered.
        around: Put around the recipe.
        registry: Versions and aliases of the line.
        catalog: Its state, signals and ledger.
        blob: Training sets and profiles.
        counts: What lines share of the checks of inputs.
        clock: The time.
        ids: Names gate records.
        seed: Given to estimators.
        look_every_us: The time between two looks at inputs; 0: never.
        served: Whether service figures are written, which guard canaries.
    """

    alias = CHAMPION

    def __init__(
        self,
        deployment: Deployment,
        rows: AnsweredRows,
        live: LiveScores,
        around: Callable[[Recipe], Recipe],
        *,
        registry: Registry,
        catalog: Catalog,
        blob: Blob,
        counts: SharedCounts,
        clock: Clock,
        ids: Ids,
        seed: int,
        look_every_us: int,
        served: bool,
    ) -> None:
        self.signals: list[Signal] = []
        self._clock = clock
        self._decisions: list[Decision] = []
        self._inputs = WatchedInputs(
            deployment,
            catalog=catalog,
            blob=blob,
            registry=registry,
            frame_of=rows.frame,
            clock=clock,
            shared=counts,
            every_us=look_every_us,
        )
        parts = DeploymentParts(
            deployment=deployment,
            data=LineData(rows, partial(left_out, catalog, deployment.model)),
            labels=rows.label_reader(deployment.model.label),
            registry=registry,
            catalog=catalog,
            blob=blob,
            clock=clock,
            ids=ids,
        )
        options = CandidateOptions(
            seed=seed,
            around=around,
            save=save_manifest,
            evaluates=False,
            profile=self._inputs.profiles.make if look_every_us else None,
        )
        self._loop = Loop(parts, options, live=live, served=served)

    @property
    def input_signals(self) -> list[Signal]:
        """What began to be wrong with inputs, feeds, traffic and labels."""
        return self._inputs.signals

    def take(
        self, block: Block, version: str, matrix: NDArray[Any], predictions: Sequence[Prediction], until_us: int
    ) -> None:
        """Take in the answers to a block that ends at `until_us`, given by one version."""
        self._loop.add(predictions)
        self._inputs.watch(block, version, matrix, [p.id for p in predictions], until_us)

    def tick(self) -> list[Decision]:
        """Close the days whose labels are due, look at them and at the inputs, and let the controller act."""
        self.signals += self._loop.close_days()
        self._inputs.close(self._clock.now_us(), self._loop.newly_closed)
        decisions = self._loop.controller.tick()
        self._decisions += decisions
        self._inputs.follow()
        return decisions

    def resume(self, before: Gated, predictions: Sequence[Prediction]) -> None:
        """Go on from what is stored, as a process does after another one ended.

        Args:
            before: What ended; only what it told this replay is taken over.
            predictions: All that was logged.
        """
        self.signals, self._decisions = before.signals, before._decisions
        self._inputs.signals = before._inputs.signals
        self._loop.add([p for p in predictions if p.at_us >= self._loop.closed_until_us])
        self._inputs.resume(predictions)

    def lack(self) -> str:
        """Why there is no version yet."""
        refused = (d.cause for d in reversed(self._decisions) if d.act in ("refuse", "failed"))
        return next(refused, "") or self._loop.builder.blocked(self._clock.now_us(), Changes()) or ""
