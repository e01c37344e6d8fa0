"""One line of a replay: a policy with its own registry, prediction log, monitor and ledger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab import store
from trimtab.core.clock import Clock
from trimtab.core.errors import Misuse
from trimtab.core.hashing import content_hash
from trimtab.core.ids import TimeIds
from trimtab.core.records import Decision, Mode, Prediction, Signal
from trimtab.core.time import HOUR_US
from trimtab.core.urls import store_url
from trimtab.features.frames import FeatureFrame
from trimtab.registry import LoadedModel, Registry, Version
from trimtab.registry.protection import CHAMPION
from trimtab.serving.arms.arms import CANARY, Share, arm_shares
from trimtab.serving.arms.online_learning import OnlineDeployment, learner_name
from trimtab.serving.log.prediction_ids import batch_prediction_ids
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.simulation.faults import Fault
from trimtab.simulation.policies import Decide
from trimtab.simulation.scenarios.gated import Gated
from trimtab.simulation.scenarios.inputs import SharedCounts
from trimtab.simulation.scenarios.rows import AnsweredRows, Block
from trimtab.simulation.scenarios.shared_fits import FitCache, Sabotaged, SharedRecipe, Spent
from trimtab.simulation.scenarios.slow_answers import SlowAnswers
from trimtab.simulation.scenarios.ungated import Ungated
from trimtab.steering.candidates.recipes import BatchRecipe, Recipe
from trimtab.steering.definitions import Deployment
from trimtab.steering.ledger import Entry, Ledger
from trimtab.steering.loop_state import FREEZE
from trimtab.store.embedded_files import catalog_file
from trimtab.store.ports import Blob, KeyValue, Put, Remove
from trimtab.training.fitting.online import OnlineLearner

Floats = NDArray[np.float64]


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A model under a policy, side by side with others."""

    name: str
    deployment: Deployment
    answers: Literal["live", "day_ahead"] = "live"
    main: bool = False  # its state is the project's own; the others are kept beside it
    like: str = ""  # day_ahead: the line whose champion answers
    scored_at_us: int = 0  # day_ahead: time of day (UTC) at which the next day is scored
    ahead_us: int = 6 * HOUR_US  # day_ahead: the scored day begins so long after
    decide: Decide | None = None  # retrains without a gate, as this says; None: the project's loop


class Answers(msgspec.Struct, frozen=True, eq=False):
    """Scores of consecutive questions, and with which versions and inputs they were made."""

    scores: Floats  # of several classes shape (rows, classes)
    matrix: NDArray[Any]
    versions: list[str]  # one a question: a batch made ahead may cross a promotion
    as_of_us: NDArray[Any]
    mode: Mode
    champion: str = ""  # the version in service
    canary: str = ""  # the version that answered a share of them
    watched: NDArray[Any] | None = None  # the inputs as the version in service reads them; None: `matrix`


class Shared(msgspec.Struct, frozen=True, eq=False):
    """What the lines of a replay have in common beside the questions: work that none needs to do twice."""

    fits: FitCache
    counts: SharedCounts

    @staticmethod
    def new() -> Shared:
        """Nothing yet."""
        return Shared(FitCache(), SharedCounts())


class Steering(Protocol):
    """What keeps the model of a line good, or does not."""

    alias: str  # of the version that answers
    signals: list[Signal]

    @property
    def input_signals(self) -> list[Signal]:
        """What began to be wrong with inputs, feeds, traffic and labels."""
        ...

    def take(
        self, block: Block, version: str, matrix: NDArray[Any], predictions: Sequence[Prediction], until_us: int
    ) -> None:
        """Take in the answers to a block that ends at `until_us`, given by one version."""
        ...

    def tick(self) -> list[Decision]:
        """Do what is due at midnight."""
        ...

    def lack(self) -> str:
        """Why there is no version yet."""
        ...


