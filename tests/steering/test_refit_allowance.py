"""How far the loss of a refit may lie from that of its candidate: as far as labels drawn anew put it."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.stats.metrics.losses import bounded_losses, row_losses
from trimtab.steering.candidates.references import refit_allowance

CAP = 50.0
ROWS = 4_000


@pytest.mark.parametrize(
    ("metric", "quantile"), [("absolute_error", 0.5), ("pinball(0.9)", 0.9), ("squared_error", None)]
)
@pytest.mark.parametrize("apart", [0.3, 1.5])
def test_the_allowance_is_the_loss_that_a_refit_has_on_labels_drawn_anew(
    metric: str, quantile: float | None, apart: float
) -> None:
    rng = np.random.default_rng(5)

    def noise(rows: int) -> np.ndarray:
        drawn = rng.exponential(8.0, rows)
        return drawn - (8.0 if quantile is None else -8.0 * np.log(1.0 - quantile))

    cap = CAP if quantile is not None else 100 * CAP**2
    scores = rng.normal(40.0, 10.0, ROWS)
    again = scores + rng.normal(0.0, apart, ROWS)
    allowed = refit_allowance(metric, scores, again, scores + noise(ROWS), cap)["quality_loss"]
    truth = scores + noise(100 * ROWS).reshape(100, ROWS)
    mine, other = (bounded_losses(row_losses(metric, truth, one), cap).mean() for one in (scores, again))
    assert allowed == pytest.approx(other - mine, rel=0.5, abs=0.02 / cap)
    if metric == "absolute_error":
        assert allowed < 0.15 * np.abs(again - scores).mean() / cap  # what it was before
