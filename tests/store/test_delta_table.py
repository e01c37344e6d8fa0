from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import deltalake
import duckdb
import pytest

import forked
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Corrupt, Misuse, NotFound
from trimtab.store.delta.log import _not_now
from trimtab.store.delta.table import DeltaTable
from trimtab.testing import TableContract

Start = Callable[[str, str, Path], subprocess.Popen[str]]


class TestDeltaTable(TableContract):
    @pytest.fixture
    def table(self, tmp_path: Path) -> Iterator[DeltaTable]:
        with DeltaTable(tmp_path / "it's a [tab]le* 20%?") as table:
            yield table


def numbers(*values: int) -> Columns:
    return Columns.of({"n": ("int", list(values)), "s": ("str", [f"person-{v}" for v in values])})


@pytest.mark.fast
def test_rows_and_positions_are_there_after_reopening_and_checkpoints(tmp_path: Path) -> None:
    with DeltaTable(tmp_path) as table:
        for i in range(1, 61):
            table.append(numbers(i), writer="w", position=i)
    assert list((tmp_path / "_delta_log").glob("*50.checkpoint.parquet"))
    with DeltaTable(tmp_path) as table:
        assert table.position("w") == 60
        assert table.version() == 60
        assert table.scan(["n"])["n"].to_list() == list(range(1, 61))
        assert table.scan(["n"], version=10)["n"].to_list() == list(range(1, 11))


def test_other_readers_of_delta_lake_can_read_it(tmp_path: Path) -> None:
    with DeltaTable(tmp_path) as table:
        table.append(numbers(1, 2, 3), writer="w", position=1)
    found = deltalake.QueryBuilder().register("t", deltalake.DeltaTable(str(tmp_path)))
    assert found.execute("select sum(n) as total from t").read_all()["total"].to_pylist() == [6]


def test_a_deleted_value_is_in_no_file_any_more(tmp_path: Path) -> None:
    with DeltaTable(tmp_path) as table:
        table.append(numbers(1, 2), writer="w", position=1)
        table.append(numbers(3), writer="w", position=2)
        table.compact()
        before = table.version()
        assert table.erase(Columns.of({"s": ("str", ["person-2"])})) == 1
        assert table.scan(["n"])["n"].to_list() == [1, 3]
        assert table.scan(["n"], version=0)["n"].to_list() == []
        with pytest.raises(NotFound, match="which a delete removed"):
            table.scan(version=before)
        deltalake.DeltaTable(str(tmp_path)).version()
    for file in tmp_path.glob("*.parquet"):
        assert ("person-2",) not in duckdb.sql(f"SELECT s FROM read_parquet('{file}')").fetchall()
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"person-2" in file.read_bytes()]


def test_processes_append_the_same_rows_at_once_and_compact(start_writer: Start, tmp_path: Path) -> None:
    writers = [start_writer("tables", "some", tmp_path) for _ in range(2)]
    for writer in writers:
        assert writer.wait(timeout=60) == 0
    with DeltaTable(tmp_path) as table:
        assert [table.position(f"w{writer.pid}") for writer in writers] == [40, 40]
        assert Counter(table.scan(["n"])["n"].to_list()) == dict.fromkeys(range(1, 41), 6)


def test_two_tables_with_one_writer_take_each_position_once(tmp_path: Path) -> None:
    with DeltaTable(tmp_path) as one, DeltaTable(tmp_path) as two:
        assert one.append(numbers(1), writer="w", position=1)
        assert not two.append(numbers(1), writer="w", position=1)
        assert two.append(numbers(2), writer="w", position=2)
        assert not one.append(numbers(2), writer="w", position=2)
        assert one.scan(["n"])["n"].to_list() == [1, 2]


def test_a_damaged_data_file_is_named(tmp_path: Path) -> None:
    with DeltaTable(tmp_path) as table:
        table.append(numbers(*range(1_000)), writer="w", position=1)
    (file,) = tmp_path.glob("*.parquet")
    data = bytearray(file.read_bytes())
    data[200] ^= 1
    file.write_bytes(data)
    with DeltaTable(tmp_path) as table, pytest.raises(Corrupt, match=file.name):
        table.scan()


def test_a_changed_commit_is_named(tmp_path: Path) -> None:
    with DeltaTable(tmp_path) as table:
        table.append(numbers(1), writer="w", position=7)
    commit = tmp_path / "_delta_log" / f"{1:020}.json"
    commit.write_text(commit.read_text().replace('"version":7', '"version":8'))
    with pytest.raises(Corrupt, match=commit.name):
        DeltaTable(tmp_path)
    (tmp_path / "_checks" / commit.name).unlink()  # its writer was killed before it could seal it
    with DeltaTable(tmp_path) as table, pytest.raises(Corrupt, match="position of writer 'w'"):
        table.position("w")


