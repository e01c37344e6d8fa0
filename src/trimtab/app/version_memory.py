"""The versions in memory: those in service, and as many that were as there is room for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable

from trimtab.registry import LoadedModel, Version


class VersionMemory:
    """Loads versions, and keeps them within a number of bytes; those that answer are never dropped.

    A version counts with the size of its stored model, which is what is known of it; in memory it may take more.

    Args:
        load: Loads a version.
        cap_bytes: How much may be kept.
    """

    def __init__(self, load: Callable[[Version], LoadedModel], cap_bytes: int) -> None:
        self.cap_bytes = cap_bytes
        self._load = load
        self._mutex = threading.RLock()
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()  # the newest used last
        self._holders: dict[str, frozenset[str]] = {}  # by who holds them: addresses

    def get(self, version: Version) -> LoadedModel:
        """A version that is ready to score.

        Raises:
            Corrupt: It cannot be loaded.
            Misuse: Not on this machine.
        """
        with self._mutex:
            loaded = self._loaded.get(version.id)
            if loaded is None:
                loaded = self._loaded[version.id] = self._load(version)
            self._loaded.move_to_end(version.id)
            self._drop({version.id})
        return loaded

    def hold(self, holder: str, addresses: Iterable[str]) -> None:
        """From now on these versions are what `holder` answers with; others may be dropped."""
        with self._mutex:
            self._holders[holder] = frozenset(addresses)
            self._drop(set())

    def used_bytes(self) -> int:
        """The size of all versions in memory."""
        with self._mutex:
            return sum(map(_size, self._loaded.values()))

    def too_full(self) -> bool:
        """Whether what is held alone is more than there is room for."""
        with self._mutex:
            held = frozenset().union(*self._holders.values())
            return sum(_size(one) for address, one in self._loaded.items() if address in held) > self.cap_bytes

    def _drop(self, wanted: set[str]) -> None:
        held = wanted.union(*self._holders.values())
        left = self.used_bytes()
        for address in [address for address in self._loaded if address not in held]:
            if left <= self.cap_bytes:
                return
            left -= _size(self._loaded.pop(address))


def _size(loaded: LoadedModel) -> int:
    return len(loaded.artifact.estimator)
