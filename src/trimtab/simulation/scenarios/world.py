"""The state of one scenario: its registry, predictions and decisions, and the policy that retrains its model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse
from trimtab.core.hashing import content_hash
from trimtab.core.ids import TimeIds
from trimtab.core.records import Decision, Prediction, Signal
from trimtab.core.time import HOUR_US
from trimtab.features.frames import FeatureFrame
from trimtab.monitoring.inputs.red_windows import RedWindow, red_windows
from trimtab.registry import LoadedModel, Version
from trimtab.registry.protection import CHAMPION
from trimtab.serving.arms.arms import CANARY, Share, arm_shares
from trimtab.serving.arms.online_learning import OnlineDeployment, learner_name
from trimtab.serving.log.prediction_ids import batch_prediction_ids
from trimtab.simulation.faults import OF_LOOP
from trimtab.simulation.scenarios.gated import Gated
from trimtab.simulation.scenarios.rows import Block
from trimtab.simulation.scenarios.scenario import Scenario
from trimtab.simulation.scenarios.scoring import Answers, BatchScorer, OnlineScorer
from trimtab.simulation.scenarios.shared import Shared, Stores
from trimtab.simulation.scenarios.shared_fits import Sabotaged, SharedRecipe, Spent
from trimtab.simulation.scenarios.slow_answers import SlowAnswers
from trimtab.simulation.scenarios.ungated import Ungated
from trimtab.steering.candidates.recipes import BatchRecipe, Recipe
from trimtab.steering.ledger import Entry, Ledger
from trimtab.steering.loop_state import FREEZE
from trimtab.store.ports import KeyValue, Put, Remove

Floats = NDArray[np.float64]


class Steering(Protocol):
    """The loop or policy that retrains a scenario's model."""

    alias: str  # the alias of the version in service
    signals: list[Signal]

    @property
    def input_signals(self) -> list[Signal]:
        """All signals so far about inputs, feeds, traffic and labels."""
        ...

    def take(
        self, block: Block, version: str, matrix: NDArray[Any], predictions: Sequence[Prediction], until_us: int
    ) -> None:
        """Add the predictions for a block of requests that ends at `until_us`.

        `version` is the version in service, and `matrix` has its inputs for all these requests. A canary may have made
        some of the predictions.
        """
        ...

    def tick(self) -> list[Decision]:
        """Do everything that is due at a midnight, and return the decisions."""
        ...

    def lack(self) -> str:
        """Return why there is no version yet."""
        ...


