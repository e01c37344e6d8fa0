"""How far a step is, from deep inside it to the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trimtab import store
from trimtab.core.clock import VirtualClock
from trimtab.core.ids import TimeIds
from trimtab.run import Codec, Event, Progress, Recorded, Runs
from trimtab.run.progress import listening, report
from trimtab.store.file_blob import FileBlob
from trimtab.training.runtimes.ports import ListRuntime
from trimtab.training.runtimes.table import runtime_for

TEXT = Codec(str.encode, bytes.decode)


def boosters() -> list[Any]:
    import catboost
    import lightgbm
    import xgboost

    return [
        lightgbm.LGBMClassifier(n_estimators=40, verbosity=-1, n_jobs=1),
        xgboost.XGBClassifier(n_estimators=40, n_jobs=1),
        catboost.CatBoostClassifier(iterations=40, verbose=False, thread_count=1, allow_writing_files=False),
    ]


@pytest.mark.parametrize("place", range(3), ids=["lightgbm", "xgboost", "catboost"])
def test_trees_tell_how_far_they_are_and_the_model_is_the_same(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.run.progress._EVERY_S", 0.0)
    chance = np.random.default_rng(1)
    inputs = chance.normal(size=(300, 3))
    target = (inputs[:, 0] > 0).astype(int)
    names = ("a", "b", "c")
    runtime = runtime_for(boosters()[place])
    plain = runtime.fit(boosters()[place], inputs, target, names)
    heard: list[tuple[float, float]] = []
    with listening(lambda done, total: heard.append((done, total))):
        watched = runtime.fit(boosters()[place], inputs, target, names)
    assert [done for done, _ in heard] == list(range(1, 41))
    assert {total for _, total in heard} == {40}
    assert np.array_equal(plain.predict_proba(inputs), watched.predict_proba(inputs))
    assert not watched.get_params().get("callbacks")


@pytest.mark.parametrize("library", ["lightgbm", "xgboost", "catboost"])
def test_rankers_tell_how_far_they_are(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import catboost
    import lightgbm
    import xgboost

    monkeypatch.setattr("trimtab.run.progress._EVERY_S", 0.0)
    ranker: Any = {
        "lightgbm": lambda: lightgbm.LGBMRanker(n_estimators=20, verbosity=-1, n_jobs=1),
        "xgboost": lambda: xgboost.XGBRanker(n_estimators=20, n_jobs=1),
        "catboost": lambda: catboost.CatBoostRanker(iterations=20, verbose=False, allow_writing_files=False),
    }[library]()
    inputs = np.random.default_rng(1).normal(size=(300, 3))
    runtime = runtime_for(ranker, trust=None)
    assert isinstance(runtime, ListRuntime)
    heard: list[tuple[float, float]] = []
    with listening(lambda done, total: heard.append((done, total))):
        runtime.fit_lists(ranker, inputs, (inputs[:, 0] > 0).astype(float), np.full(30, 10))
    assert heard == [(done, 20) for done in range(1, 21)]


def test_a_step_within_a_step_has_a_share_of_its_own_and_then_the_outer_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.run.progress._EVERY_S", 0.0)
    clock = VirtualClock(1)
    with store.open(f"sqlite://{tmp_path}/catalog.db", "catalog") as catalog:
        runs = Runs(catalog, tmp_path / "runs", clock=clock, ids=TimeIds(clock))
        steps = Recorded("train", catalog, FileBlob(tmp_path / "blob"), clock=clock)
        shares: list[tuple[str, float | None]] = []

        def tell(event: Event) -> None:
            run.record(event)
            if isinstance(event, Progress) and run.run.step is not None:
                shares.append((run.run.step.name, run.run.step.progress))

        def inner() -> str:
            report(1, 2)
            return "inner"

        def outer() -> str:
            report(1, 4)
            steps.do("curve", lambda: 1, inner, TEXT)
            report(3, 4)
            return "outer"

        with runs.track("train", "m", actor="Ada") as run:
            run.begin()
            steps.on_event = tell
            steps.do("evaluate", lambda: 2, outer, TEXT)
            run.end("Done.")
        assert shares == [("evaluate", 0.25), ("curve", 0.5), ("evaluate", 0.75)]
        assert [(s.name, s.state) for s in runs.get(run.run.id).steps] == [("evaluate", "done"), ("curve", "done")]
    report(1, 2)  # nobody listens


def test_the_end_is_always_told() -> None:
    heard: list[float] = []
    with listening(lambda done, total: heard.append(done)):
        for done in range(1, 41):
            report(done, 40)
    assert heard[-1] == 40
    assert len(heard) < 5
