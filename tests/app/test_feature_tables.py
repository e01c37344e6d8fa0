"""Requests joined with features, and snapshots: the same from anything, in memory and on disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import shop

import forked
import trimtab as tt
from trimtab.app.data.training_data import LivingData
from trimtab.app.features import feature_files, feature_runs, feature_tables
from trimtab.app.features.feature_runs import run_in_memory
from trimtab.app.features.feature_values import Sample, values_of
from trimtab.app.features.request_tables import request_table
from trimtab.app.online import history as app_history
from trimtab.app.project import Project
from trimtab.app.state.state import note_kept_from
from trimtab.core.clock import SystemClock
from trimtab.core.columns.data import Column, Columns
from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound
from trimtab.core.time import DAY_US, HOUR_US, format_time
from trimtab.features.parts import loaded_frames, parted_views
from trimtab.features.parts.parted_views import claimed
from trimtab.training.data.parquet import write_parquet

SITE = ["site.level", "site.level_1d"]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with shop.opened(shop.write_project(tmp_path / "project")) as project:
        shop.load(project)
        yield project


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Histories go to disk, in several parts."""
    monkeypatch.setattr(app_history, "_EVENT_BYTES", 10**9)
    monkeypatch.setattr(parted_views, "_PER_EVENT_BYTES", 2 * 10**7)
    monkeypatch.setattr(loaded_frames, "_EVENT_BYTES", 10**9)


def visits(count: int = 200, seed: int = 2) -> Columns:
    chance = np.random.default_rng(seed)
    at = shop.BEGIN_US + chance.integers(0, shop.DAYS * DAY_US, count)
    return Columns.of(
        {
            "visit_id": ("str", [f"q{n}" for n in range(count)]),
            "site": ("str", [["north", "south", "nowhere", None][n] for n in chance.integers(0, 4, count)]),
            "at": ("time", at.tolist()),
            "x": ("float", chance.normal(size=count).tolist()),
            "note": ("str", ["a note"] * count),
        }
    )


def same(one: Columns, other: Columns, names: Any = None) -> bool:
    names = one.names if names is None else names
    return all(repr(one[name].to_list()) == repr(other[name].to_list()) for name in names)


def test_rows_and_columns_stay_and_features_follow(project: Project) -> None:
    asked = visits()
    found = project.join(asked, "buyer")
    assert found.names == ("visit_id", "site", "at", "x", "note", *SITE)
    assert same(asked, found)
    assert found.positions == project.history.positions
    assert found.let_in == {}
    assert "site.level_1d" in repr(found)
    assert Columns.from_arrow(found).names == found.names


def test_the_features_are_those_of_the_training_set(project: Project) -> None:
    data = LivingData(partial(run_in_memory, project.history), project.predictions)
    made = data.training_set(project.definitions.models["buyer"], cut_us=shop.NOW_US)
    found = project.join(made.requests)
    assert same(made.features.values, found, SITE)


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_files_and_rows_give_what_columns_give(project: Project, tmp_path: Path, ending: str) -> None:
    asked = visits(30)
    expected = project.join(asked)
    out = tmp_path / f"out{ending}"
    written = project.join(asked, out=out)
    assert (written.rows, written.parts, written.features) == (30, 1, ("x", "site", *SITE))
    again = project.join(out.rename(tmp_path / f"in{ending}"), of=project.definitions.views["site"], at="at")
    assert same(expected, again, ["visit_id", "site", "at"])
    assert again["feature.site.level"].to_list() == expected["site.level"].to_list()
    rows = [{**row, "at": row["at"]} for row in asked.to_rows()]
    assert same(project.join(rows), expected, SITE)


