from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US
from trimtab.training import TrainingSet, time_split, walk_forward

pytestmark = pytest.mark.fast


def test_a_split_trains_on_nothing_that_was_unknown_when_the_holdout_began(training_set: TrainingSet) -> None:
    split = time_split(training_set, holdout_us=14 * DAY_US)
    assert not (split.train & split.holdout).any()
    assert (training_set.at_us[split.train] + DAY_US <= split.start_us).all()
    assert (training_set.label_known_at_us[split.train] <= split.start_us).all()
    assert (training_set.at_us[split.holdout] >= split.start_us).all()
    assert split.end_us - split.start_us == 14 * DAY_US
    newest = training_set.at_us[training_set.usable].max()
    assert training_set.at_us[split.holdout].max() == newest


def test_an_empty_side_is_refused(training_set: TrainingSet) -> None:
    for holdout_us in (400 * DAY_US, 1):
        with pytest.raises(Misuse, match="rows with a label known before"):
            time_split(training_set, holdout_us=holdout_us)


def test_walking_forward_predicts_each_later_row_once_from_its_past(world: Any, training_set: TrainingSet) -> None:
    found = walk_forward(world.model, training_set, folds=4)
    predicted = ~np.isnan(found.scores)
    assert (predicted == (training_set.usable & (training_set.at_us >= found.starts_us[0]))).all()
    assert np.bincount(found.fold[predicted]).min() > 150
    for number, start_us in enumerate(found.starts_us):
        assert (training_set.at_us[found.fold == number] >= start_us).all()
    again = walk_forward(world.model, training_set, folds=4)
    assert again.scores.tobytes() == found.scores.tobytes()


def test_too_many_folds_are_refused(world: Any, training_set: TrainingSet) -> None:
    with pytest.raises(Misuse, match="Take fewer folds"):
        walk_forward(world.model, training_set, folds=5_000)
    with pytest.raises(Misuse, match=r"fold 1 from 2013-01-01T.*no labels"):
        walk_forward(world.model, training_set, folds=100)
