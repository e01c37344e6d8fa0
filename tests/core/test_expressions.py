import datetime as dt
import math
import struct
import zoneinfo
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.columns.data import Columns, Dtype, column
from trimtab.core.errors import Misuse
from trimtab.core.expressions.by_columns import Evaluated, evaluate_columns, evaluate_marked
from trimtab.core.expressions.by_rows import RowFunction, compile_row
from trimtab.core.expressions.failed import failures
from trimtab.core.expressions.functions import transform
from trimtab.core.expressions.nodes import OPS, Expression, col, lit, when

DTYPES: dict[str, Dtype] = {
    "f": "float", "g": "float", "i": "int", "j": "int", "b": "bool", "c": "bool", "s": "str", "t": "time", "u": "time",
}  # fmt: skip
f, g, i, j, b, c, s, t, u = (col(name) for name in DTYPES)


@transform
def halved(x: float) -> float:
    return x / 2


@transform(returns=str, nulls="pass")
def either(one: object, other: object) -> str | None:
    return f"{one or other}" if one != other else None


@transform(returns=int)
def both(t: int, b: bool) -> int:
    return t // 1_000_000 if b else 0


@transform(returns=bool)
def named() -> bool:
    return True


@transform(returns=int)
def picky(n: int) -> int:
    if n % 3 == 0:
        raise ValueError(n)
    return n


EXPRESSIONS = {
    "col": [f, i, b, s, t],
    "lit": [lit(1.5), lit(True), lit("x"), lit(dt.datetime(2013, 1, 1)), lit(-0.0)],
    "+": [f + g, f + i, i + j, b + c, t + i, 1 + f],
    "-": [f - g, i - j, t - i, t - u, b - c, 0.1 - f],
    "*": [f * g, i * j, f * b, 3 * i, i * -1],
    "/": [f / g, i / j, f / 0.0, 1 / f],
    "//": [f // g, i // j, i // -1, f // 0.1, f // i, 7 // i],
    "%": [f % g, i % j, f % -0.3, i % -1, 7 % f],
    "**": [f**2, f**g, f**0.5, i**j, f**-1, 2.0**f, f**i],
    "neg": [-f, -i, -b, -(i * 4)],
    "abs": [abs(f), i.abs(), b.abs()],
    "==": [f == g, f == i, i == j, s == "x", t == u, b == c, b == 1],
    "!=": [f != g, s != "x", s != s, i != 1.5],
    "<": [f < g, i < f, t < u, b < c],
    "<=": [f <= g, i <= 3, t <= dt.datetime(2013, 6, 1)],
    ">": [f > g, i > f, f < 3],
    ">=": [f >= 30, i >= j, t >= u],
    "&": [b & c, b & True, b & (f > 0), False & b, (i > 0) & (i * i > 9), (i * j > 0) & b],
    "|": [b | c, b | False, True | b, (i < 99) | (picky(i) > 0)],
    "~": [~b, ~(f > g)],
    "log": [f.log(), i.log()],
    "log1p": [f.log1p(), i.log1p(), (f / 1e6).log1p()],
    "exp": [f.exp(), i.exp(), (-f).exp()],
    "sqrt": [f.sqrt(), i.sqrt()],
    "clip": [f.clip(-1, 2.5), i.clip(0, None), i.clip(None, 0.5), f.clip(-0.0, 3), b.clip(0, 0)],
    "is_null": [f.is_null(), s.is_null(), (f / g).is_null(), (i * j).is_null()],
    "fill_null": [
        f.fill_null(0),
        i.fill_null(j),
        i.fill_null(0.5),
        s.fill_null("none"),
        b.fill_null(False),
        (i * j).fill_null(picky(j)),
        i.fill_null(j * j),
    ],
    "isin": [s.isin(["x", "y"]), f.isin([0, 1.5]), i.isin([1, 2]), i.isin([1, 2.5]), t.isin([dt.datetime(2013, 1, 1)])],
    "when": [
        when(b, f, g),
        when(f > 0, i, g),
        when(b, s),
        when(b, s, "z"),
        when(b, i * i, 0),
        when(b & c, b, 2),
        when(i * j > 0, picky(i), j),
    ],
    "hour": [
        t.hour(),
        (t + i).hour("Asia/Kathmandu"),
        t.hour("America/New_York"),
        t.hour("Asia/Kathmandu"),
        t.hour("Europe/Dublin"),
    ],
    "minute": [t.minute(), t.minute("Asia/Kathmandu"), t.minute("America/New_York")],
    "weekday": [t.weekday(), t.weekday("Pacific/Apia")],
    "day_of_year": [t.day_of_year(), t.day_of_year("Pacific/Apia")],
    "month": [t.month(), t.month("America/New_York")],
    "bucket": [f.bucket([-1, 0, 2.5]), i.bucket([0]), b.bucket([1])],
    "hash_bucket": [s.hash_bucket(7), f.hash_bucket(1000), i.hash_bucket(3), b.hash_bucket(2), t.hash_bucket(5)],
    "python": [halved(f), either(s, i), either(b, 3), both(t, b), named(), picky(i), picky(picky(i) + j)],
    "category": [s.category(), when(b, s, "z").category()],
}

floats = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, min_value=-1e150, max_value=1e150),
    st.floats(-100, 100),
    st.sampled_from([0.0, 1.0, 2.0, -1.0, 0.5, 1e150, -1e150, 5e-324, 0.1, 345.0, 346.5, 1e-9, 1e16]),
)
ints = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-40, 40))
times = st.one_of(
    st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999),
    st.integers(1_350_000_000_000_000, 1_400_000_000_000_000),
)
VALUES: dict[Dtype, st.SearchStrategy[Any]] = {
    "float": floats, "int": ints, "bool": st.booleans(), "str": st.sampled_from(["x", "y", "", "\ud800", "é"]),
    "time": times,
}  # fmt: skip
rows = st.fixed_dictionaries({name: st.one_of(st.none(), VALUES[dtype]) for name, dtype in DTYPES.items()})


