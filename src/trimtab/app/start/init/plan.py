"""The plan of a new project: what its files declare, and what was assumed for it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

import msgspec

from trimtab.app.start.init.entities import Past, pasts, with_numbers
from trimtab.app.start.init.file.profile import listed_lines
from trimtab.app.start.init.file.table import DataTable, Profile
from trimtab.app.start.init.file.texts import quoted
from trimtab.app.start.init.keys import KEY_NAME, Key, row_key
from trimtab.app.start.init.labels import LabelValues, label_values
from trimtab.app.start.init.options import Assumption, Estimator, Options
from trimtab.app.start.init.panels import Panel, panel_in
from trimtab.app.start.init.roles import existing, known_column, label_column, time_column
from trimtab.app.start.init.steps import batch_window_days, step_of
from trimtab.app.start.init.waits import Wait, wait_in
from trimtab.core.errors import Misuse
from trimtab.core.shown import count_of
from trimtab.core.time import DAY_US, duration_us, format_duration, format_time

_CATEGORIES = 200  # a text column with more different values is not a category
_FEW_ROWS = 50
_LONGEST_DAYS = 182  # `_window` grows by weeks up to a fifth of the history, but at most up to this many days
_MOST_GAP = {True: 0.1, False: 0.3}  # the largest calibration gap that is allowed; True: the label is a class


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The names, columns and settings that the files of the new project declare."""

    name: str  # the name of the project and of the request
    model: str
    time: str
    key: Key
    label: str
    values: LabelValues
    known_at: str | None  # the column that says when a label became known
    wait: Wait
    panel: Panel | None
    pasts: tuple[Past, ...]  # the entities, besides the key, whose past becomes features
    features: tuple[Profile, ...]
    left_out: dict[str, str]  # the columns that are left out, each with the reason
    merged: frozenset[str]  # the columns in which spellings are merged
    has_hours: bool  # whether rows have different times of day
    window: str  # the window of the gate
    calibration: float  # the largest calibration gap that the gate allows
    allow_leakage: tuple[str, ...]
    trees: bool
    labelled: int  # how many rows have a label
    assumed: tuple[Assumption, ...]
    notes: tuple[str, ...]  # other remarks for the reader

    @property
    def labels(self) -> str:
        """The name of the label's source."""
        return f"{self.name[:56]}_labels"


