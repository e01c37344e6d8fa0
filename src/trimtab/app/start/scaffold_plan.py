"""The roles of columns: time, key, label and features. A role is guessed only if one column fits."""

from __future__ import annotations

import json
import re
from typing import Literal

import msgspec

from trimtab.app.start.scaffold_table import DataTable, Profile, literal, quoted, unique
from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.time import DAY_US, duration_us, format_time

Estimator = Literal["auto", "linear", "trees"]

ROW = "row"  # as the value of --key: number the rows
_TIMES = re.compile(
    r"(?i)^(at|time|timestamp|datetime|date|when|ts|event_?time|created_?at|occurred_?at|.*_(at|time|ts))$"
)
_KEYS = re.compile(r"(?i)(^|[_\W])(id|key|uuid|guid|no|nr|number)$|[a-z]I[dD]$")
_LABELS = re.compile(
    r"(?i)^(label|target|y|outcome|class|response|is_?fraud|fraud|churn(ed)?|default(ed)?|clicked|converted)$"
)
_POSITIVE = ("yes", "y", "true", "t", "1", "positive", "pos", "good", "success", "fraud", "churned", "won")
_NEGATIVE = ("no", "n", "false", "f", "0", "negative", "neg", "bad", "failure", "legit", "stayed", "lost")
_CATEGORIES = 200  # a text column with more different values is not a category
_MOST_CLASSES = 20  # the most classes of a text label, as each class needs enough rows
_FEW_ROWS = 50


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the caller. An option that is None is guessed."""

    time: str | None = None
    key: str | None = None
    label: str | None = None
    positive: str | None = None  # the value of the label that counts as 1
    time_format: str | None = None
    wait: str = "1d"  # the time from a row until its label is known
    estimator: Estimator = "auto"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The names, columns and settings that the files of the new project declare."""

    name: str  # the name of the project and of the request
    model: str
    time: str
    key: str  # the key of a row: a column of the data, or a new column
    key_dtype: Dtype
    key_sql: str
    entity: str | None  # the column with recurring values, if rows have no key of their own
    entity_dtype: Dtype
    label: str
    label_dtype: Dtype
    label_value: str | None  # the value, in Python, that counts as 1; None: the column is the label
    binary: bool
    classes: tuple[str, ...]  # the classes, if the label has several, the most frequent first
    features: tuple[Profile, ...]
    left_out: dict[str, str]  # the columns left out, each with the reason
    has_hours: bool  # whether the times of day differ
    window: str  # the window of the gate
    calibration: float  # of the gate: the random error of the mean label in the window
    wait: str
    trees: bool
    rows: int
    notes: tuple[str, ...]  # what was guessed and changed, as text

    @property
    def labels(self) -> str:
        """The name of the label's source."""
        return f"{self.name[:56]}_labels"


def plan(table: DataTable, options: Options) -> Plan:
    """Decide the role of each column.

    Raises:
        NotFound: A column that is named does not exist.
        Misuse: A role cannot be guessed, or a column does not fit its role. The message names the candidates.
    """
    for role in ("time", "key", "label"):
        column = getattr(options, role)
        if column is not None and column not in table.columns and column not in table.renamed:
            if role == "key" and column == ROW:
                continue
            raise NotFound(f"--{role} {column!r}: no such column. {table.file.name} has {', '.join(table.columns)}.")
    duration_us(options.wait)
    notes = [f"{old!r} is called {new!r} here: its own name is taken." for old, new in table.renamed.items()]
    time = _time(table, options, notes)
    label = _label(table, options, time, notes)
    key = _key(table, options, time, label, notes)
    classes = _classes(table, label, options.positive, notes)
    value, binary = (None, False) if classes else _label_value(table, label, options.positive, notes)
    key_name, key_dtype, key_sql, entity = _row_key(table, key, time, notes)
    features, left_out = _features(table, {time, label} | ({key} if key else set()))
    if not features:
        raise Misuse(
            f"file {table.file}: found no column left for features: "
            + "; ".join(f"{n!r} {w}" for n, w in left_out.items())
        )
    q = quoted(time)
    low, high, days = table.one(
        f"SELECT epoch_us(min({q})), epoch_us(max({q})), count(DISTINCT {q}) > count(DISTINCT {q}::DATE) FROM data"
    )
    span_us = int(high) - int(low)
    window = _window(span_us)
    if span_us < 2 * duration_us(window):
        days = span_us / DAY_US
        notes.append(
            f"The rows span {days:.1f} days; a version is judged on {window}, so load more data before you train."
        )
    name = slug(re.sub(r"(\.(csv|tsv|parquet|gz))+$", "", table.file.name, flags=re.IGNORECASE), "project")
    return Plan(
        name=name,
        model=unique(slug(label, "model"), {name}),
        time=time,
        key=key_name,
        key_dtype=key_dtype,
        key_sql=key_sql,
        entity=entity,
        entity_dtype=(table.columns[entity].dtype if entity else None) or "str",
        label=label,
        label_dtype=table.columns[label].dtype or "str",
        label_value=value,
        binary=binary,
        classes=classes,
        features=tuple(features),
        left_out=left_out,
        has_hours=bool(days),
        window=window,
        calibration=_calibration(table, time, label, value, binary, classes, duration_us(window)),
        wait=options.wait,
        trees=_trees(options.estimator),
        rows=table.rows,
        notes=(*notes, f"{table.rows:,} rows from {format_time(int(low))} to {format_time(int(high))}."),
    )


