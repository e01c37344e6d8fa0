from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from rig import Bench, Crash, Fragile, Rig, target

from trimtab import store
from trimtab.core.errors import Conflict, Misuse, NotFound, Unavailable
from trimtab.core.records import ChangeOnset
from trimtab.core.time import DAY_US
from trimtab.monitoring.inputs.red_windows import RedWindow, released
from trimtab.monitoring.quality.watches import Watch
from trimtab.steering.candidates.ports import Repair, Stored
from trimtab.steering.causes import every, on_quality_drop
from trimtab.steering.definitions import deployment
from trimtab.steering.loop_state import Changes
from trimtab.store import Catalog, Put, Remove


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with store.open(f"sqlite://{tmp_path}/catalog.db", "catalog") as opened:
        yield opened


@pytest.mark.fast
def test_the_first_tick_trains_and_promotes_when_nothing_is_in_service(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True]), deployment(target))
    assert [d.act for d in rig.controller.tick()] == ["trigger", "train", "gate", "promote"]
    assert rig.controller.tick() == []


def test_a_healthy_month_changes_nothing(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True]), deployment(target, retrain=on_quality_drop()))
    rig.controller.tick()
    assert rig.days(30, 0.3) == []


def test_a_quality_drop_waits_for_labels_from_after_it_began_and_then_repairs(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True, True]), deployment(target, retrain=on_quality_drop(), settle="10d"))
    rig.controller.tick()
    rig.days(10, 0.3)
    assert rig.days(30, 0.4)[:5] == ["trigger", "wait", "train", "gate", "promote"]
    wait, train = (next(d for d in rig.ledger.rows()[4:] if d.act == act) for act in ("wait", "train"))
    onset_us = next(d for d in rig.ledger.rows()[4:] if d.act == "trigger").evidence["onset_us"]
    assert isinstance(onset_us, int)
    assert train.at_us >= onset_us + 12 * DAY_US > wait.at_us


def test_a_refused_candidate_doubles_the_quiet_time(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True, False, False, False]), deployment(target, retrain=on_quality_drop(), settle="1d"))
    rig.controller.tick()
    rig.days(10, 0.3)
    rig.days(80, 0.4)
    refused = [d.at_us // DAY_US for d in rig.ledger.rows() if d.act == "refuse"]
    # half of 7, 14 and 28 days, as long as the days since the change are fewer than that
    assert [b - a for a, b in pairwise(refused)][:3] == [4, 7, 14]


def test_a_schedule_counts_from_the_training_in_service_and_a_refusal_is_tried_again_after_the_quiet_time(
    catalog: Catalog,
) -> None:
    rig = Rig(catalog, Bench([True, False, True]), deployment(target, retrain=every("10d")))
    rig.controller.tick()
    rig.days(25, 0.3)
    trained = [d.at_us // DAY_US for d in rig.ledger.rows() if d.act == "train"]
    assert trained == [100, 110, 117]


def test_a_repair_waits_while_it_cannot_be_judged(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True, True]), deployment(target, retrain=every("10d")))
    rig.controller.tick()
    rig.bench.lack = "only 3 unseen days"
    assert rig.days(15, 0.3) == ["trigger"]
    rig.bench.lack = None
    assert rig.days(1, 0.3) == ["train", "gate", "promote"]


def test_a_repair_that_waits_looks_for_its_days_a_few_times_a_day_and_at_once_when_one_was_closed(
    catalog: Catalog,
) -> None:
    """A look may build a whole training set, and a service ticks every minute."""
    rig = Rig(catalog, Bench([True, True]), deployment(target, retrain=every("10d")))
    rig.controller.tick()
    rig.bench.lack = "only 3 unseen days"
    rig.days(12, 0.3)
    before = rig.bench.looks
    for _ in range(23 * 60):
        rig.clock.advance_to(rig.clock.now_us() + 60_000_000)
        rig.open()  # as a scheduler's processes, one after the other
        assert rig.controller.tick() == []
    assert rig.bench.looks - before == 3
    assert rig.controller.state.lack == "only 3 unseen days"
    rig.bench.lack = None
    assert rig.controller.tick() == []
    assert rig.days(1, 0.3) == ["train", "gate", "promote"]
    assert rig.controller.state.lack == ""


