"""Projects from one file: what is guessed, what is asked, what is written."""

from __future__ import annotations

import csv
import datetime as dt
import json
import random
import shlex
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.app.start.init.file.table import DataTable
from trimtab.app.start.init.options import Options
from trimtab.app.start.init.scaffold import Scaffolded, scaffold
from trimtab.app.state.definitions import load_definitions
from trimtab.core.errors import Conflict, Misuse, NotFound, TrimtabError
from trimtab.events.files.files import read_file

START = dt.datetime(2024, 1, 31, 10)
ROLES = ("time", "label", "key")


def write(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def rows_of(n: int, *makers: Callable[[int, random.Random], object]) -> list[list[object]]:
    chance = random.Random(1)
    return [[make(i, chance) for make in makers] for i in range(n)]


def moment(i: int, _: random.Random) -> str:
    return (START + dt.timedelta(hours=6 * i)).strftime("%Y-%m-%d %H:%M")


def number(i: int, _: random.Random) -> int:
    return i


def yes_no(i: int, chance: random.Random) -> str:
    return chance.choice(["yes", "no", "no"])


def amount(i: int, chance: random.Random) -> object:
    return "NA" if i % 7 == 0 else round(chance.uniform(1, 99), 2)


def make(tmp_path: Path, header: Sequence[str], rows: Sequence[Sequence[object]], **options: Any) -> Scaffolded:
    return scaffold(write(tmp_path / "data.csv", header, rows), tmp_path / "made", Options(**options))


def text_of(made: Scaffolded) -> str:
    return (made.folder / "project.py").read_text()


def read_back(made: Scaffolded) -> dict[str, int]:
    """Rows of each source of the new project, read from the file by the source's own rules."""
    sources = load_definitions(made.folder / "project.py").sources
    data = (made.folder / shlex.split(made.commands[0])[-1]).resolve()
    return {name: read_file(data, sources[name], on_error="quarantine").columns.rows for name in sources}


def test_time_key_and_label_are_guessed_and_the_files_fit_the_project(tmp_path: Path) -> None:
    made = make(tmp_path, ["id", "at", "fee", "churned"], rows_of(40, number, moment, amount, yes_no))
    assert [(one.role, one.said.split("'")[1], one.option) for one in made.assumed if one.role in ROLES] == [
        ("time", "at", "--time"),
        ("label", "churned", "--label"),
        ("key", "id", "--key"),
    ]
    assert read_back(made) == {"data": 40, "data_labels": 40}
    definitions = load_definitions(made.folder / "project.py")
    assert definitions.models["churned"].task == "binary"
    assert definitions.sources["data"].columns == {"id": "int", "at": "time", "fee": "float"}
    assert definitions.sources["data_labels"].columns["churned"] == "bool"
    assert (made.folder / ".gitignore").read_text() == ".trimtab/\n"


def test_names_of_columns_may_be_anything(tmp_path: Path) -> None:
    header = ["id", "Signed Up", "class", 'say "hi"', "return", "金額", "Ärger\\n", "2 fast", "a", "A", "_id"]
    rows = rows_of(30, number, moment, yes_no, *[lambda i, r: r.randrange(5)] * 8)
    made = make(tmp_path, header, rows, label="class", time="Signed Up", key="id")
    assert read_back(made) == {"data": 30, "data_labels": 30}
    definitions = load_definitions(made.folder / "project.py")
    assert list(definitions.models) == ["class"]
    assert {'say "hi"', "return", "金額", "Ärger\\n", "2 fast", "a", "id"} <= set(definitions.sources["data"].columns)
    assert {name: why.split(",")[0] for name, why in made.left_out.items()} == {
        "A": "differs from 'a' in case alone; rename it in the file to use it",
        "_id": "begins with an underscore",
    }


@pytest.mark.parametrize(
    ("values", "compared"),
    [
        (["1", "0"], "== 1"),
        (["True", "False"], None),
        (["yes", "no"], None),
        (["N", "Y"], None),
        (["1.0", "0.0"], "== 1.0"),
        (["good", "bad"], '== "good"'),
        (["cat", "dog", "dog"], '== "cat"'),
    ],
)
def test_two_values_of_any_kind_are_two_classes(tmp_path: Path, values: list[str], compared: str | None) -> None:
    rows = rows_of(30, number, moment, amount, lambda i, r: values[i % len(values)] if i % 11 else "")
    made = make(tmp_path, ["id", "at", "fee", "out"], rows, label="out")
    assert f'truth = tt.col("out"){f" {compared}" if compared else ""}\n' in text_of(made)
    assert 'metric="log_loss"' in text_of(made)
    assert read_back(made) == {"data": 30, "data_labels": 30}


def test_a_number_with_many_values_is_regression(tmp_path: Path) -> None:
    made = make(tmp_path, ["id", "at", "fee", "y"], rows_of(30, number, moment, amount, amount), estimator="linear")
    assert 'metric="squared_error"' in text_of(made)
    assert "Ridge()" in text_of(made)


@pytest.mark.parametrize("key", ["id", "who"])
def test_a_text_of_several_values_is_a_model_of_several_classes(tmp_path: Path, key: str) -> None:
    kinds = ("basic", "pro", 'te"am')
    rows = rows_of(80, lambda i, _: i, lambda i, _: f"p{i % 9}", moment, amount, lambda i, _: kinds[i % 3])
    made = make(tmp_path, ("id", "who", "at", "amount", "tier"), rows, key=key, time="at", label="tier")
    model = next(iter(load_definitions(made.folder / "project.py").models.values()))
    assert (model.metric, set(model.label.class_names)) == ("multi_log_loss", set(kinds))
    assert type(model.estimator()).__name__ in ("LGBMClassifier", "LogisticRegression")
    assert any("is one of 3 classes" in one.said for one in made.assumed)


def test_many_classes_need_one_to_be_named(tmp_path: Path) -> None:
    rows = rows_of(50, number, moment, amount, lambda i, r: "abcdefghijklmnopqrstuvwxy"[i % 25])
    with pytest.raises(Misuse, match=r"has 25 classes .*up to 20.*--positive"):
        make(tmp_path, ["id", "at", "fee", "y"], rows)
    made = make(tmp_path, ["id", "at", "fee", "y"], rows, positive="b")
    assert 'tt.col("y") == "b"' in text_of(made)


def test_a_key_that_recurs_becomes_an_entity_with_its_past_labels(tmp_path: Path) -> None:
    rows = rows_of(60, lambda i, r: i % 7, moment, amount, yes_no)
    made = make(tmp_path, ["customer_id", "at", "fee", "y"], rows)
    definitions = load_definitions(made.folder / "project.py")
    assert definitions.requests["data"].key == "row_id"
    assert definitions.views["history"].by == ("customer_id",)
    assert read_back(made) == {"data": 60, "data_labels": 60}


def test_rows_of_one_entity_at_one_time_need_more_columns_to_tell_them_apart(tmp_path: Path) -> None:
    rows = [[i % 2, "2024-01-01", i, "yes" if i % 3 else "no"] for i in range(12)]
    with pytest.raises(
        Misuse,
        match=r"10 rows have the same .* but differ otherwise: lines 2 and 4; 3 and 5\. .*--key who_id,day,",
    ):
        make(tmp_path, ["who_id", "day", "x", "y"], rows, key="who_id")
    for folder, key in (("a", "who_id,day,x"), ("b", "row")):
        (tmp_path / folder).mkdir()
        made = make(tmp_path / folder, ["who_id", "day", "x", "y"], rows, key=key)
        source = load_definitions(made.folder / "project.py").sources["data"]
        assert len(set(read_file(tmp_path / folder / "data.csv", source).columns["row_id"].to_list())) == 12


def test_without_a_key_all_columns_together_are_one(tmp_path: Path) -> None:
    rows = rows_of(30, moment, amount, yes_no)
    made = make(tmp_path, ["at", "fee", "y"], rows)
    assert any("a row is identified by all of" in one.said for one in made.assumed)
    assert read_back(made) == {"data": 30, "data_labels": 30}
    (tmp_path / "again").mkdir()
    other = {"yes": "no", "no": "yes"}[rows[0][2]]
    twice = make(tmp_path / "again", ["at", "fee", "y"], [*rows, (rows[0][0], rows[0][1], other)], key="row")
    assert any("1 row corrects" in one.said for one in twice.assumed)


def test_all_columns_include_the_time_although_a_few_rows_have_none(tmp_path: Path) -> None:
    rows = [[f"m{i % 40}", "Bonn", f"2024-01-{1 + i % 28:02}", i % 7, "yes" if i % 3 else "no"] for i in range(280)]
    rows[7][2] = ""
    made = make(tmp_path, ["who_id", "site", "joined", "age", "y"], rows, key="row", time="joined", label="y")
    assert load_definitions(made.folder / "project.py").sources["data"].reading.key_of == (
        "who_id", "site", "joined", "age",
    )  # fmt: skip
    assert read_back(made)["data"] == 280


def test_a_few_negative_values_and_impossible_years_are_odd(tmp_path: Path) -> None:
    rows = [[i, f"2024-01-{1 + i % 28:02}", f"{i % 90}.5", 1950 + i % 50, i - 150, i % 2] for i in range(300)]
    rows[7][2], rows[8][3], rows[9][3] = "-24.9", 0, 1900
    made = make(tmp_path, ["id", "at", "fee", "born", "drift", "y"], rows, key="id", label="y")
    strange = [line for line in made.profile.oddities if "negative" in line or "years" in line]
    assert strange == [
        "'fee': 1 value (-24.9) is negative, the others are not",
        "'born': 2 values (0, 1900) are not between 1901 and 2100, as the other years are",
    ]


def test_a_column_of_numbers_becomes_a_category_where_the_caller_says_so(tmp_path: Path) -> None:
    rows = [[i, f"2024-01-{1 + i % 28:02}", f"0{5000 + i % 250}", f"{i}", i % 2] for i in range(1000)]
    header = ["id", "at", "plz", "x", "y"]
    made = make(tmp_path, header, rows, key="id", label="y", category=["plz"])
    source = load_definitions(made.folder / "project.py").sources["data"]
    assert source.columns["plz"] == "str"
    assert 'tt.col("plz").category()' in text_of(made)
    assert read_file(tmp_path / "data.csv", source).columns["plz"].to_list()[0] == "05000"
    with pytest.raises(NotFound, match="Did you mean 'plz'"):
        scaffold(tmp_path / "data.csv", tmp_path / "other", Options(key="id", label="y", category=["PLZ"]))


def test_a_folder_is_told_from_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="is a folder, needed a file"):
        scaffold(tmp_path, tmp_path / "made", Options())


