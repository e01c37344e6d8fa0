import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Corrupt, Misuse, NotFound
from trimtab.core.time import HOUR_US
from trimtab.events.definitions import Time, source
from trimtab.events.files import csv_files
from trimtab.events.files.files import FileRows, read_file
from trimtab.events.values.conversions import of_text

PLAIN = source("plain", time="at", columns={"who": str, "x": float, "n": int, "ok": bool, "seen": Time})
MARKED = source("marked", time="at", columns={"who": str, "more": str})
KEYED = source("keyed", time="at", key="k", columns={"k": str, "x": float})
HEADER = "who,x,n,ok,seen,at\n"


def _csv(folder: Path, text: str, **more: Any) -> FileRows:
    path = folder / "a.csv"
    path.write_text(text, encoding="utf-8")
    return read_file(path, PLAIN, **more)


@pytest.mark.fast
def test_a_csv_file_becomes_columns_of_the_declared_types(tmp_path: Path) -> None:
    text = HEADER + "a,1.5,3,true,1970-01-01,1970-01-01T01:00:00\nb,,,,,1970-01-01 00:00:01\n"
    read = _csv(tmp_path, text)
    assert read.columns.to_rows() == [
        {"who": "a", "x": 1.5, "n": 3, "ok": True, "seen": 0, "at": HOUR_US},
        {"who": "b", "x": None, "n": None, "ok": None, "seen": None, "at": 1_000_000},
    ]
    assert (read.ignored, read.absent, read.bad) == ((), (), ())


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01 01:00:00Z", HOUR_US),
        ("1969-12-31 20:00:00-05", HOUR_US),
        ("1970-01-01 05:30:00.000001+05:30", 1),
        ("1970-01-01", 0),
    ],
)
def test_times_are_utc_unless_they_say_otherwise(tmp_path: Path, text: str, us: int) -> None:
    assert _csv(tmp_path, f"at\n{text}\n").columns["at"].to_list() == [us]


def test_a_byte_order_mark_quotes_and_line_breaks_in_quotes_are_read_as_meant(tmp_path: Path) -> None:
    text = '\ufeffwho,at\n"b, ""q""",1970-01-01\n"two\nlines",1970-01-01\n'
    assert _csv(tmp_path, text).columns["who"].to_list() == ['b, "q"', "two\nlines"]


@pytest.mark.parametrize("ends", ["\n\n\n", "\r\n\r\n\r\n", "\r\r\r", "\n\r\n\n", "\r\n\r\n"], ids=repr)
def test_lines_may_end_in_any_way(tmp_path: Path, ends: str) -> None:
    one, two, *last = ends.replace("\r\n", "x")
    ends_of = {"x": "\r\n"}
    text = "who,at" + ends_of.get(one, one) + "a,1970-01-01" + ends_of.get(two, two) + "b,1970-01-01"
    path = tmp_path / "a.csv"
    path.write_bytes((text + "".join(ends_of.get(end, end) for end in last)).encode())
    assert read_file(path, PLAIN).columns["who"].to_list() == ["a", "b"]


ODD = {  # bytes; who of the rows taken; line and what was found of those that are not
    "a line end of another kind in the header": (b'who,at,"no\nte"\r\na,1970-01-01,z\r\n', ["a"], []),
    "and in a field": (b'who,at\r\n"a\nb\rc",1970-01-01\r\nd,1970-01-01\r\n', ["a\nb\rc", "d"], []),
    "a comma behind every line": (b"who,at,\na,1970-01-01,\n", ["a"], []),
    "a comma behind one line": (
        b"who,at\na,1970-01-01,\n",
        [],
        [(2, "3 fields where the header has 2, the last one empty: 'a,1970-01-01,'")],
    ),
    "blank lines": (b"\n\r\nwho,at\n\na,1970-01-01\n\n\n", ["a"], []),
    "names of DuckDB": (b"who,at,filename,VARCHAR,file_row_number\na,1970-01-01,f,v,1\n", ["a"], []),
    "names that differ in case": (b"who,at,WHO\na,1970-01-01,b\n", ["a"], []),
    "a quote that is not closed": (
        b'who,at\na,1970-01-01\n"b,1970-01-01\nc,1970-01-01\n',
        ["a", "c"],
        [(3, "a quote that is not closed: '\"b,1970-01-01'")],
    ),
    "one that the next quote closes": (
        b'who,at\n"a,1970-01-01\nb,1970-01-01\n"c",1970-01-01\n',
        ["b", "c"],
        [(2, "text after a closing quote: '\"a,1970-01-01'")],
    ),
    "bytes that are no text": (
        b"who,at\n\xe9,1970-01-01\n\xc3\xa9,1970-01-01\n",
        ["\u00e9"],
        [(2, "bytes that are not UTF-8: '\ufffd,1970-01-01'")],
    ),
}


