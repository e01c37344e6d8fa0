"""Series of several keys at regular times: lags, windows and horizons; snapshots by month."""

from __future__ import annotations

import datetime as dt
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import trimtab as tt
from trimtab.app.start.init.estimators import file_training_set
from trimtab.app.start.init.options import Options
from trimtab.app.start.init.scaffold import Scaffolded, scaffold
from trimtab.app.state.definitions import load_definitions
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.time import DAY_US

BEGIN = dt.date(2025, 1, 6)


def sales(shop: int, day: int) -> float:
    """A level for each shop and a height for each weekday, that no noise hides."""
    return round(100 + 20 * shop + 15 * math.sin(day % 7), 3)


def shops(path: Path, days: int = 200, extra: bool = False) -> Path:
    rng = random.Random(1)
    lines = ["date,shop,sales" + ",visitors,promotion" * extra]
    for day in range(days):
        for shop in range(5):
            more = f",{rng.randrange(900)},{rng.choice('yn')}" * extra
            lines.append(f"{BEGIN + dt.timedelta(days=day)},S{shop},{sales(shop, day)}{more}")
    path.write_text("\n".join(lines) + "\n")
    return path


def made(path: Path, **options: object) -> Scaffolded:
    return scaffold(path, path.parent / "made", Options(**options))  # type: ignore[arg-type]  # of a test


def test_a_series_by_shop_is_predicted_from_lags_and_windows_that_its_horizon_leaves(tmp_path: Path) -> None:
    file = shops(tmp_path / "shops.csv")
    found = made(file, horizon="7d", estimator="linear")
    definitions = load_definitions(found.folder / "project.py")
    request = definitions.requests["shops"]
    assert (request.lead_us, request.source.reading.key_of) == (7 * DAY_US, ("shop", "date"))
    assert list(definitions.views["history"].features) == [
        *("last", "mean_7d", "std_7d", "mean_28d", "std_28d", "lag_14d", "lag_21d", "lag_28d")
    ]  # fmt: skip
    assert {one.role: one.said.split("'")[1] for one in found.assumed if one.role in ("time", "label")} == {
        "time": "date",
        "label": "sales",
    }
    with tt.open(found.folder) as project:
        for source in ("shops", "shops_labels"):
            assert project.ingest(source, file).accepted == 1_000
        day = 180  # a Monday in the middle of what is known
        at = BEGIN + dt.timedelta(days=day)
        rows = [{"row_id": f"S{shop}", "shop": f"S{shop}", "date": f"{at}T00:00:00Z"} for shop in range(5)]
        table: Any = project.join(rows, "sales")
        for shop in range(5):
            value = {
                name: table[f"history.{name}"].to_list()[shop] for name in ("last", "lag_14d", "lag_21d", "mean_7d")
            }
            # A week before its row the prediction is made, and then the day before is the newest that is known.
            assert value["last"] == sales(shop, day - 8)
            assert value["lag_14d"] == sales(shop, day - 14) == sales(shop, day)
            assert value["lag_21d"] == sales(shop, day - 21)
            assert value["mean_7d"] == pytest.approx(sum(sales(shop, day - 14 + back) for back in range(7)) / 7, abs=3)


def test_a_candidate_learns_no_label_that_was_not_known_when_its_window_began(tmp_path: Path) -> None:
    """A label is final after the horizon and the wait, counted from the prediction."""
    found = made(shops(tmp_path / "shops.csv"), horizon="7d", wait="2d", estimator="linear")
    model = load_definitions(found.folder / "project.py").models["sales"]
    assert model.label.wait_us == 9 * DAY_US
    rows = file_training_set(tmp_path / "shops.csv", model, 2**61)
    assert rows.usable.sum() > 900
    assert (rows.label_known_at_us <= rows.manifest.final_at(rows.at_us))[rows.usable].all()


def test_values_of_the_row_itself_are_features_only_where_they_are_known_ahead(tmp_path: Path) -> None:
    file = shops(tmp_path / "shops.csv", extra=True)
    options = {"label": "sales", "key": "shop", "horizon": "7d"}
    found = made(file, **options)
    assert [name for name, why in found.left_out.items() if "--known-ahead" in why] == ["visitors", "promotion"]
    (tmp_path / "again").mkdir()
    again = scaffold(file, tmp_path / "again" / "made", Options(**options, known_ahead=("promotion",)))
    text = (again.folder / "project.py").read_text()
    assert '"promotion": tt.col("promotion")' in text
    assert '"visitors": tt.col' not in text