def test_columns_that_cannot_help_are_left_out_with_a_reason(tmp_path: Path) -> None:
    rows = rows_of(
        120, number, moment, amount, yes_no, lambda i, r: f"note {i}", lambda i, r: "DE", lambda i, r: "", moment
    )
    made = make(tmp_path, ["id", "at", "fee", "y", "note", "country", "nothing", "closed"], rows, time="at", key="id")
    assert list(made.left_out) == ["note", "country", "nothing", "closed"]
    assert list(load_definitions(made.folder / "project.py").sources["data"].columns) == ["id", "at", "fee"]


@pytest.mark.parametrize(
    ("written", "options"),
    [
        ("31.01.2024 10:00", {}),
        ("01/31/2024 10:00", {}),
        ("1706695200", {"time": "at"}),
        ("1706695200000", {"time": "at"}),
        ("2024-01-31T12:00:00+02:00", {}),
        ("20240131", {"time": "at", "time_format": "%Y%m%d"}),
        ("31st 01 2024", {"time": "at", "time_format": "%dst %m %Y"}),
    ],
)
def test_times_are_read_however_they_are_written(tmp_path: Path, written: str, options: dict[str, str]) -> None:
    rows = [[f"k{i}", written, i % 3, "yes" if i % 2 else "no"] for i in range(20)]
    if written == "20240131":
        rows = [[k, f"{w}x", x, y] for k, w, x, y in rows]  # a number would be no calendar day
        options = {**options, "time_format": "%Y%m%dx"}
    made = make(tmp_path, ["id", "at", "x", "y"], rows, **options)
    source = load_definitions(made.folder / "project.py").sources["data"]
    (found,) = set(read_file(tmp_path / "data.csv", source).columns["at"].to_list())
    assert found // 1_000_000 in (1_706_695_200, 1_706_659_200)