def test_a_repair_that_waits_looks_at_once_after_rows_were_released(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True, True]), deployment(target, retrain=every("10d")))
    rig.controller.tick()
    rig.bench.lack = "only 3 unseen days"
    rig.days(12, 0.3)
    rig.bench.lack = None
    assert rig.controller.tick() == []
    window = RedWindow(id="w", model="click", kind="nulls", subject="price", start_us=0, end_us=1)
    catalog.write([Put("red_window", "click/w", msgspec.json.encode(window))])
    assert rig.controller.tick() == []
    _, changes = released(catalog, "click", "w", why="Meant.", actor="Ada", now_us=rig.clock.now_us())
    catalog.write(changes)
    assert [d.act for d in rig.controller.tick()] == ["train", "gate", "promote"]


def test_a_person_who_asks_for_a_training_is_told_by_a_new_look(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True, True]), deployment(target, retrain=every("10d")))
    rig.controller.tick()
    rig.bench.lack = "only 3 unseen days"
    rig.days(11, 0.3)
    rig.bench.lack = None
    assert [d.act for d in rig.controller.train("Ada")] == ["train", "gate", "promote"]


def test_a_restart_between_any_two_ticks_changes_no_decision(catalog: Catalog, tmp_path: Path) -> None:
    rules = deployment(target, retrain=on_quality_drop() | every("30d"), settle="3d")
    steady = Rig(catalog, Bench([True, False, True, True]), rules)
    steady.controller.tick()
    steady.days(10, 0.3)
    steady.days(40, 0.4)
    with store.open(f"sqlite://{tmp_path}/other.db", "catalog") as other:
        shaky = Rig(other, Bench([True, False, True, True]), rules)
        shaky.controller.tick()
        for loss, count in ((0.3, 10), (0.4, 40)):
            for _ in range(count):
                shaky.open()
                shaky.days(1, loss)
        assert shaky.ledger.rows() == steady.ledger.rows()


def test_freeze_stops_all_automation(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True]), deployment(target))
    catalog.write([Put("freeze", "all", b"{}")])
    assert rig.controller.tick() == []


def test_a_bad_promotion_cannot_reset_the_alarm_that_catches_it(catalog: Catalog) -> None:
    """The new version is held to its gate evidence (0.3), so what it really does (0.4) rings."""
    rig = Rig(
        catalog, Bench([True, True, True]), deployment(target, retrain=on_quality_drop() | every("10d"), settle="1d")
    )
    rig.controller.tick()
    rig.days(10, 0.3)  # the second version is promoted by schedule at the end of this
    assert rig.bench.in_service == "v2"
    rig.days(30, 0.4)
    causes = [d.cause for d in rig.ledger.rows() if d.act == "trigger"]
    assert any(cause.startswith("Quality alarm") for cause in causes)


# --- crashes


def shaken(catalog: Catalog, crash: Callable[[Rig], None]) -> Rig:
    """A first version, ten quiet days, and a repair by schedule that a crash interrupts; then a restart and a tick."""
    rig = Rig(catalog, Bench([True, True, True]), deployment(target, retrain=every("10d")))
    rig.controller.tick()
    rig.days(9, 0.3)
    rig.clock.advance_to(rig.clock.now_us() + DAY_US)
    crash(rig)
    rig.open()
    rig.controller.tick()
    rig.open()
    assert rig.controller.tick() == []
    return rig


def what_stands(rig: Rig) -> tuple[list[tuple[str, str, str | None]], object, object]:
    rig.ledger.verify()
    acts = [(d.act, d.cause, d.replaced) for d in rig.ledger.rows()]
    return acts, rig.controller.state, rig.monitor.watch


