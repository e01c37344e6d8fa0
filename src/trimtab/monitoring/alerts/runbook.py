"""The runbook: one line of advice for each kind of signal. docs/alerts.md says more."""

from __future__ import annotations

DOCUMENT = "docs/alerts.md"
RUNBOOK: dict[str, str] = {
    "quality_loss": "See what the loop does about it (trimtab ledger); if it does nothing, train, or roll back.",
    "quality_calibration": "Compare predicted and true rates (trimtab versions report MODEL@champion); "
    "train, or roll back.",
    "quality_worse": "Do not wait for the new version that the first alarm triggered: find out what else changed, "
    "and roll back if in doubt.",
    "quality_slice": "Look at the slice (trimtab quality show MODEL --slices COLUMN), and at the source of its data.",
    "quality_level": "Train or roll back; if the task has become harder for good: "
    "trimtab quality show MODEL --accept --why TEXT.",
    "quality_day": "See what happened that day, and to which rows (trimtab quality show MODEL --slices COLUMN).",
    "arm_loss": "End the canary or shadow (--share 0): its version is worse than the version in service.",
    "estimated_loss": "See which inputs have changed (trimtab quality show MODEL --page FILE); a repair needs labels "
    "of days since then.",
    "no_labels": "Repair the feed of the labels: until labels come again, the quality of the model is not known.",
    "unlisted_labels": "Add the new class to tt.label(..., classes=[...]) and train, or correct the label's value.",
    "monitor_stopped": "See why the monitor does not run (trimtab status): meanwhile nothing is watched.",
    "nulls": "Find out why the column is empty: the caller, the join key, or the source that the message names.",
    "new_values": "Check the spelling and the codes at the caller; if the values are right, release the time "
    "(trimtab quality exclusions MODEL --release ID --why TEXT) and train.",
    "constant": "Check what fills the column: a default, a cache or a stuck sensor repeats one value.",
    "range": "Look for a wrong unit, a sentinel such as -999 or a wrong decimal point at the source.",
    "units": "Ask who changed the unit or the scale, and convert it back at the source.",
    "swapped": "Ask who changed the order of the columns, and put them back at the source.",
    "shape": "Nothing is urgent: check whether the quality changes, too (trimtab quality show MODEL).",
    "joint_nulls": "Nothing is urgent: check which of the columns has another source now.",
    "feed_stopped": "Restart the feed of the source; predictions go on, with features that get older.",
    "feed_late": "Find out what delays the feed of the source; predictions are made with old features.",
    "feed_clock": "Check the clock and the time zone of the process that writes the times of the source.",
    "feed_stuck": "Find what repeats the last values of the source: a cache, a device, an old file.",
    "traffic_stopped": "Check whether clients still send requests, and whether the service answers "
    "(trimtab service top).",
    "traffic_doubled": "Find out who sends more requests: a new client, or one that tries again too soon.",
    "duplicates": "Find the client that repeats its requests: one that tries again too soon, or a replay.",
    "labels_missing": "Look at what became of the missing labels (trimtab quarantine), and at their feed.",
    "one_class": "Check the label's expression and its source: nearly all labels are the same.",
    "label_shift": "Check how the label is made: it may be inverted, or in another unit, or the labels of one class "
    "may be given to another. Do not train on it until that is clear.",
    "skew": "Look at the first difference (trimtab quality skew), and at its cause in docs/skew.md.",
}
OTHERWISE = "Look at the evidence and at trimtab status, and find out when it began."


def todo(kind: str) -> str:
    """Return what to do about a kind of signal, in one line."""
    return RUNBOOK.get(kind, OTHERWISE)


def link(kind: str) -> str:
    """Return the place in the documentation about a kind of signal.

    >>> link("skew")
    'docs/alerts.md#skew'
    """
    return f"{DOCUMENT}#{kind}" if kind in RUNBOOK else f"{DOCUMENT}#what-to-do"