def test_day_and_month_in_doubt_are_asked_for(tmp_path: Path) -> None:
    rows = [[i, "03/04/2024", i % 3, i % 2] for i in range(20)]
    with pytest.raises(Misuse, match=r"day or the month first.*--time-format"):
        make(tmp_path, ["id", "at", "x", "y"], rows)


def test_codes_with_leading_zeros_stay_text(tmp_path: Path) -> None:
    rows = [[f"{i:05}", "2024-01-01", f"0{i % 9}", i % 2] for i in range(20)]
    made = make(tmp_path, ["id", "at", "zip", "y"], rows)
    columns = load_definitions(made.folder / "project.py").sources["data"].columns
    assert (columns["id"], columns["zip"]) == ("str", "str")


def test_a_few_bad_times_are_told_and_many_are_refused(tmp_path: Path) -> None:
    rows = [[i, "soon" if i % 200 == 7 else "2024-01-31 10:00", i % 3, i % 2] for i in range(400)]
    made = make(tmp_path, ["id", "at", "x", "y"], rows)
    assert any("2 rows do not fit" in odd and "line 9, column 'at'" in odd for odd in made.profile.oddities)
    with pytest.raises(Misuse, match="is no time"):
        scaffold(
            write(tmp_path / "b.csv", ["id", "at", "x", "y"], [[i, "soon", i, i % 2] for i in range(9)]),
            tmp_path / "other",
            Options(time="at", label="y", key="id"),
        )


