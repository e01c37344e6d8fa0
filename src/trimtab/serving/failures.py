"""Errors of serving that are not the fault of the request."""

from __future__ import annotations

from time import perf_counter

from trimtab.core.errors import Unavailable


class Late(Unavailable):
    """The deadline passed before the answer was ready."""


class ModelFailed(Unavailable):
    """The model raised an error, which is the `__cause__`, or gave no number.

    `shown` is the message for remote clients. The text of the model's own error is only for the log.
    """

    def __init__(self, message: str, *, shown: str = "") -> None:
        super().__init__(message)
        self.shown = shown or message


class NotApplied(Unavailable):
    """The record is safe in the log, but the views have not applied it. It must not be sent again."""


def not_applied(why: str) -> NotApplied:
    """Return the error for a client that waited in vain for the views to apply its record."""
    return NotApplied(
        f"the record is safe in the log, but the views have not applied it: {why}. Do not send it again; ask for the "
        "features later."
    )


def is_of_all(error: Exception) -> bool:
    """Return whether a call failed for all its rows alike: its deadline passed, or the store cannot be read.

    Damage (`Corrupt`) may concern only one entity.
    """
    return isinstance(error, Unavailable) and not isinstance(error, ModelFailed)


def check_deadline(deadline_s: float | None) -> None:
    """Raise `Late` once a deadline (`perf_counter`) has passed."""
    if deadline_s is not None and perf_counter() > deadline_s:
        raise Late("the time for this answer is over. Ask again, or give it more time.")
