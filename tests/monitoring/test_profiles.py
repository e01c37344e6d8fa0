"""The input profile of a version: what it holds of the training rows, where it is kept, and how large it gets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from input_world import Shop, World
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression

from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Corrupt
from trimtab.core.expressions.nodes import col
from trimtab.core.time import DAY_US, HOUR_US, parse_time_us
from trimtab.events.columns.frames import EventFrame
from trimtab.events.definitions import Time, source
from trimtab.features.aggregates import latest
from trimtab.features.definitions import label, request, view
from trimtab.features.encoding import fit as encoding_fit
from trimtab.features.frames import REASONS
from trimtab.monitoring.profiles.profile_records import (
    FORMAT,
    NO_REASON,
    ColumnProfile,
    InputProfile,
    decode_profile,
    encode_profile,
)
from trimtab.monitoring.profiles.profile_store import KIND, Profiles
from trimtab.monitoring.profiles.profiles import _label_days, _ReferenceHours, make_profile
from trimtab.training import build_training_set, model
from trimtab.training.data.sets import TOO_NEW, LeftOut


@pytest.fixture(scope="module")
def world() -> World:
    return World(1, days=1, per_day=600)


@pytest.fixture(scope="module")
def shop(world: World, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(world, tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def profile(shop: Shop) -> InputProfile:
    found = shop.profiles.of(shop.version)
    assert isinstance(found, InputProfile)
    return found


def column(profile: InputProfile, name: str) -> ColumnProfile:
    (found,) = [one for one in profile.columns if one.name == name]
    return found


def test_a_profile_counts_what_the_training_rows_held(profile: InputProfile, world: World) -> None:
    mine = world.rows(0, world.cut_us)
    prices, ages = world.visits["price"][mine], world.visits["age"][mine]
    price = column(profile, "price")
    assert profile.rows == price.rows == mine.sum()
    counts = np.frombuffer(price.counts, "<i8")
    assert counts.tolist() == np.histogram(prices, [-np.inf, *np.nextafter(price.edges, np.inf), np.inf])[0].tolist()
    assert counts.sum() == len(prices)
    assert counts.max() < 1.1 * len(prices) / 64
    assert (price.lowest, price.highest) == (prices.min(), prices.max())
    assert column(profile, "age").nulls[NO_REASON] == np.isnan(ages).sum()
    temp = column(profile, "sky.temp")
    assert temp.source == "weather"
    assert set(np.flatnonzero(temp.nulls).tolist()) <= {REASONS.index("expired"), REASONS.index("not_yet")}


def test_the_kinds_of_columns_are_told_apart(profile: InputProfile) -> None:
    kinds = {one.name: (one.place, one.kind) for one in profile.columns}
    assert kinds["site"] == ("input", "category")
    assert kinds["code"] == ("input", "code")  # 200, 301, 404
    assert kinds["items"] == ("input", "number")
    assert kinds["channel"] == ("request", "text")  # a column of the request that no feature is
    assert "visit_id" not in kinds
    assert "at" not in kinds


def test_a_profile_holds_no_text_of_the_rows(profile: InputProfile) -> None:
    data = msgspec.msgpack.encode(profile)
    assert b"web" not in data
    assert b"partner" not in data
    assert column(profile, "channel").distinct > 2


def test_the_spread_of_windows_is_by_hour_of_day(profile: InputProfile, world: World) -> None:
    spread = column(profile, "age").spreads["null"]
    morning, noon = world.begin_us // HOUR_US + 8, world.begin_us // HOUR_US + 12  # of a day that begins at midnight
    assert spread.high_at(1, morning) > 0.15
    assert spread.high_at(1, noon) < spread.high_at(1, morning) / 2
    assert spread.high_at(24, noon) < spread.high_at(1, morning)


def test_a_profile_is_read_back_as_it_was_and_a_damaged_one_is_named(profile: InputProfile) -> None:
    data = encode_profile(profile)
    assert decode_profile(data) == profile
    assert len(data) / len(profile.columns) < 10_000
    with pytest.raises(Corrupt, match="damaged"):
        decode_profile(data[:-9])
    with pytest.raises(Corrupt, match="format"):
        decode_profile(bytes([FORMAT + 1]) + data[1:])


def test_a_profile_is_made_once_and_again_when_its_blob_is_lost(shop: Shop, profile: InputProfile) -> None:
    record = shop.catalog.get(KIND, shop.version.id)
    assert record is not None
    assert shop.profiles.of(shop.version) == profile
    assert shop.catalog.get(KIND, shop.version.id) == record
    shop.blob.delete(msgspec.json.decode(record.body)["blob"])
    assert shop.profiles.of(shop.version) == profile


def test_a_version_without_its_rows_says_why_it_has_no_profile(world: World, tmp_path: Path) -> None:
    shop = Shop(world, tmp_path)
    shop.blob.delete(shop.version.training_set)
    profiles = Profiles(shop.catalog, shop.blob, VirtualClock(0))
    why = profiles.of(shop.version)
    assert isinstance(why, str)
    assert "training set" in why
    assert profiles.of(shop.version) == why  # and is not looked for again
    imported = msgspec.structs.replace(shop.version, id="other", imported=None)
    assert isinstance(profiles.of(imported), str)


def test_a_garbage_collection_counts_the_profile_among_the_blobs_of_its_version(shop: Shop) -> None:
    from trimtab.registry.collecting.collector import Collector

    assert isinstance(shop.profiles.of(shop.version), InputProfile)
    record = shop.catalog.get(KIND, shop.version.id)
    assert record is not None
    clock = VirtualClock(2**52)
    collector = Collector(shop.catalog, shop.blob, clock=clock, actor="test")
    found = collector.look()
    assert msgspec.json.decode(record.body)["blob"] not in {one.digest for one in found.orphans}


DAILY = request(
    "daily",
    key="row_id",
    time="at",
    columns={"row_id": str, "at": Time, "shop": int, "batch": int, "known_at": Time, "temp": float, "units": int},
)
SALES = source("sales", key="row_id", time="at", columns={"row_id": str, "at": Time, "shop": int, "sold": float})


def daily_profile(temp: NDArray[np.float64], left_out: Sequence[LeftOut] = ()) -> InputProfile:
    """The profile of 30 rows a day, from 5 March on, with some temperature on each day (NaN: null)."""
    month, count = col("at").month(), 30 * len(temp)
    past = view("past", source=SALES, by="shop", features={"last": latest("sold")})
    own = {
        "month": month,
        "late": (month * 100 + col("at").weekday()) > 610,
        "again": col("month") + 1,
        "shop": col("shop"),
        "age_h": (col("at") - col("known_at")),
        "temp": col("temp"),
        "units": col("units") + 0,
    }
    label_of = label(SALES, key="row_id", value=col("sold"), wait="1d")
    mine = model(
        "m", request=DAILY, features=[past, own], label=label_of, estimator=LinearRegression, metric="squared_error"
    )
    at_us = parse_time_us("2024-03-05T00:00:00Z") + np.repeat(np.arange(len(temp)), 30) * DAY_US
    numbers = np.arange(count)
    requests = Columns.of(
        {
            "row_id": ("str", [f"r{n}" for n in numbers]),
            "at": ("time", at_us.tolist()),
            "shop": ("int", (numbers % 30 + 40_000).tolist()),
            "batch": ("int", (numbers * 7 % 1000).tolist()),
            "known_at": ("time", (at_us - HOUR_US).tolist()),
            "temp": ("float", [None if np.isnan(t) else t for t in (np.repeat(temp, 30) + numbers % 3).tolist()]),
            "units": ("int", (numbers % 37).tolist()),
        }
    )
    sold = Columns.of({name: (dtype, []) for name, dtype in SALES.columns.items()})
    nothing = np.zeros(0, np.int64)
    frame = EventFrame(
        "sales", sold, nothing, nothing, nothing, nothing.astype(bool), nothing.astype(np.int16), nothing, ()
    )
    rows = build_training_set(mine, requests, {"sales": frame}, cut_us=int(at_us[-1]), positions={}, left_out=left_out)
    return make_profile(mine.features, encoding_fit(mine.features, rows.features.values), rows)


def test_times_with_faulty_inputs_are_no_part_of_the_profile() -> None:
    """The newest 20 of 100 days are null, which was found, and whose labels are not final yet."""
    temp = np.where(np.arange(100) < 80, 10.0, np.nan)
    begun_us = parse_time_us("2024-03-05T00:00:00Z") + 80 * DAY_US
    fault = LeftOut(start_us=begun_us, end_us=None, why="nulls of column temp")
    for given, rows in (([fault], 80 * 30), ([], 100 * 30)):
        profile = daily_profile(temp, given)
        found = column(profile, "temp")
        assert (profile.rows, found.null_share > 0.0) == (rows, not given)
        assert np.frombuffer(profile.hour_rows, "<u4").sum() == 28 * 30  # the traffic of the newest days was normal
    of_labels = [msgspec.structs.replace(fault, why=why) for why in ("labels_missing of labels of sales", TOO_NEW)]
    assert daily_profile(temp, of_labels).rows == 100 * 30


def test_features_of_the_time_alone_are_only_checked_for_nulls() -> None:
    profile = daily_profile(np.zeros(400))
    for name in ("month", "late", "again"):
        found = column(profile, name)
        assert (found.kind, found.least, found.most, found.known) == ("time", None, None, b"")
    assert column(profile, "age_h").kind == "number"  # reads another time as well


def test_numbers_that_name_things_have_no_range_and_no_shape() -> None:
    profile = daily_profile(np.zeros(400))
    for name in ("shop", "batch"):  # the key of a view, and an integer that no feature reads
        found = column(profile, name)
        assert (found.kind, found.least, found.most, found.is_number, found.known) == ("text", None, None, False, b"")
        assert found.distinct >= 30
    assert {one.kind for one in profile.columns if one.name == "units"} == {"number"}  # a column and a feature of it


def test_the_limits_include_what_training_saw_in_other_seasons_but_not_a_fault_there() -> None:
    temp = np.rint(15 - 10 * np.cos(2 * np.pi * np.arange(400) / 365))  # the newest weeks are cold
    found = column(daily_profile(temp), "temp")
    assert found.least is not None
    assert found.most is not None
    assert found.most >= found.highest == 27.0
    temp[100] = 9999.0
    found = column(daily_profile(temp), "temp")
    assert found.most is not None
    assert 27.0 <= found.most < 200.0


@pytest.mark.fast
@pytest.mark.parametrize(("why", "gone"), [("label_shift of labels of sales, class b", []), ("labels_missing", [0, 0])])
def test_days_with_wrong_labels_do_not_become_normal(why: str, gone: list[int]) -> None:
    at_us, target = np.repeat(np.arange(6), 2) * DAY_US, np.array([0.0, 1.0] * 4 + [0.0, 0.0] * 2)
    fault = LeftOut(start_us=4 * DAY_US, end_us=6 * DAY_US, why=why)
    manifest = SimpleNamespace(final_until=lambda until_us: until_us, labels_until_us=at_us[-1], left_out=[fault])
    training_set: Any = SimpleNamespace(at_us=at_us, target=target, manifest=manifest)
    found = _label_days(training_set, ("a", "b"))
    assert np.frombuffer(found.classes["b"], "<u4").tolist() == [1, 1, 1, 1, *gone]


@pytest.mark.fast
@pytest.mark.parametrize("first", [-40_000, -3, 20_000])
def test_days_before_1970_are_days_like_all_others(first: int) -> None:
    at_us = (first + np.arange(6)) * DAY_US
    target = np.array([1.0, 0.0, 1.0, 1.0, np.nan, np.nan])  # the labels of the newest days have not come
    manifest = SimpleNamespace(final_until=lambda until_us: until_us, labels_until_us=at_us[-1], left_out=None)
    training_set: Any = SimpleNamespace(at_us=at_us, target=target, manifest=manifest)
    found = _label_days(training_set)
    assert (found.first_day, found.columns[0].tolist()) == (first, [1, 1, 1, 1])
    assert _ReferenceHours(at_us).day_starts.tolist() == [0, 1, 2, 3, 4, 5]
    assert _ReferenceHours(at_us[2:]).day_starts.tolist() == [0, 1, 2, 3]
