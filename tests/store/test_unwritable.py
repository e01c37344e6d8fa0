"""Folders that cannot be written are refused at once with what to do, and nothing is left there."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from trimtab.core.errors import Unavailable
from trimtab.store.durable_files import check_writable
from trimtab.store.file_blob import FileBlob
from trimtab.store.file_lock import FileLock
from trimtab.store.lmdb.kv import LmdbKeyValue
from trimtab.store.sql_catalog import SqlCatalog
from trimtab.store.sqlite.log import SqliteLog

_V3, _OVERRIDE = 0x20080522, 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: with these root may write all


def unprivileged(what: Callable[[], object]) -> None:
    """Do something in a thread for which permissions count even if it is root's; its error is raised here."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            if os.getuid() == 0:
                libc = ctypes.CDLL(None, use_errno=True)
                head, sets = (ctypes.c_uint32 * 2)(_V3, 0), (ctypes.c_uint32 * 6)()  # effective, permitted, inherited
                assert libc.capget(head, sets) == 0
                for i in range(3):
                    sets[i] &= ~_OVERRIDE
                assert libc.capset(head, sets) == 0, os.strerror(ctypes.get_errno())
            what()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


OPENERS = {"kv": lambda folder: LmdbKeyValue(folder / "kv"), "catalog": lambda folder: SqlCatalog.sqlite(folder / "c")}


def test_a_log_in_a_read_only_folder_is_not_read(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "log") as log:
        log.append([b"one"])
    (tmp_path / "log").chmod(0o500)

    def refused() -> None:
        with SqliteLog(tmp_path / "log") as log, pytest.raises(Unavailable, match="is read-only for this user"):
            log.positions()

    unprivileged(refused)
    (tmp_path / "log").chmod(0o700)


@pytest.mark.parametrize("store", OPENERS)
def test_a_read_only_folder_is_refused_with_what_to_do(store: str, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o500)

    def refused() -> None:
        with pytest.raises(Unavailable, match=rf"cannot be written: {folder} is read-only for this user\. Give"):
            OPENERS[store](folder)

    unprivileged(refused)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("store", OPENERS)
def test_a_full_disk_is_refused_before_anything_is_made(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = SimpleNamespace(f_bavail=4, f_frsize=4_096, f_files=100, f_favail=10)
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(Unavailable, match=r"its disk is full \(16 KiB free, needed 256\)\. Free some space"):
        OPENERS[store](tmp_path)
    full.f_bavail, full.f_favail = 1 << 20, 0  # room, but no file more
    with pytest.raises(Unavailable, match="its disk is full"):
        OPENERS[store](tmp_path)
    assert list(tmp_path.iterdir()) == []
    full.f_files = 0  # a file system that does not count files
    check_writable(tmp_path / "not" / "there")


def test_opening_a_log_or_a_blob_store_makes_nothing(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "log") as log, FileBlob(tmp_path / "blob") as blob:
        assert log.positions() == {}
        assert not blob.exists("0" * 64)
        assert list(tmp_path.iterdir()) == []
        assert blob.get(blob.put(b"one")) == b"one"
        assert (tmp_path / "blob" / "format").read_text() == "2\n"


def test_looking_whether_a_lock_is_held_makes_no_file_and_disturbs_nobody(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    assert not FileLock.is_held(path)
    assert not path.exists()
    lock = FileLock.take(path)
    assert lock is not None
    assert FileLock.is_held(path)
    lock.release()
    assert not FileLock.is_held(path)
