"""Make sure that a forked child does not use the stores that its parent has open.

SQLite and LMDB keep locks per process. A child that used its parent's connections, or opened their files again, would
treat the parent's locks as its own, and could damage the files.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from pathlib import Path
from typing import Protocol

from trimtab.core.errors import Misuse


class Guarded(Protocol):
    """A store with open files."""

    def after_fork(self) -> None:
        """Make every later call fail. This is called in a forked child."""
        ...


_open: weakref.WeakKeyDictionary[Guarded, str] = weakref.WeakKeyDictionary()
_inherited: set[str] = set()  # in a forked child: the paths that its parent had open


def guard(thing: Guarded, path: Path) -> None:
    """Record that `thing` has `path` open. A forked child may use neither of them."""
    _open[thing] = os.path.abspath(path)  # resolving links is slow, so this waits until a fork


def unguard(thing: Guarded) -> None:
    """Record that `thing` is closed. A second call does nothing."""
    _open.pop(thing, None)


def check_inherited(path: Path) -> None:
    """Raise `Misuse` in a forked child whose parent has `path` open."""
    if os.path.realpath(path) in _inherited:
        raise forked(path)


def forked(path: Path) -> Misuse:
    """Return the error for a store that was opened before this process was forked."""
    return Misuse(
        f"{path}: this project was opened before the process forked. Start the child as a new interpreter "
        '(multiprocessing\'s "spawn", joblib\'s "loky", subprocess) and open it there: tt.open(...)'
    )


def _after_fork_in_child() -> None:
    for thing, path in list(_open.items()):
        _inherited.add(os.path.realpath(path))
        # keep the object for ever: if it were deleted, it would close the parent's files
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
        thing.after_fork()
    _open.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
