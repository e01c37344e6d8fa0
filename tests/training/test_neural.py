"""Networks of PyTorch: equal fits, whoever else fits or loads meanwhile, and what cannot be stored is told before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from trimtab.core.errors import Corrupt, Misuse
from trimtab.training import neural
from trimtab.training.runtimes import runtime_named

torch = pytest.importorskip("torch", reason="PyTorch is no part of the lock: its build for Linux brings 3 GB for GPUs")
NAMES = ("a", "b", "c")
CHANCE = np.random.default_rng(0)
INPUTS = CHANCE.normal(size=(257, 3))
TARGET = (INPUTS[:, 0] + 0.3 * CHANCE.normal(size=257) > 0).astype(np.int64)


def forgetful(inputs: int, outputs: int) -> Any:
    nn = torch.nn
    return nn.Sequential(nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, outputs))


def brief(inputs: int, outputs: int) -> Any:
    return forgetful(inputs, outputs).to(torch.bfloat16)


def nothing(inputs: int, outputs: int) -> Any:
    return None


def raising(inputs: int, outputs: int) -> Any:
    raise ValueError("no such layer")


def wide(inputs: int, outputs: int) -> Any:
    return torch.nn.Linear(inputs, outputs + 1)


class Answers(torch.nn.Module):
    """A layer whose answer goes through a function."""

    def __init__(self, inputs: int, turned: Any) -> None:
        super().__init__()
        self.layer, self.turned = torch.nn.Linear(inputs, 1), turned

    def forward(self, rows: Any) -> Any:
        return self.turned(self.layer(rows))


def paired(inputs: int, outputs: int) -> Any:
    return Answers(inputs, lambda found: (found, found))


def arrayed(inputs: int, outputs: int) -> Any:
    return Answers(inputs, lambda found: found.detach().numpy())


MADE = wide(3, 0)


def fitted(layers: Any = forgetful, target: Any = TARGET, *, threads: int = 1, **more: Any) -> Any:
    runtime, estimator = runtime_named("torch"), neural(layers, epochs=3, **more)
    runtime.configure(estimator, seed=3, threads=threads)
    return runtime.fit(estimator, INPUTS, target, NAMES)


def saved(layers: Any = forgetful, **more: Any) -> bytes:
    return runtime_named("torch").save(fitted(layers, **more))


def test_fits_of_many_threads_that_also_load_and_draw_give_the_bytes_of_one_alone() -> None:
    alone, runtime = saved(), runtime_named("torch")

    def work(number: int) -> bytes:
        if number % 2:
            for _ in range(20):
                runtime.load(alone)
        return saved()

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(work, range(8))) == {alone}


def test_a_fit_leaves_the_generator_of_its_user_where_it_was() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    runtime_named("torch").load(saved())
    assert torch.rand(3).tolist() == expected.tolist()


def test_another_seed_gives_another_network() -> None:
    assert saved(seed=1) == saved(seed=1) != saved(seed=2)


def test_a_last_batch_of_one_row_joins_the_one_before_so_that_batch_norm_can_learn() -> None:
    assert len(INPUTS) % 64 == 1
    for rows in (64, 256, 257, 1000):
        assert np.isfinite(fitted(batch_rows=rows).predict(INPUTS)).all()


def test_numbers_far_from_0_are_learnt_as_well_as_those_near_it() -> None:
    near = INPUTS @ [1.0, -2.0, 0.5]
    for level, spread in ((0.0, 1.0), (50_000.0, 300.0), (5.0, 1e-3)):
        found = runtime_named("torch").load(
            saved([16], target=level + spread * near, batch_rows=16, learning_rate=0.02)
        )
        errors = (found.predict(INPUTS) - level) / spread - near
        assert np.sqrt(np.mean(errors**2)) < 0.3 * near.std()
    assert np.isfinite(fitted([4], np.full(257, 7.0)).predict(INPUTS)).all()  # they have no spread


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (nothing, "nothing gave None. Needed: a torch.nn.Module"),
        (raising, r"raising\(3, 1\) raised ValueError: no such layer"),
        (wide, r"the module gives \(257, 2\) for 257 rows; needed \(257, 1\)"),
        (lambda inputs, outputs: None, "cannot be imported by its name"),
        (paired, r"the module gives a tuple; needed a tensor of shape \(257, 1\)"),
        (arrayed, r"the module gives a ndarray; needed a tensor of shape \(257, 1\)"),
        (MADE, "neural got a Linear object. Give its class, or a function that makes it"),
    ],
)
def test_a_module_that_cannot_be_fitted_is_named(layers: Any, said: str) -> None:
    with pytest.raises(Misuse, match=said):
        fitted(layers)


def test_weights_of_a_kind_that_is_not_stored_are_named() -> None:
    about = fitted().about
    with pytest.raises(Misuse, match="weight of the module is bfloat16"):
        runtime_named("torch").save(type(fitted())(brief(3, 1), about))


def test_weights_that_are_none_of_the_module_are_corrupt_and_code_in_them_is_not_run() -> None:
    data = saved([4])
    for damaged in (data.replace(b"2.weight", b"3.weight"), data.replace(b"float32", b"floatxx"), data[:-1]):
        with pytest.raises(Corrupt):
            runtime_named("torch").load(damaged)


def test_answers_take_columns_in_number_and_do_not_write_to_what_they_are_given() -> None:
    found = fitted()
    with pytest.raises(Misuse, match=r"the inputs have shape \(257, 2\); needed 3 columns"):
        found.predict(INPUTS[:, :2])
    frozen = INPUTS.copy()
    frozen.setflags(write=False)
    assert found.predict(frozen).tobytes() == found.predict(np.asfortranarray(INPUTS)).tobytes()
