"""Parquet files that stand for a history (`join --events`) hold the same events as `ingest` makes of them, or none."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from kinds import DUCKDB, SOURCE, Bench, Outcome, as_duckdb, as_polars, as_pyarrow, kinds, rows_of
from pyarrow import parquet

from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.time import parse_time_us
from trimtab.events.definitions import Time, source
from trimtab.features.parts.given_files import folder_events

DAY = source("days", time="at", key="id", columns={"id": str, "at": Time})


def found_in(path: Path, scratch: Path, of: Any = SOURCE) -> dict[str, Outcome]:
    """The values of each event by its id."""
    events = folder_events(of, path, scratch)
    with DUCKDB.cursor() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        columns = ", ".join(f"c{number}" for number in range(len(of.columns)))
        rows = connection.execute(f"SELECT id, event_at, {columns} FROM ({events.select})").fetchall()
    assert all(row[1] == row[2 + list(of.columns).index(of.time)] for row in rows)
    return {row[0]: tuple(map(repr, row[2:])) for row in rows}


def _written(table: Any, path: Path) -> Path:
    if isinstance(table, pl.DataFrame):
        table.write_parquet(path)
    elif isinstance(table, pa.Table):
        parquet.write_table(table, path)
    else:
        table.write_parquet(str(path))
    return path


def _of_rows(table: Any, places: Sequence[int]) -> Any:
    """Some rows of a table, with the types of all."""
    if isinstance(table, pl.DataFrame):
        return table[list(places)]
    return table.take(places)


def _differences(folder: Path, kind: str, table: Any, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Where the files give something else than `ingest` does; each refused row is tried in a file of its own."""
    folder.mkdir()
    file = _written(table, folder / "all.parquet")
    try:
        wanted = Bench().read(file)
    except Misuse:  # a time that no time in microseconds can be
        with pytest.raises(Misuse):
            found_in(file, folder / "all")
        return []
    good = [n for n, row in enumerate(rows) if len(wanted[row["id"]]) > 2]
    out = []
    if good:
        found = found_in(_written(_of_rows(table, good), folder / "good.parquet"), folder / "good")
        out = [f"{kind}: {k} gives {found.get(k)}, needed {wanted[k]}" for k in (rows[n]["id"] for n in good)
               if found.get(k) != wanted[k]]  # fmt: skip
    bad = sorted(set(range(len(rows))) - set(good))
    for number in bad[:: max(1, len(bad) // 3)] if isinstance(table, pa.Table) else bad[:1]:
        name, scratch = rows[number]["id"], folder / f"bad{number}"
        try:
            found = found_in(_written(_of_rows(table, [number]), folder / "bad.parquet"), scratch)
            out.append(f"{kind}: {name} gives {found}, needed {wanted[name]}")
        except Misuse as error:
            if repr(wanted[name][0]) not in str(error):
                out.append(f"{kind}: {name} is refused by {error}, needed {wanted[name]}")
    return out


WRITERS = (as_pyarrow, as_polars, as_duckdb)


def campaign(folder: Path, rng: random.Random, each: int, *, writers: int) -> tuple[list[str], int]:
    """Compare tables of every kind of value.

    Args:
        folder: Where the files are written.
        rng: Draws the values.
        each: Values of each kind.
        writers: How many libraries write each kind; the next kind begins with the next library.

    Returns:
        The differences, and the number of tables that were compared.
    """
    out: list[str] = []
    compared = 0
    for place, (kind, draw) in enumerate(kinds(rng).items()):
        rows = rows_of([draw() for _ in range(each)])
        for number in range(place, place + writers):
            writer = WRITERS[number % len(WRITERS)]
            try:
                table = writer(rows)
                if writer is as_duckdb:
                    table = pl.DataFrame(pa.table(table))  # the types that DuckDB makes of it
                _written(table, folder / "try.parquet")
            except KeyboardInterrupt:
                raise
            except BaseException:  # the library cannot carry the kind
                continue
            compared += 1
            out += _differences(folder / f"{compared}", f"{kind} by {writer.__name__}", table, rows)
    return out, compared


@pytest.mark.slow
def test_files_hold_the_events_that_ingest_makes_of_them_or_are_refused_as_it_refuses(tmp_path: Path) -> None:
    differences, compared = campaign(tmp_path, random.Random(14), 1, writers=1)
    assert not differences, "\n".join(differences[:20])
    assert compared > 30


@pytest.mark.soak
def test_files_of_every_library_hold_the_events_that_ingest_makes_of_them(
    tmp_path: Path, soak_report: Callable[..., None]
) -> None:
    differences, compared = campaign(tmp_path, random.Random(), 3, writers=3)
    soak_report("given_files", runs=compared, failures=len(differences))
    assert not differences, "\n".join(differences[:20])
    assert compared > 80


@pytest.mark.fast
@pytest.mark.parametrize(
    ("sql", "needed"),
    [
        ("make_timestamp_ns(-1)", -1),
        ("make_timestamp_ns(1999)", 1),
        ("DATE '1901-12-31'", parse_time_us("1901-12-31")),
        ("TIMESTAMP_MS '1969-12-31 23:59:59.999'", -1_000),
        ("TIMESTAMPTZ '0001-01-01 00:00:00+00'", parse_time_us("0001-01-01")),
        ("TIMESTAMP '9999-12-31 23:59:59.999999'", parse_time_us("9999-12-31T23:59:59.999999Z")),
        ("'2024-05-01 05:00+02:00'", parse_time_us("2024-05-01T03:00")),
        ("1735653900000000", parse_time_us("2024-12-31T14:05")),
        ("TIMESTAMP '10000-01-01'", None),
        ("TIMESTAMP '0001-01-01' - INTERVAL 1 MICROSECOND", None),
        ("TIMESTAMPTZ 'infinity'", None),
        ("DATE '-infinity'", None),
        ("DATE '10000-01-01'", None),
        ("1735653900", None),  # seconds
        ("'1.5.2024'", None),
        ("NULL::DATE", None),
        ("1.5", None),
    ],
)
def test_a_time_is_what_ingest_reads_of_it(sql: str, needed: int | None, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    duckdb.sql(f"SELECT 'a' AS id, {sql} AS at").write_parquet(str(path))
    if needed is None:
        with pytest.raises(Misuse, match="'at'"):
            found_in(path, tmp_path / "given", DAY)
    else:
        assert found_in(path, tmp_path / "given", DAY) == {"a": ("'a'", repr(needed))}


@pytest.mark.fast
def test_files_of_different_types_are_converted_each_by_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for number, sql in enumerate(("DATE '2024-05-01'", "'2024-05-02'", "TIMESTAMP '2024-05-03'", "1714780800000000")):
        duckdb.sql(f"SELECT '{number}' AS id, {sql} AS at").write_parquet(str(folder / f"{number}.parquet"))
    found = found_in(folder, tmp_path / "given", DAY)
    assert found == {f"{n}": (repr(f"{n}"), repr(parse_time_us(f"2024-05-0{n + 1}"))) for n in range(4)}
    for file in folder.glob("*.parquet"):
        file.unlink()  # what was converted is used again
    duckdb.sql("SELECT 'x' AS id, 'never' AS at").write_parquet(str(folder / "0.parquet"))
    assert found_in(folder, tmp_path / "given", DAY) == found
    with pytest.raises(
        Misuse, match=r"0\.parquet, row 1, column 'at': needed time, found 'never'.*trimtab ingest days"
    ):
        found_in(folder, tmp_path / "again", DAY)
    assert not (tmp_path / "again").exists()


@pytest.mark.fast
def test_files_without_rows_have_no_events(tmp_path: Path) -> None:
    duckdb.sql("SELECT 'x' AS id, 'never' AS at LIMIT 0").write_parquet(str(tmp_path / "0.parquet"))
    assert found_in(tmp_path / "0.parquet", tmp_path / "given", DAY) == {}


@pytest.mark.fast
def test_times_of_a_declared_format_are_read_by_it(tmp_path: Path) -> None:
    of = source("days", time="at", key="id", columns={"id": str}, time_format="%d.%m.%Y")
    duckdb.sql("SELECT 'x' AS id, '31.12.2024' AS at").write_parquet(str(tmp_path / "a.parquet"))
    assert found_in(tmp_path / "a.parquet", tmp_path / "given", of) == {"x": ("'x'", repr(parse_time_us("2024-12-31")))}
    duckdb.sql("SELECT 'x' AS id, 20241231 AS at").write_parquet(str(tmp_path / "a.parquet"))
    with pytest.raises(Misuse, match=r"20241231, which does not fit the format '%d\.%m\.%Y'"):
        found_in(tmp_path / "a.parquet", tmp_path / "again", of)


@pytest.mark.fast
def test_a_damaged_file_that_is_converted_is_said_to_be_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    duckdb.sql("SELECT md5(i::VARCHAR) AS id, '2024-05-01' AS at FROM range(20000) t(i)").write_parquet(str(path))
    damaged = bytearray(path.read_bytes())
    damaged[100 : len(damaged) // 2] = bytes(len(damaged) // 2 - 100)
    path.write_bytes(bytes(damaged))
    with pytest.raises((Corrupt, Misuse), match=r"a\.parquet"):
        found_in(path, tmp_path / "given", DAY)