def test_times_among_other_texts_are_text_and_said(tmp_path: Path) -> None:
    rows = [[i, moment(i, random.Random(1)), ["pickup", "2024-01-31", "2024-02-01"][i % 3], i % 2] for i in range(60)]
    made = make(tmp_path, ["id", "at", "delivery", "y"], rows)
    assert load_definitions(made.folder / "project.py").sources["data"].columns["delivery"] == "str"
    assert any("'delivery': 66.7 % of its values are times" in odd for odd in made.profile.oddities)


def test_a_number_format_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    rows = rows_of(30, number, moment, amount, yes_no)
    with pytest.raises(Misuse, match=r"--number fee=1\.234,56: too many values are written otherwise"):
        make(tmp_path, ["id", "at", "fee", "y"], rows, number=("fee=1.234,56",))


GOOD = "id,at,fee,y\n1,2024-01-01,2.5,yes\n2,2024-01-02,3.5,no\n3,2024-01-03,4.5,no\n"


@pytest.mark.parametrize(
    ("header", "end"),
    [('id,at,fee,"y\nz"', "\r\n"), ("id,at,fee,y", "\r"), ("\n\nid,at,fee,y", "\n"), ("id,at,fee,filename", "\n")],
    ids=repr,
)
def test_every_row_of_an_odd_file_is_in_the_project(tmp_path: Path, header: str, end: str) -> None:
    file = tmp_path / "data.csv"
    rows = [f"{number},2024-05-{number:02},{number}.5,{'yes' if number % 3 else 'no'}" for number in range(1, 31)]
    file.write_text(end.join([header, *rows]) + "\n", newline="")
    with DataTable(file) as table:
        assert table.rows == 30
        assert [profile.present for profile in table.columns.values()] == [30] * 4