def plan(table: DataTable, options: Options, now_us: int) -> Plan:
    """Decide the role of each column. The history ends with the newest row that is not dated after `now_us`.

    Raises:
        NotFound: A column that is named does not exist.
        Misuse: A role cannot be guessed, or a column does not fit its role. The message names the candidates.
    """
    if options.wait is not None:
        duration_us(options.wait)
    assumed: list[Assumption] = []
    notes: list[str] = []
    for name in options.merge:
        table.merge(existing(table, "--merge", name))
    time = time_column(table, options, assumed)
    first_us, last_us, has_hours = _span(table, time, now_us)
    days = (last_us - first_us) / DAY_US
    notes.append(f"The rows are from {format_time(first_us)} to {format_time(last_us)}, {days:.1f} days.")
    (ahead,) = table.one(f"SELECT count(*) FROM data WHERE epoch_us({quoted(time)}) > {now_us}")
    if ahead:
        notes.append(f"{count_of(ahead, 'row')} dated in the future: their labels would go to quarantine.")
    label = label_column(table, options, time, assumed)
    values = label_values(table, label, options.positive, assumed)
    positive = values.positive(label)
    known_at = known_column(table, options, time, label, positive, assumed)
    key = row_key(table, options, time, label, assumed)
    step_us = step_of(table, time, key.entity) if key.entity and time in key.of else None
    is_number = not values.binary and not values.classes
    snapshots = 2 * table.columns[time].distinct <= table.rows  # on average, two rows or more share each time
    label_step_us = step_us if is_number or (snapshots and (step_us or 0) > DAY_US) else None
    wait = _wait(table, options, time, label, positive, known_at, last_us, label_step_us, assumed)
    panel = panel_in(step_us, options, is_number, wait.wait, last_us - first_us, assumed)
    taken = {time, label, known_at, key.name, *table.constants}
    entities = pasts(
        table, options, {*taken, *options.omit, *options.category}, key, time, wait.wait, last_us - first_us, assumed
    )
    identifying = {past.column: "identifies whom or what a row is about; its past is a feature" for past in entities}
    apart = {*taken, *identifying, *(key.entity if len(key.entity) == 1 and not panel else ())}
    features, left_out = _features(table, apart, options.category)
    left_out |= identifying
    for name in (*options.omit, *options.allow_leakage):
        existing(table, "--omit" if name in options.omit else "--allow-leakage", name)
    left_out |= {name: "was named by --omit" for name in options.omit if name not in left_out}
    features = [c for c in features if c.name not in options.omit]
    if panel is not None:
        for name in options.known_ahead:
            existing(table, "--known-ahead", name)
        ahead = {*key.entity, *options.known_ahead}
        late = "may not be known when its row is predicted; if it is: --known-ahead {}"
        left_out |= {c.name: late.format(shlex.quote(c.name)) for c in features if c.name not in ahead}
        features = [c for c in features if c.name in ahead]
    entities = with_numbers(entities, features)
    if not features and not key.entity and not entities:
        why = "; ".join(f"{n!r} {w}" for n, w in left_out.items()) or "the file has only a time, a key and a label"
        raise Misuse(f"file {table.file}: found no column left for features: {why}")
    needed = {name: table.rows - table.columns[name].present for name in (time, *(key.of or (key.name,)))}
    if table.columns[label].present < 0.5 * table.rows:
        empty = 1 - table.columns[label].present / table.rows
        notes.append(
            f"{empty:.1%} of the rows have no {label!r}. They are loaded, but nothing is learnt from them. If a "
            "missing value is a class of its own, write this class into the file."
        )
    notes += [
        f"{count_of(n, 'row')} without {name!r}: ingestion will quarantine {'it' if n == 1 else 'them'}."
        for name, n in needed.items()
        if n
    ]
    final_us = last_us - duration_us(wait.wait)
    window = _window(table, time, label, values, final_us, last_us - first_us)
    batches = batch_window_days(table, time, label, final_us)
    if batches > int(window[:-1]):
        notes.append(f"Few days have rows, so a version is judged on {batches} days, to have six days with labels.")
        window = f"{batches}d"
    judged_us = final_us - first_us
    if judged_us < 2 * duration_us(window):
        notes.append(
            f"The rows whose wait is over span {max(0, judged_us) / DAY_US:.1f} days; a version is judged on {window}, "
            "so load more data before you train."
        )
    gap = _calibration(table, time, label, values, final_us, duration_us(window))
    most = _MOST_GAP[bool(values.binary or values.classes)]
    if gap > most:
        notes.append(
            f"The {window} that a version is judged on have so few labels that a calibration gap below {gap:g} proves "
            f"nothing. The gate allows {most:g}, so it may refuse a good version; load more data."
        )
    moved = _movement(table, time, label, values, final_us, duration_us(window), last_us - final_us)
    if gap < moved:
        gap = moved
        notes.append(
            f"The mean of {label!r} changes between windows of {window}, so the gate allows a calibration gap of "
            f"{min(gap, most):g}."
        )
    name = slug(re.sub(r"(\.(csv|tsv|parquet|gz))+$", "", table.file.name, flags=re.IGNORECASE), "project")
    return Plan(
        name=name,
        model=f"{slug(label, 'model')}_2" if slug(label, "model") == name else slug(label, "model"),
        time=time,
        key=key,
        label=label,
        values=values,
        known_at=known_at,
        wait=wait,
        panel=panel,
        pasts=entities,
        features=tuple(features),
        left_out=left_out,
        merged=frozenset(options.merge),
        has_hours=has_hours,
        window=window,
        calibration=min(gap, most),
        allow_leakage=tuple(options.allow_leakage),
        trees=_trees(options.estimator),
        labelled=table.columns[label].present,
        assumed=tuple(assumed),
        notes=tuple(notes),
    )


def plan_lines(planned: Plan) -> list[str]:
    """Return the assumptions, the columns left out and the notes, as lines for a terminal."""
    return [
        *listed_lines("Assumed (the option changes it):", [one.text for one in planned.assumed])[1:],
        *listed_lines("Left out of the features:", [f"{name!r} {why}" for name, why in planned.left_out.items()]),
        *listed_lines("To know:", planned.notes),
        "",
    ]


def slug(text: str, otherwise: str) -> str:
    """Return a name of the form that definitions need: a letter, then a-z, 0-9 and _.

    >>> slug("Days since 1st order (%)", "x"), slug("2fast", "x"), slug("金額", "x")
    ('days_since_1st_order', 'x_2fast', 'x')
    """
    plain = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    if plain and not plain[0].isalpha():
        plain = f"{otherwise}_{plain}"
    return plain[:56].strip("_") or otherwise


def _wait(
    table: DataTable,
    options: Options,
    time: str,
    label: str,
    positive: str,
    known_at: str | None,
    newest_us: int,
    step_us: int | None,
    assumed: list[Assumption],
) -> Wait:
    if options.wait is not None:
        return Wait(options.wait, "given", True)
    found = wait_in(table, time, label, positive, known_at, newest_us)
    if step_us is not None and (not found.seen or (step_us > DAY_US and duration_us(found.wait) < step_us)):
        found = Wait(format_duration(step_us), "a row stands for the time until the next one", found.seen)
    assumed.append(Assumption("wait", f"a label takes {found.wait} to be known: {found.said}", "--wait"))
    return found