@pytest.mark.parametrize(("data", "who", "bad"), ODD.values(), ids=ODD)
def test_every_row_of_an_odd_file_is_taken_or_named(
    tmp_path: Path, data: bytes, who: list[str], bad: list[tuple[int, str]]
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    read = read_file(path, PLAIN, on_error="quarantine")
    assert read.columns["who"].to_list() == who
    assert [(b.number, b.found) for b in read.bad] == bad
    assert {b.reason for b in read.bad} <= {"bad_line"}
    assert read.counted == len(who) + len(bad)


@given(st.lists(st.text(st.sampled_from('a,"\n\r\0 \u00e9')), max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_line_of_a_csv_file_is_lost(tmp_path: Path, lines: list[str]) -> None:
    """Rows with a mark of their own: each is found in a row that was taken or refused, once."""
    marked = [f"#{number}{line}" for number, line in enumerate(lines)]
    path = tmp_path / "a.csv"
    path.write_bytes("\r\n".join(["who,at,more", *marked]).encode())
    read = read_file(path, MARKED, on_error="quarantine")
    found = [one for name in ("who", "more") for one in read.columns[name].to_list()]  # a quote may take in lines
    found += [bad.line or str(bad.row).encode() for bad in read.bad]
    text = b"\n".join(one if isinstance(one, bytes) else str(one).encode() for one in found)
    assert [text.count(f"#{number}".encode()) for number in range(len(lines))] >= [1] * len(lines)


ALIKE = {
    "int": st.sampled_from(["N", "+N", "N_0", "N.0", "Ne1", "\u0661", " N ", "9999999999999999999"]),
    "float": st.sampled_from(["N", "-N.5", "N_0", "Ne400", "nan", "-nan", "inf", ".5", "\u0661", "0xN", "NA"]),
    "time": st.sampled_from(
        [
            *("N-01-31T23:59:59", "N-02-29 12:34:56Z", "2024-01-01T24:00:00", "2024-01-01T00:00:60", "2024-01-01"),
            *("0000-12-31T23:59:59", "0001-01-01 00:00:00", "9999-12-31T23:59:59", "2024-01-01T00:00:00+01:00"),
            "2024-01-01T00:00:00\n2024-01-02T00:00:00",
        ]
    ),
}


@pytest.mark.parametrize("dtype", ALIKE)
@given(st.data())
def test_whole_columns_of_text_are_converted_as_each_text(dtype: Dtype, data: st.DataObject) -> None:
    shape = data.draw(ALIKE[dtype])
    texts = [shape.replace("N", str(n)) for n in data.draw(st.lists(st.integers(0, 9999), min_size=1))]
    texts += data.draw(st.lists(st.sampled_from(["", "NA", texts[0]]), max_size=2))
    quick = csv_files._QUICK[dtype](texts, csv_files._NULLS)
    if quick is not None:  # else each is converted by itself
        assert quick.to_list() == [of_text(dtype, text) for text in texts]


def test_times_in_their_usual_form_are_converted_together() -> None:
    texts = ["2024-02-29T23:59:59", "1969-12-31 00:00:01Z", "", "0001-01-01T00:00:00"]
    quick = csv_files._QUICK["time"](texts, csv_files._NULLS)
    assert quick is not None
    assert quick.to_list() == [of_text("time", text) for text in texts]


def test_a_record_may_be_longer_than_what_is_read_at_a_time(tmp_path: Path) -> None:
    long = "\n".join(map(str, range(5_000)))
    text = f'who,at\n"{long}",1970-01-01\n' + "b,1970-01-01\n" * 2_500 + f'"{long}",1970-01-01\nc,1970-01-01,\n'
    read = _csv(tmp_path, text, on_error="quarantine")
    assert read.columns["who"].to_list() == [long, *["b"] * 2_500, long]
    assert [bad.number for bad in read.bad] == [5_001 + 2_500 + 5_000 + 1]


@pytest.mark.parametrize("name", ["a.csv.gz", "a.ndjson.gz"])
@pytest.mark.parametrize(
    ("data", "message"),
    [(b"who,at\na,1970-01-01\n", "is not gzip data"), (gzip.compress(b"who,at\n" * 99, mtime=0)[:-9], "ends early")],
)
def test_a_packed_file_that_is_none_is_refused(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(Misuse, match=message):
        read_file(tmp_path / name, PLAIN)


def test_rows_that_are_not_read_are_an_error(tmp_path: Path) -> None:
    read = _csv(tmp_path, "at\n1970-01-01\nno\n1970-01-02\n", on_error="quarantine")
    assert read.counted == 3
    with pytest.raises(Corrupt, match="there are 4, but 2 were read and 1 refused"):
        replace(read, counted=4)
    with pytest.raises(Corrupt, match="there are 3, but 1 were read and 1 refused"):
        replace(read, columns=read.columns.take(slice(1)))


def test_words_for_null_are_null_where_they_cannot_be_meant(tmp_path: Path) -> None:
    text = HEADER + "NA,NA,NA,null,NaT,1970-01-01\n"
    row = {"who": "NA", "x": None, "n": None, "ok": None, "seen": None, "at": 0}
    assert _csv(tmp_path, text).columns.to_rows() == [row]
    assert _csv(tmp_path, text, nulls=["NA"]).columns["who"].to_list() == [None]


def test_more_columns_are_ignored_and_listed_and_missing_ones_too(tmp_path: Path) -> None:
    read = _csv(tmp_path, "who,at,more\na,1970-01-01,z\n")
    assert read.ignored == ("more",)
    assert read.absent == ("x", "n", "ok", "seen")
    assert read.columns.names == ("who", "at")


def test_ids_known_at_and_op_are_taken_when_they_are_there(tmp_path: Path) -> None:
    read = _csv(tmp_path, "who,at,_id,_known_at,_op\na,1970-01-01,i,1970-01-01T01:00:00Z,delete\n")
    assert read.columns.to_rows() == [{"who": "a", "at": 0, "_id": "i", "_known_at": HOUR_US, "_op": "delete"}]


@pytest.mark.parametrize(
    ("line", "place", "field", "found"),
    [
        ("b,foo,,,,1970-01-01", "line 5", "x", "'foo'"),
        ("b,,1.5,,,1970-01-01", "line 5", "n", "'1.5'"),
        ("b,,99999999999999999999,,,1970-01-01", "line 5", "n", "'99999999999999999999'"),
        ("b,,,maybe,,1970-01-01", "line 5", "ok", "'maybe'"),
        ("b,,,,,tomorrow", "line 5", "at", "'tomorrow'"),
        ("b,,,,,infinity", "line 5", "at", "'infinity'"),
        ("b,,,", "line 5", "", "4 fields where the header has 6: 'b,,,'"),
        ("b,,,,,1970-01-01,more", "line 5", "", "7 fields where the header has 6: 'b,,,,,1970-01-01,more'"),
    ],
)
def test_a_row_that_does_not_fit_is_named_by_file_line_and_column(
    tmp_path: Path, line: str, place: str, field: str, found: str
) -> None:
    text = HEADER + f'a,1,,,,1970-01-01\n"two\nlines",,,,,1970-01-01\n{line}\nc,2,,,,1970-01-01\nd,no,,,,1970-01-01\n'
    with pytest.raises(Misuse) as refused:
        _csv(tmp_path, text)
    message = str(refused.value)
    column = "" if "fields" in found else f", column {field!r}"
    assert f"{tmp_path / 'a.csv'}, {place}{column}: needed" in message
    assert f"found {found}" in message
    assert "1 more such rows" in message
    read = _csv(tmp_path, text, on_error="quarantine")
    assert read.columns["who"].to_list() == ["a", "two\nlines", "c"]
    assert [(b.place, b.field, b.found) for b in read.bad] == [(place, field, found), ("line 7", "x", "'no'")]
    assert read.bad[1].row == {"who": "d", "x": "no", "n": None, "ok": None, "seen": None, "at": 0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found an empty file, needed a header"),
        ("\n\n", "found only blank lines, needed a header"),
        ("who,x\na,1\n", r"needs column 'at' \(time of source 'plain'\), found who, x"),
        ("who,who,at\n", "has who more than once"),
    ],
)
def test_a_file_without_what_is_needed_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(Misuse, match=message):
        _csv(tmp_path, text)


def test_the_key_is_needed_too(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("at,x\n")
    with pytest.raises(Misuse, match=r"needs column 'k' \(key of source 'keyed'\)"):
        read_file(path, KEYED)


def test_a_header_alone_is_a_table_without_rows(tmp_path: Path) -> None:
    assert _csv(tmp_path, HEADER).columns.rows == 0


def test_a_quote_that_never_ends_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match=r"a\.csv"):
        _csv(tmp_path, HEADER + 'a,1,,,,1970-01-01\n"b,1,,,,1970-01-01\n')


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"who,at\nok,1970-01-01\n\xff\xfe,1970-01-01\n")
    with pytest.raises(Misuse, match=r"a\.csv"):
        read_file(path, PLAIN)


def test_a_name_full_of_traps_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "it's [a]*?.csv"
    path.write_text("who,at\na,1970-01-01\n")
    (tmp_path / "it's axx.csv").write_text("who,at\nother,1970-01-01\n")
    assert read_file(path, PLAIN).columns["who"].to_list() == ["a"]


def test_what_is_no_file_or_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="not found"):
        read_file(tmp_path / "no.csv", PLAIN)
    for address in ("s3://a/b.csv", Path("s3://a/b.csv"), "https://example.org/b.csv"):
        with pytest.raises(Misuse, match=r"file (s3|https)://[a-z.]+/b.csv: found an address, needed a file"):
            read_file(address, PLAIN)
    with pytest.raises(Misuse, match="is a folder"):
        read_file(tmp_path, PLAIN)
    (tmp_path / "a.xls").write_text("")
    with pytest.raises(Misuse, match="needs a name that ends in"):
        read_file(tmp_path / "a.xls", PLAIN)


def test_packed_text_files_are_read(tmp_path: Path) -> None:
    for name, text in {"a.csv.gz": "who,at\na,1970-01-01\n", "a.tsv.gz": "who\tat\na\t1970-01-01\n"}.items():
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
        assert read_file(tmp_path / name, PLAIN).columns["who"].to_list() == ["a"]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"at": 0, "who": "a"}\n'))
    assert read_file(tmp_path / "a.jsonl.gz", PLAIN).columns["who"].to_list() == ["a"]


