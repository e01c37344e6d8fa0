"""`why` and `status`: what is shown is what was, and what is amiss is red with its cause."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import shop

from trimtab.app.inspect.explain import _shares
from trimtab.app.project import Project
from trimtab.app.serve.background import BackgroundTasks
from trimtab.app.training.loop import KIND as LOOP
from trimtab.app.training.loop import LoopActivity
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US
from trimtab.serving.workers.states import FOLDER, ServiceState, write_state
from trimtab.store import Append, Put
from trimtab.testing.builders import a_signal
from trimtab.training.fitting.artifact import decode_artifact


@pytest.fixture
def project(trained: Path) -> Any:
    with shop.opened(trained) as opened:
        yield opened


def asked(folder: Path) -> str:
    with shop.opened(folder) as project:
        return project.predict("buyer", [shop.visit("a", shop.NOW_US, x=0.25)])[0].id


def change(folder: Path, old: str, new: str) -> None:
    file = folder / "project.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


FEATURES = '[{"x": tt.col("x"), "site": tt.col("site").category()}, site]'


@pytest.mark.parametrize(
    "features",
    [
        '[site, {"site": tt.col("site").category(), "x": tt.col("x")}]',
        '[{"spend": tt.col("x"), "place": tt.col("site").category()}, site]',
        '[{"x": tt.col("x")}]',
        '[{"x": tt.col("x"), "more": tt.col("x") * 2, "site": tt.col("site").category()}, site]',
    ],
    ids=["reordered", "renamed", "fewer", "more"],
)
def test_why_shows_the_inputs_under_the_names_they_had(trained: Path, features: str) -> None:
    made = asked(trained)
    with shop.opened(trained) as project:
        before = project.why(made)
    assert [one.feature for one in before.inputs] == ["x", "site", "site.level", "site.level_1d"]
    assert before.inputs[0].value == 0.25
    change(trained, FEATURES, features)
    with shop.opened(trained) as project:
        assert project.why(made).inputs == before.inputs


def test_why_shows_the_texts_of_categories_and_says_which_training_never_saw(trained: Path) -> None:
    with shop.opened(trained) as project:
        known, new, none = project.predict(
            "buyer",
            [shop.visit(site or "none", shop.NOW_US, site=site) for site in ("south", "west", None)],  # type: ignore[arg-type]
        )
        shown = {}
        for answer in (known, new, none):
            explanation = project.why(answer.id)
            site = explanation.inputs[1]
            line = next(line for line in explanation.lines() if line.startswith("    site "))
            shown[answer.request_id] = (site.value, site.text, site.unseen, line.split(maxsplit=1)[1])
    assert shown["south"][1:] == ("south", False, "south")
    assert shown["south"][0] in (0.0, 1.0)
    assert shown["west"] == (None, "west", True, "west  (unseen in training)")
    assert shown["none"] == (None, None, False, "null")


def test_why_takes_no_text_of_a_request_whose_answer_is_anothers_or_of_no_model(trained: Path) -> None:
    with shop.opened(trained) as project:
        (first,) = project.predict("buyer", [shop.visit("first", shop.NOW_US, site=None)])  # type: ignore[arg-type]
        answerer, last = project.served("buyer").endpoint.current, project.predictions.find(first.id)
        (row,) = answerer.rows.check([shop.visit("again", shop.NOW_US, site="west")])
        made = [
            answerer.repeated(last, row, shop.NOW_US, ("features_failed", "last_answer")),
            answerer.ruled(row, 0.5, shop.NOW_US, ("features_failed", "rule")),
        ]
        project.predictions.append(made)
        for one in made:
            site = project.why(one.id).inputs[1]
            assert (site.feature, site.text, site.unseen) == ("site", None, False)
        assert project.why(made[1].id).no_shares == "the declared rule gave the answer, not the model"


def test_why_names_the_columns_of_a_request_as_its_version_knew_them(trained: Path) -> None:
    made = asked(trained)
    with shop.opened(trained) as project:
        asked_then = project.why(made).request
        assert asked_then == {"visit_id": "a", "site": "north", "at": "2024-04-10T00:00:00Z", "x": 0.25}
    change(trained, '"at": tt.Time, "x": float', '"at": tt.Time, "age": int, "x": float')
    with shop.opened(trained) as project:
        assert project.why(made).request == asked_then
    change(trained, 'buyer("buyer", batch)', "")
    with shop.opened(trained) as project:
        assert project.why(made).request == asked_then
        assert "no longer declared" in "\n".join(project.why(made).lines())
        with pytest.raises(NotFound):
            project.why("p_nothing")


def test_a_sound_project_has_nothing_red(project: Project) -> None:
    project.predict("buyer", [shop.visit("a", shop.NOW_US)])
    found = project.status()
    assert found.red == []
    assert found.lag_records == 0
    assert [source.events for source in found.sources if source.name == "visit"] == [1_200]


def test_events_that_nobody_applies_are_red_only_if_a_service_ran(project: Project) -> None:
    project.views.catch_up()
    project.push("readings", [{"site": "north", "level": 1.0, "read_at": shop.NOW_US}])
    shop.move(project, HOUR_US + MINUTE_US)
    found = project.status()
    assert found.red == []  # the next prediction applies them before it answers
    assert any("features: 1 record behind the log (the next prediction" in line for line in found.lines())
    folder = project.state_folder / FOLDER
    folder.mkdir(exist_ok=True)
    write_state(folder, ServiceState(pid=1, url="http://127.0.0.1:1", at_us=shop.NOW_US, workers=[]))
    assert re.search("1 record waiting for up to 61min; the service was killed", str(project.status().red))
    project.views.follow()  # and its applier is never started
    assert re.search("is stuck", str(project.status().red))
    project.views.release()


def test_what_fails_in_the_serving_process_is_red_while_it_lives(project: Project) -> None:
    keeper = BackgroundTasks(project)
    keeper._round({"tick": lambda: 1 / 0})
    assert not re.search("ZeroDivisionError", str(project.status().red))  # nobody serves: a word of the dead
    project.views.follow()
    assert "the serving process: tick failed: ZeroDivisionError: division by zero" in project.status().red
    keeper._round({"tick": lambda: None})
    assert not re.search("tick failed", str(project.status().red))
    project.views.release()


def test_a_loop_that_does_not_tick_is_red(project: Project) -> None:
    shop.move(project, 3 * DAY_US)
    project.views.catch_up()
    assert (
        "buyer: the loop has not ticked for 3d; run `trimtab serve`, or `trimtab tick` every hour"
        in project.status().red
    )
    project.tick()
    assert not re.search("tick", str(project.status().red))
    shop.move(project, 3 * DAY_US)
    project.promote("buyer@1", why="by hand")
    assert re.search("has not ticked for 3d", str(project.status().red))  # a move of a version is no tick


def test_a_tick_that_failed_is_red_with_its_error(project: Project) -> None:
    turn = LoopActivity(
        doing="tick", holder="x", began_us=0, ended_us=1, last_tick_us=shop.NOW_US, last_error="disk full"
    )
    project.state.catalog.write([Put(LOOP, "buyer", msgspec.json.encode(turn))])
    assert "buyer: the newest tick failed: disk full" in project.status().red


def test_a_watch_that_is_not_whole_is_red_with_its_cause(project: Project) -> None:
    record = project.state.catalog.get("quality_watch", "buyer")
    assert record is not None
    body = msgspec.json.decode(record.body)
    assert set(body["figures"]) == {"quality_loss", "quality_calibration"}
    write_watch(project, {**body, "figures": {"quality_loss": body["figures"]["quality_loss"]}})
    with shop.opened(project.config.folder) as again:
        (line,) = [line for line in again.status().red if line.startswith("buyer: quality")]
        assert line.startswith(
            "buyer: quality_calibration not watched: what is normal is learnt from the gate's window"
        )
    write_watch(project, {**body, "version": "another"})
    with shop.opened(project.config.folder) as again:
        assert any("not promoted by the loop" in line for line in again.status().red)


def write_watch(project: Project, body: dict[str, Any]) -> None:
    project.state.catalog.write([Put("quality_watch", "buyer", msgspec.json.encode(body))])


def test_all_signals_are_read(project: Project) -> None:
    signal = a_signal(0, id="s", kind="quality_loss", model="buyer", severity="info", evidence={}, message="")
    signals = [msgspec.structs.replace(signal, id=f"s{n}") for n in range(10_001)]
    project.state.catalog.write([Append("signals", n, msgspec.json.encode(one)) for n, one in enumerate(signals)])
    assert len(project.signals()) == 10_001


def test_features_that_were_changed_can_be_trained_at_once_while_the_version_of_before_answers(trained: Path) -> None:
    project_file = trained / "project.py"
    project_file.write_text(
        project_file.read_text().replace('{"x": tt.col("x"),', '{"x": tt.col("x"), "y": tt.col("x") * 2,')
    )
    with shop.opened(trained, shop.NOW_US) as project:
        before = project.predict("buyer", [shop.visit("a", shop.NOW_US)])[0].version
        assert not any(line.startswith("buyer:") for line in project.status().red)
        assert [d.act for d in project.train("buyer")][-1] == "promote"
        assert project.predict("buyer", [shop.visit("a", shop.NOW_US)])[0].version != before


def test_a_metric_that_is_none_is_refused_where_it_is_declared(trained: Path) -> None:
    project_file = trained / "project.py"
    project_file.write_text(project_file.read_text().replace('metric="log_loss"', 'metric="logloss"'))
    with pytest.raises(Misuse, match=r"'logloss' must be one of .*log_loss"):
        shop.opened(trained, shop.NOW_US)


def test_why_shows_what_each_feature_added(trained: Path) -> None:
    made = asked(trained)
    with shop.opened(trained) as project:
        found = project.why(made)
        assert found.shares is not None
        assert sum(one.added for one in found.shares.shares) + found.shares.base == pytest.approx(found.shares.raw)
        assert 1 / (1 + math.exp(-found.shares.raw)) == pytest.approx(found.score)
        assert found.shares.shares[0].feature == "x"
        assert any(re.fullmatch(r"    [+-]\d\.\d{4}  x", line) for line in found.lines())
        learner = project.predict("learner", [shop.visit("b", shop.NOW_US)])[0]
        at_first = project.why(learner.id)
        assert at_first.shares is not None  # it has learnt nothing since
        later = msgspec.structs.replace(project.predictions.find(learner.id), score=learner.score / 2)
        artifact = decode_artifact(project.state.blob.get(project.registry.get(later.version).artifact))
        shares, why = _shares(artifact, [one.value or math.nan for one in at_first.inputs], later)
        assert shares is None
        assert why is not None
        assert "learner has learnt since" in why


def test_why_shows_the_gate_of_the_promotion_and_no_later_one(trained: Path) -> None:
    made = asked(trained)
    with shop.opened(trained) as project:
        first = project.why(made).gate
        assert first is not None
        later = msgspec.structs.replace(first, id="gate_9" + first.id[6:])
        project.registry.put_gate(later)
        assert project.registry.gates_of(project.registry.get(first.candidate))[-1] == later
        assert project.why(made).gate == first


def test_a_project_that_was_only_loaded_is_shown_without_alarm(tmp_path: Path) -> None:
    with shop.opened(shop.write_project(tmp_path / "fresh")) as project:
        shop.load(project)
        lines = project.status().lines()
        (behind,) = [line for line in lines if line.startswith("online features:")]
        assert re.fullmatch(
            r"online features: not filled yet \([0-9,]+ records; the first `trimtab serve` or prediction fills them\)",
            behind,
        )
        project.views.catch_up()
        lines = project.status().lines()
        assert "online features: 0 records behind the log" in lines
        assert not any("too late" in line for line in lines)


def test_actors_and_reasons_are_texts_or_nothing_is_recorded(trained: Path) -> None:
    with shop.opened(trained) as opened:
        project: Any = opened  # so that mypy accepts values of wrong types
        before = project.ledger()
        for refused in (
            lambda: project.freeze(123),
            lambda: project.freeze("late", actor=None),
            lambda: project.unfreeze(None),
            lambda: project.train("buyer", actor=1000),
            lambda: project.set_arm("buyer@1", "shadow", share=0.1, why="to compare them", actor=1000),
            lambda: project.forget("site", "north", why=17),
            lambda: project.start_experiment("none", why="x", actor=b"me"),
        ):
            with pytest.raises(Misuse, match=r"^\w+: (why|actor)=.* is no text"):
                refused()
        assert project.ledger() == before


def test_what_is_asked_about_must_be_named(tmp_path: Path) -> None:
    with shop.opened(shop.write_project(tmp_path / "two", online=True)) as project:
        with pytest.raises(Misuse, match="predict: no model is named, and there are buyer, learner"):
            project.predict(None, [shop.visit("a", shop.NOW_US)])  # type: ignore[arg-type]  # somebody forgot it
        with pytest.raises(Misuse, match="why: None is not an id"):
            project.why(None)  # type: ignore[arg-type]  # no answer was kept


@pytest.mark.parametrize(
    ("field", "ask"),
    [
        ("at", lambda project, at: project.predict("buyer", [shop.visit("a", shop.NOW_US)], at=at)),
        ("at", lambda project, at: project.predict_table("buyer", [shop.visit("a", shop.NOW_US)], at=at)),
        ("at", lambda project, at: project.join([{"visit_id": "a", "site": "north"}], "site", at=at)),
        ("at", lambda project, at: project.snapshot("site", at=at)),
        ("snapshots: start", lambda project, at: project.snapshots("site", start=at, end="2024-01-01", every="1d")),
        ("snapshots: end", lambda project, at: project.snapshots("site", start="2024-01-01", end=at, every="1d")),
        ("since", lambda project, at: project.skew(since=at)),
        ("since", lambda project, at: project.quality(since=at)),
        ("until", lambda project, at: project.quality(until=at)),
        ("start", lambda project, at: project.simulate(start=at)),
        ("until", lambda project, at: project.simulate(until=at)),
        ("seen_until", lambda project, at: project.promote("buyer@1", seen_until=at)),
        ("seen_until", lambda project, at: project.import_model("model.pkl", "buyer", seen_until=at)),
    ],
)
def test_a_moment_in_seconds_is_no_moment_to_ask_about(
    trained: Path, field: str, ask: Callable[[Project, Any], object]
) -> None:
    with shop.opened(trained) as project:
        said = rf"^{field}: 1700000000, which as microseconds lies in 1970 and looks like seconds\. Give ISO 8601 text"
        with pytest.raises(Misuse, match=said):
            ask(project, 1_700_000_000)
        with pytest.raises(Misuse, match=rf"^{field}: time: .* is a float\. Give ISO 8601 text, a datetime or "):
            ask(project, 1.7e9)
