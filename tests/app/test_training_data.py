"""What a living project trains on: requests known at the cut, each once, asked at its own moment."""

from __future__ import annotations

import logging
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
import shop
from hypothesis import given
from hypothesis import strategies as st

import trimtab as tt
from trimtab.app.data.logged_requests import decode_requests
from trimtab.app.data.training_data import LivingData
from trimtab.app.features import feature_runs
from trimtab.app.features.feature_runs import run_in_memory, run_of_model
from trimtab.app.online import history as app_history
from trimtab.app.project import Project
from trimtab.app.system import System
from trimtab.app.training.loops import Loops
from trimtab.core.errors import NotFound
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.features.parts import loaded_frames, parted_views
from trimtab.steering.candidates.windows import judging_window, labelled_until, lack_of_days
from trimtab.training.data.sets import TOO_NEW, LeftOut, TrainingSet


def training_set(project: Project, cut_us: int) -> TrainingSet:
    data = LivingData(partial(run_in_memory, project.history), project.predictions)
    return data.training_set(project.definitions.models["buyer"], cut_us=cut_us)


def rows(project: Project, cut_us: int) -> list[tuple[str, float, int]]:
    """Key, x and moment of every row that does not come from the first load."""
    found = training_set(project, cut_us)
    keys, x = found.requests["visit_id"].to_list(), found.requests["x"].to_list()
    return [row for row in zip(keys, x, found.at_us.tolist(), strict=True) if not row[0].startswith("v")]


def ingest(project: Project, *visits: dict[str, Any]) -> None:
    project.push("visit", visits)


HOURS = [shop.NOW_US + hour * HOUR_US for hour in range(24)]


@pytest.fixture
def project(trained: Path) -> Any:
    with shop.opened(trained) as opened:
        yield opened


def test_a_request_counts_from_when_it_is_known(project: Project) -> None:
    shop.move(project, 3 * HOUR_US)
    ingest(project, shop.visit("late", HOURS[1]))  # it became known two hours after its time
    shop.move(project, DAY_US)
    assert rows(project, HOURS[2]) == []
    assert rows(project, HOURS[3]) == [("late", 0.5, HOURS[1])]


def test_a_rescheduled_request_is_asked_once_as_it_was_known_then(project: Project) -> None:
    ingest(project, shop.visit("moved", HOURS[4], x=1.0), shop.visit("too late", HOURS[1], x=1.0))
    shop.move(project, 2 * HOUR_US)
    ingest(project, shop.visit("moved", HOURS[8], x=2.0), shop.visit("too late", HOURS[8], x=2.0))
    shop.move(project, 10 * HOUR_US)
    ingest(project, shop.visit("moved", HOURS[9], x=3.0))  # a correction after it was asked
    assert rows(project, HOURS[7]) == [("too late", 1.0, HOURS[1])]
    for cut_us in (HOURS[9], HOURS[20]):
        assert rows(project, cut_us) == [("too late", 1.0, HOURS[1]), ("moved", 2.0, HOURS[8])]


def test_a_deleted_request_is_none_once_that_is_known(project: Project) -> None:
    ingest(project, shop.visit("gone", HOURS[1]))
    shop.move(project, 5 * HOUR_US)
    project.ingestor.push("visit", [{"visit_id": "gone"}], op="delete")
    assert rows(project, HOURS[4]) == [("gone", 0.5, HOURS[1])]
    assert rows(project, HOURS[5]) == []


def test_asked_requests_count_at_the_moment_they_were_first_asked(project: Project) -> None:
    ingest(project, shop.visit("both", HOURS[6], x=9.0))
    project.predict("buyer", [shop.visit("both", HOURS[6], x=1.0)])
    shop.move(project, HOUR_US)
    project.predict("buyer", [shop.visit("both", HOURS[6], x=2.0), shop.visit("asked", HOURS[5])])
    assert rows(project, HOURS[8]) == [("both", 1.0, HOURS[0]), ("asked", 0.5, HOURS[1])]
    assert rows(project, HOURS[0]) == [("both", 1.0, HOURS[0])]