class World:
    """What one line owns. The event log, the questions and their features are shared by all lines."""

    def __init__(
        self,
        line: Scenario,
        folder: Path,
        rows: AnsweredRows,
        blob: Blob,
        shared: Shared,
        *,
        clock: Clock,
        seed: int,
        look_every_us: int,
        faults: Sequence[Fault] = (),
    ) -> None:
        self.line = line
        self._folder = folder
        self._blob = blob
        self._shared = shared
        self._seed = seed
        self._look_every_us = look_every_us
        self._faults = [one for one in faults if one.kind in ("sabotaged_refit", "slow_model", "restart", "freeze")]
        self._restarted: set[int] = set()
        self._frozen = False
        self.scores: list[Floats] = []
        self.versions: list[str] = []  # of each answer
        self.decisions: list[Decision] = []
        self._rows = rows
        self._clock = clock
        self._first_row = rows.count
        deployment = line.deployment
        folder.mkdir(parents=True, exist_ok=True)
        self._ids = TimeIds(clock, seed=int(content_hash([seed, line.name])[:12], 16))
        self.spent = Spent()
        self._open()
        self._scorer = _OnlineScorer(self, rows) if deployment.learn == "online" else _BatchScorer(self)

    def _open(self) -> None:
        """Open what is stored, and what steers by it."""
        catalog = f"{store_url('sqlite', catalog_file(self._folder))}?mode=relaxed"  # D0193
        self.catalog = store.open(catalog, "catalog", clock=self._clock)
        log = f"{store_url('sqlite', self._folder / 'log' / 'predictions')}?mode=relaxed"
        self.predictions = PredictionLog(store.open(log, "log", clock=self._clock))
        self.registry = Registry(self.catalog, self._blob, clock=self._clock, actor="policy")
        slow = [one for one in self._faults if one.kind == "slow_model"]
        self._slow = SlowAnswers(self.catalog, self.registry, slow, self._seed) if slow else None
        self.steering: Steering = self._steering()

    def _steering(self) -> Steering:
        deployment, decide = self.line.deployment, self.line.decide
        if decide is None:
            return Gated(
                deployment,
                self._rows,
                self,
                self._around,
                registry=self.registry,
                catalog=self.catalog,
                blob=self._blob,
                counts=self._shared.counts,
                clock=self._clock,
                ids=self._ids,
                seed=self._seed,
                look_every_us=self._look_every_us,
                served=self._slow is not None,
            )
        if deployment.learn == "online":
            raise Misuse(f"replay: line {self.line.name!r}: a model that learns as it answers has no ungated policy.")
        return Ungated(
            deployment,
            decide,
            self._around(BatchRecipe(deployment.model, seed=self._seed)),
            self._rows,
            registry=self.registry,
            ledger=Ledger(self.catalog),
            blob=self._blob,
            clock=self._clock,
        )

    def _around(self, recipe: Recipe) -> Recipe:
        deployment = self.line.deployment
        address = content_hash([deployment.model.hash, deployment.learn, self._seed])
        shared = SharedRecipe(recipe, address, self._shared.fits, self.spent)
        sabotage = [one for one in self._faults if one.kind == "sabotaged_refit"]
        if not sabotage:
            return shared
        sizes = {one: 1.0 if one.size is None else one.size for one in sabotage}

        def share() -> float:
            return max((size for one, size in sizes.items() if one.covers(self._clock.now_us())), default=0.0)

        return Sabotaged(shared, recipe, share, self._seed)

    def answer(self, block: Block) -> Answers:
        """Answers to a block of questions by what is in service; nothing is logged."""
        with self.spent.timed():
            return self._scorer.answer(block)

    def log(self, block: Block, answers: Answers, until_us: int) -> None:
        """Log a prediction for every question of a block, which ends at `until_us`, and look at them hour by hour."""
        with self.spent.timed():
            predictions = self._logged(block, answers) if block.stop > block.start else []
            if predictions:
                self.predictions.append(predictions, at_us=self._rows_at(block).tolist())
                self.scores.append(answers.scores)
                self.versions += answers.versions
                if self._slow is not None:
                    self._slow.count(predictions, until_us)
            if self.line.answers == "live":
                watched = answers.matrix if answers.watched is None else answers.watched
                self.steering.take(block, answers.champion, watched, predictions, until_us)

    def tick(self) -> list[Decision]:
        """Let whatever steers the line look at what is new, and act."""
        with self.spent.timed():
            self._suffer(self._clock.now_us())
            if self._frozen and isinstance(self.steering, Ungated):
                return []
            decisions = self.steering.tick()
        self.decisions += decisions
        return decisions

    def _suffer(self, now_us: int) -> None:
        """Let the faults of now happen: a restart once, a freeze as long as it lasts."""
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
            self.decisions += Ledger(self.catalog).write([entry], [change])

    def _restart(self) -> None:
        """End what runs, and go on from what is stored; an ungated policy stores nothing, and goes on as it is."""
        before = self.steering
        if not isinstance(before, Gated):
            return
        self.predictions.close()
        self.catalog.close()
        self._open()
        assert isinstance(self.steering, Gated)  # as before
        self.steering.resume(before, [one for block in self.predictions.scan() for one in block])

    def in_service(self) -> Version | None:
        """The version that answers."""
        return self.registry.alias(self.line.deployment.name, self.steering.alias)

    def all_scores(self) -> Floats:
        """The scores of all questions answered, in order."""
        return np.concatenate(self.scores) if self.scores else np.zeros(0)

    def scores_of(self, keys: list[object], *, version: str, since_us: int) -> Floats:
        """What this line answered to each request key, NaN where it was not asked; by whatever stood in service."""
        scores = self.all_scores()
        rows = np.array([self._rows.row_of(key) for key in keys], np.int64) - self._first_row
        asked = (rows >= 0) & (rows < len(scores))
        return np.where(asked, scores[np.where(asked, rows, 0)] if len(scores) else np.nan, np.nan)

    def keep_learner(self, learners: KeyValue) -> None:
        """Keep what an online learner knows where the project's service looks for it."""
        learner = self._scorer.learner()
        if learner is None:
            return
        version = self.in_service()
        assert version is not None  # there is a learner
        kept = OnlineDeployment(
            learner_name(self.line.deployment.name, version.id), learner, learners, every_us=HOUR_US
        )
        kept.learn([], until_us=self._clock.now_us())

    def close(self) -> None:
        self.predictions.close()
        self.catalog.close()

    def champion(self) -> LoadedModel:
        """The version in service, ready to answer.

        Raises:
            Misuse: The history before the replay's start did not give one.
        """
        version = self.in_service()
        if version is None:
            raise Misuse(
                f"replay: line {self.line.name!r} has no version to begin with. {self.steering.lack()} "
                "Start later, so that there is more history, or loosen its gate."
            )
        return self.registry.load(version, features=self.line.deployment.model.features)

    def canary(self) -> tuple[LoadedModel, Share] | None:
        """The version that answers a share of the questions, and which; None where none does."""
        model = self.line.deployment.model
        share, found = arm_shares(self.catalog, model.name).canary, self.registry.alias(model.name, CANARY)
        if found is None or not share:
            return None
        return self.registry.load(found, features=model.features), Share(model.name, share, model.about)

    def _rows_at(self, block: Block) -> NDArray[Any]:
        return self._rows.at_us(slice(block.start, block.stop))

    def _logged(self, block: Block, answers: Answers) -> list[Prediction]:
        model = self.line.deployment.model
        made_at_us = self._rows_at(block)
        named_us = max(0, int(made_at_us[0]))  # identifiers have no times before 1970, and nobody looks these up
        ids = batch_prediction_ids(f"{self.line.name}/{block.start}", named_us, range(len(made_at_us)))
        width = 8 * answers.matrix.shape[1]
        values = answers.matrix.astype("<f8").tobytes()
        reasons = reason_rows(block.features, model.features.names)
        keys = block.requests[model.request.key].to_list()
        positions = dict(block.positions)
        arm = CHAMPION if self.line.deployment.learn == "batch" else "online"
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


