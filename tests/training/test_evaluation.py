from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from lightgbm import LGBMClassifier
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import Ridge

from trimtab.core.errors import Misuse
from trimtab.core.expressions.nodes import col
from trimtab.run import progress
from trimtab.stats.scores import log_loss
from trimtab.training import Evaluation, TrainingSet, evaluate, fit, time_split
from trimtab.training.judge.backtest import FOLDS
from trimtab.training.judge.baselines import BASELINES
from trimtab.training.judge.learning_curve import SHARES


def test_an_evaluation_judges_the_holdout_next_to_its_baselines(world: Any, training_set: TrainingSet) -> None:
    split = time_split(training_set)
    fitted = fit(world.model, training_set, rows=split.train)
    found = evaluate(world.model, fitted, training_set, rows=split.holdout, train=split.train)
    chosen = training_set.usable & split.holdout
    scores = fitted.predict(training_set.features.values)[chosen]
    assert found.value == pytest.approx(log_loss(training_set.target[chosen], scores))
    assert found.rows == chosen.sum()
    assert found.interval is not None
    assert found.interval.low < found.value < found.interval.high
    assert found.auc is not None
    assert found.auc > 0.6
    assert found.baselines["linear"] == pytest.approx(found.value, abs=0.02)
    assert found.baselines["constant"] is not None
    assert found.baselines["constant"] > found.value
    assert found.baselines["last_value"] is not None
    assert [m.month for m in found.months] == ["2013-01", "2013-02"]
    assert sum(m.rows for m in found.months) == found.rows
    assert sum(b.rows for b in found.calibration) == found.rows
    assert msgspec.json.decode(msgspec.json.encode(found), type=Evaluation) == found


def test_equal_evaluations_are_equal_and_weekly_blocks_are_wider_apart(world: Any, training_set: TrainingSet) -> None:
    split = time_split(training_set)
    fitted = fit(world.model, training_set, rows=split.train)
    one, again = (
        evaluate(world.model, fitted, training_set, rows=split.holdout, train=split.train, seed=4) for _ in range(2)
    )
    assert one == again
    weekly = evaluate(world.model, fitted, training_set, rows=split.holdout, train=split.train, block="week")
    assert weekly.block == "week"
    assert weekly.value == one.value


def test_an_evaluation_says_how_far_it_is_and_its_fits_do_not(
    world: Any, training_set: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_EVERY_S", 0.0)
    split, shares = time_split(training_set), list[float]()
    model = msgspec.structs.replace(world.model, estimator=lambda: LGBMClassifier(n_estimators=4, n_jobs=1, verbose=-1))
    fitted = fit(model, training_set, rows=split.train)
    with progress.listening(lambda done, total: shares.append(done / total)):
        found = evaluate(
            model,
            fitted,
            training_set,
            rows=split.holdout,
            train=split.train,
            refit=lambda rows: fit(model, training_set, rows=rows),
        )
    assert len(found.learning_curve) - 1 + len(found.folds) >= 4
    parts = 4 + len(SHARES) + FOLDS
    done = 4 + len(found.learning_curve) - 1 + len(found.folds)
    assert shares == pytest.approx([number / parts for number in range(1, done + 1)])


@pytest.mark.parametrize(
    ("estimator", "kind"),
    [
        (lambda: LGBMClassifier(n_estimators=10), "library"),
        (lambda: HistGradientBoostingClassifier(max_iter=5), "permutation"),
    ],
)
def test_importance_comes_from_the_library_or_from_permutations(
    world: Any, training_set: TrainingSet, estimator: Callable[[], Any], kind: str
) -> None:
    model = msgspec.structs.replace(world.model, estimator=estimator)
    split = time_split(training_set)
    fitted = fit(model, training_set, rows=split.train)
    found = evaluate(model, fitted, training_set, rows=split.holdout, train=split.train)
    assert found.importance_kind == kind
    assert set(found.importance) == set(model.features.names)
    assert found.importance["name"] > 0


def test_numbers_are_judged_by_their_own_loss(make: Callable[..., Any]) -> None:
    for metric in ("squared_error", "absolute_error"):
        world = make(value=col("delay"), metric=metric, estimator=Ridge)
        training_set = world.training_set()
        split = time_split(training_set)
        fitted = fit(world.model, training_set, rows=split.train)
        found = evaluate(world.model, fitted, training_set, rows=split.holdout, train=split.train)
        assert found.auc is None
        assert found.interval is not None
        assert found.baselines["last_value"] is not None
        assert found.baselines["last_value"] >= found.value or metric == "absolute_error"


def test_what_cannot_be_had_is_none_and_an_empty_holdout_is_refused(world: Any, training_set: TrainingSet) -> None:
    fitted = fit(world.model, training_set)
    nothing = np.zeros(training_set.rows, bool)
    one_day = training_set.at_us < training_set.at_us[0] // 86_400_000_000 * 86_400_000_000 + 86_400_000_000
    found = evaluate(world.model, fitted, training_set, rows=one_day, train=nothing)
    assert found.interval is None
    assert found.auc_interval is None
    assert found.baselines == dict.fromkeys(BASELINES)
    with pytest.raises(Misuse, match="no labelled row in the holdout"):
        evaluate(world.model, fitted, training_set, rows=nothing, train=one_day)