def as_if_named_alike(rig: Rig) -> tuple[object, Watch]:
    """State and watch; a candidate that was made anew has another name."""
    watch = rig.monitor.watch
    assert watch is not None
    assert watch.version == rig.bench.in_service
    short = watch.short
    if short is not None:
        days = tuple(msgspec.structs.replace(day, version="v") for day in short.days)
        short = msgspec.structs.replace(short, days=days)
    state = msgspec.structs.replace(rig.controller.state, version="v")
    return state, msgspec.structs.replace(watch, version="v", short=short)


def ticked(rig: Rig) -> None:
    rig.controller.tick()


@pytest.fixture
def steady(tmp_path: Path) -> Iterator[Rig]:
    (tmp_path / "steady").mkdir()  # a catalogue has its folder alone: the head of its ledger lies next to it
    with store.open(f"sqlite://{tmp_path}/steady/catalog.db", "catalog") as other:
        yield shaken(other, ticked)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("last", [1, 2, 3])
def test_a_crash_at_any_write_of_a_repair_leaves_what_an_uninterrupted_one_does(
    catalog: Catalog, steady: Rig, last: int, after: bool
) -> None:
    def crash(rig: Rig) -> None:
        rig.open(Fragile(catalog, last, after=after))
        with pytest.raises(Crash):
            rig.controller.tick()

    assert [d.act for d in steady.ledger.rows()[4:]] == ["trigger", "train", "gate", "promote"]
    interrupted = shaken(catalog, crash)
    assert what_stands(interrupted)[0] == what_stands(steady)[0]
    stands, expected = (as_if_named_alike(rig) for rig in (interrupted, steady))
    assert stands == expected


@pytest.mark.parametrize("step", ["before the alias moves", "after the alias moved"])
def test_a_crash_around_the_move_of_the_alias_is_finished_by_the_next_tick(
    catalog: Catalog, steady: Rig, step: str
) -> None:
    def crash(rig: Rig) -> None:
        def fall(name: str) -> None:
            if name == step:
                raise Crash

        rig.bench.steps = fall
        with pytest.raises(Crash):
            rig.controller.tick()
        rig.bench.steps = lambda name: None

    interrupted = shaken(catalog, crash)
    assert what_stands(interrupted) == what_stands(steady)
    assert interrupted.bench.made == 2  # nothing was trained again


def test_a_candidate_that_was_overtaken_before_its_promotion_is_refused(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True, True]), deployment(target, retrain=every("10d")))
    rig.controller.tick()
    rig.bench.overtaken_by = "v9"
    assert rig.days(10, 0.3) == ["trigger", "train", "gate", "refuse"]
    assert "the champion is now v9" in rig.ledger.rows()[-1].cause
    assert rig.controller.state.phase == "idle"
    assert rig.monitor.watch is not None
    assert rig.monitor.watch.version == "v1"


# --- several at once


def test_a_second_process_cannot_write_over_what_the_first_decided(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True, True]), deployment(target, retrain=every("10d")))
    stale = rig.controller
    rig.open()
    rig.controller.tick()
    with pytest.raises(Conflict):
        stale.tick()
    assert [d.act for d in rig.ledger.rows()] == ["trigger", "train", "gate", "promote"]
    stale.reload()
    assert stale.tick() == []


# --- refusals and failures


def test_a_first_candidate_that_is_refused_is_not_made_again_before_the_quiet_time_is_over(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([False, False, True]), deployment(target, cooldown="3d"))
    assert [d.act for d in rig.controller.tick()] == ["trigger", "train", "gate", "refuse"]
    made = []
    for _ in range(9):
        rig.clock.advance_to(rig.clock.now_us() + DAY_US)
        rig.controller.tick()
        made.append(rig.bench.made)
    assert made == [1, 1, 2, 2, 2, 2, 2, 2, 3]


