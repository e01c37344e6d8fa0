"""Who takes part may depend on features: read as of the assignment, logged, and counted where they are missing."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import msgspec
import pytest
import shop

from trimtab.app.experiments.closing import close_due
from trimtab.app.experiments.evaluating import with_past_features
from trimtab.app.project import Project, open_project
from trimtab.app.replay.past_units import past_units
from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, HOUR_US, parse_time_us
from trimtab.experiments.days import stored_days
from trimtab.experiments.exposures import decode

BEGIN_US = parse_time_us("2024-03-01T00:00:00Z")
PROJECT = """
import trimtab as tt

orders = tt.source("orders", time="at", columns={"customer": int, "shop": str, "amount": float})
customer = tt.view("customer", source=orders, by="customer", features={
    "orders_2d": tt.count(over="2d"), "last": tt.latest("amount", max_age="1d"), "shop": tt.latest("shop")})
shop = tt.view("shop", source=orders, by="shop", features={"best": tt.max("amount", over="2d")})
spent = tt.metric("spent", source=orders, by="customer", value=tt.sum("amount"), within="1d", role="primary")
tt.experiment("loyal", unit="customer", variants={"old": 1, "new": 2}, metrics=[spent], features=[customer],
    where=(tt.col("customer.last") > 10.0) & (tt.col("country") == "DE"), attributes={"country": str},
    slices=["customer.shop"])
tt.experiment("shops", unit="customer", variants={"old": 1, "new": 2}, metrics=[spent],
    features=[shop.join("their", by="home")], where=tt.col("their.best") >= 50.0, attributes={"home": str})
