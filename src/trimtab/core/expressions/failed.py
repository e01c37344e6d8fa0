"""Count values whose computation failed. Such values are null, and the count distinguishes them from other nulls.

An evaluator never raises an error because of values in a row. Instead, a caller reads `failures.count` before and
after. If the count has grown, a needed part of the expression has failed for a row, and `failures.error` is the last
message.
"""

from __future__ import annotations

import threading


class _Failures(threading.local):
    """The failures in one thread: their number, and the message of the last one."""

    count = 0
    error = ""


failures = _Failures()


def failed(error: str) -> None:
    """Count a failed computation, whose value is null."""
    failures.count += 1
    failures.error = error
