"""Frames of every library go in wherever rows are taken, and come out with the answers."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from test_labels_at_hand import NOW_US, Scaffolded, trained_on

import trimtab as tt
from trimtab.core.clock import ShiftedClock
from trimtab.core.columns import Columns
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.time import HOUR_US, format_time
from trimtab.serving.answer.batch import batch_predictions

AT = ["2026-04-05T06:05:00", "2026-04-05T06:10:00"]


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Scaffolded:
    return trained_on(tmp_path_factory.mktemp("frames"), "entity")


@pytest.fixture
def made(made_once: Scaffolded, tmp_path: Path) -> Scaffolded:
    """A copy of the project, because the clock of each test begins again."""
    return msgspec.structs.replace(made_once, folder=Path(shutil.copytree(made_once.folder, tmp_path / "made")))


def pandas_frame() -> pd.DataFrame:
    frame = pd.DataFrame({"id": ["c1", "c2"], "at": pd.to_datetime(AT), "x": [0.25, 0.75], "more": [[1], [2, 3]]})
    frame["id"] = frame["id"].astype("category")
    frame["x"] = frame["x"].astype("Float64")
    return frame.set_index(pd.Index(["first", "second"]))


FRAMES: dict[str, Callable[[], Any]] = {
    "pandas": lambda: pandas_frame().drop(columns="more"),
    "polars": lambda: pl.DataFrame({"id": ["c1", "c2"], "at": AT, "x": [0.25, 0.75]}).with_columns(
        pl.col("at").str.to_datetime()
    ),
    "pyarrow": lambda: pa.table({"id": ["c1", "c2"], "at": AT, "x": [0.25, 0.75]}),
    "duckdb": lambda: duckdb.sql(
        f"SELECT * FROM (VALUES ('c1', TIMESTAMP '{AT[0]}', 0.25::FLOAT), ('c2', '{AT[1]}', 0.75)) t(id, \"at\", x)"
    ),
    "columns": lambda: Columns.from_arrow(pl.DataFrame({"id": ["c1", "c2"], "at": AT, "x": [0.25, 0.75]})),
    "dicts": lambda: [{"id": "c1", "at": AT[0], "x": 0.25}, {"id": "c2", "at": AT[1], "x": 0.75}],
}


def rows(frame: Any) -> list[dict[str, Any]]:
    if isinstance(frame, list):
        return frame
    return frame.to_rows() if isinstance(frame, Columns) else pl.DataFrame(frame).to_dicts()


@pytest.mark.parametrize("kind", FRAMES)
def test_a_frame_comes_back_of_its_library_with_the_answers(made: Scaffolded, kind: str) -> None:
    frame = FRAMES[kind]()
    with tt.open(made.folder, clock=ShiftedClock(NOW_US + HOUR_US), environment={}) as project:
        found = project.predict_frame(frame)
        assert type(found) is type(frame)
        first, second = rows(found)
        assert [first[name] for name in ("id", "x")] == ["c1", 0.25]
        assert first["version"] == second["version"] == "y@2"
        assert 0 < first["score"] < second["score"] < 1
        assert [*second][-4:] == ["score", "version", "prediction_id", "flags"]
        assert project.why(second["prediction_id"]).score == second["score"]
        assert project.why(second["prediction_id"]).request_id.startswith("c2|2026-04-05T06:10:00")
        if kind != "dicts":
            with pytest.raises(Misuse, match="there is already a column 'score'"):
                project.predict_frame(found)


def test_rows_of_earlier_times_are_answered_as_of_their_own_time(made: Scaffolded) -> None:
    times = ["2026-03-20T08:00:00", AT[1], "2026-02-20T08:00:00"]
    frame = pd.DataFrame({"id": ["c1", "c1", "c2"], "at": pd.to_datetime(times), "x": [0.25, 0.5, 0.75]})
    with tt.open(made.folder, clock=ShiftedClock(NOW_US + HOUR_US), environment={}) as project:
        found, again = project.predict_frame(frame), project.predict_frame(frame)
        old = project.predict_table("y", frame.iloc[[0, 2]])
        batch = {p.request_id: p.score for part in batch_predictions(old, project.predictions) for p in part}
        why = [project.predictions.find(one) for one in found["prediction_id"]]
    assert [one.mode for one in why] == ["batch", "live", "batch"]
    assert [format_time(one.at_us)[:19] for one in (why[0], why[2])] == [times[0], times[2]]
    assert [one.request_id[:2] for one in why] == ["c1", "c1", "c2"]
    assert {one.request_id: one.score for one in (why[0], why[2])} == batch
    assert found["score"].tolist() == [one.score for one in why] == again["score"].tolist()
    assert not set(found["prediction_id"]) & set(again["prediction_id"])


def test_a_pandas_frame_keeps_its_index_and_its_types(made: Scaffolded) -> None:
    frame = pandas_frame()
    with tt.open(made.folder, clock=ShiftedClock(NOW_US + HOUR_US), environment={}) as project:
        found = project.predict_frame(frame, "y")
    assert list(found.index) == ["first", "second"]
    assert found.dtypes[list(frame.columns)].equals(frame.dtypes)
    assert found["more"].tolist() == [[1], [2, 3]]


@pytest.mark.parametrize("pyarrow", [True, False], ids=["with pyarrow", "without pyarrow"])
def test_pandas_goes_in_wherever_rows_are_taken(
    made: Scaffolded, pyarrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not pyarrow:
        monkeypatch.setitem(sys.modules, "pyarrow", None)
    frame = pandas_frame().drop(columns="more")
    with tt.open(made.folder, clock=ShiftedClock(NOW_US + HOUR_US), environment={}) as project:
        answers = project.predict_frame(frame)
        scores = answers["score"].tolist()
        assert [one.score for one in project.predict("y", frame.assign(row_id=["a", "b"]))] == scores
        assert project.predict_table("y", frame).rows == 2
        joined = project.join(frame.assign(row_id=["a", "b"]), "y")
        assert joined.like(frame)["history.rows"].tolist() == joined["history.rows"].to_list()
        assert project.ingest("data", frame).accepted == 2
        events = frame.drop(columns="x").assign(y=pd.array([True, None], dtype="boolean"))
        assert project.push("data_labels", events).accepted == 2
        labels = pd.DataFrame({"prediction": answers["prediction_id"], "value": [True, False]})
        assert project.label_table(labels).accepted == 2
        assert [project.why(one).label for one in answers["prediction_id"]] == [1.0, 0.0]


def test_a_frame_that_does_not_fit_is_refused_with_what_lacks(made: Scaffolded) -> None:
    with tt.open(made.folder, environment={}) as project:
        with pytest.raises(Misuse, match="Collect it first"):
            project.predict_frame(pl.LazyFrame({"id": ["c1"]}))
        with pytest.raises(Misuse, match="no column 'x'"):
            project.predict_frame(pl.DataFrame({"id": ["c1"], "at": AT[:1]}))
        with pytest.raises(Misuse, match="row 2, column 'x': needed float, found 'high'"):
            project.predict_frame([{"id": "c1", "at": AT[0], "x": 1.0}, {"id": "c1", "at": AT[1], "x": "high"}])
        count = sum(project.predictions.log.positions().values())
        for lacking, name in [({"id": None}, "id"), ({"at": None}, "at")]:  # the first row alone would be answered
            rows = [{"id": "c1", "at": AT[0], "x": 1.0}, {"id": "c1", "at": AT[1], "x": 1.0} | lacking]
            with pytest.raises(Misuse, match=f"row 2, column {name!r}: needed a value"):
                project.predict_frame(rows)
        assert sum(project.predictions.log.positions().values()) == count
        with pytest.raises(NotFound, match="no deployment of model ''"):
            project.predict_frame([{"id": "c1", "at": AT[0], "x": 1.0}], "")


TYPES = {"f": ("float", [1.5, None]), "i": ("int", [1, 2]), "j": ("int", [1, None]), "b": ("bool", [True, None]),
         "s": ("str", ["a", None]), "t": ("time", [0, None])}  # fmt: skip


@pytest.mark.parametrize("pyarrow", [True, False], ids=["with pyarrow", "without pyarrow"])
@pytest.mark.parametrize("frame", [pd.DataFrame(), pl.DataFrame(), duckdb.sql("SELECT 1"), pa.table({})])
def test_a_table_is_given_as_a_frame_of_a_library_and_read_back(
    frame: Any, pyarrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Columns.of(TYPES)  # type: ignore[arg-type]  # the types are literals
    if not pyarrow and not isinstance(frame, pa.Table):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
    found = table.like(frame)
    assert type(found) is type(frame)
    for _ in range(2):  # a relation may be read more than once
        assert Columns.from_arrow(found).to_rows() == table.to_rows()


def test_a_large_frame_is_answered_in_parts_with_progress(made: Scaffolded) -> None:
    count = 5_100
    frame = pl.DataFrame({"id": [f"c{row % 40}" for row in range(count)], "at": AT[:1] * count, "x": [0.5] * count})
    frame = frame.with_columns(row_id=pl.Series([f"many{row}" for row in range(count)]))
    told: list[tuple[int, int]] = []
    with tt.open(made.folder, clock=ShiftedClock(NOW_US + HOUR_US), environment={}) as project:
        found = project.predict_frame(frame, progress=lambda done, total: told.append((done, total)))
    assert told == [(5_000, count), (count, count)]
    assert found["prediction_id"].n_unique() == count
