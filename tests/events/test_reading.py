"""Declared rules of reading: numbers, words for null, delimiters, made keys, known-at columns."""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse
from trimtab.core.time import parse_time_us
from trimtab.events import Ingestor, Quarantine, read_rows
from trimtab.events.definitions import Source, Time, source
from trimtab.events.formats.number_formats import number_format
from trimtab.events.formats.reading import key_text
from trimtab.events.records import decode
from trimtab.testing import MemoryLog

pytestmark = pytest.mark.fast

COLUMNS: dict[str, type] = {"id": str, "amount": float, "count": int, "open": bool, "city": str, "known": Time}
FORMS = ["1234.56", "1,234.56", "1.234,56", "1 234,56", "1'234.56", "1234,56"]
UNITS = [("", ""), ("", " €"), ("", "%"), ("$", ""), ("EUR ", ""), ("", " kg")]


def sales(**more: Any) -> Source:
    return source("s", time="at", key="id", columns=COLUMNS, **more)


def written(number: Decimal, form: str, before: str, behind: str) -> str:
    """A number in a form, spelt without the code under test."""
    digits = f"{abs(number):,.2f}"
    group = form[1] if form[1] != "2" else ""
    decimal = form[-3]
    text = digits.replace(",", "G").replace(".", decimal).replace("G", group)
    return f"{'-' if number < 0 else ''}{before}{text}{behind}"


@pytest.mark.parametrize(("declared", "seen"), [(";", ","), (None, ";"), ("\t", "|")])
def test_another_delimiter_than_the_declared_one_is_named(tmp_path: Path, declared: str | None, seen: str) -> None:
    file = tmp_path / "sales.csv"
    file.write_text(seen.join(("at", "id", "amount")) + "\n")
    said = f"the source declares {declared!r}" if declared else "no delimiter, which means commas"
    with pytest.raises(Misuse) as refused:
        read_rows(file, sales(delimiter=declared))
    assert f"seems to be separated by {seen!r}" in str(refused.value)
    assert said in str(refused.value)


def test_words_for_true_and_false_are_read_at_every_door(tmp_path: Path) -> None:
    declared = source("s", time="at", columns={"open": bool})
    words = ["ja", " Nein ", "TRUE", "0"]
    rows = [{"at": "2026-01-01", "open": word} for word in words]
    file = tmp_path / "s.csv"
    ingestor, log, _ = bench(declared, "2026-01-02")
    file.write_text("at,open\n" + "".join(f"2026-01-01,{word}\n" for word in words))
    assert ingestor.push("s", rows).accepted == len(words)
    pushed = [decode(record.payload).values[0] for record in log.read(log.partition, 0)]
    assert pushed == read_rows(rows, declared).columns["open"].to_list() == [True, False, True, False]
    assert read_rows(file, declared).columns["open"].to_list() == pushed
    with pytest.raises(Misuse, match="needed bool, found 'maybe'"):
        read_rows([{"at": "2026-01-01", "open": "maybe"}], declared)


def test_a_made_key_is_not_missing_where_no_row_fits(tmp_path: Path) -> None:
    declared = source(
        "joins",
        time="joined",
        key="row_id",
        columns={"row_id": str, "who": str, "joined": Time},
        key_of=["who", "joined"],
        time_format={"joined": "%d.%m.%Y"},
    )
    file = tmp_path / "joins.csv"
    file.write_text("who,joined\nm1,2026/09/30\nm2,2026/10/01\n")
    rows = read_rows(file, declared, on_error="quarantine")
    assert (rows.absent, rows.columns.rows, "row_id" in rows.columns) == ((), 0, True)
    with pytest.raises(Misuse, match=r"line 2, column 'joined': .*'2026/09/30'.* '%d.%m.%Y'"):
        read_rows(file, declared)


@given(
    st.decimals(-10_000_000, 10_000_000, places=2, allow_nan=False, allow_infinity=False),
    st.sampled_from(FORMS),
    st.sampled_from(UNITS),
)
def test_a_number_is_read_as_it_was_written(number: Decimal, form: str, unit: tuple[str, str]) -> None:
    before, behind = unit
    declared = number_format(f"{before}{form}{behind}")
    text = written(number, form, before, behind)
    assert declared.number(text) == number
    assert declared.plain([text, text]) == [f"{number:.2f}".replace("-0.00", "-0.00")] * 2 or number == 0
    assert declared.number(text.replace(before.strip(), "").replace(behind.strip(), "").strip()) == number