def bits(value: Any) -> Any:
    return struct.pack("<d", value) if isinstance(value, float) else (type(value), value)


def in_columns(expression: Expression, table: list[dict[str, Any]]) -> Evaluated:
    data = Columns({name: column(dtype, [row[name] for row in table]) for name, dtype in DTYPES.items()})
    result = evaluate_marked(expression, data)
    assert result.column.dtype == expression.dtype(DTYPES, "test")
    return result


def marked(function: RowFunction, row: dict[str, Any]) -> tuple[Any, bool]:
    """The value of one row, and whether it failed."""
    before = failures.count
    value = function(row)
    return bits(value), failures.count != before


def test_every_function_has_expressions_in_the_parity_test() -> None:
    assert set(EXPRESSIONS) == set(OPS)


@pytest.mark.fast
@pytest.mark.parametrize("op", OPS)
@settings(max_examples=30, deadline=None)
@given(table=st.lists(rows, min_size=1, max_size=8))
def test_both_evaluators_give_the_same_bits(op: str, table: list[dict[str, Any]]) -> None:
    for expression in EXPRESSIONS[op]:
        function = compile_row(expression, DTYPES)
        found = in_columns(expression, table)
        values = found.column.to_list()
        failed = [False] * len(table) if found.failed is None else found.failed.tolist()
        assert list(zip(map(bits, values), failed, strict=True)) == [marked(function, row) for row in table]
        assert not any(isinstance(v, float) and (v != v or abs(v) > 1e150 or bits(v) == bits(-0.0)) for v in values)
        assert bool(found.error) == any(failed)


def test_many_rows_give_the_bits_of_one_row() -> None:
    rng = np.random.default_rng(7)
    x = np.exp(rng.normal(0, 3, 5_001)) * rng.choice([-1, 1], 5_001)
    y = rng.normal(0, 2, 5_001)
    table = Columns.of({"f": ("float", x.tolist()), "g": ("float", y.tolist())})
    for expression in (
        f.log1p(),
        abs(f).log(),
        g.exp(),
        abs(f) ** g,
        abs(f) ** 2,
        abs(f) ** 0.5,
        f**-1,
        f % g,
        f // g,
        abs(f).sqrt(),
        f / g,
    ):
        function = compile_row(expression, {"f": "float", "g": "float"})
        expected = [function({"f": a, "g": b}) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
        assert evaluate_columns(expression, table).to_list() == expected


@given(times, st.sampled_from(["UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu"]))
def test_time_parts_are_those_of_the_calendar(at_us: int, tz: str) -> None:
    at_us = min(max(at_us, -62_135_000_000_000_000), 253_402_000_000_000_000)
    local = (dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=at_us)).astimezone(
        zoneinfo.ZoneInfo(tz)
    )
    parts = [t.hour(tz), t.minute(tz), t.weekday(tz), t.day_of_year(tz), t.month(tz)]
    found = [compile_row(part, DTYPES)({"t": at_us}) for part in parts]
    assert found == [local.hour, local.minute, local.weekday(), local.timetuple().tm_yday, local.month]


@pytest.mark.parametrize(
    ("a", "b", "both", "either"),
    [
        (True, True, True, True), (True, False, False, True), (True, None, None, True), (False, False, False, False),
        (False, None, False, None), (None, None, None, None), (None, True, None, True), (None, False, False, None),
    ],
)  # fmt: skip
def test_and_and_or_are_three_valued(a: bool | None, b: bool | None, both: bool | None, either: bool | None) -> None:
    row = {"b": a, "c": b}
    assert compile_row(col("b") & col("c"), DTYPES)(row) is both
    assert compile_row(col("b") | col("c"), DTYPES)(row) is either


