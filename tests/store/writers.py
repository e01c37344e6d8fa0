"""The other process of the crash tests: `writers.py STORE HOW PATH FIRST` writes numbers and acknowledges them.

HOW is `until-killed` (for ever), `some` (40 writes), `filled` (until no file may grow) or `full` (then a write more,
with the limit lifted).
"""

from __future__ import annotations

import itertools
import os
import random
import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from trimtab import store
from trimtab.core.columns.packs import pack
from trimtab.core.errors import Conflict, Unavailable
from trimtab.store.sqlite.log import SqliteLog

Write = Callable[[int], None]


def log_writer(path: Path) -> Write:
    log = SqliteLog(path)
    log.append([b"0/0/1/start"])
    noise = os.urandom(5_000)

    def write(number: int) -> None:
        size = 1 + number % 4
        payloads = [b"%d/%d/%d/%d/" % (os.getpid(), number, i, size) + noise[: number % 5_000] for i in range(size)]
        if number % 3:
            log.append(payloads)
        else:
            log.append_packs([pack(size, [payloads])])

    return write


def kv_writer(path: Path) -> Write:
    values = store.open(f"lmdb://{path}", "kv")

    def write(number: int) -> None:
        text = b"%d" % number
        values.write({b"n%d" % i: text for i in range(10)} | {b"row/%d" % number: text * 2_000})

    return write


def blob_writer(path: Path) -> Write:
    blobs = store.open(f"file://{path}", "blob")

    def write(number: int) -> None:
        blobs.put(random.Random(number).randbytes(number * 10_000 % 1_000_003))

    return write


def catalog_writer(path: Path) -> Write:
    catalog = store.open(f"sqlite://{path}/catalog.db", "catalog")

    def write(number: int) -> None:
        body = b"%d" % number
        catalog.write([store.Put("n", "n", body), store.Append("j", number, body * 2_000, expected=number)])

    return write


def counter(path: Path) -> Write:
    """Each write adds one to a record that other processes count up as well."""
    catalog = store.open(f"sqlite://{path}/catalog.db", "catalog")

    def write(number: int) -> None:
        while True:
            record = catalog.get("n", "n")
            body = b"%d" % (1 if record is None else int(record.body) + 1)
            expected = 0 if record is None else record.revision
            try:
                catalog.write([store.Put("n", "n", body, expected=expected), store.Append("j", 0, body)])
                return
            except Conflict:
                continue

    return write


def table_writer(path: Path, writer: str = "w") -> Write:
    from trimtab.core.columns.data import Columns

    table = store.open(f"delta://{path}", "table")

    def write(number: int) -> None:
        noise = [random.Random(number).randbytes(2_000).hex()] * 3
        rows = Columns.of({"n": ("int", [number] * 3), "noise": ("str", noise)})
        table.append(rows, writer=writer, position=number)  # False when the disk was full only after the commit
        if number % 10 == 0:
            table.compact()

    return write


WRITERS: dict[str, Callable[[Path], Write]] = {
    "log": log_writer,
    "kv": kv_writer,
    "blob": blob_writer,
    "catalog": catalog_writer,
    "counter": counter,
    "tables": lambda path: table_writer(path, f"w{os.getpid()}"),
    "table": table_writer,
}
_printing = threading.Lock()


def acknowledge(*words: object) -> None:
    with _printing:
        os.write(1, (" ".join(map(str, words)) + "\n").encode())


def until_killed(name: str, write: Write, first: int) -> None:
    numbers = itertools.count(first)

    def work() -> None:
        for number in numbers:
            write(number)
            acknowledge(os.getpid(), number)

    threads = [threading.Thread(target=work) for _ in range(4 if name == "log" else 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def full(write: Write, first: int, *, lifted: bool) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    write(first)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    number, refused = first + 1, 0
    while refused < 3:
        try:
            write(number)
        except Unavailable as error:
            refused += 1
            acknowledge("unavailable", error)
        else:
            acknowledge(os.getpid(), number)
            number += 1
    if not lifted:
        return
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    write(number)
    acknowledge(os.getpid(), number)


def main() -> None:
    name, how, path, first = sys.argv[1:]
    write = WRITERS[name](Path(path))
    if how in ("filled", "full"):
        full(write, int(first), lifted=how == "full")
    elif how == "some":
        for number in range(int(first), int(first) + 40):
            write(number)
            acknowledge(os.getpid(), number)
    else:
        until_killed(name, write, int(first))


if __name__ == "__main__":
    main()