def slug(text: str, otherwise: str) -> str:
    """Return a name of the form that definitions need: a letter, then a-z, 0-9 and _.

    >>> slug("Days since 1st order (%)", "x"), slug("2fast", "x"), slug("金額", "x")
    ('days_since_1st_order', 'x_2fast', 'x')
    """
    plain = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    if plain and not plain[0].isalpha():
        plain = f"{otherwise}_{plain}"
    return plain[:56].strip("_") or otherwise


def _named(table: DataTable, column: str) -> str:
    return table.renamed.get(column, column)


def _list(columns: list[str]) -> str:
    return ", ".join(map(repr, columns[:12])) + (", ..." if len(columns) > 12 else "")


def _time(table: DataTable, options: Options, notes: list[str]) -> str:
    if options.time is not None:
        time = _named(table, options.time)
    else:
        times = [c.name for c in table.columns.values() if c.dtype == "time"]
        times = times or [c.name for c in table.columns.values() if c.dtype == "str" and table.holds_times(c.name)]
        named = [c.name for c in table.columns.values() if _TIMES.match(c.name) and c.dtype not in (None, "bool")]
        exact = times if len(times) == 1 else [n for n in times if n in named] or ([] if times else named)
        if len(exact) != 1:
            found = (
                f"several candidates: {_list(exact or times)}" if exact or times else "no column that looks like a time"
            )
            raise Misuse(f"file {table.file}: found {found}. Name the time of a row: --time COLUMN")
        time = exact[0]
        notes.append(f"time: {time!r} (guessed)")
    if table.columns[time].dtype is None:
        raise Misuse(f"column {time!r} holds lists or structs, needed a time. Choose another --time.")
    how = table.as_time(time, options.time_format)
    if how is not None:
        notes.append(f"{time!r} was read as {how}.")
    lacking = table.rows - table.columns[time].present
    if lacking == table.rows:
        raise Misuse(f"column {time!r} has no time in any row. Choose another --time.")
    if lacking:
        notes.append(f"{lacking:,} rows have no readable {time!r}: ingestion will quarantine them.")
    notes.append("Times without a time zone are read as UTC.")
    return time


def _label(table: DataTable, options: Options, time: str, notes: list[str]) -> str:
    if options.label is not None:
        label = _named(table, options.label)
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
    two = [c.name for c in usable if c.distinct == 2]
    guess = named if len(named) == 1 else two if len(two) == 1 and not named else []
    if not guess:
        candidates = named or two or [c.name for c in usable]
        raise Misuse(
            f"file {table.file}: found several columns to predict, or none. Candidates: {_list(candidates) or 'none'}. "
            "Name it: --label COLUMN"
        )
    notes.append(f"label: {guess[0]!r} (guessed)")
    return guess[0]


