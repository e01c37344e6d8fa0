from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest

from trimtab.store.duckdb_opening import open_duckdb


@pytest.mark.parametrize(
    ("said", "config", "threads"),
    [
        ("1", None, 1),
        ("3", None, 3),
        ("3", {"threads": 2}, 2),
        ("", None, None),
        ("0", None, None),
        ("4,2", None, None),  # of nested regions
    ],
)
def test_duckdb_has_as_many_threads_as_numerical_libraries_may(
    monkeypatch: pytest.MonkeyPatch, said: str, config: Any, threads: int | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    asked = "SELECT current_setting('threads')"
    with open_duckdb(config) as connection, duckdb.connect(":memory:") as usual:
        found = connection.execute(asked).fetchone()
        assert found == (usual.execute(asked).fetchone() if threads is None else (threads,))


def test_rows_that_do_not_fit_into_memory_go_to_the_folder_of_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with open_duckdb({"memory_limit": "60MB", "threads": 1}) as connection:
        sorted_rows = "SELECT md5(i::VARCHAR) AS m FROM range(2000000) t(i) ORDER BY m"
        connection.execute(f"CREATE TABLE t AS {sorted_rows}")
        assert list(temporary.iterdir())
    assert not list(here.iterdir())
