"""Values that failed for a row: each is null, and is noted here for the caller that has to tell it from other nulls.

An evaluator never raises for what is in a row. A caller compares `noted.count` before and after: where it has grown,
some part of an expression that the rows needed had no value, and `noted.error` says why the last one had none.
"""

from __future__ import annotations

import threading


class _Noted(threading.local):
    """The failures of one thread: how many, and the error of the last."""

    count = 0
    error = ""


noted = _Noted()


def failed(error: str) -> None:
    """Note that a value failed, which is null."""
    noted.count += 1
    noted.error = error