"""


def opened(folder: Path, text: str = PROJECT, at_us: int = BEGIN_US) -> Project:
    (folder / "trimtab.toml").write_text("")
    (folder / "project.py").write_text(text)
    return open_project(folder, clock=VirtualClock(at_us), environment={})


def to(project: Project, at_us: int) -> None:
    assert isinstance(project.clock, VirtualClock)
    project.clock.advance_to(at_us)


def order(project: Project, customer: int, amount: float, *, at: str = "east") -> None:
    row = {"at": project.clock.now_us(), "customer": customer, "shop": at, "amount": amount}
    assert project.push("orders", [row]).accepted == 1


def exposures(project: Project) -> list[tuple[str, str, str, dict[str, object]]]:
    log = project.state.exposures
    found = [decode(record) for partition in log.positions() for record in log.read(partition, 0)]
    return [(one.unit, one.variant, one.reason, msgspec.msgpack.decode(one.attributes)) for one in found]


def unit(customer: object, country: str = "DE") -> dict[str, object]:
    return {"customer": customer, "country": country}


def test_a_unit_is_eligible_by_its_features_as_of_the_assignment(tmp_path: Path) -> None:
    with opened(tmp_path) as project:
        order(project, 1, 20.0)
        order(project, 2, 5.0)
        to(project, BEGIN_US + HOUR_US)
        project.start_experiment("loyal", why="Loyal customers like it.")
        reasons = {n: project.assign("loyal", unit(n)).reason for n in (1, "1", 2, 3)}
        assert reasons == {1: "assigned", "1": "assigned", 2: "not eligible", 3: "feature missing"}
        assert project.assign("loyal", unit(1, "FR")).reason == "not eligible"
        order(project, 2, 11.0)
        to(project, project.clock.now_us() + 1)
        assert project.assign("loyal", unit(2)).reason == "assigned"
        to(project, BEGIN_US + 26 * HOUR_US)  # the last orders are older than `max_age`
        assert project.assign("loyal", unit(1)).reason == "feature missing"
        assert not project.assign("loyal", unit(1)).takes_part


def test_the_values_are_logged_with_the_exposure_and_missing_features_are_counted(tmp_path: Path) -> None:
    with opened(tmp_path) as project:
        for customer in range(40):
            order(project, customer, 20.0, at=("east", "west")[customer % 2])
        to(project, BEGIN_US + HOUR_US)
        project.start_experiment("loyal", why="Loyal customers like it.")
        met = {n: project.expose("loyal", unit(n)).variant for n in range(40)}
        assert project.expose("loyal", unit("no number")).reason == "feature missing"
        for _ in range(3):
            assert project.expose("loyal", unit(99)).variant == "old"
        logged = exposures(project)
        assert logged[0] == (
            "0", met[0], "", {"country": "DE", "customer.orders_2d": 1, "customer.last": 20.0, "customer.shop": "east"}
        )  # fmt: skip
        to(project, BEGIN_US + 26 * HOUR_US)
        assert project.expose("loyal", unit(7)).reason == "feature missing"  # on its second day; its first one counts
        to(project, BEGIN_US + 3 * DAY_US)
        close_due(project)
        first, second = stored_days(project.state.catalog, "loyal", 1)
        assert {name: one.units for name, one in first.variants.items()} == {
            name: [*met.values()].count(name) for name in ("old", "new")
        }
        slices = {name for one in first.variants.values() for name in one.slice_units}
        assert slices == {"customer.shop=east", "customer.shop=west"}
        assert first.not_eligible == {"customer.last (no_entity)": 2}
        assert second.not_eligible == {}
        reading = project.experiment_report("loyal")
        assert reading.not_eligible == {"customer.last (no_entity)": 2}
        assert reading.decided_before["where"] == "((col('customer.last') > 10.0) & (col('country') == 'DE'))"


def test_units_that_take_part_later_or_are_not_in_the_share_are_not_counted_as_lacking(tmp_path: Path) -> None:
    with opened(tmp_path, PROJECT.replace('slices=["customer.shop"]', "share=0.5")) as project:
        to(project, BEGIN_US + HOUR_US)
        project.start_experiment("loyal", why="Loyal customers like it.")
        people = [unit(n) for n in range(200)]
        assert {one.reason for one in project.expose_units("loyal", people)} == {"feature missing"}
        for n in range(100):
            order(project, n, 20.0)
        to(project, BEGIN_US + 20 * HOUR_US)
        assert {project.assign("loyal", one).reason for one in people[:100]} == {"assigned", "not in share"}
        project.expose_units("loyal", people[:50])
        to(project, BEGIN_US + 24 * HOUR_US)
        taking = [one.takes_part for one in project.expose_units("loyal", people[50:])][:50]
        assert 10 < sum(taking) < 40
        to(project, BEGIN_US + 5 * DAY_US)
        close_due(project)
        first, second, *_ = stored_days(project.state.catalog, "loyal", 1)
        assert {*exposures(project)[0][:3]} >= {"", "customer.last (no_entity)"}
        logged = {name for name, variant, _, _ in exposures(project) if not variant}
        assert len(logged) < 140
        lacking = sum(int(name) >= 100 for name in logged)
        assert first.not_eligible == {"customer.last (no_entity)": lacking}
        assert second.not_eligible == {"customer.last (no_entity)": lacking}
        assert 20 < lacking < 80


def test_a_view_can_be_looked_up_by_an_attribute_and_history_gives_the_same_values(tmp_path: Path) -> None:
    with opened(tmp_path) as project:
        order(project, 1, 60.0, at="west")
        order(project, 2, 20.0, at="east")
        to(project, BEGIN_US + HOUR_US)
        project.start_experiment("shops", why="Good shops sell more.")
        rows = [{"customer": n, "home": home} for n, home in ((5, "west"), (6, "east"), (7, "none"), (8, None))]
        found = [project.assign("shops", row).reason for row in rows]
        assert found == ["assigned", "not eligible", "feature missing", "feature missing"]
        import numpy as np

        definition = project.definitions.experiments["shops"]
        past = with_past_features(project, definition, rows, np.full(4, project.clock.now_us()))
        assert [row["their.best"] for row, _ in past] == [60.0, 20.0, None, None]
        assert [text for _, text in past] == ["", "", "their.best (no_entity)", "their.best (no_entity)"]


def test_a_plan_takes_the_features_of_past_units_and_says_if_no_one_takes_part(tmp_path: Path) -> None:
    with opened(tmp_path, PROJECT.replace("home", "shop")) as project:
        for day in range(9):
            to(project, BEGIN_US + day * DAY_US)
            for customer in range(40):
                order(project, customer + 40 * day, 20.0 * (customer % 2), at="east")
                to(project, project.clock.now_us() + 10**6)
                order(project, customer + 40 * day, 5.0 + customer)
        to(project, BEGIN_US + 12 * DAY_US)
        units = past_units(project, project.definitions.experiments["shops"], origin="orders")
        bests = [row["their.best"] for row in units.rows]
        assert (len(bests), bests.count(None)) == (280, 1)  # seven whole days; before its first order the shop has none
        assert max(best for best in bests if best is not None) == 44.0
        with pytest.raises(Misuse, match=r"none of the .* units of orders takes part\. Check where="):
            project.simulate_experiment("shops", runs=2, units="orders")


@pytest.mark.slow
def test_a_plan_takes_each_unit_from_the_first_appearance_at_which_it_fulfils_the_condition(tmp_path: Path) -> None:
    with opened(tmp_path, PROJECT.replace("attributes={\"country\": str},", "").replace(
        '& (tt.col("country") == "DE")', "")) as project:  # fmt: skip
        project.start_experiment("loyal", why="Loyal customers like it.")
        taken: dict[str, int] = {}
        for day in range(9):
            for turn, number in product((2, 1, 0), range(20)):  # on three days each, within the age of the last order
                to(project, project.clock.now_us() + 10**6)
                one = number + 20 * (day - turn)
                if project.expose("loyal", one).takes_part:
                    taken.setdefault(str(one), project.clock.now_us())
                order(project, one, (5.0, 20.0, 20.0)[turn])
            to(project, BEGIN_US + (day + 1) * DAY_US)
        to(project, BEGIN_US + 12 * DAY_US)
        past = past_units(project, project.definitions.experiments["loyal"], origin="orders")
        fulfil = {
            str(row["customer"]): at
            for row, at in zip(past.rows, past.at_us.tolist(), strict=True)
            if (row["customer.last"] or 0.0) > 10.0
        }
        assert fulfil == {unit: at for unit, at in taken.items() if at <= past.at_us.max()}
        assert len(fulfil) > 100
        plan = project.experiment_plan("loyal", units="orders")
        assert plan.units_a_day * plan.past_days == pytest.approx(len(fulfil))


def test_a_changed_view_is_a_changed_definition_and_the_one_of_the_start_is_read(tmp_path: Path) -> None:
    with opened(tmp_path) as project:
        order(project, 1, 20.0)
        to(project, BEGIN_US + HOUR_US)
        project.start_experiment("loyal", why="Loyal customers like it.")
    with opened(tmp_path, PROJECT.replace('max_age="1d"', 'max_age="2h"'), BEGIN_US + 4 * HOUR_US) as project:
        assert "the definition changed since the start" in project.experiment("loyal").note
        assert project.assign("loyal", unit(1)).reason == "assigned"


def test_an_experiment_that_is_no_longer_declared_still_reads_its_features(tmp_path: Path) -> None:
    with opened(tmp_path) as project:
        order(project, 1, 20.0)
        project.start_experiment("loyal", why="Loyal customers like it.")
    with opened(tmp_path, "import trimtab as tt", BEGIN_US + HOUR_US) as project:
        assert project.expose("loyal", unit(1)).reason == "assigned"
        assert [view.name for view in project.live.views()] == ["customer"]
        assert "the project file does not declare it any more" in project.experiment("loyal").note
        project.stop_experiment("loyal", why="It is gone.")
        assert project.live.views() == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"customer.last"', '"customer.least"', "'customer.least' is no feature of the given views"),
        ("features=[customer],", "", r"'customer.last' is no feature of the given views. Give its view: features="),
        (
            'attributes={"country": str}',
            'attributes={"country": str, "customer.shop": str}',
            "an attribute and a feature",
        ),
        ("features=[customer]", "features=customer", r"is not a list. Write features=\[...\] with views"),
        ("features=[customer]", 'features=["customer"]', "Give views"),
        ("features=[customer]", "features=[customer, shop]", "looked up by 'shop', which is no column of the unit and"),
        ('attributes={"home": str}', 'attributes={"home": int}', "'home' is int, but view 'shop' is looked up by str"),
        (
            'features=[shop.join("their", by="home")]',
            'features=[shop.join("their", by="a.b")]',
            r"experiment 'shops': view 'shop': request 'unit' needs a column or feature 'a\.b'",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_when_it_is_declared(old: str, new: str, said: str, tmp_path: Path) -> None:
    assert old in PROJECT
    with pytest.raises(Misuse, match=said), opened(tmp_path, PROJECT.replace(old, new)):
        pass


VERSIONS = """
compared = buyer("buyer", batch)
loss = tt.metric("loss", prediction="score", within="1d", role="primary")
tt.experiment("calm", model=compared.model, unit="visit_id", variants={"control": "champion", "other": "buyer@1"},
    where=tt.col("site.level") < LEVEL, metrics=[loss], overrides={"tester": "other"})