def test_a_fit_that_fails_is_written_down_and_rests_while_the_champion_stays(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True, None, True]), deployment(target, retrain=every("10d")))
    rig.controller.tick()
    assert rig.days(16, 0.3) == ["trigger", "failed"]
    failed = rig.ledger.rows()[-1]
    assert "all 10 labels are 0" in failed.cause
    assert failed.evidence["cause"] == "Schedule: the version in service was trained at least 10d ago."
    assert rig.bench.in_service == "v1"
    assert rig.days(1, 0.3) == ["trigger", "train", "gate", "promote"]


def test_a_person_whose_training_fails_hears_why_and_the_ledger_too(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([None]), deployment(target))
    with pytest.raises(Misuse, match="all 10 labels are 0"):
        rig.controller.train("Ada")
    (row,) = rig.ledger.rows()
    assert (row.act, row.evidence["cause"]) == ("failed", "Requested by Ada.")
    assert rig.controller.state.phase == "idle"


@pytest.mark.parametrize("person", [True, False])
def test_what_cannot_be_fitted_here_fails_for_a_person_and_is_tried_again_by_a_tick(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, person: bool
) -> None:
    rig = Rig(catalog, Bench([True, True]), deployment(target, retrain=every("10d")))
    rig.controller.tick()
    rig.days(9, 0.3)

    def unavailable(*_: object) -> Repair:
        raise Unavailable("runtime lightgbm: the system's OpenMP library is missing.")

    with monkeypatch.context() as patch:
        patch.setattr(rig.bench, "repair", unavailable)
        with pytest.raises(Unavailable, match="OpenMP"):
            rig.controller.train("Ada") if person else rig.days(7, 0.3)
    assert rig.ledger.rows()[-1].act == ("failed" if person else "trigger")
    assert rig.controller.state.phase == ("idle" if person else "waiting")
    assert [d.act for d in rig.controller.tick()] == ([] if person else ["train", "gate", "promote"])


def test_the_quiet_time_grows_to_eight_times_the_declared_one(catalog: Catalog) -> None:
    rules = deployment(target, retrain=on_quality_drop(), settle="1d", cooldown="1d")
    rig = Rig(catalog, Bench([True]), rules)
    rig.controller.tick()
    rig.days(10, 0.3)
    rig.days(60, 0.4)
    refused = [d.at_us // DAY_US for d in rig.ledger.rows() if d.act == "refuse"]
    assert [b - a for a, b in pairwise(refused)][:6] == [1, 2, 4, 6, 8, 8]


def test_a_refused_schedule_is_tried_again_after_its_period_at_the_latest(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True]), deployment(target, retrain=every("30d")))
    rig.controller.tick()
    rig.days(180, 0.3)
    refused = [d.at_us // DAY_US for d in rig.ledger.rows() if d.act == "refuse"]
    assert [b - a for a, b in pairwise(refused)] == [7, 14, 28, 30, 30, 30]


def test_a_project_without_any_request_waits(catalog: Catalog) -> None:
    class Empty(Bench):
        def blocked(self, cut_us: int, changes: Changes) -> str | None:
            raise NotFound("no request is known")

    rig = Rig(catalog, Empty([True]), deployment(target))
    assert [d.act for d in rig.controller.tick()] == ["trigger"]
    assert rig.controller.tick() == []
    with pytest.raises(NotFound, match="no request is known"):
        rig.controller.train("Ada")


# --- freeze


def freeze(catalog: Catalog) -> None:
    catalog.write([Put("freeze", "all", b'"a test"')])


def test_training_while_frozen_is_refused_with_the_way_out(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True]), deployment(target))
    freeze(catalog)
    with pytest.raises(Conflict, match=r"frozen \(a test\).*trimtab unfreeze"):
        rig.controller.train("Ada")
    assert (rig.bench.made, rig.ledger.rows()) == (0, [])


def test_a_freeze_during_training_stops_the_repair_before_the_gate(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True, True]), deployment(target))
    rig.bench.meanwhile = lambda: freeze(catalog)
    assert [d.act for d in rig.controller.tick()] == ["trigger"]
    assert (rig.bench.in_service, rig.bench.made) == (None, 0)
    with pytest.raises(Conflict, match="frozen"):
        rig.controller.train("Ada")


