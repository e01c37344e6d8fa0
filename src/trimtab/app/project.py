"""An open project: every verb of the command line and of the HTTP service, in Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from trimtab.app.definitions import Definitions, load_definitions
from trimtab.app.history import SharedHistory
from trimtab.app.layouts import Layouts
from trimtab.app.live_definitions import LiveDefinitions
from trimtab.app.retention_needs import check_retention, features_from_us
from trimtab.app.state import State, kept_from
from trimtab.app.views import Views
from trimtab.core.clock import Clock, SystemClock
from trimtab.core.config import Config, LineSettings, load_config
from trimtab.core.errors import Conflict, Misuse
from trimtab.core.ids import TimeIds
from trimtab.core.records import Decision, Signal
from trimtab.core.time import duration_us, moment_us
from trimtab.events import Ingestor, Quarantine, Source
from trimtab.registry import Registry
from trimtab.serving import Answer, PredictionIds, PredictionLog
from trimtab.steering.ledger import Entry, Ledger
from trimtab.store import Put, Remove
from trimtab.training.definitions import Model

if TYPE_CHECKING:
    import datetime as dt

    from trimtab.app.applying import AppliedPlan
    from trimtab.app.backup import Backup
    from trimtab.app.disk import Disk
    from trimtab.app.erasure import Forgotten
    from trimtab.app.explain import Explanation
    from trimtab.app.feature_catalogue import Catalogue
    from trimtab.app.feature_tables import AsKnown, FeatureFile, FeatureTable, How, Of
    from trimtab.app.learning import Teacher
    from trimtab.app.loading import Ingested
    from trimtab.app.loop import DeploymentLoop
    from trimtab.app.models import ServedModel
    from trimtab.app.planning import Plan
    from trimtab.app.retention import Retained
    from trimtab.app.skew_report import SkewReport
    from trimtab.app.status import Status
    from trimtab.events.files import Rows, Table
    from trimtab.events.ingest import Pushed
    from trimtab.events.quarantine import Replayed, SetAside
    from trimtab.events.tables import Materialised
    from trimtab.features.online.compaction import Compacted
    from trimtab.serving.batch import Manifest
    from trimtab.simulation.results import ReplayResult
    from trimtab.training.evaluation import Evaluation

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
    return Project(config, definitions, clock=clock, state=state)


class Project:
    """An open project. Close it, or use it in `with`.

    Any number of processes may open one project and push to it. One of them at a time applies events to online
    features: a running `trimtab serve`, or else whoever needs them fresh.
    """

    def __init__(
        self, config: Config, definitions: Definitions, *, clock: Clock | None = None, state: str | Path | None = None
    ) -> None:
        self.config = config
        self.declared = definitions
        self.clock = clock or SystemClock()
        self.state_folder = config.state_folder if state is None else _path("state", state)
        self._begin()

    def _begin(self) -> None:
        """Nothing is open and nothing remembered."""
        self._forget_parts()
        self._state: State | None = State(self.state_folder, clock=self.clock, prediction_mode=self.config.serve.log)
        self._ids = PredictionIds(self.clock)

    def _forget_parts(self) -> None:
        parts = (
            "ingestor",
            "quarantine",
            "history",
            "predictions",
            "registry",
            "views",
            "definitions",
            "layouts",
            "live",
        )
        for part in parts:
            self.__dict__.pop(part, None)
        self._served: dict[str, ServedModel] = {}
        self._loops: dict[str, DeploymentLoop] = {}
        self._teachers: dict[str, Teacher] = {}

    @property
    def state(self) -> State:
        """What is kept, part by part.

        Raises:
            Misuse: The project is closed.
        """
        if self._state is None:
            raise Misuse(
                f"{self.config.folder}: this project is closed. Open it again: tt.open({str(self.config.folder)!r})"
            )
        return self._state

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
        """Load a file of a source's events, or a table. Rows that do not fit go to quarantine.

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
        from trimtab.app.loading import load_rows

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

    def train(self, model: str | None = None, *, actor: str = "a person") -> list[Decision]:
        """Make a candidate now, judge it, and promote or refuse it.

        Raises:
            NotFound: No such deployment, or no data.
            Misuse: The data cannot be learnt from; the message names the cause.
            Unavailable: Nothing can be judged yet.
            Conflict: Another process is at work on it, or automation is frozen.
        """
        loop = self.loop(model)
        self.apply_first()
        return loop.train(actor)

    def plan(self) -> Plan:
        """What the project file changes against what is applied, and what that means: nothing is done."""
        from trimtab.app.planning import plan_project

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
        from trimtab.app.applying import apply_plan

        return apply_plan(self, actor=actor, progress=progress, patience_s=duration_us(patience) / 1e6)

    def apply_first(self) -> Decision | None:
        """Apply the definitions of a project of which nothing was applied yet: `train` and `serve` do so by themselves.

        Returns:
            The row of the ledger that says so; None when something was applied before.
        """
        from trimtab.app.applying import apply_first

        return apply_first(self)

    def tick(self) -> list[Decision]:
        """Look at every deployment once and do what is due.

        A deployment that fails does not keep the others from their turn: its error is raised after them.
        """
        decisions: list[Decision] = []
        failed: list[Exception] = []
        for name, deployment in self.definitions.deployments.items():
            try:
                if deployment.learn == "online":
                    self.teacher(name).teach()
                decisions += self.loop(name).tick()
            except Exception as error:  # whatever a user's code raises; raised below, and noted by the loop
                failed.append(error)
        if not failed:
            from trimtab.app.applying import drop_unneeded

            drop_unneeded(self)
        if failed:
            for other in failed[1:]:
                failed[0].add_note(f"Another deployment failed too: {other}")
            raise failed[0]
        return decisions

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
            Misuse: A row is not as declared, or `at` is no moment that has come.
        """
        given = _request_rows(rows)
        served = self.served(model)
        self.views.catch_up()
        served.refresh()
        return served.endpoint.answer(given, at=_at(at))

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
        from trimtab.app.batch import answer_table

        return answer_table(
            self,
            model,
            requests,
            at_us=_at(at),
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
            reasons: Add a column with the reason of each value of a view, `<feature>.reason`.
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
        from trimtab.app.feature_tables import join_features

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
        from trimtab.app.feature_tables import snapshot_features

        moments = [self.clock.now_us() if at is None else moment_us(at)]
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
        from trimtab.app.feature_tables import moments_between, snapshot_features

        moments = moments_between(start, end, every)
        return snapshot_features(self, of, moments, how=_how(as_known, reasons, out, events, progress))

    def catalogue(self, *, search: str | None = None) -> Catalogue:
        """Every source, entity, view and feature: what it means, how fresh it is, its values, who uses it.

        Values are those of the newest predictions of the version in service, or of its training set when there are
        few; each says which.

        Args:
            search: Only what has this text in its name, description, tags, owner or columns.
        """
        from trimtab.app.feature_catalogue import feature_catalogue

        return feature_catalogue(self, search=search)

    # -- questions ----------------------------------------------------------------------------------------------

    def why(self, prediction_id: str) -> Explanation:
        """All that led to one prediction: features and reasons, version, training set, gate, decision.

        Raises:
            NotFound: There is no such prediction.
        """
        from trimtab.app.explain import explain

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
        from trimtab.app.skew import check_skew

        since_us = None if since is None else moment_us(since)
        return check_skew(self, model, sample=sample, since_us=since_us, seed=seed, scores=scores)

    def skew_checks(self, *, last: int = 20) -> list[SkewReport]:
        """The newest skew checks, oldest first; those of a running service too."""
        from trimtab.app.skew import skew_checks

        return skew_checks(self, last)

    def report(self, version: str, file: str | Path | None = None) -> Path:
        """Write a version's evaluation as a self-contained page, its card and its figures beside it; where it is.

        Args:
            version: "late_flight@7", "late_flight@champion" or the beginning of its address.
            file: Where to; left out, `reports/` in the state folder.

        Raises:
            NotFound: There is no such version, or neither it nor the version it refits was evaluated.
        """
        from trimtab.app.evaluation_page import write_evaluation

        to = self.state_folder / "reports" if file is None else _path("file", file)
        return write_evaluation(self.registry, self.state.blob, version, to)

    def evaluation(self, version: str) -> Evaluation:
        """A version's evaluation, or that of the candidate which it is a refit of, as numbers.

        Raises:
            NotFound: There is no such version, or it was not evaluated.
        """
        from trimtab.app.evaluation_page import evaluation_of

        return evaluation_of(self.registry, self.state.blob, self.registry.get(version))

    def materialise(self) -> Materialised:
        """Move what is new in the event log into one Delta table a source, every version and tombstone of it.

        The log stays as it is: `retain` truncates it. Histories then begin with the tables, and any tool that reads
        Delta can read them. One process at a time does so, and none while `forget` erases; others wait a while.

        Raises:
            Conflict: Another process was still at it after a minute.
        """
        from trimtab.app.materialising import move_into_tables

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
        from trimtab.app.retention import retain

        return retain(self, dry_run=dry_run)

    def disk(self) -> Disk:
        """What each part takes on disk, how fast it grows, and what `retain` would give back."""
        from trimtab.app.disk import disk_report

        return disk_report(self)

    def backup(self, to: str | Path) -> Backup:
        """Copy the state to a new folder, consistent although others serve and write; there is no half backup.

        Raises:
            Conflict: `to` exists, or another process retains or backs up.
            Unavailable: The disk there is full or read-only.
        """
        from trimtab.app.backup import back_up

        return back_up(self, _path("to", to))

    def status(self) -> Status:
        """What is deployed, how fresh it is, and what is red."""
        from trimtab.app.status import project_status

        return project_status(self)

    def ledger(self) -> list[Decision]:
        """Every decision, oldest first."""
        return Ledger(self.state.catalog).rows()

    def verify_ledger(self) -> int:
        """Check the ledger's chain of hashes; the number of rows.

        Raises:
            Corrupt: A row was changed, removed or put in.
        """
        return Ledger(self.state.catalog).verify()

    def signals(self) -> list[Signal]:
        """What monitoring found, oldest first."""
        found: list[Signal] = []
        after = 0
        while entries := self.state.catalog.journal("signals", after=after):
            found += [msgspec.json.decode(entry.body, type=Signal) for entry in entries]
            after = entries[-1].sequence
        return found

    def freeze(self, why: str, *, actor: str = "a person") -> Decision:
        """Stop all automation at once; predictions go on."""
        from trimtab.steering.controller import FREEZE

        return self._by_hand("freeze", why, actor, Put(FREEZE, "all", msgspec.json.encode(why)))

    def unfreeze(self, why: str, *, actor: str = "a person") -> Decision:
        """Let automation go on."""
        from trimtab.steering.controller import FREEZE

        return self._by_hand("unfreeze", why, actor, Remove(FREEZE, "all"))

    def forget(
        self,
        entity: str,
        *key: str | int,
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
            why: For the ledger; write no personal data.
            dry_run: Only look what is there.
            training_sets: Delete the rows of stored training sets that have rows of it.
            actor: For the ledger.

        Raises:
            NotFound: There is no such entity, or nothing of this key.
            Misuse: The key does not fit the entity's columns.
            Conflict: Another process serves, trains, writes or reads. What was done until then stays done: the same
                call goes on from there.
        """
        from trimtab.app.erasure import forget

        if not dry_run and "views" in self.__dict__ and self.views.followed():
            raise Conflict(f"{self.state_folder}: this project is being served. Stop the service, and forget then.")
        self.close()
        self._begin()
        try:
            found = forget(
                self, entity, [*map(str, key)], why=why, dry_run=dry_run, training_sets=training_sets, actor=actor
            )
        finally:
            self.close()
            self._begin()
        if not dry_run:
            self.views.catch_up()
        return found

    # -- running ------------------------------------------------------------------------------------------------

    def serve(
        self, *, host: str | None = None, port: int | None = None, ready: Callable[[str], object] | None = None
    ) -> None:
        """Answer over HTTP until SIGTERM or SIGINT.

        Raises:
            Unavailable: The port is taken.
            Conflict: Another process serves this project.
        """
        from trimtab.app.service import serve_project

        serve_project(self, host=host, port=port, ready=ready)

    def simulate(
        self,
        *,
        lines: Sequence[str] | None = None,
        start: str | int | None = None,
        until: str | int | None = None,
        seed: int | None = None,
        progress: Meter | None = None,
    ) -> ReplayResult:
        """Replay the ingested history in virtual time under several policies; the project's state stays as it is.

        Args:
            lines: Names of lines of [demo]; left out, all of them (without [demo]: the project's policy, and never).
            start: When time begins to run; left out, [demo] start, else after the first quarter of the requests.
            until: When it stops; left out, [demo] until, else the last request.
            seed: Left out, the setting `seed`.
            progress: Called with microseconds done and microseconds in all.
        """
        from trimtab.app.replaying import simulate_project

        return simulate_project(self, lines=lines, start=start, until=until, seed=seed, progress=progress)

    # -- parts --------------------------------------------------------------------------------------------------

    @cached_property
    def layouts(self) -> Layouts:
        """Where the columns of sources lie in their events."""
        return Layouts(self.state.catalog, self.state.events)

    @cached_property
    def definitions(self) -> Definitions:
        """What the project file declares (`declared`), each column of a source in its place.

        Raises:
            Misuse: A column is declared as another type than recorded events hold it.
        """
        return self.declared.placed(self.layouts.place)

    @cached_property
    def live(self) -> LiveDefinitions:
        """The feature definitions that are in use, those of versions trained before the project file changed too."""
        return LiveDefinitions(
            self.definitions,
            registry=self.registry,
            catalog=self.state.catalog,
            blob=self.state.blob,
            place=self.layouts.place,
            clock=self.clock,
        )

    @property
    def sources(self) -> list[Source]:
        return list(self.definitions.sources.values())

    @cached_property
    def ingestor(self) -> Ingestor:
        """The way into the event log."""
        self.layouts.keep(self.definitions.sources)
        return Ingestor(
            self.state.events,
            self.sources,
            clock=self.clock,
            quarantine=self.quarantine,
            future_ok=frozenset(self.definitions.requests),
        )

    @cached_property
    def quarantine(self) -> Quarantine:
        """Rows that were refused."""
        return Quarantine(self.state.quarantine)

    @cached_property
    def history(self) -> SharedHistory:
        """The event log in columns, as of its last refresh; it begins with the tables of record where there are any."""
        return SharedHistory(self.state.events, self.sources, tables=partial(self.state.moved, self.sources))

    @cached_property
    def predictions(self) -> PredictionLog:
        """Every answer that was given."""
        return PredictionLog(self.state.predictions)

    @cached_property
    def registry(self) -> Registry:
        """Versions and aliases."""
        from trimtab.training.environment import current_environment

        return Registry(
            self.state.catalog,
            self.state.blob,
            clock=self.clock,
            actor="policy",
            environment=current_environment(self.config.folder),
        )

    @cached_property
    def views(self) -> Views:
        """Online features and how they follow the log."""
        return Views(self.state, self.live.views, clock=self.clock)

    def loop(self, model: str | None = None) -> DeploymentLoop:
        """The loop of one deployment."""
        from trimtab.app.loop import DeploymentLoop
        from trimtab.app.training_data import LivingData

        deployment = self.definitions.deployment(model)
        if deployment.name not in self._loops:
            self._loops[deployment.name] = DeploymentLoop(
                deployment,
                history=self.history,
                predictions=self.predictions,
                data=LivingData(
                    self.history,
                    self.predictions,
                    kept_from=partial(kept_from, self.state.catalog),
                    asked_as=self.live.request_of,
                    check=self.live.check_newest,
                ),
                registry=self.registry,
                catalog=self.state.catalog,
                blob=self.state.blob,
                folder=self.state_folder,
                clock=self.clock,
                ids=TimeIds(self.clock),
                seed=self.config.seed,
            )
        return self._loops[deployment.name]

    def served(self, model: str) -> ServedModel:
        """What answers for one deployment."""
        from trimtab.app.models import ServedModel

        deployment = self.definitions.deployment(model)
        if deployment.name not in self._served:
            self._served[deployment.name] = ServedModel(
                deployment,
                registry=self.registry,
                log=self.predictions,
                online=self.state.online,
                answers=self.state.answers,
                learners=self.state.learners,
                snapshot=self.views.snapshot,
                features_from=lambda features: features_from_us(features, kept_from(self.state.catalog)),
                features_of=self.live.of,
                holds=self.views.holds,
                clock=self.clock,
                ids=self._ids,
            )
        return self._served[deployment.name]

    def features_from_us(self, model: Model) -> int:
        """The first moment as of which a model's features can be computed from the history that is kept."""
        return features_from_us(model.features, kept_from(self.state.catalog))

    def teacher(self, model: str) -> Teacher:
        """What teaches the learner of one online deployment."""
        from trimtab.app.learning import Teacher

        deployment = self.definitions.deployment(model)
        if deployment.name not in self._teachers:
            self._teachers[deployment.name] = Teacher(self, deployment)
        return self._teachers[deployment.name]

    def line_settings(self, names: Sequence[str] | None = None) -> list[LineSettings]:
        """The lines of [demo], or those named.

        Raises:
            Misuse: A name is none of them.
        """
        from trimtab.app.lines import USUAL

        found = list(self.config.demo.lines if self.config.demo else USUAL)
        unknown = [name for name in names or () if name not in {line.name for line in found}]
        if unknown:
            raise Misuse(f"line {unknown[0]!r} is none of {', '.join(line.name for line in found)}.")
        return [line for line in found if names is None or line.name in names]

    def close(self) -> None:
        """Close whatever was opened, and let others apply events; nothing happens the second time."""
        if self._state is None:
            return
        try:
            if "views" in self.__dict__:  # it was asked for
                self.views.let_go()
        finally:
            self._state.close()
            self._state = None
            self._forget_parts()

    def __enter__(self) -> Project:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _named(self, source: str | None) -> str | None:
        """A source that is declared, or that has rows in quarantine all the same."""
        if source is not None and source not in self.quarantine.counts():
            self.definitions.source(source)
        return source

    def _by_hand(self, act: str, why: str, actor: str, change: Put | Remove) -> Decision:
        """Change something and write down who did so: both or neither."""
        row = Entry(at_us=self.clock.now_us(), model="*", act=act, cause=why or "No reason was given.", actor=actor)
        return Ledger(self.state.catalog).write([row], [change])[0]


def _request_rows(given: Sequence[Mapping[str, Any]] | Table) -> Sequence[Mapping[str, Any]]:
    from trimtab.core.columns import Columns
    from trimtab.events.files import is_table

    if is_table(given):
        return (given if isinstance(given, Columns) else Columns.from_arrow(given)).to_rows()
    if isinstance(given, Mapping):
        raise Misuse("predict: one dict. Give a list of them, for one row too: [row]")
    if isinstance(given, str | bytes | Path) or not isinstance(given, Sequence):
        raise Misuse(
            f"predict: rows is a {type(given).__name__}. Give a list of dicts or a table (polars, pandas, pyarrow, "
            "DuckDB, Columns); for a file: predict_table"
        )
    return given


def _at(at: str | int | dt.datetime | None) -> int | None:
    try:
        return None if at is None else moment_us(at)
    except Misuse as error:
        raise Misuse(f"at: {error}") from None


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
    from trimtab.app.feature_tables import How

    return How(
        as_known=as_known,
        reasons=reasons,
        out=None if out is None else _path("out", out),
        events={name: _path(f"events of {name!r}", path) for name, path in (events or {}).items()},
        progress=progress,
    )
