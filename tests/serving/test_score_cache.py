from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trimtab as tt
from trimtab.core.errors import Misuse
from trimtab.serving.answer.score_cache import Cache, CachedScores, CacheMetrics, cache


class Counting:
    """A model that counts what it is asked, and tells -0.0 from 0.0 and one null from none."""

    def __init__(self, *, classes: bool = False) -> None:
        self.asked = 0
        self.classes = classes

    def predict_row(self, row: list[float]) -> Any:
        self.asked += 1
        score = float(hash(np.array(row).tobytes()) % 1000)
        return [score, 1.0, 2.0] if self.classes else score

    def predict(self, matrix: Any) -> Any:
        return np.array([self.predict_row(row) for row in matrix.tolist()])


def cached(model: Any, *, size_bytes: int = 1 << 20, inputs: int = 2) -> tuple[CachedScores, CacheMetrics]:
    metrics = CacheMetrics()
    return CachedScores(model, inputs=inputs, cache=Cache(size_bytes=size_bytes), metrics=metrics), metrics


@pytest.mark.fast
@given(st.lists(st.tuples(st.sampled_from([0.0, -0.0, float("nan"), 5e-324, 1e300]), st.integers(0, 2)), max_size=40))
def test_a_cached_score_is_that_of_the_model_for_every_row(rows: list[tuple[float, int]]) -> None:
    for classes in (False, True):
        scores, metrics = cached(Counting(classes=classes))
        plain = Counting(classes=classes)
        for row in ([a, float(b)] for a, b in rows):
            assert scores.predict_row(row) == plain.predict_row(row)
        matrix = np.array([[a, float(b)] for a, b in rows]).reshape(-1, 2)
        np.testing.assert_array_equal(scores.predict(matrix), plain.predict(matrix))
        assert metrics.hits + metrics.misses == 2 * len(rows)


def test_the_least_used_is_forgotten_first_and_memory_is_bounded() -> None:
    model = Counting()
    scores, metrics = cached(model, size_bytes=3 * (250 + 16))
    for value in (1.0, 2.0, 3.0, 1.0, 4.0, 1.0):  # 2 goes for 4
        scores.predict_row([value, 0.0])
    assert (model.asked, metrics.hits, metrics.misses) == (4, 2, 4)
    scores.predict_row([2.0, 0.0])
    assert model.asked == 5
    assert len(scores._kept) == 3
    assert (metrics.hits, metrics.hits + metrics.misses) == (2, 7)


def test_scores_of_classes_take_more_of_the_memory() -> None:
    metrics, kept = CacheMetrics(), Cache(size_bytes=100_000)
    many = CachedScores(Counting(classes=True), inputs=2, classes=100, cache=kept, metrics=metrics)
    for value in range(200):
        many.predict_row([float(value), 0.0])
    assert 20 < len(many._kept) < 40


class TestTimeToLive:
    @pytest.fixture
    def model(self) -> Counting:
        return Counting()

    @pytest.fixture
    def scores(self, model: Counting) -> CachedScores:
        self.now_s = 100.0
        self.metrics = CacheMetrics()
        kept = Cache(size_bytes=1 << 20, ttl_us=10_000_000)
        return CachedScores(model, inputs=2, cache=kept, metrics=self.metrics, clock=lambda: self.now_s)

    def test_a_score_that_is_too_old_is_asked_for_again(self, model: Counting, scores: CachedScores) -> None:
        row = [1.0, 2.0]
        scores.predict_row(row)
        self.now_s += 9.9
        scores.predict_row(row)
        scores.predict(np.array([row]))
        assert model.asked == 1
        self.now_s += 0.1  # used in between, and as old all the same
        scores.predict(np.array([row]))
        assert model.asked == 2
        self.now_s += 9.9
        scores.predict_row(row)
        assert (model.asked, self.metrics.hits, self.metrics.misses) == (2, 3, 2)

    def test_scores_that_are_too_old_are_removed_as_new_ones_come(self, scores: CachedScores) -> None:
        for value in range(50):
            scores.predict_row([float(value), 0.0])
        for value in range(0, 50, 2):
            scores.predict_row([float(value), 0.0])  # used again, and not younger for that
        self.now_s += 5.0
        scores.predict_row([-1.0, 0.0])
        assert len(scores._kept) == 51
        self.now_s += 5.0
        for value in range(26):
            scores.predict_row([float(value), 1.0])
        assert len(scores._kept) == 1 + 26
        assert scores._pack(-1.0, 0.0) in scores._kept


@pytest.mark.parametrize(
    ("size", "ttl"), [("1B", None), (0, None), (True, None), ("65GiB", None), ("1 stone", None), ("1MB", 0)]
)
def test_a_cache_that_can_hold_nothing_is_refused(size: Any, ttl: Any) -> None:
    with pytest.raises(Misuse, match=r"cache|size"):
        cache(size, ttl=ttl)


def test_a_cache_is_no_part_of_a_deployments_address_and_learners_have_none() -> None:
    given = {"estimator": object, "metric": "log_loss"}
    visits = tt.request("visits", key="id", time="at", columns={"id": str, "at": tt.Time, "x": float})
    sales = tt.source("sales", time="at", key="id", columns={"id": str, "at": tt.Time, "bought": bool})
    label = tt.label(sales, key="id", value="bought", wait="1d")
    model = tt.model("buyer", request=visits, features=[{"x": tt.col("x")}], label=label, **given)  # type: ignore[arg-type]
    assert tt.deployment(model, cache=tt.cache("1MB")).hash == tt.deployment(model).hash
    with pytest.raises(Misuse, match="Leave cache= out"):
        tt.deployment(model, learn="online", cache=tt.cache("1MB"))


def test_no_score_is_cached_of_a_model_that_leaves_rows_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The score of one row was cached for another."""
    model = Counting()
    scores, _ = cached(model)
    rows = np.array([[1.0, 0.0], [np.nan, 0.0], [3.0, 0.0]])
    with monkeypatch.context() as patch:
        patch.setattr(model, "predict", lambda matrix: np.array([10.0, 30.0]))
        with pytest.raises(ValueError, match="2 scores for 3 rows"):
            scores.predict(rows)
    assert scores.predict_row([np.nan, 0.0]) == Counting().predict_row([np.nan, 0.0])
    assert scores.predict_row([1.0, 0.0]) == Counting().predict_row([1.0, 0.0])


def test_a_large_batch_goes_straight_to_the_model() -> None:
    model = Counting()
    scores, metrics = cached(model)
    scores.predict(np.zeros((300, 2)))
    assert (model.asked, metrics.misses) == (300, 0)


def test_threads_share_it() -> None:
    scores, metrics = cached(Counting(), size_bytes=20 * 266)

    def ask(seed: int) -> None:
        draw = np.random.default_rng(seed)
        for value in draw.integers(0, 40, 2_000).tolist():
            assert scores.predict_row([float(value), 1.0]) == Counting().predict_row([float(value), 1.0])

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(scores._kept) <= 20
    assert metrics.hits > 0


def test_answers_with_a_cached_score_have_an_id_and_a_log_row_of_their_own(shop: Any) -> None:
    model = Counting()
    scores, metrics = cached(model, inputs=len(shop.features.names))
    shop.endpoint.swap(shop.answerer(scorer=scores))
    model.asked = 0
    first, second = (shop.endpoint.answer([shop.ask()])[0] for _ in range(2))
    assert first.score == second.score
    assert first.id != second.id
    assert model.asked == 1
    assert metrics.hits > 0