@pytest.mark.parametrize(
    "expression",
    [f / 0, f // 0, i % 0, i // 0, lit(-1.0).log(), lit(0).log(), lit(-1).log1p(), lit(-1).sqrt(), lit(400).exp(),
     lit(1e150) * 2.0, lit(0.0) ** -1, lit(-8.0) ** 0.5],
)  # fmt: skip
def test_what_has_no_finite_value_is_null(expression: Expression) -> None:
    assert compile_row(expression, DTYPES)({"f": 1.0, "i": 1}) is None
    assert evaluate_columns(expression, Columns.of({"f": ("float", [1.0]), "i": ("int", [1])})).to_list() == [None]


def test_what_fails_for_a_row_is_null_and_marked_in_that_row_alone() -> None:
    table = Columns.of({"f": ("float", [1.0, 11.0]), "i": ("int", [3, 2**62])})
    found = evaluate_marked(i * i, table)
    assert found.column.to_list() == [9, None]
    assert found.failed is not None
    assert found.failed.tolist() == [False, True]
    assert found.error.startswith("4611686018427387904 * 4611686018427387904 does not fit an integer of 64 bits.")


def test_nothing_fails_where_no_row_needs_it() -> None:
    table = Columns.of({"f": ("float", [1.0, 11.0]), "i": ("int", [3, 2**62])})
    for guarded in (when(f < 10, i * i), when(f < 10, when(i > 0, i * i)), (f < 10) & (i * i > 1)):
        found = evaluate_marked(guarded, table)
        assert (found.column.to_list()[0], found.failed) in ((9, None), (True, None))
    needed = np.array([True, False])
    assert evaluate_marked(i * i, table, needed=needed).failed is None
    assert evaluate_marked(picky(i), table, needed=~needed).failed is None


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (col("nope") + 1, r"view 'v': no column 'nope'. There are: f, g, i"),
        (s + 1, r"view 'v': \+ in \(col\('s'\) \+ 1\) needs numbers; it was given str and int"),
        (s < "x", r"needs two numbers or two times, such as datetime\(2026, 3, 1\)"),
        (s == 1, "needs two numbers, two strings or two times; it was given str and int"),
        (b & i, "needs truth values"),
        (f.hour(), "needs a time"),
        (t + 1.5, "an int of microseconds after a time"),
        (t * 2, "needs numbers"),
        (f.category(), "needs a string"),
        (s.category() == "x", "Make .category\\(\\) the last"),
        (when(f, 1, 2), "a truth value as its condition"),
        (when(b, 1, "x"), "two values of one type"),
        (s.isin([1]), "one type for the column and the values to look for"),
        (s.log1p(), "needs numbers; it was given str"),
    ],
)
def test_a_wrong_type_is_found_at_definition(expression: Expression, message: str) -> None:
    with pytest.raises(Misuse, match=message):
        expression.dtype(DTYPES, "view 'v'")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bool(f == 1), "Combine with & | ~"),
        (lambda: 0 < f < 1, "has no truth value"),
        (lambda: f == None, "cannot be a constant"),  # noqa: E711
        (lambda: f + math.inf, "out of range"),
        (lambda: f + math.nan, "out of range"),
        (lambda: i + 2**63, "does not fit 64 bits"),
        (lambda: f.clip(2, 1), "above the upper"),
        (lambda: f.bucket([2, 1]), "ascending"),
        (lambda: s.isin([]), "at least one"),
        (lambda: s.hash_bucket(0), "number of buckets"),
        (lambda: t.hour("Mars/Base"), "is not a time zone"),
        (lambda: col(""), "name of a column"),
        (lambda: s == "\ud800", "cannot be encoded as UTF-8"),
    ],
)
def test_a_meaningless_expression_is_refused(make: Any, message: str) -> None:
    with pytest.raises(Misuse, match=message):
        make()


def test_the_hash_is_that_of_the_content() -> None:
    assert ((f + 1) * 2).same_as((col("f") + 1) * 2)
    assert not (f + 1).same_as(f + 1.0)
    assert hash(f + 1) == hash(col("f") + 1)
    assert (f >= 30).hash == "f7707d2af93faea7be26791821f96fcfaf37fbcef5e55873bf73d05c66372f78"


def test_buckets_of_hashes_never_change() -> None:
    function = compile_row(s.hash_bucket(1000), DTYPES)
    assert [function({"s": x}) for x in ("", "UA", "é")] == [756, 803, 963]


def test_a_text_that_ends_with_nul_is_another_than_the_one_without() -> None:
    table = [dict.fromkeys(DTYPES) | {"s": text} for text in ("x", "x\0", "\0", "", None)]
    end = "x\0"
    given = when(s == "", end, "\0")
    for expression in (s == end, s != end, s.isin([end, "y"]), s.isin(["x"]), s.fill_null(end), given):
        function = compile_row(expression, DTYPES)
        assert in_columns(expression, table).column.to_list() == [function(row) for row in table]
