"""Experiments over versions: units, arms and metrics come from the prediction log, by intention to treat."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest
import shop
from experiment_world import BEGIN_US, parts

import trimtab as tt
from trimtab.app.experiments.closing import close_due
from trimtab.core.clock import VirtualClock
from trimtab.core.records import Prediction
from trimtab.core.time import DAY_US, HOUR_US, duration_us
from trimtab.experiments.assignment import PastAssignments
from trimtab.experiments.days import stored_days
from trimtab.experiments.definitions import Experiment, Metric
from trimtab.experiments.exposures import log_exposures
from trimtab.experiments.records import KIND, Allocation, ExperimentDay, ExperimentState, Exposure
from trimtab.monitoring.inputs.red_windows import KIND as RED
from trimtab.monitoring.inputs.red_windows import RedWindow
from trimtab.serving.log.prediction_ids import PredictionIds
from trimtab.steering.ledger import Entry, Ledger
from trimtab.store import Put
from trimtab.testing.builders import a_prediction

PROJECT = """
import trimtab as tt

visits = tt.request("visits", key="id", time="at", columns={
    "id": str, "at": tt.Time, "x": float, "user": str, "site": str})
sales = tt.source("sales", key="id", time="closed_at", columns={"id": str, "closed_at": tt.Time, "bought": float})

def linear():
    from sklearn.linear_model import LogisticRegression
    return LogisticRegression()

one = tt.model("one", request=visits, features=[{"x": tt.col("x")}], metric="log_loss", estimator=linear,
    label=tt.label(sales, key="id", value=tt.col("bought"), wait="1d"))
tt.deployment(one)
"""
METRICS = (
    Metric(name="loss", kind="mean", prediction="loss", within_us=2 * DAY_US, better="lower", role="primary"),
    Metric(name="sold", kind="mean", prediction="label", within_us=DAY_US),
    Metric(name="score", kind="mean", prediction="score", within_us=5 * HOUR_US),
)


class Shop:
    """A project with a model, and an experiment over two versions that begins at `BEGIN_US`."""

    def __init__(self, folder: Path, *, metrics: tuple[Metric, ...] = METRICS, wait: str = "1d") -> None:
        folder.mkdir()
        (folder / "trimtab.toml").write_text("")
        (folder / "project.py").write_text(PROJECT.replace("1d", wait))
        self.clock = VirtualClock(BEGIN_US - HOUR_US)
        self.project = tt.open(folder, clock=self.clock, environment={})
        self.definition = Experiment(
            name="versions", unit=("user",), variants={"old": "champion", "new": "one@2"}, model="one",
            weights=(0.5, 0.5), slices=("site",), metrics=metrics, overrides={"tester": "new"},
        )  # fmt: skip
        halves = [(5_000, "old"), (5_000, "new")]
        weights = {"old": 0.5, "new": 0.5}
        self.state = ExperimentState(
            name="versions", hash=self.definition.hash, definition=msgspec.json.encode(self.definition), generation=1,
            phase="running", started_at_us=BEGIN_US, versions={"old": "v_old", "new": "v_new"},
            allocations=[Allocation(from_us=BEGIN_US, share=1.0, weights=weights, buckets=halves)],
        )  # fmt: skip
        self.assignments = PastAssignments(self.definition, self.state)
        self.project.state.catalog.write([Put(KIND, "versions", msgspec.json.encode(self.state))])
        self.logged: list[tuple[Prediction, str]] = []  # with the unit
        self._new_id = PredictionIds(self.clock)

    def variant(self, user: str, at_us: int = BEGIN_US) -> str:
        return self.assignments.at({"user": user}, at_us).variant

    def answer(self, user: str, *, score: float = 0.5, version: str = "", site: str = "north", **changes: Any) -> str:
        """Log an answer now; by default the one of the variant's version. Return the key of the request."""
        now_us, key = self.clock.now_us(), f"r{len(self.logged)}"
        made = a_prediction(
            id=self._new_id(), request_id=key, model="one", version=version or f"v_{self.variant(user, now_us)}",
            made_at_us=now_us, at_us=now_us, score=score,
            request=msgspec.msgpack.encode([key, now_us, 0.5, user, site]),
        )  # fmt: skip
        made = msgspec.structs.replace(made, **changes)
        self.project.predictions.append([made])
        self.logged.append((made, user))
        return key

    def label(self, key: str, bought: float, closed_at_us: int | None = None) -> None:
        at_us = self.clock.now_us() if closed_at_us is None else closed_at_us
        self.project.push("sales", [{"id": key, "closed_at": at_us, "bought": bought}])

    def days(self) -> list[ExperimentDay]:
        close_due(self.project)
        return stored_days(self.project.state.catalog, "versions", 1)


