"""An open project: every verb of the command line and of the HTTP service, in Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec

from trimtab.app.state.definitions import load_definitions
from trimtab.app.state.retention_needs import check_retention
from trimtab.app.system import System
from trimtab.core.clock import Clock
from trimtab.core.config import FILE, load_config
from trimtab.core.errors import Conflict, Misuse
from trimtab.core.records import Decision, Signal
from trimtab.core.time import duration_us, parse_time_us
from trimtab.monitoring.signals import every_signal
from trimtab.serving import Answer
from trimtab.steering.ledger import Entry, Ledger
from trimtab.store import Put, Remove

if TYPE_CHECKING:
    import datetime as dt

    from trimtab.app.alerts.alert_overview import AlertOverview
    from trimtab.app.alerts.alerting import Alerting, TriedReceiver
    from trimtab.app.data.training_data import LivingData
    from trimtab.app.features.feature_catalogue import Catalogue
    from trimtab.app.features.feature_tables import AsKnown, FeatureFile, FeatureTable, How, Of
    from trimtab.app.features.loading import Ingested
    from trimtab.app.inspect.explain import Explanation
    from trimtab.app.inspect.quality import By
    from trimtab.app.inspect.skew_report import SkewReport
    from trimtab.app.inspect.status import Status
    from trimtab.app.keep.backup import Backup
    from trimtab.app.keep.disk import Disk
    from trimtab.app.keep.erasure import Forgotten
    from trimtab.app.keep.recovering import Recovered
    from trimtab.app.keep.retention import Retained
    from trimtab.app.plan.applying import AppliedPlan
    from trimtab.app.plan.planning import Plan
    from trimtab.app.state.searches import Searched
    from trimtab.app.training.learning import Teacher
    from trimtab.app.training.loop import DeploymentLoop
    from trimtab.app.training.loops import Loops
    from trimtab.app.training.promoting import Promotion
    from trimtab.app.training.ticking import Ticked
    from trimtab.core.columns.data import Columns
    from trimtab.core.config import ScenarioSettings
    from trimtab.events.files.files import Rows, Table
    from trimtab.events.ingest import Pushed
    from trimtab.events.quarantine import Replayed, SetAside
    from trimtab.events.tables import Materialised
    from trimtab.features.online.compaction import Compacted
    from trimtab.monitoring.inputs.red_windows import RedWindow
    from trimtab.registry import Version
    from trimtab.registry.collecting.collector import Collection
    from trimtab.registry.describing.compare import Comparison
    from trimtab.registry.describing.signature import Signature
    from trimtab.registry.searching import Found
    from trimtab.registry.transfer.export import Exported
    from trimtab.run import Run
    from trimtab.serving.answer.batch import Manifest
    from trimtab.simulation.faults import Fault
    from trimtab.simulation.policies import Policy
    from trimtab.simulation.results import ReplayResult
    from trimtab.simulation.streams import Stream
    from trimtab.steering.loop.stages import Stage
    from trimtab.training.judge.evaluation import Evaluation

Meter = Callable[[int, int], object]


def open_project(
    folder: str | Path = ".",
    *,
    clock: Clock | None = None,
    state: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Project:
    """Open the project in `folder`.

    Args:
        folder: Where `trimtab.toml` is.
        clock: The moment of everything that happens; left out, the system's.
        state: Another state folder than the settings name.
        environment: Where `TRIMTAB_*` settings are looked up; left out, the process's.

    Raises:
        NotFound: There is no project.
        Misuse: Its settings or definitions are wrong, or its state was written by a newer trimtab.
    """
    config = load_config(_path("folder", folder), os.environ if environment is None else environment)
    definitions = load_definitions(config.project_file)
    check_retention(config.retention, definitions)
    if config.alerts.receivers:
        from trimtab.app.alerts.alerting import check_receivers

        check_receivers(config.alerts, definitions, config.folder / FILE)
    return Project(config, definitions, clock=clock, state=None if state is None else _path("state", state))


class Project(System):
    """An open project. Close it, or use it in `with`.

    Any number of processes may open one project and push to it. One of them at a time applies events to online
    features: a running `trimtab serve`, or else whoever needs them fresh.
    """

    # -- data ---------------------------------------------------------------------------------------------------

    def push(self, source: str, rows: Sequence[Mapping[str, object]] | Table) -> Pushed:
        """Append events as they come; they are safe when this returns.

        Args:
            source: The source's name.
            rows: One mapping an event, or a table of polars, pandas, pyarrow, DuckDB or `Columns`.

        Raises:
            NotFound: There is no such source.
            Misuse: A column is not declared, or a table's column is of another type. Nothing was done.
        """
        return self.ingestor.push(source, rows)

    def ingest(
        self,
        source: str,
        file: Rows,
        *,
        history: bool = True,
        absent_ok: bool = False,
        progress: Meter | None = None,
    ) -> Ingested:
        """Load a file of a source's events, or a table. Rows that do not fit, or are dated ahead, go to quarantine.

        Args:
            source: The source's name.
            file: A CSV, Parquet, NDJSON or Arrow (Feather) file, or whatever else `events.read_rows` takes.
            history: Known at = event time + the source's delay; False: known now.
            absent_ok: Declared columns that the file does not have are null; otherwise it is refused.
            progress: Called with rows done and rows in all, every twenty thousand.

        Raises:
            NotFound: There is no such source or file.
            Misuse: The file cannot be read as a table, or lacks a column. Nothing was done.
        """
        from trimtab.app.features.loading import load_rows

        return load_rows(self, source, file, history=history, absent_ok=absent_ok, progress=progress)

    def quarantined(self, source: str | None = None) -> list[SetAside]:
        """What is in quarantine, by source and reason: how many rows, since when, the newest ones.

        Raises:
            NotFound: There is no such source.
        """
        return self.quarantine.summary(self._named(source))

    def replay_quarantine(self, source: str | None = None, *, reason: str | None = None) -> Replayed:
        """Try what is in quarantine again, after a fix; what fails again stays.

        Raises:
            NotFound: There is no such source, or it is declared no more.
            Misuse: A row has a column that its source does not declare.
        """
        return self.quarantine.replay(self.ingestor, self._named(source), reason=reason)

    def drop_quarantined(self, source: str | None = None, *, reason: str | None = None) -> int:
        """Give up rows in quarantine for good; how many.

        Raises:
            NotFound: There is no such source.
        """
        return self.quarantine.drop(self._named(source), reason=reason)

    # -- models -------------------------------------------------------------------------------------------------

    def train(
        self, model: str | None = None, *, actor: str = "a person", watch: Callable[[Run], object] | None = None
    ) -> list[Decision]:
        """Make a candidate now, judge it, and promote or refuse it.

        Nothing is decided when the version in service is what this data, code and seed give. A training that was
        killed is gone on with: its finished steps are not done again.

        Args:
            model: A deployment's name; it may be left out where there is only one.
            actor: Who asks for it.
            watch: Called with the run whenever it gets on.

        Raises:
            NotFound: No such deployment, or no data.
            Misuse: None of several is named, or the data cannot be learnt from; the message names the cause.
            Unavailable: Nothing can be judged yet.
            Conflict: Another process is at work on it, the run was cancelled, or automation is frozen.
        """
        _check_named("train", model, list(self.definitions.deployments))
        self.state.check_clock()
        loop = self.loop(model)
        self.apply_first()
        return loop.train(actor, watch)

    def search(
        self,
        model: str | None = None,
        *,
        trials: int | None = None,
        time: str | int | None = None,
        actor: str = "a person",
        watch: Callable[[Run], object] | None = None,
    ) -> Searched:
        """Look for the parameters of a model's estimator; the best ones are part of the recipe of its next training.

        A search that was stopped is gone on with, to the trials that would have come without; one that is finished
        goes on when it is given more trials or time. Rows that a gate may judge on are never looked at.

        Args:
            model: A deployment's name; it may be left out where there is only one.
            trials: How many in all; left out, as the model declares.
            time: How long all of them may take, those of before included.
            actor: Who asks for it.
            watch: Called with the run whenever it gets on.

        Raises:
            NotFound: No such deployment, or no data.
            Misuse: None of several is named, the model declares no search, Optuna is not installed, or no trial
                succeeds.
            Unavailable: There are too few labels.
            Conflict: Another process searches for it, or the run was cancelled.
        """
        from trimtab.app.training.searching import search_model

        _check_named("search", model, list(self.definitions.deployments))
        self.apply_first()
        return search_model(self, model, trials=trials, time=time, actor=actor, watch=watch)

    def trials(self, model: str | None = None) -> Searched:
        """The newest search of a deployment with its trials; also of one that is under way.

        Args:
            model: A deployment's name; it may be left out where only one was searched for.

        Raises:
            NotFound: No such deployment, or nothing was searched.
            Misuse: Several were searched for, and none is named.
        """
        from trimtab.app.state.searches import newest_search
        from trimtab.app.training.resolve_deployment import searched_for

        model = searched_for("trials", model, list(self.definitions.deployments), self.state.catalog)
        return newest_search(self.state.catalog, self.definitions.deployment(model).name)

    def runs(self, model: str | None = None) -> list[Run]:
        """The runs of all deployments or of one, oldest first: their steps, how far they are, and how they ended.

        Raises:
            NotFound: No such deployment, and no run of one.
        """
        found = self.recorded.all(model)
        if model is not None and not found:
            self.definitions.deployment(model)
        return found

    def run(self, run_id: str) -> Run:
        """One run, by its id or by the beginning of it.

        Raises:
            NotFound: There is none.
            Misuse: Several begin like this.
        """
        return self.recorded.get(run_id)

    def cancel_run(self, run_id: str, *, actor: str = "a person") -> Run:
        """Ask for a run to end, in whichever process it is; the run as it stands now. It ends within a second or so.

        Raises:
            NotFound: There is none.
            Conflict: It is over already.
        """
        return self.recorded.cancel(run_id, actor=actor)

    def loop(self, model: str | None = None) -> DeploymentLoop:
        """The loop of one deployment, with the parameters of its newest search; rebuilt when a search has ended."""
        return self._loops.loop(model)

    def teacher(self, model: str) -> Teacher:
        """The teacher of one online deployment's learner."""
        return self._loops.teacher(model)

    def living_data(self) -> LivingData:
        """Training sets of the project, and the features that other versions need for the same requests."""
        return self._loops.living_data()

    def read_ahead(self, model: str) -> None:
        """Read new predictions between ticks, if the loop has ticked before: under load a minute of them is a lot."""
        self._loops.read_ahead(model)

    @property
    def _loops(self) -> Loops:
        from trimtab.app.training.loops import Loops

        return self.part(Loops)

    @property
    def alerting(self) -> Alerting:
        """The delivery of alerts."""
        from trimtab.app.alerts.alerting import Alerting

        return self.part(Alerting)

    def line_settings(self, names: Sequence[str] | None = None) -> list[ScenarioSettings]:
        """The scenarios of [demo], or those named.

        Raises:
            Misuse: There is none of that name.
        """
        from trimtab.app.replay.scenarios import scenario_settings

        return scenario_settings(self.config, names)

    def plan(self) -> Plan:
        """What the project file changes against what is applied, and what that means: nothing is done."""
        from trimtab.app.plan.planning import plan_project

        return plan_project(self)

    def apply(
        self, *, actor: str = "a person", progress: Meter | None = None, patience: str | int = "1h"
    ) -> AppliedPlan:
        """Apply the project file's definitions: note them with version numbers, fill the views that are new, drop
        online features that nothing needs any more.

        What is served goes on meanwhile, with the definitions that it was trained on. A run that was stopped is
        finished by the next one.

        Args:
            actor: Who asked, for the ledger.
            progress: Called with views filled and to be filled.
            patience: How long to wait for a process that applies the log to fill them.

        Raises:
            Misuse: A recorded column is declared as another type.
            Conflict: Another process applied definitions meanwhile.
            Unavailable: The views are not filled within `patience`.
        """
        from trimtab.app.plan.applying import apply_plan

        return apply_plan(self, actor=actor, progress=progress, patience_s=duration_us(patience) / 1e6)

    def apply_first(self) -> Decision | None:
        """Apply the definitions of a project of which nothing was applied yet: `train` and `serve` do so by themselves.

        Returns:
            The row of the ledger that says so; None when something was applied before.
        """
        from trimtab.app.plan.applying import apply_first

        return apply_first(self)

    def tick(self, *, watch: Callable[[Ticked], object] | None = None) -> list[Decision]:
        """Look at every deployment once and do what is due; not at one that another process is at work on.

        A deployment that fails does not keep the others from their turn: its error is raised after them.

        Args:
            watch: Called with what came of each deployment's turn, or with who was at work on it.
        """
        from trimtab.app.training.ticking import tick_all

        return tick_all(self, watch)

    def predict(
        self, model: str, rows: Sequence[Mapping[str, Any]] | Table, *, at: str | int | dt.datetime | None = None
    ) -> list[Answer]:
        """Answers to requests, in their order; each is in the prediction log when this returns.

        Args:
            model: A deployed model's name.
            rows: A list of request rows, or a table of any library; every declared column must be there.
            at: A moment in the past to answer as of; left out, now.

        Raises:
            NotFound: There is no such model.
            Misuse: A row is not as declared, `at` is no moment that has come, or None is the name of one of several.
        """
        _check_named("predict", model, list(self.definitions.deployments))
        given = _request_rows(rows)
        return self.current(model).endpoint.answer(given, at=self._moment("at", at))

    def predict_table(
        self,
        model: str,
        requests: Rows,
        *,
        at: str | int | dt.datetime | None = None,
        mode: Literal["batch", "precomputed"] = "batch",
        out: str | Path | None = None,
        progress: Meter | None = None,
    ) -> Manifest:
        """Answer a table of requests, each as of its own time or all as of one; resumable, each answer logged once.

        The same table, version and `at` are the same batch, however often and late it is asked for: what is answered
        stays as it is. To answer a table of requests to come anew, give `at`.

        Args:
            model: A deployed model's name.
            requests: A file, a table of polars, pandas, pyarrow, DuckDB or `Columns`, or a list of dicts.
            at: One moment for all; left out, each request's time less its lead, but not later than the batch's begin.
            mode: "precomputed" also stores the answers, to be given by the service while they are fresh.
            out: Where the answers go as .csv or .parquet.
            progress: Called with rows done and rows in all.
        """
        from trimtab.app.serve.batch import answer_table

        return answer_table(
            self,
            model,
            requests,
            at_us=self._moment("at", at),
            mode=mode,
            out=None if out is None else _path("out", out),
            progress=progress,
        )

    # -- features -----------------------------------------------------------------------------------------------

    def join(
        self,
        requests: Rows,
        of: Of | None = None,
        *,
        at: str | int | dt.datetime | None = None,
        as_known: AsKnown = "then",
        reasons: bool = False,
        out: str | Path | None = None,
        events: Mapping[str, str | Path] | None = None,
        progress: Meter | None = None,
    ) -> FeatureTable | FeatureFile:
        """Requests with their features beside them, each as of its own moment: as many rows, in their order.

        A history that does not fit into the setting `features.memory_bytes` is split on disk and taken part by part,
        to the same bits; such a run may be stopped, and goes on when it is called again.

        Args:
            requests: A file, a table of any library, or a list of dicts; all its columns stay.
            of: A model or its name; or a view, a join of one, a dict of expressions, or a list of those. Left out, the
                project's only model.
            at: The requests' column of moments, or one moment for all. Left out, a model's own: the request's time
                less its lead.
            as_known: "then": as it was known at the moment; "final": as it is known now.
            reasons: Add a column with the reason of each value of a view, and of each expression that may fail, as
                `<feature>.reason`.
            out: A .parquet or .csv file to write instead of giving the table.
            events: By source: a Parquet file, or a folder of them, to take instead of the project's history.
            progress: Called with pieces of work done and in all.

        Returns:
            A table, which counts in `let_in` how many values `as_known="final"` changed; with `out`, what was written.

        Raises:
            NotFound: There is no such file, model or view.
            Misuse: A column is missing or of the wrong type, or a moment is to come. Nothing was done.
            Conflict: `out` exists, or another process is computing the same.
            Unavailable: Memory or disk ran out. The parts that are done are kept: run it again.
        """
        from trimtab.app.features.feature_tables import join_features

        return join_features(self, requests, of, at=at, how=_how(as_known, reasons, out, events, progress))

    def snapshot(
        self,
        of: Of,
        *,
        at: str | int | dt.datetime | None = None,
        as_known: AsKnown = "then",
        reasons: bool = False,
        out: str | Path | None = None,
        events: Mapping[str, str | Path] | None = None,
        progress: Meter | None = None,
    ) -> FeatureTable | FeatureFile:
        """The features of every entity that is known at a moment: a row each, in the order of their keys.

        Args:
            of: A view or its name, or a list of views of one entity, joins and dicts of expressions.
            at: The moment; left out, now.
            as_known: See `join`, as the other arguments.
            reasons: Add the reasons.
            out: Where it is written.
            events: Parquet files instead of the history.
            progress: Called with pieces of work done and in all.

        Raises:
            NotFound: There is no such view.
            Misuse: Views of different entities, or a moment to come.
        """
        from trimtab.app.features.feature_tables import snapshot_features

        at_us = self._moment("at", at)
        moments = [self.clock.now_us() if at_us is None else at_us]
        return snapshot_features(self, of, moments, how=_how(as_known, reasons, out, events, progress))

    def snapshots(
        self,
        of: Of,
        *,
        start: str | int | dt.datetime,
        end: str | int | dt.datetime,
        every: str | int,
        as_known: AsKnown = "then",
        reasons: bool = False,
        out: str | Path | None = None,
        events: Mapping[str, str | Path] | None = None,
        progress: Meter | None = None,
    ) -> FeatureTable | FeatureFile:
        """Snapshots from `start` on, `every` so long, before `end`, one after the other; see `snapshot`."""
        from trimtab.app.features.feature_tables import moments_between, snapshot_features

        moments = moments_between(start, end, every, self.clock)
        return snapshot_features(self, of, moments, how=_how(as_known, reasons, out, events, progress))

    def catalogue(self, *, search: str | None = None) -> Catalogue:
        """Every source, entity, view and feature: what it means, how fresh it is, its values, who uses it.

        Values are those of the newest predictions of the version in service, or of its training set when there are
        few; each says which.

        Args:
            search: Only what has this text in its name, description, tags, owner or columns.
        """
        from trimtab.app.features.feature_catalogue import feature_catalogue

        return feature_catalogue(self, search=search)

    # -- questions ----------------------------------------------------------------------------------------------

    def why(self, prediction_id: str) -> Explanation:
        """All that led to one prediction: features and reasons, version, training set, gate, decision.

        Raises:
            NotFound: There is no such prediction.
            Misuse: It is no text.
        """
        from trimtab.app.inspect.explain import explain
        from trimtab.core.shown import shown

        if not isinstance(prediction_id, str):
            raise Misuse(
                f"why: {shown(prediction_id)[:100]} is no id. Give the id of an answer, a text such as 'p_...'."
            )
        return explain(self, prediction_id)

    def skew(
        self,
        model: str | None = None,
        *,
        sample: int | None = 1_000,
        since: str | int | dt.datetime | None = None,
        seed: int | None = None,
        scores: bool = False,
    ) -> SkewReport:
        """Compute logged predictions again as of their own (t, P), and hold them against what was used, bit for bit.

        The check is kept; a difference that the one before did not show becomes a signal.

        Args:
            model: A deployed model's name; left out, all of them.
            sample: How many predictions to draw; None: all.
            since: Only those made at this moment or later.
            seed: Draws the same sample again; left out, a new one.
            scores: Let the stored versions answer again, too.

        Raises:
            NotFound: There is no such model.
        """
        from trimtab.app.inspect.skew import check_skew

        since_us = self._moment("since", since)
        return check_skew(self, model, sample=sample, since_us=since_us, seed=seed, scores=scores)

    def skew_checks(self, *, last: int = 20) -> list[SkewReport]:
        """The newest skew checks, oldest first; those of a running service too."""
        from trimtab.app.inspect.skew import skew_checks

        return skew_checks(self, last)

    def report(self, version: str, file: str | Path | None = None) -> Path:
        """Write a version's evaluation as a self-contained page, its card and its figures beside it; where it is.

        Args:
            version: "late_flight@7", "late_flight@champion" or the beginning of its address.
            file: Where to; left out, `reports/` in the state folder.

        Raises:
            NotFound: There is no such version, or neither it nor the version it refits was evaluated.
        """
        from trimtab.app.versions.evaluation_page import write_evaluation

        to = self.state_folder / "reports" if file is None else _path("file", file)
        return write_evaluation(self.registry, self.state.blob, self.state.catalog, version, to)

    def evaluation(self, version: str) -> Evaluation:
        """A version's evaluation, or that of the candidate which it is a refit of, as numbers.

        Raises:
            NotFound: There is no such version, or it was not evaluated.
        """
        from trimtab.app.versions.evaluation_page import evaluation_of

        return evaluation_of(self.registry, self.state.blob, self.registry.get(version))

    def materialise(self) -> Materialised:
        """Move what is new in the event log into one Delta table a source, every version and tombstone of it.

        The log stays as it is: `retain` truncates it. Histories then begin with the tables, and any tool that reads
        Delta can read them. One process at a time does so, and none while `forget` erases; others wait a while.

        Raises:
            Conflict: Another process was still at it after a minute.
        """
        from trimtab.app.features.materialising import move_into_tables

        return move_into_tables(self)

    def rebuild(self, view: str, *, progress: Meter | None = None) -> int:
        """Make the online features of a view anew from history; those of before answer meanwhile.

        A serving process does it when there is one. Asking for it again does no harm.

        Returns:
            How many records of its source it has.

        Raises:
            NotFound: No deployed model uses such a view.
            Misuse: Records that are needed were truncated from the log, and no table of record has them.
            Unavailable: The serving process ended, or failed, before it was done.
        """
        return self.views.rebuild(view, progress=progress)

    def rebuild_all(self, *, progress: Meter | None = None) -> int:
        """Make all online features anew from history, also where what is stored of them is damaged.

        Returns:
            How many records the views have taken, in sum.

        Raises:
            Conflict: They are damaged, and a service works with them: stop it first.
            Misuse: Records that are needed were truncated from the log, and no table of record has them.
        """
        return self.views.rebuild_all(progress=progress)

    def compact(self) -> Compacted:
        """Give back the room of online features that no answer can depend on any more; no value changes.

        Raises:
            Conflict: A process serves the project: it does this by itself every hour.
        """
        return self.views.compact()

    def retain(self, *, dry_run: bool = False) -> Retained:
        """Move the event log into tables and truncate it, and remove what [retention] does not keep.

        Nothing that the settings do not name is lost: what leaves the log is in the tables.

        Args:
            dry_run: Change nothing, and say about what would be done.

        Raises:
            Conflict: Another process does so, or backs the project up.
        """
        from trimtab.app.keep.retention import retain

        return retain(self, dry_run=dry_run)

    def versions(
        self,
        model: str | None = None,
        *,
        search: str | None = None,
        tag: str | None = None,
        metric: str | None = None,
        feature: str | None = None,
        source: str | None = None,
    ) -> list[Found]:
        """The registered versions that fit, with tags, notes, aliases and their evaluated metric.

        Args:
            model: Of one model; left out, of all.
            search: A text in its name, address, tags, notes, aliases, inputs, runtime or actor.
            tag: A tag that it has.
            metric: A figure of its evaluation, also with a bound: "log_loss<0.4", "auc>0.8".
            feature: A feature that it reads, or the view that it comes from.
            source: A source that its features are made of.

        Raises:
            Misuse: The metric cannot be read.
            NotFound: There is no such model; or no version has such a figure, reads such a feature or is made of such
                a source.
        """
        from trimtab.app.versions.search import search_versions
        from trimtab.registry.searching import Search

        wanted = Search(text=search, tag=tag, metric=metric, feature=feature, source=source)
        return search_versions(self, model, wanted)

    def collect(
        self,
        *,
        dry_run: bool = False,
        why: str = "nothing needs it any more",
        grace: str | int = "7d",
        rollbacks: int = 10,
        evidence: str | int | None = None,
        searches: int = 10,
        actor: str = "a person",
    ) -> Collection:
        """Remove the artifacts, evaluations and training sets of versions that nothing needs; their records stay.

        With them go old searches, and what trainings that were killed and never gone on with had finished.

        Kept is what an alias points to or can roll back to, what gate records, ledger rows and logged predictions name,
        and everything new.

        Args:
            dry_run: Change nothing; say what would go, and why the rest stays.
            why: One sentence, told to whoever asks for a removed version.
            grace: What was registered or stored within this time stays.
            rollbacks: How many steps back each alias must be able to go.
            evidence: Gate records and ledger rows older than this keep nothing; left out, all of them do.
            searches: How many of the newest searches of each model stay, besides those that chose a version's
                parameters.
            actor: Who asks.

        Raises:
            Conflict: Another collection is under way.
        """
        from trimtab.app.versions.collecting import collect_garbage
        from trimtab.registry.collecting.collector import Keep

        evidence_us = None if evidence is None else duration_us(evidence)
        keep = Keep(grace_us=duration_us(grace), rollbacks=rollbacks, evidence_us=evidence_us)
        return collect_garbage(self, dry_run=dry_run, keep=keep, searches=searches, why=why, actor=actor)

    def signature(self, version: str) -> Signature:
        """What a version is given and what it gives: the request, the inputs of its estimator, its output.

        Args:
            version: "late_flight@7", "late_flight@champion" or the beginning of its address.

        Raises:
            NotFound: There is no such version, or its artifact was removed.
        """
        from trimtab.app.versions.search import version_signature

        return version_signature(self, version)

    def card(self, version: str, *, html: bool = False) -> str:
        """A version's model card, Markdown or a self-contained page: made from records, nothing typed by hand.

        Raises:
            NotFound: There is no such version, or its artifact was removed.
        """
        return self.registry.card(version, html=html)

    def compare(
        self, one: str, other: str, *, window: str | int | None = "14d", moved: float | None = None
    ) -> Comparison:
        """What differs between two versions: data, definitions, recipe, environment, metrics, and their answers.

        Both answer the newest labelled rows, each by its own features as of their time.

        Args:
            one: A version, usually the older one.
            other: Another of the same model.
            window: How long the rows reach back from the newest one with a final label; None asks neither.
            moved: From which difference on an answer counts as moved; left out, 0.05 of a chance, or a twentieth of
                the standard deviation of a number's labels.

        Raises:
            NotFound: There is no such version, or what is stored of it was removed.
            Misuse: They are versions of two models, the window is none or empty, or `moved` is no number from 0 on.
        """
        from trimtab.app.versions.comparing import check_moved, compare_versions, window_of

        window_us = window_of(window)
        check_moved(moved)
        return compare_versions(self, one, other, window_us=window_us, moved_by=moved)

    def import_model(
        self,
        path: str | Path,
        model: str,
        *,
        golden: str | Path | None = None,
        window: str | int | None = None,
        categories: Mapping[str, Sequence[str]] | None = None,
        trust: Literal["pickle"] | None = None,
        seen_until: str | int | dt.datetime | None = None,
        first: bool = False,
        why: str = "",
        actor: str = "a person",
    ) -> Version:
        """Register a model that was made elsewhere as a version: LightGBM, XGBoost, CatBoost, ONNX, scikit-learn.

        Its inputs must be the declared model's features, in their order, and it must give the scores of golden rows or
        be scored on a labelled window first. It serves only once an alias points to it, by a gate record or `first`.
        Content that was imported before is the version that there is, which stays as it is: `seen_until` and `window`
        must be as they were then, or left out. Other golden rows, categories or labelled rows make another version.

        Args:
            path: A model file, an MLflow model folder, or a folder that `export` wrote.
            model: The declared model that it is a version of.
            golden: A file of golden rows; left out, those of an exported folder.
            window: Score it on the newest labelled rows, so far back: its evaluation.
            categories: By category, its values in the order in which the model numbers them.
            trust: "pickle" allows a pickle, which runs code.
            seen_until: Until when it may have seen data; left out, now: gates then judge on what comes.
            first: Make it champion; allowed while there is none.
            why: Why it is to answer without having passed a gate; needed with `first`.
            actor: Who imports it.

        Raises:
            NotFound: There is no such file or model.
            Misuse: Its inputs are not the features, it does not give the golden scores, or it cannot be read safely.
            Conflict: The same content was imported with another `seen_until` or `window`; or, with `first`, a candidate
                waits for approval.
        """
        from trimtab.app.versions.importing import Asked, import_version
        from trimtab.registry.transfer.golden import read_golden

        declared = self.definitions.models.get(model)
        classes = () if declared is None else declared.label.class_names
        asked = Asked(
            golden=None if golden is None else read_golden(_path("golden", golden), classes=classes),
            window_us=None if window is None else duration_us(window),
            categories=categories,
            trust=trust,
            first=first,
            why=why,
            actor=actor,
            seen_until_us=self._moment("seen_until", seen_until),
        )
        return import_version(self, _path("path", path), model, asked)

    def export(
        self, version: str, folder: str | Path, *, mlflow: bool = False, trust: Literal["pickle"] | None = None
    ) -> Exported:
        """Write a version as a folder that runs without trimtab: model, code, signature, golden predictions.

        Args:
            version: Which one.
            folder: Where to; it must not be there yet, or be empty.
            mlflow: Make it an MLflow model folder.
            trust: "pickle" lets a version go that is stored with pickle.

        Raises:
            NotFound: There is no such version.
            Misuse: It is a pickle, or the exported code does not repeat the golden predictions.
            Conflict: There is something at `folder`.
        """
        from trimtab.registry.transfer.export import export_version

        loaded = self.registry.load(version)
        card = self.registry.card(loaded.version)
        return export_version(loaded, _path("folder", folder), card=card, mlflow=mlflow, trust=trust)

    def disk(self) -> Disk:
        """What each part takes on disk, how fast it grows, and what `retain` would give back."""
        from trimtab.app.keep.disk import disk_report

        return disk_report(self)

    def recover(self, *, dry_run: bool = False, actor: str = "a person") -> Recovered:
        """Go on after records were lost from a log, or after a clock that was ahead stamped some.

        A partition goes on behind what was read of it, so that no new record gets a position that a reader has passed.
        Append times that are still to come become the present, and online features are rebuilt. The ledger has a row
        of each.

        Args:
            dry_run: Change nothing, and say what is lost and what would be done.
            actor: Who does it.

        Raises:
            Conflict: A process serves the project, or writes the partition. Stop it first.
        """
        from trimtab.app.keep.recovering import recover

        return recover(self, dry_run=dry_run, actor=actor)

    def backup(self, to: str | Path) -> Backup:
        """Copy the state to a new folder, consistent although others serve and write; there is no half backup.

        Raises:
            Conflict: `to` exists, or another process retains or backs up.
            Unavailable: The disk there is full or read-only.
        """
        from trimtab.app.keep.backup import back_up

        return back_up(self, _path("to", to))

    def status(self) -> Status:
        """What is deployed, how fresh it is, and what is red."""
        from trimtab.app.inspect.status import project_status

        return project_status(self)

    def ledger(self) -> list[Decision]:
        """Every decision, oldest first."""
        return Ledger(self.state.catalog).rows()

    def stages(self, model: str | None = None) -> list[Stage]:
        """The stages of a deployment's loop: what is done, where it stands, what comes next and when.

        Args:
            model: A deployment's name; left out, the first one.

        Raises:
            NotFound: There is no such deployment.
        """
        from trimtab.app.training.loops import stages_of

        return stages_of(self, model)

    def quality_page(self, model: str | None = None, *, to: str | Path) -> Path:
        """Write the quality of a deployment as a page: days, what is red, slices, inputs and decisions; the file.

        Args:
            model: A deployment's name; left out, the first one.
            to: A file that ends in .html, or a folder.

        Raises:
            NotFound: There is no such deployment.
            Unavailable: There is no room for the file, or no access.
        """
        from trimtab.app.inspect.quality_page import write_quality_page

        return write_quality_page(self, model, Path(to))

    def verify_ledger(self) -> int:
        """Check the ledger's chain of hashes; the number of rows.

        Raises:
            Corrupt: A row was changed, removed or put in.
        """
        return Ledger(self.state.catalog).verify()

    def signals(self) -> list[Signal]:
        """What monitoring found, oldest first, each as it is now: `ended_at_us` is None while it stands."""
        return every_signal(self.state.catalog)

    def alerts(self) -> AlertOverview:
        """An overview of alerts: receivers with their state, signals, mutes, and pages against the budget."""
        from trimtab.app.alerts.alert_overview import alert_overview

        return alert_overview(self)

    def send_alerts(self) -> None:
        """Deliver what is news now; `tick` and a process that serves do so by themselves."""
        self.alerting.look()

    def test_alerts(self, receiver: str | None = None) -> list[TriedReceiver]:
        """Send a test alert to a receiver, left out: to all; the outcome of each.

        Raises:
            NotFound: There is no such receiver.
        """
        return self.alerting.test(receiver)

    def mute_alerts(self, what: str, *, time: str | int, why: str, actor: str = "a person") -> Decision:
        """Mute alerts of something for a while; the ledger's row.

        Args:
            what: A model, a kind of signal or a subject; or MODEL/KIND, or MODEL/KIND/SUBJECT with * for any.
            time: How long; at most 90d.
            why: For the ledger.
            actor: Who mutes it.

        Raises:
            NotFound: There is no such thing.
            Misuse: No reason is given, or a time that cannot be.
        """
        from trimtab.app.alerts.muting import mute

        return mute(self, what, time=time, why=why, actor=actor)

    def unmute_alerts(self, what: str, *, why: str = "", actor: str = "a person") -> Decision:
        """End a mute before its time; the ledger's row.

        Raises:
            NotFound: It is not muted.
        """
        from trimtab.app.alerts.muting import unmute

        return unmute(self, what, why=why, actor=actor)

    def quality(
        self,
        model: str | None = None,
        *,
        by: By = "day",
        slices: str | None = None,
        since: str | int | dt.datetime | None = None,
        until: str | int | dt.datetime | None = None,
        version: str | None = None,
        amended: bool = False,
    ) -> Columns:
        """The quality of what a model answered, from closed blocks: a row a block, version, arm and slice.

        A day closes once its labels had their time. `loss` is the mean of the model's metric over labelled rows, with
        an interval that takes rows for independent; `excess_loss` is what exceeds the loss that the scores themselves
        expect, null where they are no probabilities; `gap` is mean score minus mean label.

        Args:
            model: A deployment's name; left out, the first one.
            by: "hour", "day", "week", "month", "all", or "batch": each table that `predict_table` answered, by its id,
                once the day on which it was made is closed.
            slices: A column, or the name of an expression of the gate's slices: a row for each of its values.
            since: Leave out blocks that begin earlier.
            until: Leave out blocks that begin then or later.
            version: Only this version: its name or address.
            amended: Count labels that came late or were corrected since a day was closed, as far as was looked.

        Raises:
            NotFound: There is no such deployment or version.
            Misuse: No slices by that name are kept, or blocks of another length than there are.
        """
        from trimtab.app.inspect.quality import quality_table

        return quality_table(
            self,
            model,
            by=by,
            slices=slices,
            since_us=None if since is None else parse_time_us(since),
            until_us=None if until is None else parse_time_us(until),
            version=version,
            amended=amended,
        )

    def accept_level(self, model: str | None = None, *, why: str, actor: str = "a person") -> Decision:
        """Accept the quality of what serves, although it is worse than that of the last healthy version.

        Until then status stays red, however often a version is promoted.

        Raises:
            NotFound: There is no such deployment.
            Misuse: No reason is given.
            Conflict: It meets the level, or none is known.
        """
        from trimtab.app.inspect.quality import accept_level

        return accept_level(self, model, why, actor)

    def exclusions(self, model: str | None = None, *, released: bool = False) -> list[RedWindow]:
        """The times whose rows no fit learns from and nothing is judged by: inputs or labels were faulty.

        Args:
            model: A deployment's name; left out, the first one.
            released: List those that were released, too.
        """
        from trimtab.app.training.exclusions import exclusions

        return exclusions(self, model, all_of_them=released)

    def release(self, window: str, *, model: str | None = None, why: str, actor: str = "a person") -> RedWindow:
        """Let the rows of a time count again although its inputs or labels were found faulty.

        Args:
            window: Its id, as `exclusions` lists it.
            model: A deployment's name; left out, the first one.
            why: What is known of the rows, for the ledger.
            actor: Who says so.

        Raises:
            NotFound: There is no such deployment or time.
            Misuse: No reason is given.
        """
        from trimtab.app.training.exclusions import release

        return release(self, window, model=model, why=why, actor=actor)

    def roll_back(self, model: str, *, why: str, actor: str = "a person") -> Decision:
        """Let the version before the one in service answer again; a process that serves follows within a second.

        Raises:
            NotFound: There is no such model, or no version before.
            Conflict: Somebody else moved the alias at the same moment.
        """
        from trimtab.app.versions.alias_moves import roll_back

        return roll_back(self, model, why=why, actor=actor)

    def set_arm(self, version: str, arm: str, *, share: float, why: str = "", actor: str = "a person") -> Decision:
        """Let a version answer beside the one in service; a process that serves follows within a second.

        Args:
            version: "late_flight@7"; the model's name alone keeps the version that the arm has.
            arm: "canary": its answers to a share of the requests are what askers get. "shadow": it answers a share once
                more, on spare capacity, seen by nobody. The answers of both are logged under the arm's name.
            share: From 0, which ends it, to 1. The same entities are always in it, and stay in it when it grows.
            why: For the ledger and the alias's history; needed of a canary that passed no gate.
            actor: Who says so.

        Raises:
            NotFound: There is no such version or deployment.
            Misuse: No such arm, no such share, or neither a gate that was passed nor a reason.
        """
        from trimtab.app.versions.arms import set_arm

        return set_arm(self, version, arm, share=share, why=why, actor=actor)

    def promote(
        self,
        version: str,
        *,
        why: str = "",
        seen_until: str | int | dt.datetime | None = None,
        dry_run: bool = False,
        actor: str = "a person",
        watch: Callable[[Run], object] | None = None,
    ) -> Promotion:
        """Judge a registered version against the one in service, and put it in service when it passes.

        The gate is that of every candidate, on the newest labelled days that neither has seen. Where the deployment
        asks for approval it then waits for that. A version that is refused changes nothing.

        Args:
            version: "late_flight@7", or the beginning of its address.
            why: For the ledger and the alias's history.
            seen_until: Until when an imported version has seen data; left out, as its import said.
            dry_run: Only judge it.
            actor: Who asks for it.
            watch: Called with the run whenever it gets on.

        Raises:
            NotFound: There is no such version, or no deployment of its model.
            Unavailable: There are no days to judge on yet; the message says from when on.
            Misuse: It cannot be loaded here, or its features cannot be computed any more.
            Corrupt: What is stored of it is damaged.
            Conflict: Another process is at work on the deployment, a candidate waits for approval, or automation is
                frozen.
        """
        from trimtab.app.training.promoting import Asked, promote_version

        seen_until_us = self._moment("seen_until", seen_until)
        asked = Asked(why=why, actor=actor, seen_until_us=seen_until_us, dry_run=dry_run)
        return promote_version(self, version, asked, watch)

    def approve(self, model: str | None = None, *, why: str = "", actor: str = "a person") -> list[Decision]:
        """Let the candidate of a deployment that waits for approval take over.

        Args:
            model: A deployment's name; it may be left out where only one candidate waits.
            why: For the ledger.
            actor: Who approves it, for the ledger.

        Raises:
            NotFound: There is no such deployment.
            Misuse: Several wait, and none is named.
            Conflict: None waits, its time is over, another champion stands there than it was compared with, automation
                is frozen, or another process is at work on it.
        """
        from trimtab.app.training.resolve_deployment import waiting

        model = waiting("approve", model, list(self.definitions.deployments), self.state.catalog)
        return self.loop(model).answer("approve", actor, why or "No reason was given.")

    def reject(self, model: str | None = None, *, why: str, actor: str = "a person") -> list[Decision]:
        """Drop the candidate of a deployment that waits for approval; the quiet time runs as after a refusal.

        Args:
            model: A deployment's name; it may be left out where only one candidate waits.
            why: For the ledger.
            actor: Who rejects it, for the ledger.

        Raises:
            NotFound: There is no such deployment.
            Misuse: No reason is given; or several wait, and none is named.
            Conflict: As `approve`.
        """
        from trimtab.app.training.resolve_deployment import waiting

        model = waiting("reject", model, list(self.definitions.deployments), self.state.catalog)
        return self.loop(model).answer("reject", actor, why)

    def freeze(self, why: str, *, actor: str = "a person") -> Decision:
        """Stop all automation at once; predictions go on."""
        from trimtab.steering.loop_state import FREEZE

        return self._by_hand("freeze", why, actor, Put(FREEZE, "all", msgspec.json.encode(why)))

    def unfreeze(self, why: str, *, actor: str = "a person") -> Decision:
        """Let automation go on."""
        from trimtab.steering.loop_state import FREEZE

        return self._by_hand("unfreeze", why, actor, Remove(FREEZE, "all"))

    def forget(
        self,
        entity: str,
        *key: str | int,
        keys: Iterable[str | int | Sequence[str | int]] = (),
        why: str = "",
        dry_run: bool = False,
        training_sets: bool = False,
        actor: str = "a person",
    ) -> Forgotten:
        """Erase whom a key names from events, tables, predictions, quarantine, stored answers and online features.

        The project is opened anew on the way: what was got from it before (`history`, `registry`) is closed then.

        Args:
            entity: An entity, or the column of any source that holds its key.
            key: One value for each of its columns.
            keys: Several keys in one run, each a value, or one value for each column; the views are filled again once.
            why: For the ledger; write no personal data.
            dry_run: Only look what is there.
            training_sets: Delete the rows of stored training sets that have rows of it.
            actor: For the ledger.

        Raises:
            NotFound: There is no such entity, or nothing of any key.
            Misuse: A key does not fit the entity's columns.
            Conflict: Another process serves, trains, writes or reads. What was done until then stays done: the same
                call goes on from there.
        """
        from trimtab.app.keep.erasure import forget

        several = [[one] if isinstance(one, str | int) else one for one in keys]
        wanted = [[*map(str, one)] for one in ([key, *several] if key or not several else several)]
        if not dry_run and self.followed():
            raise Conflict(f"{self.state_folder}: this project is being served. Stop the service, and forget then.")
        self.reopen()
        try:
            found = forget(self, entity, wanted, why=why, dry_run=dry_run, training_sets=training_sets, actor=actor)
        finally:
            self.reopen()
        if not dry_run:
            self.views.catch_up()
        return found

    # -- running ------------------------------------------------------------------------------------------------

    def serve(
        self,
        *,
        host: str | None = None,
        port: int | None = None,
        ready: Callable[[str], object] | None = None,
        workers: int | None = None,
        grpc_port: int | None = None,
        grpc_ready: Callable[[str], object] | None = None,
    ) -> None:
        """Answer over HTTP until SIGTERM, SIGINT or SIGHUP.

        Args:
            host: The address to listen on; left out, the setting `serve.host`.
            port: 0 takes a free one; left out, the setting `serve.port`.
            ready: Called with the URL once requests are answered.
            workers: Processes that answer; left out, the setting `serve.workers`. With more than one, this process
                watches them and does everything but answer.
            grpc_port: Where the Open Inference Protocol is answered over gRPC; left out, the setting `serve.grpc_port`.
            grpc_ready: Called with its address, before `ready`.

        Raises:
            Unavailable: The port is taken, or no worker can be started.
            Misuse: A setting is wrong.
            Conflict: Another process serves this project.
        """
        from trimtab.app.serve.service import serve_project

        serve_project(
            self, host=host, port=port, ready=ready, workers=workers, grpc_port=grpc_port, grpc_ready=grpc_ready
        )

    def simulate(
        self,
        *,
        lines: Sequence[str] | None = None,
        policies: Sequence[Policy | str] | None = None,
        model: str | None = None,
        stream: Stream | str | None = None,
        faults: str | Path | Columns | Sequence[Fault | Mapping[str, Any]] | None = None,
        start: str | int | None = None,
        until: str | int | None = None,
        seed: int | None = None,
        progress: Meter | None = None,
    ) -> ReplayResult:
        """Replay the ingested history in virtual time under several policies; the project's state stays as it is.

        Args:
            lines: Names of lines of [demo]; left out, all of them (without [demo]: the project's policy, and never).
            policies: Instead of lines: policies of `trimtab.simulation`, or words for them such as "never",
                "every 30d", "ungated 30d", "naive", "project" or "FILE.py:FUNCTION".
            model: Whose deployment the policies keep; left out, the only one.
            stream: Instead of the ingested history a generated one, made with `tt.stream()` for the model, or words for
                it such as "days=100 concept=40".
            faults: What goes wrong, by name and date: faults of `trimtab.simulation`, rows or a table with kind, start,
                end, source, column and size, or a CSV file of them.
            start: When time begins to run; left out, [demo] start, else after the first quarter of the requests.
            until: When it stops; left out, [demo] until, else the last request.
            seed: Left out, the setting `seed`.
            progress: Called with microseconds done and microseconds in all.
        """
        from trimtab.app.replay.replaying import simulate_project

        return simulate_project(
            self,
            lines=lines,
            policies=policies,
            model=model,
            stream=stream,
            faults=faults,
            start=start,
            until=until,
            seed=seed,
            progress=progress,
        )

    def _named(self, source: str | None) -> str | None:
        """A source that is declared, or that has rows in quarantine all the same."""
        if source is not None and source not in self.quarantine.counts():
            self.definitions.source(source)
        return source

    def _moment(self, name: str, given: str | int | dt.datetime | None) -> int | None:
        from trimtab.events.values.checks import given_time_us

        return None if given is None else given_time_us(given, name, self.clock)

    def _by_hand(self, act: str, why: str, actor: str, change: Put | Remove) -> Decision:
        """Change something and write down who did so: both or neither."""
        row = Entry(at_us=self.clock.now_us(), model="*", act=act, cause=why or "No reason was given.", actor=actor)
        return Ledger(self.state.catalog).write([row], [change])[0]


