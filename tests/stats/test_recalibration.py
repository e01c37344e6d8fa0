import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.errors import Misuse
from trimtab.stats import Recalibration, RecalibrationKind, expected_calibration_error, fit_recalibration, log_loss

KINDS: tuple[RecalibrationKind, ...] = ("platt", "beta", "isotonic")


def overconfident(rows: int = 4000, seed: int = 0):
    rng = np.random.default_rng(seed)
    odds = rng.normal(-1.0, 1.0, rows)
    return rng.random(rows) < 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(-2.5 * odds))


@pytest.mark.parametrize("kind", KINDS)
def test_scores_that_promise_too_much_promise_what_comes_on_other_rows_too(kind: RecalibrationKind):
    mapping = fit_recalibration(kind, *overconfident()).mapping()
    labels, scores = overconfident(seed=1)
    corrected = mapping(scores)
    assert expected_calibration_error(labels, corrected) < 0.03 < expected_calibration_error(labels, scores)
    assert log_loss(labels, corrected) < log_loss(labels, scores) - 0.05


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 2**32 - 1), st.floats(-3.0, 3.0), st.integers(50, 200), st.integers(0, 3))
def test_a_map_never_turns_the_order_around_and_gives_one_row_the_bits_of_a_batch(
    kind: RecalibrationKind, seed: int, truth: float, rows: int, digits: int
):
    rng = np.random.default_rng(seed)
    scores = np.round(rng.beta(0.5, 0.5, rows), digits)
    labels = rng.random(rows) < 1 / (1 + np.exp(-truth * (scores - 0.5)))
    labels[:2] = True, False
    found = fit_recalibration(kind, labels, scores)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=Recalibration)
    assert again == found
    asked = np.concatenate([np.sort(rng.random(101)), [0.0, 1.0]])
    mapping = found.mapping()
    together = again.mapping()(asked)
    assert [float(mapping(np.array([score]))[0]) for score in asked] == together.tolist()
    alone = found.row_mapping()
    assert [alone(score) for score in asked.tolist()] == together.tolist()
    assert np.isnan(alone(float("nan")))
    assert (np.diff(together[:101]) >= -1e-15).all()
    assert ((together > 0.0) & (together < 1.0)).all()


@pytest.mark.fast
@pytest.mark.parametrize("kind", KINDS)
def test_scores_that_tell_nothing_or_the_opposite_become_the_base_rate(kind: RecalibrationKind):
    labels = np.arange(400) % 4 == 0
    for scores in (np.full(400, 0.7), np.where(labels, 0.1, 0.9)):
        assert fit_recalibration(kind, labels, scores).mapping()(np.array([0.1, 0.9])) == pytest.approx(
            [0.25, 0.25], abs=0.01
        )


@pytest.mark.fast
def test_a_beta_map_can_leave_calibrated_scores_as_they_are():
    rng = np.random.default_rng(0)
    scores = rng.beta(1, 4, 50_000)
    corrected = fit_recalibration("beta", rng.random(50_000) < scores, scores).mapping()(scores)
    assert np.abs(corrected - scores).mean() < 0.005


@pytest.mark.fast
@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        (np.ones(60), np.full(60, 0.5), "60 rows, 60 of them positive"),
        (np.zeros(60), np.full(60, 0.5), "60 rows, 0 of them positive"),
        (np.arange(10) % 2, np.full(10, 0.5), "at least 50 rows"),
        (np.full(60, 0.5), np.full(60, 0.5), "labels must be 0 or 1"),
        (np.arange(60) % 2, np.full(60, np.nan), "row 0 of 60 holds nan"),
    ],
)
def test_what_cannot_be_calibrated_on_is_named(labels: object, scores: object, message: str):
    with pytest.raises(Misuse, match=message):
        fit_recalibration("platt", labels, scores)  # type: ignore[arg-type]