@pytest.mark.parametrize("seed", range(3))
def test_metrics_of_predictions_are_means_over_the_window_of_each_unit(seed: int, tmp_path: Path) -> None:
    rng, shop = random.Random(seed), Shop(tmp_path / "p")
    labels: dict[str, list[tuple[int, float]]] = defaultdict(list)  # by request: when known, and the value
    later: list[tuple[int, str, float]] = []
    with shop.project:
        for now_us in sorted(rng.randrange(BEGIN_US - HOUR_US, BEGIN_US + 4 * DAY_US) for _ in range(400)):
            for entry in [one for one in sorted(later) if one[0] <= now_us]:
                later.remove(entry)
                shop.clock.advance_to(max(entry[0], shop.clock.now_us()))
                shop.label(entry[1], entry[2])
                labels[entry[1]].append((shop.clock.now_us(), entry[2]))
            shop.clock.advance_to(now_us)
            flags = rng.choice(((), (), (), ("canary_failed",), ("past",)))
            arm = rng.choice(("champion", "canary", "shadow"))
            key = shop.answer(
                rng.choice(["tester", *(f"u{n}" for n in range(60))]),
                score=rng.uniform(0.05, 0.95), flags=flags, arm=arm, site=rng.choice(("north", "south")),
                mode=rng.choice(("live", "live", "live", "batch")),
            )  # fmt: skip
            delays_us = rng.choice(((), (HOUR_US,), (HOUR_US, 3 * HOUR_US), (25 * HOUR_US,)))
            later += [(now_us + delay_us, key, float(rng.random() < 0.5)) for delay_us in delays_us]
        shop.clock.advance_to(BEGIN_US + 9 * DAY_US)
        days = shop.days()
    assert len(days) == 6
    seen: set[str] = set()
    for day in days[:4]:
        assert day.known_by_us == day.day_us + 4 * DAY_US
        exposed = first_answers(shop, day.day_us)
        exposed = {user: found for user, found in exposed.items() if user not in seen}
        seen |= set(exposed)
        for variant in ("old", "new"):
            found = day.variants[variant]
            mine = {u: at for u, (at, of) in exposed.items() if of == variant and u != "tester"}
            assert (found.units, found.testers) == (len(mine), int("tester" in exposed and variant == "new"))
            counts = [0, 0]
            for metric in METRICS:
                values = []
                for user, at_us in mine.items():
                    within = [
                        p
                        for p, u in shop.logged
                        if u == user and at_us <= p.made_at_us < at_us + metric.within_us and counts_here(p)
                    ]
                    known = [(p, label_of(p, labels[p.request_id])) for p in within]
                    if metric.name == "loss":
                        counts[0] += sum(label is not None for _, label in known)
                        counts[1] += sum(label is None for _, label in known)
                    numbers = [
                        number(metric, p, label) for p, label in known if label is not None or metric.name == "score"
                    ]
                    if numbers:
                        values.append(math.fsum(numbers) / len(numbers))
                assert found.metrics[metric.name].units == len(values)
                assert found.metrics[metric.name].y == parts(sum(map(Fraction, values), Fraction(0)))
            of_ages = [losses_of_day(shop, labels, mine, day_of) for day_of in (0, 1)]
            assert [one.units for one in found.ages["loss"]] == [len(values) for values in of_ages]
            assert [one.y for one in found.ages["loss"]] == [
                parts(sum(map(Fraction, values), Fraction(0))) for values in of_ages
            ]
            assert [found.labelled, found.missing] == counts
    assert sum(one.units for day in days for one in day.variants.values()) > 40
    assert {name for day in days for one in day.variants.values() for name in one.slices} == {
        "site=north",
        "site=south",
    }


