from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab.core.clock import VirtualClock
from trimtab.store.sqlite_log import SqliteLog
from trimtab.testing import LogContract


class TestSqliteLog(LogContract):
    @pytest.fixture(params=["durable", "relaxed"])
    def log(self, request: pytest.FixtureRequest, tmp_path: Path, clock: VirtualClock) -> Iterator[SqliteLog]:
        with SqliteLog(tmp_path / "log", mode=request.param, clock=clock) as log:
            yield log
