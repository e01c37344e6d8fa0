"""How what was asked for rightly can fail."""

from __future__ import annotations

from time import perf_counter

from trimtab.core.errors import Unavailable


class Late(Unavailable):
    """The answer was not there when it had to be."""


class ModelFailed(Unavailable):
    """The model raised, which is its `__cause__`, or gave no number.

    `shown` is what is said to whoever asks from elsewhere: the words of what was raised are for the log.
    """

    def __init__(self, message: str, *, shown: str = "") -> None:
        super().__init__(message)
        self.shown = shown or message


class NotApplied(Unavailable):
    """The record is safe in the log, but the views have not applied it: it is not to be sent again."""


def not_applied(why: str) -> NotApplied:
    """What to tell who waited in vain for the views to apply what is in the log."""
    return NotApplied(
        f"the record is safe in the log, but the views have not applied it: {why}. Do not send it again; ask for the "
        "features later."
    )


def is_of_all(error: Exception) -> bool:
    """Whether a call failed by no row's fault: the time was over, or the store cannot be read.

    What is damaged may be what is stored of one entity.
    """
    return isinstance(error, Unavailable) and not isinstance(error, ModelFailed)


def check_deadline(deadline_s: float | None) -> None:
    """Raise `Late` when a moment of `perf_counter` has passed."""
    if deadline_s is not None and perf_counter() > deadline_s:
        raise Late("the time for this answer is over. Ask again, or give it more time.")
