"""Count values whose computation failed. Such values are null, and the count distinguishes them from other nulls.

An evaluator never raises an error because of values in a row. Instead, the caller of a row function (`compile_row`)
reads `failures.count` before and after. If the count has grown, the expression has failed for the row, and
`failures.error` is the last message. (`evaluate_marked` returns the rows that failed.)
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