"""


@pytest.mark.parametrize("level", ["1e9", "-1e9"])
def test_an_experiment_over_versions_takes_only_eligible_requests(trained: Path, level: str) -> None:
    text = shop.PROJECT.replace('\nbuyer("buyer", batch)\n', VERSIONS.replace("LEVEL", level))
    (trained / "project.py").write_text(text)
    with shop.opened(trained) as project:
        project.start_experiment("calm", why="The smaller one is as good.")
        project.served("buyer").refresh()
        rows = [shop.visit(f"v{n}", shop.NOW_US) | {"site": "north"} for n in range(40)]
        answers = project.predict("buyer", [*rows, shop.visit("tester", shop.NOW_US)])
        unknown = [shop.visit(f"u{n}", shop.NOW_US) | {"site": "nowhere"} for n in range(5)]
        lacking = project.predict("buyer", unknown)
        assert {one.flags for one in lacking} == {("feature_missing", "site.level (no_entity)")}
        assert {one.arm for one in lacking} == {"champion"}
        flags, arms = {one.flags for one in answers[:-1]}, [one.arm for one in answers[:-1]]
        assert answers[-1].arm == "canary"
        assert flags == ({("eligible",)} if level == "1e9" else {()})
        assert 8 < arms.count("canary") < 32 if level == "1e9" else "canary" not in arms
        to(project, shop.NOW_US + 4 * DAY_US)
        close_due(project)
        (day, *_) = stored_days(project.state.catalog, "calm", 1)
        assert sum(one.units for one in day.variants.values()) == (40 if level == "1e9" else 0)
        assert day.variants["other"].units == arms.count("canary")
        assert day.variants["other"].testers == 1
        assert day.not_eligible == {"site.level (no_entity)": 5}
