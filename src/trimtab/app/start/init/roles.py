"""The roles of columns: the time of a row, its label, and when the label became known."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence

from trimtab.app.start.init.file.table import DataTable, Profile, columns_in_words, mixed_times
from trimtab.app.start.init.file.texts import literal, quoted
from trimtab.app.start.init.options import NONE, Assumption, Options
from trimtab.core.errors import Misuse, NotFound

_TIMES = re.compile(
    r"(?i)^(at|time|timestamp|datetime|date|when|ts|event_?time|created_?at|occurred_?at|.*_(at|time|ts))$"
)
_LABELS = re.compile(
    r"(?i)^(label|target|y|outcome|class|response|is_?fraud|fraud|churn(ed)?|default(ed)?|clicked|converted)$"
)
_KNOWN = re.compile(
    r"(?i)^(label|labell?ed|known|outcome|resolved|decided|settled|confirmed|closed|result)[_ ]?(known[_ ]?)?"
    r"(at|on|date|time)$"
)
# values of a label that say that there is no outcome yet
_STATES = re.compile(r"(?i)^(open|opened|pending|in[ _-]progress|ongoing|running|unresolved|undecided|waiting)$")
_MOST_EARLY = 0.001  # at most this share of labels may be dated before their row
# if at least this share of rows has both a time and a label (or a label of 1), or neither, the times are known-at times
_SAME = 0.995


def listed(columns: Iterable[str]) -> str:
    """Return at most a dozen names of columns for a message."""
    names = list(columns)
    return ", ".join(map(repr, names[:12])) + (", ..." if len(names) > 12 else "")


def existing(table: DataTable, option: str, name: str) -> str:
    """Return the name of a column that an option names.

    Raises:
        NotFound: There is no such column.
        Misuse: A source cannot declare this column.
    """
    if name in table.left_out:
        raise Misuse(f"{option} {name!r}: the column {table.left_out[name]}.")
    if name not in table.columns:
        several = "," in name and table.columns.keys() >= {*name.split(",")}
        known = columns_in_words(table.file, name, list(table.columns))
        known = f"Give {option} once for each column." if several else known
        raise NotFound(f"{option} {name!r}: no such column. {known}")
    return name


def time_column(table: DataTable, options: Options, assumed: list[Assumption]) -> str:
    """Return the column that says when a row happened.

    Raises:
        NotFound: The column that is named does not exist.
        Misuse: There is no such column, or several, or its values are no times.
    """
    columns = table.columns.values()
    if options.time is not None:
        time = existing(table, "--time", options.time)
    else:
        times = [c.name for c in columns if c.dtype == "time"]
        named = [c.name for c in columns if _TIMES.match(c.name) and c.dtype not in (None, "bool")]
        exact = times if len(times) == 1 else [n for n in times if n in named] or ([] if times else named)
        if len(exact) != 1:
            found = (
                f"several candidates: {listed(exact or times)}"
                if exact or times
                else ("no column that looks like a time")
            )
            raise Misuse(f"file {table.file}: found {found}. Name the time of a row: --time COLUMN")
        time = exact[0]
    profile = table.columns[time]
    if profile.dtype is None:
        raise Misuse(f"column {time!r} holds lists or structs, needed a time. Choose another --time.")
    if profile.kind.mixed:
        raise Misuse(mixed_times(table.file, time, profile.kind, table.bad))
    table.as_time(time)
    if table.columns[time].present == 0:
        raise Misuse(f"column {time!r} has no time in any row. Choose another --time.")
    written = table.columns[time].kind.time_format or "ISO 8601"
    assumed.append(Assumption("time", f"{time!r} is when a row happened", "--time"))
    assumed.append(
        Assumption("format", f"{time!r} is written as {written}, in UTC where it names no zone", "--time-format")
    )
    return time


def label_column(table: DataTable, options: Options, time: str, assumed: list[Assumption]) -> str:
    """Return the column to predict.

    Raises:
        NotFound: The column that is named does not exist.
        Misuse: There are several candidates or none, or the column is a time.
    """
    if options.label is not None:
        label = existing(table, "--label", options.label)
        if label == time:
            raise Misuse(f"--label {label!r} is the time column. Name the column to predict: --label COLUMN")
        if table.columns[label].dtype in (None, "time"):
            raise Misuse(
                f"column {label!r} is {table.columns[label].dtype or 'a list'}, needed a number or a class. "
                "Choose another --label."
            )
        return label
    usable = [c for c in table.columns.values() if c.name != time and c.dtype not in (None, "time") and c.distinct > 1]
    named = [c.name for c in usable if _LABELS.match(c.name)]
    keys = [c.name for c in usable if c.dtype in ("str", "int") and _keys_rows(table, c.name, time)]
    two = [c.name for c in usable if c.distinct == 2 and c.name not in keys]
    guess = named if len(named) == 1 else two if len(two) == 1 and not named else []
    numbers = [c.name for c in usable if c.dtype == "float" or (keys and c.dtype == "int" and c.name not in keys)]
    # for example, sales and holidays of each shop: either may be the label, and the other one a feature
    if keys and not named and two and numbers:
        guess, two = [], [*two, *(name for name in numbers if name not in two)]
    others = {c.dtype for c in usable if c.name not in (*numbers, *keys)}
    only = not guess and not named and not two and len(numbers) == 1 and others <= {"str"}
    guess = numbers if only else guess
    if not guess:
        candidates = named or two or [c.name for c in usable]
        raise Misuse(
            f"file {table.file}: found several columns that may be the label, or none. Candidates: "
            f"{listed(candidates) or 'none'}. Name it: --label COLUMN"
        )
    why = "its name says so" if named else "it is the only number" if only else "it is the only column with two values"
    assumed.append(Assumption("label", f"{guess[0]!r} is what to predict: {why}", "--label"))
    return guess[0]


def _keys_rows(table: DataTable, name: str, time: str) -> bool:
    """Return whether a column distinguishes rows of the same time, as the shop does in a panel of shops.

    That is: no value occurs twice at the same time, at least half of all pairs of a value and a time have a row, and on
    average each time has at least two rows.
    """
    n, t = quoted(name), quoted(time)
    rows, times, values, pairs = table.one(
        f'SELECT count(DISTINCT "@same"), count(DISTINCT {t}), count(DISTINCT {n}), count(DISTINCT ({n}, {t})) '
        f"FROM data WHERE {n} IS NOT NULL AND {t} IS NOT NULL"
    )
    return bool(2 * times <= rows == pairs and 2 * rows >= values * times)


def known_column(
    table: DataTable, options: Options, time: str, label: str, positive: str, assumed: list[Assumption]
) -> str | None:
    """Return the column that says when a label became known, if there is one.

    Args:
        positive: The condition in SQL that a label counts as 1.
        assumed: The assumptions so far. Another one is appended.

    Raises:
        NotFound: The column that is named does not exist.
        Misuse: The column has no times, or there are several candidates. Or a value of the label may mean that
            it is not known yet.
    """
    if options.known_at is not None:
        if options.known_at == NONE and NONE not in table.columns:
            return None
        named = existing(table, "--known-at", options.known_at)
        table.as_time(named)
        if named == time:
            raise Misuse(f"--known-at {named!r} is the time of a row. Name the time of its label, or write `none`.")
        return named
    others = [c for c in table.columns.values() if c.dtype == "time" and c.name != time and c.present]
    _ask_about_states(table, others, time, label)
    found = {c.name: why for c in others if (why := _why_known(table, c, time, label, positive))}
    if len(found) > 1:
        raise Misuse(
            f"file {table.file}: found several columns that may say when {label!r} became known: {listed(found)}. Name "
            "one: --known-at COLUMN (or --known-at none)"
        )
    for name, why in found.items():
        assumed.append(Assumption("known at", f"{name!r} is when {label!r} became known: {why}", "--known-at"))
        return name
    return None


def _ask_about_states(table: DataTable, others: Sequence[Profile], time: str, label: str) -> None:
    """Refuse a text of the label that only newer rows have, if it may mean that the outcome is not known yet.

    This is assumed if the text is a word such as "open", or if the rows with the text are exactly those that have no
    value in a column of times.
    """
    t, q = quoted(time), quoted(label)
    if table.columns[label].dtype != "str" or table.columns[label].distinct < 3:
        return
    newer = f"HAVING min({t}) > (SELECT quantile_disc({t}, 0.5) FROM data)"
    for (value,) in table.all(f"SELECT {q} FROM data WHERE {q} IS NOT NULL GROUP BY 1 {newer} ORDER BY 1"):
        these = f"({q} IS NOT DISTINCT FROM {literal(value)})"
        same = {c.name: f"SELECT bool_and(({quoted(c.name)} IS NULL) = {these}) FROM data" for c in others}
        without = [name for name, query in same.items() if table.one(query)[0]]
        if without or _STATES.match(value):
            also = f", and in exactly those without {without[0]!r}" if without else ""
            nulls = shlex.quote(",".join([*table.nulls, value]))
            raise Misuse(
                f"file {table.file}: {value!r} stands in {label!r} in newer rows only{also}. If it means that the "
                f"outcome is not known yet, say so: --nulls={nulls}. If it is an outcome like the others: "
                "--known-at none, or --known-at COLUMN"
            )


def _why_known(table: DataTable, column: Profile, time: str, label: str, positive: str) -> str:
    """Return why a column of times seems to say when labels became known; "" if it does not."""
    k, t, q = quoted(column.name), quoted(time), quoted(label)
    early, as_label, as_positive, nulls, ones = table.one(
        f"SELECT avg(({k} < {t})::INT) FILTER ({k} IS NOT NULL AND {t} IS NOT NULL), "
        f"avg((({k} IS NULL) = ({q} IS NULL))::INT), avg((({k} IS NOT NULL) = coalesce({positive}, false))::INT), "
        f"count(*) - count({q}), count(*) FILTER ({positive}) FROM data"
    )
    if early is None or float(early) > _MOST_EARLY:
        return ""
    if nulls and float(as_label) >= _SAME:
        return "it is null in the same rows as the label"
    if ones and float(as_positive) >= _SAME and column.present < table.rows:
        return "it has a value where the label counts as 1; other labels are known after the wait"
    name = column.name.lower()
    if _KNOWN.match(name) or re.fullmatch(rf"{re.escape(label.lower())}_?(known_?)?(at|on|date|time)", name):
        return f"its name says so, and at most {100 * _MOST_EARLY:g} % of its times are before the row"
    return ""