def _key(table: DataTable, options: Options, time: str, label: str, notes: list[str]) -> str | None:
    """Return the column that identifies a row or an entity, or None if the rows must be numbered."""
    if options.key is not None:
        if options.key == ROW and ROW not in table.columns:
            return None
        key = _named(table, options.key)
        if key in (time, label):
            raise Misuse(f"--key {key!r} is already the {'time' if key == time else 'label'}. Name another column.")
        if table.columns[key].dtype not in ("str", "int"):
            raise Misuse(
                f"column {key!r} is {table.columns[key].dtype or 'a list'}; needed text or a whole number. "
                f"Choose another --key, or --key {ROW} to number the rows."
            )
        return key
    usable = [c for c in table.columns.values() if c.name not in (time, label) and c.dtype in ("str", "int")]
    own = [c.name for c in usable if c.distinct == table.rows]
    named = [c.name for c in usable if _KEYS.search(c.name)]
    both = [name for name in own if name in named]
    guess = both if both else own if own else named
    if len(guess) != 1:
        raise Misuse(
            f"file {table.file}: found no single column that identifies a row or its entity. Candidates: "
            f"{_list(guess or [c.name for c in usable]) or 'none'}. "
            f"Name it: --key COLUMN (or --key {ROW} to number the rows)"
        )
    notes.append(f"key: {guess[0]!r} (guessed)")
    return guess[0]


def _row_key(table: DataTable, key: str | None, time: str, notes: list[str]) -> tuple[str, Dtype, str, str | None]:
    """Return the name, type and SQL of the row's key, and the column of the entity if that is another column."""
    if key is None:
        notes.append("Rows are numbered in a new column.")
        return unique("row_id", {c.lower() for c in table.columns}), "int", "row_number() OVER ()", None
    profile = table.columns[key]
    if profile.distinct == profile.present:
        if profile.present < table.rows:
            notes.append(f"{table.rows - profile.present:,} rows have no {key!r}: ingestion will quarantine them.")
        return key, profile.dtype or "str", quoted(key), None
    name, k, t = unique("row_id", {c.lower() for c in table.columns}), quoted(key), quoted(time)
    notes.append(
        f"{key!r} recurs ({profile.distinct:,} values in {table.rows:,} rows), so the key of a row is {name!r}, made "
        f"of {key!r} and {time!r}; the past labels of each {key!r} become features."
    )
    number = f"row_number() OVER (PARTITION BY {k}, {t})"
    stamp = f"strftime({t} AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ')"
    sql = f"{k}::VARCHAR || '|' || {stamp} || CASE WHEN {number} > 1 THEN '|' || {number} ELSE '' END"
    return name, "str", sql, key


def _classes(table: DataTable, label: str, positive: str | None, notes: list[str]) -> tuple[str, ...]:
    """Return the classes of a text label with several classes. For any other label, return nothing."""
    profile = table.columns[label]
    values = [str(value) for value, _ in table.values(label, _MOST_CLASSES + 1)]
    if positive is not None or profile.dtype != "str" or not 3 <= len(values) <= _MOST_CLASSES or "" in values:
        return ()
    notes.append(
        f"label: {label!r} is one of {len(values)} classes ({', '.join(values[:8])}{', ...' * (len(values) > 8)}); the "
        "model gives a probability of each (--positive VALUE makes it one class against the rest)"
    )
    return tuple(values)


def _label_value(table: DataTable, label: str, positive: str | None, notes: list[str]) -> tuple[str | None, bool]:
    """Return the value of the label that counts as 1, and whether the label has two classes.

    The value is Python source, or None if the column itself is the label.
    """
    profile = table.columns[label]
    values = table.values(label, 20)
    if len(values) < 2 and positive is None:
        held = f"only {values[0][0]!r}" if values else "no value"
        raise Misuse(f"label {label!r} holds {held}, needed at least two values. Choose another --label.")
    if positive is not None:
        fit = [value for value, _ in table.values(label, 10_000) if str(value) == positive]
        if not fit:
            found = ", ".join(str(value) for value, _ in values[:8])
            raise Misuse(f"--positive {positive!r}: label {label!r} has no such value. It has {found}.")
        return (None if fit[0] is True else python(fit[0])), True
    if profile.dtype == "bool":
        return None, True
    if profile.distinct == 2 and len(values) == 2:
        chosen, known = _positive(values)
        if not known:
            notes.append(
                f"label: {label!r} == {chosen!r} counts as 1, the rarer value (choose another with --positive)"
            )
        return python(chosen), True
    if profile.dtype == "str":
        found = ", ".join(str(value) for value, _ in values[:8])
        raise Misuse(
            f"label {label!r} has {profile.distinct:,} classes ({found}); needed up to {_MOST_CLASSES}, or a "
            f"number. Predict one of them against the rest: --positive {values[0][0]!r}"
        )
    notes.append(f"label: {label!r} has {profile.distinct:,} values, so the model predicts the number.")
    return None, False


