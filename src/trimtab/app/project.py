"""An open project: every verb of the command line and of the HTTP service, in Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from trimtab.app.calls import public_call, public_calls
from trimtab.app.project_rows import Meter, ProjectRows, check_named, checked_path
from trimtab.app.state.definitions import load_definitions
from trimtab.app.state.retention_needs import check_retention
from trimtab.core.clock import Clock
from trimtab.core.config import FILE, load_config
from trimtab.core.errors import Conflict, Misuse
from trimtab.core.records import Decision, Signal
from trimtab.core.shown import shown
from trimtab.core.time import duration_us
from trimtab.monitoring.signals import every_signal
from trimtab.run import ProcessExecutor
from trimtab.steering.ledger import Entry, Ledger
from trimtab.steering.loop_state import FREEZE
from trimtab.store import Put, Remove

if TYPE_CHECKING:
    import datetime as dt

    from trimtab.app.alerts.alert_overview import AlertOverview
    from trimtab.app.alerts.alerting import Alerting, TriedReceiver
    from trimtab.app.features.feature_catalogue import Catalogue
    from trimtab.app.inspect.explain import Explanation
    from trimtab.app.inspect.quality import By
    from trimtab.app.inspect.skew_report import SkewReport
    from trimtab.app.inspect.status_text import Status
    from trimtab.app.keep.backup import Backup
    from trimtab.app.keep.disk import Disk
    from trimtab.app.keep.erasure import Forgotten
    from trimtab.app.keep.recovering import Recovered
    from trimtab.app.keep.retention import Retained
    from trimtab.app.plan.applying import AppliedPlan
    from trimtab.app.plan.planning import Plan
    from trimtab.app.training.learning import Teacher
    from trimtab.app.training.loop import DeploymentLoop
    from trimtab.app.training.promoting import Promotion
    from trimtab.app.training.searches import Searched
    from trimtab.app.training.ticking import Ticked
    from trimtab.core.columns.data import Columns
    from trimtab.events.tables import Materialised
    from trimtab.features.online.compaction import Compacted
    from trimtab.monitoring.inputs.red_windows import RedWindow
    from trimtab.registry import Version
    from trimtab.registry.collecting.collector import Collection
    from trimtab.registry.describing.compare import Comparison
    from trimtab.registry.describing.signature import Signature
    from trimtab.registry.searching import Found
    from trimtab.registry.transfer.export import Exported
    from trimtab.report import Picture
    from trimtab.run import Run
    from trimtab.simulation.faults import Fault
    from trimtab.simulation.generating.streams import Stream
    from trimtab.simulation.policies import Decide, Policy
    from trimtab.simulation.results import ReplayResult
    from trimtab.steering.loop.stages import Stage
    from trimtab.training.judge.evaluation import Evaluation


@public_call
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
        clock: The clock that gives all times; default: the system's.
        state: The state folder; default: the one in the settings.
        environment: Variables to read `TRIMTAB_*` settings from; default: those of the process.

    Raises:
        NotFound: There is no project.
        Misuse: Its settings or definitions are wrong, or its state was written by a newer trimtab.
    """
    config = load_config(checked_path("folder", folder), os.environ if environment is None else environment)
    definitions = load_definitions(config.project_file)
    check_retention(config.retention, definitions)
    if config.alerts.receivers:
        from trimtab.app.alerts.alerting import check_receivers

        check_receivers(config.alerts, definitions, config.folder / FILE)
    return Project(config, definitions, clock=clock, state=None if state is None else checked_path("state", state))


open = open_project  # noqa: A001  # `tt.open`