def test_several_columns_in_one_option_are_told_to_be_given_one_by_one(tmp_path: Path) -> None:
    file = shops(tmp_path / "shops.csv", extra=True)
    with pytest.raises(NotFound, match="Give --known-ahead once for each column"):
        made(file, label="sales", known_ahead=["visitors,promotion"])
    with pytest.raises(NotFound, match=r"shops.csv has date, shop"):
        made(file, label="sales", known_ahead=["visitors,weather"])


def test_names_with_spaces_are_quoted_in_what_can_be_typed(tmp_path: Path) -> None:
    file = shops(tmp_path / "shops.csv", extra=True)
    text = file.read_text().replace("visitors", "visitors at noon", 1).replace("shop,", "shop no,", 1)
    file.write_text(text)
    assert made(file, label="sales").left_out["visitors at noon"].endswith("--known-ahead 'visitors at noon'")
    file.write_text(shops(file).read_text().replace("shop,", "shop no,", 1) + f"{BEGIN},S1,999.5\n")
    with pytest.raises(Misuse, match=r"--key 'shop no,date'.*--key 'shop no,date,COLUMN'"):
        made(file)


def test_a_horizon_needs_a_series(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("id,at,x,y\n" + "".join(f"{i},2024-01-{i % 28 + 1:02},{i},{i % 7}.5\n" for i in range(100)))
    with pytest.raises(Misuse, match="--horizon 7d: needs a number to predict, and rows of a recurring key"):
        made(file, label="y", key="id", horizon="7d")


def test_a_horizon_as_long_as_the_history_is_refused(tmp_path: Path) -> None:
    file = shops(tmp_path / "shops.csv", days=60)
    with pytest.raises(Misuse, match=r"--horizon 58d: the rows span 59d, so .* Give a shorter horizon"):
        made(file, horizon="58d", wait="1d")
    assert not (tmp_path / "made").exists()


def test_snapshots_of_each_month_are_judged_by_several_of_them(tmp_path: Path) -> None:
    rng = random.Random(2)
    lines = ["month,customer_id,usage,churned"]
    for month in range(24):
        first = dt.date(2023 + month // 12, month % 12 + 1, 1)
        lines += [f"{first},C{who},{rng.random():.3f},{int(rng.random() < 0.2)}" for who in range(60)]
    file = tmp_path / "snapshots.csv"
    file.write_text("\n".join(lines) + "\n")
    found = made(file, time="month")
    definitions = load_definitions(found.folder / "project.py")
    assert definitions.requests["snapshots"].source.reading.key_of == ("customer_id", "month")
    (deployment,) = definitions.deployments.values()
    assert deployment.model.label.wait_us == 31 * DAY_US  # a month's label is that of the time until the next one
    # The newest six of the snapshots whose wait is over are those from May to October.
    final = dt.date(2024, 12, 1) - dt.timedelta(31)
    assert deployment.gate.window_us == ((final - dt.date(2024, 5, 1)).days + 2) * DAY_US
    assert any("six days with labels" in note for note in found.notes)
    assert "usage" in (found.folder / "project.py").read_text()


def test_snapshots_at_irregular_dates_are_trained_on_and_judged_by_date(tmp_path: Path) -> None:
    rng = random.Random(3)
    lines, day = ["date,plant,load,output"], BEGIN
    for _ in range(20):
        for plant in range(30):
            load = rng.random()
            lines.append(f"{day},P{plant},{load:.3f},{3 * load + plant % 10 + rng.gauss(0, 0.3):.3f}")
        day += dt.timedelta(rng.choice([5, 9, 17, 31]))
    file = tmp_path / "snapshots.csv"
    file.write_text("\n".join(lines) + "\n")
    found = made(file, label="output", estimator="linear")
    with tt.open(found.folder) as project:
        for source in ("snapshots", "snapshots_labels"):
            project.ingest(source, file)
        project.train()
        (gate,) = {
            one.id: one for v in project.registry.versions("output") for one in project.registry.gates_of(v)
        }.values()
        # Six dates whose wait was over at the newest row, and the newest one, whose wait is over by now.
        assert (gate.passed, gate.rows) == (True, 7 * 30)


def test_a_single_series_needs_no_key(tmp_path: Path) -> None:
    file = tmp_path / "sales.csv"
    values = {BEGIN + dt.timedelta(day): 500 + 40 * (day % 7) + day / 10 for day in range(300) if day % 50 != 20}
    file.write_text("date,sales\n" + "".join(f"{day},{value}\n" for day, value in values.items()))
    found = made(file, horizon="2d", estimator="linear")
    assert any("all rows are one series" in one.said for one in found.assumed)
    definitions = load_definitions(found.folder / "project.py")
    assert definitions.views["history"].by == ("series",)
    with tt.open(found.folder) as project:
        for source in ("sales", "sales_labels"):
            assert project.ingest(source, file).accepted == len(values)
        day = BEGIN + dt.timedelta(250)
        row = {"row_id": "new", "date": f"{day}T00:00:00Z", "series": "all"}
        table: Any = project.join([row], "sales_2")
        # The prediction is made two days before, and then the newest label is that of the day before.
        for name, back in (("last", 3), ("lag_7d", 7), ("lag_14d", 14)):
            assert table[f"history.{name}"].to_list() == [values[day - dt.timedelta(back)]]


def test_the_value_of_the_last_day_and_of_the_last_year_is_a_feature_where_rows_have_such_seasons(
    tmp_path: Path,
) -> None:
    cases = {
        "hourly": (dt.timedelta(hours=1), 40 * 24, {"lag_1d": 24, "lag_7d": 168}),
        "daily": (dt.timedelta(days=1), 4 * 365, {"lag_7d": 7, "lag_364d": 364}),
        "weekly": (dt.timedelta(days=7), 200, {"lag_7d": 1, "lag_364d": 52}),
        "monthly": (None, 60, {"lag_365d": 12}),
    }
    begin = dt.datetime(2019, 1, 1, tzinfo=dt.UTC)
    for name, (step, rows, lags) in cases.items():
        times = [
            begin.replace(year=2019 + n // 12, month=n % 12 + 1) if step is None else begin + n * step
            for n in range(rows)
        ]
        file = tmp_path / f"{name}.csv"
        file.write_text("at,value\n" + "".join(f"{at:%Y-%m-%dT%H:%M:%SZ},{n}.5\n" for n, at in enumerate(times)))
        found = made(file, estimator="linear")
        model = load_definitions(found.folder / "project.py").models["value"]
        table = file_training_set(file, model, 2**61).features.values
        shutil.rmtree(found.folder)
        for lag, back in lags.items():
            values = table[f"history.{lag}"].to_list()
            assert values[:back] == [None] * back
            assert values[back + 1 :] == [n + 0.5 for n in range(1, rows - back)], (name, lag)
        names = {one for one in table.names if one.startswith("history.lag_")}
        assert ("history.lag_1d" in names) == (name == "hourly")
        assert ("history.lag_7d" in names) == (name != "monthly")


def test_the_key_of_a_panel_is_not_taken_for_its_label(tmp_path: Path) -> None:
    rng = random.Random(6)
    days = [BEGIN + dt.timedelta(day) for day in range(60)]
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("day,store,units\n" + "".join(f"{d},{s},{rng.randrange(90)}\n" for d in days for s in range(4)))
    two = tmp_path / "two.csv"
    two.write_text("day,shop,sales\n" + "".join(f"{d},{s},{rng.random():.3f}\n" for d in days for s in "AB"))
    for file, label, key in ((numbers, "units", "store"), (two, "sales", "shop")):
        found = made(file, estimator="linear")
        assert load_definitions(found.folder / "project.py").views["history"].by == (key,)
        assert any(one.role == "label" and one.said.startswith(repr(label)) for one in found.assumed)
        shutil.rmtree(found.folder)
    holiday = tmp_path / "holiday.csv"
    rows = "".join(f"{d},{s},{rng.random():.3f},{'ny'[d.day == 1]}\n" for d in days for s in "AB")
    holiday.write_text("day,shop,sales,holiday\n" + rows)
    with pytest.raises(Misuse, match="Candidates: 'holiday', 'sales'"):
        made(holiday)


def test_an_entity_of_several_columns_is_found_or_named(tmp_path: Path) -> None:
    file = tmp_path / "margins.csv"
    rows = [
        (BEGIN + dt.timedelta(day), shop, product, round(-7.5 * shop + 3 * product + day % 7, 2))
        for day in range(120)
        for shop in range(3)
        for product in range(4)
    ]
    file.write_text("date,shop,product,margin\n" + "".join(f"{d},s{s},p{p},{m}\n" for d, s, p, m in rows))
    for number, options in enumerate(({}, {"key": "shop,product"}, {"key": "date,shop,product"})):
        found = scaffold(file, tmp_path / f"made{number}", Options(label="margin", **options))  # type: ignore[arg-type]
        definitions = load_definitions(found.folder / "project.py")
        assert definitions.views["history"].by == ("shop", "product")
        assert definitions.requests["margins"].source.reading.key_of == ("shop", "product", "date")
        assert "lag_7d" in definitions.views["history"].features


def test_two_values_of_one_day_are_asked_about_and_the_last_one_counts_if_the_caller_says_so(tmp_path: Path) -> None:
    file = shops(tmp_path / "shops.csv", days=60)
    with file.open("a") as out:
        out.write(f"{BEGIN},S1,999.5\n")
    with pytest.raises(Misuse, match=r"1 row has the same values.*lines 3 and 302.*say so: --key shop,date"):
        made(file)
    found = made(file, key="shop,date")
    assert any(one.said.startswith("1 row corrects a row") for one in found.assumed)
    with tt.open(found.folder) as project:
        project.ingest("shops_labels", file)
        at_us = int(dt.datetime(2025, 1, 7, tzinfo=dt.UTC).timestamp()) * 1_000_000
        project.history.refresh()
        frame = project.history.frame("shops_labels")
        day = (frame.event_at_us < at_us) & (frame.superseded_at_us > at_us + 400 * DAY_US)
        assert 999.5 in frame.columns["sales"].values[day].tolist()
        assert int(day.sum()) == 5


def test_a_model_that_no_last_value_needs_is_refused_with_both_figures_unless_the_gate_lets_it_pass(
    tmp_path: Path,
) -> None:
    """Prices of two shops of different sizes that walk at random: nothing predicts the next one but the last one."""
    rng, levels = random.Random(8), [10.0, 9000.0]
    lines = ["date,shop,price"]
    for day in range(150):
        for shop in range(2):
            levels[shop] += rng.gauss(0, 1)
            lines.append(f"{BEGIN + dt.timedelta(day)},s{shop},{levels[shop]:.3f}")
    file = tmp_path / "prices.csv"
    file.write_text("\n".join(lines) + "\n")
    found = made(file, estimator="linear")  # of two texts, the one that tells rows of a day apart is no label
    project_file = found.folder / "project.py"
    assert load_definitions(project_file).models["price"].allow_leakage[-2:] == ("history.lag_21d", "shop")
    outcomes = []
    for baselines in ("", "baselines=False, "):
        text = project_file.read_text().replace("beats_champion(", f"beats_champion({baselines}")
        project_file.write_text(text.replace("return Ridge()", "return Ridge(alpha=1e6)"))  # a bad model on purpose
        with tt.open(found.folder) as project:
            if not baselines:
                for source in ("prices", "prices_labels"):
                    project.ingest(source, file)
            project.train()
            gates = [gate for one in project.registry.versions("price") for gate in project.registry.gates_of(one)]
            newest = max(gates, key=lambda gate: gate.judged_at_us)
            outcomes.append(newest)
    refused, passed = outcomes
    assert refused.checks["floor"] is False
    assert "The best baseline, last_value, has a mean loss of " in refused.reason
    assert "baselines=False" in refused.reason
    assert "floor" not in passed.checks
    assert any(one.name == "floor" and one.verdict == "not measured" for one in passed.findings)
