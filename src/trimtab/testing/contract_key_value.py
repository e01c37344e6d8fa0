"""Tests that every implementation of `KeyValue` must pass."""

from __future__ import annotations

import threading

import pytest

from trimtab.core.errors import Misuse
from trimtab.store.ports import KeyValue


class KeyValueContract:
    """Tests for a key-value store. To use them, write a subclass named `Test...` with a fixture `store`.

    The fixture returns an empty key-value store.
    """

    @pytest.fixture
    def store(self) -> KeyValue:
        raise NotImplementedError("give a fixture `store` with an empty key-value store")

    def test_what_is_written_is_read(self, store: KeyValue) -> None:
        store.write({b"a": b"1", b"b": b"", b"\xff\x00": b"\x00" * 10_000})
        assert store.get(b"a") == b"1"
        assert store.get(b"b") == b""
        assert store.get(b"\xff\x00") == b"\x00" * 10_000
        assert store.get(b"c") is None

    def test_many_are_read_in_the_order_asked(self, store: KeyValue) -> None:
        store.write({b"%d" % i: b"v%d" % i for i in range(100)})
        assert store.get_many([b"7", b"absent", b"3", b"7"]) == [b"v7", None, b"v3", b"v7"]
        assert store.get_many([]) == []

    def test_the_last_write_wins(self, store: KeyValue) -> None:
        store.write({b"a": b"1"})
        store.write({b"a": b"22"})
        assert store.get(b"a") == b"22"

    def test_puts_and_deletes_go_together(self, store: KeyValue) -> None:
        store.write({b"a": b"1", b"b": b"2"})
        store.write({b"c": b"3"}, deletes=[b"a", b"absent"])
        assert store.get_many([b"a", b"b", b"c"]) == [None, b"2", b"3"]

    def test_a_write_is_all_or_nothing(self, store: KeyValue) -> None:
        with pytest.raises(Misuse):
            store.write({b"a": b"1", b"k" * 512: b"2"})
        with pytest.raises(Misuse):
            store.write({b"a": b"1"}, deletes=[b""])
        assert store.get(b"a") is None

    def test_writing_goes_on_after_the_writer_was_released(self, store: KeyValue) -> None:
        store.release_writer()
        store.write({b"a": b"1"})
        store.release_writer()
        store.write({b"a": b"2"})
        assert store.get(b"a") == b"2"

    def test_scan_gives_a_prefix_in_key_order(self, store: KeyValue) -> None:
        store.write({b"a/2": b"2", b"a/1": b"1", b"a0": b"x", b"b": b"y", b"a/\xff": b"3", b"a": b"z"})
        assert list(store.scan(b"a/")) == [(b"a/1", b"1"), (b"a/2", b"2"), (b"a/\xff", b"3")]
        assert list(store.scan(b"a/", after=b"a/1", limit=1)) == [(b"a/2", b"2")]
        assert list(store.scan(b"a/", after=b"a/\xff")) == []
        assert list(store.scan(b"a/", after=b"b")) == []
        assert [key for key, _ in store.scan(b"")] == [b"a", b"a/1", b"a/2", b"a/\xff", b"a0", b"b"]
        assert list(store.scan(b"absent")) == []

    def test_what_is_erased_is_gone_and_the_rest_stays(self, store: KeyValue) -> None:
        store.write({b"k%03d" % i: b"%d" % i * i for i in range(300)})
        store.erase(b"k%03d" % i for i in range(0, 300, 2))
        assert [(key, len(value)) for key, value in store.scan(b"k")] == [
            (b"k%03d" % i, i * len(b"%d" % i)) for i in range(1, 300, 2)
        ]
        store.erase([b"absent"])
        store.write({b"k000": b"again"})
        assert store.get_many([b"k000", b"k001", b"k002"]) == [b"again", b"1", None]

    def test_a_store_that_was_not_replaced_stays_as_it_is(self, store: KeyValue) -> None:
        store.write({b"a": b"1"})
        assert not store.reopen_if_replaced()
        assert not store.reopen_if_replaced(make=True)
        assert store.get(b"a") == b"1"

    def test_a_snapshot_never_shows_half_a_write(self, store: KeyValue) -> None:
        keys = [b"k%d" % i for i in range(20)]
        store.write(dict.fromkeys(keys, b"0"))
        done = threading.Event()
        torn: list[object] = []

        def read() -> None:
            while not done.is_set():
                values = store.get_many(keys)
                if len(set(values)) != 1:
                    torn.append(values)

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for i in range(50):
            store.write(dict.fromkeys(keys, b"%d" % i))
        done.set()
        for reader in readers:
            reader.join()
        assert torn == []