class _BatchScorer:
    """Scores with the champion, and a share with the canary; both are looked up again after decisions."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._loaded: LoadedModel | None = None
        self._canary: tuple[LoadedModel, Share] | None = None
        self._decisions = -1

    def answer(self, block: Block) -> Answers:
        if self._loaded is None or self._decisions != len(self._world.decisions):
            self._loaded, self._decisions = self._world.champion(), len(self._world.decisions)
            self._canary = self._world.canary()
        champion = self._loaded.version.id
        matrix = self._loaded.encoding.matrix(block.features.values)
        scores = np.asarray(self._loaded.predict(matrix), np.float64) if len(matrix) else self._nothing()
        answers = Answers(scores, matrix, [champion] * len(matrix), block.at_us, "replay", champion)
        return answers if self._canary is None or not len(matrix) else self._shared(block, answers, *self._canary)

    def _shared(self, block: Block, answers: Answers, canary: LoadedModel, share: Share) -> Answers:
        """The answers with those of the canary in its share."""
        columns = [block.requests[name].to_list() for name in share.about]
        held = {who: share.holds(dict(zip(share.about, who, strict=True))) for who in set(zip(*columns, strict=True))}
        here = np.array([held[who] for who in zip(*columns, strict=True)])
        if not here.any():
            return answers
        scores, matrix = answers.scores.copy(), answers.matrix.copy()
        matrix[here] = canary.encoding.matrix(block.features.values.take(here))
        scores[here] = canary.predict(matrix[here])
        versions = [canary.version.id if one else answers.champion for one in here.tolist()]
        return msgspec.structs.replace(
            answers, scores=scores, matrix=matrix, versions=versions, canary=canary.version.id, watched=answers.matrix
        )

    def learner(self) -> OnlineLearner | None:
        """None: a version never learns."""
        return None

    def _nothing(self) -> Floats:
        """The answers to no rows."""
        classes = self._world.line.deployment.model.label.class_names
        return np.zeros((0, len(classes)) if classes else 0)


class _OnlineScorer:
    """Predicts hour by hour, and learns before each from the labels that became known until then."""

    def __init__(self, world: World, rows: AnsweredRows) -> None:
        self._world = world
        self._rows = rows
        self._learner: OnlineLearner | None = None
        self._version = ""
        self._arrivals = rows.arrivals(world.line.deployment.model.label)
        self._inputs: dict[int, NDArray[Any]] = {}  # of predicted rows whose label has not come

    def answer(self, block: Block) -> Answers:
        learner = self._current()
        matrix = learner.artifact.encoding.matrix(block.features.values)
        scores = np.zeros(len(matrix))
        hours = block.at_us // HOUR_US
        for hour in np.unique(hours):
            self._learn(learner, int(hour) * HOUR_US)
            rows = np.flatnonzero(hours == hour)
            scores[rows] = learner.predict(matrix[rows])
            self._inputs.update((block.start + row, matrix[row]) for row in rows.tolist())
        return Answers(scores, matrix, [self._version] * len(matrix), block.at_us, "online", self._version)

    def learner(self) -> OnlineLearner | None:
        return self._learner

    def _current(self) -> OnlineLearner:
        """The learner of the version in service; a new version starts from its own fit."""
        world = self._world
        version = world.in_service()
        if self._learner is None or version is None or version.id != self._version:
            loaded = world.champion()
            self._learner, self._version = OnlineLearner(loaded.artifact), loaded.version.id
            if self._inputs:  # encoded by the version before
                waiting = list(self._inputs)
                values = self._rows.values(world.line.deployment.model.features, waiting)
                matrix = self._learner.artifact.encoding.matrix(values)
                self._inputs = dict(zip(waiting, matrix, strict=True))
        return self._learner

    def _learn(self, learner: OnlineLearner, until_us: int) -> None:
        known = {row: label for row, label in self._arrivals.until(until_us) if row in self._inputs}  # newest version
        if known:
            learner.learn(np.array([self._inputs.pop(row) for row in known]), np.array(list(known.values())))


def _by_class(scores: Floats, classes: Sequence[str]) -> tuple[Floats, list[dict[str, float]]]:
    """The score of each row as it is logged, and of several classes the probability of each."""
    if not classes:
        return scores, []
    return scores.max(axis=1), [dict(zip(classes, row, strict=True)) for row in scores.tolist()]


def reason_rows(features: FeatureFrame, names: Sequence[str]) -> list[bytes]:
    """The reason codes of each row as the prediction log keeps them."""
    flat, width = features.codes(names).tobytes(), len(names)
    return [flat[n * width : (n + 1) * width] for n in range(features.values.rows)]


def made_ahead(batches: Sequence[tuple[Block, Answers]], block: Block, live: Answers) -> Answers:
    """The answers made ahead for a block's questions, and live ones where there are none."""
    scores, matrix, as_of_us = live.scores.copy(), live.matrix.copy(), live.as_of_us.copy()
    versions = list(live.versions)
    for batch, answers in batches:
        low, high = max(batch.start, block.start), min(batch.stop, block.stop)
        if low < high:
            here, there = slice(low - block.start, high - block.start), slice(low - batch.start, high - batch.start)
            scores[here], matrix[here] = answers.scores[there], answers.matrix[there]
            as_of_us[here], versions[here] = answers.as_of_us[there], answers.versions[there]
    return Answers(scores, matrix, versions, as_of_us, "precomputed", live.champion)
