from __future__ import annotations

from pathlib import Path

import pytest

from trimtab.store.file_blob import FileBlob
from trimtab.testing import BlobContract


class TestFileBlob(BlobContract):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> FileBlob:
        return FileBlob(tmp_path / "blobs")
