"""What stands in for an LMDB environment that was never made, where none can be: nothing is in it. # D44"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import lmdb

_A = TypeVar("_A")
_T = TypeVar("_T")


class Absent:
    """An environment with nothing but its format: its read transaction and its cursor in one."""

    def __init__(self, format_key: bytes) -> None:
        self._format_key = format_key

    def read(self, what: Callable[[Any, _A], _T], argument: _A) -> _T:
        """`what(transaction, argument)`; LMDB's own `get` takes nothing but LMDB's own transactions."""
        return (Absent.get if what is lmdb.Transaction.get else what)(self, argument)  # type: ignore[return-value,arg-type]  # None is what `get` gives

    def get(self, key: bytes) -> bytes | None:
        """What is there under a key: nothing but the format."""
        return b"" if key == self._format_key else None

    def cursor(self) -> Absent:
        return self

    def first(self) -> bool:
        return False

    def last(self) -> bool:
        return False

    def set_range(self, key: bytes) -> bool:
        return False

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter([(self._format_key, b"")])

    def stat(self) -> dict[str, int]:
        return {"entries": 1}

    def close(self) -> None:
        """Nothing is open."""