@given(st.text("0123456789.,' -+%€ex", max_size=9), st.sampled_from(FORMS), st.sampled_from(UNITS))
def test_whole_columns_are_read_as_single_texts(text: str, form: str, unit: tuple[str, str]) -> None:
    declared = number_format(f"{unit[0]}{form}{unit[1]}")
    single = declared.number(text.strip())
    together = declared.plain([text.strip()])
    if together is not None:
        try:
            value = float(together[0])
        except ValueError:
            assert single is None
        else:
            assert single is not None
            assert float(single) == value
    else:
        assert single is None


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("1.234,56", "12.5"),
        ("1.234,56", "1.23,4"),
        ("1.234,56", "1.2345"),
        ("1,234.56", "1,5"),
        ("1234.56", "1,000"),
        ("1.234,56 €", "12 $"),
        ("1234,56", "1e"),
        ("1.234,56", "--5"),
        ("$1,234.56", "-$-5"),
        ("1.234,56", ""),
        ("1.234,56", "NaN"),
    ],
)
def test_other_texts_are_no_numbers(form: str, text: str) -> None:
    assert number_format(form).number(text) is None


@pytest.mark.parametrize("form", ["", "12", "1.234.56", "€1.234,56€", "price", "1,234,56", 5, None, "1.234,567"])
def test_an_example_that_is_none_is_refused(form: Any) -> None:
    with pytest.raises(Misuse, match=r"number_format of column .amount.: "):
        sales(number_format={"amount": form})


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"number_format": {"city": "1234.56"}}, "Columns of numbers: amount, count"),
        ({"number_format": "1234.56"}, "is not a mapping"),
        ({"nulls": "-"}, "not a list of texts"),
        ({"delimiter": "ab"}, "delimiter='ab' must be one of"),
        ({"key_of": ["id", "city"]}, "key_of="),
        ({"key_of": ["nothing"]}, "key_of="),
        ({"constants": {"nothing": "all"}}, "constants has 'nothing'"),
        ({"constants": {"id": "all"}}, "constants has 'id'"),
        ({"constants": {"city": 3}}, "constants has 'city'"),
        ({"constants": ["city"]}, "is not a mapping"),
        ({"known_at": "city"}, "known_at='city' is not a time column"),
    ],
)
def test_rules_that_do_not_fit_the_columns_are_refused(rules: dict[str, Any], words: str) -> None:
    with pytest.raises(Misuse, match=words):
        sales(**rules)


def test_a_source_without_rules_has_the_document_that_it_had() -> None:
    plain = sales()
    assert b"reads" not in msgspec.json.encode(plain)
    ruled = sales(nulls=["-"], number_format={"amount": "1.234,56"}, delimiter=";", known_at="known", only_final=True)
    assert ruled.hash == plain.hash


RULED = sales(
    nulls=["-", "Unknown"],
    delimiter=";",
    number_format={"amount": "1.234,56 €", "count": "1.234"},
    time_format={"at": "%d.%m.%Y"},
    key_of=["city", "at"],
)
EXPECTED = {
    "id": ["Ulm|2024-12-31T00:00:00Z", "b", None],
    "amount": [1250.5, None, -3.0],
    "count": [1250, 7, None],
    "open": [True, False, None],
    "city": ["Ulm", "A|B", None],
}


def test_every_way_in_reads_by_the_rules(tmp_path: Path) -> None:
    texts = [
        ["", "31.12.2024", "1.250,50 €", "1.250", "Ulm"],
        ["b", "1.1.2025", " - ", "7", "A|B"],
        ["", "1.1.2025", "-3", "unknown", "UNKNOWN"],
    ]
    file = tmp_path / "s.csv"
    opens = ["Ja", "nein", ""]
    lines = [";".join([*row, said]) for row, said in zip(texts, opens, strict=True)]
    file.write_text("\n".join(["id;at;amount;count;city;open", *lines]) + "\n")
    names = ["id", "at", "amount", "count", "city"]
    rows = [
        {name: text or None for name, text in zip(names, row, strict=True)} | {"open": truth}
        for row, truth in zip(texts, [True, False, None], strict=True)
    ]
    table = Columns.of({name: ("str", [row[name] for row in rows]) for name in names} | {
        "open": ("bool", [True, False, None])
    })  # fmt: skip
    for given_rows in (file, rows, table):
        found = read_rows(given_rows, RULED)
        assert {name: found.columns[name].to_list() for name in EXPECTED} == EXPECTED
        assert found.absent == ("known",)