def test_json_lines_follow_the_rules_of_a_push(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_text(
        '\ufeff{"who": "a", "x": 1, "at": "1970-01-01T01:00:00+01:00", "more": {"y": 1}}\n\n{"at": 5}\n',
        encoding="utf-8",
    )
    read = read_file(path, PLAIN)
    assert read.columns.to_rows() == [{"who": "a", "x": 1.0, "at": 0}, {"who": None, "x": None, "at": 5}]
    assert read.ignored == ("more",)


def test_json_lines_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_text('{"who": "a", "at": 0}\n\n{"who": 5, "at": 0}\n[1]\n{"who"\n{"x": "y", "at": 0}\n')
    with pytest.raises(Misuse, match=r"line 3, column 'who': needed str, found 5 "):
        read_file(path, PLAIN)
    read = read_file(path, PLAIN, on_error="quarantine")
    assert read.columns["who"].to_list() == ["a"]
    assert [(b.place, b.reason) for b in read.bad] == [
        ("line 3", "wrong_type"),
        ("line 4", "bad_line"),
        ("line 5", "bad_line"),
        ("line 6", "wrong_type"),
    ]


def test_an_empty_file_of_json_lines_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_text("")
    assert read_file(tmp_path / "a.ndjson", PLAIN).columns.rows == 0


def _parquet(folder: Path, sql: str, **more: Any) -> FileRows:
    import duckdb

    path = folder / "a.parquet"
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"COPY ({sql}) TO '{path}' (FORMAT parquet)")
    return read_file(path, PLAIN, **more)