@pytest.mark.parametrize(
    ("text", "options", "kind", "words"),
    [
        ("", {}, Misuse, ["an empty file, needed a header"]),
        ("id,at,fee,y\n", {}, Misuse, ["no rows"]),
        (GOOD + "4,2024-01-04\n", {}, Misuse, ["line 5"]),
        (GOOD + '4,"2024-01-04,1,no\n', {}, Misuse, ["line 5", "a quote that is not closed"]),
        ("1,2024-01-01,2.5\n2,2024-01-02,3.5\n", {}, Misuse, ["first line"]),
        ("id,at,at,y\n1,2,3,4\n", {}, Misuse, ["'at' more than once"]),
        (GOOD, {"time": "when"}, NotFound, ["--time 'when'", "id, at, fee, y"]),
        (GOOD, {"key": "nr"}, NotFound, ["--key 'nr'"]),
        (GOOD, {"label": "FEES"}, NotFound, ["Did you mean 'fee'?"]),
        (GOOD, {"time_format": "feee=%Y-%m-%d"}, NotFound, ["Did you mean 'fee'?"]),
        (GOOD, {"label": "z"}, NotFound, ["--label 'z'"]),
        (GOOD, {"time": "fee"}, Misuse, ["'fee'", "is no time"]),
        (GOOD, {"key": "fee"}, Misuse, ["'fee' is float", "--key row"]),
        (GOOD, {"label": "at"}, Misuse, ["--label 'at' is the time"]),
        (GOOD, {"key": "y"}, Misuse, ["already the label"]),
        (GOOD, {"positive": "maybe"}, Misuse, ["--positive 'maybe'", "no, yes"]),
        (GOOD, {"wait": "soon"}, Misuse, ["duration", "'soon'"]),
        (GOOD.replace("yes", "no"), {}, Misuse, ["--label COLUMN"]),
        (GOOD.replace("yes", "no"), {"label": "y"}, Misuse, ["only 'no'"]),
        ("id,x,y\n1,2,yes\n2,3,no\n", {}, Misuse, ["no column that looks like a time", "--time"]),
        ("id,a_at,b_at,y\n1,2024-01-01,2024-01-02,1\n2,2024-01-01,2024-01-03,0\n", {}, Misuse, ["'a_at', 'b_at'"]),
        ("id,at,y\n1,2024-01-01,1\n2,2024-01-02,0\n", {}, Misuse, ["no column left for features: the file has only"]),
        ("id,at,fee,y\n1,,2.5,1\n2,,3.5,0\n", {}, Misuse, ["column 'at' has no value in any row, needed times"]),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_nothing_is_made(
    tmp_path: Path, text: str, options: dict[str, str], kind: type[TrimtabError], words: list[str]
) -> None:
    file = tmp_path / "data.csv"
    file.write_text(text)
    with pytest.raises(kind) as refused:
        scaffold(file, tmp_path / "made", Options(**options))
    assert [word for word in words if word not in str(refused.value)] == []
    assert not (tmp_path / "made").exists()


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_bytes(GOOD.replace("yes", "jé").encode("latin-1"))
    with pytest.raises(Misuse, match=r"data.csv.*(?i:utf-8)"):
        scaffold(file, tmp_path / "made", Options())


def test_an_excel_export_gets_the_command_that_converts_it(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    advice = rf"iconv -f WINDOWS-1252 -t UTF-8 {file} > {tmp_path}/data-utf8.csv"
    lines = [f"a{i},2024-01-{1 + i % 28:02},{i}.50 \u20ac,{'yes' if i % 3 else 'no'}\n" for i in range(200)]
    for header in ("who_id,day,fee,y\n", "who_id,tag,geb\u00fchr,y\n"):
        file.write_bytes((header + "".join(lines)).encode("cp1252"))
        with pytest.raises(Misuse, match=advice):
            scaffold(file, tmp_path / "made", Options())
    file.write_bytes(("who_id,day,fee,y\n" + "".join(lines)).encode("utf-16"))
    with pytest.raises(Misuse, match=r"needed UTF-8\. Convert it: iconv -f UTF-16 -t UTF-8"):
        scaffold(file, tmp_path / "made", Options())
    file.write_bytes(b"who_id,day,fee,y\n" + "".join(lines).encode() + "é,2024-01-01,1,no\n".encode("cp1252"))
    assert scaffold(file, tmp_path / "made", Options()).folder.exists()  # a single bad line goes to quarantine


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "data.parquet"
    file.write_text(GOOD)
    with pytest.raises(Misuse, match="cannot be read"):
        scaffold(file, tmp_path / "made", Options())


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    file = tmp_path / "Data Set.parquet"
    duckdb.sql(
        "SELECT i AS id, TIMESTAMP '2024-01-01' + to_hours(i) AS \"at\", (i % 2) = 0 AS y, i / 7 AS x, [i] AS many,"
        " (i % 3)::VARCHAR AS code, i::DECIMAL(9, 2) AS price FROM range(40) t(i)"
    ).write_parquet(str(file))
    made = scaffold(file, tmp_path / "made", Options(key="id"))
    columns = load_definitions(made.folder / "project.py").sources["data_set"].columns
    assert columns == {"id": "int", "at": "time", "x": "float", "code": "str", "price": "float"}
    assert read_back(made) == {"data_set": 40, "data_set_labels": 40}


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    made = make(tmp_path, ["id", "at", "fee", "y"], rows_of(20, number, moment, amount, yes_no))
    before = text_of(made)
    with pytest.raises(Conflict, match=r"found existing files: project.py, "):
        make(tmp_path, ["id", "at", "fee", "y"], rows_of(20, number, moment, amount, yes_no))
    assert text_of(made) == before


def test_a_folder_in_use_keeps_its_own_files(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    (folder / "data").mkdir(parents=True)
    (folder / ".gitignore").write_text("*.log\n")
    (folder / "data" / "mine.txt").write_text("mine")
    made = make(tmp_path, ["id", "at", "fee", "y"], rows_of(20, number, moment, amount, yes_no))
    assert (folder / ".gitignore").read_text() == "*.log\n"
    assert any(".gitignore" in note for note in made.notes)
    assert sorted(path.name for path in folder.iterdir()) == [".gitignore", "data", "project.py", "trimtab.toml"]
    assert [path.name for path in (folder / "data").iterdir()] == ["mine.txt"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "data.csv", ["id", "at", "fee", "y"], rows_of(20, number, moment, amount, yes_no))
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(TrimtabError, match="taken"):
        scaffold(file, tmp_path / "taken" / "made", Options())


NAMES = [
    *("id", "ID", "at", "time", "label", "y", "a b", "class", "import", 'q"q', "né", "_id", "_op", "row", "row_id"),
    *("hour", "1st", "金", "x'y", "tab\there", "{x}", "\\n", "features", "tt", "history", "", " ", "a,b", "%s"),
]
CELLS = [
    *("", "NA", "1", "0", "-1", "3.5", "1e400", "inf", "99999999999999999999999", "007", "yes", "no", "True", "false"),
    *("2024-01-31", "2024-01-31 10:00", "31/12/2024", "infinity", "1706695200", "a'b", 'a"b', "x\ny", "🙂", "0x10"),
    *("1,5", "epoch", "9999-12-31 23:59:59", "0001-01-01", "294000-01-01", "\\", "{}", "'); drop"),
]


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_table_becomes_a_project_that_loads_or_is_refused(data: st.DataObject) -> None:
    header = data.draw(st.lists(st.sampled_from(NAMES), min_size=4, max_size=7, unique=True))
    rows = data.draw(st.integers(1, 25))
    columns = [
        [str(i) for i in range(rows)],
        [f"2024-02-{i % 28 + 1:02} 0{i % 9}:00" for i in range(rows)],
        *(
            data.draw(st.lists(st.sampled_from(pool), min_size=rows, max_size=rows))
            for pool in (data.draw(st.lists(st.sampled_from(CELLS), min_size=1, max_size=4)) for _ in header[2:])
        ),
    ]
    options = Options(
        time=data.draw(st.sampled_from([None, header[1] or None])),
        key=data.draw(st.sampled_from([None, "row", header[0] or None])),
        label=data.draw(st.sampled_from([None, *(name for name in header[2:] if name)])),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = write(folder / "data.csv", header, list(zip(*columns, strict=True)))
        try:
            made = scaffold(file, folder / "made", options)
        except TrimtabError:
            assert not (folder / "made").exists()
        else:
            assert all(count <= rows for count in read_back(made).values())


def test_a_file_without_a_row_that_has_both_time_and_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_text("id,row_id,at,row\n0,2024-02-01 00:00,,\n1,2024-02-02 01:00,NA,\n")
    with pytest.raises(Misuse, match=r"no row has both a time \(row_id\) and a key \(row\)"):
        scaffold(file, tmp_path / "made", Options(key="row"))


def test_a_file_whose_rows_are_all_in_the_future_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "ahead.csv"
    file.write_text("at,x,y\n" + "".join(f"2524-01-{day:02d},{day},{day % 2}\n" for day in range(1, 29)))
    with pytest.raises(Misuse, match=r"all rows are dated in the future by 'at', the first at 2524.*--time-format"):
        scaffold(file, tmp_path / "made", Options(label="y"))


def test_the_proposed_request_is_no_row_that_is_dated_in_the_future(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    rows = [f"r{day},2024-01-{day:02d},{day % 7},{day % 2}\n" for day in range(1, 29)]
    file.write_text("id,at,x,y\n" + "".join([*rows[:20], "r0,9999-12-31,3,1\n", *rows[20:]]))
    made = scaffold(file, tmp_path / "made", Options(label="y"))
    (proposed,) = [one for one in made.commands if "--row" in one]
    row = json.loads(shlex.split(proposed)[-1])
    assert (row["id"], row["at"]) == ("r28", "2024-01-28T00:00:00Z")