def test_a_foreign_table_and_odd_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="%20"):
        DeltaTable(tmp_path / "a%20b")
    with DeltaTable(tmp_path / "t") as table:
        with pytest.raises(Misuse, match="differ only in case"):
            table.append(Columns.of({"a": ("int", [1]), "A": ("int", [1])}), writer="w", position=1)
        with pytest.raises(Misuse, match="no columns"):
            table.append(Columns({}), writer="w", position=1)
        with pytest.raises(Misuse, match="UTF-8"):
            table.append(Columns.of({"s": ("str", ["\ud800"])}), writer="w", position=1)
    deltalake.DeltaTable.create(
        str(tmp_path / "foreign"), deltalake.Schema([deltalake.Field("a", deltalake.schema.PrimitiveType("long"))])
    )
    with pytest.raises(Misuse, match="trimtab table, format 1"):
        DeltaTable(tmp_path / "foreign")


def test_a_full_disk_is_called_so_and_no_colours_are_shown(tmp_path: Path) -> None:
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom trimtab.core.columns.data import Columns\n"
        "from trimtab.core.errors import Unavailable\nfrom trimtab.store.delta.table import DeltaTable\n"
        "table = DeltaTable(Path(sys.argv[1]))\nrows = Columns.of({'n': ('int', [1])})\n"
        "table.append(rows, writer='w', position=1)\nresource.setrlimit(resource.RLIMIT_FSIZE, (200,) * 2)\n"
        "try: table.append(rows, writer='w', position=2)\nexcept Unavailable as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "table")]
    said = forked.run(command, capture_output=True, text=True, check=True).stdout
    assert "full" in said or "Check free space" in said
    assert "\x1b" not in said
    error = OSError("Generic LocalFileSystem error\n \x1b[31m↳\x1b[0m Unable to copy data to file: os error 28")
    assert str(_not_now(tmp_path, error)).endswith(
        "the disk is full. Nothing was lost; free some space and do this again."
    )
    other = str(_not_now(tmp_path, OSError("Generic error\n \x1b[31m↳\x1b[0m No access")))
    assert other == f"{tmp_path}: Generic error No access. Check free space and access, and try again."


def test_a_full_disk_is_called_so_where_rows_are_written(tmp_path: Path) -> None:
    program = (
        "import resource, signal, sys\nfrom pathlib import Path\nfrom trimtab.core.columns.data import Columns\n"
        "from trimtab.store.delta.table import DeltaTable\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "rows = Columns.of({'n': ('str', [str(n * n * 7919 % 1000003) for n in range(20_000)])})\n"
        "table = DeltaTable(Path(sys.argv[1]))\ntable.append(rows.take(slice(9)), writer='w', position=1)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000,) * 2)\n"
        "try:\n    table.append(rows, writer='w', position=2)\nexcept Exception as error:\n    print(error)\n"
    )
    done = forked.run([sys.executable, "-c", program, tmp_path / "t"], capture_output=True, text=True, check=True)
    full = "the disk is full. Nothing was lost; free some space and do this again."
    assert done.stdout == f"{tmp_path / 't'}: {full}\n"


APPENDS = """
import sys
from pathlib import Path
from trimtab.core.columns.data import Columns
from trimtab.store.delta.table import DeltaTable
table = DeltaTable(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for position in range(2, 22):
    rows = Columns.of({"n": ("int", [position])})
    if table.append(rows, writer="w", position=position):
        print(position)
"""


def test_two_processes_that_append_for_one_writer_take_each_position_once(tmp_path: Path) -> None:
    """Delta refuses the commit that was begun before another one moved the same application's transaction."""
    path = tmp_path / "t"
    with DeltaTable(path) as table:
        table.append(Columns.of({"n": ("int", [1])}), writer="w", position=1)
    command = [sys.executable, "-c", APPENDS, str(path)]
    started = [forked.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for one in started:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in started:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    taken = [int(line) for one in started for line in one.communicate()[0].split()]
    assert sorted(taken) == list(range(2, 22))
    with DeltaTable(path) as table:
        assert sorted(table.scan()["n"].to_list()) == list(range(1, 22))


def test_a_commit_that_was_begun_before_another_moved_its_writer_is_refused(tmp_path: Path) -> None:
    """What `append` relies on, whatever the timing."""
    path = tmp_path / "t"
    with DeltaTable(path) as table:
        table.append(Columns.of({"n": ("int", [1])}), writer="w", position=1)
    early, late = (deltalake.DeltaTable(str(path)) for _ in range(2))

    def moves(delta: deltalake.DeltaTable) -> None:
        properties = deltalake.CommitProperties(app_transactions=[deltalake.Transaction("w", 2)])
        delta.create_write_transaction([], "append", delta.schema(), commit_properties=properties)

    moves(early)
    with pytest.raises(deltalake.exceptions.CommitFailedError):
        moves(late)
