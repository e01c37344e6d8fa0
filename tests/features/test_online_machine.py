"""Views that are filled, rebuilt, applied to and compacted in any order, and stopped anywhere, against the oracle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from strategies import BASE_US, KEYED, KEYLESS, UNIT_US, views
from test_online import ASK, ENTITIES, check, feeds, pushed

from trimtab.events.records import Event, encode
from trimtab.features.definitions import View
from trimtab.features.feature_set import feature_set
from trimtab.features.online.compaction import Compaction
from trimtab.features.online.fill.fill import Filled, Filling, live_positions, mark_unfilled, sweep, unfilled
from trimtab.features.online.generations import id_of
from trimtab.features.online.packed.keys import KeySpace
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.features.online.store import POSITIONS_KEY, OnlineStore
from trimtab.store.ports import LogRecord
from trimtab.testing import MemoryKeyValue

nows = st.integers(-5, 70).map(lambda n: BASE_US + n * UNIT_US)


class Killed(BaseException):
    """The process is gone."""


class KillableKeyValue(MemoryKeyValue):
    """A store whose process is killed at a write: before it, and never half through."""

    left: int | None = None

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = ()) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed
        super().write(puts, deletes)


class RevealedLog:
    """As much of a log as has been written."""

    def __init__(self, records: Sequence[LogRecord]) -> None:
        self.records = records
        self.written = 0

    def read(self, partition: str, after: int, *, limit: int = 10_000) -> list[LogRecord]:
        found = [r for r in self.records[: self.written] if r.partition == partition and r.position > after]
        return found[:limit]

    def positions(self) -> dict[str, int]:
        return {r.partition: r.position for r in self.records[: self.written]}


class Online(RuleBasedStateMachine):
    """One store; its log is revealed bit by bit."""

    @initialize(data=st.data(), of=st.sampled_from([KEYED, KEYLESS]), made_by=st.sampled_from([feeds, pushed]))
    def begin(self, data: st.DataObject, of: Any, made_by: Any) -> None:
        self.source = of
        self.records, self.log = data.draw(made_by(of))
        self.views = [self._renamed(data.draw(views(of)), "v"), self._renamed(data.draw(views(of)), "w")]
        self.open()
        self.so_far: Any = RevealedLog(self.log)
        self.clock_us, self.others = BASE_US, 0
        self.declared = 1
        self.reached: dict[str, dict[str, int]] = {}
        self.restart()

    def open(self) -> None:
        """Open the store, and what reads from it."""
        self.kv: Any = self.open_store()
        self.plans = {v.name: RequestPlan(feature_set(ASK, [v]), self.kv) for v in self.views}
        self.both = RequestPlan(feature_set(ASK, self.views), self.kv)

    def open_store(self) -> Any:
        return KillableKeyValue()

    @staticmethod
    def _renamed(v: View, name: str) -> View:
        from msgspec.structs import replace

        return replace(v, name=name)

    @property
    def live(self) -> dict[str, int] | None:
        return live_positions(self.store)

    @precondition(lambda self: self.filling is None)
    @rule()
    def restart_in_peace(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.store = OnlineStore(self.kv, self.views[: self.declared])
        self.filling: Iterator[Filled] | None = None
        self.compaction = Compaction(self.store)

    @precondition(lambda self: self.declared == 1)
    @rule()
    def declare_the_other_view(self) -> None:
        self.declared = 2
        self.restart()

    @rule(n=st.integers(1, 8))
    def append(self, n: int) -> None:
        self.so_far.written = min(len(self.log), self.so_far.written + n)

    @rule(units=st.sampled_from([1, 3, 10, 45, 100]))
    def let_time_pass(self, units: int) -> None:
        """Records of another source, in a partition of its own, move S on."""
        self.clock_us += units * UNIT_US
        self.others += 1
        record = LogRecord("p2", self.others, self.clock_us, encode(Event("other", "i", 0, 0, "upsert", False, ())))
        self.log.insert(self.so_far.written, record)
        self.so_far.written += 1

    @rule(n=st.integers(1, 5))
    def apply(self, n: int) -> None:
        self._apply(n)

    def _apply(self, n: int) -> None:
        if unfilled(self.store) == list(self.store.plans) and not self.store.cursors():
            self.store.apply(self.log[: min(n, self.so_far.written)])  # it begins with the log
        elif self.live is not None:
            mark_unfilled(self.store, self.so_far)
            live = self.live
            new = [r for r in self.log[: self.so_far.written] if r.position > live.get(r.partition, 0)]
            self.store.apply(new[:n])

    @rule(data=st.data(), most_rows=st.sampled_from([1, 4, 100]))
    def begin_to_fill(self, data: st.DataObject, most_rows: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.store.plans)))
        self.filling = Filling(self.store, name, self.so_far, most_rows=most_rows).steps()

    @precondition(lambda self: self.filling is not None)
    @rule(n=st.sampled_from([1, 1, 2, 5, 100]), applied=st.integers(0, 3))
    def fill_on(self, n: int, applied: int) -> None:
        self._fill_on(n)
        if applied:
            self._apply(applied)

    def _fill_on(self, n: int) -> None:
        assert self.filling is not None
        for _ in range(n):
            if next(self.filling, None) is None:
                self.filling = None
                return

    @rule(data=st.data(), now_us=nows)
    def fill_while_records_are_applied(self, data: st.DataObject, now_us: int) -> None:
        self.begin_to_fill(data, data.draw(st.sampled_from([2, 100])))
        while self.filling is not None:
            self.append(data.draw(st.integers(0, 2), label="appended"))
            self._apply(data.draw(st.integers(0, 2), label="applied"))
            self._fill_on(data.draw(st.integers(1, 3), label="steps"))
            self.no_view_goes_back()
        self.ask(now_us)

    @rule(limit=st.sampled_from([1, 2, 100]), now_us=nows)
    def compact(self, limit: int, now_us: int) -> None:
        before = self._answers(now_us)
        self.compaction.step(limit)
        assert self._answers(now_us) == before

    def _answers(self, now_us: int) -> list[Any]:
        cursors = self.store.cursors()
        ready = [v for v in self.views[: self.declared] if self.store.plans[v.name].cursor_name in cursors]
        found = [self.plans[v.name].read([{"key": entity} for entity in ENTITIES], now_us) for v in ready]
        return [(rows.values, rows.reasons, rows.at_us) for rows in found]

    @rule(limit=st.sampled_from([1, 100]))
    def sweep(self, limit: int) -> None:
        if limit == 1:
            sweep(self.store, 1)
            return
        while sweep(self.store, limit):
            pass
        cursors = self.store.cursors()
        held = [
            prefix
            for name, c in cursors.items()
            for prefix in KeySpace.of(bytes.fromhex(id_of(name)), c.generation).all
        ]
        lost = [key for key, _ in self.kv.scan(b"") if key != POSITIONS_KEY and not key.startswith(tuple(held))]
        assert not lost

    @rule(left=st.integers(0, 6), what=st.sampled_from(["apply", "fill", "compact", "all"]))
    def be_killed(self, left: int, what: str) -> None:
        self.kv.left = left
        try:
            self._work(what)
        except Killed:
            self.restart()
        self.kv.left = None

    def _work(self, what: str) -> None:
        if what in ("apply", "all"):
            self._apply(3)
        if what in ("fill", "all"):
            if self.filling is None:
                self.filling = Filling(self.store, sorted(self.store.plans)[-1], self.so_far, most_rows=2).steps()
            self._fill_on(100)
        if what in ("compact", "all"):
            for _ in range(4):
                self.compaction.step(2)

    @rule(now_us=nows)
    def ask(self, now_us: int) -> None:
        cursors = self.store.cursors()
        for v in self.views[: self.declared]:
            if self.store.plans[v.name].cursor_name in cursors:
                check(self.plans[v.name], v, self.records, now_us)
        if self.declared == 2 and not unfilled(self.store):
            rows = [{"key": entity} for entity in ENTITIES]
            got = self.both.read(rows, now_us)
            alone = [plan.read(rows, now_us) for plan in self.plans.values()]
            assert [a.positions for a in alone] == [got.positions] * 2
            assert got.values == [one + other for one, other in zip(*(a.values for a in alone), strict=True)]

    @invariant()
    def each_record_counts_once(self) -> None:
        cursors = self.store.cursors()
        for name, plan in self.store.plans.items():
            cursor = cursors.get(plan.cursor_name)
            if cursor is not None:
                applied = [r for r in self.log if r.position <= cursor.positions.get(r.partition, 0)]
                mine = {(r.partition, r.position) for r in self.records}
                count = self.store.counts()[name]
                assert count.applied == sum((r.partition, r.position) in mine for r in applied)

    @invariant()
    def no_view_goes_back(self) -> None:
        for name, cursor in self.store.cursors().items():
            if len(name) == 16:  # one that is read
                before = self.reached.get(name, {})
                assert all(cursor.positions.get(p, 0) >= position for p, position in before.items())
                self.reached[name] = cursor.positions

    @invariant()
    def views_that_are_read_stand_at_one_place(self) -> None:
        cursors = self.store.cursors()
        places = [cursors[p.cursor_name].place for p in self.store.plans.values() if p.cursor_name in cursors]
        assert all(place == places[0] for place in places)


@pytest.mark.slow
def test_views_in_any_order_of_work_equal_the_oracle() -> None:
    run_state_machine_as_test(Online, settings=settings(max_examples=30, stateful_step_count=30, deadline=None))


@pytest.mark.soak
def test_views_in_any_order_of_work_equal_the_oracle_for_long() -> None:
    run_state_machine_as_test(Online, settings=settings(max_examples=3_000, stateful_step_count=40, deadline=None))
