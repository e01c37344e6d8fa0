"""A shadow takes the champion's logged scores where they are the numbers that it would give again, and no others."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import shop
from alias_moves import promote

from indexed_labels import IndexedLabels
from trimtab.app.project import Project
from trimtab.app.training.loops import Loops
from trimtab.core.columns.data import Columns, column
from trimtab.core.ids import TimeIds
from trimtab.core.records import FALLBACK_VERSION, LAST_ANSWER, NULL_FEATURES, RULE, Prediction
from trimtab.core.time import DAY_US, MINUTE_US
from trimtab.features.definitions import Request
from trimtab.features.labels import LabelIndex
from trimtab.registry import LoadedModel
from trimtab.serving.arms.arms import CANARY
from trimtab.steering.candidates.comparison_targets import TargetScores
from trimtab.steering.candidates.comparisons import Comparisons
from trimtab.steering.candidates.ports import DeploymentParts
from trimtab.steering.candidates.recipes import BatchRecipe
from trimtab.steering.candidates.windows import JudgingWindow
from trimtab.steering.loop_state import Changes, PairedDay, Repair
from trimtab.training import Model, TrainingSet

MODELS = """
def forest():
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators=10, max_depth=4)


def trees():
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=20, min_child_samples=40, verbose=-1)


def boosted():
    from xgboost import XGBClassifier

    return XGBClassifier(n_estimators=20, max_depth=3)


def cats():
    from catboost import CatBoostClassifier

    return CatBoostClassifier(iterations=20, depth=3, verbose=False)


def counting():
    from lightgbm import LGBMRegressor

    return LGBMRegressor(objective="poisson", n_estimators=20, verbose=-1)


def of(name, estimator, metric, value, *, classes=None, **more):
    model = tt.model(name, request=visit, features=[{"x": tt.col("x"), "site": tt.col("site").category()}, site],
        estimator=estimator, metric=metric, **more,
        label=tt.label(sales, key="visit_id", value=value, wait="2d", classes=classes))
    tt.deployment(model, gate=tt.beats_champion(margin=-0.5, calibration=0.5))


bought = tt.col("bought")
of("linear", batch, "log_loss", bought, calibration="platt")
of("bagged", forest, "log_loss", bought)
of("chance", trees, "log_loss", bought, calibration="isotonic")
of("other_trees", boosted, "log_loss", bought)
of("third_trees", cats, "log_loss", bought)
of("number", counting, "poisson_deviance", tt.when(bought, 3, 1))
of("ending", trees, "multi_log_loss", tt.when(bought, tt.when(tt.col("site") == "north", "here", "there"), "no"),
    classes=["no", "here", "there"], calibration="platt")
