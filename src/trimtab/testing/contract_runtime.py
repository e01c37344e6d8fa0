"""Tests that every implementation of `Runtime` must pass."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trimtab.core.errors import Corrupt, Misuse
from trimtab.training.runtimes import Trust, runtime_for, runtime_named
from trimtab.training.runtimes.ports import PlainScorer

NAMES = ("a", "b", "c", "d", "e")
_IN_ANOTHER_PROCESS = """
import sys, numpy as np
from trimtab.training.runtimes import runtime_named
scorer = runtime_named(sys.argv[1]).load(open(sys.argv[2], "rb").read())
sys.stdout.buffer.write(np.asarray(scorer.predict(np.load(sys.argv[3]))).tobytes())
"""


class RuntimeContract:
    """Tests for a runtime. To use them, write a subclass named `Test...` with a fixture `make`.

    The fixture returns a function that makes an unfitted estimator. With `classes`, the estimator predicts the
    probability of the positive class; with `several`, the probabilities of three classes; otherwise numbers. `trust` is
    passed to `runtime_for`. For rows with too few or too many inputs, `refusal` must be raised, with a message that
    matches the pattern `refused`.
    """

    classes = True
    several = False
    trust: Trust | None = None
    refusal: type[Exception] = Misuse
    refused = r"needed 5 (columns|numbers)"

    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        raise NotImplementedError("give a fixture `make` with a function that makes an unfitted estimator")

    def data(self) -> tuple[Any, Any]:
        """Return inputs with shape (300, 5), and their labels."""
        rng = np.random.default_rng(0)
        inputs = rng.normal(size=(300, len(NAMES)))
        numbers = inputs[:, 0] + 0.5 * rng.normal(size=300)
        if self.several:
            return inputs, np.digitize(numbers, [-0.5, 0.5]).astype(np.int64)
        return inputs, (numbers > 0).astype(np.int64) if self.classes else numbers

    def shape(self, rows: int) -> tuple[int, ...]:
        """Return the shape of the scores for this number of rows."""
        return (rows, 3) if self.several else (rows,)

    def fitted(self, make: Callable[[], Any]) -> tuple[Any, Any, bytes]:
        """Return the runtime, a fitted estimator, and the bytes in which it is stored."""
        estimator = make()
        runtime = runtime_for(estimator, trust=self.trust)
        runtime.configure(estimator, seed=3, threads=1)
        found = runtime.fit(estimator, *self.data(), NAMES)
        return runtime, found, runtime.save(found)

    def test_equal_fits_give_equal_bytes(self, make: Callable[[], Any]) -> None:
        assert self.fitted(make)[2] == self.fitted(make)[2]

    def test_what_was_stored_answers_like_what_is_in_memory(self, make: Callable[[], Any]) -> None:
        runtime, found, saved = self.fitted(make)
        inputs, _ = self.data()
        own = np.asarray(found.predict_proba(inputs) if hasattr(found, "predict_proba") else found.predict(inputs))
        own = own[:, 1] if own.ndim == 2 and not self.several else own
        np.testing.assert_allclose(runtime.load(saved).predict(inputs), own, rtol=0, atol=runtime.parity)

    def test_answers_are_one_finite_number_a_row_or_a_probability_of_each_class(self, make: Callable[[], Any]) -> None:
        runtime, _, saved = self.fitted(make)
        scorer, (inputs, _) = runtime.load(saved), self.data()
        scores = scorer.predict(inputs)
        assert (scores.shape, scores.dtype) == (self.shape(len(inputs)), np.float64)
        assert np.isfinite(scores).all()
        assert not self.classes or ((scores >= 0) & (scores <= 1)).all()
        assert not self.several or np.abs(scores.sum(axis=1) - 1).max() <= 1e-5
        assert scorer.predict(inputs[:0]).shape == self.shape(0)

    def test_one_row_is_a_batch_of_one(self, make: Callable[[], Any]) -> None:
        runtime, _, saved = self.fitted(make)
        scorer, (inputs, _) = runtime.load(saved), self.data()
        together = scorer.predict(inputs)
        alone = np.array([scorer.predict_row(row) for row in inputs.tolist()])
        if runtime.row_exact:
            assert alone.tobytes() == together.tobytes()
        np.testing.assert_allclose(alone, together, rtol=0, atol=1e-6)

    def test_answering_changes_neither_the_input_nor_the_next_answer(self, make: Callable[[], Any]) -> None:
        runtime, _, saved = self.fitted(make)
        scorer, (inputs, _) = runtime.load(saved), self.data()
        before = inputs.copy()
        first = scorer.predict(inputs)
        scorer.predict_row([9.0] * len(NAMES))
        assert scorer.predict(inputs).tobytes() == first.tobytes()
        assert inputs.tobytes() == before.tobytes()

    def test_threads_may_ask_at_once(self, make: Callable[[], Any]) -> None:
        runtime, _, saved = self.fitted(make)
        scorer, (inputs, _) = runtime.load(saved), self.data()
        rows = inputs.tolist()
        expected = [scorer.predict_row(row) for row in rows]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(scorer.predict_row, rows)) == expected

    def test_a_fresh_process_gives_the_same_bits(self, make: Callable[[], Any], tmp_path: Path) -> None:
        runtime, _, saved = self.fitted(make)
        inputs, _ = self.data()
        (tmp_path / "model").write_bytes(saved)
        np.save(tmp_path / "inputs.npy", inputs)
        command = [
            sys.executable,
            "-c",
            _IN_ANOTHER_PROCESS,
            runtime.name,
            str(tmp_path / "model"),
            str(tmp_path / "inputs.npy"),
        ]
        out = subprocess.run(command, capture_output=True, check=True).stdout
        assert out == runtime.load(saved).predict(inputs).tobytes()

    def test_bytes_that_are_no_model_are_corrupt(self, make: Callable[[], Any]) -> None:
        runtime = runtime_for(make(), trust=self.trust)
        # other damage is not tested: the hash of a version's bytes is checked before they are loaded
        for data in (b"", b"nothing"):
            with pytest.raises(Corrupt):
                runtime.load(data)

    @pytest.mark.parametrize("inputs", [len(NAMES) - 1, len(NAMES) + 1])
    def test_rows_with_a_missing_or_another_input_are_refused(self, make: Callable[[], Any], inputs: int) -> None:
        runtime, _, saved = self.fitted(make)
        scorer, rows = runtime.load(saved), np.full((3, inputs), 0.5)
        with pytest.raises(self.refusal, match=self.refused):
            scorer.predict(rows)
        with pytest.raises(self.refusal, match=self.refused):
            scorer.predict_row(rows[0].tolist())
        if isinstance(scorer, PlainScorer):
            with pytest.raises(self.refusal, match=self.refused):
                # together, they have as many numbers as two valid rows
                scorer.predict_rows([rows[0].tolist(), [0.5] * (2 * len(NAMES) - inputs)])
        for name, call in getattr(scorer, "row_calls", {}).items():
            with pytest.raises(self.refusal, match=self.refused):
                pytest.fail(f"{name} answered {call(rows[0].tolist())}")

    def test_rows_count_by_their_weight_or_weights_are_refused_by_name(self, make: Callable[[], Any]) -> None:
        runtime, _, saved = self.fitted(make)
        estimator, (inputs, target) = make(), self.data()
        runtime.configure(estimator, seed=3, threads=1)
        try:
            found = runtime.fit(estimator, inputs, target, NAMES, np.where(target > target.mean(), 9.0, 1.0))
        except Misuse as error:
            assert "sample_weight" in str(error)  # noqa: PT017  # weights may be refused with this error
            return
        heavier, plain = (runtime.load(data).predict(inputs) for data in (runtime.save(found), saved))
        assert heavier[..., -1].mean() > plain[..., -1].mean() if self.several else heavier.mean() > plain.mean()

    def test_its_name_finds_it_again(self, make: Callable[[], Any]) -> None:
        runtime, _, _ = self.fitted(make)
        assert runtime_named(runtime.name).name == runtime.name
