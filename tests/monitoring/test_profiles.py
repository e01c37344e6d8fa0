"""The input profile of a version: what it holds of the training rows, where it is kept, and how large it gets."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from input_world import Shop, World

from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Corrupt
from trimtab.core.time import HOUR_US
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
