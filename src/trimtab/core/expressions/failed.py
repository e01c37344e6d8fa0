"""Count of values whose computation failed. Each is null, and a caller can tell it from other nulls.

An evaluator never raises an error because of the values in a row. A caller compares `failures.count` before and after.
If the count has grown, some part of an expression that the rows needed has failed, and `failures.error` is the last
error.
"""

from __future__ import annotations

import threading


class _Failures(threading.local):
    """The failures of one thread: their number, and the last error."""

    count = 0
    error = ""


failures = _Failures()


def failed(error: str) -> None:
    """Count a value whose computation failed and that is null."""
    failures.count += 1
    failures.error = error
