"""The window of days that a gate judges on, and the data that are missing to judge on it."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.time import DAY_US, format_duration, format_time
from trimtab.features.definitions import Label
from trimtab.steering.candidates.recipes import Rows
from trimtab.steering.definitions import LEAST_WINDOW_US
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model

LEAST_DAYS = 5  # days of a window that must have labels: a week without its weekend
LEAST_WINDOW = format_duration(LEAST_WINDOW_US)
_WIDER = "tt.beats_champion(window=...)"


class JudgingWindow(msgspec.Struct, frozen=True, eq=False):
    """The days that models are judged on, and the rows of a training set before these days."""

    start_us: int
    end_us: int
    rows: NDArray[np.bool_]  # a mask over the training set: labelled rows of the window
    before: Rows  # rows whose labels were final when the window began
    judged: bool = True  # False if only the rows before the window are used


def judging_window(training_set: TrainingSet, window_us: int, unseen_from_us: int) -> JudgingWindow:
    """The newest closed days that have labels: at most `window_us` long, and none before `unseen_from_us`."""
    usable, begun_us = training_set.usable, training_set.begun_us
    end_us = labelled_until(training_set)
    start_us = max(end_us - window_us, unseen_from_us)
    return JudgingWindow(
        start_us,
        end_us,
        rows=usable & (begun_us >= start_us) & (begun_us < end_us),
        before=training_set.whole(usable & (training_set.manifest.final_at(training_set.at_us) <= start_us)),
    )


def labelled_until(training_set: TrainingSet) -> int:
    """The end of the newest closed day that has labels; if no day has labels, the end of the newest closed day."""
    closed_us = training_set.manifest.closed_until(training_set.manifest.cut_us)
    begun_us = training_set.begun_us
    labelled = begun_us[training_set.usable & (begun_us < closed_us)]
    return int(labelled.max()) // DAY_US * DAY_US + DAY_US if labelled.size else closed_us


def unseen_from(training_set: TrainingSet) -> int:
    """The first midnight after the newest row of a training set that is learnt from."""
    learnt_us = training_set.begun_us[training_set.usable]
    last_us = int(learnt_us.max()) if learnt_us.size else training_set.manifest.cut_us
    return (last_us // DAY_US + 1) * DAY_US


def enough_from(unseen_from_us: int, label: Label) -> str:
    """The first day on which enough days are closed that were not seen before `unseen_from_us`."""
    return day_of(label.final_at(-(-(unseen_from_us + LEAST_WINDOW_US) // DAY_US) * DAY_US))


def lack_of_days(training_set: TrainingSet, window: JudgingWindow, seen: str) -> str | None:
    """The days missing for a window, in one sentence that contains `seen`; None if no days are missing."""
    labelled = training_set.at_us[training_set.usable]
    if not labelled.size:
        states = ", ".join(f"{n} {state}" for state, n in training_set.manifest.by_state.items())
        lists = training_set.manifest.lists
        states += "" if lists is msgspec.UNSET else f"; {lists.text}"
        return (
            f"None of {training_set.rows} requests has a label that its wait of "
            f"{format_duration(training_set.manifest.wait_us)} has made final ({states}). Load labels, or wait."
        )
    if window.end_us - window.start_us < LEAST_WINDOW_US:
        return (
            f"The newest labels are of {day_of(int(labelled.max()))}{seen}: "
            f"{days_of(window.end_us - window.start_us)} to judge on, needed are {LEAST_WINDOW}. "
            "Load labels, or wait for more."
        )
    return None


def lack_of_lessons(model: Model, window: JudgingWindow) -> str | None:
    """The data missing to learn from before a window, in one sentence; None if nothing is missing."""
    chosen = model.chosen
    if chosen is not None and window.judged and window.start_us < chosen.until_us:
        return (
            f"The days to judge on begin {day_of(window.start_us)}, and its parameters were searched for on what "
            f"was known by {day_of(chosen.until_us)}. Search again: trimtab search {model.name}"
        )
    before, needed = int(window.before.sum()), max(1, len(model.features.names))
    if before >= needed:
        return None
    found = "There are no labels to learn from" if not before else f"Only {before} labels are there to learn from"
    return (
        f"{found}, final from before {day_of(window.start_us)}, where the days to judge on begin; "
        f"needed are {needed}. Load more history, or wait."
    )


def lack_of_labels(model: Model, training_set: TrainingSet, window: JudgingWindow) -> str | None:
    """The reason why the labels of a window do not suffice to judge, in one sentence; None if they suffice."""
    rows, first = window.rows, day_of(window.start_us)
    last = day_of(int(training_set.at_us[training_set.usable].max()))
    labelled_days = np.unique(training_set.begun_us[rows & training_set.informative] // DAY_US).size
    if labelled_days < LEAST_DAYS:
        what = "labels" if training_set.lists is None else "lists with all labels whose rows differ"
        return (
            f"Only {labelled_days} of the days from {first} to {last} have {what}, "
            f"needed are {LEAST_DAYS}. Load more, wait, or judge on more days: {_WIDER}."
        )
    labels = np.unique(training_set.target[rows])
    if labels.size == 1 and window.judged:  # D0196
        names = model.label.class_names
        said = names[int(labels[0])] if model.task == "multiclass" else f"{labels[0]:g}"
        return (
            f"All {int(rows.sum()):,} labels of the days from {first} to {last} are {said}: nothing there tells a good "
            f"model from a constant. Load more, wait, or judge on more days: {_WIDER}."
        )
    return None


def days_of(span_us: int) -> str:
    """A duration in whole days: "3d"."""
    return f"{max(0, span_us // DAY_US)}d"


def day_of(at_us: int) -> str:
    """The day of a time: "2024-04-01"."""
    return format_time(at_us)[:10]


def rows_left_out(training_set: TrainingSet) -> dict[str, int]:
    """The number of rows of a training set that were left out, by reason."""
    found: dict[str, int] = {}
    for one in training_set.manifest.left_out or ():
        found[one.why] = found.get(one.why, 0) + one.rows
    return found
