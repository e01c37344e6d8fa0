"""A year in a minute: recorded history through the same code as in service, in virtual time, for several policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab import store
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse
from trimtab.core.records import Decision
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.core.urls import store_url
from trimtab.events.columns.history import History
from trimtab.events.definitions import Source
from trimtab.events.quarantine import Quarantine
from trimtab.features.definitions import Label
from trimtab.features.feature_set import FeatureSet
from trimtab.simulation.faults import OF_DATA, Fault
from trimtab.simulation.faulty_tables import recorded_labels, with_faults
from trimtab.simulation.feed import Feed
from trimtab.simulation.results import ReplayResult, ScenarioResult
from trimtab.simulation.scenarios.rows import AnsweredRows, Block, Questions
from trimtab.simulation.scenarios.world import Answers, Scenario, Shared, World, made_ahead
from trimtab.simulation.spot_check import SpotCheck
from trimtab.simulation.streams import Stream


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a replay stands after a stretch, and what was decided at its end."""

    now_us: int
    predictions: int  # of all lines
    entered: int  # events
    decisions: list[tuple[str, Decision]]  # by line


class Replay:
    """Replays recorded events and requests from `start_us` to `until_us`, all lines side by side.

    What was known before `start_us` is loaded as history, each line is trained on it, and then time runs: between two
    control points (every midnight UTC, and the moments at which batches are made ahead) events enter the log, and the
    questions asked in between are answered in columns, each as of its own moment. At a control point every line closes
    days, looks at its quality and acts.

    Args:
        lines: What is compared.
        tables: Recorded events and requests, by source.
        sources: The sources' definitions.
        folder: Where the state goes, laid out as a project's; lines that are not `main` keep their own in `replay/`.
        start_us: When time begins to run.
        until_us: When it stops.
        seed: Same seed, same ledgers.
        sampled_rows: How many questions are also read through the online path and compared.
        look_every_us: The time between two looks at inputs, feeds and traffic, in whole hours: a service looks every
            hour, which takes a replay longer. 0: never, and no rows are left out for faulty inputs.
        stream: The generated stream that the tables are of, whose best answers and shifts are known.
        faults: What goes wrong, and when; quality is judged by the rows without them.
        progress: Called after each stretch.
    """

    def __init__(
        self,
        lines: Sequence[Scenario],
        tables: Mapping[str, Columns],
        sources: Sequence[Source],
        folder: Path,
        *,
        start_us: int,
        until_us: int,
        seed: int,
        sampled_rows: int = 0,
        look_every_us: int = 6 * HOUR_US,
        stream: Stream | None = None,
        faults: Sequence[Fault] = (),
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        if look_every_us % HOUR_US:
            raise Misuse(f"replay: look_every_us={look_every_us} is no number of whole hours.")
        if not lines or start_us >= until_us:
            raise Misuse(f"replay: {len(lines)} lines from {start_us} to {until_us} us. Give a line and a time to run.")
        self._lines = lines
        self._until_us = until_us
        self._start_us = start_us
        self._progress = progress
        self._truth = None if stream is None else stream.truth
        self._shifts = [] if stream is None else list(stream.shifts)
        self._faults = list(faults)
        self._folder = folder
        requests = {line.deployment.model.request.name: line.deployment.model.request for line in lines}
        if len(requests) > 1:
            raise Misuse(f"replay: lines answer different requests ({', '.join(requests)}). Replay one at a time.")
        request = next(iter(requests.values()))
        needed = _needed_sources(lines, sources)
        missing = [s.name for s in (*needed, request.source) if s.name not in tables]
        if missing:
            raise Misuse(f"replay: no recorded events of {', '.join(missing)}. Load them first.")
        self._recorded = tables
        tables = with_faults(tables, faults, [*needed, request.source], lines[0].deployment.model)
        self._clock = VirtualClock(start_us)
        self._logs = {
            s.name: store.open(
                f"{store_url('sqlite', folder / 'log' / 'events')}?mode=relaxed", "log", clock=self._clock
            )
            for s in (*needed, request.source)
        }
        self._quarantine_log = store.open(
            f"{store_url('sqlite', folder / 'log' / 'quarantine')}?mode=relaxed", "log", clock=self._clock
        )
        self._feed = Feed(
            tables,
            [*needed, request.source],
            [request],
            self._logs,
            clock=self._clock,
            quarantine=Quarantine(self._quarantine_log),
        )
        self._history = History(self._logs[request.name], needed)
        self._rows = AnsweredRows(Questions(request, tables[request.name]), self._history)
        self._feature_sets = _distinct(lines)
        self._blob = store.open(store_url("file", folder / "blob"), "blob")
        self.worlds: dict[str, World] = {}
        self._seed = seed
        self._look_every_us = look_every_us
        self._check = SpotCheck(self._lines[0].deployment.model.features, folder, sampled_rows, seed)

    def run(self) -> ReplayResult:
        """Replay everything; what was found."""
        entered = self._feed.load_history(self._start_us)
        accepted, quarantined = entered.accepted, entered.quarantined
        self._history.refresh()
        self._rows.answer(self._feature_sets, self._start_us)
        self._check.choose(self._rows.asked_before(self._start_us), self._rows.asked_before(self._until_us))
        first_row = self._rows.count
        shared = Shared.new()
        for number, line in enumerate(self._lines):
            folder = self._folder if line.main else self._folder / "replay" / f"{number:02d}"
            world = World(
                line,
                folder,
                self._rows,
                self._blob,
                shared,
                clock=self._clock,
                seed=self._seed,
                look_every_us=self._look_every_us,
                faults=self._faults,
            )
            self.worlds[line.name] = world
        self._show(accepted, self._tick())
        ahead: dict[str, list[tuple[Block, Answers]]] = {line.name: [] for line in self._lines}
        for point_us in self._control_points():
            entered = self._feed.advance(point_us)
            accepted += entered.accepted
            quarantined += entered.quarantined
            self._history.refresh()
            blocks = self._rows.answer(self._feature_sets, point_us)
            self._answer(blocks, ahead, point_us)
            self._check.compare(blocks[self._lines[0].deployment.model.features.hash])
            self._clock.advance_to(point_us)
            self._make_ahead(point_us, ahead)
            # At midnight only, not when another line's batch is due: lines do not touch each other.
            self._show(accepted, self._tick() if point_us % DAY_US == 0 else [])
        return self._result(first_row, accepted, quarantined)

    def close(self) -> None:
        for world in self.worlds.values():
            world.close()
        self._check.close()
        for log in (*self._logs.values(), self._quarantine_log):
            log.close()
        self._blob.close()

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _control_points(self) -> list[int]:
        """Every midnight, every moment at which a batch is made ahead, and the end."""
        first = self._start_us // DAY_US
        last = self._until_us // DAY_US + 1
        times = {0} | {line.scored_at_us for line in self._lines if line.answers == "day_ahead"}
        points = {day * DAY_US + time for day in range(first, last + 1) for time in times} | {self._until_us}
        return sorted(p for p in points if self._start_us < p <= self._until_us)

    def _answer(
        self, blocks: Mapping[str, Block], ahead: Mapping[str, Sequence[tuple[Block, Answers]]], until_us: int
    ) -> None:
        """Every line answers a stretch: live ones first, then those whose answers were made ahead."""
        live: dict[str, Answers] = {}
        for name, world in sorted(self.worlds.items(), key=lambda item: item[1].line.answers != "live"):
            block = blocks[world.line.deployment.model.features.hash]
            if world.line.answers == "live":
                answers = live[name] = world.answer(block)
            else:
                answers = made_ahead(ahead[name], block, live[world.line.like])
            world.log(block, answers, until_us)

    def _make_ahead(self, point_us: int, ahead: dict[str, list[tuple[Block, Answers]]]) -> None:
        """Score the coming day for every line whose batch is due now."""
        for line in self._lines:
            if line.answers != "day_ahead" or point_us % DAY_US != line.scored_at_us:
                continue
            start_us = point_us + line.ahead_us
            block = self._rows.ahead(line.deployment.model.features, point_us, start_us, start_us + DAY_US)
            rival = self.worlds[line.like]
            ahead[line.name] = [*ahead[line.name][-1:], (block, rival.answer(block))]

    def _tick(self) -> list[tuple[str, Decision]]:
        """Every line with a loop of its own looks at what is new and acts."""
        decisions: list[tuple[str, Decision]] = []
        for name, world in self.worlds.items():
            if world.line.answers == "live":
                decisions += [(name, decision) for decision in world.tick()]
        return decisions

    def _show(self, accepted: int, decisions: list[tuple[str, Decision]]) -> None:
        if self._progress is not None:
            answered = sum(len(scores) for world in self.worlds.values() for scores in world.scores)
            self._progress(
                Progress(now_us=self._clock.now_us(), predictions=answered, entered=accepted, decisions=decisions)
            )

    def _keep_learners(self) -> None:
        with closing(store.open(store_url("lmdb", self._folder / "learners"), "kv")) as learners:
            for world in self.worlds.values():
                if world.line.main:
                    world.keep_learner(learners)

    def _result(self, first_row: int, accepted: int, quarantined: int) -> ReplayResult:
        rows = slice(first_row, self._rows.count)
        at_us = self._rows.at_us(rows)
        verdict = self._check.finish()
        self._keep_learners()
        lines = {name: self._of_line(world, rows, at_us) for name, world in self.worlds.items()}
        return ReplayResult(
            start_us=self._start_us,
            until_us=self._until_us,
            lines=lines,
            entered=accepted,
            quarantined=quarantined,
            checked_rows=verdict.rows,
            checked_values=verdict.values,
            mismatches=verdict.mismatches,
            first_mismatch=verdict.first,
            faults=self._faults,
            shifts=self._shifts,
            optimum=self._optimum(rows, lines[self._lines[0].name]),
        )

    def _optimum(self, rows: slice, like: ScenarioResult) -> ScenarioResult | None:
        """The best answers to the same questions, as one more line."""
        if self._truth is None:
            return None
        return msgspec.structs.replace(
            like,
            name="optimum",
            scores=self._truth.best_of(self._rows.keys(rows)),
            decisions=[],
            signals=[],
            input_signals=[],
            versions=None,
            fits=0,
            fitted_rows=0,
            cpu_s=0.0,
        )

    def _of_line(self, world: World, rows: slice, at_us: NDArray[Any]) -> ScenarioResult:
        model = world.line.deployment.model
        return ScenarioResult(
            name=world.line.name,
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
        )

    def _labels(self, label: Label, rows: slice) -> NDArray[Any]:
        """The labels of some questions, those that were known in the end; without faults those that were recorded."""
        if any(one.kind in OF_DATA for one in self._faults):
            table = self._recorded[label.source.name]
            return recorded_labels(label, table, self._rows.keys(rows), until_us=self._until_us)
        return self._rows.labels(label, rows, np.iinfo(np.int64).max // 2)


def _distinct(lines: Sequence[Scenario]) -> list[FeatureSet]:
    return list({line.deployment.model.features.hash: line.deployment.model.features for line in lines}.values())


def _needed_sources(lines: Sequence[Scenario], sources: Sequence[Source]) -> list[Source]:
    """What the lines' views and labels read, in declared order, requests aside."""
    needed = {v.source.name for line in lines for v in line.deployment.model.features.views}
    needed |= {line.deployment.model.label.source.name for line in lines}
    return [source for source in sources if source.name in needed]
