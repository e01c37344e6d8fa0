"""`plan` says what a changed project file means, `apply` does it, the catalogue shows what there is."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import time
from pathlib import Path

import pytest
import shop

import trimtab as tt
from processes import eventually
from trimtab.app.plan.applying import drop_unneeded
from trimtab.app.project import Project
from trimtab.app.serve import background
from trimtab.app.state.applied import AppliedDefinitions
from trimtab.app.state.documents import documents
from trimtab.core.errors import Conflict, Misuse, NotFound
from trimtab.core.time import DAY_US, SECOND_US
from trimtab.events.records import Op
from trimtab.store.file_lock import FileLock

A = shop.PROJECT
B = (
    A.replace(
        'columns={"site": str, "level": float})', 'columns={"mood": str, "site": str, "level": float}, owner="ops")'
    )
    .replace('"level": tt.latest("level", max_age="9h"), ', "")
    .replace('over="1d")})', 'over="2d"), "low": tt.min("level", over="6h")})')
)


@pytest.fixture(scope="session")
def applied_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shop.write_project(tmp_path_factory.mktemp("planning") / "first")
    with shop.opened(folder) as project:
        shop.load(project)
        project.train("buyer")
        project.apply()
    return folder


@pytest.fixture
def applied(applied_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(applied_once, tmp_path / "project"))


def edited(folder: Path, text: str) -> Path:
    (folder / "project.py").write_text(text)
    return folder


def ask(project: Project, key: str = "a") -> tuple[str, float]:
    answer = project.predict("buyer", [shop.visit(key, shop.NOW_US)])[0]
    return answer.version, answer.score


def test_the_first_train_applies_a_project_and_says_so(applied: Path) -> None:
    with shop.opened(applied) as project:
        first = project.ledger()[0]
        assert (first.act, first.actor) == ("apply", "policy")
        assert first.cause == "First use of the project: definitions applied: 6 new."
        assert project.apply_first() is None
        plan = project.plan()
        assert plan.is_empty
        assert plan.lines()[-1] == "Nothing to do: all definitions in the project file are applied already."
        assert project.status().unapplied == []


def test_a_plan_says_field_by_field_what_changes_and_what_that_means(applied: Path) -> None:
    with shop.opened(edited(applied, B)) as project:
        plan = project.plan()
        found = {(change.kind, change.name): change for change in plan.changes}
        assert found["source", "readings"].changes == ["column mood: new, str"]
        assert found["source", "readings"].notes == ["owner none -> ops"]
        assert found["view", "site"].changes == [
            "feature level: kind latest, of col('level'), max age 9h -> removed",
            "feature level_1d: over 1d -> 2d, hop 10min -> 15min",
            "feature low: new, kind min, of col('level'), over 6h, hop 2min",
        ]
        assert {change.what for key, change in found.items() if key[0] in ("request", "deployment")} == {"unchanged"}
        assert [(fill.view, fill.events) for fill in plan.backfills] == [("site", 640)]
        assert "continues with the definitions that it was trained on (with the old view site)" in plan.affected[0].what
        assert (plan.dropped, plan.dangers, plan.refused) == ([], [], [])
        assert project.status().unapplied == ["source readings", "view site", "model buyer"]


def test_removed_definitions_are_named_in_the_same_order_by_all_processes(
    applied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop.opened(applied) as project:
        names = [key.replace("/", " ") for key in AppliedDefinitions(project.state.catalog).now()]
        assert len(names) == 6
        monkeypatch.setattr("trimtab.app.plan.planning.documents", lambda _: {})
        assert project.status().unapplied == names


def test_what_is_said_for_people_is_a_note(applied: Path) -> None:
    with shop.opened(edited(applied, A.replace('"level": float})', '"level": float}, tags=["raw"])'))) as project:
        plan = project.plan()
        assert [(c.name, c.what, c.notes) for c in plan.changes if c.what != "unchanged"] == [
            ("readings", "noted", ["tags none -> raw"])
        ]
        assert not plan.is_empty
        assert project.apply().decision is not None
        assert project.plan().is_empty


def test_how_a_model_is_fitted_and_rolled_out_is_noted(applied: Path) -> None:
    """Nothing that is stored changes with it, but a plan must not say that there is nothing to do."""
    fitted = A.replace('metric="log_loss")', 'metric="log_loss", weights="balanced", calibration="platt")').replace(
        "calibration=0.5), **rules)", 'calibration=0.5), rollout=tt.rollout(shadow="2d"), **rules)'
    )
    with shop.opened(edited(applied, fitted)) as project:
        found = {(one.kind, one.name): one for one in project.plan().changes if one.what != "unchanged"}
        assert found["model", "buyer"].notes == ["weights none -> balanced", "calibration none -> platt"]
        (note,) = found["deployment", "buyer"].notes
        assert note.startswith("rollout none -> shadow 2d")
        assert {one.what for one in found.values()} == {"noted"}
        project.apply()
        assert project.plan().is_empty


def test_applying_fills_new_views_beside_the_old_and_gives_numbers(applied: Path) -> None:
    with shop.opened(applied) as project:
        before = ask(project)
    with shop.opened(edited(applied, B)) as project:
        done = project.apply(actor="anna")
        assert done.filled == ["site"]
        assert done.decision is not None
        assert (done.decision.act, done.decision.actor) == ("apply", "anna")
        changed = ("source/readings", "view/site", "model/buyer")
        assert done.decision.evidence == dict.fromkeys(changed, "version 1 -> 2")
        assert ask(project, "b") == before
        assert project.plan().is_empty
        assert [d.act for d in project.train("buyer")][-1] == "promote"
        assert ask(project, "c")[0] != before[0]
    with shop.opened(edited(applied, A)) as project:  # back: the old content has its old number again
        back = project.apply().decision
        assert back is not None
        assert back.evidence["view/site"] == "version 2 -> 1"
        assert project.verify_ledger() == len(project.ledger())


def test_what_nothing_uses_any_more_is_dropped_by_a_tick_and_written_down(applied: Path) -> None:
    with shop.opened(edited(applied, B)) as project:
        project.apply()
        project.train("buyer")
        ask(project)
        shop.move(project, 6 * DAY_US)
        project.tick()
        assert "drop" not in [d.act for d in project.ledger()]  # the champion of before is kept for a while
    with shop.opened(applied, shop.NOW_US + 8 * DAY_US) as project:  # which has never had the old one
        assert project.plan().dropped == [f"site@{one[:8]}" for one in project.views.unneeded()]
        writes = FileLock.take(applied / ".trimtab" / "online" / "writer.lock")  # as another process does
        assert writes is not None
        with pytest.raises(Conflict):
            drop_unneeded(project)
        assert "drop" not in [d.act for d in project.ledger()]  # nothing was
        writes.release()
        project.tick()
        (row,) = [d for d in project.ledger() if d.act == "drop"]
        assert "uses view site@" in row.cause
        assert project.views.unneeded() == []


def test_a_service_whose_ticks_run_in_a_child_drops_what_nothing_uses_any_more(
    applied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop.opened(edited(applied, B)) as project:
        project.apply()
    monkeypatch.setattr(background, "runs_in_child", lambda settings, clock: True)
    monkeypatch.setattr(background.Ticker, "work", lambda self, name, here: None)  # a child that does nothing
    monkeypatch.setattr(background, "_ROUND_S", 0.01)
    monkeypatch.setattr(background, "_TICK_S", 0.01)
    with shop.opened(edited(applied, A)) as served:
        with served.views.follow().start(), shop.opened(applied) as other:
            assert other.apply().dropped == []  # only the process that applies events may delete them
            assert len(served.views.unneeded()) == 1
            with background.BackgroundTasks(served).start():
                eventually(lambda: served.views.unneeded() == [], "the online features of site were not dropped")
        served.views.release()
        assert "drop" in [d.act for d in served.ledger()]


def test_a_removed_column_that_a_version_reads_and_a_key_that_changes_are_dangers(applied: Path) -> None:
    text = A.replace('"level": float})', '"depth": float}, key="site")').replace('"level"', '"depth"')
    with shop.opened(edited(applied, text)) as project:
        plan = project.plan()
        assert any(
            "column readings.level is removed" in line and "it is read by buyer@2" in line for line in plan.dangers
        )
        assert any("its key is site instead of none" in line for line in plan.dangers)


def test_a_label_that_is_computed_otherwise_is_a_danger(applied: Path) -> None:
    text = A.replace('value="bought"', 'value=~tt.col("bought")')
    with shop.opened(edited(applied, text)) as project:
        (danger,) = project.plan().dangers
        assert danger.startswith("model buyer: its label is ")
        assert "Answers of earlier versions are compared with the new label." in danger


def test_a_renamed_view_is_suggested_to_be_joined_under_the_name(applied: Path) -> None:
    with shop.opened(edited(applied, A.replace('tt.view("site"', 'tt.view("place"'))) as project:
        assert any("view site -> place looks like a rename" in line for line in project.plan().dangers)


def test_another_type_of_a_recorded_column_is_refused(applied: Path) -> None:
    with shop.opened(edited(applied, A.replace('"level": float', '"level": int'))) as project:
        assert "'level' is declared int, but recorded events hold it as float" in project.plan().refused[0]
        with pytest.raises(Misuse, match="Declare it float and convert it in features"):
            project.apply()


@pytest.mark.fast
def test_of_two_that_apply_at_once_one_wins(applied: Path) -> None:
    with shop.opened(edited(applied, B)) as one:
        stores = AppliedDefinitions(one.state.catalog), AppliedDefinitions(one.state.catalog)
        befores = [store.now() for store in stores]
        how = {"at_us": 0, "cause": "x.", "actor": "x"}
        models = list(one.definitions.models.values())
        stores[0].write(befores[0], documents(one.declared), models, **how)  # type: ignore[arg-type]  # of a dict
        with pytest.raises(Conflict, match="another process applied"):
            stores[1].write(befores[1], documents(one.declared), models, **how)  # type: ignore[arg-type]  # of a dict


def test_a_process_that_has_read_the_project_file_before_others_applied_another_one_does_not_train(
    applied: Path,
) -> None:
    with shop.opened(applied) as serving:
        serving.loop("buyer")
        with shop.opened(edited(applied, B)) as other:
            other.apply()
            assert [d.act for d in other.train("buyer")][-1] == "promote"
        with pytest.raises(Conflict, match="after this process had read the project file"):
            serving.train("buyer")
        assert ask(serving)[0] == "buyer@4"


def test_an_apply_that_is_killed_is_finished_by_the_next_one(applied: Path) -> None:
    edited(applied, B)
    killed = f"""
