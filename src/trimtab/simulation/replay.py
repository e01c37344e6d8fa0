"""Run recorded history through the code of the service in virtual time, for several policies: a year in a minute."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab import store
from trimtab.core.clock import VirtualClock
from trimtab.core.closing import Closing
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse
from trimtab.core.records import Decision
from trimtab.core.time import DAY_US, HOUR_US, format_time
from trimtab.core.urls import store_url
from trimtab.events.columns.history import History
from trimtab.events.definitions import Source
from trimtab.events.quarantine import Quarantine
from trimtab.features.definitions import Label, Request
from trimtab.features.feature_set import FeatureSet
from trimtab.simulation.explanations import Origins
from trimtab.simulation.faults import OF_DATA, Fault
from trimtab.simulation.faulty_tables import recorded_labels, with_faults
from trimtab.simulation.feed import Feed
from trimtab.simulation.generating.streams import Stream
from trimtab.simulation.results import RefusedStart, ReplayResult, ScenarioResult
from trimtab.simulation.scenarios.rows import AnsweredRows, Block, Questions
from trimtab.simulation.scenarios.scenario import Scenario
from trimtab.simulation.scenarios.scoring import Answers, made_ahead
from trimtab.simulation.scenarios.shared import Shared
from trimtab.simulation.scenarios.shared_fits import FitCache
from trimtab.simulation.scenarios.ungated import Ungated
from trimtab.simulation.scenarios.world import World
from trimtab.simulation.spot_check import SpotCheck
from trimtab.store.ports import Log


class Recording(msgspec.Struct, frozen=True, eq=False):
    """Recorded or generated events and requests, and the faults that are put into them."""

    tables: Mapping[str, Columns]  # tables of events by source
    sources: Sequence[Source]
    # the same data with their shifts and the best possible answers, if they were generated; None: they were recorded
    stream: Stream | None = None
    faults: Sequence[Fault] = ()  # faults to put in; quality is judged by the rows without faults
    until_us: int | None = None  # labels whose wait ends after this are not final; None: all labels are final


class ReplaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """The time that is replayed, and how often the loop checks inputs.

    Raises:
        Misuse: The end is not after every start, or `look_every_us` is no whole number of hours.
    """

    start_us: int  # everything known before this time is history
    until_us: int
    # later starts, to be tried in this order while a scenario has no version to begin with
    or_start_us: tuple[int, ...] = ()
    start_why: str = ""  # a sentence for the result: why the first start was chosen
    seed: int  # the same seed gives the same ledgers
    sampled_rows: int = 0  # for this many requests, features are also computed as in serving, and compared
    # time between two checks of inputs, feeds and traffic (in a service 1 h); 0: no checks
    look_every_us: int = 6 * HOUR_US

    def __post_init__(self) -> None:
        if self.look_every_us % HOUR_US:
            raise Misuse(f"replay: look_every_us={self.look_every_us} is no whole number of hours.")
        last_us = max((self.start_us, *self.or_start_us))
        if last_us >= self.until_us:
            raise Misuse(
                f"replay: until_us={self.until_us} is not after the latest start, {last_us}. Give a later end."
            )


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a replay has come, and what was decided at this point of virtual time."""

    now_us: int
    predictions: int  # number of predictions of all scenarios up to now
    entered: int  # number of events that were written to the log up to now
    decisions: list[tuple[str, Decision]]  # decisions, each with its scenario


class Start(msgspec.Struct, frozen=True):
    """The start of a replay, at which every scenario has a version, and what was loaded before."""

    start_us: int
    first_row: int  # the index of the first request that is replayed
    accepted: int  # number of events that were written to the log as history
    quarantined: int
    refused: list[RefusedStart]  # earlier starts that were tried