def test_a_freeze_after_the_gate_holds_the_promotion_until_it_is_lifted(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True]), deployment(target))

    def fall(name: str) -> None:
        raise Crash

    rig.bench.steps = fall
    with pytest.raises(Crash):
        rig.controller.tick()
    rig.bench.steps = lambda name: None
    freeze(catalog)
    rig.open()
    assert rig.controller.tick() == []
    assert rig.bench.in_service is None
    catalog.write([Remove("freeze", "all")])
    assert [d.act for d in rig.controller.tick()] == ["promote"]


def test_a_blocked_training_says_what_is_missing(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True]), deployment(target))
    rig.bench.lack = "Only 3 days."
    with pytest.raises(Unavailable, match=r"train 'click': Only 3 days\."):
        rig.controller.train("Ada")


def test_a_state_of_before_promotions_were_stored_is_read(catalog: Catalog) -> None:
    old = msgspec.json.encode({"phase": "idle", "cooldown_us": DAY_US, "trained_at_us": 5})
    catalog.write([Put("loop", "click", old)])
    rig = Rig(catalog, Bench([True]), deployment(target))
    assert (rig.controller.state.trained_at_us, rig.controller.state.repair) == (5, None)


# --- approval


def asked(catalog: Catalog, verdicts: list[bool | None]) -> Rig:
    """A first version that waits for approval, with two days to answer."""
    rig = Rig(catalog, Bench(verdicts), deployment(target, approval="2d", retrain=every("10d")))
    assert [d.act for d in rig.controller.tick()] == ["trigger", "train", "gate", "ask"]
    return rig


def later(rig: Rig, days: int) -> list[str]:
    rig.clock.advance_to(rig.clock.now_us() + days * DAY_US)
    return [d.act for d in rig.controller.tick()]


@pytest.mark.fast
def test_a_candidate_that_passed_waits_for_approval_and_a_restart_keeps_it(catalog: Catalog) -> None:
    rig = asked(catalog, [True])
    rig.open()
    assert rig.controller.state.phase == "waiting for approval"
    assert later(rig, 1) == []
    assert rig.bench.in_service is None
    rig.open()
    assert [d.act for d in rig.controller.approve("Ada", "Looked at the slices.")] == ["approve", "promote"]
    row = next(d for d in rig.ledger.rows() if d.act == "approve")
    assert (row.actor, row.cause, row.version, row.evidence["gate"]) == ("Ada", "Looked at the slices.", "v1", "g1")
    assert (rig.bench.in_service, rig.controller.state.phase) == ("v1", "idle")
    assert rig.controller.state.repair is None
    assert rig.ledger.rows()[-1].actor == "Ada"  # it was a person who let it take over


def test_without_an_answer_the_candidate_is_dropped_and_the_cooldown_doubles(catalog: Catalog) -> None:
    rig = asked(catalog, [True, True])
    assert later(rig, 2) == ["expire"]
    row = rig.ledger.rows()[-1]
    assert row.cause.startswith("No one approved or rejected the candidate by ")
    assert (row.version, rig.bench.in_service, rig.controller.state.repair) == ("v1", None, None)
    assert later(rig, 6) == []
    assert later(rig, 1) == ["trigger", "train", "gate", "ask"]
    assert rig.controller.state.cooldown_us == 14 * DAY_US
    rig.controller.reject("Ada", "no")
    with pytest.raises(Conflict, match="no candidate waits for approval"):
        rig.controller.approve("Ada", "yes")


def test_an_answer_after_the_time_is_a_conflict_and_the_ledger_says_that_nobody_answered(catalog: Catalog) -> None:
    rig = asked(catalog, [True])
    rig.clock.advance_to(rig.clock.now_us() + 3 * DAY_US)
    with pytest.raises(Conflict, match=r"No one approved or rejected .* The candidate was dropped"):
        rig.controller.approve("Ada", "yes")
    assert [d.act for d in rig.ledger.rows()][-1] == "expire"
    assert rig.bench.in_service is None


