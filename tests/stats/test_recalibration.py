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


@pytest.mark.fast
def test_of_two_classes_the_map_of_several_is_platts():
    rng = np.random.default_rng(0)
    truth = rng.random(5_000) < 0.3
    p = np.clip(np.where(truth, 0.5, 0.2) + 0.3 * rng.random(5_000), 0.01, 0.99)
    one = fit_recalibration("platt", truth, p).mapping()(p)
    two = fit_recalibration("platt", truth.astype(int), np.column_stack([1 - p, p])).mapping()(
        np.column_stack([1 - p, p])
    )
    np.testing.assert_allclose(two[:, 1], one, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(0, 1_000))
def test_the_map_of_several_classes_gives_chances_and_one_row_the_bits_of_a_batch(classes: int, seed: int):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(classes, 0.3), 80)
    p[0] = np.eye(classes)[0]  # chances of 0
    labels = rng.integers(0, classes, 80)
    found = fit_recalibration("platt", labels, p)
    mapping, row_mapping = found.mapping(), found.row_mapping()
    q = mapping(p)
    np.testing.assert_allclose(q.sum(axis=1), 1.0, atol=1e-12)
    assert q.min() > 0.0
    assert [row_mapping(row) for row in p.tolist()] == q.tolist()
    assert (
        log_loss_of(q, labels)
        <= log_loss_of(np.tile(np.bincount(labels, minlength=classes) / 80, (80, 1)), labels) + 0.05
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=Recalibration) == found


def log_loss_of(chances: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(np.maximum(chances[np.arange(len(labels)), labels], 1e-15)).mean())


@pytest.mark.fast
def test_a_model_of_several_classes_that_promises_too_much_is_brought_back_on_other_rows():
    rng = np.random.default_rng(1)
    odds = rng.normal([0.0, 0.5, -1.0, 0.3], size=(20_000, 4))
    chances = np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
    labels = (rng.random(20_000)[:, None] > chances.cumsum(axis=1)).sum(axis=1)
    loud = np.exp(3 * odds + [1.0, 0.0, -1.0, 0.0])
    loud /= loud.sum(axis=1, keepdims=True)
    found = fit_recalibration("platt", labels[:10_000], loud[:10_000])
    corrected = found.mapping()(loud[10_000:])
    assert np.abs(corrected - chances[10_000:]).max() < 0.05
    assert log_loss_of(corrected, labels[10_000:]) < log_loss_of(loud[10_000:], labels[10_000:]) - 0.1


@pytest.mark.fast
@pytest.mark.parametrize(
    ("kind", "labels", "scores", "message"),
    [
        ("beta", [0, 1], [[0.5, 0.5]] * 2, "found several classes, for which there is only "),
        ("platt", [0, 1], [[0.5, 0.5]] * 2, "at least 50 rows with labels of two classes or more, found 2 rows of 2"),
        ("platt", [1] * 60, [[0.5, 0.3, 0.2]] * 60, "found 60 rows of 1"),
    ],
)
def test_what_several_classes_cannot_be_calibrated_by_is_named(kind, labels, scores, message: str):
    with pytest.raises(Misuse, match=message):
        fit_recalibration(kind, labels, scores)