class World:
    """The state of one scenario. The event log, the requests and their features are shared by all scenarios.

    Args:
        folder: The folder for the state of this scenario.
    """

    def __init__(self, scenario: Scenario, folder: Path, shared: Shared) -> None:
        self.scenario = scenario
        self.model = scenario.deployment.model
        self._folder = folder
        self._shared = shared
        self._faults = [one for one in shared.faults if one.kind in OF_LOOP]
        self._restarted: set[int] = set()
        self._frozen = False
        self.scores: list[Floats] = []
        self.versions: list[str] = []  # the version that made each prediction
        self.decisions: list[Decision] = []
        self._first_row = shared.rows.count
        folder.mkdir(parents=True, exist_ok=True)
        self._ids = TimeIds(shared.clock, seed=int(content_hash([shared.seed, scenario.name])[:12], 16))
        self.spent = Spent()
        self._open()
        online = scenario.deployment.learn == "online"
        self._scorer = OnlineScorer(self, shared.rows) if online else BatchScorer(self)

    def _open(self) -> None:
        """Open the stores, and create the loop or policy that uses them."""
        self.stores = Stores.open(self._folder, self._shared)
        slow = [one for one in self._faults if one.kind == "slow_model"]
        seed = self._shared.seed
        self._slow = SlowAnswers(self.stores.catalog, self.stores.registry, slow, seed) if slow else None
        self.steering: Steering = self._steering()

    def _steering(self) -> Steering:
        deployment, decide = self.scenario.deployment, self.scenario.decide
        if decide is None:
            served = self._slow is not None
            return Gated(
                deployment, self._shared, self.stores, live=self, around=self._around, ids=self._ids, served=served
            )
        if deployment.learn == "online":
            raise Misuse(
                f"replay: scenario {self.scenario.name!r}: a model that learns while it predicts cannot have a "
                "policy without a gate."
            )
        recipe = self._around(BatchRecipe(deployment.model, seed=self._shared.seed))
        return Ungated(self.scenario.name, deployment, decide, recipe, self._shared, self.stores)

    def _around(self, recipe: Recipe) -> Recipe:
        deployment = self.scenario.deployment
        address = content_hash([deployment.model.hash, deployment.learn, self._shared.seed])
        shared = SharedRecipe(recipe, address, self._shared.fits, self.spent)
        sabotage = [one for one in self._faults if one.kind == "sabotaged_refit"]
        if not sabotage:
            return shared
        sizes = {one: 1.0 if one.size is None else one.size for one in sabotage}

        def share() -> float:
            return max((size for one, size in sizes.items() if one.covers(self._shared.clock.now_us())), default=0.0)

        return Sabotaged(shared, recipe, share, self._shared.seed)

    def answer(self, block: Block) -> Answers:
        """Score a block of requests with the versions in service. Nothing is logged."""
        with self.spent.timed():
            return self._scorer.answer(block)

    def log(self, block: Block, answers: Answers, until_us: int) -> None:
        """Log a prediction for each request of a block that ends at `until_us`.

        If the scenario answers live requests, also pass the predictions on to its loop or policy.
        """
        with self.spent.timed():
            predictions = self._logged(block, answers) if block.stop > block.start else []
            if predictions:
                self.stores.predictions.append(predictions, at_us=self._rows_at(block).tolist())
                self.scores.append(answers.scores)
                self.versions += answers.versions
                if self._slow is not None:
                    self._slow.count(predictions, until_us)
            if self.scenario.answers == "live":
                watched = answers.matrix if answers.watched is None else answers.watched
                self.steering.take(block, answers.champion, watched, predictions, until_us)

    def begin(self) -> None:
        """Simulate the faults that are due. A policy without a gate decides now, and its fit begins."""
        with self.spent.timed():
            self._suffer(self._shared.clock.now_us())
            if isinstance(self.steering, Ungated) and not self._frozen:
                self.steering.begin()

    def tick(self) -> list[Decision]:
        """Let the loop or policy act, after `begin`. Return the decisions."""
        with self.spent.timed():
            decisions = self.steering.tick()
        self.decisions += decisions
        return decisions

    def _suffer(self, now_us: int) -> None:
        """Simulate the faults that are due: each restart once, and a freeze of automation while the fault lasts."""
        for number, one in enumerate(self._faults):
            if one.kind == "restart" and one.start_us <= now_us and number not in self._restarted:
                self._restarted.add(number)
                self._restart()
        frozen = any(one.kind == "freeze" and one.covers(now_us) for one in self._faults)
        if frozen != self._frozen:
            self._frozen = frozen
            act, why = ("freeze", "A fault of the replay.") if frozen else ("unfreeze", "The fault is over.")
            change = Put(FREEZE, "all", msgspec.json.encode(why)) if frozen else Remove(FREEZE, "all")
            entry = Entry(at_us=now_us, model="*", act=act, cause=why, actor="a person")
            self.decisions += Ledger(self.stores.catalog).write([entry], [change])

    def _restart(self) -> None:
        """End the running loop, and continue from the stored state. Policies without a gate are not affected."""
        before = self.steering
        if not isinstance(before, Gated):
            return
        self.stores.close()
        self._open()
        assert isinstance(self.steering, Gated)  # the same kind as before the restart
        self.steering.resume(before, [one for block in self.stores.predictions.scan() for one in block])

    def in_service(self) -> Version | None:
        """Return the version in service; None if there is none yet."""
        return self.stores.registry.alias(self.scenario.deployment.name, self.steering.alias)

    def red_windows(self) -> list[RedWindow]:
        """Return the times at which inputs or labels were found faulty."""
        return red_windows(self.stores.catalog, self.model.name)

    def lacks_version(self) -> bool:
        """Return whether no version is in service, although one must score requests."""
        return self.scenario.answers == "live" and self.in_service() is None

    def all_scores(self) -> Floats:
        """Return the scores of all requests up to now, in order."""
        return np.concatenate(self.scores) if self.scores else np.zeros(0)

    def scores_of(self, keys: list[object], *, version: str, since_us: int) -> Floats:
        """Return the score that each request got, from any version; NaN: the request was not scored."""
        scores = self.all_scores()
        rows = np.array([self._shared.rows.row_of(key) for key in keys], np.int64) - self._first_row
        known = (rows >= 0) & (rows < len(scores))
        return np.where(known, scores[np.where(known, rows, 0)] if len(scores) else np.nan, np.nan)

    def keep_learner(self, learners: KeyValue) -> None:
        """Store the state of an online learner where a service of the project looks for it."""
        learner = self._scorer.learner()
        if learner is None:
            return
        version = self.in_service()
        assert version is not None  # a learner always belongs to a version
        kept = OnlineDeployment(
            learner_name(self.scenario.deployment.name, version.id), learner, learners, every_us=HOUR_US
        )
        kept.learn([], until_us=self._shared.clock.now_us())

    def close(self) -> None:
        self.stores.close()

    def champion(self) -> LoadedModel:
        """Load the version in service."""
        version = self.in_service()
        assert version is not None  # a replay starts when every scenario has a version
        return self.stores.registry.load(version, features=self.model.features)

    def canary(self) -> tuple[LoadedModel, Share] | None:
        """Return the canary and the share of the requests that it scores; None if there is no canary."""
        model = self.model
        share, found = (
            arm_shares(self.stores.catalog, model.name).canary,
            self.stores.registry.alias(model.name, CANARY),
        )
        if found is None or not share:
            return None
        return self.stores.registry.load(found, features=model.features), Share(model.name, share, model.about)

    def _rows_at(self, block: Block) -> NDArray[Any]:
        return self._shared.rows.at_us(slice(block.start, block.stop))

    def _logged(self, block: Block, answers: Answers) -> list[Prediction]:
        model = self.model
        made_at_us = self._rows_at(block)
        # an id cannot contain a time before 1970, so it gets 0; nothing looks these ids up by their time
        named_us = max(0, int(made_at_us[0]))
        ids = batch_prediction_ids(f"{self.scenario.name}/{block.start}", named_us, range(len(made_at_us)))
        width = 8 * answers.matrix.shape[1]
        values = answers.matrix.astype("<f8").tobytes()
        reasons = reason_rows(block.features, model.features.names)
        keys = block.requests[model.request.key].to_list()
        positions = dict(block.positions)
        arm = CHAMPION if self.scenario.deployment.learn == "batch" else "online"
        scores, by_class = _by_class(answers.scores, model.label.class_names)
        return [
            Prediction(
                id=ids[n],
                request_id=str(key),
                model=model.name,
                version=version,
                arm=CANARY if version == answers.canary else arm,
                mode=answers.mode,
                made_at_us=made,
                at_us=as_of,
                positions=positions,
                score=score,
                request=payload,
                values=values[n * width : (n + 1) * width],
                reasons=reasons[n],
                scores=by_class[n] if by_class else None,
            )
            for n, (key, version, made, as_of, score, payload) in enumerate(
                zip(
                    keys,
                    answers.versions,
                    made_at_us.tolist(),
                    answers.as_of_us.tolist(),
                    scores.tolist(),
                    block.payloads,
                    strict=True,
                )
            )
        ]


def _by_class(scores: Floats, classes: Sequence[str]) -> tuple[Floats, list[dict[str, float]]]:
    """Return the score of each row as it is logged and, for several classes, the class probabilities."""
    if not classes:
        return scores, []
    return scores.max(axis=1), [dict(zip(classes, row, strict=True)) for row in scores.tolist()]


def reason_rows(features: FeatureFrame, names: Sequence[str]) -> list[bytes]:
    """Return the null reasons of each row, encoded as in the prediction log."""
    flat, width = features.codes(names).tobytes(), len(names)
    return [flat[n * width : (n + 1) * width] for n in range(features.values.rows)]
