"""The cap of a version's losses is that of the version in service, if that is near enough."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

import trimtab as tt
from trimtab import store
from trimtab.monitoring.quality.quality import KIND
from trimtab.monitoring.quality.watches import Watch
from trimtab.steering.candidates.comparison_targets import TargetScores
from trimtab.steering.candidates.judging import Case, Judge
from trimtab.steering.gate.scales import loss_cap
from trimtab.store.ports import Catalog, Put

ERRORS = np.array([1.0, 2.0, 3.0] * 40)  # the median squared error is 4, and nine times that is the cap


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with store.open(f"sqlite://{tmp_path}/catalog.db", "catalog") as opened:
        yield opened


def capped(catalog: Catalog, scores: np.ndarray) -> float:
    model: Any = SimpleNamespace(name="price", metric="squared_error")
    parts: Any = SimpleNamespace(catalog=catalog, deployment=SimpleNamespace(model=model, gate=tt.beats_champion()))
    rows = np.ones(scores.size, bool)
    training_set: Any = SimpleNamespace(target=np.zeros(scores.size), lists_of=lambda rows: None)
    window: Any = SimpleNamespace(rows=rows)
    return Judge(parts).cap(scores, Case(training_set, window, TargetScores(None, "")))


@pytest.mark.parametrize(
    ("before", "metric", "found"),
    [(19.0, "squared_error", 19.0), (700.0, "squared_error", 700.0), (17.0, "squared_error", 36.0),
     (750.0, "squared_error", 36.0), (30.0, "absolute_error", 36.0)],
)  # fmt: skip
def test_a_cap_stays_between_half_and_twenty_times_the_cap_by_the_typical_loss(
    catalog: Catalog, before: float, metric: str, found: float
) -> None:
    assert capped(catalog, ERRORS) == 36.0
    watch = Watch(model="price", version="v", anchored_at_us=0, figures={}, loss_cap=before, metric=metric)
    catalog.write([Put(KIND, "price", msgspec.json.encode(watch))])
    assert capped(catalog, ERRORS) == found


def test_a_cap_stays_if_only_the_largest_losses_differ() -> None:
    rng = np.random.default_rng(1)
    found = [loss_cap("squared_error", rng.standard_t(3, 840) ** 2) for _ in range(200)]
    assert max(found) > 3.0 * min(found)
    kept = found[0]
    for _ in range(200):
        assert loss_cap("squared_error", rng.standard_t(3, 840) ** 2, kept) == kept
    assert loss_cap("squared_error", 50.0 * rng.standard_t(3, 840) ** 2, kept) > 2.0 * kept