def test_an_answer_to_an_old_request_does_not_replace_the_ingested_one(project: Project) -> None:
    ingest(project, shop.visit("old", HOURS[1], x=1.0), shop.visit("new", HOURS[20], x=1.0))
    shop.move(project, 30 * HOUR_US)
    now_us = HOURS[0] + 30 * HOUR_US
    project.predict("buyer", [shop.visit("old", HOURS[1], x=3.0), shop.visit("new", HOURS[20], x=3.0)])
    shop.move(project, 31 * HOUR_US)
    assert rows(project, HOURS[0] + 31 * HOUR_US) == [("old", 1.0, HOURS[1]), ("new", 3.0, now_us)]


@pytest.mark.parametrize("mode", ["batch", "precomputed"])
def test_rows_of_batches_count_if_they_are_answered_before_their_own_time(
    project: Project, mode: Literal["batch", "precomputed"]
) -> None:
    project.predict("buyer", [shop.visit("what if", HOURS[0])], at=HOURS[0] - DAY_US)
    coming = [shop.visit("now", HOURS[0]), shop.visit("tomorrow", HOURS[20])]
    past = [shop.visit("yesterday", HOURS[0] - DAY_US), shop.visit("last week", HOURS[0] - 7 * DAY_US)]
    project.predict_table("buyer", [*coming, *past], mode=mode)
    counted = [("now", 0.5, HOURS[0]), ("tomorrow", 0.5, HOURS[0])]
    assert [one for one in rows(project, HOURS[2]) if one[0] in ("now", "tomorrow", "what if")] == counted
    looked_back = [one for one in rows(project, HOURS[2]) if one[0] in ("yesterday", "last week")]
    # an answer that was computed in advance may serve for 36 hours, and counts for as long
    assert looked_back == ([] if mode == "batch" else [("yesterday", 0.5, HOURS[0] - DAY_US)])


