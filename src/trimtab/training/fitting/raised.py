"""Where an estimator of the user's raised."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

_OWN = str(Path(__file__).parents[2])  # trimtab's own folder
_OF_PYTHON = (sysconfig.get_path("stdlib"), "<")


def place_raised(error: BaseException) -> str:
    """The end of a message: the innermost line of the user's own, or else of the library that raised; may be empty."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if not one.filename.startswith(_OWN)]
    of_user = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith(_OF_PYTHON)]
    if not frames:
        return ""
    frame = (of_user or frames)[-1]
    return f", in {frame.name} at {Path(frame.filename).name}:{frame.lineno}"