def test_a_parquet_file_becomes_columns_of_the_declared_types(tmp_path: Path) -> None:
    sql = """
        SELECT 'a' AS who, 1::DECIMAL(5, 2) AS x, 3.0::DOUBLE AS n, true AS ok, DATE '1970-01-01' AS seen,
               TIMESTAMP '1970-01-01 01:00:00' AS at
        UNION ALL SELECT NULL, NULL, 'nan'::DOUBLE, NULL, NULL, TIMESTAMP '1970-01-01 00:00:00'
        UNION ALL SELECT 'c', 2, NULL, false, NULL, TIMESTAMP '1960-01-01 00:00:00'
    """
    rows = _parquet(tmp_path, sql).columns.to_rows()
    assert rows[0] == {"who": "a", "x": 1.0, "n": 3, "ok": True, "seen": 0, "at": HOUR_US}
    assert rows[1] == {"who": None, "x": None, "n": None, "ok": None, "seen": None, "at": 0}
    assert rows[2]["at"] < 0


@pytest.mark.parametrize(
    "instant",
    ["TIMESTAMPTZ '1970-01-01 01:00:00+00'", "TIMESTAMP_NS '1970-01-01 01:00:00'", "'1970-01-01T01:00'", "3600000000"],
)
def test_instants_of_a_parquet_file_may_be_of_any_kind(tmp_path: Path, instant: str) -> None:
    kind = "::BIGINT" if instant.isdigit() else ""
    assert _parquet(tmp_path, f"SELECT {instant}{kind} AS at").columns["at"].to_list() == [HOUR_US]