class Replay(Closing):
    """Replays recorded events and requests in virtual time, all scenarios side by side.

    Everything known before the start is loaded as history, and each scenario is trained on it. Then virtual time runs
    from one control point to the next. Control points are every midnight UTC, the times at which batches are scored
    ahead, and the end. Between two control points, events are written to the log, and all requests are answered as one
    block, each as of its own time. At each midnight, live scenarios close days, check their quality and act.

    Args:
        scenarios: The models and policies to compare.
        folder: Where the state is stored, with the layout of a project's state. Scenarios other than `main` are in
            `replay/`, and if there are later starts to try, all scenarios.
        settings: The time that is replayed.
        progress: Called after each control point.

    Raises:
        Misuse: There is no scenario, the scenarios answer different requests, or a source was not recorded.
    """

    def __init__(
        self,
        scenarios: Sequence[Scenario],
        recording: Recording,
        folder: Path,
        settings: ReplaySettings,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._scenarios = scenarios
        self._recording = recording
        self._folder = folder
        self._settings = settings
        self._progress = progress
        request = _request(scenarios)
        needed = _needed_sources(scenarios, recording.sources)
        all_sources = [*needed, request.source]
        missing = [one.name for one in all_sources if one.name not in recording.tables]
        if missing:
            raise Misuse(f"replay: no recorded events of {', '.join(missing)}. Load them first.")
        tables = with_faults(recording.tables, recording.faults, all_sources, scenarios[0].deployment.model)
        self._clock = VirtualClock(settings.start_us)
        self._logs = {one.name: self._log("events") for one in all_sources}
        self._quarantine_log = self._log("quarantine")
        quarantine = Quarantine(self._quarantine_log)
        self._feed = Feed(tables, all_sources, [request], self._logs, clock=self._clock, quarantine=quarantine)
        self._history = History(self._logs[request.name], needed)
        self._rows = AnsweredRows(Questions(request, tables[request.name]), self._history)
        self._blob = store.open(store_url("file", folder / "blob"), "blob")
        self._fits = FitCache()
        self.worlds: dict[str, World] = {}
        features = scenarios[0].deployment.model.features
        self._check = SpotCheck(features, folder, settings.sampled_rows, settings.seed)

    def _log(self, name: str) -> Log:
        url = f"{store_url('sqlite', self._folder / 'log' / name)}?mode=relaxed"
        return store.open(url, "log", clock=self._clock)

    def run(self) -> ReplayResult:
        """Replay everything.

        Raises:
            Misuse: A scenario has no version to begin with: the history before the start is too short to fit one, or
                the gate refused it.
        """
        feature_sets = _distinct(self._scenarios)
        begun = self.find_start()
        accepted, quarantined = begun.accepted, begun.quarantined
        self._check.choose(self._rows.count, self._rows.asked_before(self._settings.until_us))
        ahead: dict[str, list[tuple[Block, Answers]]] = {one.name: [] for one in self._scenarios}
        for point_us in self._control_points(begun.start_us):
            entered = self._feed.advance(point_us)
            accepted += entered.accepted
            quarantined += entered.quarantined
            self._history.refresh()
            blocks = self._rows.answer(feature_sets, point_us)
            self._answer(blocks, ahead, point_us)
            self._check.compare(blocks[self._scenarios[0].deployment.model.features.hash])
            self._clock.advance_to(point_us)
            self._make_ahead(point_us, ahead)
            # Scenarios act only at midnight, so that the control points of another scenario's batches change nothing.
            self._show(accepted, self._tick() if point_us % DAY_US == 0 else [])
        return self._result(begun, accepted, quarantined)

    def find_start(self) -> Start:
        """Try the starts in turn: load the history before one, and train on it, until every scenario has a version.

        Raises:
            Misuse: A scenario has no version at any of the starts.
        """
        accepted, quarantined, lacking = 0, 0, ""
        refused: list[RefusedStart] = []
        starts = (self._settings.start_us, *self._settings.or_start_us)
        for number, start_us in enumerate(starts):
            self._clock.advance_to(start_us)
            entered = self._feed.load_history(start_us)
            accepted, quarantined = accepted + entered.accepted, quarantined + entered.quarantined
            self._history.refresh()
            self._rows.answer(_distinct(self._scenarios), start_us)
            self._open_worlds("" if len(starts) == 1 else f"{number:02d}-")
            decisions = self._tick()
            lacking = next((name for name, world in self.worlds.items() if world.lacks_version()), "")
            self._show(accepted, [] if lacking else decisions)
            if not lacking:
                return Start(start_us, self._rows.count, accepted, quarantined, refused)
            refused.append(RefusedStart(at_us=start_us, why=self.worlds[lacking].steering.lack()))
            for world in self.worlds.values():
                world.close()
        raise Misuse(_no_version(lacking, refused))

    def _open_worlds(self, prefix: str) -> None:
        shared = Shared(
            rows=self._rows,
            blob=self._blob,
            clock=self._clock,
            seed=self._settings.seed,
            look_every_us=self._settings.look_every_us,
            faults=self._recording.faults,
            fits=self._fits,
        )
        for number, scenario in enumerate(self._scenarios):
            main = scenario.main and not prefix
            folder = self._folder if main else self._folder / "replay" / f"{prefix}{number:02d}"
            self.worlds[scenario.name] = World(scenario, folder, shared)

    def close(self) -> None:
        self._fits.close()
        for world in self.worlds.values():
            world.close()
        self._check.close()
        for log in (*self._logs.values(), self._quarantine_log):
            log.close()
        self._blob.close()

    def _control_points(self, start_us: int) -> list[int]:
        """Return every midnight, every time at which a batch is scored ahead, and the end."""
        first = start_us // DAY_US
        last = self._settings.until_us // DAY_US + 1
        times = {0} | {one.scored_at_us for one in self._scenarios if one.answers == "day_ahead"}
        points = {day * DAY_US + time for day in range(first, last + 1) for time in times} | {self._settings.until_us}
        return sorted(p for p in points if start_us < p <= self._settings.until_us)

    def _answer(
        self, blocks: Mapping[str, Block], ahead: Mapping[str, Sequence[tuple[Block, Answers]]], until_us: int
    ) -> None:
        """Answer the requests before a control point: live scenarios first, then scenarios that score ahead."""
        live: dict[str, Answers] = {}
        for name, world in sorted(self.worlds.items(), key=lambda item: item[1].scenario.answers != "live"):
            block = blocks[world.scenario.deployment.model.features.hash]
            if world.scenario.answers == "live":
                answers = live[name] = world.answer(block)
            else:
                answers = made_ahead(ahead[name], block, live[world.scenario.like])
            world.log(block, answers, until_us)

    def _make_ahead(self, point_us: int, ahead: dict[str, list[tuple[Block, Answers]]]) -> None:
        """For each scenario whose batch is due now, score the requests of the day that begins `ahead_us` later."""
        for scenario in self._scenarios:
            if scenario.answers != "day_ahead" or point_us % DAY_US != scenario.scored_at_us:
                continue
            start_us = point_us + scenario.ahead_us
            block = self._rows.ahead(scenario.deployment.model.features, point_us, start_us, start_us + DAY_US)
            answers = self.worlds[scenario.like].answer(block)
            ahead[scenario.name] = [*ahead[scenario.name][-1:], (block, answers)]

    def _tick(self) -> list[tuple[str, Decision]]:
        """Let every live scenario act: those without a gate last, because meanwhile their fits run in other threads."""
        live = [world for world in self.worlds.values() if world.scenario.answers == "live"]
        for world in live:
            world.begin()
        order = sorted(live, key=lambda world: isinstance(world.steering, Ungated))
        found = {world.scenario.name: world.tick() for world in order}
        return [(world.scenario.name, one) for world in live for one in found[world.scenario.name]]

    def _show(self, accepted: int, decisions: list[tuple[str, Decision]]) -> None:
        if self._progress is not None:
            answered = sum(len(scores) for world in self.worlds.values() for scores in world.scores)
            self._progress(
                Progress(now_us=self._clock.now_us(), predictions=answered, entered=accepted, decisions=decisions)
            )

    def _keep_learners(self) -> None:
        with closing(store.open(store_url("lmdb", self._folder / "learners"), "kv")) as learners:
            for world in self.worlds.values():
                if world.scenario.main:
                    world.keep_learner(learners)

    def _result(self, begun: Start, accepted: int, quarantined: int) -> ReplayResult:
        rows = slice(begun.first_row, self._rows.count)
        at_us = self._rows.at_us(rows)
        verdict = self._check.finish()
        self._keep_learners()
        stream = self._recording.stream
        found = {name: self._of_world(world, rows, at_us) for name, world in self.worlds.items()}
        return ReplayResult(
            start_us=begun.start_us,
            until_us=self._settings.until_us,
            lines=found,
            start_why=self._settings.start_why,
            refused_starts=begun.refused,
            entered=accepted,
            quarantined=quarantined,
            checked_rows=verdict.rows,
            checked_values=verdict.values,
            mismatches=verdict.mismatches,
            first_mismatch=verdict.first,
            faults=list(self._recording.faults),
            seed=self._settings.seed,
            shifts=[] if stream is None else stream.shifts_from(begun.start_us),
            optimum=self._optimum(rows, found[self._scenarios[0].name]),
        )

    def _optimum(self, rows: slice, like: ScenarioResult) -> ScenarioResult | None:
        """Return the best possible answers to the same requests, as another scenario."""
        if self._recording.stream is None:
            return None
        return msgspec.structs.replace(
            like,
            name="optimum",
            scores=self._recording.stream.truth.best_of(self._rows.keys(rows)),
            decisions=[],
            signals=[],
            input_signals=[],
            versions=None,
            fits=0,
            fitted_rows=0,
            cpu_s=0.0,
        )

    def _of_world(self, world: World, rows: slice, at_us: NDArray[Any]) -> ScenarioResult:
        model = world.scenario.deployment.model
        return ScenarioResult(
            name=world.scenario.name,
            at_us=at_us,
            scores=world.all_scores(),
            labels=self._labels(model.label, rows),
            decisions=world.decisions,
            signals=world.steering.signals,
            input_signals=world.steering.input_signals,
            versions=np.array(world.versions, object),
            fits=world.spent.fits,
            fitted_rows=world.spent.rows,
            cpu_s=world.spent.cpu_s,
            metric=model.metric,
            lists=self._rows.lists(model, rows) if model.task == "ranking" else None,
            origins=Origins.of(model),
            final_until_us=_final_until(at_us, model.label.wait_us, self._recording.until_us),
        )

    def _labels(self, label: Label, rows: slice) -> NDArray[Any]:
        """Return the labels of some requests, as known at the end, from rows without simulated faults."""
        if any(one.kind in OF_DATA for one in self._recording.faults):
            table = self._recording.tables[label.source.name]
            return recorded_labels(label, table, self._rows.keys(rows), until_us=self._settings.until_us)
        return self._rows.labels(label, rows, np.iinfo(np.int64).max // 2)


def _final_until(at_us: NDArray[Any], wait_us: int, known_until_us: int | None) -> int | None:
    """Return the beginning of the first day that has a request without a final label at the recording's end, if any."""
    if known_until_us is None or not len(at_us) or at_us[-1] + wait_us <= known_until_us:
        return None
    return int(at_us[np.argmax(at_us + wait_us > known_until_us)]) // DAY_US * DAY_US


def _no_version(scenario: str, refused: Sequence[RefusedStart]) -> str:
    """Return the error message for a scenario that has no version at any of the starts."""
    last = refused[-1]
    tried = (
        "" if len(refused) == 1 else f" at any of {len(refused)} starts from {format_time(refused[0].at_us)[:10]} on"
    )
    return (
        f"replay: scenario {scenario!r} has no version to begin with{tried}. At {format_time(last.at_us)}: {last.why} "
        "Start later (--start), so that there is more history, loosen the scenario's gate, or compare "
        'policies without a gate: --policy "ungated 30d".'
    )


def _request(scenarios: Sequence[Scenario]) -> Request:
    """The request that all scenarios answer."""
    requests = {one.deployment.model.request.name: one.deployment.model.request for one in scenarios}
    if len(requests) != 1:
        raise Misuse(
            f"replay: found {len(requests)} requests ({', '.join(requests)}), needed one. Replay one at a time."
        )
    return next(iter(requests.values()))


def _distinct(scenarios: Sequence[Scenario]) -> list[FeatureSet]:
    features = [one.deployment.model.features for one in scenarios]
    return list({one.hash: one for one in features}.values())


def _needed_sources(scenarios: Sequence[Scenario], sources: Sequence[Source]) -> list[Source]:
    """The sources that views and labels read, in declared order, without the request."""
    needed = {view.source.name for one in scenarios for view in one.deployment.model.features.views}
    needed |= {one.deployment.model.label.source.name for one in scenarios}
    return [source for source in sources if source.name in needed]
