"""Limits on what one process works on at the same time."""

from __future__ import annotations

import msgspec

from trimtab.core.errors import Misuse


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits on what one process works on at once. Requests beyond a limit (except `rows_inline`) are refused."""

    body_bytes: int = 4 << 20  # the maximum size of one body
    bodies_bytes: int = 256 << 20  # memory for the bodies of all requests together, encoded and decoded
    body_timeout_s: float = 10.0  # the time in which a body must have arrived
    rows: int = 10_000  # the maximum number of rows in a predict request or a push
    rows_inline: int = 64  # a request with more rows than this is answered in a thread
    predict_at_once: int = 512  # the maximum number of predict requests in flight (`GradientLimit` may allow less)
    slow_at_once: int = 64  # how many pushes, searches and large predict requests may use threads at the same time
    wait_applied_s: float = 10.0  # the longest time that a push with `?wait=applied` waits

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if getattr(self, name) <= 0:
                raise Misuse(f"limits: {name}={getattr(self, name)}. Give a number above 0.")
