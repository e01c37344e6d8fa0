from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab.core.clock import VirtualClock
from trimtab.store.sql_catalog import SqlCatalog
from trimtab.testing import CatalogContract


class TestSqliteCatalog(CatalogContract):
    @pytest.fixture
    def catalog(self, tmp_path: Path, clock: VirtualClock) -> Iterator[SqlCatalog]:
        with SqlCatalog.sqlite(tmp_path / "catalog.db", clock=clock) as catalog:
            yield catalog
