from __future__ import annotations

import threading
from pathlib import Path

import pytest

from trimtab.core.errors import Corrupt, Misuse
from trimtab.store import file_blob
from trimtab.store.file_blob import FileBlob
from trimtab.testing import BlobContract


class TestFileBlob(BlobContract):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> FileBlob:
        return FileBlob(tmp_path / "blobs")


def test_damage_is_named_and_healed_by_putting_again(tmp_path: Path) -> None:
    blobs = FileBlob(tmp_path)
    digest = blobs.put(b"weights")
    path = tmp_path / digest
    path.write_bytes(b"wEights")
    with pytest.raises(Corrupt, match=str(path)):
        blobs.get(digest)
    assert blobs.put(b"weights") == digest
    assert blobs.get(digest) == b"weights"


def test_threads_put_the_same_content_at_once(tmp_path: Path) -> None:
    blobs = FileBlob(tmp_path)
    threads = [threading.Thread(target=blobs.put, args=(b"same" * 100_000,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [p.name for p in tmp_path.glob("*") if p.name != "format"] == [blobs.put(b"same" * 100_000)]


def test_a_newer_format_or_a_foreign_directory_is_refused(tmp_path: Path) -> None:
    FileBlob(tmp_path / "newer").put(b"one")
    (tmp_path / "newer" / "format").write_text("3\n")
    with pytest.raises(Misuse, match=r"format '3', .* reads 2"):
        FileBlob(tmp_path / "newer")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "holiday.jpg").write_bytes(b"")
    with pytest.raises(Misuse, match="other files"):
        FileBlob(tmp_path / "foreign")


def test_what_a_killed_put_left_is_swept_once_it_is_old(tmp_path: Path) -> None:
    blobs = FileBlob(tmp_path)
    digest = blobs.put(b"weights")
    left = tmp_path / ".abc123.new"
    left.write_bytes(b"half")
    assert blobs.sweep(before_us=left.stat().st_mtime_ns // 1_000) == 0
    assert blobs.sweep(before_us=left.stat().st_mtime_ns // 1_000 + 1) == 4
    assert [stored.digest for stored in blobs.all()] == [digest]


def test_content_that_is_deleted_while_it_is_put_again_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = FileBlob(tmp_path)
    digest = blob.put(b"model")
    renewed = file_blob._renewed

    def renewed_and_deleted(path: Path) -> bool:
        found = renewed(path)
        path.unlink()  # by a collection in another process
        return found

    monkeypatch.setattr(file_blob, "_renewed", renewed_and_deleted)
    assert blob.put(b"model") == digest
    assert blob.get(digest) == b"model"
