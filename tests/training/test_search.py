"""Searches: what may be declared; trials are repeated to the bit, pruned, resumed, and see nothing they may not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightgbm import LGBMClassifier
from sklearn.linear_model import LogisticRegression

import trimtab as tt
from trimtab.core.errors import Misuse
from trimtab.training.data.sets import TrainingSet
from trimtab.training.fitting.folds import known_before
from trimtab.training.fitting.search_trials import Proposal, Trial, best_trial, run_trials, with_parameters
from trimtab.training.search import Chosen, Search, checked_search

optuna = pytest.importorskip("optuna")
SPACES = {"strength": tt.number(0.001, 100.0, log=True), "intercept": tt.choice(True, False)}


def logistic(strength: float = 1.0, intercept: bool = True) -> LogisticRegression:
    if strength > 90.0:
        raise ValueError("that is too much")
    return LogisticRegression(C=strength, fit_intercept=intercept)


def searched(world: Any, estimator: Callable[..., Any] = logistic, **more: Any) -> Any:
    return msgspec.structs.replace(
        world.model, estimator=estimator, search=tt.search(SPACES, **{"trials": 6, "seed": 1, **more})
    )


def same(trials: list[Trial]) -> list[Trial]:
    """Trials but for how long they took."""
    return [msgspec.structs.replace(trial, took_s=0.0) for trial in trials]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tt.integer(3, 3), "two whole numbers"),
        (lambda: tt.integer(0, 3, log=True), "at least 1"),
        (lambda: tt.integer(True, 3), "two whole numbers"),
        (lambda: tt.number(1.0, float("inf")), "two numbers"),
        (lambda: tt.number(0.0, 1.0, log=True), "above 0"),
        (lambda: tt.choice("gbdt"), "two or more"),
        (lambda: tt.choice("gbdt", "gbdt"), "two or more"),
        (lambda: tt.choice(1.0, float("nan")), "two or more"),
        (lambda: tt.choice([1], [2]), "two or more"),
        (lambda: tt.search({}), "names no parameter"),
        (lambda: tt.search({"a": 3}), "'a': 3 is not a search space"),
        (lambda: tt.search(SPACES, trials=0), "trials=0"),
        (lambda: tt.search(SPACES, folds=True), "folds=True"),
        (lambda: tt.search(SPACES, seed=-1), "seed=-1"),
        (lambda: tt.search(SPACES, time="soon"), "soon"),
        (lambda: tt.search(SPACES, time=0), "must be above 0"),
        (lambda: tt.search(SPACES, prune="yes"), "prune='yes'"),
    ],
)
def test_spaces_and_budgets_that_make_no_sense_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(Misuse, match=message):
        make()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (lambda strength: None, r"search looks for intercept, but the estimator function takes strength"),
        (lambda strength, intercept, depth: None, "needs depth, but search only looks for strength, intercept"),
        (LogisticRegression, "search looks for strength, intercept"),
    ],
)
def test_the_estimators_function_takes_what_is_searched_for(estimator: Callable[..., Any], message: str) -> None:
    with pytest.raises(Misuse, match=message):
        checked_search("m", tt.search(SPACES), estimator)
    with pytest.raises(Misuse, match="needs depth, but the model declares no search"):
        checked_search("m", None, lambda depth: None)
    assert checked_search("m", tt.search(SPACES), lambda **parameters: None) is not None


@pytest.mark.fast
def test_parameters_are_of_the_recipe_and_the_search_is_not(world: Any) -> None:
    model = searched(world)
    assert model.hash == searched(world, trials=99).hash
    one, other = with_parameters(model, {"strength": 0.5}), with_parameters(model, {"strength": 0.6})
    assert len({model.hash, one.hash, other.hash}) == 3
    elsewhere = msgspec.structs.replace(one, chosen=Chosen(values={"strength": 0.5}, search="x", trial=7, until_us=1))
    assert elsewhere.hash == one.hash
    assert with_parameters(model, {"strength": 0.5, "intercept": False}).new_estimator().C == 0.5
    assert model.new_estimator().C == 1.0
    without = searched(world, lambda strength, intercept: None)
    with pytest.raises(Misuse, match=r"has chosen a value yet for strength, intercept. Search first: trimtab search"):
        without.new_estimator()


def test_the_same_seed_gives_the_same_trials_however_often_it_is_interrupted(
    world: Any, training_set: TrainingSet
) -> None:
    model, among = searched(world), training_set.usable
    whole = run_trials(model, training_set, among)
    assert whole[0].values == {"strength": 1.0, "intercept": True}  # the function's own come first
    assert whole[0].state == "done"
    for stop in (1, 5):
        kept: list[Trial] = []

        def keep(trial: Trial, kept: list[Trial] = kept, stop: int = stop) -> None:
            kept.append(msgspec.json.decode(msgspec.json.encode(trial), type=Trial))
            if len(kept) == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_trials(model, training_set, among, keep=keep)
        assert same(run_trials(model, training_set, among, kept)) == same(whole)
    other = run_trials(searched(world, seed=2), training_set, among)
    assert [trial.values for trial in other[1:]] != [trial.values for trial in whole[1:]]


def test_a_longer_search_begins_with_the_shorter_one(world: Any, training_set: TrainingSet) -> None:
    short = run_trials(searched(world, trials=3), training_set, training_set.usable)
    more = run_trials(searched(world, trials=5), training_set, training_set.usable, short)
    assert more[:3] == short
    assert same(run_trials(searched(world, trials=5), training_set, training_set.usable)) == same(more)


def test_nothing_after_the_rows_that_may_be_seen_is_looked_at(world: Any, training_set: TrainingSet) -> None:
    """Planted: from a moment on every label is the opposite, and every feature another; no trial notices."""
    from_us = training_set.manifest.cut_us - 12 * tt_day()
    among = known_before(training_set, from_us)
    later = training_set.at_us >= from_us
    labels = msgspec.structs.replace(
        training_set.labels, values=np.where(later, 1.0 - training_set.target, training_set.target)
    )
    planted = msgspec.structs.replace(training_set, labels=labels)
    model = searched(world, trials=3)
    assert same(run_trials(model, training_set, among)) == same(run_trials(model, planted, among))
    assert same(run_trials(model, planted, planted.usable)) != same(run_trials(model, training_set, among))


def tt_day() -> int:
    return 86_400_000_000


def test_each_fold_is_fitted_on_what_was_known_before_it(world: Any, training_set: TrainingSet) -> None:
    trial = run_trials(searched(world, trials=1, folds=4), training_set, training_set.usable)[0]
    assert len(trial.folds) == len(trial.rows) == 4
    assert sum(trial.rows) == pytest.approx(training_set.usable.sum() / 2, abs=2)
    assert trial.value == pytest.approx(np.average(trial.folds, weights=trial.rows))


def test_a_time_budget_ends_a_search_and_counts_the_time_of_before(world: Any, training_set: TrainingSet) -> None:
    ticks = iter(range(1000))

    def timer() -> float:  # each trial takes a second
        return float(next(ticks))

    model = searched(world, time="3s")
    first = run_trials(msgspec.structs.replace(model), training_set, training_set.usable, timer=timer)
    assert len(first) == 3
    assert len(run_trials(model, training_set, training_set.usable, first, timer=timer)) == 3
    longer = searched(world, time="5s")
    assert len(run_trials(longer, training_set, training_set.usable, first, timer=timer)) == 5


def test_a_bad_trial_ends_after_a_fold_unless_pruning_is_off() -> None:
    def before(number: int) -> Trial:
        return Trial(
            number=number,
            values={"strength": 0.1 + number / 10, "intercept": True},
            state="done",
            value=0.5,
            folds=(0.5, 0.5),
            rows=(10, 10),
            took_s=1.0,
        )

    trials = [before(number) for number in range(6)]
    for prune in (True, False):
        proposal = Proposal(tt.search(SPACES, prune=prune), trials)
        assert proposal.is_prunable(1, 0.9) is prune
    assert not Proposal(tt.search(SPACES), trials).is_prunable(1, 0.4)
    assert not Proposal(tt.search(SPACES), trials[:3]).is_prunable(1, 0.9)  # too few to be compared with


def test_failed_trials_are_kept_with_their_error_and_never_win(world: Any, training_set: TrainingSet) -> None:
    spaces = {"strength": tt.number(80.0, 100.0), "intercept": tt.choice(True, False)}
    model = msgspec.structs.replace(searched(world), search=tt.search(spaces, trials=12, seed=3))
    trials = run_trials(model, training_set, training_set.usable)
    failed = [trial for trial in trials if trial.state == "failed"]
    assert failed
    assert all("that is too much" in trial.error and trial.value is None for trial in failed)
    best = best_trial(trials)
    assert best is not None
    assert best.state == "done"


def test_a_search_in_which_everything_fails_says_why(world: Any, training_set: TrainingSet) -> None:
    def broken(strength: float, intercept: bool) -> Any:
        raise ValueError("no such thing")

    kept: list[Trial] = []
    with pytest.raises(Misuse, match=r"all 5 trials failed. The newest error: .*no such thing"):
        run_trials(searched(world, broken, trials=50), training_set, training_set.usable, keep=kept.append)
    assert len(kept) == 5
    few = np.zeros(training_set.rows, bool)
    with pytest.raises(Misuse, match="no labels to learn from"):
        run_trials(searched(world), training_set, few)
    with pytest.raises(Misuse, match="declares no search"):
        run_trials(world.model, training_set, training_set.usable)


@given(
    st.dictionaries(
        st.sampled_from("abc"),
        st.one_of(
            st.tuples(st.integers(1, 50), st.integers(51, 99), st.booleans()).map(
                lambda t: tt.integer(*t[:2], log=t[2])
            ),
            st.tuples(st.floats(0.01, 1), st.floats(2, 9), st.booleans()).map(lambda t: tt.number(*t[:2], log=t[2])),
            st.sampled_from([tt.choice("x", "y", "z"), tt.choice(True, None, 3)]),
        ),
        min_size=1,
    ),
    st.lists(st.tuples(st.floats(-5, 5), st.sampled_from(["done", "pruned", "failed"])), max_size=14),
    st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_what_is_proposed_lies_in_its_space_and_follows_from_what_came_before(
    spaces: dict[str, Any], outcomes: list[tuple[float, Any]], seed: int
) -> None:
    declared: Search = tt.search(spaces, seed=seed)
    trials: list[Trial] = []
    for number, (value, state) in enumerate(outcomes):
        values = Proposal(declared, trials).values
        assert declared.holds(values)
        assert declared.holds(msgspec.json.decode(msgspec.json.encode(values)))
        there = state != "failed"
        trials.append(
            Trial(
                number=number,
                values=values,
                state=state,
                value=value if there else None,
                folds=(value,) if there else (),
                rows=(5,) if there else (),
                took_s=0.0,
            )
        )
    assert Proposal(declared, trials).values == Proposal(declared, list(trials)).values


def test_a_trial_reports_progress_tree_by_tree(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.run.progress._EVERY_S", 0.0)

    def trees(rate: float = 0.1) -> LGBMClassifier:
        return LGBMClassifier(n_estimators=10, learning_rate=rate, verbosity=-1)

    model = msgspec.structs.replace(
        world.model, estimator=trees, search=tt.search({"rate": tt.number(0.01, 0.3)}, trials=2, folds=2)
    )
    training_set, shares = world.training_set(), list[float]()
    run_trials(model, training_set, training_set.usable, progress=shares.append)
    assert shares == sorted(shares)
    assert np.allclose(sorted(set(np.round(shares, 9))), np.arange(41) / 40)  # 2 trials of 2 folds of 10 trees
