"""The type and the format of each column of texts, and the words that stand for null."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from shlex import quote
from typing import TYPE_CHECKING

import msgspec

from trimtab.app.start.init.file.numbers import numbers_in
from trimtab.app.start.init.file.texts import connection_error, literal, one, quoted
from trimtab.app.start.init.file.times import ISO, others_in, reader, times_in
from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse
from trimtab.core.time import ISO_8601
from trimtab.events.formats.number_formats import number_format
from trimtab.events.formats.reading import null_form
from trimtab.events.values.conversions import BOOL_WORDS, NULL_WORDS

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# Words for null in every column. NULL_WORDS are others, which mean null only in columns that are not text.
WORDS = ("-", "--", "---", "?", "n/a", "#n/a", "unknown", "unbekannt", "k.a.", "not available", "(null)", "null", "nan")
_SAMPLE = 2_000  # a type is guessed from this many different texts
_FEW = 0.005  # a column has a type if at most this share of values does not fit it; rows with these go to quarantine
_MANY = 0.8  # if more than this share of a text column's values are numbers, the profile says so
_FLOAT = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
_INT = r"[+-]?(0|[1-9][0-9]{0,17})"
_SHOWN = 5


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """The type of one column, the format of its texts, and what was odd."""

    dtype: Dtype | None
    time_format: str | None = None
    number_format: str | None = None
    nulls: dict[str, int] = {}  # words for null that the file has in this column, with their counts
    mixed: dict[str, list[str]] = {}  # texts of times in other formats, by format
    question: str = ""  # why the format is in doubt, with the option that decides it
    oddity: str = ""
    examples: tuple[str, ...] = ()
    variants: tuple[tuple[str, ...], ...] = ()  # spellings that differ only in case or spaces


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """The formats that the caller gave."""

    times: dict[str, str] = {}
    numbers: dict[str, str] = {}
    nulls: tuple[str, ...] | None = None  # the words for null; None: the usual ones that the file has
    categories: tuple[str, ...] = ()  # columns that are categories, whatever their values look like


def kind_of_column(connection: DuckDBPyConnection, name: str, choices: Choices) -> Kind:
    """Guess the type of a column of the table `raw` from its different texts.

    Raises:
        Misuse: A given format is invalid, or a given number format fits too few values.
    """
    q = quoted(name)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE texts AS SELECT {q} AS c, trim({q}) AS t, count(*) AS n FROM raw "
        f"WHERE {q} IS NOT NULL GROUP BY 1"
    )
    words = WORDS if choices.nulls is None else choices.nulls
    listed = ", ".join(map(literal, words)) or "NULL"
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE filled AS SELECT * FROM texts "
        f"WHERE coalesce(lower(t) NOT IN ({listed}), true) AND t <> ''"
    )
    known = ", ".join(map(literal, {*words, *NULL_WORDS} - {""}))
    found = connection.execute(
        f"SELECT lower(t), sum(n)::BIGINT FROM texts WHERE lower(t) IN ({known}) GROUP BY 1 ORDER BY 1"
    ).fetchall()
    sample = _sample(connection)
    examples = tuple(dict.fromkeys(sample))[:3]
    typed = _typed(connection, name, [text for text in sample if text.lower() not in NULL_WORDS], choices)
    kind = typed or Kind(dtype="str", variants=_variants(connection))
    nulls = {null_form(str(word)): int(n) for word, n in found if kind.dtype != "str" or word in words}
    return msgspec.structs.replace(kind, nulls=nulls, examples=examples)


def _sample(connection: DuckDBPyConnection) -> list[str]:
    """Return at most `_SAMPLE` different texts of the column; if 90 % of the rows have frequent texts, only these."""
    found = connection.execute(
        f"SELECT t, sum(n)::BIGINT FROM filled GROUP BY t ORDER BY hash(t) LIMIT {_SAMPLE}"
    ).fetchall()
    rows = sum(n for _, n in found)
    frequent = [(str(t), n) for t, n in found if n > _FEW * rows]
    few = sum(n for _, n in frequent) >= 0.9 * rows
    return [text for text, _ in frequent] if few else [str(t) for t, _ in found]


def _typed(connection: DuckDBPyConnection, name: str, sample: Sequence[str], choices: Choices) -> Kind | None:
    """Return the type of a column of numbers, times or bools, or of texts most of which are such; None: other texts."""
    if name in choices.times:
        return _times(connection, choices.times[name], given=True)
    if name in choices.numbers:
        given = _numbers(connection, choices.numbers[name])
        if given is None or given.dtype == "str":
            shown = ", ".join(map(repr, sample[:3]))
            form = f"--number {name}={choices.numbers[name]}"
            raise Misuse(f"{form}: too many values are written otherwise, such as {shown}.")
        return given
    if not sample or name in choices.categories:
        return None
    lowered = {text.lower() for text in sample}
    if lowered <= BOOL_WORDS.keys() and not all(map(str.isdigit, lowered)):
        return Kind(dtype="bool")
    if all(len(text) == 8 and text.isdigit() and "1900" < text[:4] < "2100" for text in sample) and all(
        map(reader(ISO), sample)
    ):
        return _times(connection, ISO)
    numbers = numbers_in(sample)
    if numbers is not None:
        if numbers.doubtful is not None and _stays_doubtful(connection):
            one_way, other = numbers.doubtful
            return Kind(
                dtype="float",
                number_format=numbers.example,
                question=f"the sign in {sample[0]!r} may separate thousands or decimals. Say how the column writes "
                f"1234.56: --number {quote(f'{name}={one_way}')} or --number {quote(f'{name}={other}')}",
            )
        return _numbers(connection, numbers.example)
    times = times_in(sample)
    if times is None or 2 * times.fits <= len(sample):
        return None
    if times.doubtful is not None and _fit_alike(connection, times.written, times.doubtful):
        return Kind(
            dtype="time",
            time_format=times.written,
            question=f"{sample[0]!r} may have the day or the month first. Say which: "
            f"--time-format {quote(f'{name}={times.written}')} or --time-format {quote(f'{name}={times.doubtful}')}",
        )
    return _times(connection, times.written)


def _numbers(connection: DuckDBPyConnection, example: str | None) -> Kind | None:
    pattern = f"{_FLOAT}|{_FLOAT}" if example is None else number_format(example).pattern
    listed = ", ".join(map(literal, NULL_WORDS))
    share, misfits = _misfits(connection, f"regexp_full_match(t, {literal(pattern)}) OR lower(t) IN ({listed})")
    codes = (
        example is None
        and one(connection, "SELECT count(*) FROM filled WHERE regexp_matches(t, '^[+-]?(0[0-9]|[0-9]{19,})')")[0]
    )
    if share > _FEW or codes:
        looks = f"{100 * (1 - share):.1f} % of its values are numbers, others are not: {', '.join(map(repr, misfits))}"
        return Kind(dtype="str", oddity=looks) if share < 1 - _MANY else None
    fits = f"regexp_full_match(t, {literal(_INT)}) OR lower(t) IN ({listed})"
    if example is None:
        whole = _misfits(connection, f"({fits}) OR NOT regexp_full_match(t, {literal(pattern)})")[0] == 0
    else:
        decimal = number_format(example).decimal
        whole = not decimal or _misfits(connection, f"NOT contains(t, {literal(decimal)})")[0] == 0
    return Kind(dtype="int" if whole else "float", number_format=example)


def _times(connection: DuckDBPyConnection, written: str, *, given: bool = False) -> Kind:
    """Return the kind of a column of times in the format `written`, with the texts that have other known formats.

    If too many values do not fit `written`, and none of these has another known format, the kind is text. But if the
    caller gave the format, the kind is always that of times.
    """
    listed = ", ".join(map(literal, NULL_WORDS))
    if written == ISO:
        test = f"regexp_full_match(t, {literal(ISO_8601)}) AND TRY_CAST(t AS TIMESTAMPTZ) IS NOT NULL"
    else:
        reader(written)  # raises an error if the format is invalid
        test = f"try_strptime(t, {literal(written)}) IS NOT NULL" if "%" in written else "false"
    try:
        connection.execute(f"CREATE OR REPLACE TEMP TABLE odd AS SELECT t, n FROM filled WHERE NOT ({test})")
    except connection_error():  # DuckDB does not know some directive
        connection.execute("CREATE OR REPLACE TEMP TABLE odd AS SELECT t, n FROM filled")
    odd = connection.execute(f"SELECT t, n FROM odd WHERE lower(t) NOT IN ({listed}) ORDER BY n DESC, t").fetchall()
    counts = {str(t): int(n) for t, n in odd if not reader(written)(str(t))}
    misfits = list(counts)
    mixed = {form or "ISO 8601": texts for form, texts in others_in(misfits[:_SAMPLE]).items()}
    (rows,) = one(connection, "SELECT coalesce(sum(n), 0) FROM filled")
    share = sum(counts.values()) / max(1, int(rows))
    if share > _FEW and not mixed and not given:
        shown = ", ".join(map(repr, misfits[:_SHOWN]))
        return Kind(dtype="str", oddity=f"{100 * (1 - share):.1f} % of its values are times, others are not: {shown}")
    return Kind(dtype="time", time_format=written or None, mixed=mixed)


def _fit_alike(connection: DuckDBPyConnection, one_way: str, other: str) -> bool:
    """Return whether two formats of times fit equally many texts of the whole file."""
    try:
        first, second = one(
            connection,
            f"SELECT count(try_strptime(t, {literal(one_way)})), count(try_strptime(t, {literal(other)})) FROM filled",
        )
    except connection_error():
        return True
    return bool(first == second)


def _stays_doubtful(connection: DuckDBPyConnection) -> bool:
    """Return whether no number in the whole file shows which sign separates decimals."""
    decided = "regexp_matches(t, '(^|[^0-9.,])0[.,]|[.,][0-9]{1,2}([^0-9]|$)|[.,][0-9]{4}|(^|[^0-9.,])[0-9]{4}')"
    return bool(one(connection, f"SELECT count(*) FROM filled WHERE {decided}")[0] == 0)


def _misfits(connection: DuckDBPyConnection, fits: str) -> tuple[float, tuple[str, ...]]:
    """Return the share of values for which a condition in SQL does not hold, and some of their texts."""
    rows, bad = one(connection, f"SELECT coalesce(sum(n), 0), coalesce(sum(n) FILTER (NOT ({fits})), 0) FROM filled")
    if not bad:
        return 0.0, ()
    sql = f"SELECT t FROM filled WHERE NOT ({fits}) ORDER BY n DESC, t LIMIT {_SHOWN}"
    return int(bad) / int(rows), tuple(str(t) for (t,) in connection.execute(sql).fetchall())


def _variants(connection: DuckDBPyConnection) -> tuple[tuple[str, ...], ...]:
    """Return spellings that differ only in case or spaces, those of the most frequent value first."""
    different, rows = one(connection, "SELECT count(*), coalesce(sum(n), 0) FROM filled")
    if 2 * different > rows:  # most rows have a text of their own
        return ()
    found = connection.execute(
        "SELECT list(c ORDER BY n DESC, c), sum(n) AS s FROM filled "
        r"GROUP BY lower(regexp_replace(t, '\s+', ' ', 'g')) "
        "HAVING count(*) > 1 ORDER BY s DESC LIMIT 1000"
    ).fetchall()
    return tuple(tuple(map(str, spellings)) for spellings, _ in found)


def null_words(kinds: Mapping[str, Kind]) -> tuple[str, ...]:
    """Return the words for null that a source must declare, because they do not mean null by default."""
    needed = set()
    for kind in kinds.values():
        needed |= {word for word in kind.nulls if kind.dtype == "str" or word not in NULL_WORDS}
    return tuple(sorted(needed))


def check_doubts(kinds: Mapping[str, Kind], file: str) -> None:
    """Refuse columns whose format is in doubt.

    Raises:
        Misuse: Numbers or times may be read in two ways.
    """
    doubts = [f"column {name!r}: {kind.question}" for name, kind in kinds.items() if kind.question]
    if doubts:
        raise Misuse(f"file {file}: " + "; ".join(doubts))
