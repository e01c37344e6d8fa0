"""Errors of serving for which the request is not to blame."""

from __future__ import annotations

from time import perf_counter

from trimtab.core.errors import Unavailable


class Late(Unavailable):
    """The deadline passed before the answer was ready."""


class ModelFailed(Unavailable):
    """The model raised an error, which is the `__cause__`, or returned no finite number.

    The attribute `shown` is the message for remote clients. The text of the model's own error is only logged.
    """

    def __init__(self, message: str, *, shown: str = "") -> None:
        super().__init__(message)
        self.shown = shown or message


class NotApplied(Unavailable):
    """The record is safe in the log, but not yet applied to the online features. Do not send it again."""


def not_applied(why: str) -> NotApplied:
    """Return the error for a client whose record was not applied in time."""
    return NotApplied(
        f"the record is safe in the log, but is not in the online features yet: {why}. Do not send it again; read the "
        "features later."
    )


def is_of_all(error: Exception) -> bool:
    """Return whether an error concerns all rows of a call: the deadline passed, or the store cannot be read.

    Damage (`Corrupt`) may concern only one entity, so it does not count.
    """
    return isinstance(error, Unavailable) and not isinstance(error, ModelFailed)


def check_deadline(deadline_s: float | None) -> None:
    """Raise `Late` if a deadline (a time of `perf_counter`) has passed."""
    if deadline_s is not None and perf_counter() > deadline_s:
        raise Late("the time allowed for this answer is over. Send the request again, or allow more time.")
