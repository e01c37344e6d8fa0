"""Tests that every implementation of `Catalog` must pass."""

from __future__ import annotations

import threading

import pytest

from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Conflict, Misuse
from trimtab.store.ports import Append, Catalog, Entry, Put, Record, Remove


class CatalogContract:
    """Tests for a catalogue. To use them, write a subclass named `Test...` with a fixture `catalog`.

    The fixture returns an empty catalogue that uses the clock of the fixture `clock`.
    """

    @pytest.fixture
    def clock(self) -> VirtualClock:
        return VirtualClock(1_000_000)

    @pytest.fixture
    def catalog(self, clock: VirtualClock) -> Catalog:
        raise NotImplementedError("give a fixture `catalog` with an empty catalogue that uses `clock`")

    def test_a_record_counts_its_writes(self, catalog: Catalog) -> None:
        assert catalog.get("model", "late") is None
        catalog.write([Put("model", "late", b"{}")])
        catalog.write([Put("model", "late", b'{"a":1}')])
        assert catalog.get("model", "late") == Record("model", "late", 2, b'{"a":1}')

    def test_records_are_found_by_prefix_in_key_order(self, catalog: Catalog) -> None:
        keys = ["late@10", "late@2", "Late@1", "late", "läte", "lat%", "lat_x", "z"]
        catalog.write([Put("version", key, b"") for key in keys])
        catalog.write([Put("other", "late@3", b"")])
        assert [r.key for r in catalog.find("version", "late@")] == ["late@10", "late@2"]
        assert [r.key for r in catalog.find("version", "lat%")] == ["lat%"]
        assert [r.key for r in catalog.find("version", "lä")] == ["läte"]
        # the code point after each of these is not a character or does not exist
        edges = ["\ud7ff", "\ud7ffa", "\ue000", "\U0010ffff", "\U0010ffffb"]
        catalog.write([Put("edge", key, b"") for key in edges])
        assert [r.key for r in catalog.find("edge", "\ud7ff")] == edges[:2]
        assert [r.key for r in catalog.find("edge", "\U0010ffff")] == edges[3:]
        assert [r.key for r in catalog.find("version")] == sorted(keys, key=str.encode)
        assert catalog.find("nothing") == []

    def test_expected_revisions_hold_or_nothing_is_written(self, catalog: Catalog) -> None:
        catalog.write([Put("alias", "champion", b"1", expected=0)])
        with pytest.raises(Conflict, match="champion"):
            catalog.write([Put("alias", "other", b"x"), Put("alias", "champion", b"2", expected=0)])
        assert catalog.get("alias", "other") is None
        catalog.write([Put("alias", "champion", b"2", expected=1)])
        with pytest.raises(Conflict, match="champion"):
            catalog.write([Remove("alias", "champion", expected=1)])
        catalog.write([Remove("alias", "champion", expected=2)])
        assert catalog.get("alias", "champion") is None
        catalog.write([Remove("alias", "champion")])
        with pytest.raises(Conflict, match="champion"):
            catalog.write([Put("alias", "champion", b"3", expected=2)])

    def test_one_transaction_sees_its_own_changes(self, catalog: Catalog) -> None:
        catalog.write([Put("a", "k", b"1", expected=0), Put("a", "k", b"2", expected=1), Append("j", 5, b"x"),
                       Append("j", 6, b"y", expected=2)])  # fmt: skip
        assert catalog.get("a", "k") == Record("a", "k", 2, b"2")
        assert catalog.journal("j") == [Entry("j", 1, 5, b"x"), Entry("j", 2, 6, b"y")]

    def test_journals_count_their_own_lines(self, catalog: Catalog) -> None:
        for i in range(5):
            catalog.write([Append("ledger", i, b"%d" % i), Append("other", i, b"o")])
        assert [e.sequence for e in catalog.journal("ledger")] == [1, 2, 3, 4, 5]
        assert catalog.journal("ledger", after=1, limit=2) == [Entry("ledger", 2, 1, b"1"), Entry("ledger", 3, 2, b"2")]
        assert catalog.journal("ledger", after=5) == []
        assert catalog.journal("nothing") == []

    def test_an_expected_line_holds_or_nothing_is_written(self, catalog: Catalog) -> None:
        catalog.write([Append("ledger", 1, b"a", expected=1)])
        with pytest.raises(Conflict, match="ledger"):
            catalog.write([Put("x", "y", b""), Append("ledger", 2, b"b", expected=1)])
        assert catalog.get("x", "y") is None
        assert len(catalog.journal("ledger")) == 1

    def test_a_lease_has_one_holder_until_it_runs_out(self, catalog: Catalog, clock: VirtualClock) -> None:
        assert catalog.acquire("controller", "a", 10.0)
        assert not catalog.acquire("controller", "b", 10.0)
        assert catalog.acquire("other", "b", 10.0)
        clock.advance_to(clock.now_us() + 9_000_000)
        assert catalog.acquire("controller", "a", 10.0)  # this renews the lease
        clock.advance_to(clock.now_us() + 9_999_999)
        assert not catalog.acquire("controller", "b", 10.0)
        clock.advance_to(clock.now_us() + 1)
        assert catalog.acquire("controller", "b", 10.0)
        assert not catalog.acquire("controller", "a", 10.0)

    def test_only_the_holder_gives_a_lease_back(self, catalog: Catalog) -> None:
        assert catalog.acquire("controller", "a", 10.0)
        catalog.release("controller", "b")
        assert not catalog.acquire("controller", "b", 10.0)
        catalog.release("controller", "a")
        catalog.release("controller", "a")
        assert catalog.acquire("controller", "b", 10.0)

    def test_what_is_no_name_or_time_is_refused(self, catalog: Catalog) -> None:
        with pytest.raises(Misuse):
            catalog.write([Put("", "k", b"")])
        with pytest.raises(Misuse):
            catalog.write([Append("a\0b", 1, b"")])
        with pytest.raises(Misuse):
            catalog.acquire("lease", "a", 0.0)

    def test_threads_that_compare_and_swap_lose_no_step(self, catalog: Catalog) -> None:
        catalog.write([Put("n", "n", b"0")])
        conflicts = []

        def work() -> None:
            done = 0
            while done < 10:
                record = catalog.get("n", "n")
                assert record is not None
                body = b"%d" % (int(record.body) + 1)
                try:
                    catalog.write([Put("n", "n", body, expected=record.revision), Append("steps", 0, body)])
                    done += 1
                except Conflict as conflict:
                    conflicts.append(conflict)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert catalog.get("n", "n") == Record("n", "n", 41, b"40")
        assert [e.body for e in catalog.journal("steps")] == [b"%d" % i for i in range(1, 41)]

    def test_a_mark_changes_with_every_change_and_with_nothing_else(self, catalog: Catalog) -> None:
        catalog.write([Put("kind", "key", b"0")])
        mark = catalog.mark()
        if mark is None:
            return  # this catalogue has no mark, so callers must read it
        catalog.get("kind", "key")
        catalog.find("kind")
        assert (catalog.mark(), catalog.mark()) == (mark, mark)
        seen = {mark}
        changes: list[Put | Remove | Append] = [
            Put("kind", "key", b"1"), Append("journal", 1, b"line"), Remove("kind", "key", expected=2)
        ]  # fmt: skip
        for change in changes:
            catalog.write([change])
            seen.add(catalog.mark())
        assert catalog.acquire("lease", "me", 1.0)
        seen.add(catalog.mark())
        assert len(seen) == 5

    def test_vacuum_changes_no_record(self, catalog: Catalog) -> None:
        catalog.write([Put("model", "late", b"1"), Put("model", "soon", b"2"), Append("ledger", 7, b"{}")])
        catalog.write([Put("model", "late", b"3"), Remove("model", "soon")])
        before = catalog.find("model"), catalog.journal("ledger")
        catalog.vacuum()
        assert (catalog.find("model"), catalog.journal("ledger")) == before
