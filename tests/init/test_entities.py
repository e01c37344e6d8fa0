"""A column that recurs besides the key, such as the customer of an order: its past becomes features, without leaks."""

from __future__ import annotations

import datetime as dt
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trimtab as tt
from trimtab.app.start.init.estimators import file_training_set
from trimtab.app.start.init.options import Options
from trimtab.app.start.init.scaffold import Scaffolded, scaffold
from trimtab.app.state.definitions import load_definitions
from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.time import DAY_US, parse_time_us

BEGIN = dt.datetime(2024, 1, 1)
LATER_US = 2**61
ROWS = 4_000


def orders(
    path: Path,
    *,
    returned: Callable[[float, dt.datetime], Any] | None = None,
    customer: Callable[[int], object] = "c{}".format,
) -> Path:
    """Write orders of 120 customers in 200 days; who returned much returns much, and small amounts come back."""
    rng = random.Random(1)
    habit = [rng.choice([-2.5, 0.0, 1.5]) for _ in range(120)]
    lines, at = ["order_id,customer_id,at,amount,channel,returned"], BEGIN
    for n in range(ROWS):
        at += dt.timedelta(minutes=rng.randrange(144))
        who, amount = rng.randrange(120), rng.lognormvariate(3, 1)
        p = 1 / (1 + math.exp(-habit[who] + math.log(amount) - 3))
        value: Any = "yes" if rng.random() < p else "no"
        value = value if returned is None else returned(p, at)
        lines.append(f"o{n},{customer(who)},{at},{amount:.2f},{'web' if n % 2 else 'shop'},{value}")
    path.write_text("\n".join(lines) + "\n")
    return path


def made(file: Path, **options: Any) -> Scaffolded:
    return scaffold(file, file.parent / "made", Options(**{"label": "returned", "estimator": "linear", **options}))


def past_values(file: Path, found: Scaffolded) -> tuple[np.ndarray[Any, Any], dict[str, np.ndarray[Any, Any]]]:
    """Return the times of the file's rows, and the features of the customer's past as the project computes them."""
    (model,) = load_definitions(found.folder / "project.py").models.values()
    rows = file_training_set(file, model, LATER_US)
    names = [name for name in model.features.names if name.startswith("past_")]
    return rows.at_us, {name: rows.features.values[name].values for name in names}


@pytest.mark.parametrize("customer", ["c{}".format, lambda who: who + 1000], ids=["text", "number"])
def test_a_customer_beside_an_order_id_gets_a_view_of_its_past(
    tmp_path: Path, customer: Callable[[int], object]
) -> None:
    file = orders(tmp_path / "orders.csv", customer=customer)
    found = made(file, wait="5d")
    (said,) = [one for one in found.assumed if one.role == "entity"]
    assert said.option == "--entity"
    assert said.said.startswith("'customer_id' recurs (120 values in 4,000 rows)")
    definitions = load_definitions(found.folder / "project.py")
    view = definitions.views["past_customer_id"]
    assert list(view.features) == [
        *("rows_7d", "mean_label_7d", "rows_30d", "mean_label_30d", "mean_label_365d"),
        *("mean_amount_30d", "sum_amount_30d"),
    ]
    assert {one.until_us for one in view.features.values()} == {5 * DAY_US}
    assert "customer_id" in found.left_out
    with tt.open(found.folder, clock=VirtualClock(parse_time_us("2024-07-20")), environment={}) as project:
        for source in ("orders", "orders_labels"):
            assert project.ingest(source, file).quarantined == 0
        acts = [decision.act for decision in project.train()]
        assert acts[-1] == "promote"
        unknown = {"order_id": "new", "customer_id": customer(-7), "at": "2024-07-20T00:00:00Z", "amount": 9.5}
        known = unknown | {"customer_id": customer(3)}
        answers = [project.predict("returned", [row | {"channel": "web"}])[0] for row in (unknown, known)]
        inputs = [{one.feature: one for one in project.why(answer.id).inputs} for answer in answers]
        rows = [one["past_customer_id.rows_30d"] for one in inputs]
        assert (rows[0].value, rows[0].reason) == (0, "no_entity")
        assert rows[1].value is not None
        assert rows[1].value > 0


