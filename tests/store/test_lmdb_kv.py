from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.errors import Conflict, Corrupt, Misuse
from trimtab.store.lmdb.kv import LmdbKeyValue
from trimtab.testing import KeyValueContract, MemoryKeyValue

Start = Callable[[str, str, Path], subprocess.Popen[str]]


class TestRelaxedLmdbKeyValue(KeyValueContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[LmdbKeyValue]:
        with LmdbKeyValue(tmp_path / "kv", mode="relaxed") as store:
            yield store


class TestLmdbKeyValue(KeyValueContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[LmdbKeyValue]:
        with LmdbKeyValue(tmp_path / "kv") as store:
            yield store


@pytest.mark.fast
def test_what_is_written_is_there_after_reopening(tmp_path: Path) -> None:
    with LmdbKeyValue(tmp_path) as store:
        store.write({b"a": b"1"})
    with LmdbKeyValue(tmp_path) as store:
        assert store.get(b"a") == b"1"
        assert store.check() == 1


def test_the_map_grows_under_its_readers(tmp_path: Path) -> None:
    with LmdbKeyValue(tmp_path, map_bytes=1 << 18) as store:
        store.write({b"fixed": b"x" * 100})
        done, seen = threading.Event(), set()

        def read() -> None:
            while not done.is_set():
                seen.add(store.get(b"fixed"))
                seen.update(store.get_many([b"fixed"]))

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for i in range(60):
            store.write({b"%d" % i: os.urandom(100_000)})
        done.set()
        for reader in readers:
            reader.join()
        assert seen == {b"x" * 100}
        assert store.check() == 61


def test_a_process_reads_on_after_another_one_grew_the_map(start_writer: Start, tmp_path: Path) -> None:
    with LmdbKeyValue(tmp_path, map_bytes=1 << 18) as store:
        writer = start_writer("kv", "some", tmp_path)  # with a far larger map
        seen = []
        while writer.poll() is None:
            seen.append(store.get(b"n1"))
        assert store.get(b"n1") == b"40"
        assert len(store.get(b"row/40") or b"") == 4_000
        numbers = [int(value) for value in seen if value is not None]
        assert numbers == sorted(numbers)


def test_only_one_process_writes(start_writer: Start, tmp_path: Path) -> None:
    writer = start_writer("kv", "until-killed", tmp_path)
    assert writer.stdout is not None
    writer.stdout.readline()
    with LmdbKeyValue(tmp_path) as store:
        with pytest.raises(Conflict, match=f"process {writer.pid} is writing here"):
            store.write({b"a": b"1"})
        writer.kill()
        writer.wait()
        store.write({b"a": b"1"})
        assert store.get(b"a") == b"1"


def test_two_objects_of_one_process_share_the_environment(tmp_path: Path) -> None:
    first, second = LmdbKeyValue(tmp_path), LmdbKeyValue(tmp_path / ".." / tmp_path.name)
    first.write({b"a": b"1"})
    second.write({b"b": b"2"})
    first.close()
    first.close()
    assert second.get_many([b"a", b"b"]) == [b"1", b"2"]
    with pytest.raises(Misuse, match="closed"):
        first.get(b"a")
    with pytest.raises(Misuse, match="closed"):
        first.write({b"a": b"1"})
    second.close()


def test_a_value_under_another_key_is_damage(tmp_path: Path) -> None:
    with LmdbKeyValue(tmp_path) as store:
        store.write({b"alice": b"1"})
    with lmdb.open(str(tmp_path)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"bob", transaction.get(b"alice"))
    with LmdbKeyValue(tmp_path) as store:
        assert store.get(b"alice") == b"1"
        with pytest.raises(Corrupt, match="bob"):
            store.get(b"bob")
        with pytest.raises(Corrupt, match="bob"):
            store.get_many([b"alice", b"bob"])
        with pytest.raises(Corrupt, match="bob"):
            list(store.scan(b""))


def test_a_newer_format_or_a_foreign_environment_is_refused(tmp_path: Path) -> None:
    LmdbKeyValue(tmp_path / "newer").close()
    with lmdb.open(str(tmp_path / "newer")) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"\x00trimtab/format", b"2")
    with pytest.raises(Misuse, match=r"newer: key-value format 2, .* reads 1"):
        LmdbKeyValue(tmp_path / "newer")
    with lmdb.open(str(tmp_path / "foreign")) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"a", b"1")
    with pytest.raises(Corrupt, match="foreign"):
        LmdbKeyValue(tmp_path / "foreign")


_keys = st.binary(min_size=1, max_size=3).filter(lambda key: key[0] != 0)


@given(
    writes=st.lists(
        st.tuples(st.dictionaries(_keys, st.binary(max_size=20), max_size=5), st.lists(_keys, max_size=3)), max_size=6
    ),
    prefix=st.binary(max_size=2),
    after=st.binary(max_size=3),
    limit=st.integers(1, 5),
)
@settings(max_examples=25, deadline=None)
def test_it_is_the_map_in_memory_made_durable(
    writes: list[tuple[dict[bytes, bytes], list[bytes]]], prefix: bytes, after: bytes, limit: int
) -> None:
    with tempfile.TemporaryDirectory() as directory, LmdbKeyValue(Path(directory)) as store:
        memory = MemoryKeyValue()
        for puts, deletes in writes:
            store.write(puts, deletes)
            memory.write(puts, deletes)
        assert list(store.scan(b"")) == list(memory.scan(b""))
        assert list(store.scan(prefix, after=after, limit=limit)) == list(memory.scan(prefix, after=after, limit=limit))


def test_another_process_writes_after_the_writer_was_released(start_writer: Start, tmp_path: Path) -> None:
    with LmdbKeyValue(tmp_path) as store:
        store.write({b"mine": b"1"})
        store.release_writer()
        other = start_writer("kv", "some", tmp_path)
        assert other.wait(timeout=60) == 0
        assert store.get(b"n0") is not None
        store.write({b"mine": b"2"})  # it has ended, so the lock is free again
    with pytest.raises(Misuse, match="closed"):
        store.release_writer()
