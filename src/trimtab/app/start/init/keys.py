"""The key of a row: a column, or several columns together, and the entity whose rows recur."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from trimtab.app.start.init.file.table import DataTable
from trimtab.app.start.init.file.texts import quoted
from trimtab.app.start.init.options import ROW, Assumption, Options
from trimtab.app.start.init.roles import existing, listed
from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse

KEY_NAME = re.compile(r"(?i)(^|[_\W])(id|key|uuid|guid|no|nr|number)$|[a-z]I[dD]$|nr$")
_CORRECTED = 1.05  # with up to this many rows of a key, rows with the same key are corrections of one row
_SHOWN = 5


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """The key of a row."""

    name: str
    dtype: Dtype
    of: tuple[str, ...] = ()  # the columns that the key is made of; empty if it is a column of the file
    entity: tuple[str, ...] = ()  # the columns whose values recur, and whose past labels are features


class Repeats(msgspec.Struct, frozen=True):
    """How often rows have equal values in some columns. Rows that are equal in every column count once."""

    rows: int
    distinct: int

    @property
    def unique(self) -> bool:
        """Whether no two rows have equal values."""
        return self.rows == self.distinct

    @property
    def nearly_unique(self) -> bool:
        """Whether so few rows have the values of another row that they may be corrections of it."""
        return self.rows <= _CORRECTED * self.distinct


def repeats(table: DataTable, names: Sequence[str]) -> Repeats:
    """Return how often rows have equal values in some columns. Rows without a value in one of them do not count."""
    there = " AND ".join(f"{quoted(name)} IS NOT NULL" for name in names)
    values = ", ".join(map(quoted, names))
    rows, distinct = table.one(
        "SELECT count(*), count(DISTINCT k) FROM "
        f'(SELECT DISTINCT "@same", hash({values}) AS k FROM data WHERE {there})'
    )
    return Repeats(int(rows), int(distinct))


def row_key(table: DataTable, options: Options, time: str, label: str, assumed: list[Assumption]) -> Key:
    """Return the key of a row.

    Raises:
        NotFound: A column that is named does not exist.
        Misuse: No columns identify a row, or several may, or the columns that are named do not.
    """
    if options.key is not None:
        return _named(table, options.key, time, label, assumed)
    usable = [c for c in table.columns.values() if c.name not in (time, label) and c.dtype in ("str", "int")]
    own = [c.name for c in usable if c.distinct * 1.02 >= c.present and repeats(table, [c.name]).unique]
    own = [name for name in own if table.columns[name].present >= 0.99 * table.rows]
    named = [c.name for c in usable if KEY_NAME.search(c.name)]
    both = [name for name in own if name in named]
    series = [] if both else _numbered_series(table, time, own, [c.name for c in usable])
    guess = both or series or own or named or _series(table, time, [c.name for c in usable])
    if len(guess) != 1:
        raise Misuse(
            f"file {table.file}: found no single column that identifies a row or its entity. Candidates: "
            f"{listed(guess or [c.name for c in usable]) or 'none'}. "
            f"Name it: --key COLUMN (several with commas between them, or --key {ROW} for all columns together)"
        )
    found = repeats(table, guess)
    if found.unique:
        assumed.append(Assumption("key", f"{guess[0]!r} identifies a row: no value has two different rows", "--key"))
        return _column(table, guess[0])
    if found.nearly_unique:
        again = found.rows - found.distinct
        raise Misuse(
            f"file {table.file}: {again:,} rows have a {guess[0]!r} that another row has with other values: "
            f"{_conflicts(table, guess)}. If these are corrections, of which the newest counts, say so: --key "
            f"{guess[0]}. If they are rows of their own, name more columns: --key {guess[0]},COLUMN"
        )
    return _entity(table, guess[0], time, assumed)


def _series(table: DataTable, time: str, names: Sequence[str]) -> list[str]:
    """Return the columns that each identify a row together with a time that many rows have."""
    if 2 * table.columns[time].distinct > table.rows:
        return []
    recurring = [name for name in names if 2 * table.columns[name].distinct < table.rows]
    return [name for name in recurring if repeats(table, (name, time)).unique]


def _numbered_series(table: DataTable, time: str, own: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the column of a series, if the columns that identify a row only number the rows of the file.

    The series has a row for most pairs of a value and a time. A few pairs may have several rows.
    """
    q = [f'count(DISTINCT {quoted(name)}::HUGEINT - "@line")' for name in own if table.columns[name].dtype == "int"]
    if not own or len(q) < len(own) or set(table.one(f"SELECT {', '.join(q)} FROM data")) != {1}:
        return []
    pairs = {name: table.columns[name].distinct * table.columns[time].distinct for name in names if name not in own}
    filled = [name for name, count in pairs.items() if count < 2 * table.rows]
    return [name for name in filled if repeats(table, (name, time)).nearly_unique]


