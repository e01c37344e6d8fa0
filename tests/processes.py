"""Other processes, and waiting for what they do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def within(seconds: float, what: Callable[[], Any]) -> Any:
    """What `what` gives once that is true."""
    end_s = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end_s, what
        time.sleep(0.02)
    return found


def is_alive(pid: int) -> bool:
    """Whether it runs; one that ended and that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
