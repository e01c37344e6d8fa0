"""Input profiles and hourly counts, computed once for all scenarios with equal versions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.features.definitions import Request
from trimtab.monitoring.inputs.checks.findings import Finding
from trimtab.monitoring.inputs.input_hours import HourCounts, text_hashes
from trimtab.monitoring.profiles.profile_records import InputProfile
from trimtab.monitoring.profiles.question_hashes import aside_of, question_hashes
from trimtab.simulation.scenarios.rows import Block

_KEPT = 8  # the hourly counts of this many pairs of a version and a block are kept
_encode = msgspec.msgpack.Encoder().encode
Counted = dict[int, HourCounts]


class SharedCounts:
    """Input profiles and hourly counts. They are equal in all scenarios with the same version and the same rows."""

    def __init__(self) -> None:
        self.profiles: dict[str, InputProfile] = {}
        self.findings: dict[object, list[Finding]] = {}  # what the checks found in the newest block
        self._until_us: int | None = None
        self._hashes: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None
        self._hours: OrderedDict[tuple[str, int], Counted] = OrderedDict()

    def begin(self, until_us: int) -> None:
        """Drop the findings of the previous block. Only the first call for a block has an effect."""
        if until_us != self._until_us:
            self._until_us = until_us
            self.findings.clear()

    def hashes(self, block: Block, request: Request) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return hashes of the request keys of a block, and hashes of each request without its key and time."""
        if self._hashes is None or self._hashes[0] != block.start:
            keys = text_hashes([str(one) for one in block.requests[request.key].to_list()])
            rows = zip(*(block.requests[name].to_list() for name in request.columns), strict=True)
            self._hashes = (block.start, keys, question_hashes(list(map(_encode, rows)), aside_of(request)))
        return self._hashes[1:]

    def hours(self, version: str, block: Block, count: Callable[[], Counted]) -> Counted:
        """Return the hourly counts of a block for a version."""
        found = self._hours.get((version, block.start))
        if found is None:
            found = self._hours[version, block.start] = count()
            while len(self._hours) > _KEPT:
                self._hours.popitem(last=False)
        return found
