"""Count of the values that failed for a row: each is null, and a caller can distinguish it from other nulls.

An evaluator never raises for what is in a row. A caller compares `failures.count` before and after: if it has grown,
some part of an expression that the rows needed has failed, and `failures.error` is the last error.
"""

from __future__ import annotations

import threading


class _Failures(threading.local):
    """The failures of one thread: their number, and the last error."""

    count = 0
    error = ""


failures = _Failures()


def failed(error: str) -> None:
    """Count a value that failed and is null."""
    failures.count += 1
    failures.error = error
