"""The hash of a unit (such as a customer) from which its share and variant follow; docs/http.md specifies its bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

_number = int.from_bytes
_encode: Any = msgspec.msgpack.Encoder().encode


class UnitHash:
    """A number from 0 to 2**64 - 1 for each unit. The numbers for different salts are independent of each other.

    Args:
        salt: What the number is for, such as the name of an experiment.
        columns: The columns of a row that identify its unit.

    >>> UnitHash("late", ["user"])({"user": 7}) == UnitHash("late", ["user"]).of([7])
    True
    """

    __slots__ = ("_columns", "_copy")

    def __init__(self, salt: str, columns: Sequence[str] = ()) -> None:
        self._columns = tuple(columns)
        # copying a hash that already has its salt is faster than making a new one
        self._copy = blake2b(digest_size=8, salt=blake2b(salt.encode(), digest_size=16).digest()).copy

    def __call__(self, row: Mapping[str, Any]) -> int:
        """Return the number of a row's unit."""
        return self.of([row[name] for name in self._columns])

    def of(self, values: Sequence[Any]) -> int:
        """Return the number of a unit, given the values of its columns."""
        return self.of_packed(_encode(values))

    def of_packed(self, packed: bytes) -> int:
        """Return the number of a unit, given the values of its columns as a MessagePack array."""
        salted = self._copy()
        salted.update(packed)
        return _number(salted.digest(), "little")