import os, pathlib, shop
from trimtab.features.online.fill import load as online_load
written = online_load._written
def kill(kv, pairs):
    yield next(iter(written(kv, pairs)))
    os._exit(9)
online_load._written = kill
with shop.opened(pathlib.Path({str(applied)!r})) as project:
    project.apply()
"""
    process = multiprocessing.get_context("spawn").Process(target=exec, args=(killed, {}))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == 9
    with shop.opened(applied) as project:
        before = ask(project)[0]
        assert [fill.view for fill in project.plan().backfills] == []  # asking has filled it
        assert project.apply().decision is None
        assert [d.act for d in project.ledger()].count("apply") == 2
        project.train("buyer")
        assert ask(project, "b")[0] != before


@pytest.mark.soak
def test_an_apply_that_is_killed_at_any_moment_again_and_again_is_finished_in_the_end(applied: Path) -> None:
    chance = random.Random(7)
    with shop.opened(applied) as project:
        before = ask(project)
    command = f"import pathlib, shop; shop.opened(pathlib.Path({str(applied)!r})).apply()"
    for n in range(25):
        edited(applied, (B, A)[n % 2])
        process = multiprocessing.get_context("spawn").Process(target=exec, args=(command, {}))
        process.start()
        time.sleep(chance.uniform(0.8, 2.5))  # it takes most of a second to start
        process.kill()
        process.join()
        with shop.opened(applied) as project:
            assert ask(project, f"k{n}") == before
    with shop.opened(edited(applied, B)) as project:
        project.apply()
        assert project.plan().is_empty
        assert project.verify_ledger() == len(project.ledger())
        project.train("buyer")
        assert ask(project, "end")[0] != before[0]


@pytest.mark.slow
def test_a_serving_process_fills_what_was_applied_and_swaps_without_a_failed_request(applied: Path) -> None:
    with shop.opened(applied) as project:  # events that are as new as the wall clock
        shop.load(project, end_us=time.time_ns() // 1_000 // DAY_US * DAY_US)
    edited(applied, B)
    with shop.serving(applied) as (_, url):
        answers = []

        def asked(n: int) -> None:
            row = {"visit_id": f"k{n}", "site": "north", "at": "2024-04-10T00:00:00Z", "x": 0.5}
            answers.append(shop.call(f"{url}/v1/models/buyer/predict", {"request": row}))

        asked(0)
        from trimtab.app.project import open_project

        with open_project(applied, environment={}) as other:
            assert other.apply(patience="30s").filled == ["site"]
            asked(1)
            other.train("buyer")
        for n in range(2, 60):
            asked(n)
            if answers[-1][1].get("version") != answers[0][1].get("version"):
                break
            time.sleep(0.1)
        assert {status for status, _ in answers} == {200}
        assert answers[-1][1]["version"] != answers[0][1]["version"]
        assert "site.low" in answers[-1][1]["reasons"] or answers[-1][1]["score"] > 0


def test_the_catalogue_shows_meaning_lineage_values_and_use(applied: Path) -> None:
    with shop.opened(applied) as project:
        found = project.catalogue()
        entry = found.find("site.level_1d")
        assert (entry.dtype, entry.version, entry.lineage) == ("float", 1, ("readings.level",))
        assert entry.used_by == ("buyer", "buyer@1", "buyer@2 [champion]")
        assert found.find("buyer:x").used_by == ("buyer", "buyer@1", "buyer@2 [champion]")
        assert entry.meaning["over"] == "1d"
        (values,) = entry.values.values()
        assert values.sample == "the newest 1,200 rows that buyer@2 was trained on"
        assert values.rows == 1_200
        assert values.std is not None
        assert abs(sum(found.find("buyer:site").values["buyer@2, as site"].top.values()) - 1) < 1e-9
        project.predict("buyer", [shop.visit(f"k{n}", shop.NOW_US, x=n / 100) for n in range(150)])
        x = project.catalogue().find("x").values["buyer@2, as x"]
        assert (x.sample, x.greatest) == ("the newest 150 predictions of buyer@2", 1.49)
        level = project.catalogue().find("site.level").values["buyer@2, as site.level"]
        assert level.null_share == sum(level.nulls.values())
        assert any("used by buyer" in line for line in entry.lines())


def test_an_entity_and_its_view_of_one_name_are_both_shown(applied: Path) -> None:
    text = A.replace("site = tt.view(", 'place = tt.entity("site", {"site": str})\nsite = tt.view(')
    with shop.opened(edited(applied, text.replace('by="site"', "by=place"))) as project:
        one = project.catalogue().find("site")
        assert [entry.kind for entry in (one, *one.others)] == ["entity", "view"]
        assert [line for line in one.lines() if not line.startswith(" ")] == ["entity site", "view site"]


def test_the_catalogue_calls_aggregates_as_their_author_did(applied: Path) -> None:
    more = (
        '"lasts": tt.last_n("level", 3, over="1d"), "last": tt.last("level"), "often": tt.top_k("level", 2), '
        '"many": tt.count_distinct("level", k=16), "faded": tt.decayed_sum("level", half_life="1d"), "level_1d"'
    )
    with shop.opened(edited(applied, A.replace('"level_1d"', more))) as project:
        found = {one.name.removeprefix("site."): one.meaning for one in project.catalogue().entries}
    assert found["lasts_2"] == {"kind": "last_n(level, 3), place 2", "over": "1d", "hop": "10min"}
    assert found["lasts_1"]["kind"] == "last_n(level, 3), place 1"
    assert found["last"] == {"kind": "last", "of": "col('level')"}
    assert found["often_1"] == {"kind": "top_k(level, 2), place 1"}
    assert found["many"] == {"kind": "count_distinct", "of": "col('level')", "k": "16"}
    assert found["faded"]["half_life"] == "1d"
    assert found["level"]["max_age"] == "9h"


def test_the_catalogue_says_when_an_event_last_became_known_by_the_clock(applied: Path) -> None:
    with shop.opened(applied, shop.NOW_US + DAY_US) as project:
        late = {"site": "north", "level": 1.0, "read_at": shop.NOW_US - 9 * DAY_US}
        before = project.catalogue().find("readings")
        newest = before.newest
        project.push("readings", [late])
        assert project.catalogue().find("readings").events == (before.events or 0) + 1
        for us, ago in ((0, "less than 1s"), (20 * SECOND_US, "20s"), (280 * SECOND_US, "5min"), (9 * DAY_US, "9d")):
            shop.move(project, us)
            entry = project.catalogue().find("readings")
            assert (entry.newest, entry.known_ago) == (newest, ago)  # the event that came is not the newest
        assert any(line.endswith("; latest known-at time 9d ago") for line in entry.lines())
        project.push("readings", [{**late, "read_at": shop.NOW_US + 99 * DAY_US}])  # the clock of its sender is ahead
        assert project.catalogue().find("readings").newest == newest


def test_the_catalogue_counts_events_that_are_corrected_once_and_deleted_ones_not(tmp_path: Path) -> None:
    (tmp_path / "trimtab.toml").write_text("")
    (tmp_path / "project.py").write_text(
        'import trimtab as tt\nvisits = tt.source("visits", time="at", key="k", columns={"k": str, "x": float})\n'
    )
    with tt.open(tmp_path) as project:
        steps: list[tuple[str, Op]] = [("abc", "upsert"), ("bc", "upsert"), ("c", "delete"), ("d", "upsert")]
        for rows, op in steps:
            at = f"2024-03-0{'abcd'.index(rows[-1]) + 1}"
            project.ingestor.push("visits", [{"k": k, "x": float(len(rows)), "at": at} for k in rows], op=op)
        entry = project.catalogue().find("visits")
        assert (entry.events, entry.newest) == (3, "2024-03-04T00:00:00Z")


def test_the_catalogue_is_searched_by_name_owner_tag_and_column_and_says_what_there_is(applied: Path) -> None:
    text = A.replace('"level": float})', '"level": float}, owner="Ops", tags=["raw"], description="Hourly.")')
    with shop.opened(edited(applied, text)) as project:
        for text, names in (("ops", {"readings"}), ("RAW", {"readings"}), ("hourly", {"readings"}), ("zzz", set())):
            assert {entry.name for entry in project.catalogue(search=text).entries} == names
        assert "site.level_1d" in {entry.name for entry in project.catalogue(search="readings.level").entries}
        with pytest.raises(NotFound, match="There are: readings, sales"):
            project.catalogue().find("nothing")
