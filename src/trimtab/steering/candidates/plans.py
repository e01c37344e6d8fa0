"""The plan of a repair: the rows that it learns from, judges on and refits on."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.records import ChangeOnset
from trimtab.core.time import DAY_US
from trimtab.steering.candidates.recipes import Floats, Rows
from trimtab.steering.candidates.windows import LEAST_DAYS, JudgingWindow, day_of
from trimtab.steering.definitions import LEAST_WINDOW_US
from trimtab.training.data.sets import TrainingSet
from trimtab.training.fitting.fitted import Fitted

_HALF_LIFE_US = 7 * DAY_US


class Source(msgspec.Struct, frozen=True, eq=False):
    """A choice of rows that a candidate may learn from."""

    name: str
    rows: Rows  # rows for the candidate, which never learns from the rows it is judged on
    refit: Rows  # rows for the refit that goes into service
    half_life_us: int | None = None  # age after which the weight of a row halves; None: all rows count alike


class Plan(msgspec.Struct, frozen=True, eq=False):
    """The rows that a repair learns from and is judged on.

    The rows of each fold are scored by a fit that has learnt from none of them. With one fold there is one fit. With
    two folds of alternate days, all days since a change are judged, and each fit learns from half of them.
    """

    windows: tuple[JudgingWindow, ...]  # the longest window first, which contains all other windows
    folds: tuple[Rows, ...]  # disjoint; together the rows of the longest window
    sources: tuple[Source, ...]

    @property
    def window(self) -> JudgingWindow:
        """The longest window: all its rows are scored."""
        return self.windows[0]

    @property
    def choices(self) -> int:
        """The number of pairs of source and window, of which the best is put forward; they share the gate's error."""
        return len(self.sources) * len(self.windows)

    def learnt(self, source: Source, fold: Rows) -> Rows:
        """The rows from which the fit that scores a fold learns."""
        return source.rows & ~fold

    def assembled(self, answers: Sequence[Floats]) -> Floats:
        """The scores of the longest window's rows, in the order of the rows, from the scores of each fold."""
        if len(self.folds) == 1:
            return answers[0]
        whole = np.empty((int(self.window.rows.sum()), *answers[0].shape[1:]))
        for fold, answer in zip(self.folds, answers, strict=True):
            whole[fold[self.window.rows]] = answer
        return whole


class Made(msgspec.Struct, frozen=True, eq=False):
    """The fits from one source, and their scores."""

    source: Source
    candidate: Fitted  # the fit of the first fold
    scores: Floats  # for the rows of the longest window, each by the fit that has not seen the row


def newest_plan(training_set: TrainingSet, window: JudgingWindow, since_us: int | None = None) -> Plan:
    """Learn from what was final when the window began, judge on the window, and refit on everything.

    Args:
        training_set: All rows.
        window: The newest closed days.
        since_us: When the last repaired change began. If given, the rows since then are a second source.
    """
    usable = training_set.usable
    sources = [Source("all history", window.before, usable)]
    if since_us is not None and usable.any() and since_us > training_set.begun_us[usable].min():
        since = training_set.begun_us >= since_us
        sources.append(Source(f"days since {day_of(since_us)}", window.before & since, usable & since))
    return Plan((window,), (window.rows,), tuple(sources))


def onset_plan(training_set: TrainingSet, window: JudgingWindow, onset: ChangeOnset) -> Plan:
    """Judge several sources on the days since a change, by folds of alternate days.  # D0177

    A candidate that is judged on the newest fortnight has learnt nothing about a change that began within that
    fortnight. In this plan every fit has seen half of the days since the change. If the onset was dated too early,
    these days include days from before the change, which favour the champion. So there is a second window, which begins
    at the latest likely onset, or seven days ago where that is later, if enough of its days have labels. The days since
    then are also a source of their own.

    Args:
        training_set: All rows.
        window: The days since the onset.
        onset: When the change began.
    """
    usable, begun_us = training_set.usable, training_set.begun_us
    days = begun_us // DAY_US
    odd = np.searchsorted(np.unique(days[window.rows]), days) % 2 == 1
    since = usable & (begun_us >= onset.at_us)
    latest_us = min(onset.latest_us, window.end_us - LEAST_DAYS * DAY_US)
    newest_us = max(window.end_us - LEAST_WINDOW_US, latest_us)
    newest = msgspec.structs.replace(window, start_us=newest_us, rows=window.rows & (begun_us >= newest_us))
    labelled_days = np.unique(days[newest.rows & training_set.informative]).size
    sources = [
        Source("all history", usable, usable),
        Source("all history, where a row of a week ago counts half", usable, usable, _HALF_LIFE_US),
        Source(f"days since {day_of(onset.at_us)}", since, since),
    ]
    if onset.latest_us > onset.at_us:
        after = usable & (begun_us >= onset.latest_us)
        sources.append(Source(f"days since {day_of(onset.latest_us)}", after, after))
    return Plan(
        (window, newest) if newest_us > window.start_us and labelled_days >= LEAST_DAYS else (window,),
        (window.rows & ~odd, window.rows & odd),
        tuple(sources),
    )


def plan_in_words(plan: Plan, source: Source, window: JudgingWindow) -> str:
    """A sentence for the gate's record about what was judged; empty for the default plan."""
    if plan.choices == 1:
        return ""
    folds = ""
    if len(plan.folds) > 1:
        folds = ", in folds of alternate days, each answered by a fit that had not seen it"
    return (
        f"Judged on the days from {day_of(window.start_us)} to {day_of(window.end_us - 1)}{folds}. "
        f"Learnt from: {source.name}; it did best of {plan.choices} choices, which share the error."
    )


def of_window(scores: NDArray[np.float64], plan: Plan, window: JudgingWindow) -> Floats:
    """The scores for one of the plan's windows, taken from the scores for its longest window."""
    return scores[window.rows[plan.window.rows]]