def test_no_feature_of_the_past_knows_a_label_before_its_wait_is_over(tmp_path: Path) -> None:
    """Other labels from some day on change no feature of a request up to the wait after that day."""
    change, wait = BEGIN + dt.timedelta(100), 5
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = orders(tmp_path / "a" / "orders.csv", returned=lambda p, at: "yes" if p > 0.5 else "no")
    other = orders(tmp_path / "b" / "orders.csv", returned=lambda p, at: "yes" if (p > 0.5) != (at > change) else "no")
    found = made(one, wait=f"{wait}d")
    (at_us, before), (_, after) = past_values(one, found), past_values(other, found)
    open_us = parse_time_us(change) + wait * DAY_US
    early = at_us <= open_us
    assert early.sum() > 1_500
    assert len(before) == 7
    for name, values in before.items():
        np.testing.assert_array_equal(values[early], after[name][early], name)
        if "label" in name:
            late = at_us > open_us + 10 * DAY_US
            assert not np.array_equal(values[late], after[name][late], equal_nan=True), name


def test_the_caller_names_entities_or_switches_them_off(tmp_path: Path) -> None:
    file = orders(tmp_path / "orders.csv")
    found = made(file, entity=("channel", "customer_id"))
    assert list(load_definitions(found.folder / "project.py").views) == ["past_channel", "past_customer_id"]
    assert not [one for one in found.assumed if one.role == "entity"]
    (tmp_path / "none").mkdir()
    none = scaffold(file, tmp_path / "none" / "made", Options(label="returned", entity=("none",)))
    assert not load_definitions(none.folder / "project.py").views
    for entity, error, said in (
        ("order_id", Misuse, "has another role"),
        ("amount", Misuse, "needed text or a whole number"),
        ("custmer", NotFound, "no such column"),
    ):
        with pytest.raises(error, match=said):
            scaffold(file, tmp_path / "other", Options(label="returned", entity=(entity,)))


@pytest.mark.parametrize("kind", ["number", "classes"])
def test_past_labels_of_other_kinds(tmp_path: Path, kind: str) -> None:
    rng = random.Random(2)
    labels: dict[str, Callable[[float, dt.datetime], Any]] = {
        "number": lambda p, at: round(10 * p + rng.random(), 3),
        "classes": lambda p, at: rng.choice(["low", "high"]) if p < 0.8 else "other",
    }
    file = orders(tmp_path / "orders.csv", returned=labels[kind])
    found = made(file)
    (model,) = load_definitions(found.folder / "project.py").models.values()
    names = set(model.features.names)
    assert f"past_customer_id.{'mean_label_30d' if kind == 'number' else 'share_3_30d'}" in names
    assert set(model.allow_leakage) == (
        {name for name in names if name.startswith("past_")} if kind == "number" else set()
    )


def test_a_column_whose_rows_come_together_or_that_has_few_values_is_no_entity(tmp_path: Path) -> None:
    """The lines of an order are there at the same time, so an order has no past when it is asked about."""
    rng = random.Random(3)
    lines = ["line_no,order_id,shop_id,at,price,returned"]
    for n in range(3_000):
        at = BEGIN + dt.timedelta(hours=n // 3)
        lines.append(f"L{n},o{n // 3},s{n % 7},{at},{rng.random():.3f},{rng.choice('yn')}")
    file = tmp_path / "lines.csv"
    file.write_text("\n".join(lines) + "\n")
    found = made(file, key="line_no")
    assert not [one for one in found.assumed if one.role == "entity"]
    assert not load_definitions(found.folder / "project.py").views


@pytest.mark.parametrize("clock", ["%H:%M", "%H:%M:%S", "%I:%M %p"])
def test_a_time_of_day_apart_from_its_date_is_no_entity_and_no_category(tmp_path: Path, clock: str) -> None:
    rng = random.Random(4)
    lines = ["no,date,time,price,returned"]
    for n in range(3_000):
        at = BEGIN + dt.timedelta(days=n // 30, minutes=rng.randrange(300), seconds=rng.randrange(3))
        lines.append(f"L{n},{at:%Y-%m-%d},{at.strftime(clock)},{rng.random():.3f},{rng.choice('yn')}")
    file = tmp_path / "sales.csv"
    file.write_text("\n".join(lines) + "\n")
    found = made(file, key="no", time="date")
    assert not [one for one in found.assumed if one.role == "entity"]
    assert "'time' is a time of day" in " ".join(f"{name!r} {why}" for name, why in found.left_out.items())


@pytest.mark.parametrize("share", [0.05, 1.0])
def test_rows_that_repeat_others_hide_no_key(tmp_path: Path, share: float) -> None:
    file = orders(tmp_path / "orders.csv")
    head, *lines = file.read_text().splitlines()
    (tmp_path / "again").mkdir()
    again = tmp_path / "again" / "orders.csv"
    again.write_text("\n".join([head, *lines, *lines[: int(share * len(lines))]]) + "\n")
    for one in (file, again):
        (request,) = load_definitions(made(one).folder / "project.py").requests.values()
        assert request.key == "order_id"
