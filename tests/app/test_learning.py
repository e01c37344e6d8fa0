"""An online deployment learns from its own predictions: each request once, across restarts and promotions."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import shop

from trimtab.app.project import Project
from trimtab.core.errors import Conflict, Unavailable
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US, format_time
from trimtab.monitoring.inputs.red_windows import RedWindow
from trimtab.registry import LoadedModel
from trimtab.store import Put
from trimtab.training.fitting.online import OnlineLearner

BEGIN_US = shop.NOW_US + MINUTE_US  # the versions know the labels of before
PROBE = [[0.7, 0.0, 0.1, 0.2], [-0.7, 1.0, np.nan, 0.0]]


def ask(project: Project, *keys: str, x: float = 2.0) -> None:
    project.predict("learner", [shop.visit(key, project.clock.now_us(), x=x) for key in keys])


def label(project: Project, key: str, bought: bool) -> None:
    row = {"visit_id": key, "site": "north", "bought": bought, "closed_at": project.clock.now_us()}
    project.push("sales", [row])


def scores(project: Project) -> list[float]:
    project.served("learner").refresh()
    learner = project.served("learner").answerers.learner
    assert learner is not None
    return [learner.predict_row(row) for row in PROBE]


def by_hand(project: Project, *hours: list[tuple[str, float]]) -> list[float]:
    """What a learner says that learnt these requests, hour by hour."""
    version = project.registry.alias("learner", "champion")
    assert version is not None
    learner = OnlineLearner(project.registry.load(version).artifact)
    values = {p.request_id: p.values for block in project.predictions.scan() for p in block}
    for hour in hours:
        matrix = np.frombuffer(b"".join(values[key] for key, _ in hour), "<f8").reshape(len(hour), -1)
        learner.learn(matrix, np.array([value for _, value in hour]))
    return [learner.predict_row(row) for row in PROBE]


@pytest.fixture
def project(trained: Path) -> Any:
    with shop.opened(trained, BEGIN_US) as opened:
        yield opened


def put_in_service(project: Project, name: str) -> None:
    """Make a version champion as if a gate had passed it."""
    registry = project.registry
    version, champion = registry.get(name), registry.alias("learner", "champion")
    assert champion is not None
    passed = registry.gates_of(champion)[0]
    gate = msgspec.structs.replace(passed, id="test", candidate=version.id, champion=champion.id)
    registry.put_gate(gate)
    registry.move("learner", "champion", version, why="A test.", gate=gate)


def next_hour(project: Project) -> None:
    """A minute and a bit after the next full hour."""
    now_us = project.clock.now_us()
    shop.move(project, HOUR_US - now_us % HOUR_US + 2 * MINUTE_US)


def test_a_label_teaches_once_its_hour_is_over_for_a_minute(project: Project) -> None:
    ask(project, "a", "b")
    shop.move(project, MINUTE_US)
    label(project, "b", False)
    label(project, "a", True)
    teacher = project.teacher("learner")
    assert teacher.teach() == 0
    shop.move(project, HOUR_US - 2 * MINUTE_US + 30_000_000)  # half a minute after the hour: something may still come
    assert teacher.teach() == 0
    shop.move(project, MINUTE_US)
    assert teacher.teach() == 2
    assert teacher.teach() == 0
    assert scores(project) == by_hand(project, [("a", 1.0), ("b", 0.0)])
    assert scores(project) != by_hand(project)


def test_a_request_of_a_red_window_teaches_nothing(project: Project) -> None:
    ask(project, "a", x=9_999.0)
    fault = RedWindow(
        id="range/learner/column.x/1",
        model="learner",
        kind="range",
        subject="column x",
        start_us=project.clock.now_us() - HOUR_US,
        end_us=project.clock.now_us() + MINUTE_US,
    )
    project.state.catalog.write([Put("red_window", f"learner/{fault.id}", msgspec.json.encode(fault))])
    shop.move(project, MINUTE_US)
    ask(project, "b")
    label(project, "a", True)
    label(project, "b", False)
    next_hour(project)
    teacher = project.teacher("learner")
    assert teacher.teach() == 1
    assert scores(project) == by_hand(project, [("b", 0.0)])
    project.release(fault.id, model="learner", why="It was meant.")
    next_hour(project)
    assert teacher.teach() == 0  # its hour is over


def test_a_restart_goes_on_where_it_was(trained: Path, project: Project) -> None:
    ask(project, "a", "b", "c")
    label(project, "a", False)
    next_hour(project)
    assert project.teacher("learner").teach() == 1
    label(project, "b", False)
    with shop.opened(trained, project.clock.now_us()) as again:
        assert scores(again) == scores(project)
        next_hour(again)
        assert again.teacher("learner").teach() == 1
        after = scores(again)
    next_hour(project)
    project.served("learner").refresh()  # it takes over what the other process has learnt
    assert scores(project) == after == by_hand(project, [("a", 0.0)], [("b", 0.0)])
    assert project.teacher("learner").teach() == 0


def test_a_label_that_cannot_be_learnt_is_set_aside_named_and_red(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(project, "a", "b", "c")
    label(project, "a", True)
    next_hour(project)
    teacher = project.teacher("learner")
    assert teacher.teach() == 1
    label(project, "b", True)
    label(project, "c", False)
    next_hour(project)
    teach = OnlineLearner.learn

    def learn(self: OnlineLearner, matrix: Any, labels: Any) -> None:
        teach(self, matrix, np.where(labels == 0.0, 2.0, labels))  # as the label of a column of numbers may be

    monkeypatch.setattr(OnlineLearner, "learn", learn)
    assert teacher.teach() == 1
    status = project.status()
    (red,) = [line for line in status.red if "set aside" in line]
    assert red.startswith("learner: the label 0 of request 'c' was set aside: Misuse: online learning of 'learner': a")
    (learner,) = [d.learner for d in status.deployments if d.model == "learner"]
    assert learner == "learns online: 2 labels learnt, 1 set aside"
    assert teacher.teach() == 0
    assert scores(project) == by_hand(project, [("a", 1.0)], [("b", 1.0)])


@pytest.mark.parametrize("error", [Unavailable, Conflict])
def test_labels_that_could_not_be_saved_are_taught_by_the_next_round(
    project: Project, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    ask(project, "a", "b", "c")
    label(project, "a", False)
    next_hour(project)
    label(project, "b", False)
    shop.move(project, HOUR_US)
    label(project, "b", True)  # of the hour after: it has taught by then
    label(project, "c", True)
    next_hour(project)
    store, teacher = project.state.learners, project.teacher("learner")

    def full(puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = ()) -> None:
        raise error("The first write fails.")

    with monkeypatch.context() as patched:
        patched.setattr(store, "write", full)
        if error is Unavailable:
            with pytest.raises(Unavailable):
                teacher.teach()
        else:
            assert teacher.teach() == 0
    assert scores(project) == by_hand(project)
    assert teacher.teach() == 3
    assert teacher.teach() == 0
    assert scores(project) == by_hand(project, [("a", 0.0)], [("b", 0.0)], [("c", 1.0)])


@pytest.mark.parametrize("restart", [False, True])
def test_a_correction_of_what_has_taught_teaches_nothing(trained: Path, restart: bool) -> None:
    with shop.opened(trained, BEGIN_US) as project:
        ask(project, "a", "b")
        label(project, "a", False)
        shop.move(project, MINUTE_US)
        label(project, "a", True)  # within the hour: the newest one counts
        next_hour(project)
        assert project.teacher("learner").teach() == 1
        now_us = project.clock.now_us()
    with shop.opened(trained, now_us) as project:
        label(project, "a", False)
        label(project, "b", False)
        if not restart:
            project.teacher("learner").teach()
        next_hour(project)
        assert project.teacher("learner").teach() == 1
        assert scores(project) == by_hand(project, [("a", 1.0)], [("b", 0.0)])


def test_a_request_asked_twice_teaches_once_as_first_asked(project: Project) -> None:
    ask(project, "a", x=1.0)
    shop.move(project, MINUTE_US)
    ask(project, "a", x=3.0)
    project.predict("learner", [shop.visit("past", shop.NOW_US)], at=shop.NOW_US - HOUR_US)
    label(project, "a", False)
    label(project, "past", False)
    next_hour(project)
    assert project.teacher("learner").teach() == 1
    learner = project.served("learner").answerers.learner
    assert learner is not None
    first = next(p for block in project.predictions.scan() for p in block if p.request_id == "a")
    version = OnlineLearner(project.registry.load(first.version).artifact)
    version.learn(np.frombuffer(first.values, "<f8").reshape(1, -1), np.zeros(1))
    assert scores(project) == [version.predict_row(row) for row in PROBE]


def test_predictions_that_wait_at_a_promotion_teach_the_new_version(project: Project) -> None:
    """It numbers the sites otherwise: inputs must be encoded anew."""
    before = project.registry.alias("learner", "champion")
    assert before is not None
    ask(project, "waits", "labelled")
    label(project, "labelled", True)
    next_hour(project)
    assert project.teacher("learner").teach() == 1
    shop.move(project, 28 * DAY_US)
    chance = np.random.default_rng(5)
    _, other = project.registry.load(before).encoding.vocabularies["site"]
    for day in range(26):
        at_us = shop.NOW_US + day * DAY_US + 3 * HOUR_US
        rows = [(f"d{day}/{n}", other, float(chance.normal())) for n in range(60)]
        project.ingestor.push("visit", [shop.visit(k, at_us, x, site) for k, site, x in rows], history=True)
        closed = [
            {"visit_id": k, "site": site, "bought": bool(x + chance.normal() > 0), "closed_at": at_us + HOUR_US}
            for k, site, x in rows
        ]
        project.ingestor.push("sales", closed, history=True)
    ask(project, "new")
    assert [d.act for d in project.train("learner")][-1] == "promote"
    after = project.registry.alias("learner", "champion")
    assert after is not None
    assert scores(project) == by_hand(project)
    shop.move(project, MINUTE_US)
    label(project, "new", False)
    next_hour(project)
    assert project.teacher("learner").teach() == 1
    loaded = project.registry.load(after)
    vocabulary = loaded.encoding.vocabularies["site"]
    assert vocabulary != project.registry.load(before).encoding.vocabularies["site"]
    (row,) = [p for block in project.predictions.scan() for p in block if p.request_id == "new"]
    assert row.version == before.id
    learner = OnlineLearner(loaded.artifact)
    anew = np.frombuffer(row.values, "<f8").copy()
    anew[loaded.inputs.index("site")] = vocabulary.index("north")
    learner.learn(anew.reshape(1, -1), np.zeros(1))
    assert scores(project) == [learner.predict_row(one) for one in PROBE]
    with shop.opened(project.config.folder, project.clock.now_us()) as again:
        assert again.teacher("learner").teach() == 0
        assert scores(again) == scores(project)


def test_a_version_that_comes_into_service_meanwhile_is_not_taught_rows_of_the_one_before(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(project, "a")
    label(project, "a", False)
    next_hour(project)
    served = project.served("learner")
    refresh = served.refresh

    def moved_meanwhile() -> LoadedModel:
        """Another thread follows the alias as soon as the teacher has looked."""
        found = refresh()
        monkeypatch.setattr(served, "refresh", refresh)
        put_in_service(project, "learner@1")
        refresh()
        return found

    monkeypatch.setattr(served, "refresh", moved_meanwhile)
    assert project.teacher("learner").teach() == 0
    assert scores(project) == by_hand(project)
    assert project.teacher("learner").teach() == 1
    assert scores(project) != by_hand(project)
    assert scores(project) == by_hand(project, [("a", 0.0)])


def test_tick_teaches_too(project: Project) -> None:
    ask(project, "a")
    label(project, "a", False)
    next_hour(project)
    project.tick()
    assert scores(project) == by_hand(project, [("a", 0.0)])


@pytest.mark.slow
def test_a_served_learner_learns_and_a_restart_says_the_same(trained: Path) -> None:
    """A label arrives, the next prediction differs; after a restart it is the same."""
    folder = trained
    request = {"request": {**shop.visit("a", shop.NOW_US), "at": format_time(shop.NOW_US)}}
    begin = shop.NOW_US + HOUR_US // 2
    with shop.serving(folder, "--as-of", format_time(begin)) as (_, url):
        first = shop.call(f"{url}/v1/models/learner/predict", request)[1]
        closed = format_time(begin + 60_000_000)
        sale = {"visit_id": "a", "site": "north", "bought": False, "closed_at": closed}
        assert shop.call(f"{url}/v1/events/sales?wait=applied", sale)[0] == 200
    probe = {"request": {**shop.visit("b", shop.NOW_US), "at": format_time(shop.NOW_US)}}
    answers = []
    for _ in range(2):
        with shop.serving(folder, "--as-of", format_time(shop.NOW_US + HOUR_US + 2 * MINUTE_US)) as (_, url):
            for _ in range(100):
                got = shop.call(f"{url}/v1/models/learner/predict", probe)[1]
                if got["score"] != first["score"]:
                    break
                time.sleep(0.1)
            answers.append(got["score"])
    assert answers[0] == answers[1] < first["score"]
