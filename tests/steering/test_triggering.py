"""What starts a repair: causes joined by `|` and `&`, each with its quiet time and priority, within a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig import Bench, Rig, day, target

import trimtab as tt
from trimtab import store
from trimtab.core.errors import Misuse
from trimtab.core.records import ChangeOnset, Signal
from trimtab.core.time import DAY_US, duration_us
from trimtab.monitoring.quality.watches import MetricValue, Watch
from trimtab.stats.inference.edetector import AlarmState, learn_alarm, update_alarm
from trimtab.steering.causes import Every, OnNewLabels, Single, Triggers, parts_of_trigger
from trimtab.steering.definitions import deployment
from trimtab.steering.loop.budgets import spent_budget, with_fits
from trimtab.steering.loop.triggering import Seen, declares, find_trigger, outlook
from trimtab.steering.loop_state import REQUEST, Changes, LoopState, Quiet, Repair, Requested
from trimtab.store import Catalog, Put

NOW_US = 100 * DAY_US


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with store.open(f"sqlite://{tmp_path}/catalog.db", "catalog") as opened:
        yield opened


def seen(
    *, labels: int = 0, requested: Requested | None = None, signals: Sequence[Signal] = (), now_us: int = NOW_US
) -> Seen:
    return Seen(now_us, True, None, requested, lambda: labels, lambda name, onset: 0.0, lambda: signals)


# --- joined


@pytest.mark.fast
def test_triggers_are_joined_by_any_of_them_and_by_all_at_once() -> None:
    one, two, three = tt.on_new_labels(10), tt.every("30d"), tt.on_slice_drop()
    assert (one & two).any_of[0] == (Triggers((one,)) & Triggers((two,))).any_of[0]
    assert len(((one | two) & three).any_of) == 2
    assert {parts_of_trigger(t) for t in ((one | two) & three).any_of} == {(one, three), (two, three)}
    assert (one | one).any_of == (one,)


EXPRESSIONS = st.recursive(
    st.integers(0, 3).map(lambda n: ("leaf", n)),
    lambda inner: st.tuples(st.sampled_from("|&"), inner, inner),
    max_leaves=6,
)


def built(expression: tuple) -> Triggers:  # type: ignore[type-arg]
    if expression[0] == "leaf":
        return Triggers((Every((expression[1] + 1) * DAY_US),))
    left, right = built(expression[1]), built(expression[2])
    return left | right if expression[0] == "|" else left & right


def holds(expression: tuple, leaves: tuple[bool, ...]) -> bool:  # type: ignore[type-arg]
    if expression[0] == "leaf":
        return leaves[expression[1]]
    left, right = holds(expression[1], leaves), holds(expression[2], leaves)
    return left or right if expression[0] == "|" else left and right


@given(EXPRESSIONS)
def test_joined_triggers_hold_as_their_expression_says(expression: tuple) -> None:  # type: ignore[type-arg]
    made = built(expression)

    def of(part: Single, leaves: tuple[bool, ...]) -> bool:
        assert isinstance(part, Every)
        return leaves[part.period_us // DAY_US - 1]

    for leaves in product([False, True], repeat=4):
        found = any(all(of(part, leaves) for part in parts_of_trigger(one)) for one in made.any_of)
        assert found == holds(expression, leaves)


def test_both_of_two_joined_causes_must_hold_and_the_sentence_names_both() -> None:
    rules = deployment(target, retrain=tt.on_new_labels(5_000) & tt.every("30d"))
    assert find_trigger(rules, LoopState(trained_at_us=NOW_US - 29 * DAY_US), seen(labels=9_000)) is None
    assert find_trigger(rules, LoopState(trained_at_us=NOW_US - 30 * DAY_US), seen(labels=4_999)) is None
    found = find_trigger(rules, LoopState(trained_at_us=NOW_US - 30 * DAY_US), seen(labels=5_000))
    assert found is not None
    assert (found.kind, found.cause) == (
        "labels",
        "5,000 new labels (5,000 are enough for a training). "
        "Schedule: the version in service was trained at least 30d ago.",
    )


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5])
def test_a_number_of_labels_that_is_none_is_refused(wrong: object) -> None:
    with pytest.raises(Misuse, match="on_new_labels"):
        tt.on_new_labels(wrong)  # type: ignore[arg-type]


# --- quiet times and priorities


def test_each_cause_has_a_quiet_time_of_its_own_and_the_most_urgent_goes_first() -> None:
    rules = deployment(target, retrain=tt.every("30d") | tt.on_new_labels(10))
    late = LoopState(trained_at_us=NOW_US - 40 * DAY_US)
    asked = Requested(at_us=NOW_US, actor="ada", why="A new feature.")

    def kind(state: LoopState, requested: Requested | None = None) -> str | None:
        found = find_trigger(rules, state, seen(labels=50, requested=requested))
        return None if found is None else found.kind

    quiet = Quiet(NOW_US + DAY_US)
    assert kind(late, asked) == "call"
    assert kind(late) == "labels"
    assert kind(msgspec.structs.replace(late, quiets={"labels": quiet})) == "schedule"
    assert kind(msgspec.structs.replace(late, quiet_until_us=NOW_US + DAY_US)) == "labels"
    assert kind(msgspec.structs.replace(late, quiet_until_us=NOW_US + 1, quiets={"labels": quiet})) is None
    assert kind(msgspec.structs.replace(late, quiets={"call": quiet}), asked) == "labels"


def alarmed(name: str, *, of_gap: bool) -> Watch:
    """A watch whose only alarm is that of a slice, of its gap or its loss, rung on the tenth day."""
    values = np.random.default_rng(1).normal(0.0, 1.0, 28).tolist()
    spec = learn_alarm(values, [1] * 28, run_length=1_000, direction="both")
    state = AlarmState()
    while state.alarm_day is None:
        state = update_alarm(spec, state, 9.0, 1)
    slices = {name: MetricValue(spec=spec, state=state)}
    first_us = NOW_US - (state.days + 20) * DAY_US
    placed = {"slice_gaps": slices} if of_gap else {"slices": slices}
    return Watch(model="click", version="v1", anchored_at_us=0, figures={}, first_day_us=first_us, **placed)


@pytest.mark.parametrize(("later_days", "rise", "of_slice"), [(8, 0.5, True), (4, 0.5, False), (8, 0.05, False)])
def test_a_later_change_of_a_slice_is_repaired_while_an_older_alarm_stands(
    later_days: int, rise: float, of_slice: bool
) -> None:
    watch = alarmed("state=FL", of_gap=False)
    slice_onset = watch.slice_onsets["state=FL"]
    older_us = slice_onset.earliest_us - later_days * DAY_US
    older = ChangeOnset(at_us=older_us, earliest_us=older_us, latest_us=older_us)
    standing = msgspec.structs.replace(watch, short_of={"quality_loss": 1.0}, short_since=older)
    assert standing.onset == older
    rules = deployment(target, retrain=tt.on_quality_drop(), settle="5d")
    facts = Seen(NOW_US, True, standing, None, lambda: 0, lambda name, onset: rise, list)
    found = find_trigger(rules, LoopState(), facts)
    assert found is not None
    assert ("state=FL" in found.cause, found.onset == slice_onset) == (of_slice, of_slice)
    refused = LoopState(tried=older, alarm_quiet_until_us=NOW_US + DAY_US)
    assert (find_trigger(rules, refused, facts) is not None) == of_slice
    tried = LoopState(tried=slice_onset, alarm_quiet_until_us=NOW_US + DAY_US)
    assert find_trigger(rules, tried, facts) is None


@pytest.mark.parametrize("of_gap", [True, False])
@pytest.mark.parametrize(("rise", "kind"), [(0.5, "alarm"), (0.1, "alarm"), (0.09, None), (0.0, None)])
def test_a_slice_that_raises_the_loss_of_all_rows_is_a_drop_of_the_whole(
    of_gap: bool, rise: float, kind: str | None
) -> None:
    asked: list[str] = []

    def rise_by_slice(name: str, onset: ChangeOnset) -> float:
        asked.append(name)
        return rise

    watch = alarmed("state=FL", of_gap=of_gap)
    found = {
        rule: find_trigger(
            deployment(target, retrain=rule),
            LoopState(),
            Seen(NOW_US, True, watch, None, lambda: 0, rise_by_slice, list),
        )
        for rule in (tt.on_quality_drop(), tt.on_slice_drop())
    }
    whole, of_slice = found.values()
    assert asked == ["state=FL"]
    assert (whole and whole.kind) == kind
    assert of_slice is not None
    assert (of_slice.kind, of_slice.cause) == ("slice", "Slice alarm: state=FL.")
    assert of_slice.onset == watch.slice_onsets["state=FL"]
    if whole is not None:
        assert whole.cause == "Quality alarm: slices raised the loss of all rows by 10% or more: state=FL."
        assert whole.onset == of_slice.onset


@pytest.mark.fast
@pytest.mark.parametrize(
    ("rule", "rise", "state", "said"),
    [
        (
            tt.on_quality_drop(),
            0.04,
            LoopState(),
            "by more than 4%, and 10% is needed. tt.on_slice_drop() would repair it",
        ),
        (tt.on_quality_drop(), 0.04, LoopState(follow_ups_us=(NOW_US,)), "this change is due on 1970-04-11."),
        (tt.on_quality_drop(), 0.12, LoopState(), ""),
        (tt.on_quality_drop(), 0.04, LoopState(phase="waiting"), ""),
        (tt.on_slice_drop(), 0.04, LoopState(), ""),
        (tt.every("30d"), 0.04, LoopState(), "No declared trigger repairs this. To train now: trimtab train click"),
    ],
)
def test_what_the_declared_triggers_do_about_a_slice_is_said(
    rule: Triggers, rise: float, state: LoopState, said: str
) -> None:
    watch, rules = alarmed("state=FL", of_gap=False), deployment(target, retrain=rule)
    found = outlook(rules, state, watch, lambda name, onset: rise)
    assert said in found
    assert bool(found) == bool(said)


def signal(
    kind: str,
    subject: str = "",
    *,
    severity: Literal["info", "red"] = "red",
    onset_us: int = NOW_US - 6 * DAY_US,
    **evidence: float,
) -> Signal:
    return Signal(
        id=f"{kind}/1",
        kind=kind,
        model="click",
        version="v1",
        raised_at_us=NOW_US - DAY_US,
        onset_us=onset_us,
        severity=severity,
        evidence=evidence,
        message="0.5 and not 0.4.",
        subject=subject,
    )


def test_a_rise_of_the_estimated_loss_begins_a_repair_once_labels_since_then_are_there() -> None:
    rules = deployment(target, retrain=tt.on_estimated_drop())
    days = {"earliest_us": float(NOW_US - 8 * DAY_US), "latest_us": float(NOW_US - 5 * DAY_US)}
    rise = signal("estimated_loss", severity="info", **days)
    assert find_trigger(rules, LoopState(), seen()) is None
    assert find_trigger(rules, LoopState(), seen(signals=[signal("skew"), signal("nulls")])) is None
    ready_us = target.label.final_at(NOW_US + DAY_US)  # 7 days after the change, and the label's wait
    assert find_trigger(rules, LoopState(), seen(signals=[rise], now_us=ready_us - 1)) is None
    found = find_trigger(rules, LoopState(), seen(signals=[rise], now_us=ready_us))
    assert found is not None
    assert (found.kind, found.cause, found.ready_at_us) == ("estimate", "0.5 and not 0.4.", ready_us)
    onset = ChangeOnset(at_us=NOW_US - 6 * DAY_US, earliest_us=NOW_US - 8 * DAY_US, latest_us=NOW_US - 5 * DAY_US)
    assert found.onset == onset
    late = seen(signals=[rise], now_us=ready_us)
    quiet = LoopState(quiets={"estimate": Quiet(ready_us + DAY_US)})
    assert find_trigger(rules, quiet, late) is None
    refused = LoopState(alarm_quiet_until_us=ready_us + DAY_US)  # the alarm's repair was refused on the same days
    assert find_trigger(rules, refused, late) is None
    assert find_trigger(deployment(target, retrain=tt.on_quality_drop()), LoopState(), late) is None


def test_a_repair_waits_until_the_days_since_the_change_are_closed_and_used() -> None:
    rules, rise = deployment(target, retrain=tt.on_estimated_drop()), signal("estimated_loss")
    for newest_us in (0, DAY_US):  # the newest closed day is not used yet
        ready_us = target.label.final_at(rise.onset_us + 7 * DAY_US) + newest_us
        for now_us, holds in ((ready_us - 1, False), (ready_us, True)):
            facts = msgspec.structs.replace(seen(signals=[rise], now_us=now_us), newest_us=lambda us=newest_us: us)
            assert (find_trigger(rules, LoopState(), facts) is not None) == holds


def test_a_further_rise_of_the_estimated_loss_has_its_own_repair_and_ends_the_quiet_time() -> None:
    rules, later_us = deployment(target, retrain=tt.on_estimated_drop()), NOW_US + 5 * DAY_US
    rises = [signal("estimated_loss"), signal("estimated_loss", "rise 1", onset_us=later_us)]
    first_us, further_us = (target.label.final_at(us + 7 * DAY_US) for us in (rises[0].onset_us, later_us))
    for signals, now_us, expected in (
        (rises[:1], first_us, rises[0].onset_us),
        (rises, further_us - 1, None),  # a repair for the first rise alone would be out of date
        (rises, further_us, later_us),
    ):
        found = find_trigger(rules, LoopState(), seen(signals=signals, now_us=now_us))
        assert (None if found is None or found.onset is None else found.onset.at_us) == expected
    until = Quiet(further_us + 9 * DAY_US)
    for estimated_us, tried_us, free in (
        (rises[0].onset_us, 0, True),
        (later_us, 0, False),
        (rises[0].onset_us, later_us, False),  # the alarm's repair assumed the later change, and was refused
        (0, 0, False),  # no repair for a rise was tried, so this is the quiet time after a promotion
    ):
        tried = ChangeOnset(at_us=tried_us, earliest_us=tried_us, latest_us=tried_us)
        state = LoopState(quiets={"estimate": until}, estimated_us=estimated_us, tried=tried if tried_us else None)
        found = find_trigger(rules, state, seen(signals=rises, now_us=further_us))
        assert (found is not None) == free


def test_skew_begins_a_repair_only_while_a_red_signal_stands() -> None:
    rules = deployment(target, retrain=tt.on_skew() | tt.on_new_labels(10))
    standing = signal("skew", "cause definition")
    found = find_trigger(rules, LoopState(), seen(labels=50, signals=[standing]))
    assert found is not None
    assert (found.kind, found.cause) == ("skew", "Skew, cause definition: 0.5 and not 0.4.")
    assert (found.onset, found.ready_at_us) == (None, NOW_US)
    other = find_trigger(rules, LoopState(), seen(labels=50, signals=[signal("skew", severity="info")]))
    assert other is not None
    assert other.kind == "labels"


def test_a_follow_up_belongs_to_causes_that_date_a_change() -> None:
    for rule, expected in (
        (tt.on_quality_drop(), True),
        (tt.on_slice_drop(), True),
        (tt.on_estimated_drop(), True),
        (tt.on_skew(), False),
        (tt.every("30d"), False),
    ):
        assert declares(deployment(target, retrain=rule), "follow-up") == expected


@pytest.mark.parametrize(("span", "days"), [(0, 7), ("1d", 7), ("2d", 9), ("60h", 11), ("5d", 15)])
def test_a_repair_waits_longer_if_labels_overlap(span: str | int, days: int) -> None:
    label = msgspec.structs.replace(target.label, span_us=duration_us(span), wait_us=10 * DAY_US)
    rules = deployment(msgspec.structs.replace(target, label=label), retrain=tt.on_estimated_drop())
    at_us = NOW_US - 6 * DAY_US
    rise = signal("estimated_loss", earliest_us=float(at_us), latest_us=float(at_us))
    ready_us = at_us + (days + 10) * DAY_US
    assert find_trigger(rules, LoopState(), seen(signals=[rise], now_us=ready_us - 1)) is None
    assert find_trigger(rules, LoopState(), seen(signals=[rise], now_us=ready_us)) is not None


def test_an_alarm_overtakes_a_schedule_that_waits(catalog: Catalog) -> None:
    rig = Rig(
        catalog, Bench([True, True]), deployment(target, retrain=tt.on_quality_drop() | tt.every("10d"), settle="1d")
    )
    rig.controller.tick()
    rig.bench.lack = "only 3 unseen days"
    assert rig.days(10, 0.3) == ["trigger"]
    acts = rig.days(30, 0.4)
    assert acts[0] == "trigger"
    assert acts.count("trigger") == 1
    rig.bench.lack = None
    assert rig.days(1, 0.4) == ["train", "gate", "promote"]
    assert rig.bench.changes.onset is not None
    assert rig.ledger.rows()[-1].cause.startswith("Quality alarm")


def test_a_refusal_of_one_cause_keeps_the_others_free(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True, False, True]), deployment(target, cooldown="60d"))
    rig.controller.tick()
    rig.clock.advance_to(rig.clock.now_us() + 61 * DAY_US)
    catalog.write([Put(REQUEST, "click", msgspec.json.encode(Requested(at_us=0, actor="ada", why="Look again.")))])
    assert [d.act for d in rig.controller.tick()] == ["trigger", "train", "gate", "refuse"]
    assert {d.actor for d in rig.ledger.rows()[-4:]} == {"ada"}
    assert catalog.get(REQUEST, "click") is None
    assert set(rig.controller.state.quiets) == {"call", "slice", "estimate", "skew", "labels"}
    assert rig.controller.state.quiets["call"].until_us == rig.clock.now_us() + 60 * DAY_US
    assert rig.controller.state.quiet_until_us < rig.clock.now_us()


def test_a_repair_that_waits_is_cancelled_if_the_deployment_no_longer_declares_its_cause(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True, True]), deployment(target, retrain=tt.on_quality_drop() | tt.every("10d")))
    rig.controller.tick()
    rig.bench.lack = "only 3 unseen days"
    assert rig.days(10, 0.3) == ["trigger"]
    rig.bench.lack = None
    rig.rules = deployment(target)
    rig.open()
    assert rig.days(30, 0.3) == ["cancel"]
    assert rig.bench.made == 1


def test_a_change_is_not_followed_up_if_the_deployment_no_longer_declares_alarms(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True] * 4), deployment(target, retrain=tt.on_quality_drop(), settle="1d"))
    rig.controller.tick()
    rig.days(10, 0.3)
    rig.bench.folds = 2
    while "promote" not in rig.days(1, 0.6):
        pass
    assert len(rig.controller.state.follow_ups_us) == 2
    rig.rules = deployment(target)
    rig.open()
    assert rig.days(40, 0.3) == []


# --- budgets


@given(
    made=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 4)), max_size=12),
    day=st.none() | st.integers(1, 6),
    week=st.none() | st.integers(1, 12),
)
def test_a_budget_binds_until_enough_fits_are_old_enough(
    made: list[tuple[int, int]], day: int | None, week: int | None
) -> None:
    hour = DAY_US // 24
    state, now_us = LoopState(), NOW_US
    for ago, fits in sorted(made, reverse=True):
        state = msgspec.structs.replace(state, fits=with_fits(state, now_us - ago * hour, fits))
    rules = deployment(target, fits_per_day=day, fits_per_week=week)

    def free(at_us: int) -> bool:
        spans = [(DAY_US, day), (7 * DAY_US, week)]
        return all(
            limit is None or sum(n for ago, n in made if now_us - ago * hour > at_us - span) < limit
            for span, limit in spans
        )

    bound = spent_budget(rules, state, now_us)
    assert (bound is None) == free(now_us)
    if bound is not None:
        assert free(bound.until_us)
        assert not free(bound.until_us - 1)


def test_automation_stays_within_its_budget_and_says_so_once(catalog: Catalog) -> None:
    rules = deployment(target, retrain=tt.every("1d"), cooldown="1d", fits_per_week=3)
    rig = Rig(catalog, Bench([True] * 30), rules)
    rig.controller.tick()
    rig.days(28, 0.3)
    rows = rig.ledger.rows()
    days = [d.at_us // DAY_US for d in rows if d.act == "train"]
    assert all(sum(0 <= other - one < 7 for other in days) <= 3 for one in days)
    assert len(days) >= 10
    said = [d for d in rows if d.act == "wait"]
    assert (
        "The limit of fits in 7 days is reached (3 made, 3 allowed). The next fit can begin at 1970-" in said[0].cause
    )
    assert len(said) < 6  # not at every tick
    decisions = rig.controller.train("Ada")  # a person is not held up
    assert [d.act for d in decisions] == ["train", "gate", "promote"]


def test_a_budget_changes_the_address_of_a_deployment_only_where_it_is_declared() -> None:
    plain = deployment(target, retrain=OnNewLabels(5))
    assert plain.hash != deployment(target, retrain=OnNewLabels(5), fits_per_day=3).hash
    with pytest.raises(Misuse, match="fits_per_week=0 is not a number of fits"):
        deployment(target, fits_per_week=0)


# --- a quiet time ends early


@pytest.mark.parametrize("kept_as", ["tried", "repaired"])
def test_an_alarm_does_not_wait_if_the_change_began_later_than_the_last_repair_took_it_to(kept_as: str) -> None:
    watch = msgspec.structs.replace(alarmed("a", of_gap=False), slices={})
    watch = msgspec.structs.replace(watch, figures={"quality_loss": alarmed("a", of_gap=False).slices["a"]})
    assert watch.onset is not None
    earliest_us = watch.onset.earliest_us

    def found(latest_us: int) -> object:
        tried = ChangeOnset(at_us=latest_us - DAY_US, earliest_us=latest_us - 9 * DAY_US, latest_us=latest_us)
        kept = {"tried": tried} if kept_as == "tried" else {"changes": Changes(repaired=tried)}
        state = LoopState(alarm_quiet_until_us=NOW_US + DAY_US, **kept)
        asked = Seen(NOW_US, True, watch, None, lambda: 0, lambda name, onset: 0.0, list)
        return find_trigger(deployment(target, retrain=tt.on_quality_drop()), state, asked)

    assert found(earliest_us) is None
    assert found(earliest_us - 1) is not None


@pytest.mark.parametrize(("days", "again"), [(2, True), (7, True), (0, False), (8, False)])
def test_a_refused_repair_that_took_the_change_to_begin_too_early_is_repeated_at_once(days: int, again: bool) -> None:
    """The next one judges all days since the first estimate, and the newest alone; another change waits as usual."""
    watch = msgspec.structs.replace(alarmed("a", of_gap=False), slices={})
    watch = msgspec.structs.replace(watch, figures={"quality_loss": alarmed("a", of_gap=False).slices["a"]})
    assert watch.onset is not None
    latest_us = watch.onset.at_us - days * DAY_US
    tried = ChangeOnset(at_us=latest_us - 4 * DAY_US, earliest_us=latest_us - 8 * DAY_US, latest_us=latest_us)
    now_us = watch.onset.at_us + 3 * DAY_US
    seen = Seen(now_us, True, watch, None, lambda: 0, lambda name, onset: 0.0, list)
    found = find_trigger(deployment(target, retrain=tt.on_quality_drop()), LoopState(tried=tried), seen)
    assert found is not None
    assert (found.ready_at_us == now_us) == again
    both = ChangeOnset(at_us=tried.at_us, earliest_us=tried.earliest_us, latest_us=watch.onset.at_us)
    assert found.onset == (both if again else watch.onset)


def test_a_schedule_that_begins_meanwhile_does_not_end_the_quiet_time_of_a_refused_alarm(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each scheduled candidate in its shadow is dropped for the alarm, and each alarm is refused."""
    made = deployment(
        target,
        retrain=tt.on_quality_drop() | tt.every("30d"),
        settle="1d",
        cooldown="7d",
        rollout=tt.rollout(shadow="1d", within="5d"),
    )
    rig = Rig(catalog, Bench([True]), made)
    rig.bench.folds = 2
    rig.controller.tick()
    rig.days(10, 0.3)
    rig.bench.verdicts = [True] * 2
    rig.days(16, 0.45)  # a change, which is repaired
    assert rig.controller.state.changes.repaired is not None
    repair = rig.bench.repair

    def of_cause(cut_us: int, go_on: Callable[[], None], changes: Changes) -> Repair:
        rig.bench.verdicts = [changes.onset is None]  # no candidate repairs the second change
        return repair(cut_us, go_on, changes)

    monkeypatch.setattr(rig.bench, "repair", of_cause)
    before = len(rig.ledger.rows())
    rig.days(60, 0.8)
    since = [d for d in rig.ledger.rows()[before:] if d.act in ("trigger", "promote")]
    assert sum(d.act == "promote" and d.cause.startswith("Schedule") for d in since) == 2
    assert 2 <= sum(d.act == "trigger" and d.cause.startswith("Quality") for d in since) <= 9