@public_calls
class Project(ProjectRows):
    """An open project. Close it, or use it in `with`.

    Any number of processes may open one project and push to it. One process at a time applies events to online
    features: a running `trimtab serve` or, if there is none, a process that is about to predict.
    """

    # -- models -------------------------------------------------------------------------------------------------

    def train(
        self, model: str | None = None, *, actor: str = "a person", watch: Callable[[Run], object] | None = None
    ) -> list[Decision]:
        """Train a candidate and judge it. If it passes, it is promoted, after the declared rollout and approval.

        Nothing is trained if data, code and seed are those of the version in service. A killed training is resumed.

        Args:
            model: A deployment's name; optional where there is only one.
            actor: Who trains; recorded in the ledger.
            watch: Called with the run each time it makes progress.

        Raises:
            NotFound: No such deployment, or no data.
            Misuse: There are several deployments and none is named, or nothing can be learnt from the data.
            Unavailable: There are no labelled days to judge on yet.
            Conflict: Another process trains the model, a candidate is being rolled out, or automation is frozen.
        """
        check_named("train", model, list(self.definitions.deployments))
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
        """Search for the parameters of a model's estimator; its next training uses the best ones.

        A stopped search is resumed, and makes the same trials as without the stop. A finished search continues if it
        gets more trials or time. The newest rows are not used, because the gate judges candidates on them.

        Args:
            model: A deployment's name; optional where there is only one.
            trials: The total number of trials; default: as the model declares.
            time: Total time of all trials, earlier ones included.
            actor: Who searches; recorded in the run.
            watch: Called with the run each time it makes progress.

        Raises:
            NotFound: No such deployment, or no data.
            Misuse: There are several deployments and none is named, the model declares no search, Optuna is missing, or
                no trial succeeds.
            Unavailable: There are too few labels.
            Conflict: Another process runs this search, or the run was cancelled.
        """
        from trimtab.app.training.searching import search_model

        check_named("search", model, list(self.definitions.deployments))
        self.apply_first()
        return search_model(self, model, trials=trials, time=time, actor=actor, watch=watch)

    def trials(self, model: str | None = None) -> Searched:
        """The newest search of a deployment with its trials, running or finished.

        Args:
            model: A deployment's name; optional if only one was searched.

        Raises:
            NotFound: No such deployment, or nothing was searched.
            Misuse: Several deployments were searched and none is named.
        """
        from trimtab.app.training.resolve_deployment import searched_for
        from trimtab.app.training.searches import newest_search

        model = searched_for("trials", model, list(self.definitions.deployments), self.state.catalog)
        return newest_search(self.state.catalog, self.definitions.deployment(model).name)

    def runs(self, model: str | None = None) -> list[Run]:
        """The runs of all deployments or of one, oldest first: their steps, progress and outcome.

        Raises:
            NotFound: There is neither such a deployment nor a run of it.
        """
        found = self.recorded.all(model)
        if model is not None and not found:
            self.definitions.deployment(model)
        return found

    def run(self, run_id: str) -> Run:
        """One run, by its id or a prefix of it.

        Raises:
            NotFound: There is none.
            Misuse: Several ids have this prefix.
        """
        return self.recorded.get(run_id)

    def cancel_run(self, run_id: str, *, actor: str = "a person") -> Run:
        """Cancel a run, whichever process runs it. It ends within about a second. Returns the run as it is now.

        Raises:
            NotFound: There is none.
            Conflict: The run has ended.
        """
        return self.recorded.cancel(run_id, actor=actor)

    def loop(self, model: str | None = None) -> DeploymentLoop:
        """The loop of one deployment, with the parameters of its newest search; rebuilt when a search has ended."""
        from trimtab.app.training.loops import Loops

        return self.part(Loops).loop(model)

    def teacher(self, model: str) -> Teacher:
        """The object that gives a deployment's online learner the labels of the deployment's own predictions."""
        from trimtab.app.training.loops import Loops

        return self.part(Loops).teacher(model)

    @property
    def alerting(self) -> Alerting:
        """The delivery of alerts."""
        from trimtab.app.alerts.alerting import Alerting

        return self.part(Alerting)

    def plan(self) -> Plan:
        """What differs between the project file and the applied definitions, with consequences. Nothing is changed."""
        from trimtab.app.plan.planning import plan_project

        return plan_project(self)

    def apply(
        self, *, actor: str = "a person", progress: Meter | None = None, patience: str | int = "1h"
    ) -> AppliedPlan:
        """Apply the project file's definitions: record them, fill new views, drop online features that nothing needs.

        Versions in service keep the definitions of their training. The next call completes an interrupted one.

        Args:
            actor: Who applies them, for the ledger.
            progress: Called with the number of filled views and the number of views to fill.
            patience: How long to wait until a serving process has filled the views.

        Raises:
            Misuse: A recorded column is declared as another type.
            Conflict: Another process applied definitions at the same time.
            Unavailable: The views are not filled within `patience`.
        """
        from trimtab.app.plan.applying import apply_plan

        return apply_plan(self, actor=actor, progress=progress, patience_s=duration_us(patience) / 1e6)

    def apply_first(self) -> Decision | None:
        """Apply the definitions if none were applied yet; `train`, `search`, `promote` and `serve` call this.

        Returns:
            The ledger's row; None if definitions were applied before, or if `apply` would refuse them.
        """
        from trimtab.app.plan.applying import apply_first

        return apply_first(self)

    def tick(self, *, watch: Callable[[Ticked], object] | None = None) -> list[Decision]:
        """Run the loop of every deployment once: close days, check quality, train, promote. Then run experiments.

        Deployments that another process works on are skipped. If one fails, its error is raised after the others ran.
        Skew is checked when it is due, and data that [retention] does not keep is removed once a day.

        Args:
            watch: Called for each deployment that did not fail, with its decisions or the reason why it was skipped.
        """
        from trimtab.app.experiments.ticking import tick_project
        from trimtab.app.inspect.skew import check_skew_when_due
        from trimtab.app.keep.retention import retain_when_due

        return tick_project(self, watch, (check_skew_when_due, retain_when_due))

    # -- features -----------------------------------------------------------------------------------------------

    def catalogue(self, *, search: str | None = None) -> Catalogue:
        """Every source, entity, view and feature: meaning, freshness, values, and who uses it.

        Values are from the newest predictions of the version in service or, if these are few, from its training set.
        `Values.sample` says which.

        Args:
            search: A text to find in names, descriptions, tags, owners or columns.
        """
        from trimtab.app.features.feature_catalogue import feature_catalogue

        return feature_catalogue(self, search=search)

    # -- questions ----------------------------------------------------------------------------------------------

    def why(self, prediction_id: str) -> Explanation:
        """Explain one prediction: features or why they are null, contributions, version, training set, gate, decision.

        Raises:
            NotFound: There is no such prediction.
            Misuse: The id is not a text.
        """
        from trimtab.app.inspect.explain import explain

        if not isinstance(prediction_id, str):
            raise Misuse(
                f"why: {shown(prediction_id)[:100]} is not an id. Give the id of an answer, a text such as 'p_...'."
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
        """Recompute the features of logged predictions from the events that each used, and compare them bit by bit.

        The check is stored. If values of a version differ for a cause that needs action, a signal begins.

        Args:
            model: A deployed model's name; default: all of them.
            sample: Number of predictions to draw; None: all.
            since: Only predictions made at this time or later.
            seed: Seed of the sample; default: a new one.
            scores: Recompute the scores of the logged inputs, too.

        Raises:
            NotFound, Misuse: There is no such model; `since` is no time, or `sample` is below 1.
        """
        from trimtab.app.inspect.skew import check_skew

        since_us = self._time_us("since", since)
        return check_skew(self, model, sample=sample, since_us=since_us, seed=seed, scores=scores)

    def skew_checks(self, *, last: int = 20) -> list[SkewReport]:
        """The newest skew checks, oldest first, including those that a running service made."""
        from trimtab.app.inspect.skew import skew_checks

        return skew_checks(self, last)

    def report(self, version: str, file: str | Path | None = None) -> Path:
        """Write an HTML page about a version's evaluation, and next to it the model card (.md) and metrics (.json).

        Args:
            version: "late_flight@7", "late_flight@champion" or a prefix of its id.
            file: The page (.html) or a folder for it; default: `reports/` in the state folder.

        Raises:
            NotFound: There is no such version, or neither the version nor the candidate that it refits was evaluated.
        """
        from trimtab.app.versions.evaluation_page import write_evaluation

        to = self.state_folder / "reports" if file is None else checked_path("file", file)
        return write_evaluation(self.registry, self.state.blob, self.state.catalog, version, to)

    def evaluation(self, version: str) -> Evaluation:
        """A version's evaluation as numbers; for a refit (a candidate fitted again on more data), its candidate's.

        Raises:
            NotFound: There is no such version, or it was not evaluated.
        """
        from trimtab.app.versions.evaluation_page import evaluation_of

        return evaluation_of(self.registry, self.state.blob, self.registry.get(version))

    def materialise(self) -> Materialised:
        """Copy new records of the event log into one Delta table per source: all versions of events, and deletions.

        Only `retain` truncates the log. If another process copies or erases records, the call waits.

        Raises:
            Conflict: Another process was not done within a minute.
        """
        from trimtab.app.features.materialising import copy_to_tables

        return copy_to_tables(self)

    def rebuild(self, view: str, *, progress: Meter | None = None) -> int:
        """Rebuild the online features of a view from history. The old ones are used until the rebuild is done.

        If there is a serving process, it does the work.

        Returns:
            The number of records of the view's source that were applied.

        Raises:
            NotFound: No deployed model uses such a view.
            Misuse: Needed records were truncated from the log, and no table of record has them.
            Unavailable: The serving process ended or failed before the rebuild was done.
        """
        return self.views.rebuild(view, progress=progress)

    def rebuild_all(self, *, progress: Meter | None = None) -> int:
        """Rebuild all online features from history, even if the stored ones are damaged.

        Returns:
            The number of records that were applied, added up over all views.

        Raises:
            Conflict: The stored features are damaged, and a service uses them: stop it first.
            Misuse: Needed records were truncated from the log, and no table of record has them.
        """
        return self.views.rebuild_all(progress=progress)

    def compact(self) -> Compacted:
        """Free the disk space of stored values that online features no longer need. No feature changes.

        Raises:
            Conflict: A process serves the project. It compacts by itself every hour.
        """
        return self.views.compact()

    def retain(self, *, dry_run: bool = False) -> Retained:
        """Move events from the log into tables of record, and remove data that is older than [retention] allows.

        Args:
            dry_run: Change nothing; report what would be done.

        Raises:
            Conflict: Another process runs `retain` or `backup`.
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
        """The registered versions that match, with tags, notes, aliases and their evaluated metric.

        Args:
            model: Only versions of this model; default: of all models.
            search: A text in a version's name, id, tags, notes, aliases, inputs, runtime or actor.
            tag: A tag.
            metric: A metric of the version's evaluation, perhaps with a bound: "log_loss<0.4", "auc>0.8".
            feature: A feature that the version reads, or a view of such a feature.
            source: A source of the version's features.

        Raises:
            Misuse: The metric cannot be parsed.
            NotFound: There is no such model, metric, feature or source.
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

        Old searches and the steps of old trainings that failed are removed, too. A version is kept if it is new, if an
        alias points to it or can be rolled back to it, or if a gate record, ledger row or logged prediction names it.

        Args:
            dry_run: Change nothing; report what would be removed, and why the rest stays.
            why: One sentence, shown when a removed version is requested.
            grace: Keep what was registered or stored within this time.
            rollbacks: How many steps each alias must be able to roll back.
            evidence: Only gate records and ledger rows newer than this keep a version; default: all of them.
            searches: How many of each model's newest searches to keep, besides those that chose a version's parameters.
            actor: Who collects.

        Raises:
            Conflict: Another collection is running.
        """
        from trimtab.app.versions.collecting import collect_garbage
        from trimtab.registry.collecting.collector import Keep

        evidence_us = None if evidence is None else duration_us(evidence)
        keep = Keep(grace_us=duration_us(grace), rollbacks=rollbacks, evidence_us=evidence_us)
        return collect_garbage(self, dry_run=dry_run, keep=keep, searches=searches, why=why, actor=actor)

    def signature(self, version: str) -> Signature:
        """The signature of a version: its request, the inputs of its estimator, its output.

        Args:
            version: "late_flight@7", "late_flight@champion" or a prefix of its id.

        Raises:
            NotFound: There is no such version, or its artifact was removed.
        """
        from trimtab.app.versions.search import version_signature

        return version_signature(self, version)

    def card(self, version: str, *, html: bool = False) -> str:
        """A version's model card, Markdown or a self-contained page, generated from records.

        Raises:
            NotFound: There is no such version, or its artifact was removed.
        """
        return self.registry.card(version, html=html)

    def compare(
        self, one: str, other: str, *, window: str | int | None = "14d", moved: float | None = None
    ) -> Comparison:
        """Differences of two versions: data, definitions, recipe, environment, metrics and answers.

        Both versions answer the newest labelled rows, each with its own features as of the time of the row.

        Args:
            one: A version, usually the older one.
            other: Another version of the same model.
            window: Time span of the rows, which ends with the newest final label; None: compare no answers.
            moved: An answer counts as moved if the two scores differ by more than this; default: 0.05 for
                probabilities, or a twentieth of the standard deviation of numeric labels.

        Raises:
            NotFound: There is no such version, or its artifact was removed.
            Misuse: The versions are of two models, the window is invalid or empty, or `moved` is negative or no number.
        """
        from trimtab.app.versions.comparing import check_moved, compare_versions, window_of

        check_moved(moved)
        return compare_versions(self, one, other, window_us=window_of(window), moved_by=moved)

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
        """Register a model trained outside trimtab as a version: LightGBM, XGBoost, CatBoost, ONNX, scikit-learn.

        Its inputs must be the declared model's features, in their order. At least one of `golden` (scores that it must
        reproduce) and `window` is needed. To put it in service, use `promote`, or `first`. If the same content was
        imported before, that version is returned; `seen_until` and `window` must be the same, or left out.

        Args:
            path: A model file, an MLflow model folder, or a folder that `export` wrote.
            model: The declared model that it is a version of.
            golden: A file of golden rows (inputs with expected scores); default: those of an exported folder.
            window: Evaluate the model on the newest labelled rows, over this time span.
            categories: For each categorical feature, its values in the order of the integer codes used in training.
            trust: "pickle" allows a pickle, which runs code.
            seen_until: The end of its training data; default: now, so that gates only judge on later rows.
            first: Make it the champion; allowed while there is none.
            why: Why it may answer without having passed a gate, in at least ten letters; needed with `first`.
            actor: Who imports it.

        Raises:
            NotFound: There is no such file or model.
            Misuse: Its inputs are not the features, golden scores are not reproduced, or the file is not safe to read.
            Conflict: The same content was imported with another `seen_until` or `window`; or, with `first`, a candidate
                waits for approval.
        """
        with ProcessExecutor(nice=0) as executor:
            executor.start("trimtab.registry.transfer.inspecting")  # loads it during the imports below
            from trimtab.app.versions.importing import ImportRequest, import_version

            request = ImportRequest(
                golden=None if golden is None else checked_path("golden", golden),
                window_us=None if window is None else duration_us(window),
                categories=categories,
                trust=trust,
                first=first,
                why=why,
                actor=actor,
                seen_until_us=self._time_us("seen_until", seen_until),
            )
            version = import_version(self, checked_path("path", path), model, request, executor=executor)
            executor.end()  # at once, because the child keeps nothing that has to be closed
            return version

    def export(
        self, version: str, folder: str | Path, *, mlflow: bool = False, trust: Literal["pickle"] | None = None
    ) -> Exported:
        """Write a version as a folder that runs without trimtab: model, code, signature, golden predictions.

        Args:
            version: "late_flight@7", "late_flight@champion" or a prefix of its id.
            folder: A new or empty folder.
            mlflow: Make it an MLflow model folder.
            trust: "pickle" allows a version that is stored with pickle.

        Raises:
            NotFound: There is no such version.
            Misuse: The version is a pickle and `trust` is not given, or the code does not reproduce golden predictions.
            Conflict: `folder` is not empty.
        """
        from trimtab.registry.transfer.export import export_version

        loaded = self.registry.load(version)
        card = self.registry.card(loaded.version)
        return export_version(loaded, checked_path("folder", folder), card=card, mlflow=mlflow, trust=trust)

    def disk(self) -> Disk:
        """The disk usage by part, its growth, and what `retain` would free."""
        from trimtab.app.keep.disk import disk_report

        return disk_report(self)

    def recover(self, *, dry_run: bool = False, actor: str = "a person") -> Recovered:
        """Repair the state after records were lost from a log, or were stamped by a clock that was ahead.

        After a loss, a partition's next record gets a position after the last one that any reader has read, so that no
        reader skips it. Append times in the future become the current time; then online features are rebuilt. Each
        repair has a row in the ledger.

        Args:
            dry_run: Change nothing; report what is lost and what would be done.
            actor: Who repairs it, for the ledger.

        Raises:
            Conflict: Another process serves the project, or writes the partition. Stop it first.
        """
        from trimtab.app.keep.recovering import recover

        return recover(self, dry_run=dry_run, actor=actor)

    def backup(self, to: str | Path) -> Backup:
        """Copy the state to a new folder, completely or not at all. Other processes may serve and write meanwhile.

        Raises:
            Conflict: `to` exists, or another process runs `retain` or `backup`.
            Unavailable: The disk of `to` is full or read-only.
        """
        from trimtab.app.keep.backup import back_up

        return back_up(self, checked_path("to", to))

    def status(self) -> Status:
        """The state of the project: deployments, freshness, problems ("red"). Its `plot()` shows the loss by day."""
        from trimtab.app.inspect.status import project_status

        found = project_status(self)
        found.__dict__["draw"] = self._quality_picture
        return found

    def ledger(self) -> list[Decision]:
        """Every decision, oldest first."""
        return Ledger(self.state.catalog).rows()

    def stages(self, model: str | None = None) -> list[Stage]:
        """The stages of a deployment's loop: finished, current and next, with their times.

        Args:
            model: A deployment's name; default: the first one.

        Raises:
            NotFound: There is no such deployment.
        """
        from trimtab.app.training.loops import stages_of

        return stages_of(self, model)

    def quality_page(self, model: str | None = None, *, to: str | Path) -> Path:
        """Write a page about a deployment's quality: days, problems, slices, inputs and decisions. Returns the file.

        Args:
            model: A deployment's name; default: the first one.
            to: A file that ends in .html, or a folder.

        Raises:
            NotFound: There is no such deployment.
            Unavailable: The file cannot be written.
        """
        from trimtab.app.inspect.pages.quality_page import write_quality_page

        return write_quality_page(self, model, checked_path("to", to))

    def verify_ledger(self) -> int:
        """Verify the ledger's chain of hashes. Returns the number of rows.

        Raises:
            Corrupt: A row was changed, removed or inserted.
        """
        return Ledger(self.state.catalog).verify()

    def signals(self) -> list[Signal]:
        """The signals of monitoring in their present state, oldest first. `ended_at_us` is None for open signals."""
        return every_signal(self.state.catalog)

    def alerts(self) -> AlertOverview:
        """An overview of alerts: receivers and their state, signals, mutes, and this week's alerts with their limit."""
        from trimtab.app.alerts.alert_overview import alert_overview

        return alert_overview(self)

    def send_alerts(self) -> None:
        """Deliver new alerts now; `tick` and serving processes do so by themselves."""
        self.alerting.look()

    def test_alerts(self, receiver: str | None = None) -> list[TriedReceiver]:
        """Send a test alert to one receiver or to all. Returns the outcome for each.

        Raises:
            NotFound: There is no such receiver.
        """
        return self.alerting.test(receiver)

    def mute_alerts(self, what: str, *, time: str | int, why: str, actor: str = "a person") -> Decision:
        """Mute some alerts for a time. Returns the ledger's row.

        Args:
            what: A model, a kind of signal, or the subject of a signal (such as "column distance"); or MODEL/KIND or
                MODEL/KIND/SUBJECT, where * stands for any.
            time: How long; at most 90d.
            why: The reason, for the ledger.
            actor: Who mutes it.

        Raises:
            NotFound: Nothing has this name.
            Misuse: No reason is given, or the time is invalid.
        """
        from trimtab.app.alerts.muting import mute

        return mute(self, what, time=time, why=why, actor=actor)

    def unmute_alerts(self, what: str, *, why: str = "", actor: str = "a person") -> Decision:
        """End a mute early. Returns the ledger's row.

        Raises:
            NotFound: There is no such mute.
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
        """The quality of a model's answers, from closed days: one row per block (see `by`), version, arm and slice.

        A day is closed when the wait for its labels is over. `loss` is the mean loss of labelled rows, with an interval
        that treats rows as independent. `excess_loss` is the mean capped loss minus its expectation if the scores are
        right; null if scores are not probabilities. `gap` is mean score minus mean label.

        Args:
            model: A deployment's name; default: the first one.
            by: "hour", "day", "week", "month", "all", or "batch": each table that `predict_table` answered, by its id.
            slices: A column, or the name of an expression in the gate's slices, to get one row per value.
            since: Leave out blocks that begin earlier.
            until: Leave out blocks that begin at this time or later.
            version: Only this version: its name or id.
            amended: Include labels that came late or were corrected. Labels are read again 1, 7 and 28 days after a day
                was closed, and the newest reading is used. Hours, slices and batches never include them.

        Raises:
            NotFound: There is no such deployment or version.
            Misuse: `by` is unknown, or there are no slices of that name (for hours, no slices at all).
        """
        from trimtab.app.inspect.quality import Wanted, quality_table

        wanted = Wanted(
            by=by,
            slices=slices,
            since_us=self._time_us("since", since),
            until_us=self._time_us("until", until),
            version=version,
            amended=amended,
        )
        return quality_table(self, model, wanted)

    def accept_level(self, model: str | None = None, *, why: str, actor: str = "a person") -> Decision:
        """Accept the quality of the version in service as normal, although it is worse than that of an earlier version.

        Without this, the status stays red, even if another version is promoted, until the quality is as good again.

        Raises:
            NotFound: There is no such deployment.
            Misuse: No reason is given.
            Conflict: The quality is not worse, or no earlier level is known.
        """
        from trimtab.app.inspect.quality import accept_level

        return accept_level(self, model, why, actor)

    def exclusions(self, model: str | None = None, *, released: bool = False) -> list[RedWindow]:
        """Time windows whose rows are excluded from fits and judgements, because inputs or labels were faulty.

        Args:
            model: A deployment's name; default: the first one.
            released: Include windows that were released.
        """
        from trimtab.app.training.exclusions import exclusions

        return exclusions(self, model, all_of_them=released)

    def release(self, window: str, *, model: str | None = None, why: str, actor: str = "a person") -> RedWindow:
        """Release an excluded time window: its rows are used again.

        Args:
            window: The id of the window, as `exclusions` lists it.
            model: A deployment's name; default: the first one.
            why: Why its rows can be used, for the ledger.
            actor: Who releases it.

        Raises:
            NotFound: There is no such deployment or window.
            Misuse: No reason is given.
        """
        from trimtab.app.training.exclusions import release

        return release(self, window, model=model, why=why, actor=actor)

    def roll_back(self, model: str, *, why: str, actor: str = "a person") -> Decision:
        """Put the previous version in service again. Serving processes follow within a second.

        Raises:
            NotFound: There is no such model, or no previous version.
            Conflict: Another process moved the alias at the same time.
        """
        from trimtab.app.versions.alias_moves import roll_back

        return roll_back(self, model, why=why, actor=actor)

    def set_arm(self, version: str, arm: str, *, share: float, why: str = "", actor: str = "a person") -> Decision:
        """Let a version answer next to the version in service. Serving processes follow within a second.

        Args:
            version: "late_flight@7"; or only the model's name, to keep the arm's version.
            arm: "canary" (clients get its answers) or "shadow" (logged only, on spare capacity).
            share: The share of requests, from 0 (ends the arm) to 1. If it is raised, the entities that the arm has
                answered stay with it.
            why: For the ledger and the alias's history; required for a canary that passed no gate.
            actor: Who sets it.

        Raises:
            NotFound: There is no such version or deployment.
            Misuse: No such arm, an invalid share, or neither a passed gate nor a reason of at least ten letters.
            Conflict: An experiment splits the model's requests, or another process set an arm of the model meanwhile.
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
        """Judge a registered version against the version in service. If it passes, put it in service.

        The gate is the same as for candidates, on the newest labelled days that neither version has seen. A version
        that passed first goes through the rollout or waits for approval, as declared. A refusal changes nothing.

        Args:
            version: "late_flight@7", or a prefix of its id.
            why: For the ledger and the alias's history.
            seen_until: The end of an imported version's training data; default: as stated at its import.
            dry_run: Only judge the version.
            actor: Who promotes it.
            watch: Called with the run each time it makes progress.

        Raises:
            NotFound: There is no such version, or no deployment of its model.
            Unavailable: There are no days to judge on yet. The message says when there will be.
            Misuse: The version cannot be loaded here, or its features can no longer be computed.
            Corrupt: Its artifact is damaged.
            Conflict: Another process works on the deployment, a candidate waits for approval or is being rolled out, or
                automation is frozen.
        """
        from trimtab.app.training.promoting import PromotionRequest, promote_version

        seen_until_us = self._time_us("seen_until", seen_until)
        wanted = PromotionRequest(why=why, actor=actor, seen_until_us=seen_until_us, dry_run=dry_run)
        return promote_version(self, version, wanted, watch)

    def approve(self, model: str | None = None, *, why: str = "", actor: str = "a person") -> list[Decision]:
        """Promote the candidate of a deployment that waits for approval.

        Args:
            model: A deployment's name; optional if only one candidate waits.
            why: For the ledger.
            actor: Who approves it, for the ledger.

        Raises:
            NotFound: There is no such deployment.
            Misuse: Several candidates wait and no deployment is named.
            Conflict: No candidate waits, the time for approval is over, another version has become champion, automation
                is frozen, or another process works on the deployment.
        """
        from trimtab.app.training.resolve_deployment import waiting

        model = waiting("approve", model, list(self.definitions.deployments), self.state.catalog)
        return self.loop(model).answer("approve", actor, why or "No reason was given.")

    def reject(self, model: str | None = None, *, why: str, actor: str = "a person") -> list[Decision]:
        """Reject a deployment's candidate that waits for approval or is in its rollout. The cooldown then begins.

        Args:
            model: A deployment's name; optional if there is only one such candidate.
            why: For the ledger.
            actor: Who rejects it, for the ledger.

        Raises:
            NotFound: There is no such deployment.
            Misuse: No reason is given; or there are several such candidates and no deployment is named.
            Conflict: As for `approve`, but neither a freeze nor a rollout prevents a rejection.
        """
        from trimtab.app.training.resolve_deployment import waiting

        model = waiting("reject", model, list(self.definitions.deployments), self.state.catalog)
        return self.loop(model).answer("reject", actor, why)

    def freeze(self, why: str, *, actor: str = "a person") -> Decision:
        """Stop all automation at once; predictions continue."""
        return self._by_hand("freeze", why, actor, Put(FREEZE, "all", msgspec.json.encode(why or "no reason is given")))

    def unfreeze(self, why: str, *, actor: str = "a person") -> Decision:
        """Resume automation; if it is not frozen, raise `Conflict`."""
        if self.state.catalog.get(FREEZE, "all") is None:
            raise Conflict("unfreeze: automation is not frozen, so there is nothing to end. See: trimtab status")
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
        """Erase an entity from events, tables, predictions, quarantine, stored answers and online features.

        The project is reopened, so parts that were taken from it before (`history`, `registry`) are closed.

        Args:
            entity: An entity, or a column of any source that holds its key.
            key: One value for each column of the entity's key.
            keys: Several keys for one run, each a value, or one value per column.
            why: For the ledger; no personal data.
            dry_run: Change nothing; report what was found.
            training_sets: Also delete the stored training sets that have rows about the entity, with all their rows.
            actor: For the ledger.

        Raises:
            NotFound: There is no such entity, or no data of any key (training sets only count with `training_sets`).
            Misuse: A key does not fit the entity's columns.
            Conflict: Another process serves, trains, writes or reads. Some data may be erased already: call again to
                erase the rest.
        """
        from trimtab.app.keep.erasure import forget, keys_as_text

        wanted = keys_as_text(key, keys)
        if not dry_run and self.followed():
            raise Conflict(f"{self.state_folder}: this project is being served. Stop the service, then forget.")
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
            host: The address to listen on; default: the setting `serve.host`.
            port: The port, or 0 for any free port; default: the setting `serve.port`.
            ready: Called with the service's URL when requests can be answered.
            workers: Processes that answer; default: the setting `serve.workers`. With more than one, this process
                supervises them and does everything else.
            grpc_port: The port of the Open Inference Protocol over gRPC; default: the setting `serve.grpc_port`.
            grpc_ready: Called with the address for gRPC, before `ready`.

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
        policies: Sequence[Policy | Decide | str] | None = None,
        model: str | None = None,
        stream: Stream | str | None = None,
        faults: str | Path | Columns | Fault | Sequence[Fault | Mapping[str, Any]] | None = None,
        start: str | int | None = None,
        until: str | int | None = None,
        seed: int | None = None,
        progress: Meter | None = None,
    ) -> ReplayResult:
        """Replay the ingested history in virtual time under several policies. The project's state stays as it is.

        Args:
            lines: Names of scenarios of [demo]; default: all. Without [demo], or with `model`, there are two: "project"
                (retrained as declared) and "never".
            policies: In place of `lines`: policies of `trimtab.simulation`, or texts for them such as "never", "30d",
                "alarm|30d", "ungated 30d", "naive" or "FILE.py:FUNCTION"; or functions; or one text with commas.
            model: The deployment whose policy is replaced; default: the only one.
            stream: A generated history in place of the ingested one: made with `tt.stream()` for the model, or a text
                for it such as "days=100 concept=40".
            faults: Faults of `trimtab.simulation`, or a table or CSV file of kind, start, end, source, column and size.
            start: The start of virtual time; default: [demo] start. Without it, up to eight midnights are tried in
                order, and virtual time starts at the first one at which every policy has a version.
            until: The end of virtual time; default: [demo] until, else the last request.
            seed: Default: the setting `seed`.
            progress: Called with microseconds done and microseconds in total.
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

    def _quality_picture(self) -> Picture:
        from trimtab.app.inspect.pages.quality_page import quality_picture

        return quality_picture(self, list(self.definitions.deployments))

    def _by_hand(self, act: str, why: str, actor: str, change: Put | Remove) -> Decision:
        """Write a change and its row of the ledger in one transaction."""
        row = Entry(at_us=self.clock.now_us(), model="*", act=act, cause=why or "No reason was given.", actor=actor)
        return Ledger(self.state.catalog).write([row], [change])[0]