def test_a_rejected_candidate_is_dropped_with_who_and_why(catalog: Catalog) -> None:
    rig = asked(catalog, [True])
    with pytest.raises(Misuse, match="reject 'click': no reason is given"):
        rig.controller.reject("Ada", " ")
    assert [d.act for d in rig.controller.reject("Ada", "Days of the strike.")] == ["reject"]
    row = rig.ledger.rows()[-1]
    assert (row.actor, row.cause, rig.bench.in_service) == ("Ada", "Days of the strike.", None)
    assert rig.controller.state.quiet_until_us == rig.clock.now_us() + 7 * DAY_US


@pytest.mark.parametrize("noticed_by", ["approve", "tick"])
def test_a_candidate_whose_champion_was_changed_meanwhile_cannot_be_approved(catalog: Catalog, noticed_by: str) -> None:
    rig = asked(catalog, [True])
    rig.bench.in_service = "v9"
    if noticed_by == "tick":
        assert later(rig, 1) == ["refuse"]
    with pytest.raises(Conflict, match="the champion is now v9" if noticed_by == "approve" else "no candidate waits"):
        rig.controller.approve("Ada", "yes")
    assert "compared with no version, but the champion is now v9" in rig.ledger.rows()[-1].cause
    assert (rig.bench.in_service, rig.controller.state.phase) == ("v9", "idle")


def test_nobody_trains_or_approves_while_a_candidate_waits_or_automation_is_frozen(catalog: Catalog) -> None:
    rig = asked(catalog, [True, True])
    with pytest.raises(Conflict, match=r"A candidate waits for approval until .*trimtab approve click"):
        rig.controller.train("Ada")
    freeze(catalog)
    with pytest.raises(Conflict, match="frozen"):
        rig.controller.approve("Ada", "yes")
    assert later(rig, 5) == []
    catalog.write([Remove("freeze", "all")])
    assert later(rig, 0) == ["expire"]


def test_a_person_may_reject_the_waiting_candidate_while_automation_is_frozen(catalog: Catalog) -> None:
    rig = asked(catalog, [True])
    freeze(catalog)
    assert [d.act for d in rig.controller.reject("Ada", "It is not needed any more.")] == ["reject"]
    assert (rig.controller.state.phase, rig.bench.in_service) == ("idle", None)


@pytest.mark.parametrize("step", ["before the alias moves", "after the alias moved"])
def test_a_crash_after_an_approval_is_finished_by_the_next_tick(catalog: Catalog, step: str) -> None:
    rig = asked(catalog, [True])

    def fall(name: str) -> None:
        if name == step:
            raise Crash

    rig.bench.steps = fall
    with pytest.raises(Crash):
        rig.controller.approve("Ada", "yes")
    rig.bench.steps = lambda name: None
    rig.open()
    assert later(rig, 0) == ["promote"]
    assert [d.act for d in rig.ledger.rows()] == ["trigger", "train", "gate", "ask", "approve", "promote"]


# --- a person puts a named version in service


def test_whoever_asks_is_named_in_every_row_that_follows(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True, False]), deployment(target))
    acted = [(d.act, d.actor) for d in rig.controller.train("Ada")]
    assert acted == [("train", "Ada"), ("gate", "Ada"), ("promote", "Ada")]
    assert rig.controller.state.asked_by is None
    acted = [(d.act, d.actor) for d in rig.controller.train("Eve")]
    assert acted == [("train", "Eve"), ("gate", "Eve"), ("refuse", "Eve")]