def test_the_disk_gives_the_bytes_that_memory_gives(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, how = visits(3_000), {"reasons": True, "as_known": "final"}
    project.join(asked, out=tmp_path / "memory.parquet", **how)
    monkeypatch.setattr(app_history, "_EVENT_BYTES", 10**9)
    monkeypatch.setattr(parted_views, "_PER_EVENT_BYTES", 2 * 10**7)
    monkeypatch.setattr(loaded_frames, "_EVENT_BYTES", 10**9)
    monkeypatch.setattr(feature_runs, "GROUP_ROWS", 1_000)
    steps: list[tuple[int, int]] = []
    monkeypatch.setattr(feature_runs, "_VALUE_BYTES", 10**5)  # so that they are several blocks
    made = project.join(asked, out=tmp_path / "disk.parquet", progress=lambda *s: steps.append(s), **how)
    assert made.parts > 1
    assert steps[-1][0] == steps[-1][1] == len(steps)
    found, expected = (
        project.join(tmp_path / f"{n}.parquet", [{"y": tt.col("x")}], at="at") for n in ("disk", "memory")
    )
    assert same(found, expected)
    project.materialise()
    project.join(asked, out=tmp_path / "tables.parquet", **how)
    monkeypatch.setattr(loaded_frames, "_EVENT_BYTES", 300)  # so that the tables are read into memory
    assert project.join(asked, out=tmp_path / "loaded.parquet", **how).parts == 1
    for name in ("tables", "loaded"):
        assert (tmp_path / f"{name}.parquet").read_bytes() == (tmp_path / "disk.parquet").read_bytes()
    assert list((project.state_folder / "backfill").iterdir()) == []


@pytest.mark.usefixtures("on_disk")
def test_parquet_files_can_stand_for_a_history(project: Project, tmp_path: Path) -> None:
    frame = project.history.frames_at(["readings"])[0]["readings"]
    folder = tmp_path / "readings"
    folder.mkdir()
    half = frame.rows // 2
    (folder / "a.parquet").write_bytes(write_parquet(frame.columns.take(slice(half))))
    (folder / "b.parquet").write_bytes(write_parquet(frame.columns.take(slice(half, None))))
    found = project.join(visits(), "buyer", events={"readings": folder})
    assert same(found, project.join(visits()), SITE)
    wrong = frame.columns.replace({"level": Column("float", np.full(frame.rows, np.inf))})
    (folder / "b.parquet").write_bytes(write_parquet(wrong))
    with pytest.raises(Misuse, match=r"'level' is infinite or beyond 1e\+150 in 640 rows"):
        project.join(visits(), "buyer", events={"readings": folder})
    half_gone = bytearray((folder / "a.parquet").read_bytes())
    half_gone[100 : len(half_gone) // 2] = bytes(len(half_gone) // 2 - 100)
    (folder / "a.parquet").write_bytes(bytes(half_gone))
    (folder / "b.parquet").unlink()
    with pytest.raises(Corrupt, match=r"readings.*Restore that file"):
        project.join(visits(), "buyer", events={"readings": folder})
    with pytest.raises(NotFound, match="no Parquet file"):
        project.join(visits(), "buyer", events={"readings": tmp_path / "none"})
    with pytest.raises(NotFound, match="The features use: readings"):
        project.join(visits(), "buyer", events={"sales": folder})
    assert list((project.state_folder / "backfill").iterdir()) == []


def test_final_counts_what_it_let_in(project: Project) -> None:
    late = {"site": "north", "level": 99.0, "read_at": shop.NOW_US - 5 * HOUR_US}
    project.push("readings", [late])
    asked = [{"visit_id": "a", "site": site, "at": shop.NOW_US - HOUR_US, "x": 0.0} for site in ("north", "south")]
    then, final = project.join(asked), project.join(asked, as_known="final")
    assert then["site.level"].to_list()[0] != 99.0 or final["site.level"].to_list()[0] == 99.0
    changed = {
        name: sum(a != b for a, b in zip(then[name].to_list(), final[name].to_list(), strict=True)) for name in SITE
    }
    assert final.let_in == {"x": 0, "site": 0, **changed}
    assert changed["site.level_1d"] == 1


@pytest.mark.parametrize("disk", [False, True])
def test_a_snapshot_has_every_entity_that_was_known(
    project: Project, disk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if disk:
        monkeypatch.setattr(app_history, "_EVENT_BYTES", 10**9)
        monkeypatch.setattr(parted_views, "_PER_EVENT_BYTES", 2 * 10**7)
        monkeypatch.setattr(loaded_frames, "_EVENT_BYTES", 10**9)
    at = shop.BEGIN_US + 3 * DAY_US + 1
    found = project.snapshot("site", at=at)
    assert found.names == ("site", "at", *SITE)
    assert found["site"].to_list() == ["north", "south"]
    assert same(found, project.join(Columns({"site": found["site"]}), "site", at=at), SITE)
    assert project.snapshot("site", at=shop.BEGIN_US - 1).rows == 0
    assert project.snapshot("site", at=shop.BEGIN_US - 1, as_known="final").rows == 2
    several = project.snapshots("site", start=at - DAY_US, end=at + 1, every="1d")
    assert several["site"].to_list() == ["north", "south"] * 2
    assert same(several.take(slice(2, 4)), found, SITE)


def test_wrong_requests_are_refused_before_any_work(project: Project, tmp_path: Path) -> None:
    asked = visits(5)
    for given, of, how, words in (
        (asked.select(["visit_id", "at", "x"]), None, {}, "column 'site' of str is missing"),
        (asked.replace({"site": asked["x"]}), None, {}, "'site'"),
        (asked, "site", {}, "no time is given"),
        (asked, "site", {"at": "noon"}, r"at: time: 'noon' is not ISO 8601\. .* Or name a column \("),
        (asked, "site", {"at": "x"}, "must be a column of times; it is float"),
        (asked, None, {"at": shop.NOW_US + 1}, "is in the future"),
        (asked, [], {"at": "at"}, "empty"),
        (asked, None, {"as_known": "now"}, "neither"),
        (asked, None, {"out": tmp_path / "x.xlsx"}, "must end in"),
        (tmp_path / "x.txt", None, {}, "not found"),
        ([{"site": 1}, {"site": "a"}], None, {}, "holds int and str"),
        (5, None, {}, "requests: found an object of type int"),
    ):  # fmt: skip
        with pytest.raises((Misuse, NotFound), match=words):
            project.join(given, of, **how)
    there = asked.replace({"at": Column("time", asked["at"].values, np.arange(5) != 3)})
    with pytest.raises(Misuse, match="row 4 has no 'at'"):
        project.join(there)
    with pytest.raises(NotFound, match=r"no model or view 'sight'\. Models: buyer; views: site"):
        project.join(asked, "sight")
    with pytest.raises(Misuse, match="end"):
        project.snapshots("site", start="2024-03-02", end="2024-03-01", every="1d")


def test_entities_of_several_columns_have_snapshots_too(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    sales = project.definitions.sources["sales"]
    pair = tt.view("pair", source=sales, by=["site", "visit_id"], features={"n": tt.count()})
    at = shop.BEGIN_US + DAY_US
    found = project.snapshot(pair, at=at, reasons=True)
    keys = list(zip(found["site"].to_list(), found["visit_id"].to_list(), strict=True))
    assert len(keys) > 10
    assert keys == sorted(set(keys))
    assert found["pair.n"].to_list() == [1] * len(keys)
    monkeypatch.setattr(app_history, "_EVENT_BYTES", 10**9)
    monkeypatch.setattr(parted_views, "_PER_EVENT_BYTES", 2 * 10**7)
    monkeypatch.setattr(loaded_frames, "_EVENT_BYTES", 10**9)
    assert same(project.snapshot(pair, at=at, reasons=True), found)


class Stopped(Exception):
    pass


@pytest.mark.usefixtures("on_disk")
def test_a_stopped_run_is_taken_up_by_the_same_and_by_no_other(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_runs, "GROUP_ROWS", 10)
    monkeypatch.setattr(feature_files, "GROUP_ROWS", 10)
    monkeypatch.setattr(feature_runs, "_VALUE_BYTES", 10**9)
    span = {"start": shop.BEGIN_US + DAY_US, "end": shop.BEGIN_US + 21 * DAY_US, "every": "1d"}

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise Stopped

    with pytest.raises(Stopped):
        project.snapshots("site", **span, out=tmp_path / "a.csv", progress=stop)
    (left,) = (project.state_folder / "backfill").iterdir()
    assert len(list((left / "blocks").glob("*.json"))) in (1, 2)
    others = ({"reasons": True}, {"as_known": "final"}, {})
    for n, how in enumerate(others):
        made = project.snapshots("site", **span, **how, out=tmp_path / f"{n}.csv")
        monkeypatch.setattr(app_history, "_EVENT_BYTES", 0)
        again = project.snapshots("site", **span, **how, out=tmp_path / f"memory-{n}.csv")
        monkeypatch.setattr(app_history, "_EVENT_BYTES", 10**9)
        assert (made.rows, made.let_in) == (again.rows, again.let_in) == (40, again.let_in)
        assert (tmp_path / f"{n}.csv").read_bytes() == (tmp_path / f"memory-{n}.csv").read_bytes()
        assert left.exists() == (how != {})


@pytest.mark.usefixtures("on_disk")
def test_runs_that_nobody_takes_up_are_removed(project: Project) -> None:
    left = project.state_folder / "backfill" / "left"
    with claimed(left):
        os.utime(left / "lock", (0, 0))
        project.join(visits(5))
        assert left.exists(), "it is still at work"
        os.utime(left / "lock", (0, 0))
    project.join(visits(5))
    assert not left.exists()


def test_requests_come_as_lines_of_json_and_arrow_files(project: Project, tmp_path: Path) -> None:
    asked = visits(5)
    lines = [json.dumps(row | {"at": format_time(row["at"])}) for row in asked.to_rows()]
    (tmp_path / "asked.ndjson").write_text("\n".join(lines))
    assert same(project.join(tmp_path / "asked.ndjson"), project.join(asked))
    (tmp_path / "asked.ndjson").write_text("\n".join([*lines, "{"]))
    with pytest.raises(Misuse, match="line 6"):
        project.join(tmp_path / "asked.ndjson")
    arrow = Path(__file__).parents[1] / "core" / "arrow_files" / "polars.arrow"
    with pytest.raises(Misuse, match="column 'list' holds large_list"):
        request_table(arrow, {})


def test_moments_whose_events_were_removed_are_refused(project: Project) -> None:
    note_kept_from(project.state.catalog, "readings", shop.BEGIN_US + DAY_US)
    late = shop.BEGIN_US + 3 * DAY_US
    assert project.snapshot("site", at=late).rows == 2
    with pytest.raises(Misuse, match=r"events of 'readings' before 2024-03-02.* were removed, as \[retention\] says"):
        project.snapshot("site", at=shop.BEGIN_US + DAY_US)
    with pytest.raises(Misuse, match="Leave out rows before 2024-03-03"):
        project.join(visits())


def test_no_rows_are_no_error(project: Project, on_disk: None) -> None:
    found = project.join(visits().take(slice(0)), reasons=True)
    assert (found.rows, found.names[-1]) == (0, "site.level_1d.reason")


@pytest.mark.usefixtures("on_disk")
def test_a_project_without_events_knows_nobody(tmp_path: Path) -> None:
    with shop.opened(shop.write_project(tmp_path / "empty")) as project:
        found = project.join(visits(3), reasons=True)
        assert set(found["site.level.reason"].to_list()) == {"no_entity"}
        assert project.snapshot("site").rows == 0


@pytest.mark.usefixtures("on_disk")
def test_two_at_once_on_the_same_is_a_conflict(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "held"
    with claimed(folder), pytest.raises(Conflict, match="another process"), claimed(folder):
        pass


CHILD = """
import os, signal, sys
import shop, test_feature_tables as t
from pathlib import Path
from trimtab.app.features import feature_files
from trimtab.app.features import feature_runs
from trimtab.app.features import feature_tables
from trimtab.app.online import history as app_history
from trimtab.features.parts import loaded_frames, parted_views

app_history._EVENT_BYTES, loaded_frames._EVENT_BYTES, parted_views._PER_EVENT_BYTES = 10**9, 10**9, 2 * 10**7
feature_runs.GROUP_ROWS, feature_runs._VALUE_BYTES = 1_000, 10**5

def stop(done, total):
    if done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

with shop.opened(Path(sys.argv[1])) as project:
    project.join(t.visits(3_000), out=sys.argv[2], progress=stop)
"""


@pytest.mark.parametrize("steps", [1, 6])
def test_a_killed_run_goes_on_where_it_was(
    project: Project, tmp_path: Path, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.close()
    kill(project.config.folder, tmp_path / "a.parquet", steps)
    calls: list[str] = []
    settings = {"_EVENT_BYTES": (app_history, 10**9), "_PER_EVENT_BYTES": (parted_views, 2 * 10**7)}
    settings |= {"GROUP_ROWS": (feature_runs, 1_000), "_VALUE_BYTES": (feature_runs, 10**5)}
    for name, (module, value) in settings.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(loaded_frames, "_EVENT_BYTES", 10**9)
    real = parted_views.evaluate_view
    monkeypatch.setattr(parted_views, "evaluate_view", lambda *a: calls.append("one") or real(*a))
    with shop.opened(project.config.folder) as again:
        again.push("readings", [{"site": "north", "level": 7.0, "read_at": shop.NOW_US - 40 * HOUR_US}])
        first = again.join(visits(3_000), out=tmp_path / "a.parquet")
        resumed = len(calls)
        second = again.join(visits(3_000), out=tmp_path / "b.parquet")
    assert first.positions != second.positions, "the resumed run keeps the positions that it began with"
    whole = len(calls) - resumed
    assert resumed == whole if steps == 1 else 0 < resumed < whole, "parts that were done are not done again"
    assert (tmp_path / "a.parquet").exists()
    assert not list((project.state_folder / "backfill").iterdir())


def kill(folder: Path, out: Path, steps: int) -> None:
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**shop.environment(), "PYTHONPATH": paths}
    done = forked.run(
        [sys.executable, "-c", CHILD, str(folder), str(out), str(steps)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -9, done.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("every", "end", "said"),
    [
        ("1us", "2024-02-01", "2,678,400,000,000 times; at most 100,000"),
        ("0d", "2024-02-01", "every='0d' gives no next time"),
        ("daily", "2024-02-01", "every: duration: 'daily' is not a duration"),
        ("1d", "2024-01-01", "Give a later end"),
        ("1d", "tomorrow", "end: time: 'tomorrow' is not ISO 8601"),
    ],
)
def test_moments_that_cannot_be_taken_are_refused_before_any_work(every: str, end: str, said: str) -> None:
    with pytest.raises(Misuse, match=said):
        feature_tables.times_between("2024-01-01", end, every, SystemClock())
    end = "2024-01-02T00:00:00.000001"
    assert len(feature_tables.times_between("2024-01-01", end, "1d", SystemClock())) == 2


def test_a_table_has_a_length_and_what_the_reference_says_of_results_is_there(project: Project, tmp_path: Path) -> None:
    found = project.join(visits(3))
    assert len(found) == found.rows == 3
    assert project.join(visits(0))  # without rows, and a table all the same
    text = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    results = {
        "FeatureTable": found,
        "FeatureFile": project.join(visits(3), out=tmp_path / "out.csv"),
        "Columns": visits(3),
        "Status": project.status(),
        "Disk": project.disk(),
        "Plan": project.plan(),
        "Catalogue": project.catalogue(),
    }
    for name, result in results.items():
        fields = [*getattr(type(result), "__struct_fields__", ()), *(n for n in dir(result) if n[:1] != "_")]
        told = re.findall(r"`(\w+)", rows[name].split("|", 3)[2])
        assert type(result).__name__ == name
        assert set(told) & set(fields), name
        missing = [n for n in told if n.islower() and n not in fields and hasattr(result, n) is False]
        assert set(missing) <= {
            "table",
            "len",
            "dtype",
            "frame",
            "values",
            "to_list",
            "polars",
            "pyarrow",
            "as_known",
            "name",
            "size_bytes",
            "of",
        }, name


def test_requests_that_cannot_be_taken_are_told_in_words_of_join(project: Project) -> None:
    row = {"visit_id": "q", "site": "north", "at": shop.NOW_US, "x": "much"}
    with pytest.raises(Misuse, match=r"row 1, column 'x': needed float, found 'much'.* 1 other problem") as refused:
        project.join([row, row])
    assert "on_error" not in str(refused.value)


def test_no_requests_give_a_table_without_rows(project: Project) -> None:
    row = {"visit_id": "q", "site": "north", "at": shop.NOW_US, "x": 1.0}
    some, none = project.join([row]), project.join([])
    assert (some.rows, none.rows) == (1, 0)
    assert none.names == tuple(name for name in some.names if name != "visit_id")


def test_an_expression_that_fails_in_one_row_is_null_there_and_says_so(project: Project) -> None:
    rows = [{"visit": "a", "n": 1}, {"visit": "b", "n": 2**62}, {"visit": "c", "n": None}]
    of = {"four": tt.col("n") * 4, "half": tt.col("n") / 2}
    found = project.join(rows, of, at=format_time(shop.NOW_US), reasons=True)
    assert found["four"].to_list() == [4, None, None]
    assert found["four.reason"].to_list() == ["found", "failed", "null"]
    assert "half.reason" not in found


def test_a_stopped_run_that_another_process_has_just_removed_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "lock").touch()

    def now() -> float:
        shutil.rmtree(tmp_path / "gone")  # another process does
        return 0.0

    monkeypatch.setattr(feature_runs, "time", SimpleNamespace(time=now))
    feature_runs._sweep(tmp_path)


@pytest.mark.fast
def test_a_category_that_a_version_does_not_know_is_not_said_to_be_found() -> None:
    texts = Column("str", np.array(["a", None, None, "a"], object), np.array([True, False, False, True]))
    sample = Sample("late@7", "four rows", {"site": texts}, {"site": np.array([0, 0, 5, 0], np.uint8)})
    found = values_of(sample, "site")
    assert found is not None
    assert found.nulls == {"not seen in training": 0.25, "null": 0.25}


RULES = """
import trimtab as tt
ask = tt.request("ask", key="id", time="at", delimiter=";", time_format={"at": "%d.%m.%Y"}, nulls=["-"],
    number_format={"price": "1.234,56 €"}, constants={"series": "all"},
    columns={"id": str, "at": tt.Time, "price": float, "series": str})
paid = tt.source("paid", key="id", time="at", columns={"id": str, "at": tt.Time, "paid": bool})
def estimator():
    from sklearn.linear_model import LogisticRegression
    return LogisticRegression()
pays = tt.model("pays", request=ask, features=[{"twice": tt.col("price") * 2, "of": tt.col("series").category()}],
    label=tt.label(paid, key="id", value="paid", wait="1d"), estimator=estimator, metric="log_loss")
"""


def test_requests_of_a_model_are_read_by_the_rules_of_its_request(tmp_path: Path) -> None:
    folder, file = tmp_path / "project", tmp_path / "asked.csv"
    folder.mkdir()
    (folder / "trimtab.toml").write_text("")
    (folder / "project.py").write_text(RULES)
    file.write_text("id;at;price;more\na;03.04.2024;1.000,50 €;1,5\nb;04.04.2024;-;x\n")
    rows = [{"id": "a", "at": "03.04.2024", "price": "1.000,50 €"}, {"id": "b", "at": "04.04.2024", "price": "-"}]
    with tt.open(folder, environment={}) as project:
        for given in (file, rows):
            made = project.join(given, "pays")
            assert made["twice"].to_list() == [2001.0, None]
            assert made["of"].to_list() == ["all", "all"]
            assert [format_time(us)[:10] for us in made["at"].to_list()] == ["2024-04-03", "2024-04-04"]
        assert project.join(file, "pays")["more"].to_list() == ["1,5", "x"]
        file.write_text("id;at;price\na;2024/04/03;1,5 €\n")
        with pytest.raises(Misuse, match=r"line 2, column 'at': .* does not fit the format '%d.%m.%Y'"):
            project.join(file, "pays")