def _named(table: DataTable, given: str, time: str, label: str, assumed: list[Assumption]) -> Key:
    if given == ROW and ROW not in table.columns:
        of = tuple(name for name, c in table.columns.items() if name != label and c.dtype is not None and c.present)
        of = tuple(name for name in of if table.columns[name].present == table.rows)
        _check_unique(table, of, "--key row", label)
        assumed.append(Assumption("key", f"a row is identified by all of {listed(of)} together", "--key"))
        return Key(name=_new_name(table), dtype="str", of=of)
    names = [given] if given in table.columns else [name.strip() for name in given.split(",")]
    for name in names:
        existing(table, "--key", name)
        if name == label or (name == time and len(names) == 1):
            raise Misuse(f"--key {name!r} is already the {'time' if name == time else 'label'}. Name another column.")
        if table.columns[name].dtype not in ("str", "int") and name != time:
            raise Misuse(
                f"column {name!r} is {table.columns[name].dtype or 'a list'}; needed text or a whole number. "
                f"Choose another --key, or --key {ROW} for all columns together."
            )
    if len(names) > 1:
        found = repeats(table, names)
        if not found.nearly_unique:
            _check_unique(table, names, f"--key {given}", label)
        elif not found.unique:
            assumed.append(_corrections(table, found, names))
        entity = tuple(name for name in names if name != time)
        return Key(name=_new_name(table), dtype="str", of=tuple(names), entity=entity if time in names else ())
    found = repeats(table, names)
    if found.unique:
        return _column(table, names[0])
    if found.nearly_unique:
        assumed.append(_corrections(table, found, names))
        return _column(table, names[0])
    return _entity(table, names[0], time, assumed)


def _corrections(table: DataTable, found: Repeats, names: Sequence[str]) -> Assumption:
    count = found.rows - found.distinct
    said = (
        f"{count:,} rows correct a row with the same {listed(names)}; the last one counts: {_conflicts(table, names)}"
    )
    return Assumption("corrections", said, "--key")


def _column(table: DataTable, name: str) -> Key:
    return Key(name=name, dtype=table.columns[name].dtype or "str")


def _entity(table: DataTable, name: str, time: str, assumed: list[Assumption]) -> Key:
    """Return the key of rows of a recurring entity: the entity and the time together."""
    of = (name, time)
    found = repeats(table, of)
    if not found.unique:
        corrected = f"If these are corrections, of which the last one counts, say so: --key {name},{time}. Or name more"
        raise Misuse(
            f"file {table.file}: {name!r} recurs, and {name!r} and {time!r} together do not identify a row: "
            f"{found.rows - found.distinct:,} rows have those of another row: {_conflicts(table, of)}. "
            f"{corrected if found.nearly_unique else 'Name more'} columns: --key {name},{time},COLUMN, or --key {ROW} "
            "for all columns together"
        )
    key = _new_name(table)
    profile = table.columns[name]
    assumed.append(
        Assumption(
            "key",
            f"{name!r} recurs ({profile.distinct:,} values in {table.rows:,} rows), so a row is identified by {key!r}, "
            f"made of {name!r} and {time!r}; past labels of the same {name!r} become features",
            "--key",
        )
    )
    return Key(name=key, dtype="str", of=of, entity=(name,))


def _check_unique(table: DataTable, of: Sequence[str], option: str, label: str) -> None:
    found = repeats(table, of)
    if not found.unique:
        raise Misuse(
            f"{option}: {found.rows - found.distinct:,} rows have the values of another row there, and differ in other "
            f"columns (or in {label!r}): {_conflicts(table, of)}. Name more columns, or remove such rows."
        )


def _conflicts(table: DataTable, names: Sequence[str]) -> str:
    """Return the lines of some rows that differ and have equal values in some columns."""
    values, there = ", ".join(map(quoted, names)), " AND ".join(f"{quoted(name)} IS NOT NULL" for name in names)
    found = table.all(
        f'SELECT list_sort(list("@line"))[:2] AS lines FROM (SELECT hash({values}) AS k, "@same", min("@line") AS '
        f'"@line" FROM data WHERE {there} GROUP BY 1, 2) GROUP BY k HAVING count(*) > 1 ORDER BY 1 LIMIT {_SHOWN}'
    )
    return "lines " + "; ".join(" and ".join(str(line) for line in lines) for (lines,) in found)


def _new_name(table: DataTable) -> str:
    taken, name, number = {name.lower() for name in (*table.columns, *table.left_out)}, "row_id", 1
    while name in taken:
        number += 1
        name = f"row_id_{number}"
    return name
