"""The stages between gate and full service: shadow, approval, canary shares, and the time after the promotion."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from rig import Bench, Crash, Fragile, Rig, target

from trimtab import store
from trimtab.core.errors import Conflict, Misuse, Unavailable
from trimtab.core.records import ChangeOnset
from trimtab.core.time import DAY_US, HOUR_US, format_time
from trimtab.steering.candidates.ports import ChampionFailed
from trimtab.steering.causes import every, on_estimated_drop, on_quality_drop
from trimtab.steering.definitions import Deployment, deployment
from trimtab.steering.loop.stages import Stage, stages
from trimtab.steering.loop_state import FREEZE, Changes
from trimtab.steering.rollouts import rollout
from trimtab.store import Catalog, Put, Remove
from trimtab.testing.builders import a_signal


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with store.open(f"sqlite://{tmp_path}/catalog.db", "catalog") as opened:
        yield opened


def rules(**stages: object) -> Deployment:
    return deployment(target, retrain=every("10d"), rollout=rollout(**stages))  # type: ignore[arg-type]


def begun(catalog: Catalog, made: Deployment, verdicts: int = 5) -> Rig:
    """A version in service, and ten days later a candidate that has passed the gate."""
    rig = Rig(catalog, Bench([True] * verdicts), made)
    assert [d.act for d in rig.controller.tick()][-1] == "promote"  # the first has nothing to be compared with
    rig.days(9, 0.3)
    return rig


def shown(rig: Rig) -> list[Stage]:
    """The present stage."""
    found = stages(rig.rules, rig.controller.state, rig.clock.now_us(), frozen=None, requested=None)
    return [one for one in found if one.state == "now"]


def refused(catalog: Catalog) -> dict[str, str]:
    """Why versions were refused in their rollouts, as it is stored with the versions."""
    return {one.key: msgspec.json.decode(one.body) for one in catalog.find("refused")}


def hours(rig: Rig, count: int) -> list[str]:
    acts = []
    for _ in range(count):
        rig.clock.advance_to(rig.clock.now_us() + HOUR_US)
        acts += [d.act for d in rig.controller.tick()]
    return acts


def test_a_successor_is_compared_in_the_shadow_before_it_takes_over(catalog: Catalog) -> None:
    rig = begun(catalog, rules(shadow="2d"))
    assert rig.days(1, 0.3) == ["trigger", "train", "gate", "shadow"]
    assert rig.bench.in_service == "v1"
    assert rig.days(1, 0.3) == []
    assert rig.days(1, 0.3) == ["compare", "promote"]
    assert rig.bench.in_service == "v2"
    told = rig.ledger.rows()[-2]
    assert told.evidence["shadow_days"] == 2
    assert told.cause.startswith("Paired shadow of 2d, 2,000 labelled rows: the loss is 25.")


def test_a_worse_successor_is_rejected_and_the_quiet_time_runs(catalog: Catalog) -> None:
    rig = begun(catalog, rules(shadow="1d"))
    rig.bench.shadow_difference = 0.04
    rig.days(1, 0.3)
    assert rig.days(2, 0.3) == ["refuse"]
    assert "provably more than 0.2% worse than the champion" in rig.ledger.rows()[-1].cause
    assert refused(catalog) == {"v2": rig.ledger.rows()[-1].cause}
    assert rig.bench.in_service == "v1"
    assert rig.days(5, 0.3) == []  # a quiet time of seven days
    assert rig.days(1, 0.3)[:2] == ["trigger", "train"]


def test_what_stays_undecided_is_refused_when_its_time_is_over(catalog: Catalog) -> None:
    rig = begun(catalog, rules(shadow="1d", within="5d"))
    rig.bench.shadow_difference, rig.bench.wobble = 0.006, 0.006  # neither
    rig.days(1, 0.3)
    assert rig.days(4, 0.3) == []
    assert rig.days(1, 0.3) == ["refuse"]
    assert "neither provably more than 0.2% nor provably less than 2.0% worse" in rig.ledger.rows()[-1].cause
    assert refused(catalog) == {"v2": rig.ledger.rows()[-1].cause}


def test_a_champion_that_cannot_answer_does_not_keep_its_successor_out(catalog: Catalog) -> None:
    rig = begun(catalog, rules(shadow="1d"))
    rig.days(1, 0.3)
    rig.bench.unanswered = ChampionFailed("The version in service cannot answer: its artifact is damaged.")
    assert rig.days(1, 0.3) == ["compare", "promote"]
    assert rig.ledger.rows()[-2].cause.startswith("No comparison: The version in service cannot answer: its")


def test_a_store_that_is_away_for_a_moment_lets_nothing_past_the_shadow(catalog: Catalog) -> None:
    rig = begun(catalog, rules(shadow="1d"))
    rig.days(1, 0.3)
    rig.bench.unanswered = Unavailable("the log is locked.")
    with pytest.raises(Unavailable, match="the log is locked"):
        rig.days(1, 0.3)
    assert rig.controller.state.phase == "shadow"
    rig.bench.unanswered = None
    assert [d.act for d in rig.controller.tick()] == ["compare", "promote"]


def test_a_successor_that_cannot_answer_is_dropped(catalog: Catalog) -> None:
    rig = begun(catalog, rules(shadow="1d"))
    rig.days(1, 0.3)
    rig.bench.unanswered = Misuse("click@3 cannot be loaded.")
    assert rig.days(1, 0.3) == ["refuse"]
    assert rig.ledger.rows()[-1].cause == "The shadow of the candidate failed: click@3 cannot be loaded."
    assert refused(catalog) == {"v2": rig.ledger.rows()[-1].cause}


def test_a_successor_whose_champion_was_moved_is_dropped(catalog: Catalog) -> None:
    rig = begun(catalog, rules(shadow="1d"))
    rig.days(1, 0.3)
    rig.bench.in_service = "v9"
    assert [d.act for d in rig.controller.tick()] == ["refuse"]
    assert "the champion is now v9" in rig.ledger.rows()[-1].cause
    assert refused(catalog) == {}  # that says nothing against it


@pytest.mark.parametrize("before", [{"shadow": "1d"}, {"canary": [0.5]}])
def test_a_stage_that_is_declared_no_longer_ends(catalog: Catalog, before: dict[str, object]) -> None:
    rig = begun(catalog, rules(**before))
    rig.days(1, 0.3)
    assert rig.controller.state.phase in ("shadow", "canary")
    rig.rules = deployment(target, retrain=every("10d"))
    rig.open()
    assert [d.act for d in rig.controller.tick()] == ["refuse"]
    assert "no longer declares a" in rig.ledger.rows()[-1].cause
    assert rig.bench.shares[-1] == 0.0
    assert rig.controller.state.phase == "idle"


def test_an_alarm_ends_the_shadow_of_a_scheduled_candidate(catalog: Catalog) -> None:
    made = deployment(
        target,
        retrain=on_quality_drop() | every("10d"),
        settle="1d",
        rollout=rollout(shadow="1d", within="28d"),
    )
    rig = begun(catalog, made)
    rig.bench.shadow_difference, rig.bench.wobble = 0.005, 0.008  # undecided for weeks
    acts = rig.days(20, 0.4)
    dropped = next(d for d in rig.ledger.rows() if d.act == "supersede")
    assert "Quality alarm" in dropped.cause
    assert acts.index("shadow") < acts.index("supersede")
    assert acts[acts.index("supersede") + 1] == "trigger"
    assert rig.controller.state.begun_by == "alarm"


@pytest.mark.parametrize(("latest_days", "same"), [(30, True), (-30, False)])
def test_an_alarm_about_the_same_change_leaves_the_shadow_of_an_estimate(
    catalog: Catalog, latest_days: int, same: bool
) -> None:
    made = deployment(
        target,
        retrain=on_quality_drop() | on_estimated_drop(),
        settle="1d",
        rollout=rollout(shadow="1d", within="28d"),
    )
    rig = begun(catalog, made)
    rig.bench.shadow_difference, rig.bench.wobble = 0.005, 0.008  # undecided for weeks
    onset_us = rig.clock.now_us()
    when = {"earliest_us": float(onset_us), "latest_us": float(onset_us)}
    signal = msgspec.structs.replace(
        a_signal(onset_us, kind="estimated_loss", onset_us=onset_us), model="click", version="v1", evidence=when
    )
    catalog.write([Put("signal", "click/1", msgspec.json.encode(signal))])
    assert "shadow" in rig.days(10, 0.3)
    assert rig.controller.state.begun_by == "estimate"
    latest_us = rig.clock.now_us() + latest_days * DAY_US
    change = ChangeOnset(at_us=onset_us, earliest_us=onset_us, latest_us=latest_us)
    rig.controller._record.write([], changes=Changes(onset=change))
    assert ("supersede" in rig.days(15, 0.4)) != same
    assert rig.monitor.watch is not None
    assert rig.monitor.watch.alarming


def test_approval_is_asked_for_after_the_shadow_and_before_the_canary(catalog: Catalog) -> None:
    made = deployment(
        target, retrain=every("10d"), approval="3d", rollout=rollout(shadow="1d", canary=[0.05, 0.25], step="2h")
    )
    rig = Rig(catalog, Bench([True, True]), made)
    rig.controller.tick()
    assert [d.act for d in rig.controller.approve("ann", "fine")] == ["approve", "promote"]
    rig.days(9, 0.3)
    assert rig.days(1, 0.3)[-1] == "shadow"
    with pytest.raises(Conflict, match="no candidate waits for approval"):
        rig.controller.approve("ann", "fine")
    assert rig.days(1, 0.3) == ["compare", "ask"]
    assert not any(rig.bench.shares)
    assert [d.act for d in rig.controller.approve("ann", "fine")] == ["approve", "canary"]
    assert rig.bench.shares[-1] == 0.05
    assert hours(rig, 2) == ["canary"]
    assert hours(rig, 2) == ["promote"]
    assert rig.ledger.rows()[-1].actor == "ann"


def test_a_canary_answers_growing_shares_and_then_everything(catalog: Catalog) -> None:
    rig = begun(catalog, rules(canary=[0.05, 0.25, 0.5], step="2h"))
    assert rig.days(1, 0.3) == ["trigger", "train", "gate", "canary"]
    assert hours(rig, 1) == []
    assert hours(rig, 1) == ["canary"]
    assert hours(rig, 4) == ["canary", "promote"]
    assert [share for share in rig.bench.shares if share] == [0.05, 0.25, 0.5]
    assert rig.bench.shares[-1] == 0.0  # once it is in service itself
    assert rig.controller.state.phase == "idle"


def test_a_breach_withdraws_the_canary(catalog: Catalog) -> None:
    rig = begun(catalog, rules(canary=[0.05, 0.25], step="2h"))
    rig.days(1, 0.3)
    rig.bench.breach = "its p99 is 3 times the champion's."
    assert hours(rig, 1) == ["refuse"]
    assert rig.ledger.rows()[-1].cause == "The canary of 5% was withdrawn: its p99 is 3 times the champion's."
    assert refused(catalog) == {"v2": rig.ledger.rows()[-1].cause}
    assert rig.bench.shares[-2:] == [0.05, 0.0]
    assert rig.bench.in_service == "v1"
    assert rig.days(6, 0.3) == []


def test_a_canary_of_somebody_else_refuses_the_candidate_once(catalog: Catalog) -> None:
    rig = begun(catalog, rules(canary=[0.05]))
    rig.bench.other_canary = True
    assert rig.days(1, 0.3) == ["trigger", "train", "gate", "refuse"]
    assert "another version answers 10%" in rig.ledger.rows()[-1].cause
    assert hours(rig, 5) == []
    assert rig.bench.made == 2
    assert rig.controller.state.asked_by is None


def test_nothing_is_trained_for_a_canary_while_an_experiment_splits_the_requests(catalog: Catalog) -> None:
    rig = begun(catalog, rules(canary=[0.05]))
    rig.bench.experiment = "The experiment 'page' splits the requests."
    assert rig.days(5, 0.3) == ["trigger"]
    assert rig.bench.made == 1
    (stage,) = shown(rig)
    assert stage.said.endswith("ago. The experiment 'page' splits the requests.")
    rig.bench.experiment = None
    assert rig.days(1, 0.3) == ["train", "gate", "canary"]


def test_a_canary_that_a_person_changed_ends_the_rollout(catalog: Catalog) -> None:
    rig = begun(catalog, rules(canary=[0.05, 0.25], step="2h"))
    rig.days(1, 0.3)
    catalog.write([Put("share", "click", b"0.0")])  # trimtab canary MODEL --share 0
    assert hours(rig, 1) == ["refuse"]
    said = "The canary answers 0% of the requests, but the declared share is 5%. A person changed one of them"
    assert said in rig.ledger.rows()[-1].cause
    assert rig.bench.in_service == "v1"


def test_a_canary_that_a_person_replaced_ends_the_rollout_and_is_named(catalog: Catalog) -> None:
    rig = begun(catalog, rules(canary=[0.05, 0.25], step="2h"))
    rig.days(1, 0.3)
    catalog.write([Put("share", "click", b"0.5")])
    rig.bench.armed = "v7"  # trimtab canary MODEL@7 --share 0.5
    assert hours(rig, 1) == ["refuse"]
    said = "A person made v7 the canary, which now answers 50% of the requests. So the rollout ends."
    assert rig.ledger.rows()[-1].cause == said
    assert refused(catalog) == {}


def test_small_shares_are_named(catalog: Catalog) -> None:
    rig = begun(catalog, rules(canary=[0.005]))
    rig.days(1, 0.3)
    assert rig.ledger.rows()[-1].cause.startswith("The candidate answers 0.5% of the requests, of fixed entities, for ")


def test_shares_that_are_nearly_equal_are_stages_of_their_own(catalog: Catalog) -> None:
    definition = rules(canary=[0.05, 0.054], step="1h")
    rig = begun(catalog, definition)
    rig.days(1, 0.3)
    hours(rig, 1)
    found = stages(definition, rig.controller.state, 0, frozen=None, requested=None)
    assert [(one.name, one.state) for one in found if "canary" in one.name] == [
        ("canary 5%", "done"),
        ("canary 5.4%", "now"),
    ]


def test_a_canary_that_answers_nobody_is_not_promoted(catalog: Catalog) -> None:
    rig = begun(catalog, rules(canary=[0.05], step="1h"))
    rig.days(1, 0.3)
    rig.bench.seen = 3
    (now,) = shown(rig)
    since_us = rig.controller.state.stage_since_us
    assert now.until_us == since_us + HOUR_US
    until = format_time(since_us + HOUR_US)
    assert now.said.startswith(f"It lasts until {until} at least, and until the canary has answered 50 requests. ")
    assert hours(rig, 23) == []
    (now,) = shown(rig)
    assert now.until_us == since_us + 24 * HOUR_US
    ends = format_time(since_us + 24 * HOUR_US)
    assert now.said.startswith(f"It waits until the canary has answered 50 requests, or is refused at {ends}. ")
    assert hours(rig, 1) == ["refuse"]
    assert "too few requests: 3 in 1d; 50 are needed" in rig.ledger.rows()[-1].cause
    assert refused(catalog) == {}
    assert rig.bench.in_service == "v1"


def test_a_roll_back_ends_a_repair_that_was_compared_with_what_goes(catalog: Catalog) -> None:
    rig = begun(catalog, rules(canary=[0.05], step="2h", bake="10d"))
    trained_us = rig.controller.state.trained_at_us
    rig.days(1, 0.3)
    assert hours(rig, 2) == ["promote"]
    rig.controller.train("ann")
    assert rig.controller.state.phase == "canary"
    rig.bench.breach = "5.1% of its answers failed."
    assert hours(rig, 1) == ["roll_back", "refuse"]
    assert refused(catalog) == {"v2": "Rolled back: 5.1% of its answers failed."}  # nothing is said against v3
    assert rig.bench.shares[-1] == 0.0
    assert (rig.bench.in_service, rig.controller.state.trained_at_us) == ("v1", trained_us)


def test_after_a_move_by_hand_schedule_and_quiet_time_count_from_the_version_in_service(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True, True, False]), deployment(target, retrain=every("10d"), cooldown="3d"))
    rig.controller.tick()
    first_us = rig.clock.now_us()
    rig.days(9, 0.3)
    assert rig.days(1, 0.3)[-1] == "promote"
    assert rig.controller.state.trained_at_us == first_us + 10 * DAY_US
    rig.bench.in_service = "v1"  # a person rolls back
    assert rig.days(1, 0.3) == []
    assert rig.controller.state.trained_at_us == first_us
    assert rig.days(2, 0.3) == []  # not the same training again at once
    assert rig.days(1, 0.3) == ["trigger", "train", "gate", "refuse"]


def test_a_first_version_that_a_person_imported_is_trained_again_after_the_period(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([False]), deployment(target, retrain=every("10d")))
    rig.bench.in_service, rig.bench.cuts_us = "v9", {"v9": rig.clock.now_us() - 7 * DAY_US}
    rig.controller.tick()
    rig.monitor.follow("v9", now_us=rig.clock.now_us())
    assert rig.days(2, 0.3) == []
    assert rig.days(1, 0.3) == ["trigger", "train", "gate", "refuse"]


def test_an_alarm_ends_the_shadow_of_what_a_person_asked_for(catalog: Catalog) -> None:
    made = deployment(target, retrain=on_quality_drop(), settle="1d", rollout=rollout(shadow="1d", within="28d"))
    rig = begun(catalog, made)
    rig.bench.shadow_difference, rig.bench.wobble = 0.006, 0.006
    rig.controller.train("ann")
    assert rig.controller.state.phase == "shadow"
    assert "supersede" in rig.days(20, 0.4)


@pytest.mark.parametrize(("before_days", "proof", "kept"), [(3, True, True), (-1, True, False), (3, False, False)])
def test_an_alarm_leaves_a_candidate_that_was_proved_better_after_the_change(
    catalog: Catalog, before_days: int, proof: bool, kept: bool
) -> None:
    made = deployment(target, retrain=on_quality_drop(), settle="1d", rollout=rollout(shadow="1d", within="28d"))
    rig = begun(catalog, made)
    rig.days(18, 0.4)  # two repairs were put in service, and the second one has an alarm
    rig.bench.shadow_difference, rig.bench.wobble = 0.006, 0.006
    rig.controller.train("ann")
    assert rig.controller.state.phase == "shadow"
    repair, onset = rig.controller.state.repair, rig.controller._onset()
    assert repair is not None
    until_us = (rig.clock.now_us() if onset is None else onset.at_us) + before_days * DAY_US
    checks = {**repair.gate.checks, "provably_better": proof}
    gate = msgspec.structs.replace(
        repair.gate, checks=checks, bound=-0.05, window_start_us=until_us - DAY_US, window_end_us=until_us + DAY_US
    )
    rig.controller._record.write([], repair=msgspec.structs.replace(repair, gate=gate), alarm_quiet_until_us=0)
    assert rig.controller._onset() is not None
    assert ("supersede" in rig.days(2, 0.4)) != kept


def test_a_day_whose_labels_are_still_being_loaded_is_looked_at_again(catalog: Catalog) -> None:
    rig = begun(catalog, rules(shadow="1d"))
    rig.days(1, 0.3)
    rig.bench.labels = 20  # of a thousand, at midnight
    assert rig.days(1, 0.3) == []
    assert rig.controller.state.shadow == ()
    rig.bench.labels = 1_000
    assert hours(rig, 5) == []
    assert hours(rig, 1) == ["compare", "promote"]
    assert rig.ledger.rows()[-2].evidence["shadow_rows"] == 1_000


def test_a_breach_after_the_promotion_rolls_back_and_the_quiet_time_runs(catalog: Catalog) -> None:
    rig = begun(catalog, rules(bake="3h"))
    assert rig.days(1, 0.3)[-1] == "promote"
    assert rig.bench.in_service == "v2"
    assert hours(rig, 1) == []
    rig.bench.breach = "5.1% of its answers failed."
    assert hours(rig, 1) == ["roll_back"]
    assert rig.bench.in_service == "v1"
    assert rig.controller.state.bake is None
    rig.bench.breach = None
    assert rig.days(6, 0.3) == []


def test_the_time_after_a_promotion_ends(catalog: Catalog) -> None:
    rig = begun(catalog, rules(bake="3h"))
    rig.days(1, 0.3)
    hours(rig, 3)
    assert rig.controller.state.bake is None
    rig.bench.breach = "too late."
    assert hours(rig, 2) == []


def test_a_person_may_drop_a_candidate_in_its_shadow_and_cannot_train_past_it(catalog: Catalog) -> None:
    rig = begun(catalog, rules(shadow="1d"))
    rig.days(1, 0.3)
    with pytest.raises(Conflict, match="a candidate is in its shadow stage"):
        rig.controller.train("ann")
    with pytest.raises(Misuse, match="why"):
        rig.controller.reject("ann", " ")
    assert [d.act for d in rig.controller.reject("ann", "We know of a bug in it.")] == ["reject"]
    assert rig.controller.state.phase == "idle"


def test_freeze_stops_the_stages(catalog: Catalog) -> None:
    rig = begun(catalog, rules(shadow="1d", canary=[0.5], step="1h"))
    rig.days(1, 0.3)
    catalog.write([Put(FREEZE, "all", b'"storm"')])
    assert rig.days(3, 0.3) == []
    catalog.write([Remove(FREEZE, "all")])
    assert rig.days(1, 0.3) == ["compare", "canary"]
    catalog.write([Put(FREEZE, "all", b'"storm"')])
    assert hours(rig, 3) == []
    assert [d.act for d in rig.controller.reject("ann", "We know of a bug in it.")] == ["reject"]  # it ends something
    assert rig.bench.shares[-1] == 0.0


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("last", range(1, 8))
def test_a_crash_at_any_write_of_a_rollout_leaves_what_an_uninterrupted_one_does(
    catalog: Catalog, last: int, *, after: bool
) -> None:
    """Trigger, shadow, comparison, two shares, the promotion and the end of the bake time: seven writes."""

    def life(rig: Rig) -> list[str]:
        for _ in range(8):
            rig.clock.advance_to(rig.clock.now_us() + 12 * HOUR_US)
            try:
                rig.controller.tick()
            except Crash:
                rig.open(catalog)
                rig.controller.tick()
        return [d.act for d in rig.ledger.rows()[4:]]

    rig = begun(catalog, rules(shadow="1d", canary=[0.05, 0.25], step="2h", bake="3h"))
    rig.open(Fragile(catalog, last, after=after))
    assert life(rig) == ["trigger", "train", "gate", "shadow", "compare", "canary", "canary", "promote"]
    assert rig.bench.in_service == f"v{rig.bench.made}"
    assert rig.bench.made == 2 + (last == 2 and not after)  # fitted again where that was not stored
    assert (rig.controller.state.phase, rig.controller.state.bake) == ("idle", None)
    assert rig.ledger.verify() == 12
    assert rig.clock.now_us() == 113 * DAY_US


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"shadow": "12h"}, "closed days"),
        ({"shadow": "3d", "within": "2d"}, "3d or more"),
        ({"margin": 0.0}, "between 0 and 1"),
        ({"canary": 0.05}, "Give a list of shares"),
        ({"canary": "0.05"}, "Give a list of shares"),
        ({"canary": ["5%"]}, "Give a list of shares"),
        ({"canary": [0.25, 0.05]}, "growing shares"),
        ({"canary": [0.0]}, "growing shares"),
        ({"canary": [0.5, 1.0]}, "growing shares"),
        ({"step": "0s"}, "step="),
        ({"guardrails": {"p99": "250ms"}}, "Make them with tt.guardrails"),
    ],
)
def test_a_rollout_that_makes_no_sense_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(Misuse, match=said):
        rollout(**given)  # type: ignore[arg-type]


def test_a_learner_has_no_shadow() -> None:
    with pytest.raises(Misuse, match="changes the model with each label"):
        deployment(target, learn="online", rollout=rollout(shadow="1d"))
    deployment(target, learn="online", rollout=rollout(canary=[0.05]))


def test_a_rollout_is_part_of_the_address_of_a_deployment_and_none_changes_none() -> None:
    plain = deployment(target)
    assert plain.hash != deployment(target, rollout=rollout(shadow="1d")).hash
    assert plain.hash == deployment(target, rollout=None).hash