"""
KINDS = ("linear", "bagged", "chance", "other_trees", "third_trees", "number", "ending")


def ask(project: Project, name: str, count: int, seed: int = 0) -> list[Prediction]:
    """Visits in an hour, of which some have no reading or an unknown site; what was logged of them."""
    rng, made = np.random.default_rng(seed), []
    for n in range(count):
        now_us = shop.move(project, MINUTE_US)
        project.push("readings", [{"site": "north", "level": float(rng.normal()), "read_at": now_us}])
        project.views.catch_up()
        site = ("north", "south", "nowhere")[int(rng.integers(3))]
        (answer,) = project.predict(name, [shop.visit(f"{name}{n}", now_us, float(rng.normal()), site)])
        made.append(project.predictions.find(answer.id))
    return made


@pytest.mark.slow
def test_the_logged_score_of_every_kind_of_model_is_the_one_it_gives_again(tmp_path: Path) -> None:
    folder = shop.write_project(tmp_path / "kinds", settings='[training]\nexecutor = "thread"\n')
    (folder / "project.py").write_text(shop.PROJECT.replace('buyer("buyer", batch)', MODELS))
    with shop.opened(folder) as project:
        shop.load(project)
        for name in KINDS:
            project.train(name)
            begin_us = project.clock.now_us()
            ask(project, name, 25)
            model, loaded = project.definitions.models[name], project.registry.load(f"{name}@champion")
            cut_us = project.clock.now_us()
            found = (
                project.part(Loops).living_data().training_set(model, cut_us=cut_us, since_us=begin_us, answers=True)
            )
            assert (found.rows, found.answers is None) == (25, False)
            everything = np.ones(found.rows, bool)
            matrix = loaded.encoding.matrix(found.features.values)
            assert np.isnan(matrix).any()
            assert found.answers is not None
            logged = found.answers.scores_of(loaded.version.id, loaded.artifact, matrix)
            assert np.isfinite(logged).all(), name  # none is left to be predicted
            recipe = BatchRecipe(model, seed=0)
            by_log = recipe.champion_scores(loaded, found, everything)
            again = recipe.champion_scores(loaded, msgspec.structs.replace(found, answers=None), everything)
            assert by_log.shape == again.shape
            assert np.abs(by_log - again).max() <= (0.0 if loaded.artifact.row_exact else 1e-12), name
            wavering = msgspec.structs.replace(loaded.artifact, row_exact=False, row_tolerance=1e-7)
            assert np.isnan(found.answers.scores_of(loaded.version.id, wavering, matrix)).all()


class Unlogged:
    """A project's rows without the answers of its log."""

    def __init__(self, project: Project) -> None:
        self._data = project.part(Loops).living_data()
        self.features_of = self._data.features_of

    def training_set(
        self, model: Model, *, cut_us: int, since_us: int | None = None, answers: bool = False
    ) -> TrainingSet:
        return self._data.training_set(model, cut_us=cut_us, since_us=since_us)


def comparisons_of(project: Project, data: Any = None) -> Comparisons:
    data = data or project.part(Loops).living_data()
    deployment = project.definitions.deployment("buyer")
    recipe = BatchRecipe(deployment.model, seed=0)
    parts = DeploymentParts(
        deployment=deployment, data=data, labels=IndexedLabels(LabelIndex(deployment.model.label)),
        registry=project.registry, catalog=project.state.catalog, blob=project.state.blob, clock=project.clock,
        ids=TimeIds(project.clock, seed=1),
    )  # fmt: skip
    return Comparisons(parts, recipe)


def test_after_a_roll_back_by_hand_a_refit_on_older_days_has_to_be_proven(trained: Path) -> None:
    with shop.opened(trained) as project:
        compare, changes = comparisons_of(project), Changes(refreshes=True)
        promote(project, "buyer@1")
        shop.move(project, shop.HOUR_US)
        project.roll_back("buyer", why="It was better.", actor="Ada")
        now_us = project.clock.now_us()
        target, answered, rows = compare.target(now_us), TargetScores(np.zeros(3), ""), np.ones(3, bool)
        for begins_us, refreshes in ((now_us - DAY_US, False), (now_us, True)):
            window = JudgingWindow(begins_us, begins_us + DAY_US, rows, rows)
            assert compare.refreshes(changes, target, answered, window) is refreshes


def compared(project: Project, repair: Repair, since_us: int, data: Any) -> tuple[PairedDay, ...]:
    assert repair.successor is not None
    assert repair.gate.champion is not None
    until_us = project.clock.now_us()
    return comparisons_of(project, data).paired_days(repair.successor, repair.gate.champion, since_us, until_us)[0]


def again_as(made: Prediction, request: Request, key: str, **more: Any) -> Prediction:
    """The answer to the same visit under another key, with other fields."""
    row = msgspec.msgpack.decode(made.request)
    row[list(request.columns).index(request.key)] = key
    fields = {"id": f"{made.id}{key}", "request_id": key, "request": msgspec.msgpack.encode(row), **more}
    return msgspec.structs.replace(made, **fields)


