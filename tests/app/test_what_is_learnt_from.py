"""Leaks, logged rows and what cannot be learnt from, in a project: the version in service stays."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import shop

from trimtab.app.data.logged_rows import encodings
from trimtab.app.data.training_data import LivingData
from trimtab.app.features.feature_runs import run_in_memory
from trimtab.app.project import Project
from trimtab.core.errors import Misuse, NotFound, Unavailable
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.training.data.retroactive_changes import RetroactiveChange
from trimtab.training.data.sets import TrainingSet, load_training_set, save_training_set
from trimtab.training.definitions import Model


def data(project: Project) -> LivingData:
    return LivingData(
        partial(run_in_memory, project.history),
        project.predictions,
        encoding_of=encodings(project.registry, project.state.blob),
    )


def set_of(project: Project, **changes: Any) -> TrainingSet:
    model = msgspec.structs.replace(project.definitions.models["buyer"], **changes)
    return data(project).training_set(model, cut_us=project.clock.now_us())


def ask(project: Project, days: int, per_day: int, *, x: bool = True) -> list[str]:
    """Ask at every hour of some days; sales follow half an hour later."""
    chance = np.random.default_rng(7)
    keys = []
    for _ in range(days * per_day):
        now_us = shop.move(project, DAY_US // per_day - HOUR_US // 2)
        key, value = f"a{len(keys):04}", float(chance.normal())
        site = "west" if len(keys) % 7 == 0 else "north"  # west was never trained on
        project.predict("buyer", [{**shop.visit(key, now_us, value, site), "x": value if x else None}])
        bought = bool(chance.random() < 1 / (1 + np.exp(-2 * value)))
        closed_us = shop.move(project, HOUR_US // 2)
        project.push("sales", [{"visit_id": key, "site": site, "bought": bought, "closed_at": closed_us}])
        keys.append(key)
    return keys


@pytest.fixture
def project(trained: Path) -> Any:
    with shop.opened(trained) as opened:
        yield opened


def test_a_column_that_is_filled_in_after_the_question_refuses_the_training(project: Project) -> None:
    before = project.registry.alias("buyer", "champion")
    keys = ask(project, 20, 2, x=False)
    now_us = shop.move(project, DAY_US)
    project.push("visit", [shop.visit(key, now_us - DAY_US) for key in keys])
    shop.move(project, 5 * DAY_US)
    found = set_of(project).manifest
    assert found.origins == {"history": 1200, "asked": 40}
    assert found.hindsight["x"] == RetroactiveChange(
        twice=40, changed=40, filled=40, asked=40, asked_filled=0, history=1200, history_filled=1200
    )
    assert found.hindsight["site"].changed > 0  # "west" was asked, "north" is ingested
    with pytest.raises(Misuse, match=r"'x' was null in 40 of 40 requests .* allow_leakage=\[\"x\"\]"):
        project.train("buyer")
    assert project.registry.alias("buyer", "champion") == before


def test_a_request_that_is_corrected_later_is_known_twice(project: Project) -> None:
    for hour in range(1, 7):
        now_us = shop.move(project, HOUR_US)
        project.push("visit", [shop.visit(f"c{hour}", now_us + HOUR_US, 0.5)])
        shop.move(project, 2 * HOUR_US)
        project.push("visit", [shop.visit(f"c{hour}", now_us + HOUR_US, 9.5)])
    shop.move(project, DAY_US)
    found = set_of(project)
    assert (found.manifest.hindsight["x"].twice, found.manifest.hindsight["x"].changed) == (6, 6)
    rows = [key.startswith("c") for key in found.requests["visit_id"].to_list()]
    assert set(found.requests["x"].values[rows]) == {0.5}


def test_logged_rows_have_the_bits_that_were_answered_from(project: Project) -> None:
    ask(project, 4, 10)
    found = set_of(project, rows="logged")
    assert found.manifest.origins == {"logged": 40, "other_features": 0}
    version = project.registry.get("buyer@champion")
    encoding = encodings(project.registry, project.state.blob)(version.id, found_features := model(project).features)
    assert encoding is not None
    logged = {p.request_id: p for block in project.predictions.scan({}) for p in block if p.model == "buyer"}
    answered = np.array([np.frombuffer(logged[key].values) for key in found.requests["visit_id"].to_list()])
    assert encoding.matrix(found.features.values).tobytes() == answered.tobytes()
    assert found.features.values.names == found_features.names
    computed = set_of(project)
    rows = np.isin(computed.requests["visit_id"].values, found.requests["visit_id"].values)
    same = computed.features.values.take(rows)
    for name in ("x", "site.level", "site.level_1d"):
        assert same[name].to_list() == found.features.values[name].to_list()
    assert set(same["site"].to_list()) == {"north", "west"}
    assert set(found.features.values["site"].to_list()) == {"north", None}  # as it was answered: not known then
    for name, codes in found.features.reasons.items():
        np.testing.assert_array_equal(codes, computed.features.reasons[name][rows])
    stored = save_training_set(found, project.state.blob)
    again = load_training_set(stored, project.state.blob, key="visit_id")
    assert again.manifest == found.manifest


def model(project: Project) -> Model:
    return project.definitions.models["buyer"]


def test_versions_with_other_features_leave_their_rows_out(project: Project) -> None:
    ask(project, 1, 5)
    features = msgspec.structs.replace(
        model(project).features, transforms={"x": model(project).features.transforms["x"] * 2}
    )
    with pytest.raises(NotFound, match="none of 5 requests was answered by a version with its features"):
        set_of(project, rows="logged", features=features)


def rewrite(folder: Path, old: str, new: str) -> None:
    file = folder / "project.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_a_model_of_logged_rows_is_trained_from_its_own_answers(trained: Path) -> None:
    with shop.opened(trained) as project:
        ask(project, 24, 4)
        now_us = shop.move(project, 3 * DAY_US)
    rewrite(trained, 'metric="log_loss")', 'metric="log_loss", rows="logged" if name == "buyer" else "history")')
    with shop.opened(trained, now_us) as project:
        project.apply()
        decisions = project.train("buyer")
        assert decisions[0].act == "train"
        version = project.registry.get("buyer@3")
        found = project.evaluation(version.id)
        assert [leak.check for leak in found.leaks or ()] == ["no_values"]  # of readings older than their max_age
        assert version.rows < 96


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        ("raise OSError('no licence')", "no licence"),
        ("return LogisticRegression(C=-1.0)", r"LogisticRegression.fit raised InvalidParameterError"),
        ("from sklearn.linear_model import Ridge; return Ridge()", r"lie outside \[0, 1\]"),
        ("from sklearn.svm import SVC; return SVC()", "predicts classes, not probabilities"),
        ("from sklearn.linear_model import LinearRegression as L\n    from sklearn.multioutput import "
         "MultiOutputRegressor as M; return M(L())", "buyer"),
    ],
)  # fmt: skip
def test_an_estimator_that_fails_leaves_the_version_in_service(trained: Path, estimator: str, message: str) -> None:
    rewrite(trained, "    return LogisticRegression()", f"    {estimator}")
    with shop.opened(trained, shop.NOW_US + 40 * DAY_US) as project:
        before = project.registry.alias("buyer", "champion")
        project.apply()
        fresh(project)
        with pytest.raises((Misuse, Unavailable), match=message):
            project.train("buyer")
        assert project.registry.alias("buyer", "champion") == before
        assert project.predict("buyer", [shop.visit("still", project.clock.now_us())])[0].score > 0


def fresh(project: Project, *, bought: Any = None, days: int = 20) -> None:
    """Visits and sales of the days before now."""
    chance = np.random.default_rng(3)
    begin_us = project.clock.now_us() - (days + 4) * DAY_US
    visits, sales = [], []
    for n in range(days * 12):
        at_us, x = begin_us + n * 2 * HOUR_US, float(chance.normal())
        visits.append(shop.visit(f"n{n}", at_us, x))
        said = bool(chance.random() < 1 / (1 + np.exp(-2 * x))) if bought is None else bought
        sales.append({"visit_id": f"n{n}", "site": "north", "bought": said, "closed_at": at_us + HOUR_US})
    project.push("visit", visits)
    if bought != "never":
        project.push("sales", sales)


@pytest.mark.parametrize(
    ("bought", "days", "kind", "message"),
    [
        (True, 20, Misuse, r"all \d+ labels are 1\. Widen the window until both classes occur"),
        ("never", 20, Unavailable, "None of 240 requests has a label"),
        (None, 8, Unavailable, "No labels were final before"),
    ],
)
def test_a_window_that_holds_too_little_trains_nothing(
    tmp_path: Path, bought: Any, days: int, kind: type[Exception], message: str
) -> None:
    with shop.opened(shop.write_project(tmp_path / "shop")) as project:
        fresh(project, bought=bought, days=days)
        with pytest.raises(kind, match=message):
            project.train("buyer")
        assert project.registry.versions("buyer") == []