def test_predictions_of_another_request_shape_are_passed_over_and_counted_where_their_version_is_not_known(
    trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    project = changed_after_two_predictions(trained, '"at": tt.Time, "x": float, "age": int')
    with project:
        data = LivingData(partial(run_in_memory, project.history), project.predictions)
        found = data.training_set(project.definitions.models["buyer"], cut_us=HOURS[2])
        assert "before" not in found.requests["visit_id"].to_list()
        assert data.other_shapes == 2
        assert "2 predictions are left out" in caplog.text


@pytest.mark.parametrize(
    "columns", ['"x": float, "at": tt.Time', '"at": tt.Time, "age": int, "x": float'], ids=["another order", "one more"]
)
def test_predictions_of_a_request_that_was_declared_otherwise_are_taken_by_the_names_of_its_columns(
    trained: Path, columns: str
) -> None:
    with changed_after_two_predictions(trained, columns) as project:
        data = LivingData(
            partial(run_in_memory, project.history), project.predictions, request_of=project.live.request_of
        )
        found = data.training_set(project.definitions.models["buyer"], cut_us=HOURS[2])
        (row,) = [row for row in found.requests.to_rows() if row["visit_id"] == "before"]
        assert (row["x"], row["site"], row["at"], data.other_shapes) == (0.5, "north", HOURS[0], 0)


def changed_after_two_predictions(trained: Path, columns: str) -> Project:
    with shop.opened(trained) as project:
        project.predict("buyer", [shop.visit("before", HOURS[0]), shop.visit("too", HOURS[0])])
    file = trained / "project.py"
    file.write_text(file.read_text().replace('"at": tt.Time, "x": float', columns))
    return shop.opened(trained, HOURS[2])


@given(st.data())
def test_requests_are_decoded_into_the_columns_of_their_values(data: st.DataObject) -> None:
    whole, texts = st.integers(-(2**53), 2**53), st.text(max_size=3)
    fields: dict[str, st.SearchStrategy[Any]] = {
        "key": texts,
        "at": whole,
        "x": st.one_of(st.floats(), whole),  # an int in a float column is one of clients that send 1 for 1.0
        "n": whole,
        "yes": st.booleans(),
        "name": texts,
    }
    types: dict[str, Any] = {"key": str, "at": tt.Time, "x": float, "n": int, "yes": bool, "name": str}
    request = tt.request("visits", key="key", time="at", columns=types)
    row = st.tuples(*(st.one_of(st.none(), values) for values in fields.values()))
    rows = data.draw(st.lists(row, max_size=4)) * data.draw(st.sampled_from([1, 1, 300]))  # in one block, or several
    found = decode_requests(request, [msgspec.msgpack.encode(one) for one in rows])
    assert (found.names, found.rows) == (tuple(types), len(rows))
    for place, (name, dtype) in enumerate(request.columns.items()):
        column = found[name]
        expected = [None if dtype == "float" and one[place] != one[place] else one[place] for one in rows]
        assert (column.dtype, column.to_list()) == (dtype, expected)
        assert column.values.dtype == {"str": object, "float": float, "bool": bool}.get(dtype, np.int64)
        assert (column.valid is None) == (None not in expected)


def test_without_any_request_the_way_out_is_told(tmp_path: Path) -> None:
    with (
        shop.opened(shop.write_project(tmp_path / "empty")) as project,
        pytest.raises(NotFound, match=re.escape("trimtab ingest visit FILE")),
    ):
        training_set(project, shop.NOW_US)


def test_requests_without_their_events_are_not_said_to_be_absent(project: Project) -> None:
    run, model = partial(run_in_memory, project.history), project.definitions.models["buyer"]
    count = training_set(project, shop.NOW_US).requests.rows
    data = LivingData(run, project.predictions, kept_from=lambda: {"sales": shop.NOW_US + DAY_US})
    with pytest.raises(NotFound, match=rf"none of {count:,} requests 'visit' still has all events that it needs"):
        data.training_set(model, cut_us=shop.NOW_US)
    data = LivingData(run, project.predictions)
    with pytest.raises(NotFound, match=r"requests 'visit' is newer than 2024-.* and still has all events"):
        data.training_set(model, cut_us=shop.NOW_US, since_us=shop.NOW_US + DAY_US)


def test_histories_are_dropped_together(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(System, "in_memory", lambda self: False)
    before = project.history, project.asked_history
    project.drop_history()
    assert project.history is not before[0]
    assert project.asked_history is not before[1]


@pytest.mark.parametrize("kept", ["log", "truncated"])
def test_training_gives_the_same_version_from_memory_and_from_disk(
    tmp_path: Path, kept: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shop.write_project(tmp_path / "memory")
    with shop.opened(folder) as project:
        shop.load(project)
        if kept == "truncated":
            project.retain()
            project.push("readings", [{"site": "north", "level": 2.0, "read_at": shop.NOW_US}])
    places = {"in memory": folder, "on disk": shutil.copytree(folder, tmp_path / "disk")}
    caplog.set_level(logging.INFO, "trimtab.app.data.training_data")
    found = []
    for said, place in places.items():
        if said == "on disk":
            monkeypatch.setattr(app_history, "_EVENT_BYTES", 10**9)
            monkeypatch.setattr(parted_views, "_PER_EVENT_BYTES", 2 * 10**7)
            monkeypatch.setattr(loaded_frames, "_EVENT_BYTES", 10**9)
            monkeypatch.setattr(feature_runs, "GROUP_ROWS", 100)
            monkeypatch.setattr(feature_runs, "_VALUE_BYTES", 3 * 10**5)  # so that requests are taken in several blocks
        caplog.clear()
        with shop.opened(place) as project:
            project.train("buyer")
            versions = [(version.id, version.training_set) for version in project.registry.versions("buyer")]
            project.predict("buyer", [shop.visit("asked", HOURS[1], x=3.0)])
            data = LivingData(partial(run_of_model, project), project.predictions)
            later = data.training_set(project.definitions.models["buyer"], cut_us=HOURS[2])
            assert "asked" in later.keys.to_list()
            found.append((versions, later.manifest))
            assert {word for word in places if f"were computed {word}" in caplog.text} == {said}
            assert (project.asked_history is project.history) == (said == "in memory")
            assert not list((project.state_folder / "backfill").glob("*"))  # used up
    assert found[0] == found[1]


def test_the_prediction_log_is_read_once_for_the_pin_of_a_set_and_the_set(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop.opened(trained) as opened:
        model, begun = opened.definitions.models["buyer"], []
        opened.predict("buyer", [shop.visit("new", shop.NOW_US)])
        blocks = opened.predictions.blocks

        def noted(positions: dict[str, int], **options: Any) -> Any:
            begun.append(not positions)
            return blocks(positions, **options)

        monkeypatch.setattr(opened.predictions, "blocks", noted)
        data = opened.part(Loops).living_data()
        frames, _ = opened.asked_history.frames_at({"visit", "sales"})
        keys = data.requests(model, frames["visit"], shop.NOW_US)[0]["visit_id"].to_list()
        assert data.training_set(model, cut_us=shop.NOW_US).keys.to_list() == keys
        assert sum(begun) == 1
        data.training_set(model, cut_us=shop.NOW_US)  # of a set that was not pinned it is read anew
        assert sum(begun) == 2


def test_labels_after_the_end_of_their_file_are_waited_for_however_late_it_is(tmp_path: Path) -> None:
    """Positives come after an hour and negatives after two days, so the newest days of the file have only positives."""
    with shop.opened(shop.write_project(tmp_path / "shop"), shop.NOW_US + 60 * DAY_US) as project:
        at_us = np.arange(shop.BEGIN_US, shop.NOW_US, 2 * HOUR_US)
        bought = np.random.default_rng(1).random(at_us.size) < 0.5
        closed_us = at_us + np.where(bought, HOUR_US, 2 * DAY_US)
        visits = [shop.visit(f"n{n}", int(us)) for n, us in enumerate(at_us)]
        sales = [
            {"visit_id": f"n{n}", "site": "north", "bought": bool(bought[n]), "closed_at": int(closed_us[n])}
            for n in np.flatnonzero(closed_us < shop.NOW_US).tolist()
        ]
        project.ingestor.push("visit", visits, history=True)
        project.ingestor.push("sales", sales, history=True)
        found = training_set(project, project.clock.now_us())
        assert found.manifest.labels_until_us == shop.NOW_US
        np.testing.assert_array_equal(found.usable, (at_us <= shop.NOW_US - 2 * DAY_US) & (closed_us < shop.NOW_US))
        assert labelled_until(found) == shop.NOW_US - 2 * DAY_US
        lack = lack_of_days(found, judging_window(found, 14 * DAY_US, shop.NOW_US - 4 * DAY_US), "")
        ends = "The file of labels ends on 2024-04-09, so labels of requests after 2024-04-07 are not final."
        assert lack is not None
        assert lack.startswith("The newest final labels are of 2024-04-07: ")  # those of 2024-04-08 are loaded, too
        assert lack.endswith(ends)
        early = LeftOut(start_us=shop.NOW_US - 3 * DAY_US, end_us=None, why=TOO_NEW)
        kept = msgspec.structs.replace(found, manifest=msgspec.structs.replace(found.manifest, left_out=(early,)))
        lack = lack_of_days(kept, judging_window(kept, 14 * DAY_US, shop.NOW_US - 4 * DAY_US), "")
        assert lack is not None
        assert lack.endswith(f"{ends} Labels of requests from 2024-04-07 on are left out as too new to be judged.")
        assert training_set(project, found.manifest.cut_us).manifest == found.manifest
        shop.move(project, DAY_US)
        assert training_set(project, project.clock.now_us()).manifest == found.manifest
        project.push("sales", [{**sales[-1], "visit_id": "live", "closed_at": project.clock.now_us()}])
        assert training_set(project, project.clock.now_us()).manifest.complete_us is msgspec.UNSET
