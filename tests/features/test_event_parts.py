"""Events split on disk give the same bits as events in memory, and both those of the oracle."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import Answer, Record, frame_of, oracle
from recorded import recorded
from strategies import KEYED, KEYLESS, histories, request_keys, request_times, views
from test_offline import bits

from trimtab.core.columns.data import Column, column
from trimtab.events.columns.frames import EventFrame
from trimtab.events.definitions import Source, source
from trimtab.features.aggregates import count, latest, mean
from trimtab.features.definitions import View, view
from trimtab.features.frames import REASONS
from trimtab.features.offline.as_known_now import as_known_now
from trimtab.features.offline.view_columns import evaluate_view
from trimtab.features.parts import loaded_frames
from trimtab.features.parts.event_files import connected, table_events
from trimtab.features.parts.event_parts import Split, entities_of, frame_of_part, parts_of, settle, split
from trimtab.features.parts.given_files import folder_events
from trimtab.features.parts.loaded_frames import load
from trimtab.features.parts.part_answers import packed, scattered, unpacked
from trimtab.features.parts.parted_views import in_slices

Wanted = list[tuple[Any, int]]
asks = st.lists(st.tuples(request_keys, request_times()), min_size=1, max_size=12)


@pytest.fixture(scope="module", autouse=True)
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One connection for all examples: opening one takes as long as an example."""
    with connected(tmp_path_factory.mktemp("duckdb") / "overflow", 256 << 20, ordered=True) as opened:
        CONNECTIONS.append(opened)
        yield
    CONNECTIONS.clear()


CONNECTIONS: list[duckdb.DuckDBPyConnection] = []


@contextmanager
def parted(records: list[Record], of: View, parts: int, positions: dict[str, int] | None = None) -> Iterator[Any]:
    (connection,) = CONNECTIONS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "table").mkdir()
        events = recorded(records, of.source, folder / "table", positions)
        settled = settle(events, folder / "versions", connection, together=3)
        names = sorted(of.columns_read)
        yield split(settled, events, of.by, names, parts, folder / "parts", connection), connection


def by_parts(
    records: list[Record], of: View, keys: list[Column], at_us: Any, parts: int, *, final: bool = False,
    positions: dict[str, int] | None = None,
) -> list[dict[str, Answer]]:  # fmt: skip
    with parted(records, of, parts, positions) as (divided, connection):
        part_of = parts_of(keys, parts, connection)
        found = []
        for part in range(parts):
            rows = np.flatnonzero(part_of == part)
            if len(rows):
                frame = frame_of_part(divided, part, connection)
                frame = as_known_now(frame) if final else frame
                answers = in_slices(of, [key.take(rows) for key in keys], at_us[rows], frame, 1 + part % 3)
                found.append((rows, unpacked(packed(answers))))
        return listed(of, scattered(found, len(at_us)))


def loaded(records: list[Record], of: View, keys: list[Column], at_us: Any, *, final: bool) -> list[dict[str, Answer]]:
    (connection,) = CONNECTIONS
    with tempfile.TemporaryDirectory() as name:
        frame = load(recorded(records, of.source, Path(name)), of.columns_read, connection)
    return listed(of, evaluate_view(of, keys, at_us, as_known_now(frame) if final else frame))


def listed(of: View, answers: Any) -> list[dict[str, Answer]]:
    columns = {name: (answers[name][0].to_list(), answers[name][1].tolist()) for name in of.features}
    rows = len(next(iter(columns.values()))[0])
    return [{n: (values[i], REASONS[codes[i]]) for n, (values, codes) in columns.items()} for i in range(rows)]


def in_memory(records: list[Record], of: View, keys: list[Column], at_us: Any, *, final: bool = False) -> Any:
    frame = frame_of(records, of.source)
    return listed(of, evaluate_view(of, keys, at_us, as_known_now(frame) if final else frame))


def known_always(records: list[Record]) -> list[Record]:
    """The same records, known in the same order, all of them before any instant."""
    ranks = {known: n for n, known in enumerate(sorted({r.known_at_us for r in records}))}
    return [msgspec.structs.replace(r, known_at_us=ranks[r.known_at_us] - 2**62) for r in records]


@pytest.mark.parametrize("of", [KEYED, KEYLESS], ids=["keyed", "keyless"])
@settings(deadline=None, max_examples=20)
@given(data=st.data(), wanted=asks, cut_us=request_times())
def test_events_as_they_were_known_at_a_time_are_those_of_the_oracle(
    of: Source, data: st.DataObject, wanted: Wanted, cut_us: int
) -> None:
    records, declared = data.draw(histories(of)), data.draw(views(of))
    keys, at_us = [column("str", [key for key, _ in wanted])], np.array([t for _, t in wanted], np.int64)
    frame = as_known_now(frame_of(records, of), cut_us)
    judged = known_always([one for one in records if one.known_at_us <= cut_us])
    for answers, (key, t) in zip(listed(declared, evaluate_view(declared, keys, at_us, frame)), wanted, strict=True):
        assert bits(answers) == bits(oracle(judged, declared, key, t)), (key, t)