def _positive(values: list[tuple[object, int]]) -> tuple[object, bool]:
    """Return which of two values is positive, and whether the values tell this by their names."""
    for (value, _), (other, _) in (values, values[::-1]):
        v, o = (str(x).strip().lower().removesuffix(".0") for x in (value, other))
        if (v in _POSITIVE and o not in _POSITIVE) or (o in _NEGATIVE and v not in _NEGATIVE):
            return value, True
    return values[-1][0], False


def _features(table: DataTable, taken: set[str]) -> tuple[list[Profile], dict[str, str]]:
    features: list[Profile] = []
    left_out: dict[str, str] = {}
    for c in table.columns.values():
        if c.name in taken:
            continue
        if c.dtype is None:
            left_out[c.name] = "holds lists or structs"
        elif c.present == 0:
            left_out[c.name] = "is empty"
        elif c.distinct == 1 and c.present == table.rows:
            left_out[c.name] = f"is always {c.sample!r}"
        elif c.dtype == "time":
            left_out[c.name] = "is a second time; what becomes known later must not be a feature"
        elif c.dtype == "str" and (c.distinct > _CATEGORIES or (c.distinct > _FEW_ROWS and 2 * c.distinct > c.present)):
            left_out[c.name] = f"is text with {c.distinct:,} different values; .hash_bucket(64) may help"
        elif c.dtype == "str" and c.distinct == table.rows and table.rows > 2:
            left_out[c.name] = "differs in every row"
        elif c.dtype == "int" and c.distinct == table.rows and _KEYS.search(c.name):
            left_out[c.name] = "numbers the rows"
        else:
            features.append(c)
    return features, left_out


def _window(span_us: int) -> str:
    """Return a fifth of the history, but at least the 10 days that the quality alarm needs and at most 14 days."""
    return f"{min(14, max(10, span_us // (5 * DAY_US)))}d"


def _calibration(
    table: DataTable,
    time: str,
    label: str,
    value: str | None,
    binary: bool,
    classes: tuple[str, ...],
    window_us: int,
) -> float:
    """Return three standard errors of the mean label in the newest window, at least 0.03.

    For numbers, the result is in standard deviations of the label.
    """
    q, t = quoted(label), quoted(time)
    number = f"{q}::DOUBLE"
    if classes:  # take the most frequent class, because its share varies most
        value, binary = python(classes[0]), True
    if binary and value is not None:
        compared = literal(json.loads(value)) if value.startswith('"') else value
        number = f"({q} = {compared})::INT"
    elif binary:
        number = f"{q}::INT"
    spread, rows = table.one(
        f"SELECT stddev_pop({number}), count(*) FILTER (epoch_us({t}) >= (SELECT max(epoch_us({t})) FROM data) - "
        f"{window_us}) FROM data WHERE {q} IS NOT NULL" + ("" if binary else f" AND isfinite({number})")
    )
    error = 3 * (float(spread or 0) if binary else 1.0) / max(1, int(rows)) ** 0.5
    return max(0.03, float(f"{error:.2g}"))


def _trees(estimator: Estimator) -> bool:
    if estimator != "auto":
        return estimator == "trees"
    from importlib.util import find_spec

    return find_spec("lightgbm") is not None


def python(value: object) -> str:
    """Return a value as Python source.

    >>> python('say "hi"'), python(1.0), python(True)
    ('"say \\\\"hi\\\\""', '1.0', 'True')
    """
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