def _features(
    table: DataTable, taken: set[str | None], categories: Sequence[str]
) -> tuple[list[Profile], dict[str, str]]:
    features: list[Profile] = []
    left_out = dict(table.left_out)
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
        elif c.name in categories:
            features.append(c)
        elif c.is_clock and c.distinct > _CATEGORIES:
            left_out[c.name] = "is a time of day; if it belongs to the date, write both into one column of the file"
        elif c.dtype == "str" and (c.distinct > _CATEGORIES or (c.distinct > _FEW_ROWS and 2 * c.distinct > c.present)):
            left_out[c.name] = f"is text with {c.distinct:,} different values; .hash_bucket(64) may help"
        elif c.dtype == "str" and c.distinct == table.rows and table.rows > 2:
            left_out[c.name] = "differs in every row"
        elif c.dtype == "int" and c.distinct == table.rows and KEY_NAME.search(c.name):
            left_out[c.name] = "numbers the rows"
        else:
            features.append(c)
    return features, left_out


def _span(table: DataTable, time: str, now_us: int) -> tuple[int, int, bool]:
    """Return the first time, the last time that is not in the future, and whether times of day differ."""
    q = f"epoch_us({quoted(time)})"
    low, past, hours = table.one(
        f"SELECT min({q}), max({q}) FILTER ({q} <= {now_us}), count(DISTINCT {q} % {DAY_US}) > 1 FROM data"
    )
    if past is None:
        raise Misuse(
            f"file {table.file}: all rows are dated in the future by {time!r}, the first at {format_time(int(low))}. "
            "Check --time, --time-format and the clock of this machine."
        )
    return int(low), int(past), bool(hours)


def _window(table: DataTable, time: str, label: str, values: LabelValues, until_us: int, span_us: int) -> str:
    """Return the window on which versions are judged.

    It is a fifth of the history, but at least the 10 days that the quality alarm needs, and at most 14 days. If it has
    too few labels to judge the calibration, it grows by weeks until it has enough, up to 28 days or, if longer, a fifth
    of the history. If even this is not enough, it grows by four weeks at a time, up to a third of the history.
    """
    days = int(min(14, max(10, span_us // (5 * DAY_US))))
    most = _MOST_GAP[bool(values.binary or values.classes)]
    longest = min(_LONGEST_DAYS, max(28, span_us // (5 * DAY_US)))
    while days < longest and 3 * days * DAY_US < span_us:
        if _calibration(table, time, label, values, until_us, days * DAY_US) <= most:
            break
        days += 7
    else:  # labels are rare
        while days + 28 < span_us // (3 * DAY_US):
            if _calibration(table, time, label, values, until_us, days * DAY_US) <= most:
                break
            days += 28
    return f"{days}d"


def _calibration(table: DataTable, time: str, label: str, values: LabelValues, until_us: int, window_us: int) -> float:
    """Return three standard errors of the mean label in the newest window whose wait is over, at least 0.03.

    For numbers, the result is in standard deviations of the label.
    """
    q, t = quoted(label), quoted(time)
    number, binary = _number(label, values)
    spread, rows = table.one(
        f"SELECT stddev_pop({number}), count(*) FILTER (epoch_us({t}) > {until_us - window_us} AND "
        f"epoch_us({t}) <= {until_us}) FROM data WHERE {q} IS NOT NULL" + ("" if binary else f" AND isfinite({number})")
    )
    error = 3 * (float(spread or 0) if binary else 1.0) / max(1, int(rows)) ** 0.5
    return max(0.03, float(f"{error:.2g}"))


def _movement(
    table: DataTable, time: str, label: str, values: LabelValues, until_us: int, window_us: int, wait_us: int
) -> float:
    """Return three standard errors of a window's mean label, estimated from how the windows of the file differ.

    Each window is compared with the newest earlier one whose labels were all known when it began, because a version is
    fitted on such rows before the window on which it is judged. For numbers, the unit is the standard deviation of the
    label.
    """
    q, t = quoted(label), quoted(time)
    number, binary = _number(label, values)
    back = 1 + -(-wait_us // window_us)
    (moved,) = table.one(
        f"WITH w AS (SELECT ({until_us} - epoch_us({t})) // {window_us} AS n, avg({number}) AS mean, count(*) AS rows "
        f"FROM data WHERE {q} IS NOT NULL AND epoch_us({t}) <= {until_us}"
        + ("" if binary else f" AND isfinite({number})")
        + f" GROUP BY 1 HAVING rows >= {_FEW_ROWS}) "
        f"SELECT sqrt(avg((a.mean - b.mean) ** 2) / 2) FROM w AS a JOIN w AS b ON b.n = a.n + {back}"
    )
    (spread,) = (1.0,) if binary else table.one(f"SELECT stddev_pop({number}) FROM data WHERE isfinite({number})")
    return float(f"{3 * float(moved or 0) / (float(spread or 0) or 1.0):.2g}")


def _number(label: str, values: LabelValues) -> tuple[str, bool]:
    """Return the label as a number in SQL, and whether it can only be 0 or 1."""
    binary = values.binary or bool(values.classes)
    return f"{values.positive(label)}::INT" if binary else f"{quoted(label)}::DOUBLE", binary


def _trees(estimator: Estimator) -> bool:
    if estimator != "auto":
        return estimator == "trees"
    from importlib.util import find_spec

    return find_spec("lightgbm") is not None
