from pathlib import Path

import pytest

from trimtab.core.errors import Misuse
from trimtab.events.definitions import Time, source
from trimtab.events.files.files import read_file


@pytest.mark.fast
@pytest.mark.parametrize(
    ("columns", "time", "message"),
    [
        ({"_id": str}, "at", "'_id' begins with an underscore"),
        ({"_x": float}, "at", "'_x' begins with an underscore.*Name it 'x'"),
        ({"x": float}, "_at", "'_at' begins with an underscore"),
        ({"_": float}, "at", "Name it 'column'"),
        ({"Speed": float, "speed": float}, "at", "'Speed' and 'speed' differ only in case"),
        ({"At": float}, "at", "'At' and 'at' differ only in case"),
        ({"Äh": float, "äh": str}, "at", "'Äh' and 'äh' differ only in case"),
        ({"": float}, "at", "named ''"),
        ({5: float}, "at", "named 5"),
    ],
)
def test_columns_that_could_not_be_told_apart_in_files_and_tables_are_refused(
    columns: dict[str, type], time: str, message: str
) -> None:
    with pytest.raises(Misuse, match=message):
        source("readings", time=time, columns=columns)


def test_the_time_may_be_declared_among_the_columns() -> None:
    assert source("readings", time="at", columns={"at": Time, "x": float}).columns == {"at": "time", "x": "float"}


def test_columns_of_a_file_may_differ_in_case_alone(tmp_path: Path) -> None:
    path = tmp_path / "readings.csv"
    path.write_text("at,x,X\n2026-01-01,1,2\n")
    read = read_file(path, source("readings", time="at", columns={"x": float}))
    assert (read.columns["x"].to_list(), read.ignored) == ([1.0], ("X",))