@pytest.mark.parametrize("step", ["before the alias moves", "after the alias moved"])
def test_a_promotion_by_name_that_was_killed_is_finished_once_by_the_next_tick(catalog: Catalog, step: str) -> None:
    rig = Rig(catalog, Bench([True]), deployment(target))

    def fall(name: str) -> None:
        if name == step:
            raise Crash

    rig.bench.steps = fall
    with pytest.raises(Crash):
        rig.controller.promote(Stored(version="v7"), "Ada", "By hand.")
    rig.bench.steps = lambda name: None
    rig.open()
    assert later(rig, 0) == ["promote"]
    row = rig.ledger.rows()[-1]
    assert (rig.bench.in_service, row.actor, row.cause) == ("v7", "Ada", "By hand.")
    assert rig.controller.state.trained_at_us == 7 * DAY_US  # the schedule counts from its own data
    assert [d.act for d in rig.ledger.rows()] == ["gate", "promote"]


def test_a_refusal_by_name_leaves_a_repair_that_waits_as_it_is(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True, False]), deployment(target, retrain=every("10d")))
    rig.controller.tick()
    rig.bench.lack = "only 3 unseen days"
    assert rig.days(10, 0.3) == ["trigger"]
    before = rig.controller.state
    assert before.phase == "waiting"
    assert [d.act for d in rig.controller.promote(Stored(version="v7"), "Ada", "")] == ["gate", "refuse"]
    assert rig.controller.state == before
    assert rig.bench.in_service == "v1"


# --- causes with quiet times of their own


def test_refusals_of_the_schedule_delay_no_alarm(catalog: Catalog) -> None:
    rules = deployment(target, retrain=on_quality_drop() | every("14d"), settle="1d", cooldown="7d")
    rig = Rig(catalog, Bench([True, False, False, False]), rules)
    rig.controller.tick()
    rig.days(22, 0.3)
    assert rig.controller.state.quiet_until_us == rig.clock.now_us() + 13 * DAY_US  # the second refusal in a row
    rig.bench.verdicts = [True]
    rig.days(8, 0.4)
    acts = [(d.act, d.cause) for d in rig.ledger.rows()[-5:]]
    assert ("trigger", "Quality alarm: quality_loss.") in acts
    assert acts[-1][0] == "promote"


def test_a_scheduled_refit_is_told_of_an_alarm(catalog: Catalog) -> None:
    """So that it does not take a sudden change for a slow one, and also tries the days since the change."""
    bench = Bench([True, True, False, True])
    rig = Rig(catalog, bench, deployment(target, retrain=on_quality_drop() | every("20d"), settle="1d"))
    rig.controller.tick()
    rig.days(21, 0.3)
    assert bench.changes == Changes(refreshes=True)
    while not bench.changes.alarming or bench.changes.onset is not None:  # the alarm's own repair is refused
        rig.days(1, 0.4)
    standing = bench.changes.standing
    assert standing is not None
    assert bench.changes == Changes(refreshes=True, alarming=True, standing=standing)
    rig.rules = deployment(target, retrain=every("20d"))
    rig.open()
    rig.days(20, 0.4)
    assert bench.changes == Changes(refreshes=True)  # nothing else will repair it
    rig.rules = deployment(target, retrain=on_quality_drop() | every("20d"), settle="1d", cooldown="60d")
    rig.open()
    bench.verdicts = [False, True]  # of the alarm, and then of the schedule
    while "promote" not in rig.days(1, 0.4):
        pass
    assert bench.changes.refreshes
    assert bench.changes.standing is not None
    assert rig.controller.state.changes == Changes(repaired=bench.changes.standing)


def test_quality_that_falls_further_ends_the_quiet_time_of_a_refusal(catalog: Catalog) -> None:
    rules = deployment(target, retrain=on_quality_drop(), settle="1d", cooldown="30d")
    rig = Rig(catalog, Bench([True, False, True]), rules)
    rig.controller.tick()
    rig.days(10, 0.3)
    while "refuse" not in rig.days(1, 0.36):
        pass
    refused_us = rig.clock.now_us()
    rig.days(10, 0.36)
    assert rig.ledger.rows()[-1].act == "refuse"  # the same level: quiet
    rig.days(8, 0.9)
    first = next(d for d in rig.ledger.rows() if d.act == "trigger" and d.at_us > refused_us)
    assert (first.at_us - refused_us) // DAY_US <= 14  # a few days after the rise, long before the thirty are over
    assert rig.bench.in_service == "v3"