def test_a_parquet_column_of_another_type_is_refused_by_row_and_name(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match=r"row 1, column 'who': needed str, found 5 \(wrong_type\)"):
        _parquet(tmp_path, "SELECT 5 AS who, TIMESTAMP '1970-01-01' AS at")


def test_a_parquet_row_that_does_not_fit_is_named(tmp_path: Path) -> None:
    sql = "SELECT unnest([1.0, 1.5]::DOUBLE[]) AS n, TIMESTAMP '1970-01-01' AS at"
    with pytest.raises(Misuse, match=r"row 2, column 'n': needed int, found 1.5 "):
        _parquet(tmp_path, sql)
    assert _parquet(tmp_path, sql, on_error="quarantine").columns["n"].to_list() == [1]


def test_a_parquet_file_that_is_none_or_damaged_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    file.write_bytes(b"PAR1 but not really")
    with pytest.raises(Misuse, match=r"a\.parquet: cannot be read as Parquet"):
        read_file(file, PLAIN)
    _parquet(tmp_path, "SELECT repeat('a', 1 + i % 7) AS who, TIMESTAMP '1970-01-01' AS at FROM range(100) t(i)")
    damaged = bytearray(file.read_bytes())
    damaged[10:40] = bytes(30)
    file.write_bytes(damaged)
    with pytest.raises(Misuse, match=r"a\.parquet: cannot be read as Parquet"):
        read_file(file, PLAIN)


def test_columns_of_a_parquet_file_may_be_called_as_duckdb_calls_its_own(tmp_path: Path) -> None:
    (tmp_path / "year=2024").mkdir()
    read = _parquet(tmp_path / "year=2024", "SELECT 'f' AS filename, 7 AS file_row_number, 'a' AS who, 0::BIGINT AS at")
    assert (read.columns["who"].to_list(), read.ignored) == (["a"], ("filename", "file_row_number"))
    assert read.counted == 1


def test_infinities_and_numbers_beyond_the_limit_are_named(tmp_path: Path) -> None:
    texts = ["inf", "-Infinity", "1e151", "1e400", "1_000", "0x10", "\u0661", "1,5"]
    read = _csv(tmp_path, "x,at\n" + "".join(f'"{text}",1970-01-01\n' for text in texts), on_error="quarantine")
    reasons = ["infinite"] * 2 + ["too_large"] * 2 + ["wrong_type"] * 4
    assert [(bad.found, bad.reason) for bad in read.bad] == list(zip(map(repr, texts), reasons, strict=True))


def test_whole_numbers_of_a_text_file_may_have_an_exponent_as_in_json(tmp_path: Path) -> None:
    counts = source("counts", time="at", columns={"n": int})
    texts = ["1e3", "1.5E1", "-2e+0", "10e-1", "1e18", "15e-1", "1e19", "1e400", "e3", "1.5"]
    (tmp_path / "a.csv").write_text("n,at\n" + "".join(f"{text},1970-01-01\n" for text in texts))
    read = read_file(tmp_path / "a.csv", counts, on_error="quarantine")
    assert read.columns["n"].to_list() == [1_000, 15, -2, 1, 10**18]
    assert [(bad.found, bad.reason) for bad in read.bad] == [
        ("'15e-1'", "wrong_type"),
        ("'1e19'", "too_large"),
        ("'1e400'", "too_large"),
        ("'e3'", "wrong_type"),
        ("'1.5'", "wrong_type"),
    ]
