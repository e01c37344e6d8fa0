"""The wait for labels, as a file shows it: its newest rows have no label, or only one of the label's values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.app.start.init.file.table import DataTable
from trimtab.app.start.init.file.texts import quoted
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, HOUR_US

USUAL = "1d"  # the wait if the file shows none
_LEAST_ROWS = 30  # a block needs this many rows to be compared
_LEAST_POSITIVE = 60  # to compare positive labels, a block must be so large that it usually has this many of them
_LEAST_NONE = 3  # if nearly all rows have a label, this many rows without one at the end show a wait
_BLOCKS = 3  # the search for incomplete blocks ends after this many complete blocks in a row
_NEARLY_ALL = 0.99  # if usually more than this share of rows has a label, a day that lacks some is incomplete
_KNOWN_BY = 0.99  # this share of labels is known after the wait
_FALLEN = 0.6  # labels look unfinished if the share of positive ones falls below this part of the usual share

# tells whether a share is too low, given the share, the usual share, the number of rows, and the number of standard
# errors that the difference must exceed
Lacks: TypeAlias = Callable[[float, float, int, int], bool]


class Wait(msgspec.Struct, frozen=True):
    """How long labels take to be known, and what in the file shows it."""

    wait: str
    said: str
    seen: bool  # whether the file shows it


class Ages(msgspec.Struct, frozen=True, eq=False):
    """Counts of rows by their age, counted from the newest row of the file in units of time, newest first."""

    unit_us: int
    age: NDArray[Any]
    rows: NDArray[Any]
    labelled: NDArray[Any]
    positive: NDArray[Any]


def wait_in(table: DataTable, time: str, label: str, positive: str, known_at: str | None, newest_us: int) -> Wait:
    """Return the wait that the file shows, or `USUAL`.

    Args:
        positive: The condition in SQL that a label counts as 1.
        known_at: The column that says when the label became known.

    Raises:
        Misuse: Perhaps labels of the newest rows are not final yet, and the file does not show how long labels take to
            become final.
    """
    ages = _ages(table, time, label, positive, newest_us)
    unlabelled = _incomplete(ages, ages.labelled, _lacking)
    said = []
    if unlabelled:
        said.append(
            f"{_unlabelled_said(ages, unlabelled, label)}. This is counted back from the newest row. If the file was "
            "written some time after this row, add that time to the wait"
        )
    delays = _delays(table, time, known_at, ages.unit_us) if known_at is not None else 0
    if delays:
        said.append(f"{_KNOWN_BY:.0%} of times in {known_at!r} lie within {_text(delays, ages.unit_us)} of {time!r}")
    if said:
        return Wait(_text(max(unlabelled, delays), ages.unit_us), "; ".join(said), True)
    fallen = _incomplete(ages, ages.positive, _few_positive, _LEAST_POSITIVE)
    if fallen:
        share, before = _shares(ages, ages.positive, fallen)
        raise Misuse(
            f"file {table.file}: the share of {label!r} that counts as 1 falls to {100 * share:.1f} % in the newest "
            f"{_text(fallen, ages.unit_us)}, from {100 * before:.1f} % before. Perhaps labels that are not known yet "
            f"are written as 0. Say how long a label takes: --wait {_text(fallen, ages.unit_us)}, or --wait {USUAL} if "
            "these labels are final"
        )
    return Wait(USUAL, "the newest rows have as many labels as older ones, so a longer wait is not seen", False)


def _ages(table: DataTable, time: str, label: str, positive: str, newest_us: int) -> Ages:
    t, q = quoted(time), quoted(label)
    (low,) = table.one(f"SELECT epoch_us(min({t})) FROM data")
    unit_us = DAY_US if newest_us - int(low) >= 20 * DAY_US else HOUR_US
    found = table.all(
        f"SELECT (({newest_us} - epoch_us({t})) // {unit_us})::BIGINT AS age, count(*), count({q}), "
        f"count(*) FILTER ({positive}) FROM data WHERE epoch_us({t}) <= {newest_us} GROUP BY 1 ORDER BY 1"
    )
    columns = np.array(found, np.int64).reshape(-1, 4).T
    return Ages(unit_us, *columns)


def _incomplete(ages: Ages, counts: NDArray[Any], lacks: Lacks, least: int = 0) -> int:
    """Return the age, in units from the newest row, below which labels are not complete yet; 0 if all are.

    `counts` has for each age the number of rows with a label, or with a positive one. Their usual share is that in the
    older half of all rows. Rows are looked at in blocks, newest first. A block has at least 30 rows, and at the usual
    share, at least `least` of them would be counted. A block is incomplete if its share is too low (`lacks`).
    """
    half = np.cumsum(ages.rows) * 2 > ages.rows.sum()
    if not half.any() or not counts[half].sum():
        return 0
    usual = counts[half].sum() / ages.rows[half].sum()
    none = int(np.argmax(counts > 0))  # how many ages, from the newest on, have no counted row
    until = complete = rows = found = 0
    if usual > _NEARLY_ALL and ages.rows[:none].sum() >= _LEAST_NONE:
        until = int(ages.age[none - 1]) + 1
    first = until == 0
    for age, n, there in zip(ages.age.tolist(), ages.rows.tolist(), counts.tolist(), strict=True):
        rows, found = rows + n, found + there
        if rows < max(_LEAST_ROWS, least / usual):
            continue
        if lacks(found / rows, usual, rows, 4 if first else 3):
            until, complete = age + 1, 0
        elif first:  # if the newest rows are complete, the file shows no wait
            return 0
        else:
            complete += 1
        first, rows, found = False, 0, 0
        if complete == _BLOCKS:
            break
    # if usually nearly all rows have a label, the incomplete rows end with the oldest age at which a row has no label
    lacking = ages.age[(ages.age < until) & (counts < ages.rows)]
    until = int(lacking.max()) + 1 if usual > _NEARLY_ALL and len(lacking) else until
    # if rows are on few days, such as monthly snapshots, the wait lasts until the age of the next older rows, because
    # only these are known to be complete
    return int(ages.age[ages.age >= until].min(initial=2**31)) if until and (ages.age >= until).any() else until


def _lacking(share: float, usual: float, rows: int, errors: int) -> bool:
    """Return whether a share of labelled rows is lower than usual by 0.02 and by a number of standard errors."""
    spread = math.sqrt(max(usual * (1 - usual), 0.01) / rows)
    return bool(share < usual - max(0.02, errors * spread))


def _few_positive(share: float, usual: float, rows: int, errors: int) -> bool:
    """Return whether a share of positive labels is far lower than usual, and by a number of standard errors."""
    return bool(share < _FALLEN * usual and share < usual - errors * math.sqrt(max(usual * (1 - usual), 0.01) / rows))


def _shares(ages: Ages, counts: NDArray[Any], until: int) -> tuple[float, float]:
    """Return the share of counts among rows younger than an age, and among all other rows."""
    young = ages.age < until
    older = max(1, int(ages.rows[~young].sum()))
    return float(counts[young].sum() / ages.rows[young].sum()), float(counts[~young].sum() / older)


def _unlabelled_said(ages: Ages, until: int, label: str) -> str:
    share, before = _shares(ages, ages.labelled, until)
    length = _text(until, ages.unit_us)
    if not share:
        return f"no row of the newest {length} has a {label!r}"
    young = ages.age < until
    ones = float(ages.positive[young].sum() / max(1, ages.labelled[young].sum()))
    usual = float(ages.positive[~young].sum() / max(1, ages.labelled[~young].sum()))
    said = (
        f"{100 * share:.0f} % of the rows of the newest {length} have a {label!r}, of older ones {100 * before:.0f} %"
    )
    if abs(ones - usual) > 0.1:
        said += f"; {100 * ones:.0f} % of these early labels count as 1, of the others {100 * usual:.0f} %"
    return said


def _delays(table: DataTable, time: str, known_at: str, unit_us: int) -> int:
    """Return after how many units 99 % of the labels in rows with a known-at time are known."""
    t, k = quoted(time), quoted(known_at)
    late = table.one(
        f"SELECT quantile_disc(epoch_us({k}) - epoch_us({t}), {_KNOWN_BY}) FROM data WHERE {k} IS NOT NULL AND "
        f"{t} IS NOT NULL"
    )[0]
    return 0 if late is None else max(1, math.ceil(int(late) / unit_us))


def _text(units: int, unit_us: int) -> str:
    return f"{units}d" if unit_us == DAY_US else f"{units // 24}d" if units % 24 == 0 else f"{units}h"