@pytest.mark.parametrize("of", [KEYED, KEYLESS], ids=["keyed", "keyless"])
@settings(deadline=None, max_examples=8)
@given(data=st.data(), wanted=asks, parts=st.sampled_from([1, 2, 5]), final=st.booleans())
def test_parts_memory_and_oracle_agree_bit_for_bit(
    of: Source, data: st.DataObject, wanted: Wanted, parts: int, final: bool
) -> None:
    agree(of, data, wanted, parts, final)


@pytest.mark.soak
@pytest.mark.parametrize("of", [KEYED, KEYLESS], ids=["keyed", "keyless"])
@settings(deadline=None, max_examples=400)
@given(data=st.data(), wanted=asks, parts=st.sampled_from([1, 2, 5]), final=st.booleans())
def test_parts_memory_and_oracle_agree_bit_for_bit_in_many_examples(
    of: Source, data: st.DataObject, wanted: Wanted, parts: int, final: bool
) -> None:
    agree(of, data, wanted, parts, final)


def agree(of: Source, data: st.DataObject, wanted: Wanted, parts: int, final: bool) -> None:
    records, declared = data.draw(histories(of)), data.draw(views(of))
    keys, at_us = [column("str", [key for key, _ in wanted])], np.array([t for _, t in wanted], np.int64)
    expected = in_memory(records, declared, keys, at_us, final=final)
    found = by_parts(records, declared, keys, at_us, parts, final=final)
    read = loaded(records, declared, keys, at_us, final=final)
    judged = known_always(records) if final else records
    for answers, in_one, whole, (key, t) in zip(found, expected, read, wanted, strict=True):
        assert bits(answers) == bits(in_one) == bits(whole), (key, t)
        assert bits(answers) == bits(oracle(judged, declared, key, t)), (key, t)


LOOSE = source("loose", time="at", columns={"key": str, "x": float, "n": int, "other": str})
LOOSE_KEYED = source("loose", time="at", key="n", columns={"key": str, "x": float, "n": int, "other": str})


@pytest.mark.slow
@pytest.mark.parametrize("few", [0, 1_000], ids=["many repeated", "few repeated"])
@pytest.mark.parametrize("of", [LOOSE, LOOSE_KEYED], ids=["keyless", "keyed"])
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), names=st.sets(st.sampled_from(["key", "x", "n"]), min_size=1))
def test_files_that_repeat_rows_are_read_as_they_are_split(
    of: Source, few: int, seed: int, names: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded_frames, "_FEW", few)
    (connection,) = CONNECTIONS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        connection.execute(f"SELECT setseed({seed / 10**6})")
        for file in ("a", "b"):
            connection.execute(
                "COPY (SELECT if(random() < .2, NULL, 'k' || (random() * 2)::INT) AS key, (random() * 2)::INT AS n, "
                "if(random() < .2, 'nan'::DOUBLE, (random() * 2)::INT::DOUBLE) AS x, "
                "'o' || (random() * 1)::INT AS other, to_timestamp((random() * 2)::INT) AS at, "
                "to_timestamp(if(random() < .5, 3, 4)) AS _known_at "
                f"FROM range(30)) TO '{folder / file}.parquet'"
            )
        events = folder_events(of, folder, folder / "given")
        settled = settle(events, folder / "versions", connection)
        split_up = frame_of_part(split(settled, events, (), sorted(names), 1, folder / "p", connection), 0, connection)
        assert rows_of(load(events, names, connection)) == rows_of(split_up)


def rows_of(frame: EventFrame) -> list[str]:
    own = (frame.event_at_us, frame.known_at_us, frame.superseded_at_us, frame.deleted, frame.partition, frame.position)
    columns = [array.tolist() for array in own] + [
        frame.columns[name].to_list() for name in sorted(frame.columns.names)
    ]
    return sorted(map(repr, zip(*columns, strict=True)))


@settings(deadline=None, max_examples=6)
@given(records=histories(), wanted=asks, parts=st.sampled_from([1, 3]))
def test_entities_of_several_columns_are_split_together(records: list[Record], wanted: Wanted, parts: int) -> None:
    declared = view(
        "v", source=KEYED, by=["key", "n"], features={"n": count(), "x": mean("x"), "kind": latest("kind")}
    )  # fmt: skip
    numbers = [r.row["n"] for r in records] or [None]
    pairs = [(key, numbers[i % len(numbers)], t) for i, (key, t) in enumerate(wanted)]
    keys = [column("str", [key for key, _, _ in pairs]), column("int", [n for _, n, _ in pairs])]
    at_us = np.array([t for _, _, t in pairs], np.int64)
    expected = [bits(a) for a in in_memory(records, declared, keys, at_us)]
    assert [bits(a) for a in by_parts(records, declared, keys, at_us, parts)] == expected
    for (key, n, t), answers in zip(pairs, expected, strict=True):
        entity = None if key is None or n is None else (key, n)
        assert answers == bits(oracle(records, declared, entity, t))


