"""What one process takes at once."""

from __future__ import annotations

import msgspec

from trimtab.core.errors import Misuse


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one process takes at once; more is refused at once."""

    body_bytes: int = 4 << 20
    bodies_bytes: int = 256 << 20  # of memory for the bodies of all requests, and what they are decoded to
    body_timeout_s: float = 10.0
    rows: int = 10_000  # of one predict request or push
    rows_inline: int = 64  # more are answered in a thread, so that others do not wait
    predict_at_once: int = 512
    slow_at_once: int = 64  # pushes and look-ups, which wait for a thread
    wait_applied_s: float = 10.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if getattr(self, name) <= 0:
                raise Misuse(f"limits: {name}={getattr(self, name)}. Give a number above 0.")
