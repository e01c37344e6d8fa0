from __future__ import annotations

import pytest

from trimtab.core.clock import VirtualClock
from trimtab.store import KeyValue, Log
from trimtab.testing import KeyValueContract, LogContract, MemoryKeyValue, MemoryLog


class TestMemoryLog(LogContract):
    @pytest.fixture
    def log(self, clock: VirtualClock) -> Log:
        return MemoryLog(clock=clock)


class TestMemoryKeyValue(KeyValueContract):
    @pytest.fixture
    def store(self) -> KeyValue:
        return MemoryKeyValue()
