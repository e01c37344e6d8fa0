"""One deployment's loop, wired: predictions become closed days, days become signals, signals become decisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.columns import Columns
from trimtab.core.ids import Ids
from trimtab.core.records import Prediction, Signal
from trimtab.feedback import LabelReader, ListColumn, OpenDays, OutcomeJoin
from trimtab.monitoring.quality import QualityMonitor
from trimtab.registry import Registry
from trimtab.steering.controller import Controller, Workshop
from trimtab.steering.definitions import Deployment, OnQualityDrop
from trimtab.steering.ledger import Ledger
from trimtab.steering.recipes import BatchRecipe, LiveScores, OnlineRecipe, Recipe
from trimtab.steering.stored import Recording
from trimtab.steering.trials import Proving
from trimtab.steering.workshop import TrainingData, VersionWorkshop
from trimtab.store.ports import Blob, Catalog, Put
from trimtab.training.definitions import Model
from trimtab.training.sets import TrainingSet, save_training_set

KIND = "loop_reader"


class Reached(msgspec.Struct, frozen=True):
    """How far a loop has come: days before this moment are closed for good."""

    closed_until_us: int = -(2**62)


class Loop:
    """The parts of one deployment's loop; a living project and a replay wire the same ones.

    Args:
        deployment: What is kept good, and by which rules.
        labels: Finds labels in what is known.
        live: What an online deployment really answered.
        data: Gives training sets.
        registry: Versions and aliases.
        catalog: Where state, signals and the ledger are.
        blob: Where training sets are.
        clock: The moment of everything.
        ids: Names gate records.
        seed: Given to estimators.
        around: Put around the recipe (a replay shares fits between its lines).
        save: Stores a training set.
        evaluates: Whether candidates get an evaluation with baselines and intervals, for their report.
        threads: How many a fit may use.
        recording: How the steps of a training are done; left out, they are not recorded.
        proving: How candidates are tried in a new process and timed; left out, they are not.
        outside: Put around the workshop (a living project lets it work in another process).
    """

    def __init__(
        self,
        deployment: Deployment,
        *,
        labels: LabelReader,
        live: LiveScores,
        data: TrainingData,
        registry: Registry,
        catalog: Catalog,
        blob: Blob,
        clock: Clock,
        ids: Ids,
        seed: int,
        around: Callable[[Recipe], Recipe] = lambda recipe: recipe,
        save: Callable[[TrainingSet, Blob], str] = save_training_set,
        evaluates: bool = True,
        threads: int = 1,
        recording: Recording | None = None,
        proving: Proving | None = None,
        outside: Callable[[VersionWorkshop], Workshop] = lambda workshop: workshop,
    ) -> None:
        model = deployment.model
        self._model = model
        self._catalog = catalog
        self._clock = clock
        self._outcomes = OutcomeJoin(
            labels,
            wait_us=model.label.wait_us,
            key_dtype=model.request.key_dtype,
            classes=model.label.class_names,
            lists=_list_column(model),
        )
        run_lengths = [r.run_length_days for r in deployment.retrain.any_of if isinstance(r, OnQualityDrop)]
        self.monitor = QualityMonitor(
            catalog,
            model.name,
            run_length_days=run_lengths[0] if run_lengths else OnQualityDrop().run_length_days,
            calibrated=model.task != "ranking",
        )
        batch = deployment.learn == "batch"
        recipe: Recipe = (
            BatchRecipe(model, seed=seed, threads=threads) if batch else OnlineRecipe(model, live, seed=seed)
        )
        self.workshop = VersionWorkshop(
            deployment,
            around(recipe),
            data,
            labels,
            registry,
            blob,
            clock=clock,
            ids=ids,
            save=save,
            evaluates=evaluates,
            recording=recording,
            proving=proving,
        )
        self.ledger = Ledger(catalog)
        self.controller = Controller(
            deployment,
            monitor=self.monitor,
            workshop=outside(self.workshop),
            ledger=self.ledger,
            catalog=catalog,
            clock=clock,
        )
        self._begin()

    @property
    def closed_until_us(self) -> int:
        """Days before this moment are closed: predictions since then must be given by `add`."""
        return self._days.closed_until_us

    def add(self, predictions: Sequence[Prediction] | Columns) -> None:
        """Take in predictions as they were logged."""
        self._days.add(predictions)

    def close_days(self) -> list[Signal]:
        """Close the days whose labels are due and look at them; what rang.

        The watch, the signals and how far the days are closed are stored in one write. If that fails, nothing is
        stored and the days in memory are not to be used any more: `reload` before the next try.
        """
        now_us = self._clock.now_us()
        before_us = self._days.closed_until_us
        self._whole = False
        days = self._days.close(now_us)
        closed_until_us = self._days.closed_until_us
        signals: list[Signal] = []
        if closed_until_us != before_us:
            reached = msgspec.json.encode(Reached(closed_until_us))
            put = Put(KIND, self._model.name, reached, expected=self._revision)
            signals = self.monitor.observe(days, now_us=now_us, also=[put])
            self._revision += 1
        self._whole = True
        return signals

    def reload(self) -> bool:
        """Read everything again that another process may have moved.

        True: the open days were begun anew, so give the predictions since `closed_until_us` again.
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
        reached = Reached() if record is None else msgspec.json.decode(record.body, type=Reached)
        self._whole = True
        self._days: OpenDays = OpenDays(
            self._model.name,
            self._model.metric,
            self._outcomes,
            closed_until_us=reached.closed_until_us,
            cap=self.monitor.loss_cap,
        )


def _list_column(model: Model) -> ListColumn | None:
    """Where logged requests name their list; None of a model that ranks none."""
    if model.task != "ranking" or model.group is None:
        return None
    names = list(model.request.columns)
    return ListColumn(names.index(model.group), len(names))