def losses_of_day(
    shop: Shop, labels: dict[str, list[tuple[int, float]]], exposed: dict[str, int], day_of: int
) -> list[float]:
    """The mean loss of each unit that got labelled predictions on a day since its exposure, from 0."""
    found = []
    for user, at_us in exposed.items():
        begin_us = at_us + day_of * DAY_US
        mine = [p for p, u in shop.logged if u == user and 0 <= p.made_at_us - begin_us < DAY_US and counts_here(p)]
        known = [(p, label_of(p, labels[p.request_id])) for p in mine]
        losses = [number(METRICS[0], p, label) for p, label in known if label is not None]
        if losses:
            found.append(math.fsum(losses) / len(losses))
    return found


def counts_here(p: Prediction) -> bool:
    return p.mode == "live" and p.arm != "shadow" and "past" not in p.flags


def first_answers(shop: Shop, day_us: int) -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    for p, user in shop.logged:
        if counts_here(p) and day_us <= p.made_at_us < day_us + DAY_US and p.made_at_us >= BEGIN_US:
            found.setdefault(user, (p.made_at_us, shop.variant(user)))
    return found


def label_of(p: Prediction, known: list[tuple[int, float]]) -> float | None:
    """The newest label that was known when the wait of a day was over."""
    values = [value for at_us, value in known if at_us <= p.at_us + DAY_US]
    return values[-1] if values else None


def number(metric: Metric, p: Prediction, label: float | None) -> float:
    if metric.name == "score":
        return p.score
    assert label is not None
    return label if metric.name == "sold" else -math.log(p.score if label else 1.0 - p.score)


