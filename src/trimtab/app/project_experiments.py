"""The verbs of a project about experiments."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.app.calls import public_calls
from trimtab.app.system import System
from trimtab.core.records import Decision
from trimtab.experiments.records import ExperimentStatus

if TYPE_CHECKING:
    from trimtab.app.experiments.running import Running
    from trimtab.experiments.assignment import Assignment
    from trimtab.experiments.reading.plan import ExperimentPlan
    from trimtab.experiments.reading.planted_runs import PlantedRuns
    from trimtab.experiments.reading.results import Reading


@public_calls
class ProjectExperiments(System):
    """The methods of `Project` about experiments."""

    def experiments(self) -> list[ExperimentStatus]:
        """All experiments: phase, variants, weights and the share of the units that take part."""
        from trimtab.app.experiments.assigning import experiments

        return experiments(self)

    def experiment(self, name: str) -> ExperimentStatus:
        """One experiment as it is now.

        Raises:
            NotFound: There is no such experiment.
        """
        from trimtab.app.experiments.assigning import experiment_status

        return experiment_status(self, name)

    def assign(self, experiment: str, unit: str | int | Mapping[str, Any], *, expose: bool = False) -> Assignment:
        """The variant of a unit. Every process gives the same one, also after a restart.

        Args:
            experiment: An experiment's name.
            unit: The columns that identify the unit, and the attributes that the experiment reads. If it reads one
                column only, its value is enough.
            expose: Whether the unit is exposed to its variant now. If so, this is logged, and the unit counts from
                now on.

        Raises:
            NotFound: There is no such experiment.
            Misuse: A column or attribute is missing or has a wrong type; or `expose` is given for an experiment over
                versions, whose exposures are the logged predictions.
        """
        from trimtab.app.experiments import assigning

        return assigning.expose(self, experiment, [unit])[0] if expose else assigning.assign(self, experiment, unit)

    def expose(
        self,
        experiment: str,
        unit: str | int | Mapping[str, Any],
        *,
        not_shown: str = "",
        at: str | int | dt.datetime | None = None,
    ) -> Assignment:
        """Log that a unit was exposed to its variant. Only its first exposure counts.

        A unit that takes no part is not logged.

        Args:
            experiment: An experiment's name.
            unit: As in `assign`.
            not_shown: Why the unit did not get its variant, such as "timeout". It counts for its variant all the same.
            at: When the unit was exposed to its variant, if not now. The variant, and features, are those of this time.
                If this day is closed already, or the declared duration is over, the exposure does not count; the reason
                in the result is "day is closed" or "planned end".

        Raises:
            NotFound: There is no such experiment.
            Misuse: As in `assign`; or `at` lies in the future.
        """
        return self.expose_units(experiment, [unit], not_shown=not_shown, at=at)[0]

    def expose_units(
        self,
        experiment: str,
        units: Sequence[str | int | Mapping[str, Any]],
        *,
        not_shown: str = "",
        at: str | int | dt.datetime | Sequence[str | int | dt.datetime] | None = None,
    ) -> list[Assignment]:
        """Log that many units were exposed to their variants.

        After an error, none is logged, and the call may be repeated.

        Args:
            experiment: An experiment's name.
            units: Each as in `assign`.
            not_shown: As in `expose`, for all of them.
            at: As in `expose`: one time for all, or a list with one for each unit.

        Raises:
            NotFound: There is no such experiment.
            Misuse: As in `assign`. The message names the unit, counted from 0.
        """
        from trimtab.app.experiments.assigning import expose

        return expose(self, experiment, units, not_shown=not_shown, at=at)

    def start_experiment(self, experiment: str, *, why: str, actor: str = "a person", again: bool = False) -> Decision:
        """Start an experiment as it is declared now. Each start assigns the units again.

        While it runs, changes of its declaration have no effect, except those of overrides. In an experiment over
        versions, the first version that is not the control becomes the canary of the model.

        Args:
            experiment: Its name.
            why: The hypothesis or the reason, for the ledger.
            actor: Who starts it.
            again: Whether to start it even if it was concluded. The units then no longer all get the winner.

        Raises:
            NotFound: There is no such experiment or version.
            Misuse: No reason is given, or the version passed no gate and the reason is shorter than ten letters.
            Conflict: It runs already, it was concluded and `again` is not given, its layer has no room, or the model
                has a canary.
        """
        return self._running(experiment, why, actor).start(again=again)

    def ramp_experiment(
        self,
        experiment: str,
        *,
        share: float | None = None,
        weights: Mapping[str, float] | None = None,
        why: str,
        actor: str = "a person",
    ) -> Decision:
        """Change the share of the units that take part, or the weights. No further steps of a declared ramp are taken.

        With a larger share, all units that already take part stay in. With new weights, only as many units as necessary
        get another variant.

        Args:
            experiment: Its name.
            share: The new share.
            weights: The new weight of each variant.
            why: For the ledger.
            actor: Who changes it.

        Raises:
            NotFound: There is no such experiment.
            Misuse: No reason is given, neither share nor weights are given, or they are not possible.
            Conflict: It is not running, or another process changed it meanwhile.
        """
        return self._running(experiment, why, actor).ramp(share, weights)

    def pause_experiment(self, experiment: str, *, why: str, actor: str = "a person") -> Decision:
        """Give all units the control until the experiment is resumed or stopped.

        Raises:
            NotFound: There is no such experiment.
            Misuse: No reason is given.
            Conflict: It is not running, or another process changed it meanwhile.
        """
        return self._running(experiment, why, actor).pause()

    def resume_experiment(self, experiment: str, *, why: str, actor: str = "a person") -> Decision:
        """Go on after a pause, with the same units in the same variants. No further steps of a declared ramp are taken.

        Raises:
            NotFound: There is no such experiment.
            Misuse: No reason is given.
            Conflict: It is not paused, or another process changed it meanwhile.
        """
        return self._running(experiment, why, actor).resume()

    def stop_experiment(self, experiment: str, *, why: str, actor: str = "a person") -> Decision:
        """End an experiment without a winner: all units get the control.

        Raises:
            NotFound: There is no such experiment.
            Misuse: No reason is given.
            Conflict: It is not running or paused, or another process changed it meanwhile.
        """
        return self._running(experiment, why, actor).stop()

    def conclude_experiment(self, experiment: str, winner: str, *, why: str, actor: str = "a person") -> Decision:
        """End an experiment with a winner: all units get the winner, except those of the global holdout.

        A version that won is judged as by `promote`, and put in service only if it passes the gate. The ledger's row
        says whether it passed.

        Args:
            experiment: Its name.
            winner: A variant. Name the control if nothing shall change.
            why: For the ledger.
            actor: Who concludes it.

        Raises:
            NotFound: There is no such experiment.
            Misuse: No reason is given, or there is no such variant.
            Conflict: It is neither running nor paused, or `promote` would raise a Conflict.
            Unavailable: There are no days to judge the version on yet; nothing was changed.
        """
        return self._running(experiment, why, actor).conclude(winner)

    def experiment_report(self, experiment: str, *, generation: int | None = None) -> Reading:
        """What an experiment says: units, checks, the effect on each metric over time, and what to do.

        Only closed days count. A day can be closed when all outcomes of its units can be known; this call closes such
        days first.

        Args:
            experiment: Its name.
            generation: The number of an earlier start; None: the newest one.

        Raises:
            NotFound: There is no such experiment.
            Conflict: It was not started.
        """
        from trimtab.app.experiments.report import experiment_report

        return experiment_report(self, experiment, generation=generation)

    def experiment_page(self, experiment: str, *, to: str | Path, generation: int | None = None) -> Path:
        """Write the report of an experiment as an HTML page with plots, and return its file.

        Args:
            experiment: Its name.
            to: The file (.html), or a folder to write it into.
            generation: As in `experiment_report`.

        Raises:
            NotFound: There is no such experiment.
            Conflict: It was not started.
            Unavailable: The file cannot be written.
        """
        from trimtab.app.experiments.report import write_experiment_page

        return write_experiment_page(self, experiment, Path(to), generation)

    def experiment_plan(
        self, experiment: str, *, effects: Sequence[float] = (0.02, 0.05, 0.1), days: int = 56, units: str | None = None
    ) -> ExperimentPlan:
        """How long an experiment takes, and which effects it can show, from the project's own history.

        Args:
            experiment: A declared experiment.
            effects: Effects to find, as shares of the control's value.
            days: The number of past days to learn from.
            units: The source or request whose rows stand for exposures. By default, one with the unit's columns.

        Raises:
            NotFound: There is no such experiment, or no history of its units.
            Misuse: The source lacks columns, or there are too few days or units.
        """
        from trimtab.app.replay.experiment_replay import experiment_plan

        return experiment_plan(self, experiment, effects=effects, days=days, units=units)

    def simulate_experiment(
        self,
        experiment: str,
        *,
        effect: float = 0.0,
        runs: int = 200,
        days: int = 56,
        units: str | None = None,
        seed: int | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> PlantedRuns:
        """Simulate an experiment on past units with a planted effect: how often it decides rightly, when, at what cost.

        Args:
            experiment: A declared experiment.
            effect: By which share the second variant improves the primary metrics; below 0, it makes them worse.
                With 0, every decision is an error.
            runs: The number of runs, each with other assignments.
            days: The number of past days.
            units: The source or request whose rows stand for exposures. By default, one with the unit's columns.
            seed: By default, the setting `seed`.
            progress: Called with the number of finished runs and the number of all runs.

        Raises:
            NotFound: There is no such experiment, or no history of its units.
            Misuse: The source lacks columns, or the effect is not possible.
        """
        from trimtab.app.replay.experiment_replay import simulate_experiment

        return simulate_experiment(
            self, experiment, effect=effect, runs=runs, days=days, units=units, seed=seed, progress=progress
        )

    def _running(self, experiment: str, why: str, actor: str) -> Running:
        from trimtab.app.experiments.running import Running

        return Running(self, experiment, why=why, actor=actor)
