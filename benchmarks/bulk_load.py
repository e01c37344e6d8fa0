"""Keys per second of a bulk load of history into a view of ten latest floats, one event a key, on disk and synced.

The history lies in memory in columns, in any order of keys. The floor puts the same keys and bytes, ready made and
sorted, into bare LMDB by appending, in as many transactions.
"""

from __future__ import annotations

import gc
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np

from trimtab import store
from trimtab.core.columns.data import Column, Columns
from trimtab.events.definitions import source
from trimtab.features import aggregates as d
from trimtab.features.definitions import view
from trimtab.features.online.fill.load import load
from trimtab.features.online.generations import place
from trimtab.features.online.packed.plan import ViewPlan

NAME = "bulk_load"
TARGET = "ours >= 500000"
UNIT = "keys/s"
BETTER = "higher"

KEYS = 300_000
BEGIN_US = 1_700_000_000_000_000
COLUMNS = {f"x{i}": float for i in range(10)}
SCORES = source("scores", time="at", columns={"user": str, **COLUMNS})
NEWEST = view("newest", source=SCORES, by="user", features={name: d.latest(name) for name in COLUMNS})
CHUNK = 10_000


class History:
    """One event of every key."""

    most = KEYS

    def __init__(self) -> None:
        chance = np.random.default_rng(5)
        users = [f"user{i:09d}" for i in chance.permutation(KEYS)]
        self._chunks = [self._chunk(chance, users, start) for start in range(0, KEYS, CHUNK)]

    def __iter__(self) -> Iterator[Columns]:
        return iter(self._chunks)

    def _chunk(self, chance: np.random.Generator, users: list[str], start: int) -> Columns:
        rows = np.arange(start, start + CHUNK)
        at = Column("time", BEGIN_US + rows * 1_000)
        times = dict.fromkeys(["at", "_event_at", "_known_at", "_s_at"], at)
        values = {name: Column("float", chance.normal(size=CHUNK)) for name in COLUMNS}
        texts = {
            "user": texts_of(users[start : start + CHUNK]),
            "_partition": texts_of(["p0"] * CHUNK),
            "_id": texts_of([f"{i * 2654435761 % 2**64:016x}" for i in rows.tolist()]),
            "_op": texts_of(["upsert"] * CHUNK),
        }
        return Columns({**times, **values, **texts, "_position": Column("int", rows + 1)})


def texts_of(texts: list[str]) -> Column:
    values = np.empty(len(texts), object)
    values[:] = texts
    return Column("str", values)


class Load:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._history = History()
        self._count = 0
        self.ours()
        kv = store.open(f"lmdb://{self._folder}/ours{self._count}", "kv")
        self._pairs = [(key, value + b"crc4") for key, value in kv.scan(b"x", limit=KEYS)]
        kv.close()
        assert len(self._pairs) == KEYS

    def ours(self) -> float:
        shutil.rmtree(self._folder / f"ours{self._count}", ignore_errors=True)
        self._count += 1
        kv = store.open(f"lmdb://{self._folder}/ours{self._count}", "kv")
        plan = place(ViewPlan(NEWEST), 1)
        gc.collect()
        begin = time.perf_counter()
        for _ in load(kv, plan, self._history, BEGIN_US + 10**12, Counter()):
            pass
        seconds = time.perf_counter() - begin
        kv.close()
        return KEYS / seconds

    def floor(self) -> float:
        shutil.rmtree(self._folder / "bare", ignore_errors=True)
        bare = lmdb.open(str(self._folder / "bare"), map_size=1 << 30)
        gc.collect()
        begin = time.perf_counter()
        for start in range(0, KEYS, 20_000):
            with bare.begin(write=True) as transaction:
                transaction.cursor().putmulti(self._pairs[start : start + 20_000], append=True)
        seconds = time.perf_counter() - begin
        bare.close()
        return KEYS / seconds


def setup(folder: Path) -> Load:
    return Load(folder)


def ours(load: Load) -> float:
    return load.ours()


def floor(load: Load) -> float:
    return load.floor()
