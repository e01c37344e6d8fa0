import numpy as np
import pytest

from trimtab.core.errors import Misuse
from trimtab.stats import brier, log_loss, row_losses


def test_the_mean_of_the_row_losses_is_the_metric():
    rng = np.random.default_rng(0)
    scores = rng.random(200)
    labels = rng.random(200) < scores
    assert row_losses("log_loss", labels, scores).mean() == log_loss(labels, scores)
    assert row_losses("brier", labels, scores).mean() == pytest.approx(brier(labels, scores))


@pytest.mark.fast
def test_regression_losses_are_squared_and_absolute_gaps():
    assert row_losses("squared_error", [1.0, 5.0], [4.0, 5.0]).tolist() == [9.0, 0.0]
    assert row_losses("absolute_error", [1.0, 5.0], [4.0, 5.0]).tolist() == [3.0, 0.0]


def test_log_loss_needs_labels_of_two_classes():
    with pytest.raises(Misuse, match="labels must be 0 or 1"):
        row_losses("log_loss", [2.0], [0.5])
