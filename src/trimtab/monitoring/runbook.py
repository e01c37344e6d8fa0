"""What to do about each kind of signal, in one line; docs/alerts.md says more under the kind's name."""

from __future__ import annotations

DOCUMENT = "docs/alerts.md"
RUNBOOK: dict[str, str] = {
    "quality_loss": "See what the loop does about it (trimtab ledger); if it does nothing, train, or roll back.",
    "quality_calibration": "Compare predicted and true rates (trimtab report MODEL@champion); train, or roll back.",
    "no_labels": "Mend the feed of the labels: until it is back nobody knows how good the answers are.",
    "unlisted_labels": "Add the new class to tt.label(..., classes=[...]) and train, or correct the label's value.",
    "monitor_stopped": "See why the monitor does not run (trimtab status): meanwhile nothing is watched.",
    "skew": "Look at the first difference (trimtab skew), and at its cause in docs/skew.md.",
}
OTHERWISE = "Look at the evidence and at trimtab status, and find out since when it is so."


def todo(kind: str) -> str:
    """The line for a kind of signal."""
    return RUNBOOK.get(kind, OTHERWISE)


def link(kind: str) -> str:
    """Where the documents say more about a kind of signal.

    >>> link("skew")
    'docs/alerts.md#skew'
    """
    return f"{DOCUMENT}#{kind}" if kind in RUNBOOK else f"{DOCUMENT}#what-to-do"
