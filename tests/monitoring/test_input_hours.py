"""Hourly summaries against a count by hand; however the log is cut into blocks, they are the same."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from input_world import Shop, World

from trimtab.core.records import Prediction
from trimtab.core.time import HOUR_US, MINUTE_US
from trimtab.monitoring.inputs.checks.shapes import distances
from trimtab.monitoring.inputs.input_hours import (
    SAMPLED,
    HourCounts,
    Layout,
    SummedCounts,
    merged,
    outside,
    summarise_rows,
)
from trimtab.monitoring.inputs.profile_distances import column_distances
from trimtab.monitoring.profiles.input_rows import RowReader, planned
from trimtab.monitoring.profiles.profile_records import NO_REASON, NULL_CODES, InputProfile
from trimtab.stats.drift import js_distances


class Logged(msgspec.Struct):
    shop: Shop
    layout: Layout
    reader: RowReader
    predictions: list[Prediction]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Logged:
    world = World(2, days=1, per_day=600)
    world.visits["site"][-100:-50] = None
    world.visits["site"][-50:] = "east"
    world.visits["code"][-200:] = 299
    world.visits["distance"][-30:] = 1e7
    shop = Shop(world, tmp_path_factory.mktemp("shop"))
    profile = shop.profiles.of(shop.version)
    assert isinstance(profile, InputProfile)
    reader = RowReader(planned(*shop.profiles.inputs_of(shop.version)), profile.request)
    return Logged(shop, Layout(profile), reader, shop.predictions())


def summarise(logged: Logged, predictions: list[Prediction]) -> dict[int, HourCounts]:
    made_at_us = np.array([p.made_at_us for p in predictions], np.int64)
    return summarise_rows(logged.layout, logged.reader.read(predictions), made_at_us, [p.id for p in predictions])


def same(one: HourCounts, other: HourCounts) -> bool:
    pairs = zip(msgspec.structs.astuple(one), msgspec.structs.astuple(other), strict=True)
    return all(np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f") for a, b in pairs)


def test_a_summary_counts_what_a_count_by_hand_does(logged: Logged) -> None:
    found = summarise(logged, logged.predictions)
    profile = logged.layout.profile
    names = [one.name for one in profile.columns]
    by_hour: dict[int, list[Prediction]] = {}
    for one in logged.predictions:
        by_hour.setdefault(one.made_at_us // HOUR_US, []).append(one)
    assert found.keys() == by_hour.keys()
    for hour, mine in by_hour.items():
        counts = found[hour]
        assert counts.rows == len(mine)
        for place, column in enumerate(one for one in profile.columns if one.place == "input"):
            values = [np.frombuffer(one.values, "<f8")[place] for one in mine]
            # only the nulls of a column of times are counted
            there = [0.0 if column.kind == "time" else value for value in values if value == value]
            bins = Counter(sum(value > edge for edge in column.edges) for value in there)
            here = logged.layout.by_bin(counts.bins)[place]
            assert here.tolist() == [bins[n] for n in range(here.size)]
            wild = sum(
                value < (-np.inf if column.least is None else column.least)
                or value > (np.inf if column.most is None else column.most)
                for value in there
            )
            assert counts.outside[place] == wild
            if there:
                assert (counts.low[place], counts.high[place]) == (min(there), max(there))
        sites = [msgspec.msgpack.decode(one.request)[2] for one in mine]
        site = names.index("site")
        assert counts.strange[site] == sites.count("east")
        assert counts.nulls[site, NO_REASON] == sites.count(None)
        codes = [msgspec.msgpack.decode(one.request)[7] for one in mine]
        assert counts.strange[names.index("code")] == codes.count(299)
        distances = [msgspec.msgpack.decode(one.request)[5] for one in mine]
        assert counts.outside[names.index("distance")] == distances.count(1e7)
        temp = names.index("sky.temp")
        reasons = Counter(one.reasons[temp] for one in mine if np.isnan(np.frombuffer(one.values, "<f8")[temp]))
        assert {n: int(c) for n, c in enumerate(counts.nulls[temp]) if c} == dict(reasons)
        assert counts.nulls.shape == (len(names), NULL_CODES)


def test_distances_of_columns_are_those_of_all_rows_together(logged: Logged) -> None:
    found = summarise(logged, logged.predictions)
    distances = column_distances(logged.layout, found.values())
    whole = sum(counts.rows for counts in found.values())
    for place, column in enumerate(logged.layout.profile.columns):
        usual = np.frombuffer(column.counts, "<i8")
        bins = [logged.layout.by_bin(counts.bins)[place, : usual.size] for counts in found.values()]
        expected = js_distances([usual], [np.sum(bins, axis=0)])[0] if usual.size > 1 else None  # texts are in one bin
        assert distances[column.name].distance == pytest.approx(expected)
    assert None in [one.distance for one in distances.values()]
    site = distances["site"]
    assert site.null_share == pytest.approx(50 / whole)  # a value that training never saw is no null
    assert distances["code"].distance > 2 * distances["price"].distance
    assert column_distances(logged.layout, []) == {}


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, 600), max_size=6), backwards=st.booleans())
def test_any_split_into_blocks_gives_equal_summaries(logged: Logged, cuts: list[int], backwards: bool) -> None:
    whole = summarise(logged, logged.predictions)
    edges = sorted({0, len(logged.predictions), *(min(cut, len(logged.predictions)) for cut in cuts)})
    blocks = [logged.predictions[a:b] for a, b in pairwise(edges)]
    found: dict[int, HourCounts] = {}
    parts: list[HourCounts] = []
    for block in blocks[::-1] if backwards else blocks:
        for hour, counts in summarise(logged, block).items():
            found[hour] = merged((found[hour], counts)) if hour in found else counts
            parts.append(counts)
    assert found.keys() == whole.keys()
    assert all(same(found[hour], whole[hour]) for hour in whole)
    assert same(merged(parts), merged([*whole.values()]))
    for name in ("rows", "bins", "nulls", "null_rows", "strange", "pairs"):
        assert np.array_equal(getattr(SummedCounts(parts), name), getattr(merged(parts), name))


def test_distances_from_the_profile_are_those_of_each_column_by_itself(logged: Logged) -> None:
    counts = SummedCounts(list(summarise(logged, logged.predictions).values()))
    found, rows = distances(logged.layout, counts)
    bins = logged.layout.by_bin(counts.bins)
    for place, column in enumerate(logged.layout.profile.columns):
        here, usual = bins[place, : column.edges.size + 1], np.frombuffer(column.counts, "<i8")
        assert rows[place] == here.sum()
        away = np.abs(np.cumsum(here / here.sum()) - np.cumsum(usual / usual.sum())).max() if here.any() else 0.0
        assert found[place] == away, column.name
    assert (found > 0).any()


def test_a_summary_is_read_back_as_it_was(logged: Logged) -> None:
    for counts in summarise(logged, logged.predictions).values():
        again = HourCounts.decode(counts.encoded, logged.layout)
        assert again is not None
        assert same(counts, again)
        assert len(counts.marks) == min(SAMPLED, counts.rows)
        bare = HourCounts.decode(counts.without_sample.encoded, logged.layout)
        assert bare is not None
        assert bare.rows == counts.rows
        assert not bare.marks.size


def test_what_was_stored_is_the_same_after_a_crash_at_any_hour(tmp_path: Path) -> None:
    """One monitor that lives through, and one process after the other that reads the log again from where it says."""
    stored = []
    for lives in (True, False):
        folder = tmp_path / str(lives)
        folder.mkdir()
        shop = Shop(World(3, days=2, per_day=600), folder)
        asked, monitor, before_us = shop.predictions(), shop.monitor(), shop.world.cut_us
        for now_us in range(shop.world.cut_us + HOUR_US, shop.world.end_us, HOUR_US):
            for look_us in (now_us - 20 * MINUTE_US, now_us + 6 * MINUTE_US):
                shop.clock.advance_to(look_us)
                since_us = before_us
                if not lives:
                    monitor = shop.monitor()
                    since_us = monitor.read_from_us
                monitor.add([p for p in asked if since_us <= p.made_at_us < look_us])
                monitor.look(look_us)
                before_us = look_us
        hours = shop.catalog.find("input_hour", "shop/")
        stored.append([(one.key, one.body) for one in hours])
    assert len(stored[0]) > 30
    assert stored[0] == stored[1]


def test_only_live_requests_are_traffic_and_only_rows_of_the_version_in_service_are_counted(tmp_path: Path) -> None:
    shop = Shop(World(3, days=1, per_day=600), tmp_path)
    asked, monitor = shop.predictions(), shop.monitor()
    shadows = [msgspec.structs.replace(one, arm="shadow") for one in asked]
    past = [msgspec.structs.replace(one, flags=("past",)) for one in asked]
    ahead = [msgspec.structs.replace(one, mode="batch") for one in asked[:10]]
    canary = [msgspec.structs.replace(one, id=f"c{n}", version="other", arm="canary") for n, one in enumerate(asked)]
    makeshift = [msgspec.structs.replace(one, id=f"m{n}", flags=("rule",)) for n, one in enumerate(asked)]
    for block in (shadows, past, ahead, canary, makeshift):
        monitor.add(block)
    shop.clock.advance_to(shop.world.end_us + 10 * MINUTE_US)
    monitor.look(shop.clock.now_us())
    (record,) = shop.catalog.find("input_watch", "shop")
    traffic = msgspec.json.decode(record.body)["traffic"]
    assert sum(rows for rows, *_ in traffic.values()) == len(canary) + len(makeshift)
    assert sum(distinct for _, distinct, *_ in traffic.values()) == len(asked)
    assert {tuple(questions) for _, distinct, *questions in traffic.values()} == {
        (distinct, distinct) for _, distinct, *_ in traffic.values()
    }  # each was asked twice
    hours = [msgspec.json.decode(one.body) for one in shop.catalog.find("input_hour", "shop/")]
    assert sum(one["rows"] for one in hours) == len(ahead)


def test_rows_outside_of_the_profile_are_those_that_are_strange_or_extreme_in_a_column(logged: Logged) -> None:
    rows = logged.reader.read(logged.predictions)
    found = outside(logged.layout, rows)
    expected = np.zeros(len(found), bool)
    for place, column in enumerate(logged.layout.profile.columns):
        if column.place != "input":  # the channel, which no feature reads
            continue
        known = set(logged.layout.known[place].tolist())
        for row, value in enumerate(rows.values[:, place].tolist()):
            extreme = (column.least is not None and value < column.least) or (
                column.most is not None and value > column.most
            )
            new = bool(known) and column.covered >= 1.0 and value == value and value not in known
            expected[row] |= bool(rows.strange[row, place]) or extreme or new
    assert found.tolist() == expected.tolist()
    assert 50 < found.sum() < len(found)
