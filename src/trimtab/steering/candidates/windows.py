"""The window of days on which a gate judges, and which data are missing to judge on it."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.time import DAY_US, format_duration, format_time
from trimtab.features.definitions import Label
from trimtab.steering.candidates.recipes import Rows
from trimtab.steering.definitions import LEAST_WINDOW_US
from trimtab.training.data.sets import TOO_NEW, TrainingSet
from trimtab.training.definitions import Model

LEAST_DAYS = 5  # a window needs labels on this many days (a week without its weekend)
LEAST_WINDOW = format_duration(LEAST_WINDOW_US)
_WIDER = "tt.beats_champion(window=...)"


class JudgingWindow(msgspec.Struct, frozen=True, eq=False):
    """The days on which candidates are judged, and the older rows of a training set."""

    start_us: int
    end_us: int
    rows: NDArray[np.bool_]  # the labelled rows of the window, as a boolean array over the training set
    before: Rows  # the rows whose labels were final when the window began
    judged: bool = True  # False: nothing is judged, only the rows before the window are used


def judging_window(training_set: TrainingSet, window_us: int, unseen_from_us: int) -> JudgingWindow:
    """Return the newest closed days (days whose labels are final) that have labels.

    They begin at `unseen_from_us` or later, and span at most `window_us`.
    """
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
    """Return the end of the newest closed day with labels or, if there is none, of the newest closed day."""
    closed_us = training_set.manifest.closed_until(training_set.manifest.labels_until_us)
    begun_us = training_set.begun_us
    labelled = begun_us[training_set.usable & (begun_us < closed_us)]
    return int(labelled.max()) // DAY_US * DAY_US + DAY_US if labelled.size else closed_us


def unseen_from(training_set: TrainingSet, span_us: int) -> int:
    """Return the first midnight after the newest usable row of a training set: a model has learnt from no later row.

    Days that share labels with that row are left out, too. `span_us`: see `Label.span_us`.
    """
    learnt_us = training_set.begun_us[training_set.usable]
    last_us = int(learnt_us.max()) if learnt_us.size else training_set.manifest.cut_us
    return ((last_us + span_us) // DAY_US + 1) * DAY_US


def enough_from(unseen_from_us: int, label: Label) -> str:
    """Return as text the first day on which enough days since `unseen_from_us` are closed."""
    return day_of(label.final_at(-(-(unseen_from_us + LEAST_WINDOW_US) // DAY_US) * DAY_US))


def lack_of_days(training_set: TrainingSet, window: JudgingWindow, seen: str) -> str | None:
    """Return a sentence if a window has too few days, or if there are no labels at all; None if it has enough.

    `seen` is inserted into the sentence. It begins with a comma, and says which data a version has learnt from already.
    """
    labelled, manifest, ends = training_set.at_us[training_set.usable], training_set.manifest, ""
    if manifest.complete_us is not msgspec.UNSET:
        ended, last = day_of(manifest.complete_us - 1), day_of(manifest.final_until(manifest.complete_us) - 1)
        ends = f" The file of labels ends on {ended}, so labels of requests after {last} are not final."
    if not labelled.size:
        states = ", ".join(f"{n} {state}" for state, n in manifest.by_state.items())
        lists = manifest.lists
        states += "" if lists is msgspec.UNSET else f"; {lists.text}"
        states = f" ({states})" if states else ""
        return (
            f"None of {training_set.rows} requests has a label that is final{states}. A label is final "
            f"{format_duration(manifest.wait_us)} (the label's wait) after its request. "
            f"Load labels, or wait.{ends}"
        )
    if window.end_us - window.start_us < LEAST_WINDOW_US:
        new = [day_of(one.start_us) for one in manifest.left_out or () if one.why == TOO_NEW]
        ends += "".join(f" Labels of requests from {day} on are left out as {TOO_NEW}." for day in new)
        return (
            f"The newest final labels are of {day_of(int(labelled.max()))}{seen}: there are "
            f"{days_of(window.end_us - window.start_us)} to judge on, and {LEAST_WINDOW} are needed. "
            f"Load labels, or wait for more.{ends}"
        )
    return None


def lack_of_lessons(model: Model, window: JudgingWindow) -> str | None:
    """Return why a candidate for a window cannot be fitted; None if it can.

    There may be too few rows before the window to learn from, or the search for the model's parameters may have used
    data of the window.
    """
    chosen = model.chosen
    if chosen is not None and window.judged and window.start_us < chosen.until_us:
        return (
            f"The days to judge on begin on {day_of(window.start_us)}, but the search for the model's parameters used "
            f"data known by {day_of(chosen.until_us)}. Search again: trimtab search run {model.name}"
        )
    before, needed = int(window.before.sum()), max(1, len(model.features.names))
    if before >= needed:
        return None
    found = "No labels were" if not before else f"Only {before} label{'s were' if before > 1 else ' was'}"
    return (
        f"{found} final before {day_of(window.start_us)}, when the days to judge on begin; {needed} are needed to "
        "learn from. Load more history, or wait."
    )


def lack_of_labels(model: Model, training_set: TrainingSet, window: JudgingWindow) -> str | None:
    """Return in a sentence why the labels of a window are not enough to judge on; None if they are."""
    rows, first = window.rows, day_of(window.start_us)
    last = day_of(int(training_set.at_us[training_set.usable].max()))
    labelled_days = np.unique(training_set.begun_us[rows & training_set.informative] // DAY_US).size
    if labelled_days < LEAST_DAYS:
        what = "labels" if training_set.lists is None else "a complete list whose labels are not all equal"
        return (
            f"Only {labelled_days} of the days from {first} to {last} have {what}; "
            f"{LEAST_DAYS} such days are needed. Load more, wait, or judge on more days: {_WIDER}."
        )
    labels = np.unique(training_set.target[rows])
    if labels.size == 1 and window.judged:  # if all labels are equal, no model is better than a constant # D0196
        names = model.label.class_names
        said = names[int(labels[0])] if model.task == "multiclass" else f"{labels[0]:g}"
        return (
            f"All {int(rows.sum()):,} labels of the days from {first} to {last} are {said}, so they cannot tell a "
            f"good model from a constant. Load more, wait, or judge on more days: {_WIDER}."
        )
    return None


def excluded_days(training_set: TrainingSet, model: str, since_us: int = 0) -> str:
    """Return a sentence about labelled days that red windows exclude; "" if there are none. It begins with a space."""
    faulty = [one for one in training_set.manifest.left_out or () if one.why != TOO_NEW]
    if not faulty:
        return ""
    manifest, at_us, begun_us = training_set.manifest, training_set.at_us, training_set.begun_us
    final = (
        np.isfinite(training_set.target)
        & (begun_us >= since_us)
        & (at_us <= manifest.final_until(manifest.labels_until_us))
    )
    out = np.unique(begun_us[final & np.any([one.covers(at_us) for one in faulty], axis=0)] // DAY_US)
    if not out.size:
        return ""
    count = np.unique(begun_us[final] // DAY_US)
    return (
        f" {out.size} of the {int((count >= out[0]).sum())} days with labels since {day_of(int(out[0]) * DAY_US)} are "
        f"excluded from training, because inputs or labels were red. To list them: trimtab quality exclusions {model} "
        "(to use their rows again, add --release ID --why TEXT)."
    )


def days_of(span_us: int) -> str:
    """Return a duration in whole days, such as "3d"."""
    return f"{max(0, span_us // DAY_US)}d"


def day_of(at_us: int) -> str:
    """Return the day of a time, such as "2024-04-01"."""
    return format_time(at_us)[:10]


def rows_left_out(training_set: TrainingSet) -> dict[str, int]:
    """Return how many rows of a training set are left out for each reason."""
    found: dict[str, int] = {}
    for one in training_set.manifest.left_out or ():
        if one.rows:
            found[one.why] = found.get(one.why, 0) + one.rows
    return found