def _check_named(what: str, model: str | None, names: Sequence[str]) -> None:
    if model is None and len(names) > 1:  # nobody guesses which one was meant
        raise Misuse(f"{what}: no model is named, and there are {', '.join(names)}. Name one of them.")


def _request_rows(given: Sequence[Mapping[str, Any]] | Table) -> Sequence[Mapping[str, Any]]:
    if given.__class__ is list:  # the usual: no table to be looked for
        return cast("list[Mapping[str, Any]]", given)
    from trimtab.core.columns.data import Columns
    from trimtab.events.files.files import is_table

    if is_table(given):
        from trimtab.serving.answer.request_rows import rows_of_table

        return rows_of_table(given if isinstance(given, Columns) else Columns.from_arrow(given))
    if isinstance(given, Mapping):
        raise Misuse("predict: one dict. Give a list of them, for one row too: [row]")
    if isinstance(given, str | bytes | Path) or not isinstance(given, Sequence):
        raise Misuse(
            f"predict: rows is a {type(given).__name__}. Give a list of dicts or a table (polars, pandas, pyarrow, "
            "DuckDB, Columns); for a file: predict_table"
        )
    return given


def _path(name: str, given: str | Path) -> Path:
    try:
        return Path(given)
    except TypeError:
        raise Misuse(f"{name}: {given!r} is a {type(given).__name__}. Give a text or a Path.") from None


def _how(
    as_known: AsKnown,
    reasons: bool,
    out: str | Path | None,
    events: Mapping[str, str | Path] | None,
    progress: Meter | None,
) -> How:
    from trimtab.app.features.feature_tables import How

    return How(
        as_known=as_known,
        reasons=reasons,
        out=None if out is None else _path("out", out),
        events={name: _path(f"events of {name!r}", path) for name, path in (events or {}).items()},
        progress=progress,
    )