def others(made: list[Prediction], request: Request, other: LoadedModel) -> list[Prediction]:
    """Answers of another version, and such as tell nothing of one on its features, with a score that would show."""
    wrong, found = 0.999, []
    nothing = np.full(len(made[0].values) // 8, np.nan, "<f8").tobytes()
    for n, one in enumerate(made):
        values = np.frombuffer(one.values, "<f8")
        skewed = np.where(np.arange(len(values)) == n % len(values), np.nan_to_num(values) + 1e-9, values)
        ways: list[dict[str, Any]] = [
            {"version": other.version.id, "arm": CANARY, "score": other.predict_row(values.tolist())},
            {"version": other.version.id, "flags": (FALLBACK_VERSION,), "score": other.predict_row(values.tolist())},
            {"flags": (NULL_FEATURES,)},
            {"flags": (LAST_ANSWER,)},
            {"flags": (RULE,), "values": nothing},
            {"mode": "online"},
            {"arm": "online"},
            {"values": skewed.tobytes()},  # a skew: online it read something else
            {"values": one.values[:-8]},
        ]
        found += [
            again_as(one, request, f"{one.request_id}-{w}", **{"score": wrong} | way) for w, way in enumerate(ways)
        ]
    return found


@pytest.mark.parametrize("features", ["same", "other"])
def test_a_shadow_of_mixed_arms_and_degraded_answers_is_the_one_of_predictions_made_again(
    trained: Path, tmp_path: Path, features: str
) -> None:
    folder = shutil.copytree(trained, tmp_path / "mixed")
    if features == "other":  # the model reads less by now than the versions did
        file = folder / "project.py"
        file.write_text(file.read_text().replace('"site": tt.col("site").category()}, site]', "}]"))
    with shop.opened(folder) as project:
        since_us = project.clock.now_us()
        champion, other = (project.registry.get(f"buyer@{number}") for number in (2, 1))
        request = project.definitions.models["buyer"].request
        made = ask(project, "buyer", 60)
        assert {one.version for one in made} == {champion.id}
        more = others(made, request, project.registry.load(other))
        project.predictions.append(more)
        bought = np.random.default_rng(1).random(len(made) + len(more)) < 0.4
        sold(project, [one.request_id for one in (*made, *more)], bought.tolist())
        shop.move(project, 4 * DAY_US)
        gate = msgspec.structs.replace(next(iter(project.registry.gates_of(champion))), champion=champion.id)
        repair = Repair(
            candidate=other.id, gate=gate, successor=other.id, reason="", reference=(), cut_us=since_us, rows=0,
            data_hash="",
        )  # fmt: skip
        by_log = compared(project, repair, since_us, project.part(Loops).living_data())
        again = compared(project, repair, since_us, Unlogged(project))
        assert sum(day.rows for day in by_log) == len(made) + len(more)
        same(by_log, again)
        assert all(day.difference for day in again)
        healthy = [again_as(one, request, f"{one.request_id}-logged", score=0.999) for one in made]
        project.predictions.append(healthy)  # of this version, on these inputs: nobody asks it again
        sold(project, [one.request_id for one in healthy], bought[: len(made)].tolist())
        shop.move(project, 4 * DAY_US)
        by_log = compared(project, repair, since_us, project.part(Loops).living_data())
        again = compared(project, repair, since_us, Unlogged(project))
        assert by_log[0].champion > again[0].champion + 0.1


def sold(project: Project, keys: list[str], bought: list[bool]) -> None:
    closed = [project.clock.now_us()] * len(keys)
    table = {
        "visit_id": column("str", keys),
        "site": column("str", ["north"] * len(keys)),
        "bought": column("bool", bought),
        "closed_at": column("time", closed),
    }
    project.push("sales", Columns(table).to_rows())  # labels of a file would be final only after later labels


def same(found: tuple[PairedDay, ...], expected: tuple[PairedDay, ...]) -> None:
    assert [(day.day_us, day.rows) for day in found] == [(day.day_us, day.rows) for day in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.difference == pytest.approx(other.difference, abs=1e-12)
        assert one.champion == pytest.approx(other.champion, abs=1e-12)
