"""A model of three classes, from a project file to an answer: trained, gated, refitted, watched and explained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import duckdb
import numpy as np
import pytest
import shop
from click.testing import CliRunner

from trimtab.cli.group import trimtab
from trimtab.core.columns.data import Columns, column
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.monitoring.inputs.red_windows import red_windows
from trimtab.monitoring.quality.quality_days import stored_days
from trimtab.stats.exact_sums import rounded

CLASSES = ("browsed", "bought", "returned")
MODEL = """
def trees():
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=40, learning_rate=0.05, num_leaves=6, min_child_samples=40)


model = tt.model("ending", request=visit, features=[{"x": tt.col("x")}, site], estimator=trees,
    metric="multi_log_loss", slices=["site"], calibration="platt", sample=tt.sample(classes={"browsed": 0.8}),
    costs={"browsed": 1, "bought": 1, "returned": {"browsed": 20, "bought": 10}},
    label=tt.label(endings, key="visit_id", value="ending", wait="2d", classes=["browsed", "bought", "returned"]))
tt.deployment(model, gate=tt.beats_champion(calibration=0.15))
"""
SOURCE = """endings = tt.source("endings", time="ended_at", key="visit_id", columns={"visit_id": str, "ending": str})
visit = tt.request("""


def write(folder: Path) -> Path:
    shop.write_project(folder)
    text = shop.PROJECT.replace('buyer("buyer", batch)', MODEL).replace("visit = tt.request(", SOURCE, 1)
    (folder / "project.py").write_text(text)
    return folder


def load(project: shop.Project, *, per_day: int = 60, strange: int = 5) -> None:
    """Visits and how they ended; the last few of a week ago in a way that the model does not list."""
    shop.load(project, per_day=per_day)
    chance = np.random.default_rng(1)
    count = shop.DAYS * per_day
    at_us = np.sort(shop.NOW_US - shop.DAYS * DAY_US + chance.integers(0, shop.DAYS * DAY_US - HOUR_US, count))
    x = chance.normal(size=count)
    odds = np.exp(np.stack([np.zeros(count), 1.5 * x, -1.0 - 1.5 * x], axis=1))
    shares = (odds / odds.sum(axis=1, keepdims=True)).cumsum(axis=1)
    ended = (chance.random(count)[:, None] > shares).sum(axis=1)
    endings = [CLASSES[n] for n in ended]
    for row in np.flatnonzero(at_us < shop.NOW_US - 7 * DAY_US)[-strange:]:
        endings[row] = "stolen"
    columns = {
        "visit_id": column("str", [f"v{n:05d}" for n in range(count)]),
        "ending": column("str", endings),
        "ended_at": column("time", (at_us + HOUR_US // 2).tolist()),
    }
    project.ingestor.load("endings", Columns(columns))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write(tmp_path_factory.mktemp("several"))
    with shop.opened(folder) as project:
        load(project)
        decisions = project.train("ending")
        assert [d.act for d in decisions] == ["train", "gate", "promote"], [d.cause for d in decisions]
    return folder


def test_three_classes_are_trained_gated_refitted_and_answered_as_one_row_and_as_many(folder: Path):
    with shop.opened(folder) as project:
        loaded = project.registry.load("ending@champion")
        assert loaded.artifact.class_names == CLASSES
        matrix = np.random.default_rng(0).normal(size=(50, len(loaded.inputs)))
        found = loaded.predict(matrix)
        assert found.shape == (50, 3)
        np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-12)
        assert [loaded.predict_row(row) for row in matrix.tolist()] == found.tolist()
        one, two = project.predict("ending", [shop.visit("q1", shop.NOW_US, 2.0), shop.visit("q2", shop.NOW_US, -2.0)])
        assert (one.prediction, two.prediction) == ("bought", "returned")
        assert one.scores is not None
        assert tuple(one.scores) == CLASSES
        assert one.score == one.scores["bought"] == max(one.scores.values())
        assert project.predictions.find(one.id).scores == one.scores


def test_its_evaluation_tells_each_class_from_the_others(folder: Path):
    with shop.opened(folder) as project:
        found = project.evaluation("ending@champion")
        assert [one.name for one in found.figures][:3] == ["multi_log_loss", "accuracy", "balanced_accuracy"]
        assert [one.name for one in found.classes] == list(CLASSES)
        assert np.array(found.confusion).sum() == found.rows == sum(one.rows for one in found.classes)
        assert all(one.auc is not None and one.auc_interval is not None and one.auc > 0.6 for one in found.classes)
        constant, last, linear = (found.baselines[name] for name in ("constant", "last_value", "linear"))
        assert found.value < min(constant, last)  # type: ignore[type-var]  # none of them is missing
        assert linear == pytest.approx(found.value, abs=0.05)
        assert {one.holds for one in found.slices} == {"north", "south"}
        assert all(one.auc is not None for one in (*found.months, *found.slices))
        page = project.report("ending@champion", folder / "report")
        assert "Classes" in page.read_text()
        assert all([of.name for of in one.classes] == list(CLASSES) for one in found.influences)
        assert found.recalibration == "platt"
        kept = {one.name: (one.kept, one.rows) for one in found.balance}
        assert 0.7 * kept["browsed"][1] < kept["browsed"][0] < 0.9 * kept["browsed"][1]
        assert kept["bought"][0] == kept["bought"][1]
        assert found.choices is not None
        assert found.choices.cheapest.cost < found.choices.likeliest.cost
        assert found.choices.cheapest.answered[2] > found.choices.likeliest.answered[2]
        assert "Cost of answers" in page.read_text()
        assert "Contributions (SHAP)" in page.read_text()
        assert "No SHAP values" not in page.read_text()
        assert "| class | rows |" in page.with_suffix(".md").read_text()
        assert (
            "returned" in page.with_suffix(".md").read_text() or "multi_log_loss" in page.with_suffix(".md").read_text()
        )
        gate = project.registry.gates_of(project.registry.get("ending@1"))[0]
        assert gate.passed
        assert gate.metric == "multi_log_loss"


def test_batches_files_and_why_name_the_classes(folder: Path, tmp_path: Path):
    with shop.opened(folder) as project:
        visits = Columns(
            {
                "visit_id": column("str", ["b1", "b2"]),
                "site": column("str", ["north", "south"]),
                "at": column("time", [shop.NOW_US - HOUR_US] * 2),
                "x": column("float", [2.0, -2.0]),
            }
        )
        out = tmp_path / "answers.parquet"
        project.predict_table("ending", visits, out=out)
        rows = duckdb.sql(f"SELECT prediction, score, * LIKE 'scores.%' FROM '{out}' ORDER BY request_id").fetchall()
        assert [row[0] for row in rows] == ["bought", "returned"]
        for row in rows:
            assert row[1] == max(row[2:])
            assert sum(row[2:]) == pytest.approx(1.0)
        (answer,) = project.predict(
            "ending", [shop.visit("v00000", shop.BEGIN_US + HOUR_US)], at=shop.BEGIN_US + HOUR_US
        )
        why = project.why(answer.id)
        assert (why.answer, why.scores) == (answer.prediction, answer.scores)
        assert f"answered {answer.prediction} (browsed " in why.lines()[0]
        assert why.label is None or why.label in CLASSES
        assert why.shares is not None
        assert why.shares.of == why.answer
        assert sum(one.added for one in why.shares.shares) + why.shares.base == pytest.approx(why.shares.raw)
        assert f"  raw score of {why.answer} " in "\n".join(why.lines())
        asked = project.predict("ending", [shop.visit("q9", shop.NOW_US)])
        report = project.skew("ending", scores=True)
        assert (report.models[0].scores, dict(report.models[0].causes)) == (report.models[0].rows, {})
        assert asked[0].prediction in CLASSES


def test_a_label_that_is_no_class_is_told_as_such(folder: Path):
    with shop.opened(folder) as project:
        version = project.registry.get("ending@1")
        assert "5 unlisted" in project.registry.card(version)
        project.history.refresh()
        frame = project.history.frame("endings")
        strange = frame.columns["ending"].to_list().index("stolen")
        key, at_us = frame.columns["visit_id"].to_list()[strange], int(frame.event_at_us[strange]) - HOUR_US // 2
        (answer,) = project.predict("ending", [shop.visit(key, at_us)], at=at_us)
        why = project.why(answer.id)
        assert (why.label, why.label_state) == (None, "unlisted")


def test_the_service_answers_with_classes_over_http_and_the_command_line_prints_them(folder: Path):
    visit = {**shop.visit("h1", shop.NOW_US, 2.0), "at": "2024-04-10T00:00:00Z"}
    with shop.serving(folder, "--as-of", "2024-04-10T00:00:00Z") as (_, url):
        status, answer = shop.call(f"{url}/v1/models/ending/predict", {"request": visit})
        assert status == 200
        assert answer["prediction"] == "bought"
        assert list(answer["scores"]) == list(CLASSES)
        assert answer["score"] == answer["scores"]["bought"]
        status, logged = shop.call(f"{url}/v1/predictions/{answer['id']}")
        assert (logged["prediction"], logged["scores"]) == (answer["prediction"], answer["scores"])


def test_the_command_line_names_the_class(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    row = json.dumps({**shop.visit("c1", shop.NOW_US, 2.0), "at": "2024-04-10T00:00:00Z"})
    done = CliRunner().invoke(trimtab, ["predict", "ending", "--row", row, "--at", "2024-04-10T00:00:00Z"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("c1  bought (0.")
    told = CliRunner().invoke(trimtab, ["why", done.stdout.split("id ")[1].split()[0]])
    assert "answered bought (browsed 0." in told.stdout


def live_days(
    project: shop.Project, days: int, *, strange: int = 0, per_day: int = 30, lost: str = "", since: int = 0
) -> None:
    """Visits answered as they come; half an hour later they are known to have ended as they do.

    So many of the first ones end in a way that the model does not list. From day `since` on, no label is `lost`: these
    are labelled "browsed".
    """
    chance = np.random.default_rng(5)
    asked, ended, at_us = [], [], []
    for day in range(days):
        now_us = shop.move(project, DAY_US)
        x = chance.normal(size=per_day)
        visits = [shop.visit(f"d{now_us}-{n}", now_us, float(one)) for n, one in enumerate(x)]
        project.predict("ending", visits)
        odds = np.exp(np.stack([np.zeros(per_day), 1.5 * x, -1.0 - 1.5 * x], axis=1))
        shares = (odds / odds.sum(axis=1, keepdims=True)).cumsum(axis=1)
        asked += [one["visit_id"] for one in visits]
        found = [CLASSES[n] for n in (chance.random(per_day)[:, None] > shares).sum(axis=1)]
        ended += ["browsed" if one == lost and day >= since else one for one in found]
        at_us += [now_us + HOUR_US // 2] * per_day
    ended[:strange] = ["stolen"] * strange
    shop.move(project, DAY_US)
    columns = {"visit_id": column("str", asked), "ending": column("str", ended), "ended_at": column("time", at_us)}
    project.ingestor.load("endings", Columns(columns))


def test_labels_of_no_declared_class_turn_the_status_red_and_are_counted_apart_from_missing_ones(
    folder: Path, tmp_path: Path
):
    again = tmp_path / "strange"
    shutil.copytree(folder, again)
    with shop.opened(again) as project:
        live_days(project, 3, strange=4)
        shop.move(project, 3 * DAY_US)
        project.loop("ending").tick()
        (signal,) = [one for one in project.signals() if one.kind == "unlisted_labels"]
        assert (signal.severity, signal.evidence["unlisted"]) == ("red", 4.0)
        status = project.status()
        assert any("4 of " in line and "of no class that the version in service knows" in line for line in status.red)
        assert "4 labels outside the declared classes" in "\n".join(status.lines())


def test_a_class_whose_labels_are_given_to_another_is_red_and_these_days_are_left_out(
    folder: Path, tmp_path: Path
) -> None:
    again = tmp_path / "tagged"
    shutil.copytree(folder, again)
    with shop.opened(again) as project:
        live_days(project, 6, per_day=400, lost="returned", since=4)
        assert not project.signals()
        shop.move(project, 3 * DAY_US)
        project.tick()
        (red,) = [one for one in project.signals() if one.kind == "label_shift" and one.severity == "red"]
        assert red.subject == "labels of endings, class returned"
        assert red.message.startswith("Labels: 0 % of the 400 labels of ")
        (window,) = [one for one in red_windows(project.state.catalog, "ending") if one.kind == "label_shift"]
        begun_us = shop.NOW_US + 5 * DAY_US
        assert window.covers(begun_us)
        days = {one.day_us: one.classes for one in stored_days(project.state.catalog, "ending")}
        assert days[begun_us // DAY_US * DAY_US]["returned"].label == ()
        sums = {sum(rounded(one.score) for one in classes.values()) for classes in days.values()}
        assert all(total in (0.0, pytest.approx(400.0)) for total in sums)  # a day of the fixture has no label


def test_a_class_that_is_added_is_not_held_against_the_version_that_does_not_know_it(
    folder: Path, tmp_path: Path
) -> None:
    again = tmp_path / "added"
    shutil.copytree(folder, again)
    with shop.opened(again) as project:
        live_days(project, 9, strange=15)
        shop.move(project, 3 * DAY_US)
        now_us = project.clock.now_us()
    file = again / "project.py"
    text = file.read_text().replace('"bought", "returned"]', '"bought", "returned", "stolen"]')
    file.write_text(text.replace('"returned": {"browsed": 20, "bought": 10}', '"returned": 20, "stolen": 9'))
    with shop.opened(again, now_us) as project:
        old = project.registry.load("ending@champion").version.id
        project.loop("ending").tick()  # days of the old version are closed after the class was declared
        (first,) = [one for one in stored_days(project.state.catalog, "ending") if one.whole.unlisted]
        assert (first.version, first.whole.unlisted, first.whole.labelled) == (old, 15, 15)
        assert first.quality().loss_sum / first.whole.labelled < 2.0
        project.train("ending")
        newest = project.registry.versions("ending")[-1]
        gate = project.registry.gates_of(newest)[-1]
        assert gate.champion == old
        assert abs(gate.difference) < 0.2
        assert "not_provably_worse" in gate.checks
        (plan,) = [one.reason for one in gate.findings if one.name == "plan"]
        assert plan.startswith("15 rows with labels of classes that the compared version does not know are left out")
        assert project.registry.load(newest).artifact.class_names == (*CLASSES, "stolen")
        for pair in (("ending@1", newest.name), (newest.name, "ending@1")):
            assert project.compare(*pair).predictions is not None


def test_its_days_are_watched_and_the_next_candidate_is_held_against_it_by_the_names_of_its_classes(
    folder: Path, tmp_path: Path
):
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    with shop.opened(again) as project:
        live_days(project, 9)
        shop.move(project, 2 * DAY_US)
        project.loop("ending").tick()
        watch = project.loop("ending").monitor.watch
        assert watch is not None
        assert watch.figures.keys() == {"quality_loss", "quality_calibration"}
        assert watch.last_day_us is not None
        assert watch.last_day_us >= shop.NOW_US + 8 * DAY_US
        assert not watch.alarming
        now_us = project.clock.now_us()
    text = (again / "project.py").read_text()
    (again / "project.py").write_text(
        text.replace('["browsed", "bought", "returned"]', '["returned", "bought", "browsed"]')
    )
    with shop.opened(again, now_us) as project:
        project.train("ending")
        newest = project.registry.versions("ending")[-1]
        gate = project.registry.gates_of(newest)[-1]
        assert gate.champion_metric == pytest.approx(gate.candidate_metric, abs=0.1)
        assert project.registry.load(gate.candidate).artifact.class_names == CLASSES[::-1]


def test_an_export_comes_back_and_is_refused_by_a_model_whose_classes_stand_in_another_order(
    folder: Path, tmp_path: Path
) -> None:
    with shop.opened(folder) as project:
        project.export("ending@champion", tmp_path / "out")
    about = json.loads((tmp_path / "out" / "model.json").read_text())
    about["classes"] |= {"rows": 77}  # that were learnt from: a class without one gets its chance by them
    (tmp_path / "out" / "model.json").write_text(json.dumps(about))
    other = write(tmp_path / "other")
    with shop.opened(other) as project:
        made = project.registry.load(project.import_model(tmp_path / "out", "ending"))
        assert made.artifact.classes.rows == 77  # type: ignore[union-attr]  # it has some
        assert made.artifact.class_names == CLASSES
    file = other / "project.py"
    file.write_text(file.read_text().replace('["browsed", "bought", "returned"]', '["bought", "browsed", "returned"]'))
    said = "predicts the classes browsed, bought, returned, but model 'ending' declares bought, browsed, returned"
    with shop.opened(other) as project, pytest.raises(Misuse, match=said):
        project.import_model(tmp_path / "out", "ending")
