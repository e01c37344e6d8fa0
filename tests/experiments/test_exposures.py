"""The log of exposures, and the first exposure of each unit in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory import Memory
from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Corrupt
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.experiments.day_sums import DaySums
from trimtab.experiments.definitions import Experiment
from trimtab.experiments.exposures import (
    ERASED,
    ExposureBlock,
    Intake,
    find_exposures,
    log_exposures,
    read_exposures,
    unit_columns,
    unit_keys,
)
from trimtab.experiments.first_exposures import first_exposures, unpacked_units
from trimtab.experiments.records import Exposure
from trimtab.testing.memory import MemoryLog

CODES = {"a": 0, "b": 1}
WHOLE = Intake(0, DAY_US, 2**62)


def exposed(unit: str = "ann", at_us: int = 0, **changes: Any) -> Exposure:
    made = Exposure(experiment="prices", generation=1, unit=unit, variant="a", at_us=at_us)
    return msgspec.structs.replace(made, **changes)


def read(log: MemoryLog, intake: Intake = WHOLE) -> list[tuple[str, int]]:
    blocks = read_exposures(log, intake, "prices", 1, CODES)
    return [pair for one in blocks for pair in zip(one.units.tolist(), one.at_us.tolist(), strict=True)]


def test_what_is_logged_is_read_as_columns() -> None:
    log = MemoryLog(clock=VirtualClock(0))
    made = exposed("ann", 5, variant="b", reason="timeout", override=True, attributes=b"\x80")
    log_exposures(log, [made, exposed(experiment="other"), exposed(generation=2), exposed(variant="gone")])
    (block,) = read_exposures(log, WHOLE, "prices", 1, CODES)
    row = {name: getattr(block, name).tolist() for name in block.__struct_fields__}
    assert row.pop("places")[0] & (2**44 - 1) == 1
    assert row == {
        "units": ["ann"], "keys": unit_keys(["ann"]).tolist(), "at_us": [5], "variants": [1], "reasons": ["timeout"],
        "overrides": [True], "attributes": [b"\x80"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("at_us", "logged_us", "counts"),
    [
        (0, 0, True),
        (DAY_US - 1, 2 * DAY_US - 1, True),
        (DAY_US - 1, 2 * DAY_US, False),  # logged more than a day later
        (HOUR_US, 0, True),
        (HOUR_US + 1, 0, False),  # logged more than an hour before
        (-1, 0, False),
        (DAY_US, DAY_US, False),
        (DAY_US - 5, DAY_US + 10, True),
    ],
)
def test_an_exposure_counts_if_it_is_of_the_day_and_logged_in_time(at_us: int, logged_us: int, counts: bool) -> None:
    log = MemoryLog(clock=VirtualClock(logged_us))
    log_exposures(log, [exposed(at_us=at_us)])
    assert read(log) == ([("ann", at_us)] if counts else [])
    assert read(log, Intake(0, DAY_US, logged_us)) == read(log)
    assert read(log, Intake(0, DAY_US, logged_us - 1)) == []  # not known by then


def test_damaged_and_newer_records_are_named() -> None:
    log = MemoryLog(clock=VirtualClock(0))
    log.append([b"\x01" + msgspec.msgpack.encode("prices")])
    with pytest.raises(Corrupt, match=r"exposure log, .* at 1: not an exposure"):
        read(log)
    log = MemoryLog(clock=VirtualClock(0))
    log.append([b"\x02" + msgspec.msgpack.encode("prices")])
    with pytest.raises(Corrupt, match="found format 02"):
        read(log)


def test_erased_exposures_are_skipped() -> None:
    log = MemoryLog(clock=VirtualClock(0))
    log_exposures(log, [exposed("ann"), exposed("bob"), exposed("ann", 7)])
    found = find_exposures(log, lambda one: one.unit == "ann")
    assert found == {log.partition: {1: ERASED, 3: ERASED}}
    log.erase(log.partition, found[log.partition])
    assert read(log) == [("bob", 0)]
    assert find_exposures(log, lambda one: True) == {log.partition: {2: ERASED}}


def test_a_unit_of_a_switchback_counts_once_in_each_block() -> None:
    log = MemoryLog(clock=VirtualClock(0))
    log_exposures(log, [exposed(block="1"), exposed(block="1", at_us=3), exposed(block="2", at_us=4, variant="b")])
    blocks = list(read_exposures(log, WHOLE, "prices", 1, CODES))
    first = first_exposures(blocks)
    (chunk,) = first.chunks(blocks)
    assert list(zip(chunk.units, chunk.at_us, chunk.variants, strict=True)) == [("ann", 0, 0), ("ann", 4, 1)]


def test_units_become_columns_of_the_types_of_a_source() -> None:
    texts, numbers = unit_columns(['["ann","7"]', '["7","x"]', '["","99999999999999999999"]'], ["str", "int"])
    assert (texts.to_list(), numbers.to_list()) == (["ann", "7", ""], [7, None, None])
    assert unit_columns([], ["str", "int"])[1].to_list() == []


logs = st.lists(st.tuples(st.integers(0, 25), st.integers(0, 6), st.booleans()), max_size=60)


@settings(max_examples=60)
@given(days=st.lists(logs, min_size=1, max_size=3), cut=st.integers(1, 9), rows=st.sampled_from([1, 7, 100]))
def test_first_exposures_are_those_of_a_dictionary(
    days: list[list[tuple[int, int, bool]]], cut: int, rows: int
) -> None:
    """Exposures of several partitions in any order, read in blocks of any size, and packed from day to day."""
    seen: set[str] = set()
    packed: list[bytes] = []
    for day in days:
        blocks, known = [], {}
        for start in range(0, len(day), cut):
            found = [
                (start + n + 1, exposed(f"u{unit}", at_us, variant="b" if b else "a"))
                for n, (unit, at_us, b) in enumerate(day[start : start + cut])
            ]
            number = start // cut % 3
            blocks.append(WHOLE.block(number, found, CODES))
            for position, one in found:
                order = (one.at_us, number, position)
                if one.unit not in seen and order < known.get(one.unit, ((2**62, 0, 0), ""))[0]:
                    known[one.unit] = (order, one.variant)
        first = first_exposures(reversed(blocks), [unpacked_units(one) for one in packed])
        chunks = list(first.chunks(blocks, rows))
        got = {
            unit: (at, code)
            for chunk in chunks
            for unit, at, code in zip(chunk.units, chunk.at_us.tolist(), chunk.variants.tolist(), strict=True)
        }
        assert got == {unit: (order[0], CODES[variant]) for unit, (order, variant) in known.items()}
        assert sum(map(len, chunks)) == len(first) == len(known)
        packed.append(first.packed())
        seen |= set(known)
    assert sum(map(len, packed)) == 9 * len(seen)


def test_many_units_of_one_group_are_settled_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.experiments.first_exposures._WAITING", 10)
    made = [exposed(f"u{n % 90}", 1_000 - n) for n in range(400)]
    first = first_exposures([WHOLE.block(0, [(n, one)], CODES) for n, one in enumerate(made)])
    assert len(first) == 90
    assert (first.keys[1:] > first.keys[:-1]).all()
    assert sorted(first.at_us.tolist()) == list(range(601, 691))


def test_units_of_wrong_length_are_refused() -> None:
    with pytest.raises(Corrupt, match="found 10 bytes"):
        unpacked_units(bytes(10))
    assert [one.tolist() for one in unpacked_units(b"")] == [[], []]
    assert [one.tolist() for one in unpacked_units(bytes(9))] == [[0], [0]]


def test_the_real_log_keeps_exposures(tmp_path: Path) -> None:
    from trimtab import store

    with store.open(f"sqlite://{tmp_path}/log?mode=durable", "log", clock=VirtualClock(0)) as log:  # type: ignore[attr-defined]
        log_exposures(log, [exposed(f"u{n}") for n in range(25)])
        log_exposures(log, [])
        assert read(log) == [(f"u{n}", 0) for n in range(25)]


@pytest.mark.soak
def test_five_million_units_fit_into_little_memory() -> None:
    """`pytest -m soak tests/experiments/test_exposures.py`: each unit is exposed about twice on one day."""
    rng, units, rows = np.random.default_rng(1), 5_000_000, 10_000

    def blocks() -> Iterator[ExposureBlock]:
        none, numbers = np.full(rows, "", object), np.arange(rows)
        for start in range(0, 2 * units, rows):
            keys = rng.integers(0, units, rows, dtype=np.uint64) * np.uint64(11_400_714_819_323_198_485)  # odd
            yield ExposureBlock(
                units=none, keys=keys, at_us=start + numbers, places=start + numbers,
                variants=(keys % np.uint64(2)).astype(np.uint8), reasons=none, overrides=none != "", attributes=none,
            )  # fmt: skip

    memory = Memory(os.getpid())
    first = first_exposures(blocks())
    grown = memory.grown()
    print(f"{len(first):,} units of {2 * units:,} exposures: {grown:.0f} MB, {len(first.packed()):,} bytes stored")
    assert len(first) > 4_000_000
    assert grown < 400


def test_only_the_canonical_digits_of_a_text_unit_are_an_integer() -> None:
    texts = ["70", "7_0", " 71", "+74", "073", "-0", "-5", "0", "\u0667", str(2**63)]
    (found,) = unit_columns(texts, ["int"])
    assert found.to_list() == [70, None, None, None, None, None, -5, 0, None, None]


def test_long_values_that_begin_alike_are_different_slices() -> None:
    texts = ["x" * 59 + "AA", "x" * 59 + "AB", "x" * 60, "x" * 59 + "AA"]
    count = len(texts)
    block = ExposureBlock(
        units=np.array([str(n) for n in range(count)], object),
        keys=np.arange(count, dtype=np.uint64),
        at_us=np.zeros(count, np.int64),
        places=np.arange(count),
        variants=np.zeros(count, np.uint8),
        reasons=np.array([""] * count, object),
        overrides=np.zeros(count, bool),
        attributes=np.array([msgspec.msgpack.encode({"page": text}) for text in texts], object),
    )
    sums = DaySums(Experiment(name="e", unit=("u",), variants={"a": 1, "b": 2}, slices=("page",)))
    sums.add(block, {})
    found = sums.variants()["a"].slice_units
    assert sorted(found.values()) == [1, 1, 2]
    assert found["page=" + "x" * 60] == 1
    assert all(len(name) <= 65 for name in found)
