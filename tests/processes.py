"""Other processes: waits for their effects, and whether they run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE_S = 120  # the end of every wait for an event that is bound to come; a busy machine may need seconds for it


def eventually(look: Callable[[], Any], fault: str = "") -> Any:
    """Call `look` until its result is true, and return that result.

    Args:
        look: Looks for the event.
        fault: The message when the event does not come within `PATIENCE_S`.
    """
    end_s = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < end_s, fault or look
        time.sleep(0.01)
    return found


def is_alive(pid: int) -> bool:
    """Return whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
