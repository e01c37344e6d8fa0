"""A scenario whose policy has no gate: each new version goes into service at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse, TrimtabError
from trimtab.core.records import Decision, Prediction, Signal
from trimtab.core.time import DAY_US, format_time
from trimtab.registry import Version
from trimtab.simulation.policies import Decide, Refit, Standing
from trimtab.simulation.scenarios.rows import Block
from trimtab.simulation.scenarios.shared import Shared, Stores
from trimtab.steering.candidates.recipes import Recipe, Rows
from trimtab.steering.definitions import Deployment
from trimtab.steering.ledger import Entry, Ledger
from trimtab.training.data.sets import TrainingSet, save_manifest

ALIAS = "ungated"  # not "champion", which can only be moved with a gate record
_SHOWN = 20_000  # of the rows on which the version was fitted, at most this many are passed to the policy
_KEPT_DAYS = 90  # the inputs of predictions are kept for this many days, so that the policy can look at them


class Ungated:
    """Asks a policy at each midnight whether to refit. If so, fits a new version and puts it in service.

    Args:
        name: The name of the policy, for messages.
        stores: The stores of this scenario, with its versions, the alias `ungated`, and the list of decisions.
    """

    alias = ALIAS

    def __init__(
        self, name: str, deployment: Deployment, decide: Decide, recipe: Recipe, shared: Shared, stores: Stores
    ) -> None:
        self._name = name
        self._deployment = deployment
        self._decide = decide
        self._recipe = recipe
        self._shared = shared
        self._registry = stores.registry
        self._ledger = Ledger(stores.catalog)
        self._clock = shared.clock
        self._learnt: NDArray[np.float64] = np.zeros((0, 0))
        # for each block of predictions, its end and its inputs
        self._answered: deque[tuple[int, NDArray[np.float64]]] = deque()
        self._fitted_us = 0
        self._lack = ""
        self._wanted: Refit | None = None  # what `begin` was told
        self.signals: list[Signal] = []  # always empty, because nothing is monitored
        self.input_signals: list[Signal] = []

    def take(
        self, block: Block, version: str, matrix: NDArray[Any], predictions: Sequence[Prediction], until_us: int
    ) -> None:
        """Keep the inputs of a block of predictions, so that the policy can look at them."""
        self._answered.append((until_us, np.asarray(matrix, np.float64)))
        while self._answered and self._answered[0][0] <= until_us - _KEPT_DAYS * DAY_US:
            self._answered.popleft()

    def begin(self) -> None:
        """Ask the policy. If it wants a refit, let the recipe begin it in the background, if it can."""
        self._wanted = self._decision()
        if self._wanted is not None:
            self._recipe.expect(*self._data(self._wanted))

    def tick(self) -> list[Decision]:
        """Do what the policy decided at `begin`, and return the decisions."""
        wanted, self._wanted = self._wanted, None
        return [] if wanted is None else self._fit(wanted)

    def _decision(self) -> Refit | None:
        now_us = self._clock.now_us()
        if self._registry.alias(self._deployment.name, ALIAS) is None:
            return Refit(why="There is no version yet.")
        standing = Standing(
            now_us=now_us,
            fitted_us=self._fitted_us,
            inputs=tuple(self._deployment.model.features.names),
            learnt=self._learnt,
            asked=self._inputs,
            training_set=self._training_set,
        )
        said = f"policy {self._name!r} at {format_time(now_us)}"
        try:
            wanted = self._decide(standing)
        except TrimtabError:
            raise
        except Exception as error:  # a user's function may raise any error
            raise Misuse(f"{said}: it raised {type(error).__name__}: {error}") from error
        if wanted is not None and not isinstance(wanted, Refit):
            raise Misuse(f"{said}: it returned {wanted!r}. Return a trimtab.simulation.Refit, or None.")
        return wanted

    def lack(self) -> str:
        """Return why there is no version yet."""
        return self._lack

    def _inputs(self, days: int) -> NDArray[np.float64]:
        since_us = self._clock.now_us() - days * DAY_US
        found = [matrix for until_us, matrix in self._answered if until_us > since_us]
        return np.concatenate(found) if found else np.zeros((0, len(self._deployment.model.features.names)))

    def _training_set(self) -> TrainingSet:
        return self._shared.rows.training_set(self._deployment.model, cut_us=self._clock.now_us())

    def _data(self, wanted: Refit) -> tuple[TrainingSet, Rows]:
        training_set = self._training_set()
        rows = training_set.usable
        if wanted.since_us is not None:
            rows = rows & (training_set.at_us >= wanted.since_us)
        return training_set, rows

    def _fit(self, wanted: Refit) -> list[Decision]:
        now_us, name = self._clock.now_us(), self._deployment.name
        training_set, rows = self._data(wanted)
        # set even if the fit fails, so that the fit is repeated only when the policy asks for it again
        self._fitted_us = now_us
        try:
            fitted = self._recipe.fit(training_set, rows)
        except Misuse as error:
            self._lack = str(error)
            return self._written([("trigger", wanted.why, None), ("failed", str(error), None)])
        version = self._registry.register(fitted, training_set=save_manifest(training_set, self._shared.blob))
        shown = np.flatnonzero(rows)
        shown = shown[:: -(-shown.size // _SHOWN)] if shown.size else shown
        self._learnt = np.asarray(fitted.matrix(training_set.features.values.take(shown)), np.float64)
        before = self._registry.alias(name, ALIAS)
        self._registry.move(name, ALIAS, version, why=wanted.why)
        return self._written(
            [("trigger", wanted.why, None), ("train", wanted.why, version), ("promote", wanted.why, version)],
            rows=fitted.rows,
            replaced=None if before is None else before.id,
        )

    def _written(
        self, acts: Sequence[tuple[str, str, Version | None]], rows: int = 0, replaced: str | None = None
    ) -> list[Decision]:
        return self._ledger.write(
            [
                Entry(
                    at_us=self._clock.now_us(),
                    model=self._deployment.name,
                    act=act,
                    cause=cause,
                    evidence={"rows": rows} if act == "train" else {},
                    version=None if version is None else version.id,
                    replaced=replaced if act == "promote" else None,
                )
                for act, cause, version in acts
            ]
        )
