"""Panels: rows of recurring keys at regular times, such as the sales of each shop on each day."""

from __future__ import annotations

import msgspec

from trimtab.app.start.init.file.table import DataTable
from trimtab.app.start.init.file.texts import quoted
from trimtab.app.start.init.keys import Key
from trimtab.app.start.init.options import Assumption, Options
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, HOUR_US, duration_us, format_duration

_REGULAR = 0.9  # the share of rows that follow the row before of the same key after the same step
_LEAST_TIMES = 8  # fewer times are no series
_MONTH_DAYS = (28, 31)
_LAGS = 3  # how many seasons are looked back
_BATCHES = 4  # how many snapshots a version is judged on


class Window(msgspec.Struct, frozen=True):
    """A window of past labels: the name of the feature, its aggregate, its beginning and its end before the request."""

    name: str
    aggregate: str
    over: str | None
    until: str | None = None


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """The regular times of a panel, and how far ahead its label is predicted."""

    step_us: int
    horizon_us: int
    wait_us: int

    @property
    def horizon(self) -> str:
        """The time between a prediction and its row, for the project file."""
        return format_duration(self.horizon_us)

    def windows(self) -> list[Window]:
        """Return the features of past labels: the newest, means of windows, and the label of past seasons.

        A season is a week of days or hours. The label of a season ago is that of the newest season that is known when
        the prediction is made.
        """
        step, lead = self.step_us, self.horizon_us
        found = [Window("last", "latest", None)]
        for steps in (7, 28) if step <= DAY_US else (4, 12):
            length = format_duration(steps * max(step, DAY_US))
            found += [Window(f"mean_{length}", "mean", length), Window(f"std_{length}", "std", length)]
        season = 7 * DAY_US
        if season % step:
            return found
        first = -(-(lead + max(self.wait_us, step)) // season)
        for season_number in range(first, first + _LAGS):
            back = season_number * season
            until = back - lead - step // 2
            over, end = format_duration(until + step), format_duration(until)
            found.append(Window(f"lag_{format_duration(back)}", "mean", over, end))
        return found


def step_of(table: DataTable, time: str, key: Key) -> int | None:
    """Return the time between the rows of an entity, if it is nearly always the same. Months count as 31 days."""
    if not key.entity or time not in key.of:
        return None
    t, by = quoted(time), ", ".join(map(quoted, key.entity))
    times = int(table.one(f"SELECT count(DISTINCT {t}) FROM data")[0])
    if times < _LEAST_TIMES:
        return None
    gaps = table.all(
        f"SELECT gap, count(*) FROM (SELECT epoch_us({t}) - lag(epoch_us({t})) OVER (PARTITION BY {by} ORDER BY {t}) "
        f"AS gap FROM (SELECT DISTINCT {by}, {t} FROM data)) WHERE gap IS NOT NULL GROUP BY 1 ORDER BY 2 DESC LIMIT 40"
    )
    rows = sum(int(n) for _, n in gaps)
    if not rows:
        return None
    step = int(gaps[0][0])
    if gaps[0][1] >= _REGULAR * rows:
        return step if step >= HOUR_US else None
    low, high = (days * DAY_US for days in _MONTH_DAYS)
    monthly = sum(int(n) for gap, n in gaps if low <= int(gap) <= high)
    return high if monthly >= _REGULAR * rows else None


def panel_in(
    step_us: int | None, options: Options, is_number: bool, wait: str, assumed: list[Assumption]
) -> Panel | None:
    """Return the panel, if a number of regular rows is predicted.

    Raises:
        Misuse: A horizon is given, and the rows are no panel of numbers.
    """
    if step_us is None or not is_number:
        if options.horizon is not None:
            raise Misuse(
                f"--horizon {options.horizon}: needs a number to predict, and rows of a recurring key at regular times "
                "(--key shop with one row a day, for example). Leave it out."
            )
        return None
    horizon_us = duration_us(options.horizon or 0)
    ahead = f"{format_duration(horizon_us)} before its time" if horizon_us else "at its time"
    if options.horizon is None:
        assumed.append(
            Assumption("horizon", f"each row is predicted {ahead}, from rows that were known before", "--horizon")
        )
    return Panel(step_us=step_us, horizon_us=horizon_us, wait_us=duration_us(wait))


def batch_window_days(step_us: int | None) -> int:
    """Return for how many days versions are judged so that several batches of a panel fall into them; 0 for days."""
    return 0 if step_us is None or step_us <= DAY_US else _BATCHES * step_us // DAY_US
