"""Panels: rows of recurring keys at regular times, such as the sales of each shop on each day."""

from __future__ import annotations

import msgspec

from trimtab.app.start.init.options import Assumption, Options
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, duration_us, format_duration

_LAGS = 3  # the labels of this many past weeks are features
_WEEK_US = 7 * DAY_US
_YEARS_US = 3 * 365 * DAY_US  # with less history, most rows have no label of a year ago


class Window(msgspec.Struct, frozen=True):
    """A feature of past labels: its name and aggregate, and how long before a request its window begins and ends."""

    name: str
    aggregate: str
    over: str | None
    until: str | None = None


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """The regular times of a panel, and how far ahead its label is predicted."""

    step_us: int
    horizon_us: int
    wait_us: int
    has_years: bool  # whether the file has enough years for the label of a year ago as a feature

    @property
    def horizon(self) -> str:
        """How long before its time a row is predicted, as text for the project file."""
        return format_duration(self.horizon_us)

    def windows(self) -> list[Window]:
        """Return the features: the newest label, means and standard deviations of windows, and labels of past seasons.

        Seasons are weeks, days if there are several rows a day, and years if the file has enough of them. The first
        past season is the newest one whose label is known when the prediction is made.
        """
        step = self.step_us
        found = [Window("last", "latest", None)]
        for steps in (7, 28) if step <= DAY_US else (4, 12):
            length = format_duration(steps * max(step, DAY_US))
            found += [Window(f"mean_{length}", "mean", length), Window(f"std_{length}", "std", length)]
        seasons = {DAY_US: 1 if step < DAY_US else 0, _WEEK_US: _LAGS, self._year_us: 1 if self.has_years else 0}
        return found + [
            self._lag(season_us, number)
            for season_us, lags in seasons.items()
            for number in range(lags)
            if season_us % step == 0 or season_us == self._year_us
        ]

    @property
    def _year_us(self) -> int:
        """The length of a year: 52 weeks if the step divides a week (so that weekdays agree), otherwise 365 days."""
        return 52 * _WEEK_US if _WEEK_US % self.step_us == 0 else 365 * DAY_US

    def _lag(self, season_us: int, number: int) -> Window:
        """Return the window with the label of the newest season that is known, or of `number` seasons before that."""
        step, lead = self.step_us, self.horizon_us
        back = (-(-(lead + max(self.wait_us, step)) // season_us) + number) * season_us
        until = back - lead - step // 2
        return Window(f"lag_{format_duration(back)}", "mean", format_duration(until + step), format_duration(until))


def panel_in(
    step_us: int | None, options: Options, is_number: bool, wait: str, span_us: int, assumed: list[Assumption]
) -> Panel | None:
    """Return the panel; None unless a number is predicted, and rows come at regular times.

    Raises:
        Misuse: A horizon is given, but the rows are no panel of numbers, or they span no more time than the horizon and
            the wait for a label together.
    """
    if step_us is None or not is_number:
        if options.horizon is not None:
            raise Misuse(
                f"--horizon {options.horizon}: needs a number to predict, and rows of a recurring key at regular times "
                "(--key shop with one row a day, for example). Leave it out."
            )
        return None
    horizon_us, wait_us = duration_us(options.horizon or 0), duration_us(wait)
    if options.horizon is not None and horizon_us + wait_us >= span_us:
        raise Misuse(
            f"--horizon {options.horizon}: the rows span {format_duration(span_us)}, so no label is known yet when a "
            f"row is predicted (a label is known after {wait}). Give a shorter horizon."
        )
    ahead = f"{format_duration(horizon_us)} before its time" if horizon_us else "at its time"
    if options.horizon is None:
        assumed.append(
            Assumption("horizon", f"each row is predicted {ahead}, from rows that were known before", "--horizon")
        )
    return Panel(step_us=step_us, horizon_us=horizon_us, wait_us=wait_us, has_years=span_us >= _YEARS_US)
