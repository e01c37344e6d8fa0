"""The plan of a repair (the making of a new version): the rows to learn from, to judge on, and for the final fit."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.records import ChangeOnset
from trimtab.core.shown import count_of
from trimtab.core.time import DAY_US
from trimtab.features.definitions import Label
from trimtab.steering.candidates.recipes import Floats, Rows
from trimtab.steering.candidates.windows import LEAST_DAYS, JudgingWindow, day_of
from trimtab.steering.definitions import LEAST_WINDOW_US
from trimtab.training.data.sets import TrainingSet
from trimtab.training.fitting.fitted import Fitted

_HALF_LIFE_US = 7 * DAY_US
_SLOW_HALF_LIVES = (28, 14, 7)  # days


class Source(msgspec.Struct, frozen=True, eq=False):
    """One choice of the rows that a candidate learns from."""

    name: str
    rows: Rows  # the rows for the candidate, some of which may be judged: see `Plan.learnt`
    refit: Rows  # the rows for the refit that goes into service
    half_life_us: int | None = None  # a row of this age has half the weight of a new row; None: equal weights


class Plan(msgspec.Struct, frozen=True, eq=False):
    """Which rows candidates learn from, and which they are judged on.

    The rows to judge on are divided into folds. Each fold is scored by a fit that has learnt from none of its rows.
    Usually there is one fold. With two folds of alternate days, all days since a change are judged, and each fit also
    learns from half of them. If labels overlap over several days, the folds are the earlier and the later half, and a
    fit does not learn from days that are at most `gap` days from the fold that it scores.
    """

    windows: tuple[JudgingWindow, ...]  # the longest window first; it contains the other windows
    folds: tuple[Rows, ...]  # the rows of the longest window, divided into one or more parts
    sources: tuple[Source, ...]
    gap: int = 0  # in days
    days: NDArray[np.int64] = np.zeros(0, np.int64)  # the day of each row of the training set; only read with a gap

    @property
    def window(self) -> JudgingWindow:
        """The longest window. All of its rows are scored."""
        return self.windows[0]

    @property
    def choices(self) -> int:
        """The number of pairs of source and window. The error rate that the gate allows is divided by it, because
        choosing the best pair makes an error likelier.
        """
        return len(self.sources) * len(self.windows)

    def learnt(self, source: Source, fold: Rows) -> Rows:
        """Return the rows for the fit that scores a fold."""
        learnt = source.rows & ~fold
        if self.gap:
            near = np.unique(self.days[fold])[:, None] + np.arange(-self.gap, self.gap + 1)
            learnt &= ~np.isin(self.days, near)
        return learnt

    def assembled(self, answers: Sequence[Floats]) -> Floats:
        """Return the scores of all rows of the longest window, in their order, from the scores of each fold."""
        if len(self.folds) == 1:
            return answers[0]
        whole = np.empty((int(self.window.rows.sum()), *answers[0].shape[1:]))
        for fold, answer in zip(self.folds, answers, strict=True):
            whole[fold[self.window.rows]] = answer
        return whole


class Made(msgspec.Struct, frozen=True, eq=False):
    """The fits from one source, and their scores."""

    source: Source
    candidate: Fitted  # the fit that scores the first fold
    scores: Floats  # of the longest window's rows, each by a fit that has not learnt from it


def newest_plan(training_set: TrainingSet, window: JudgingWindow, changed: ChangeOnset | None = None) -> Plan:
    """Return the usual plan: learn from rows before the window, judge on the window, refit on all rows.

    Args:
        window: The newest closed days (days whose labels are final).
        changed: The last known change of the data. The rows since its latest likely beginning (or, if these are too
            few, since the estimated one) are a second source: rows from before the change do more harm than a few rows
            less.
    """
    usable, begun_us = training_set.usable, training_set.begun_us
    sources = [Source("all history", window.before, usable)]
    if changed is not None:
        late = np.unique(begun_us[window.before & (begun_us >= changed.latest_us)] // DAY_US)
        since_us = changed.latest_us if late.size >= LEAST_DAYS else changed.at_us
        since = begun_us >= since_us
        if (usable & ~since).any() and (window.before & since).any():
            sources.append(Source(f"days since {day_of(since_us)}", window.before & since, usable & since))
    return Plan((window,), (window.rows,), tuple(sources))


def aged_sources(plan: Plan) -> list[Source]:
    """Return further sources for a plan: all its history, but old rows count less. They suit data that change slowly.

    Each source suits faster changes than the one before it. # D0227
    """
    usual, text = plan.sources[0], "{}, with the weight of a row halved for each {} days of age"
    aged = {days: text.format(usual.name, days) for days in _SLOW_HALF_LIVES}
    return [msgspec.structs.replace(usual, name=name, half_life_us=days * DAY_US) for days, name in aged.items()]


def least_of_halves(label: Label) -> int:
    """Return how long the days since a change must be, in microseconds, to be judged in two halves with a gap.

    Each half must be longer than the gap. 0: labels do not overlap, so there is no gap.
    """
    return 2 * (-(-label.span_us // DAY_US) + 2) * DAY_US if label.span_us else 0


def onset_plan(training_set: TrainingSet, window: JudgingWindow, onset: ChangeOnset, span_us: int = 0) -> Plan:
    """Return the plan for a change of the data: judge several sources on the days since then, with two folds. # D0177

    A candidate that is judged on all days since the change would have learnt nothing about the change. Therefore there
    are two folds of alternate days, and each fit scores one fold and also learns from the other. If the estimated
    beginning is too early, the first days are from before the change, and favour the champion. So there is a second,
    shorter window. It has the newest seven days or, if fewer have passed since the latest likely beginning of the
    change, the days since then, but at least the newest five. It is used if at least five of its days have labels. The
    days since the latest likely beginning are also a source of their own.

    Args:
        window: The days since the change began.
        span_us: For how long after a request something happens that its label sums up; 0: labels do not overlap.
    """
    usable, begun_us = training_set.usable, training_set.begun_us
    days = begun_us // DAY_US
    judged, gap = np.unique(days[window.rows]), -(-span_us // DAY_US)
    odd = np.searchsorted(judged, days) % 2 == 1
    if gap and judged.size:
        odd = days >= judged[judged.size // 2]
    folds = (window.rows & ~odd, window.rows & odd)
    since = usable & (begun_us >= onset.at_us)
    latest_us = min(onset.latest_us, window.end_us - LEAST_DAYS * DAY_US)
    newest_us = max(window.end_us - LEAST_WINDOW_US, latest_us)
    newest = msgspec.structs.replace(window, start_us=newest_us, rows=window.rows & (begun_us >= newest_us))
    labelled_days = np.unique(days[newest.rows & training_set.informative]).size
    sources = [
        Source("all history", usable, usable),
        Source("all history, with the weight of a row halved for each week of age", usable, usable, _HALF_LIFE_US),
        Source(f"days since {day_of(onset.at_us)}", since, since),
    ]
    if onset.latest_us > onset.at_us:
        after = usable & (begun_us >= onset.latest_us)
        sources.append(Source(f"days since {day_of(onset.latest_us)}", after, after))
    # the candidate of the first fold is kept, so it must have scored a part of each window
    enough = labelled_days >= LEAST_DAYS and all((newest.rows & fold).any() for fold in folds)
    windows = (window, newest) if newest_us > window.start_us and enough else (window,)
    plan = Plan(windows, folds, tuple(sources), gap, days)
    # with a gap, a fold may have no rows to learn from
    able = tuple(one for one in sources if all(plan.learnt(one, fold).any() for fold in folds))
    return msgspec.structs.replace(plan, sources=able or tuple(sources))


def plan_in_words(plan: Plan, source: Source, window: JudgingWindow) -> str:
    """Return a sentence for the gate record: which rows were learnt from and judged; "" if there was no choice."""
    if plan.choices == 1:
        return ""
    folds = ""
    if len(plan.folds) > 1:
        what = f"two halves, with {count_of(plan.gap, 'day')} between" if plan.gap else "folds of alternate days"
        folds = f", in {what}; each fold was scored by a fit that had not seen it"
    return (
        f"Judged on the days from {day_of(window.start_us)} to {day_of(window.end_us - 1)}{folds}. "
        f"Learnt from: {source.name}; this was the best of {plan.choices} choices, so "
        "the allowed error was divided by that number."
    )


def of_window(scores: NDArray[np.float64], plan: Plan, window: JudgingWindow) -> Floats:
    """Return the scores for one window, taken from the scores for the longest window."""
    return scores[window.rows[plan.window.rows]]
