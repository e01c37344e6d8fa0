"""Stores where nothing can be written: they are read, nothing is made, and whoever writes meanwhile is noticed."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import forked
from trimtab.core.errors import Unavailable
from trimtab.store.durable_files import unwritable
from trimtab.store.file_blob import FileBlob
from trimtab.store.file_lock import FileLock
from trimtab.store.lmdb.kv import LmdbKeyValue
from trimtab.store.sqlite.log import SqliteLog

_V3, _OVERRIDE = 0x20080522, 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: root writes where nobody may


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


def allow(folder: Path, writing: bool) -> None:
    for path in [folder, *folder.rglob("*")]:
        mode = path.stat().st_mode
        path.chmod(mode | 0o200 if writing else mode & ~0o222)


@contextmanager
def sealed(folder: Path) -> Iterator[None]:
    before = sorted(folder.rglob("*"))
    allow(folder, False)
    try:
        yield
        assert sorted(folder.rglob("*")) == before
    finally:
        allow(folder, True)


@pytest.mark.fast
def test_a_log_is_read_where_nothing_can_be_written_and_a_writer_is_noticed(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "log") as log:
        log.append([b"one", b"two"])

    def read() -> None:
        with SqliteLog(tmp_path / "log") as log:
            with sealed(tmp_path / "log"):
                assert unwritable(tmp_path / "log")
                assert [r.payload for r in log.read("p0001", 0)] == [b"one", b"two"]
                with pytest.raises(Unavailable, match="Check space and access"):
                    log.append([b"three"])
            with SqliteLog(tmp_path / "log") as other:
                other.append([b"three"])
                assert log.positions() == {"p0001": 3}
            assert [r.payload for r in log.read("p0001", 1)] == [b"two", b"three"]

    unprivileged(read)


def test_a_log_of_a_killed_writer_is_read_with_its_wal_or_says_what_to_do(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "living") as log:
        log.append([b"one"])
        shutil.copytree(tmp_path / "living", tmp_path / "killed")
        shutil.copytree(tmp_path / "living", tmp_path / "copied")
    (tmp_path / "copied" / "p0001.db-shm").unlink()

    def read() -> None:
        with sealed(tmp_path / "killed"), SqliteLog(tmp_path / "killed") as log:
            assert [r.payload for r in log.read("p0001", 0)] == [b"one"]
            assert log.copy_to(tmp_path / "copy") == {"p0001": 1}
        said = r"bytes of its -wal file are not in it yet.*Open the project once"
        with sealed(tmp_path / "copied"), SqliteLog(tmp_path / "copied") as log, pytest.raises(Unavailable, match=said):
            log.positions()
        with SqliteLog(tmp_path / "copied") as log:
            assert log.positions() == {"p0001": 1}

    unprivileged(read)


@pytest.mark.fast
def test_a_key_value_store_is_read_where_nothing_can_be_written_and_written_once_it_can(tmp_path: Path) -> None:
    with LmdbKeyValue(tmp_path / "kv") as store:
        store.write({b"a": b"1", b"b": b"2"})

    def read() -> None:
        with sealed(tmp_path / "kv"):
            store = LmdbKeyValue(tmp_path / "kv")
            assert store.get_many([b"a", b"c"]) == [b"1", None]
            assert list(store.scan(b"")) == [(b"a", b"1"), (b"b", b"2")]
            assert store.check() == 2
            with pytest.raises(Unavailable, match="read-only for this user, or the disk is full"):
                store.write({b"c": b"3"})
            store.copy_to(tmp_path / "copy")
        store.write({b"c": b"3"})
        assert store.get(b"c") == b"3"
        store.close()

    unprivileged(read)


def test_a_key_value_store_that_was_never_made_is_empty_where_none_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    def read() -> None:
        with sealed(tmp_path / "empty"):
            store = LmdbKeyValue(tmp_path / "empty" / "kv")
            assert store.get(b"a") is None
            assert store.get_many([b"a"]) == [None]
            assert list(store.scan(b"")) == []
            assert store.check() == 0
        store.write({b"a": b"1"})
        assert store.get(b"a") == b"1"
        store.close()

    unprivileged(read)


def test_a_key_value_store_that_somebody_else_has_open_is_not_read_without_locks(tmp_path: Path) -> None:
    held = (
        "import sys; from pathlib import Path; from trimtab.store.lmdb.kv import LmdbKeyValue\n"
        "store = LmdbKeyValue(Path(sys.argv[1])); store.write({b'a': b'1'}); print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", held, str(tmp_path / "kv")]
    with forked.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()

        def refused() -> None:
            with sealed(tmp_path / "kv"), pytest.raises(Unavailable, match=f"process {process.pid} has it open"):
                LmdbKeyValue(tmp_path / "kv")

        try:
            unprivileged(refused)
        finally:
            process.communicate(b"")

    def read() -> None:
        with sealed(tmp_path / "kv"), LmdbKeyValue(tmp_path / "kv") as store:
            assert store.get(b"a") == b"1"

    unprivileged(read)


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
