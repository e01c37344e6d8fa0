"""Files into the log: slice by slice, with every row counted and bad cells in quarantine."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
import shop

from trimtab.app.state.definitions import load_definitions
from trimtab.app.state.documents import definitions_hash
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.time import parse_time_us
from trimtab.events import ingest


@pytest.mark.fast
def test_mistyped_cells_go_to_quarantine_and_the_rest_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "readings.csv"
    file.write_text(
        "site,level,read_at\nnorth,1.5,2024-03-01T00:00:00Z\nnorth,warm,2024-03-01T01:00:00Z\n"
        "north,2.5,never\nsouth,2.5,2024-03-01T03:00:00Z\nsouth,3.5,\n"
    )
    with shop.opened(shop.write_project(tmp_path / "project")) as project:
        seen: list[tuple[int, int]] = []
        pushed = project.ingest("readings", file, progress=lambda done, of: seen.append((done, of)))
        assert (pushed.accepted, pushed.quarantined) == (2, 3)
        assert [(p.row, p.field, p.found) for p in pushed.problems[:2]] == [
            (2, "level", "'warm'"),
            (3, "read_at", "'never'"),
        ]
        assert seen[0] == (0, 5)
        assert seen[-1] == (5, 5)
        counts = project.quarantine.counts()["readings"]
        assert sum(counts.values()) == 3
        project.history.refresh()
        assert project.history.frame("readings").columns["level"].to_list() == [1.5, 2.5]
        assert next(s for s in project.status().sources if s.name == "readings").quarantined == counts


@pytest.mark.fast
def test_a_mistyped_year_of_history_goes_to_quarantine_and_questions_may_lie_ahead(tmp_path: Path) -> None:
    file = tmp_path / "readings.csv"
    file.write_text("site,level,read_at\nnorth,1.5,2024-03-01\nnorth,2.5,2124-03-01\n")
    asked = tmp_path / "visit.csv"
    asked.write_text("visit_id,site,x,at\na,north,1.5,2124-03-01\n")
    with shop.opened(shop.write_project(tmp_path / "project")) as project:
        pushed = project.ingest("readings", file)
        assert (pushed.accepted, pushed.quarantined) == (1, 1)
        assert [(p.row, p.field, p.reason, p.found) for p in pushed.problems] == [
            (2, "read_at", "future", "2124-03-01T00:00:00Z")
        ]
        assert project.quarantine.counts() == {"readings": {"future": 1}}
        assert project.replay_quarantine("readings").accepted == 0
        assert project.ingest("visit", asked, absent_ok=True).accepted == 1


def test_new_changed_and_repeated_rows_are_told_apart(tmp_path: Path) -> None:
    file, day = tmp_path / "sales.csv", "2024-03-02"
    with shop.opened(shop.write_project(tmp_path / "project")) as project:

        def counted(source: str, *rows: str) -> tuple[int, int | None, int | None]:
            head = "visit_id,site,bought,closed_at" if source == "sales" else "site,level,read_at"
            file.write_text("\n".join([head, *rows, ""]))
            taken = project.ingest(source, file)
            return taken.accepted, taken.new, taken.changed

        assert counted("sales", f"a,north,true,{day}", f"b,north,,{day}", f"b,north,,{day}") == (3, 2, 0)
        assert counted("readings", f"north,1.5,{day}", f"south,-1,{day}") == (2, 2, 0)
        assert counted("readings", f"north,1.5,{day}", f"south,-2,{day}") == (2, 1, 0)  # without a key nothing changes
        project.retain()  # what was in the log is in tables now
        assert counted("sales", f"a,north,true,{day}", f"b,north,true,{day}", f"c,south,false,{day}") == (3, 1, 1)
        assert counted("sales", f"a,north,never,{day}") == (0, 0, 0)


def test_a_long_file_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.app.features.loading._COMPARED", 2)
    file = tmp_path / "readings.csv"
    with shop.opened(shop.write_project(tmp_path / "project")) as project:
        days = [f"north,1.5,2024-03-0{day}\n" for day in range(1, 7)]
        for rows, new in (("".join(days[:2]), 2), ("".join(days[1:3]), 1), ("".join(days[3:]), None)):
            file.write_text("site,level,read_at\n" + rows)
            assert project.ingest("readings", file).new == new


def test_progress_is_told_slice_by_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "_SLICE", 2_000)
    file = tmp_path / "readings.parquet"
    duckdb.sql(
        "SELECT 'north' AS site, i::DOUBLE AS level, TIMESTAMP '2024-03-01' + to_seconds(i) AS read_at "
        "FROM range(4500) t(i)"
    ).write_parquet(str(file))
    with shop.opened(shop.write_project(tmp_path / "project")) as project:
        seen: list[tuple[int, int]] = []
        pushed = project.ingest("readings", file, progress=lambda done, of: seen.append((done, of)))
        assert [done for done, _ in seen] == [0, 0, 2_000, 4_000, 4_500]
        assert (pushed.accepted, pushed.position) == (4_500, 4_500)
        assert project.ingest("readings", file).accepted == 4_500
        project.history.refresh()
        assert project.history.frame("readings").rows == 4_500


def test_what_is_no_table_of_the_source_is_refused_whole(tmp_path: Path) -> None:
    file = tmp_path / "readings.csv"
    file.write_text("site,level\nnorth,1.5\n")
    with shop.opened(shop.write_project(tmp_path / "project")) as project:
        with pytest.raises(Misuse, match="read_at"):
            project.ingest("readings", file)
        with pytest.raises(NotFound):
            project.ingest("nothing", file)
        assert project.state.events.positions() == {}


def test_a_file_that_lacks_declared_columns_is_refused_unless_they_may_be_null(tmp_path: Path) -> None:
    file = tmp_path / "readings.csv"
    file.write_text("site,read_at,depth\nnorth,2024-03-01,3\n")
    with shop.opened(shop.write_project(tmp_path / "project")) as project:
        with pytest.raises(Misuse, match=r"column level is missing. Columns that are not declared: depth"):
            project.ingest("readings", file)
        assert project.state.events.positions() == {}
        taken = project.ingest("readings", file, absent_ok=True)
        assert (taken.accepted, taken.absent, taken.ignored) == (1, ("level",), ("depth",))


def test_tables_of_other_libraries_are_pushed_and_ingested(tmp_path: Path) -> None:
    query = "SELECT 'north' AS site, 1.5 AS level, TIMESTAMP '2024-03-01' + to_hours(i) AS read_at FROM range(3) t(i)"
    with shop.opened(shop.write_project(tmp_path / "project")) as project, duckdb.connect() as connection:
        assert project.push("readings", connection.sql(query)).accepted == 3
        assert project.ingest("readings", connection.sql(query)).accepted == 3
        with pytest.raises(Misuse, match="has an unknown column 'depth'"):
            project.push("readings", connection.sql(query.replace("SELECT", "SELECT 1 AS depth,")))
        with pytest.raises(Misuse, match=r"files go through `ingest`"):
            project.push("readings", "readings.csv")  # type: ignore[arg-type]  # a mistake
        pushed = project.push("readings", connection.sql(query.replace("1.5", "'much'")))
        assert (pushed.accepted, pushed.quarantined) == (0, 3)
        assert {(p.field, p.reason, p.found) for p in pushed.problems} == {("level", "wrong_type", "'much'")}
        project.history.refresh()
        assert project.history.frame("readings").rows == 3


def test_the_rows_of_a_table_that_do_not_fit_are_named_by_their_place(tmp_path: Path) -> None:
    query = (
        "SELECT 'north' AS site, CASE i WHEN 2 THEN 'inf'::DOUBLE ELSE i END AS level, "
        "CASE WHEN i != 0 THEN '2024-03-0' || i ELSE 'never' END AS read_at FROM range(5) t(i)"
    )
    with shop.opened(shop.write_project(tmp_path / "project")) as project, duckdb.connect() as connection:
        pushed = project.push("readings", connection.sql(query))
        assert (pushed.accepted, pushed.quarantined) == (3, 2)
        assert [(p.row, p.field, p.reason) for p in pushed.problems] == [
            (0, "read_at", "bad_time"),
            (2, "level", "infinite"),
        ]


def test_quarantine_is_shown_given_back_and_dropped(tmp_path: Path) -> None:
    folder = shop.write_project(tmp_path / "project")
    with shop.opened(folder) as project:
        project.push("readings", [{"site": 5, "level": 1.0, "read_at": 0}, {"site": "north", "level": 1.0}])
        assert [(g.source, g.reason, g.rows) for g in project.quarantined()] == [
            ("readings", "missing", 1),
            ("readings", "wrong_type", 1),
        ]
        assert project.replay_quarantine("readings").quarantined == 2
        with pytest.raises(NotFound):
            project.quarantined("nothing")
    (folder / "project.py").write_text(
        (folder / "project.py").read_text().replace('"site": str, "level"', '"site": int, "level"')
    )
    mended = (folder / "project.py").read_text().split("visit =")[0]
    (folder / "project.py").write_text(mended)
    with shop.opened(folder) as project:
        done = project.replay_quarantine(reason="wrong_type")
        assert (done.accepted, done.quarantined) == (1, 0)
        assert project.drop_quarantined("readings", reason="missing") == 1
        assert project.quarantined() == []


METRIC, GATE = 'metric="log_loss"', "calibration=0.5)"
DECLARED = 'tt.source("readings", time="read_at", columns'


@pytest.mark.fast
def test_a_declared_time_format_is_a_note_that_changes_what_is_read_and_nothing_stored(tmp_path: Path) -> None:
    file = tmp_path / "readings.csv"
    file.write_text("site,level,read_at\nnorth,1.5,01.03.2024 05:00\nnorth,2.5,2024-03-01 06:00\n")
    with shop.opened(shop.write_project(tmp_path / "project")) as project:
        project.apply()
        views = {view.name: view.hash for view in project.definitions.views.values()}
        before = definitions_hash(project.definitions)
        assert (pushed := project.ingest("readings", file)).quarantined == 1, pushed
    text = (tmp_path / "project" / "project.py").read_text()
    assert text.count(DECLARED) == 1
    (tmp_path / "project" / "project.py").write_text(
        text.replace(DECLARED, DECLARED.replace('time="read_at"', 'time="read_at", time_format="%d.%m.%Y %H:%M"'))
    )
    with shop.opened(tmp_path / "project") as project:
        plan = project.plan()
        assert [(c.name, c.what, c.notes) for c in plan.changes if c.what != "unchanged"] == [
            ("readings", "noted", ["time format of read_at none -> %d.%m.%Y %H:%M"])
        ]
        assert {view.name: view.hash for view in project.definitions.views.values()} == views
        assert definitions_hash(project.definitions) != before  # workers must read alike
        project.history.refresh()
        assert project.history.frame("readings").event_at_us.tolist() == [parse_time_us("2024-03-01T06:00:00Z")]
        assert project.replay_quarantine("readings").accepted == 1
        later = project.push("readings", [{"site": "north", "level": 1.0, "read_at": "2024-03-01 06:00"}])
        assert later.problems[0].found == "'2024-03-01 06:00', which does not fit the format '%d.%m.%Y %H:%M'"
        project.history.refresh()
        assert project.history.frame("readings").event_at_us.tolist() == [
            parse_time_us("2024-03-01T06:00:00Z"),
            parse_time_us("2024-03-01T05:00:00Z"),
        ]


@pytest.mark.fast
def test_a_source_cannot_be_declared_with_two_time_formats(tmp_path: Path) -> None:
    file = tmp_path / "project.py"
    line = 'tt.source("s", time="at", columns={{"id": str}}, time_format={})'
    file.write_text(f"import trimtab as tt\na = {line.format(None)}\nb = {line.format(repr('%Y'))}\n")
    with pytest.raises(Misuse, match="source 's' is declared with two ways to read its rows"):
        load_definitions(file)


@pytest.mark.fast
def test_a_changed_experiment_changes_the_hash_by_which_processes_compare_project_files(tmp_path: Path) -> None:
    text = shop.PROJECT + (
        '\nspent = tt.metric("spent", source=sales, by="site", value=tt.count(), within="1d", role="primary")\n'
        'tt.experiment("banner", unit="site", variants={"no": 0, "yes": 1}, metrics=[spent], share=0.5)\n'
    )
    hashes = set()
    for number, shared in enumerate(("share=0.5", 'share=0.5, overrides={"north": "yes"}', "share=0.25")):
        folder = shop.write_project(tmp_path / str(number))
        (folder / "project.py").write_text(text.replace("share=0.5", shared))
        with shop.opened(folder) as project:
            hashes.add(definitions_hash(project.definitions))
    assert len(hashes) == 3


@pytest.mark.fast
def test_whatever_is_declared_of_models_and_deployments_changes_that_hash(tmp_path: Path) -> None:
    of_models = [
        *('weights="balanced"', "weights=tt.col('x') + 1", "sample=tt.sample(negatives=0.5)", 'calibration="platt"'),
        *(
            'rows="logged"',
            'group="site"',
            'allow_leakage=["x"]',
            'slices=["site"]',
            "search=tt.search({'C': tt.number(0.1, 1.0)}, trials=5)",
        ),
        "costs={'false_positive': 1, 'false_negative': 2}",
    ]
    of_deployments = [
        *("rollout=tt.rollout(canary=[0.1])", "rollout=tt.rollout(shadow='1d')", "fits_per_day=3", 'owner="ops"'),
        *(
            "cache=tt.cache('1MB')",
            "degrade=tt.degrade(rule=lambda row: 0.5)",
            "degrade=tt.degrade(rule=lambda row: 1)",
        ),
    ]
    changed = [(METRIC, f"{METRIC}, {one}") for one in of_models] + [(GATE, f"{GATE}, {one}") for one in of_deployments]
    file, text, hashes = tmp_path / "project.py", shop.PROJECT.replace("def batch():", "def batch(C=1.0):"), set()
    for before, after in [(METRIC, METRIC), *changed]:
        assert text.count(before) == 1
        file.write_text(text.replace(before, after) + "buyer('buyer', batch)\n")
        hashes.add(definitions_hash(load_definitions(file)))
    assert len(hashes) == 1 + len(changed)
