"""Small files that would become large are refused; those that pack well are read."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from trimtab.core.errors import Misuse
from trimtab.events.definitions import Source
from trimtab.events.files.files import read_file

SOURCE = Source(name="s", time="at", columns={"who": "str", "at": "time"})
LINE = b"ann,2024-05-01T00:00:00Z\n"


@pytest.mark.parametrize("name", ["rows.csv.gz", "rows.tsv.gz", "rows.ndjson.gz"])
def test_a_packed_text_may_not_become_far_longer(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(bytes(60_000_000)))
    with pytest.raises(Misuse, match=rf"{name}: unpacked, it has more than \d+ bytes \(100 times its size"):
        read_file(tmp_path / name, SOURCE)


def test_a_text_that_packs_well_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(b"who,at\n" + LINE * 50_000))
    assert read_file(tmp_path / "rows.csv.gz", SOURCE).columns.rows == 50_000


@pytest.mark.parametrize("data", [b"who,at\n", gzip.compress(b"who,at\n" + LINE * 9, mtime=0)[:-9], b""])
def test_what_is_no_gzip_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "rows.csv.gz").write_bytes(data)
    with pytest.raises(Misuse, match=r"file .*rows\.csv\.gz"):
        read_file(tmp_path / "rows.csv.gz", SOURCE)


def test_a_parquet_file_may_not_say_one_row_without_end(tmp_path: Path) -> None:
    def write(rows: int) -> Path:
        same = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array(["ann"]))
        at = pa.array(np.full(rows, 1_700_000_000_000_000), pa.timestamp("us"))
        parquet.write_table(pa.table({"who": same, "at": at}), tmp_path / "rows.parquet", compression="zstd")
        return tmp_path / "rows.parquet"

    assert read_file(write(300_000), SOURCE).columns.rows == 300_000
    with pytest.raises(
        Misuse, match=r"its 3000000 rows would take about 300000000 bytes of memory, more than 400 times"
    ):
        read_file(write(3_000_000), SOURCE)