@settings(deadline=None, max_examples=6)
@given(records=histories(), declared=views(), wanted=asks, last=st.integers(0, 6))
def test_only_records_up_to_the_positions_count(
    records: list[Record], declared: View, wanted: Wanted, last: int
) -> None:
    positions = {"p0": last, "p1": last // 2}
    keys, at_us = [column("str", [key for key, _ in wanted])], np.array([t for _, t in wanted], np.int64)
    found = by_parts(records, declared, keys, at_us, 2, positions=positions)
    for answers, (key, t) in zip(found, wanted, strict=True):
        assert bits(answers) == bits(oracle(records, declared, key, t, positions)), (key, t)


@settings(deadline=None, max_examples=8)
@given(records=histories(), instant=request_times())
def test_the_entities_are_those_of_whom_a_version_is_known(records: list[Record], instant: int) -> None:
    declared = view("v", source=KEYED, by="key", features={"n": count()})
    with parted(records, declared, 3) as (divided, connection):
        assert isinstance(divided, Split)
        (found,) = entities_of(divided, instant, connection)
    expected = {key for key in "abc" if oracle(records, declared, key, instant)["n"][1] != "no_entity"}
    assert found.to_list() == sorted(expected)


def test_files_need_no_columns_that_are_declared_no_more(tmp_path: Path) -> None:
    laid_out = msgspec.structs.replace(KEYED, columns={**KEYED.columns, "old": "float"}, hidden=("old",))
    names = ", ".join(f"NULL::{sql} AS {n}" for n, sql in (("x", "DOUBLE"), ("n", "BIGINT"), ("ok", "BOOLEAN")))
    file = tmp_path / "events.parquet"
    duckdb.sql(f"SELECT 'i' AS id, 'a' AS key, 'u' AS kind, {names}, to_timestamp(1) AS at").write_parquet(str(file))
    events = folder_events(laid_out, file, tmp_path / "given")
    with connected(tmp_path / "overflow", 256 << 20) as connection:
        settled = settle(events, tmp_path / "versions", connection)
        divided = split(settled, events, ("key",), [], 1, tmp_path / "parts", connection)
        assert frame_of_part(divided, 0, connection).rows == 1


def test_ids_are_counted_in_little_memory(tmp_path: Path) -> None:
    named = source("readings", time="at", key="id", columns={"id": str})
    file = tmp_path / "events.parquet"
    rows = duckdb.sql("SELECT md5(i::VARCHAR) AS id, to_timestamp(i) AS at FROM range(400000) t(i)")
    rows.write_parquet(str(file), row_group_size=20_000)
    with connected(tmp_path / "overflow", 10 << 20) as connection:
        events = folder_events(named, file, tmp_path / "given")
        settled = settle(events, tmp_path / "versions", connection, parts=64)
        assert connection.execute(f"SELECT count(*) FROM ({settled})").fetchone() == (400_000,)
        with pytest.raises(duckdb.OutOfMemoryException):
            settle(events, tmp_path / "at_once", connection, parts=1)


def test_a_column_may_be_called_filename(tmp_path: Path) -> None:
    named = source("readings", time="at", key="id", columns={"id": str, "filename": str})
    file = tmp_path / "events.parquet"
    duckdb.sql("SELECT 'i' AS id, 'a.txt' AS filename, to_timestamp(1) AS at").write_parquet(str(file))
    with connected(tmp_path / "overflow", 256 << 20) as connection:
        events = folder_events(named, file, tmp_path / "given")
        settled = settle(events, tmp_path / "versions", connection)
        divided = split(settled, events, ("filename",), ["filename"], 1, tmp_path / "parts", connection)
        assert frame_of_part(divided, 0, connection).columns["filename"].to_list() == ["a.txt"]


def test_a_column_that_was_added_later_is_null_in_files_of_before(tmp_path: Path) -> None:
    before = source("readings", time="at", key="id", columns={"id": str, "key": str})
    record = Record(id="i", row={"id": "i", "key": "a", "at": 5}, event_at_us=5, known_at_us=6, position=1)
    recorded([record], before, tmp_path)
    declared = view("v", source=KEYED, by="key", features={"n": count(), "x": latest("x")})
    events = table_events(KEYED, sorted(tmp_path.glob("*.parquet")), ["p0"], {"p0": 1})
    with connected(tmp_path / "overflow", 256 << 20) as connection:
        settled = settle(events, tmp_path / "versions", connection)
        divided = split(settled, events, ("key",), ["x"], 1, tmp_path / "parts", connection)
        frame = frame_of_part(divided, 0, connection)
    answers = listed(declared, evaluate_view(declared, [column("str", ["a"])], np.array([10]), frame))
    assert answers == [{"n": (1, "found"), "x": (None, "null")}]
