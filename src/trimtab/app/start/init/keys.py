"""The key of a row (a column, or several columns together), and the entity whose rows recur."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from shlex import quote

import msgspec

from trimtab.app.start.init.file.table import DataTable
from trimtab.app.start.init.file.texts import quoted
from trimtab.app.start.init.options import ROW, Assumption, Options
from trimtab.app.start.init.roles import existing, listed
from trimtab.app.start.init.steps import step_of
from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse

KEY_NAME = re.compile(r"(?i)(^|[_\W])(id|key|uuid|guid|no|nr|number)$|[a-z]I[dD]$|nr$")
_CORRECTED = 1.05  # if a key has at most this many rows on average, rows with the same key may correct each other
_SHOWN = 5
_MOST_COLUMNS = 8  # an entity of several columns is looked for among this many columns
SERIES = "series"  # the column that is added for a single series, with the same value in each row


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """The key of a row."""

    name: str
    dtype: Dtype
    of: tuple[str, ...] = ()  # the columns from which the key is made; empty if it is a column of the file
    entity: tuple[str, ...] = ()  # the columns whose values recur, and whose past labels are features


class Repeats(msgspec.Struct, frozen=True):
    """The number of rows, and of different values in some columns. Rows that are equal in every column count once."""

    rows: int
    distinct: int

    @property
    def unique(self) -> bool:
        """Whether no two rows have equal values."""
        return self.rows == self.distinct

    @property
    def corrects(self) -> bool:
        """Whether so few rows repeat another row's values that they may be corrections."""
        return self.rows <= _CORRECTED * self.distinct


def repeats(table: DataTable, names: Sequence[str]) -> Repeats:
    """Count the rows that have a value in each of these columns, and the different combinations of the values."""
    there = " AND ".join(f"{quoted(name)} IS NOT NULL" for name in names)
    values = ", ".join(map(quoted, names))
    rows, distinct = table.one(
        "SELECT count(*), count(DISTINCT k) FROM "
        f'(SELECT DISTINCT "@same", hash({values}) AS k FROM data WHERE {there})'
    )
    return Repeats(int(rows), int(distinct))


def row_key(table: DataTable, options: Options, time: str, label: str, assumed: list[Assumption]) -> Key:
    """Return the key of a row: the columns that the caller names, or a guess.

    The guess is the first of these that fits:

    1. the time, if the file is a single series;
    2. a column with a different value in each row, preferably one with a name such as "id";
    3. an entity of up to three columns, together with the time;
    4. a column with a name such as "id", together with the time;
    5. all columns but the label.

    But if the columns of 2 only number the rows, and none has a name such as "id", 3 is tried first. Then more than
    half of all pairs of an entity and a time must have a row.

    Raises:
        NotFound: A column that is named does not exist.
        Misuse: No columns identify a row, several columns may, or the named columns do not.
    """
    if options.key is not None:
        return _named(table, options.key, time, label, assumed)
    usable = [c for c in table.columns.values() if c.name not in (time, label) and c.dtype in ("str", "int")]
    (different,) = table.one('SELECT count(DISTINCT "@same") / count(*) FROM data')  # equal rows count once
    own = [c.name for c in usable if c.distinct * 1.02 >= c.present * different and repeats(table, [c.name]).unique]
    own = [name for name in own if table.columns[name].present >= 0.99 * table.rows]
    named = [c.name for c in usable if KEY_NAME.search(c.name)]
    both = [name for name in own if name in named]
    texts = [c.name for c in usable if c.dtype == "str" and c.distinct > 1]
    if not named and not texts and _single(table, time, label):
        return _single_key(table, time, assumed)
    names = [name for name in named or [c.name for c in usable] if 2 * table.columns[name].distinct < table.rows]
    numbered = not both and _number_rows(table, own)
    entities = [] if own and not numbered else _entities(table, time, names)
    if numbered:
        entities = [of for of in entities if _is_filled(table, of, time)]
    if len(entities) == 1:
        return _entity(table, entities[0], time, assumed)
    guess = both if both else own if own else named
    if not guess and not entities:
        return _all_columns(table, time, label, assumed)
    if len(guess) != 1:
        several = [" and ".join(map(repr, names)) for names in entities]
        what = "several entities" if several else "no single column"
        single = f", or --key {quote(time)} if all rows are one series" if repeats(table, (time,)).corrects else ""
        raise Misuse(
            f"file {table.file}: found {what} that may identify a row{' together with the time' * bool(several)}. "
            f"Candidates: {'; '.join(several) or listed(guess or [c.name for c in usable]) or 'none'}. "
            f"Name it: --key COLUMN (several with commas between them, or --key {ROW} for all columns together{single})"
        )
    found = repeats(table, guess)
    if found.unique:
        assumed.append(Assumption("key", f"{guess[0]!r} identifies a row: no value has two different rows", "--key"))
        return _column(table, guess[0])
    if found.corrects:
        again = found.rows - found.distinct
        raise Misuse(
            f"file {table.file}: {again:,} rows have the same {guess[0]!r} as another row, but differ otherwise: "
            f"{_conflicts(table, guess)}. If these are corrections, of which the newest counts, say so: --key "
            f"{quote(guess[0])}. If they are rows of their own, name more columns: --key {quote(guess[0] + ',COLUMN')}"
        )
    return _entity(table, guess, time, assumed)


