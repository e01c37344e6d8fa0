"""A key-value file that was cut short is refused by name, and one that was replaced is read on."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import lmdb
import pytest

from trimtab.core.errors import Corrupt, Unavailable
from trimtab.store.lmdb.kv import LmdbKeyValue
from trimtab.store.lmdb.length import is_cut


def test_a_file_that_was_cut_short_anywhere_is_refused_and_ends_no_process(tmp_path: Path) -> None:
    """Without a look at its length LMDB would read what is not there: the system ends the process for that."""
    with LmdbKeyValue(tmp_path / "whole") as values:
        values.write({b"%05d" % n: b"v" * (n % 300) for n in range(3_000)})
        values.write({b"big": b"x" * 30_000})
    pages = (tmp_path / "whole" / "data.mdb").stat().st_size // 4096
    for left in {2, 3, pages // 3, pages // 2, pages - 1}:
        shutil.copytree(tmp_path / "whole", tmp_path / "cut")
        os.truncate(tmp_path / "cut" / "data.mdb", left * 4096)
        with pytest.raises(Corrupt, match=r"cut/data\.mdb: (cut short|damaged)"):
            LmdbKeyValue(tmp_path / "cut")
        shutil.rmtree(tmp_path / "cut")


def test_a_whole_file_is_never_taken_for_a_cut_one(tmp_path: Path) -> None:
    """One that ends before its last page, too: what a transaction used and freed again is not written."""
    chance = random.Random(1)
    path = tmp_path / "data.mdb"
    with lmdb.open(str(tmp_path), map_size=1 << 28, sync=False) as environment:
        for _ in range(40):
            with environment.begin(write=True) as writing:
                for n in chance.sample(range(2_000), 150):
                    if chance.random() < 0.45:
                        writing.delete(b"%05d" % n)
                    else:
                        writing.put(b"%05d" % n, b"v" * chance.choice((20, 200, 9_000)))
            with environment.begin(), path.open("rb") as file:
                assert not is_cut(file)
        used = max(_reached(path))
    os.truncate(path, (used + 1) * 4096)
    with path.open("rb") as file:
        assert not is_cut(file)
    os.truncate(path, used * 4096)
    with path.open("rb") as file:
        assert is_cut(file)


def _reached(path: Path) -> set[int]:
    """Every page that holds something, found by cutting: what `is_cut` says must change at the last of them."""
    raw = path.read_bytes()
    low, high = 2, len(raw) // 4096
    copy = path.with_name("copy.mdb")
    while low < high:
        middle = (low + high) // 2
        copy.write_bytes(raw[: middle * 4096])
        with copy.open("rb") as file:
            low, high = (middle + 1, high) if is_cut(file) else (low, middle)
    return {low - 1}


def test_a_store_that_was_replaced_is_read_on_and_one_that_was_removed_is_named(tmp_path: Path) -> None:
    here = tmp_path / "here"
    with LmdbKeyValue(tmp_path / "new") as other:
        other.write({b"a": b"new"})
    with LmdbKeyValue(here) as values:
        values.write({b"a": b"old"})
        assert not values.reopen_if_replaced()
        shutil.rmtree(here)
        with pytest.raises(Unavailable, match="was removed while this process reads it"):
            values.reopen_if_replaced()
        assert values.get(b"a") == b"old"  # until there is something else
        os.rename(tmp_path / "new", here)
        assert values.reopen_if_replaced()
        assert not values.reopen_if_replaced()
        assert values.get(b"a") == b"new"
        values.write({b"a": b"newer"})
        with LmdbKeyValue(here) as another:
            assert another.get(b"a") == b"newer"
        shutil.rmtree(here)
        assert values.reopen_if_replaced(make=True)
        assert values.get(b"a") is None


def test_a_damaged_one_in_its_place_is_refused_until_it_is_mended(tmp_path: Path) -> None:
    with LmdbKeyValue(tmp_path) as values:
        values.write({b"a": b"1"})
        sound = (tmp_path / "data.mdb").read_bytes()
        for content, error in ((b"\x55" * 20_000, Corrupt), (b"", Corrupt)):
            (tmp_path / "new").write_bytes(content)
            os.replace(tmp_path / "new", tmp_path / "data.mdb")
            with pytest.raises(error):
                values.reopen_if_replaced()
            with pytest.raises(error):
                values.get(b"a")
            with pytest.raises(error):
                values.write({b"a": b"2"})
        (tmp_path / "new").write_bytes(sound)
        os.replace(tmp_path / "new", tmp_path / "data.mdb")
        assert values.reopen_if_replaced()
        assert values.get(b"a") == b"1"
