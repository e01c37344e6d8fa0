from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab.store.delta_table import DeltaTable
from trimtab.testing import TableContract


class TestDeltaTable(TableContract):
    @pytest.fixture
    def table(self, tmp_path: Path) -> Iterator[DeltaTable]:
        with DeltaTable(tmp_path / "it's a table") as table:
            yield table
