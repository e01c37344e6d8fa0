"""Series of several keys at regular times: lags, windows and horizons; snapshots by month."""

from __future__ import annotations

import datetime as dt
import math
import random
from pathlib import Path
from typing import Any

import pytest

import trimtab as tt
from trimtab.app.start.init.options import Options
from trimtab.app.start.init.scaffold import Scaffolded, scaffold
from trimtab.app.state.definitions import load_definitions
from trimtab.core.errors import Misuse
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


def test_a_horizon_needs_a_series(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("id,at,x,y\n" + "".join(f"{i},2024-01-{i % 28 + 1:02},{i},{i % 7}.5\n" for i in range(100)))
    with pytest.raises(Misuse, match="--horizon 7d: needs a number to predict, and rows of a recurring key"):
        made(file, label="y", key="id", horizon="7d")


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
    assert deployment.gate.window_us == 124 * DAY_US
    assert "usage" in (found.folder / "project.py").read_text()
