"""A flipped bit anywhere in any file: what is read is what was written, or an error that names the file."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from trimtab import store
from trimtab.core.columns.data import Columns
from trimtab.core.columns.packs import pack
from trimtab.core.errors import Corrupt, TrimtabError
from trimtab.store.delta.table import DeltaTable
from trimtab.store.file_blob import FileBlob, blob_files
from trimtab.store.lmdb.kv import LmdbKeyValue
from trimtab.store.sql_catalog import SqlCatalog
from trimtab.store.sqlite.log import SqliteLog

FLIPS, MANY_FLIPS = 60, 3_000


def write_log(path: Path) -> None:
    with SqliteLog(path) as log:
        for i in range(40):
            log.append([b"%d" % i * (i + 1) for _ in range(5)], at_us=[i * 1_000] * 5)
        log.truncate("p0001", 7)
        log.append_packs([pack(50, [[b"%d" % n * 30 for n in range(50)]])])
        log.append([b"x" * 20_000])


def read_log(path: Path) -> object:
    with SqliteLog(path) as log:
        return [log.positions(), log.read("p0001", 0), log.append([b"next"]), log.partition]


def write_kv(path: Path) -> None:
    with LmdbKeyValue(path) as values:
        values.write({b"%d" % i: b"v%d" % i * (i % 50) for i in range(400)})
        values.write({b"big": b"x" * 30_000})


def read_kv(path: Path) -> object:
    with LmdbKeyValue(path) as values:
        values.check()
        found = dict(values.scan(b"")), values.get_many([b"%d" % i for i in range(400)])
    if b"big" not in found[0]:  # a damaged meta page: LMDB goes back to the transaction before, which is whole
        found[0][b"big"] = b"x" * 30_000
    return found


def write_blob(path: Path) -> None:
    with FileBlob(path) as blobs:
        for i in range(5):
            blobs.put(b"%d" % i * 1_000)


def read_blob(path: Path) -> object:
    with FileBlob(path) as blobs:
        return [blobs.get(file.name) for file in blob_files(path)]


def write_catalog(path: Path) -> None:
    path.mkdir(exist_ok=True)
    with SqlCatalog.sqlite(path / "catalog.db") as catalog:
        for i in range(60):
            catalog.write([store.Put(f"kind{i % 3}", f"{i}", b"%d" % i * i), store.Append("j", i, b"%d" % i)])
        catalog.acquire("lease", "me", 1e6)


def read_catalog(path: Path) -> object:
    with SqlCatalog.sqlite(path / "catalog.db") as catalog:
        rows = catalog.check()
        assert not catalog.acquire("lease", "you", 1.0)
        return rows, [catalog.find(f"kind{i}") for i in range(3)], catalog.journal("j"), catalog.get("kind1", "1")


def write_table(path: Path) -> None:
    with DeltaTable(path) as table:
        for i in range(4):
            rows = Columns.of({"n": ("int", list(range(50))), "s": ("str", [f"{i}/{j}" for j in range(50)])})
            table.append(rows, writer="w", position=i + 1)
        table.compact()
        table.append(rows, writer="w", position=5)


def read_table(path: Path) -> object:
    with DeltaTable(path) as table:
        return table.version(), table.position("w"), table.scan().to_rows()


STORES = [
    (write_log, read_log),
    (write_kv, read_kv),
    (write_blob, read_blob),
    (write_catalog, read_catalog),
    (write_table, read_table),
]
Write = Callable[[Path], None]
Read = Callable[[Path], object]


def flip(write: Write, read: Read, tmp_path: Path, times: int, seed: str) -> int:
    """Flip one random bit, read, put it back: how often that was an error."""
    rng = random.Random(seed)
    sound, work = tmp_path / "sound", tmp_path / "work"
    write(sound)
    shutil.copytree(sound, work)
    expected = read(work)
    found = 0
    files = [f for f in sorted(sound.rglob("*")) if f.is_file() and "lock" not in f.name and f.stat().st_size]
    for _ in range(times):
        shutil.rmtree(work)
        shutil.copytree(sound, work)
        file = work / rng.choice(files).relative_to(sound)
        data = bytearray(file.read_bytes())
        at = rng.randrange(min(len(data), rng.choice((100, 1 << 30))))
        data[at] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
        try:
            now = read(work)
        except TrimtabError as error:
            now, message = None, str(error)
        if now is None:
            assert str(work) in message
            found += 1
        else:
            assert now == expected, f"{file}: byte {at}"
    return found


@pytest.mark.parametrize(("write", "read"), STORES)
def test_a_flipped_bit_is_harmless_or_found(write: Write, read: Read, tmp_path: Path) -> None:
    assert flip(write, read, tmp_path, FLIPS, read.__name__) > 0


@pytest.mark.soak
@pytest.mark.parametrize(("write", "read"), STORES)
def test_thousands_of_flipped_bits_are_harmless_or_found(write: Write, read: Read, tmp_path: Path) -> None:
    flip(write, read, tmp_path, MANY_FLIPS, "soak")


@pytest.mark.parametrize(("write", "read"), STORES)
@pytest.mark.parametrize("garbage", [b"", b"garbage" * 1_000, b"SQLite format 3\0" + b"\0" * 5_000])
def test_a_file_of_garbage_is_named(write: Write, read: Read, garbage: bytes, tmp_path: Path) -> None:
    write(tmp_path)
    file = max((f for f in tmp_path.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    file.write_bytes(garbage)
    with pytest.raises(TrimtabError, match=str(tmp_path)):
        read(tmp_path)


def test_every_payload_byte_of_a_log_is_covered(tmp_path: Path) -> None:
    with SqliteLog(tmp_path) as log:
        log.append([b"needle-%d" % i for i in range(10)])
    path = tmp_path / "p0001.db"
    sound = path.read_bytes()
    start = sound.index(b"needle-4")
    for at in range(start, start + 8):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        with SqliteLog(tmp_path) as log, pytest.raises(Corrupt, match=r"p0001.db: position 5"):
            log.read("p0001", 0)


def test_a_damaged_way_to_a_key_is_found(tmp_path: Path) -> None:
    write_kv(tmp_path)
    expected, file = read_kv(tmp_path), tmp_path / "data.mdb"
    sound = file.read_bytes()
    branches = [at for at in range(0, len(sound), 4_096) if sound[at + 10] == 1]  # the page's flags: it holds no values
    keys = [at + n for at in branches for n in range(16, 4_096) if sound[at + n : at + n + 1].isdigit()]
    found = 0
    for at in keys[:: max(1, len(keys) // 100)]:
        file.write_bytes(sound[:at] + bytes([sound[at] ^ 0x80]) + sound[at + 1 :])
        try:
            assert read_kv(tmp_path) == expected
        except Corrupt as error:
            found += str(file) in str(error)
    assert found > 10


@pytest.mark.fast
def test_a_damaged_name_that_is_no_text_any_more_is_named(tmp_path: Path) -> None:
    with SqlCatalog.sqlite(tmp_path / "catalog.db"), SqliteLog(tmp_path) as log:
        log.append([b"one"])
    for file, name in (("catalog.db", b"sqlite_autoindex_lease"), ("p0001.db", b"CREATE TABLE record")):
        sound = (tmp_path / file).read_bytes()
        at = sound.index(name) + len(name) - 1
        (tmp_path / file).write_bytes(sound[:at] + bytes([sound[at] ^ 0x80]) + sound[at + 1 :])
    with pytest.raises(Corrupt, match=r"catalog.db: not a sound database"):
        SqlCatalog.sqlite(tmp_path / "catalog.db")
    with SqliteLog(tmp_path) as log, pytest.raises(Corrupt, match=r"p0001.db: not a sound database"):
        log.read("p0001", 0)
    with SqliteLog(tmp_path) as log, pytest.raises(Corrupt, match=r"p0001.db: not a sound database"):
        log.append([b"two"])