@pytest.mark.parametrize("wait", ["3d", "1d"])
def test_labels_that_come_two_days_later_in_one_arm_fake_no_effect(wait: str, tmp_path: Path) -> None:
    """In one arm, sales are known two days later than refusals. What is known early would show a large effect."""
    sold_of = Metric(name="sold", kind="mean", prediction="label", within_us=HOUR_US)
    rng, shop = random.Random(7), Shop(tmp_path / "p", metrics=(sold_of,), wait=wait)
    with shop.project:
        waiting = []
        for n in range(400):
            shop.clock.advance_to(BEGIN_US + n * (DAY_US // 400))
            key, sold = shop.answer(f"u{n}"), float(rng.random() < 0.5)
            late_us = 2 * DAY_US if shop.variant(f"u{n}") == "new" and sold else 0
            waiting.append((shop.clock.now_us() + HOUR_US + late_us, key, sold))
        closes_us = BEGIN_US + DAY_US + HOUR_US + duration_us(wait)
        for at_us, key, sold in sorted(waiting):
            if at_us < closes_us and shop.clock.now_us() < closes_us - HOUR_US:
                assert shop.days() == []  # no look sees a part of the labels
            shop.clock.advance_to(max(at_us, shop.clock.now_us()))
            shop.label(key, sold)
        shop.clock.advance_to(max(closes_us, shop.clock.now_us()))
        (day,) = shop.days()
        shop.clock.advance_to(BEGIN_US + 31 * DAY_US)
        close_due(shop.project)
        late = stored_days(shop.project.state.catalog, "versions", 1)[0]
    assert late.variants == day.variants  # a closed day stays as it was
    old, new = day.variants["old"], day.variants["new"]
    assert (old.missing, old.labelled) == (0, old.units)
    assert new.missing + new.labelled == new.units
    if wait == "3d":
        assert new.missing == 0
        assert (late.late, late.with_late) == ({}, None)
        shares = [one.metrics["sold"].y[0] / one.metrics["sold"].units for one in (old, new)]
        assert abs(shares[0] - shares[1]) < 0.15
    else:  # what comes after the wait is missing, and the day says so for each variant
        assert new.missing > 0.3 * new.units
        assert new.metrics["sold"].units == new.labelled
        assert new.metrics["sold"].y == ()  # among those with a label, nothing was sold
        assert late.late == {"sold": {"new": new.missing}}
        found = {name: late.as_known_late.variants[name].metrics["sold"] for name in ("old", "new")}
        assert [one.units for one in found.values()] == [old.units, new.units]
        assert abs(found["old"].y[0] / old.units - found["new"].y[0] / new.units) < 0.15


def test_versions_that_throw_time_out_or_get_lost_keep_their_units(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "p", metrics=())
    users = [f"u{n}" for n in range(900)]
    with shop.project:
        for n, user in enumerate(users):
            shop.clock.advance_to(BEGIN_US + n * 10**6)
            if shop.variant(user) == "old":
                shop.answer(user)
            elif n % 4 == 0:
                shop.answer(user, version="v_old", flags=("canary_failed",))
            elif n % 4 == 1:
                shop.answer(user, flags=("null_features",))
            elif n % 4 == 2:
                shop.answer(user, version="v_older")
            else:  # no answer at all
                lost = Exposure(experiment="versions", generation=1, unit=user, variant="new",
                                at_us=shop.clock.now_us(), reason="timeout")  # fmt: skip
                log_exposures(shop.project.state.exposures, [lost])
        shop.clock.advance_to(BEGIN_US + DAY_US)
        (day,) = shop.days()
    assigned = Counter(map(shop.variant, users))
    assert {name: one.units for name, one in day.variants.items()} == assigned
    assert abs(assigned["old"] - assigned["new"]) < 100
    reasons = day.variants["new"].not_shown
    assert set(reasons) == {"canary_failed", "null_features", "other version", "timeout"}
    assert sum(reasons.values()) == assigned["new"]
    assert day.variants["old"].not_shown == {}


def test_a_unit_in_both_logs_counts_once(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "p", metrics=())
    with shop.project:
        shop.clock.advance_to(BEGIN_US)
        for user in ("a", "b"):
            lost = Exposure(experiment="versions", generation=1, unit=user, variant=shop.variant(user),
                            at_us=shop.clock.now_us(), reason="error")  # fmt: skip
            log_exposures(shop.project.state.exposures, [lost])
            shop.clock.advance_to(shop.clock.now_us() + 1)
            shop.answer(user)
        shop.clock.advance_to(BEGIN_US + DAY_US)
        (day,) = shop.days()
    assert sum(one.units for one in day.variants.values()) == 2
    assert sum(one.not_shown.get("error", 0) for one in day.variants.values()) == 2


def test_days_are_marked_and_left_out_by_rule(tmp_path: Path) -> None:
    changed = Allocation(from_us=BEGIN_US + 2 * DAY_US, share=0.0, weights={"old": 0.5, "new": 0.5},
                         buckets=[(5_000, "old"), (5_000, "new")])  # fmt: skip
    shop = Shop(tmp_path / "p", metrics=())
    state = msgspec.structs.replace(shop.state, allocations=[*shop.state.allocations, changed])
    with shop.project as project:
        project.state.catalog.write([Put(KIND, "versions", msgspec.json.encode(state))])
        acts = [("train", 0), ("promote", 0), ("train", 0), ("mute", 0), ("roll_back", 1), ("gate", 3)]
        for act, day in acts:
            row = Entry(at_us=BEGIN_US + day * DAY_US, model="one", act=act, cause="why")
            Ledger(project.state.catalog).write([row, msgspec.structs.replace(row, model="another")])
        red = RedWindow(id="w", model="one", kind="null_values", subject="column x",
                        start_us=BEGIN_US + 3 * DAY_US - 1, end_us=BEGIN_US + 3 * DAY_US)  # fmt: skip
        # the model does not read the unit's column, in which new values are no fault
        ids = msgspec.structs.replace(red, id="v", subject="column user", start_us=BEGIN_US)
        project.state.catalog.write([Put(RED, f"one/{one.id}", msgspec.json.encode(one)) for one in (ids, red)])
        shop.clock.advance_to(BEGIN_US + 2 * DAY_US)
        shop.answer("a")  # after the shares became 0
        shop.clock.advance_to(BEGIN_US + 4 * DAY_US)
        days = shop.days()
    assert [day.marks for day in days] == [("retraining", "promotion"), ("roll back",), ("changed shares",), ()]
    assert [day.excluded for day in days] == [None, None, "red window: null_values of column x", None]
    assert all(one.units == 0 for day in days for one in day.variants.values())


EXPERIMENT = """
compared = buyer("buyer", batch)
tt.experiment("smaller", model=compared.model, unit="visit_id", slices=["site"], overrides={"tester": "other"},
    variants={"control": "champion", "other": "buyer@1"},
    metrics=[tt.metric("loss", prediction="loss", within="1h", role="primary")])
"""


def test_answers_of_a_real_endpoint_are_the_exposures_of_their_units(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some canaries throw: the champion answers, and the units stay where they were assigned."""
    (trained / "project.py").write_text(shop.PROJECT.replace('\nbuyer("buyer", batch)\n', EXPERIMENT))
    with shop.opened(trained) as project:
        project.start_experiment("smaller", why="The smaller one is as good.")
        units = [{"visit_id": f"v{n}", "site": None} for n in range(80)]
        assigned = {str(unit["visit_id"]): project.assign("smaller", unit).variant for unit in units}
        failed = set[str]()
        losses: dict[str, list[float]] = {"control": [], "other": []}
        for n, name in enumerate(["tester", *assigned]):
            shop.move(project, 60 * 10**6)
            row = shop.visit(name, project.clock.now_us()) | {"site": ("north", "south")[n % 2]}
            project.served("buyer").refresh()
            with monkeypatch.context() as patch:
                if n % 5 == 0 and name != "tester":
                    canary = project.served("buyer").endpoint.canary
                    assert canary is not None
                    patch.setattr(type(canary.answerer), "predict", thrown_by(canary.answerer))
                    failed |= {name} if assigned[name] == "other" else set()
                (answer,) = project.predict("buyer", [row])
            bought = n % 3 == 0
            project.push("sales", [{"visit_id": name, "closed_at": project.clock.now_us(), "site": "north",
                                    "bought": bought}])  # fmt: skip
            if name != "tester":
                losses[assigned[name]].append(-math.log(answer.score if bought else 1.0 - answer.score))
        shop.move(project, 4 * DAY_US)
        project.tick()
        (day, *_) = stored_days(project.state.catalog, "smaller", 1)
    counts = Counter(assigned.values())
    assert {name: one.units for name, one in day.variants.items()} == counts
    assert 25 < counts["other"] < 55
    assert day.variants["other"].testers == 1
    assert day.variants["other"].not_shown.get("canary_failed") == len(failed) > 3
    assert "canary_failed" not in day.variants["control"].not_shown
    for name, found in losses.items():
        sums = day.variants[name].metrics["loss"]
        assert (sums.units, day.variants[name].missing) == (len(found), 0)
        assert sums.y[0] == pytest.approx(math.fsum(found), rel=1e-12)
        assert set(day.variants[name].slice_units) == {"site=north", "site=south"}


def thrown_by(answerer: Any) -> Any:
    whole = type(answerer).predict

    def predict(self: Any, *given: Any, **more: Any) -> Any:
        if self is answerer and given[0]:
            raise RuntimeError("a bug of the user's model")
        return whole(self, *given, **more)

    return predict