def test_a_change_shortly_before_a_scheduled_promotion_is_repaired_as_soon_as_any_other(catalog: Catalog) -> None:
    """The promotion neither ends the watch over the days before it, nor begins a quiet time of alarms."""
    made = deployment(target, retrain=tt.on_quality_drop() | tt.every("14d"), settle="1d", cooldown="7d")
    rig = Rig(catalog, Bench([True] * 3), made)
    rig.bench.checks = {"not_provably_worse": True}
    rig.controller.tick()
    rig.days(12, 0.3)
    rig.clock.advance_to(114 * DAY_US)
    scheduled = rig.controller.tick()[-1]
    assert (scheduled.act, scheduled.cause) == (
        "promote",
        "Schedule: the version in service was trained at least 14d ago.",
    )
    # the days before the promotion are closed after it
    rig.monitor.observe([day(112, "v1", 0.9), day(113, "v1", 0.9)], now_us=rig.clock.now_us())
    alarm = next(d for d in rig.controller.tick() if d.act == "trigger")
    assert alarm.cause == "Quality alarm: quality_loss."
    assert alarm.evidence["onset_us"] <= 112 * DAY_US  # and not the promotion


def test_alarms_pause_after_three_repairs_in_six_weeks_and_the_stage_says_why(catalog: Catalog) -> None:
    """A world that flips every ten days: each repair comes when its world is over."""
    rules = deployment(target, retrain=tt.on_quality_drop(), settle="1d", cooldown="1d")
    rig = Rig(catalog, Bench([True] * 20), rules)
    rig.controller.tick()
    rig.days(10, 0.3)
    begun = rig.clock.now_us()
    loss, promoted = 0.3, []
    for _ in range(14):
        loss = loss * 1.35
        promoted += [rig.clock.now_us() for _ in range(10) if "promote" in rig.days(1, loss)]
    alarms = [d.at_us for d in rig.ledger.rows() if d.act == "trigger" and d.cause.startswith("Quality alarm")]
    assert len(alarms) >= 6
    windows = [sum(at_us <= other < at_us + 42 * DAY_US for other in promoted) for at_us in promoted]
    assert max(windows) == 3
    assert promoted[0] - begun < 10 * DAY_US  # the first is not held up


def test_three_changes_with_time_between_them_are_all_repaired_at_once(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True] * 20), deployment(target, retrain=tt.on_quality_drop(), settle="1d"))
    rig.controller.tick()
    rig.days(10, 0.3)
    for number in range(5):
        assert "promote" in rig.days(25, 0.3 * 1.35 ** (number + 1)), number