def bench(one: Source, now: str = "2026-01-01") -> tuple[Ingestor, MemoryLog, Quarantine]:
    clock = VirtualClock(parse_time_us(now))
    log, quarantine = MemoryLog(clock=clock), Quarantine(MemoryLog(clock=clock))
    return Ingestor(log, [one], clock=clock, quarantine=quarantine), log, quarantine


def test_rows_that_are_pushed_get_the_key_that_files_get(tmp_path: Path) -> None:
    ingestor, log, quarantine = bench(RULED)
    done = ingestor.push("s", [
        {"at": "31.12.2024", "city": "Ulm", "amount": "1.250,50"},
        {"at": "31.12.2024", "city": "-"},
        {"id": "own", "at": "31.12.2024"},
    ])  # fmt: skip
    assert (done.accepted, done.quarantined) == (2, 1)
    assert [(one.row, one.field, one.reason) for one in done.problems] == [(1, "city", "missing")]  # not the made key
    assert [decode(record.payload).id for record in log.read(log.partition, 0)] == ["Ulm|2024-12-31T00:00:00Z", "own"]
    assert quarantine.counts() == {"s": {"missing": 1}}


def test_a_column_that_a_file_lacks_has_its_constant(tmp_path: Path) -> None:
    one = sales(constants={"city": "Ulm"}, key_of=["city", "at"])
    file = tmp_path / "s.csv"
    file.write_text("at,amount\n2024-12-31,1\n2025-01-01,2\n")
    rows = [{"at": "2024-12-31", "amount": 1.0}, {"at": "2025-01-01", "amount": 2.0}]
    for given_rows in (file, rows):
        found = read_rows(given_rows, one)
        assert found.columns["city"].to_list() == ["Ulm", "Ulm"]
        assert found.columns["id"].to_list() == ["Ulm|2024-12-31T00:00:00Z", "Ulm|2025-01-01T00:00:00Z"]
        assert "city" not in found.absent
    file.write_text("at,city,amount\n2024-12-31,Bonn,1\n2025-01-01,,2\n")
    assert read_rows(file, one).columns["city"].to_list() == ["Bonn", "Ulm"]
    ingestor, log, _ = bench(one)
    ingestor.push("s", [*rows, {"at": "2025-01-02", "city": "Bonn"}])
    assert [decode(record.payload).id for record in log.read(log.partition, 0)] == [
        *("Ulm|2024-12-31T00:00:00Z", "Ulm|2025-01-01T00:00:00Z", "Bonn|2025-01-02T00:00:00Z")
    ]  # fmt: skip
    assert one.hash == sales().hash


def test_a_column_says_when_an_event_became_known() -> None:
    one = sales(known_at="known", delay="30d")
    ingestor, log, _ = bench(one)
    ingestor.push("s", [{"id": "a", "at": "2024-01-01", "known": "2024-01-05"}, {"id": "b", "at": "2024-01-01"}],
                  history=True)  # fmt: skip
    known = [decode(record.payload).known_at_us for record in log.read(log.partition, 0)]
    assert known == [parse_time_us("2024-01-05"), parse_time_us("2024-01-31")]


@given(st.lists(st.lists(st.text("a|\\", max_size=3), min_size=2, max_size=2), min_size=2, max_size=2))
def test_keys_of_different_values_differ(rows: list[list[str]]) -> None:
    one, other = rows
    assert (key_text(one) == key_text(other)) == (one == other)


def test_numbers_of_a_large_file_are_those_of_its_rows(tmp_path: Path) -> None:
    rng = random.Random(5)
    one = sales(number_format={"amount": "1.234,56 €"}, nulls=["-"], delimiter=";")
    numbers = [round(rng.uniform(-9_999_999, 9_999_999), 2) if rng.random() > 0.1 else None for _ in range(3_000)]
    texts = ["-" if n is None else written(Decimal(str(n)), "1.234,56", "", " €") for n in numbers]
    file = tmp_path / "s.csv"
    file.write_text("id;at;amount\n" + "".join(f"{row};2024-01-01;{text}\n" for row, text in enumerate(texts)))
    assert read_rows(file, one).columns["amount"].to_list() == numbers