def _entities(table: DataTable, time: str, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the smallest sets of columns that identify a row together with the time.

    A few rows may repeat another row's values. If there are more than half as many times as rows, the result is empty.
    """
    if 2 * table.columns[time].distinct > table.rows:
        return []
    for size in (1, 2, 3):
        found = [of for of in combinations(names[:_MOST_COLUMNS], size) if repeats(table, (*of, time)).corrects]
        if found:
            return found
    return []


def _single(table: DataTable, time: str, label: str) -> bool:
    """Return whether the rows are a single series: one number at each of many regular times."""
    number = table.columns[label].dtype in ("float", "int") and table.columns[label].distinct > 2
    return number and repeats(table, (time,)).corrects and step_of(table, time, ()) is not None


def _single_key(table: DataTable, time: str, assumed: list[Assumption], *, named: bool = False) -> Key:
    """Return the key of rows that are one series. A column with a single value is added, by which lags are computed.

    Raises:
        Misuse: Two rows have the same time, and the caller has not said that one corrects the other.
    """
    found = repeats(table, (time,))
    if not found.unique and not (named and found.corrects):
        raise Misuse(_doubles(table, (time,), found, time))
    _say_corrections(found, time, assumed)
    series = _new_name(table, SERIES)
    table.add_constant(series)
    assumed.append(
        Assumption(
            "key",
            f"all rows are one series, with one row at each {time!r}; past labels become features, with the help of a "
            f"new column {series!r} that has the same value in each row",
            "--key",
        )
    )
    return Key(name=_new_name(table), dtype="str", of=(time,), entity=(series,))


def _all_columns(table: DataTable, time: str, label: str, assumed: list[Assumption]) -> Key:
    """Return the key that is made of the time and all columns without nulls, except the label.

    The time belongs to the key even if a few rows have none, because such rows go to quarantine.

    Raises:
        Misuse: Too many rows repeat another row's values.
    """
    of = tuple(name for name, c in table.columns.items() if name != label and c.dtype is not None)
    of = tuple(name for name in of if name == time or table.columns[name].present == table.rows)
    found = repeats(table, of)
    if not found.corrects:
        _check_unique(table, of, "--key row", label)
    said = f"a row is identified by all of {listed(of)} together; if rows are about something that recurs, such as a "
    said += "customer, name its column, and its past labels become features"
    assumed.append(Assumption("key", said, "--key"))
    _say_corrections(found, "values in all of these columns", assumed)
    return Key(name=_new_name(table), dtype="str", of=of)


def _number_rows(table: DataTable, names: Sequence[str]) -> bool:
    """Return whether each of some columns only numbers the rows of the file."""
    if not names or any(table.columns[name].dtype != "int" for name in names):
        return False
    offsets = ", ".join(f'count(DISTINCT {quoted(name)}::HUGEINT - "@line")' for name in names)
    return set(table.one(f"SELECT {offsets} FROM data")) == {1}


def _is_filled(table: DataTable, entity: Sequence[str], time: str) -> bool:
    """Return whether more than half of all pairs of an entity and a time have a row."""
    values = ", ".join(map(quoted, entity))
    (entities,) = table.one(f"SELECT count(DISTINCT ({values})) FROM data")
    return bool(entities * table.columns[time].distinct < 2 * table.rows)


def _named(table: DataTable, given: str, time: str, label: str, assumed: list[Assumption]) -> Key:
    if given == ROW and ROW not in table.columns:
        return _all_columns(table, time, label, assumed)
    names = [given] if given in table.columns else [name.strip() for name in given.split(",")]
    for name in names:
        existing(table, "--key", name)
        if name == label:
            raise Misuse(f"--key {name!r} is already the label. Name another column.")
        if table.columns[name].dtype not in ("str", "int") and name != time:
            raise Misuse(
                f"column {name!r} is {table.columns[name].dtype or 'a list'}; needed text or a whole number. "
                f"Choose another --key, or --key {ROW} for all columns together."
            )
    if names == [time]:
        return _single_key(table, time, assumed, named=True)
    found = repeats(table, names)
    if time in names:
        return _entity(table, [name for name in names if name != time], time, assumed, named=True)
    if len(names) > 1:
        if not found.corrects:
            return _entity(table, names, time, assumed)
        _check_unique(table, names, f"--key {given}", label)
        return Key(name=_new_name(table), dtype="str", of=tuple(names))
    if found.unique:
        return _column(table, names[0])
    if found.corrects:
        _say_corrections(found, names[0], assumed)
        return _column(table, names[0])
    return _entity(table, names, time, assumed)


def _column(table: DataTable, name: str) -> Key:
    return Key(name=name, dtype=table.columns[name].dtype or "str")


def _entity(
    table: DataTable, names: Sequence[str], time: str, assumed: list[Assumption], *, named: bool = False
) -> Key:
    """Return the key of rows of a recurring entity: the columns of the entity and the time together.

    Args:
        assumed: The assumptions so far. Others are appended.
        named: Whether the caller named the time, too, so that rows with the same values are corrections.

    Raises:
        Misuse: The columns do not identify a row.
    """
    of, listed_names = (*names, time), " and ".join(map(repr, names))
    found = repeats(table, of)
    if not found.unique and not (named and found.corrects):
        raise Misuse(_doubles(table, of, found, time))
    _say_corrections(found, f"{', '.join(names)} and {time}", assumed)
    key = _new_name(table)
    (values,) = table.one(f"SELECT count(DISTINCT ({', '.join(map(quoted, names))})) FROM data")
    recurs = "recurs" if len(names) == 1 else "recur together"
    assumed.append(
        Assumption(
            "key",
            f"{listed_names} {recurs} ({int(values):,} values in {table.rows:,} rows), so a row is identified by "
            f"{key!r}, made of {listed_names} and {time!r}; past labels of the same {listed_names} become features",
            "--key",
        )
    )
    return Key(name=key, dtype="str", of=of, entity=tuple(names))


def _doubles(table: DataTable, of: Sequence[str], found: Repeats, time: str) -> str:
    """Return the message that some rows have the same entity and time, but other values."""
    names, again = " and ".join(map(repr, of)), found.rows - found.distinct
    rows = "1 row has" if again == 1 else f"{again:,} rows have"
    together = "together do not identify" if len(of) > 1 else "does not identify"
    start = f"file {table.file}: {names} {together} a row: {rows} the same values there as another row, but differ "
    start += f"otherwise: {_conflicts(table, of)}. "
    if found.corrects:
        start += "If these are corrections, of which the last one counts, say so: "
        start += f"--key {quote(','.join(of))}. Otherwise name "
    more = quote(",".join([*(name for name in of if name != time), time, "COLUMN"]))
    return (
        f"{start}{'' if found.corrects else 'Name '}more columns: --key {more}, or --key {ROW} for all columns together"
    )


def _say_corrections(found: Repeats, names: str, assumed: list[Assumption]) -> None:
    if not found.unique:
        again = found.rows - found.distinct
        rows = "1 row corrects" if again == 1 else f"{again:,} rows correct"
        said = f"{rows} a row with the same {names}; the last one counts"
        assumed.append(Assumption("corrections", said, "--key"))


def _check_unique(table: DataTable, of: Sequence[str], option: str, label: str) -> None:
    found = repeats(table, of)
    if not found.unique:
        raise Misuse(
            f"{option}: {found.rows - found.distinct:,} rows have the same values in these columns as another row, but "
            f"differ in others (or in {label!r}): {_conflicts(table, of)}. Name more columns, or remove such rows."
        )


def _conflicts(table: DataTable, names: Sequence[str]) -> str:
    """Return the lines of some rows that differ, but have equal values in the given columns."""
    values, there = ", ".join(map(quoted, names)), " AND ".join(f"{quoted(name)} IS NOT NULL" for name in names)
    found = table.all(
        f'SELECT list_sort(list("@line"))[:2] AS lines FROM (SELECT hash({values}) AS k, "@same", min("@line") AS '
        f'"@line" FROM data WHERE {there} GROUP BY 1, 2) GROUP BY k HAVING count(*) > 1 ORDER BY 1 LIMIT {_SHOWN}'
    )
    return "lines " + "; ".join(" and ".join(str(line) for line in lines) for (lines,) in found)


def _new_name(table: DataTable, wanted: str = "row_id") -> str:
    taken, name, number = {name.lower() for name in (*table.columns, *table.left_out)}, wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    return name
