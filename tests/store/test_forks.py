"""What was opened before a fork is refused in the child, which changes nothing for the parent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse
from trimtab.store.delta.table import DeltaTable
from trimtab.store.lmdb.kv import LmdbKeyValue
from trimtab.store.ports import Put
from trimtab.store.sql_catalog import SqlCatalog
from trimtab.store.sqlite.log import SqliteLog

InChild = Callable[[Callable[[], object]], None]
REFUSED = r"opened before the process forked\. Start the child as a new interpreter"
ROWS = Columns.of({"n": ("int", [1])})
STORES: dict[str, tuple[Callable[[Path], Any], dict[str, Callable[[Any], object]]]] = {
    "log": (
        SqliteLog,
        {
            "append": lambda log: log.append([b"one"]),
            "read": lambda log: log.read("p0001", 0),
            "positions": lambda log: log.positions(),
            "truncate": lambda log: log.truncate("p0001", 0),
        },
    ),
    "kv": (
        LmdbKeyValue,
        {
            "write": lambda kv: kv.write({b"a": b"1"}),
            "get": lambda kv: kv.get(b"a"),
            "get_many": lambda kv: kv.get_many([b"a"]),
            "scan": lambda kv: kv.scan(b""),
            "release_writer": lambda kv: kv.release_writer(),
            "reopen_if_replaced": lambda kv: kv.reopen_if_replaced(),
        },
    ),
    "catalog": (
        SqlCatalog.sqlite,
        {
            "write": lambda catalog: catalog.write([Put("a", "b", b"1")]),
            "get": lambda catalog: catalog.get("a", "b"),
            "mark": lambda catalog: catalog.mark(),
            "check": lambda catalog: catalog.check(),
        },
    ),
    "table": (
        DeltaTable,
        {
            "append": lambda table: table.append(ROWS, writer="w", position=table.position("w") + 1),
            "scan": lambda table: table.scan(),
        },
    ),
}


@pytest.mark.parametrize("name", STORES)
def test_a_child_is_refused_and_its_parent_goes_on(name: str, tmp_path: Path, in_child: InChild) -> None:
    make, uses = STORES[name]
    with make(tmp_path / name) as opened:
        for use in uses.values():
            use(opened)

        def child() -> None:
            for use in uses.values():
                with pytest.raises(Misuse, match=REFUSED):
                    use(opened)
            opened.close()
            with pytest.raises(Misuse, match=REFUSED):
                make(tmp_path / name)

        in_child(child)
        for use in uses.values():
            use(opened)
    with make(tmp_path / name) as again:
        for use in uses.values():
            use(again)


@pytest.mark.parametrize("name", ["log", "kv", "catalog"])
def test_a_child_opens_what_its_parent_has_closed(name: str, tmp_path: Path, in_child: InChild) -> None:
    make, uses = STORES[name]
    make(tmp_path / name).close()

    def child() -> None:
        with make(tmp_path / name) as opened:
            for use in uses.values():
                use(opened)

    in_child(child)


def test_a_child_does_not_keep_the_locks_of_its_parent(tmp_path: Path, in_child: InChild) -> None:
    log = SqliteLog(tmp_path)
    assert log.partition == "p0001"

    def child() -> None:
        with pytest.raises(Misuse):
            log.append([b"one"])

    in_child(child)
    log.close()
    with SqliteLog(tmp_path) as other:
        assert other.partition == "p0001"