def test_an_alarm_whose_repair_could_hardly_be_better_waits_for_the_longest_time(catalog: Catalog) -> None:
    bench = Bench([True, False, False])
    rig = Rig(catalog, bench, deployment(target, retrain=on_quality_drop(), settle="1d", cooldown="7d"))
    rig.controller.tick()
    rig.days(10, 0.3)
    bench.difference, bench.bound = -0.0005, 0.001  # at best .002 better, of .5
    while "refuse" not in rig.days(1, 0.36):
        pass
    assert rig.controller.state.alarm_quiet_until_us == rig.clock.now_us() + 8 * 7 * DAY_US
    assert "lowered by less than 1 %" in rig.ledger.rows()[-1].cause
    rig.days(30, 0.36)
    assert rig.bench.made == 2
    rig.days(8, 0.9)  # a further rise does not wait
    assert rig.bench.made == 3


def test_a_repair_that_passes_by_its_margin_alone_and_repairs_nothing_is_not_put_in_service(catalog: Catalog) -> None:
    bench = Bench([True, True, True])
    rig = Rig(catalog, bench, deployment(target, retrain=on_quality_drop(), settle="1d", cooldown="7d"))
    rig.controller.tick()
    rig.days(10, 0.3)
    bench.difference, bench.bound = -0.0005, 0.001  # at best .002 better, of .5; a margin of -.002 allows it
    while "refuse" not in rig.days(1, 0.36):
        pass
    assert rig.controller.state.alarm_quiet_until_us == rig.clock.now_us() + 8 * 7 * DAY_US
    assert "It is not put in service, because it would repair nothing." in rig.ledger.rows()[-1].cause
    assert rig.controller.state.follow_ups_us == ()
    assert rig.bench.in_service == "v1"
    bench.difference, bench.bound = -0.2, -0.1
    rig.days(8, 0.9)  # a further rise does not wait
    assert rig.bench.in_service == "v3"


def test_a_repaired_change_is_followed_up_when_more_of_the_new_world_is_known(catalog: Catalog) -> None:
    bench = Bench([True, True, False, False])
    bench.folds = 2
    rig = Rig(catalog, bench, deployment(target, retrain=on_quality_drop(), settle="1d"))
    rig.controller.tick()
    rig.days(10, 0.3)
    while "promote" not in rig.days(1, 0.4):
        pass
    promoted = rig.ledger.rows()[-1]
    onset = bench.changes.onset
    assert onset is not None
    rig.days(40, 0.3)
    tried = [d for d in rig.ledger.rows() if d.act == "trigger" and d.at_us > promoted.at_us]
    assert [(d.at_us - promoted.at_us) // DAY_US for d in tried] == [9, 23]  # 7 and 21 days, and the label's two
    assert bench.changes == Changes(onset=onset, repaired=onset)  # by folds of the days since, as the repair
    assert rig.controller.state.cooldown_us == rig.controller.state.alarm_cooldown_us == 7 * DAY_US


@pytest.mark.parametrize(("before_days", "cooldown_days"), [(60, 14), (0, 56)])
def test_refusals_about_an_earlier_change_do_not_make_the_quiet_time_longer(
    catalog: Catalog, before_days: int, cooldown_days: int
) -> None:
    rig = Rig(catalog, Bench([True, False]), deployment(target, retrain=on_quality_drop(), settle="1d"))
    rig.controller.tick()
    rig.days(20, 0.3)
    at_us = rig.clock.now_us() - before_days * DAY_US
    tried = ChangeOnset(at_us=at_us, earliest_us=at_us, latest_us=at_us)
    rig.controller._record.write([], tried=tried, alarm_cooldown_us=28 * DAY_US)
    acts = rig.days(5, 0.6)
    assert "refuse" in acts
    assert rig.controller.state.alarm_cooldown_us == cooldown_days * DAY_US
