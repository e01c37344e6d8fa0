"""The loop of one deployment: from predictions to closed days (with final labels), to signals, to decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import msgspec

from trimtab.core.errors import NotFound
from trimtab.core.records import DayQuality, Prediction, Signal
from trimtab.core.time import DAY_US
from trimtab.feedback.blocks import DayBlocks, day_qualities, over_arms
from trimtab.feedback.logged_waiting import Extent, LoggedWaiting
from trimtab.feedback.open_days import KEPT_US, OpenDays, Waiting, judged_table
from trimtab.feedback.outcomes import ListColumn, OutcomeJoin
from trimtab.feedback.slices import RequestSlices
from trimtab.monitoring.inputs.red_windows import days_with_missing_labels
from trimtab.monitoring.quality.quality import QualityMonitor
from trimtab.monitoring.quality.quality_days import BatchBlocks, store_batch, store_days, stored_batches, stored_days
from trimtab.registry import Registry
from trimtab.registry.protection import CHAMPION
from trimtab.serving.answer.batch import batch_manifests, batch_predictions
from trimtab.serving.arms.arms import CANARY, SHADOW
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.steering.arm_comparisons import ArmComparisons
from trimtab.steering.candidates.builder import CandidateBuilder
from trimtab.steering.candidates.ports import CandidateOptions, Candidates, DeploymentParts
from trimtab.steering.candidates.recipes import BatchRecipe, LiveScores, OnlineRecipe, Recipe
from trimtab.steering.candidates.references import request_slices
from trimtab.steering.causes import OnQualityDrop
from trimtab.steering.definitions import Deployment
from trimtab.steering.ledger import Ledger
from trimtab.steering.loop.controller import Controller
from trimtab.steering.loop.exposure import Exposure
from trimtab.steering.loop.service_guard import ServiceGuard
from trimtab.steering.rollouts import Rollout
from trimtab.store.ports import Catalog, Put
from trimtab.training.definitions import Model

KIND = "loop_reader"
Positions = dict[str, int] | None
# a closed day's sums are computed again this many days later, with late and corrected labels
AMENDED_AFTER = (1, 7, 28)
_REREAD_US = 90 * DAY_US  # days up to this old, with missing labels, are computed again whenever a day is closed


class Reached(msgspec.Struct, frozen=True):
    """How far a loop has come, in time and in the prediction log."""

    closed_until_us: int = -(2**62)  # all days before this time are closed
    # for each partition, the position up to which the prediction log was read; None: nothing was read yet
    positions: dict[str, int] | None = None
    extents: dict[int, tuple[Extent, ...]] = {}  # by day (since 1970), where its predictions are in the log
    too_late: int = 0  # how many predictions were logged after their day was closed


class Loop:
    """The loop of one deployment, from logged predictions to decisions. Projects and replays use the same code.

    Args:
        options: How candidates are fitted, stored and tested.
        live: The scores that a deployment gave in service (for a model that learns online).
        outside: Returns what to use in place of the given builder of candidates: in a project, an object that runs the
            builder in another process.
        predictions: The log in which predictions wait for their labels. None: they wait in memory.
        served: Whether a service answers the requests. Canaries are then guarded by its metrics.
    """

    def __init__(
        self,
        parts: DeploymentParts,
        options: CandidateOptions,
        *,
        live: LiveScores,
        outside: Callable[[CandidateBuilder], Candidates] = lambda builder: builder,
        predictions: PredictionLog | None = None,
        served: bool = True,
    ) -> None:
        deployment, catalog, registry = parts.deployment, parts.catalog, parts.registry
        self._model = model = deployment.model
        self._predictions = predictions
        self._days: OpenDays
        self._reached: Reached
        self._catalog = catalog
        self._clock = parts.clock
        self._outcomes = OutcomeJoin(
            parts.labels,
            wait_us=model.label.wait_us,
            key_dtype=model.request.key_dtype,
            classes=model.label.class_names,
            lists=_list_column(model),
            slices=_slices(deployment),
        )
        run_lengths = [r.run_length_days for r in deployment.retrain.singles() if isinstance(r, OnQualityDrop)]
        self.monitor = QualityMonitor(
            catalog,
            model.name,
            run_length_days=run_lengths[0] if run_lengths else OnQualityDrop().run_length_days,
            calibrated=model.task != "ranking",
            owner=deployment.owner,
            metric=model.metric,
            classes=model.label.class_names,
        )
        self.monitor.name_of = name_of = partial(_name_of, registry)
        self.builder = CandidateBuilder(parts, options.around(_recipe(deployment, live, options)), options)
        self._arms = ArmComparisons(parts, self.builder, name_of)
        self.newly_closed: list[DayQuality] = []  # the days that the last call of `close_days` closed
        self.controller = Controller(
            deployment,
            monitor=self.monitor,
            candidates=outside(self.builder),
            ledger=Ledger(catalog),
            catalog=catalog,
            clock=parts.clock,
            exposure=Exposure(model.name, registry, catalog),
            guard=_guard(deployment, registry, catalog, predictions) if served else None,
        )
        self._begin()

    @property
    def closed_until_us(self) -> int:
        """The time before which all days are closed."""
        return self._days.closed_until_us

    @property
    def positions(self) -> Positions:
        """The positions up to which the prediction log was read; None: it must be read from the beginning."""
        return self._reached.positions

    def add(
        self, predictions: Sequence[Prediction], *, before: Mapping[str, int] | None = None, reached: Positions = None
    ) -> None:
        """Add logged predictions. If the loop has a log, these must be all predictions from `before` to `reached`.

        Args:
            before: For each partition of the log, the position after which the predictions begin.
            reached: For each partition of the log, the position up to which it was read.
        """
        if self._logged is not None:
            assert reached is not None  # given by callers that read a log
            self._logged.reads(before or {}, reached)
            self._reached = msgspec.structs.replace(self._reached, positions=reached)
        self._days.add(predictions)

    def close_days(self) -> list[Signal]:
        """Close the days whose wait for labels is over, and check their quality. Return the signals that began.

        Everything is stored in one transaction. If it fails, the days in memory are no longer right: call `reload`.
        """
        now_us = self._clock.now_us()
        self.monitor.follow(self.builder.champion(), now_us=now_us)
        before_us = self._days.closed_until_us
        self.monitor.follow_arms(self.builder.arms(), now_us=now_us, closed_us=before_us)
        self._whole = False
        days = self._days.close(now_us)
        closed_until_us = self._days.closed_until_us
        signals: list[Signal] = []
        if closed_until_us != before_us:
            amended = self._amended(before_us, closed_until_us, now_us)
            self._reached = msgspec.structs.replace(
                self._reached,
                closed_until_us=closed_until_us,
                extents={} if self._logged is None else self._logged.extents,
                too_late=self._days.too_late,
            )
            put = Put(KIND, self._model.name, msgspec.json.encode(self._reached), expected=self._revision)
            signals = self.monitor.observe(
                day_qualities(days),
                now_us=now_us,
                also=[put, *store_days([*days, *amended]), *self._batches(closed_until_us)],
                slices=over_arms(days),
                arms=[(day.arm, day.quality()) for day in days if day.arm in (CANARY, SHADOW)],
            )
            self._revision += 1
        self._whole = True
        self.newly_closed = day_qualities(days)
        return signals

    def compare_arms(self) -> None:
        """Compare the canary and the shadow that a person set with the version in service, on days closed since."""
        repair = self.controller.state.repair
        self._arms.tick(None if repair is None else repair.successor)

    def reload(self) -> bool:
        """Read again what another process may have changed.

        Returns:
            Whether the open days were emptied, so that the predictions since `positions` must be given again.
        """
        self.monitor.reload()
        self.controller.reload()
        record = self._catalog.get(KIND, self._model.name)
        if self._whole and self._revision == (0 if record is None else record.revision):
            return False
        self._begin()
        return True

    def _begin(self) -> None:
        record = self._catalog.get(KIND, self._model.name)
        self._revision = 0 if record is None else record.revision
        self._reached = Reached() if record is None else msgspec.json.decode(record.body, type=Reached)
        self._whole = True  # False while days are being closed, and if that failed: the days in memory may be wrong
        self._logged: LoggedWaiting | None = None
        if self._predictions is not None:
            self._logged = LoggedWaiting(
                self._predictions,
                self._model.name,
                lambda predictions: judged_table(self._outcomes, self._model.name, predictions),
                extents=self._reached.extents,
            )
        waiting: Waiting | None = self._logged
        self._days = OpenDays(
            self._model.name,
            self._model.metric,
            self._outcomes,
            closed_until_us=self._reached.closed_until_us,
            cap=self.monitor.loss_cap,
            waiting=waiting,
        )
        self._days.too_late = self._reached.too_late

    def _batches(self, closed_until_us: int) -> list[Put]:
        """Return the changes that store the sums of batches that were made on closed days, once for each batch."""
        if self._predictions is None:
            return []
        since_us = closed_until_us - KEPT_US
        known = {one.batch for one in stored_batches(self._catalog, self._model.name)}
        changes = []
        for one in batch_manifests(self._catalog):
            due = one.complete and since_us <= one.made_at_us < closed_until_us
            if one.model != self._model.name or one.id in known or not due:
                continue
            with suppress(NotFound):  # the predictions of the batch are no longer kept
                block = self._days.of_batch(batch_predictions(one, self._predictions), one.made_at_us)
                if block is not None:
                    changes.append(store_batch(BatchBlocks(batch=one.id, made_at_us=one.made_at_us, blocks=block)))
        return changes

    def _amended(self, from_us: int, until_us: int, now_us: int) -> list[DayBlocks]:
        """Return earlier closed days whose labels have changed since, with the labels known now."""
        found: list[DayBlocks] = []
        since_us = until_us - DAY_US * AMENDED_AFTER[-1]
        closed = range(max(from_us, since_us) if self._logged else until_us, until_us, DAY_US)  # none in a replay
        due = {day_us - age * DAY_US for day_us in closed for age in AMENDED_AFTER}
        due.update(
            days_with_missing_labels(self._catalog, self._model.name, since_us=until_us - _REREAD_US, until_us=until_us)
        )
        for day_us in sorted(due):
            stored = stored_days(self._catalog, self._model.name, from_us=day_us, until_us=day_us + DAY_US)
            now = {(one.version, one.arm): one.whole for one in self._days.as_known(day_us, now_us)} if stored else {}
            for day in stored:
                whole = now.get((day.version, day.arm))
                if whole is not None and whole != (day.whole if day.amended is None else day.amended):
                    found.append(msgspec.structs.replace(day, amended=whole, amended_at_us=now_us))
        return found


def _recipe(deployment: Deployment, live: LiveScores, options: CandidateOptions) -> Recipe:
    """Return the recipe of a deployment (how its models are fitted), for online or for batch learning."""
    if deployment.learn == "batch":
        return BatchRecipe(deployment.model, seed=options.seed, threads=options.threads)
    return OnlineRecipe(deployment.model, live, seed=options.seed)


def _list_column(model: Model) -> ListColumn | None:
    """Return where logged requests name their list; None if the model is not a ranking."""
    if model.task != "ranking" or model.group is None:
        return None
    names = list(model.request.columns)
    return ListColumn(names.index(model.group), len(names))


def _name_of(registry: Registry, version: str) -> str:
    try:
        return registry.get(version).name
    except NotFound:
        return version[:12]


def _slices(deployment: Deployment) -> RequestSlices | None:
    """Return where logged requests have the columns of a deployment's slices; None if it has no slices."""
    columns, parts = deployment.model.request.columns, request_slices(deployment)
    names = list(columns)
    if not parts:
        return None
    return RequestSlices(
        places={one: names.index(one) for one in parts if isinstance(one, str)},
        columns=len(names),
        named={one.name: one.of for one in parts if not isinstance(one, str)},
        dtypes=dict(columns),
    )


def _guard(
    deployment: Deployment, registry: Registry, catalog: Catalog, predictions: PredictionLog | None
) -> ServiceGuard:
    """Return the guard of rollouts. The declared probability of a false alarm is divided among all stages."""
    rollout = deployment.rollout or Rollout()
    stages = max(1, len(rollout.canary) + bool(rollout.bake_us))
    limits = msgspec.structs.replace(rollout.guardrails, false_alarms=rollout.guardrails.false_alarms / stages)
    arm = CHAMPION if deployment.learn == "batch" else "online"
    return ServiceGuard(deployment.name, registry, catalog, limits, arm=arm, predictions=predictions)
