from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab.store.lmdb_kv import LmdbKeyValue
from trimtab.testing import KeyValueContract


class TestLmdbKeyValue(KeyValueContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[LmdbKeyValue]:
        with LmdbKeyValue(tmp_path / "kv") as store:
            yield store
