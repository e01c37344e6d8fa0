"""Models that rank the rows of a list: what they learn from, what is refused, and how they are judged."""

from __future__ import annotations

from collections.abc import Callable
from math import log2
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from trimtab.core.columns.data import Columns, column
from trimtab.core.errors import Misuse
from trimtab.core.expressions.nodes import col
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.events.definitions import Time, source
from trimtab.features.definitions import label, request
from trimtab.store.file_blob import FileBlob
from trimtab.training import Model, TrainingSet, build_training_set, fit, model
from trimtab.training.data.sets import load_training_set, save_training_set
from trimtab.training.data.weights import weigh
from trimtab.training.fitting.fit import training_target
from trimtab.training.fitting.folds import known_before
from trimtab.training.fitting.splits import time_split, walk_forward
from trimtab.training.judge.evaluation import Evaluation, evaluate
from trimtab.training.weighting import sample

START_US = 1_356_998_400_000_000  # 2013-01-01

offer = request(
    "offer",
    key="offer_id",
    time="shown_at",
    columns={"offer_id": str, "search_id": str, "shown_at": Time, "price": float, "stars": float, "device": str},
)
clicks = source("clicks", time="at", key="offer_id", columns={"offer_id": str, "at": Time, "degree": float})


def ranker(**given: Any) -> Callable[[], Any]:
    def make() -> Any:
        from lightgbm import LGBMRanker

        return LGBMRanker(**{"n_estimators": 20, "num_leaves": 5, "min_child_samples": 10, **given})

    return make


def made(estimator: Callable[[], Any] | None = None, **given: Any) -> Model:
    declared = {
        "request": offer,
        "features": [{"price": col("price"), "stars": col("stars")}],
        "label": label(clicks, key="offer_id", value="degree", wait="1d"),
        "metric": "ndcg_loss(5)",
        "group": "search_id",
        **given,
    }
    return model("offers", estimator=estimator or ranker(), **declared)


class Searches(msgspec.Struct, frozen=True, eq=False):
    """Offers that were shown in searches, and what became of each."""

    keys: list[str]
    lists: list[str | None]
    at_us: Any
    price: Any
    stars: Any
    degree: Any
    labelled: Any

    def training_set(self, model: Model | None = None, *, days: int = 40, order: Any = None) -> TrainingSet:
        order = np.arange(len(self.keys)) if order is None else order
        requests = Columns(
            {
                "offer_id": column("str", [self.keys[n] for n in order]),
                "search_id": column("str", [self.lists[n] for n in order]),
                "shown_at": column("time", self.at_us[order].tolist()),
                "price": column("float", self.price[order].tolist()),
                "stars": column("float", self.stars[order].tolist()),
                "device": column("str", ["phone" if hash_of(self.lists[n]) % 2 else "desk" for n in order]),
            }
        )
        there = np.flatnonzero(self.labelled)
        known_us = self.at_us[there] + HOUR_US
        frame = EventFrame(
            "clicks",
            Columns.of(
                {
                    "offer_id": ("str", [self.keys[n] for n in there]),
                    "at": ("time", known_us.tolist()),
                    "degree": ("float", self.degree[there].tolist()),
                }
            ),
            known_us,
            known_us,
            np.full(there.size, NEVER_US),
            np.zeros(there.size, bool),
            np.zeros(there.size, np.int16),
            np.arange(1, there.size + 1),
            ("p0",),
        )
        return build_training_set(
            model or made(), requests, {"clicks": frame}, cut_us=START_US + days * DAY_US, positions={"p0": 9}
        )


def hash_of(name: str | None) -> int:
    return 0 if name is None else sum(map(ord, name))


def searches(*, days: int = 40, per_day: int = 12, longest: int = 9, seed: int = 0) -> Searches:
    """Lists of two to nine offers, a minute apart; the cheap ones with stars are wanted."""
    chance = np.random.default_rng(seed)
    sizes = chance.integers(2, longest + 1, days * per_day)
    begun_us = np.sort(START_US + chance.integers(0, days * DAY_US, sizes.size))
    lists = np.repeat(np.arange(sizes.size), sizes)
    place = np.concatenate([np.arange(size) for size in sizes])
    at_us = begun_us[lists] + place * 60_000_000
    price, stars = chance.uniform(10, 300, lists.size), chance.integers(1, 6, lists.size).astype(float)
    wanted = stars - price / 60 + chance.normal(size=lists.size)
    degree = np.digitize(wanted, [0.5, 2.0, 3.5]).astype(float)
    names: list[str | None] = [f"s{n:04d}" for n in lists]
    keys = [f"o{n:05d}" for n in range(lists.size)]
    return Searches(keys, names, at_us, price, stars, degree, np.ones(lists.size, bool))


@pytest.fixture(scope="module")
def shown() -> Searches:
    return searches()


@pytest.fixture(scope="module")
def training_set(shown: Searches) -> TrainingSet:
    return shown.training_set()


def naive_ndcg(relevance: list[float], scores: list[float], top: int) -> float:
    """Rows of equal score share their gain, which is the mean over their orders."""
    tied = [[r for r, other in zip(relevance, scores, strict=True) if other == score] for score in scores]
    shared = [sum(some) / len(some) for some in tied]
    gains = [shared[n] for n in sorted(range(len(scores)), key=lambda n: -scores[n])]
    reached, ideal = (
        sum(gain / log2(n + 2) for n, gain in enumerate(order[:top]))
        for order in (gains, sorted(relevance, reverse=True))
    )
    return reached / ideal


@pytest.mark.fast
def test_a_ranking_names_its_lists_and_they_are_part_of_its_recipe():
    model = made()
    assert (model.task, model.metric, model.group) == ("ranking", "ndcg_loss(5)", "search_id")
    assert made(group="device").hash != model.hash
    plain = made(Ridge, metric="squared_error")
    assert plain.hash == made(Ridge, metric="squared_error", group=None).hash


@pytest.mark.fast
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"group": None}, r'has no group. Needed: a column.*group="search_id". Columns of these types: search_id'),
        ({"group": "stars"}, "'stars' does not name them"),
        ({"group": "offer_id"}, "each list has one row"),
        ({"calibration": "platt"}, "calibration='platt' of a ranking: scores order a list and are not probabilities"),
        ({"costs": {"false_positive": 1, "false_negative": 1}}, "a ranking orders lists and does not answer yes or no"),
        ({"weights": "balanced"}, 'weights="balanced" needs a model of classes'),
        (
            {"sample": sample(negatives=0.1)},
            r"sample\(negatives=0.1, seed=0\) does not fit a model of lists. Give a share of all",
        ),
        ({"metric": "ndcg_loss(0)"}, r"one of multi_log_loss.* or tt.ndcg_loss\(places\)"),
        (
            {"label": label(clicks, key="offer_id", value="offer_id", wait="1d", classes=["a", "b", "c"])},
            "the label has 3 classes",
        ),
    ],
)
def test_what_a_ranking_cannot_have_is_refused_when_it_is_declared(given: dict[str, Any], said: str):
    with pytest.raises(Misuse, match=said):
        made(**given)


def test_a_fit_is_the_same_to_the_byte_in_whatever_order_lists_came(shown: Searches, training_set: TrainingSet):
    one, again = fit(made(), training_set), fit(made(), training_set)
    assert one.digest == again.digest
    lists = np.array(shown.lists)
    turned = np.concatenate([np.flatnonzero(lists == name) for name in np.unique(lists)[::-1]])
    assert fit(made(), shown.training_set(order=turned)).digest == one.digest


def test_a_ranker_learns_the_order(training_set: TrainingSet):
    fitted = fit(made(), training_set)
    cheap, dear = fitted.predict(Columns.of({"price": ("float", [20.0, 290.0]), "stars": ("float", [5.0, 1.0])}))
    assert cheap > dear
    assert fitted.artifact.task == "ranking"
    assert fitted.rows == int(training_set.usable.sum())


def of_library(library: str) -> Callable[[], Any]:
    def other() -> Any:
        if library == "xgboost":
            from xgboost import XGBRanker

            return XGBRanker(n_estimators=10, max_depth=3)
        if library == "catboost":
            from catboost import CatBoostRanker

            return CatBoostRanker(iterations=20, depth=3)
        return ranker()() if library == "lightgbm" else Ridge()

    return other


@pytest.mark.parametrize("library", ["xgboost", "catboost", "pointwise"])
def test_other_rankers_and_estimators_of_rows_learn_it_too(library: str, training_set: TrainingSet):
    other = of_library(library)
    fitted = fit(made(other), training_set)
    assert fit(made(other), training_set).digest == fitted.digest
    cheap, dear = fitted.predict(Columns.of({"price": ("float", [20.0, 290.0]), "stars": ("float", [5.0, 1.0])}))
    assert cheap > dear


@pytest.mark.parametrize("library", ["lightgbm", "xgboost", "catboost", "pointwise"])
@pytest.mark.parametrize(("device", "cheap_first"), [("desk", True), ("phone", False)])
def test_a_list_counts_by_its_weight(library: str, device: str, cheap_first: bool, shown: Searches):
    turned = np.array([hash_of(name) % 2 == 1 for name in shown.lists])  # on phones the dear ones are wanted
    built = msgspec.structs.replace(shown, degree=np.where(turned, 3.0 - shown.degree, shown.degree)).training_set()
    counted = {"desk": desks, "phone": phones}[device]
    fitted = fit(made(of_library(library), weights=counted), built)
    cheap, dear = fitted.predict(Columns.of({"price": ("float", [20.0, 290.0]), "stars": ("float", [5.0, 1.0])}))
    assert bool(cheap > dear) == cheap_first


def desks(device: str) -> float:
    return 2.5 if device == "desk" else 0.0


def phones(device: str) -> float:
    return 2.5 if device == "phone" else 0.0


def test_rows_of_one_list_cannot_count_differently(shown: Searches, training_set: TrainingSet):
    first = min(price for price, name in zip(shown.price, shown.lists, strict=True) if name == "s0000")
    with pytest.raises(Misuse, match=rf"the first: search_id 's0000', {first:g} and .*a list counts as a whole"):
        fit(made(weights="price"), training_set)


def test_a_sample_keeps_whole_lists_whichever_others_there_are(shown: Searches):
    declared = made(sample=sample(rows=0.3, seed=4))

    def kept(training_set: TrainingSet) -> tuple[list[str], Any]:
        weighed = weigh(declared, training_set, *training_target(declared, training_set, None))
        names = training_set.requests["search_id"].to_list()
        return [str(names[row]) for row in weighed.kept], weighed.weights

    whole = shown.training_set()
    usable = {str(name) for name, there in zip(shown.lists, whole.usable, strict=True) if there}
    names, weights = kept(whole)
    assert {name: names.count(name) for name in set(names)} == {name: shown.lists.count(name) for name in set(names)}
    assert 0.2 < len(set(names)) / len(usable) < 0.4
    assert weights == pytest.approx(1 / 0.3)
    early = shown.training_set(days=20)
    known = {str(name) for name in early.requests["search_id"].take(np.flatnonzero(early.usable)).to_list()}
    assert set(kept(early)[0]) == set(names) & known
    assert fit(declared, whole).rows == len(names)


def test_only_whole_lists_are_learnt_from_and_the_manifest_counts_the_others(shown: Searches, tmp_path: Path):
    labelled = shown.labelled.copy()
    lists = np.array(shown.lists)
    labelled[np.flatnonzero(lists == "s0003")[0]] = False  # its label never comes
    names: list[str | None] = [None if name == "s0005" else name for name in shown.lists]
    degree = np.where(lists == "s0007", 1.0, shown.degree)
    part = msgspec.structs.replace(shown, labelled=labelled, lists=names, degree=degree)
    built = part.training_set()
    usable = {name for name, kept in zip(names, built.usable, strict=True) if kept}
    assert usable.isdisjoint({"s0003", None})
    assert {"s0002", "s0004", "s0007"} <= usable
    assert not built.informative[lists == "s0007"].any()
    counts = built.manifest.lists
    assert counts is not msgspec.UNSET
    final = np.unique(lists[shown.at_us <= START_US + 39 * DAY_US]).size
    assert (counts.column, counts.rows_without) == ("search_id", int((lists == "s0005").sum()))
    assert counts.lists == np.unique(lists).size - 1
    assert final - 4 <= counts.whole <= final
    assert counts.told < counts.whole
    assert counts.longest == 9
    blob = FileBlob(tmp_path / "blobs")
    again = load_training_set(save_training_set(built, blob), blob, key="offer_id")
    assert again.lists is not None
    assert again.usable.tolist() == built.usable.tolist()
    assert again.begun_us.tolist() == built.begun_us.tolist()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda d: np.where(np.arange(d.size) == 5, -1.0, d),
            r"1 of \d+ labels are below 0 \(the first: request 'o00005'",
        ),
        (lambda d: d * 0.5, "relevance must be a whole number from 0 to 30"),
        (lambda d: d * 20, r"whole number from 0 to 30; .* e.g. 40"),
        (lambda d: np.ones(d.size), "in each training list all rows have the same relevance"),
    ],
)
def test_a_relevance_that_cannot_be_learnt_from_is_named(change: Any, said: str, shown: Searches):
    with pytest.raises(Misuse, match=said):
        fit(made(), msgspec.structs.replace(shown, degree=change(shown.degree)).training_set())


def test_lists_beyond_the_library_or_of_no_name_are_named(shown: Searches):
    with pytest.raises(Misuse, match=r"0 of 0 lists have a final label.*, and 2,\d+ rows have no 'search_id'"):
        fit(made(), msgspec.structs.replace(shown, lists=[None] * len(shown.keys)).training_set())
    long = searches(days=1, per_day=4, longest=10_400, seed=3)
    one: list[str | None] = ["all"] * len(long.keys)
    built = msgspec.structs.replace(long, lists=one, at_us=np.full(len(one), START_US)).training_set()
    with pytest.raises(Misuse, match=r"a list has [12]\d,\d+ rows, but LightGBM takes 10,000 at most"):
        fit(made(), built)


def test_a_ranker_without_lists_is_refused_with_what_to_declare(training_set: TrainingSet):
    with pytest.raises(Misuse, match=r"LGBMRanker learns from lists.*metric=tt.ndcg_loss\(10\) and group="):
        fit(made(metric="squared_error"), training_set)


def judged(training_set: TrainingSet, model: Model | None = None, **given: Any) -> Evaluation:
    model = model or made(slices=["device", "stars"])
    split = time_split(training_set)
    fitted = fit(model, training_set, rows=split.train)
    return evaluate(model, fitted, training_set, rows=split.holdout, train=split.train, **given)


def test_no_split_cuts_a_list_in_two(shown: Searches, training_set: TrainingSet):
    lists = np.array(shown.lists)
    midnight = START_US + 25 * DAY_US
    at_us = shown.at_us.copy()
    over = lists == lists[np.flatnonzero(shown.at_us > midnight)[0]]
    at_us[over] = midnight - 30_000_000 + np.arange(over.sum()) * 60_000_000  # its first row before, the others after
    built = msgspec.structs.replace(shown, at_us=at_us).training_set()
    for start_us in (midnight, midnight + DAY_US, midnight + DAY_US // 2):
        split = time_split(built, holdout_us=built.manifest.cut_us - built.manifest.wait_us + 1 - start_us)
        known = known_before(built, start_us)
        for name in np.unique(lists):
            here = lists == name
            for side in (split.train, split.holdout, known):
                assert side[here].all() or not side[here].any()
            assert not (split.train & split.holdout).any()
            if split.holdout[here].any():
                assert at_us[here].min() >= start_us
    whole = walk_forward(made(), built, folds=3)
    for name in np.unique(lists):
        assert np.unique(whole.fold[lists == name]).size == 1


def test_an_evaluation_counts_lists_and_agrees_with_counting_by_hand(shown: Searches, training_set: TrainingSet):
    model = made(slices=["device", "stars"])
    split = time_split(training_set)
    fitted = fit(model, training_set, rows=split.train)
    found = evaluate(model, fitted, training_set, rows=split.holdout, train=split.train)
    scores = fitted.predict(training_set.features.values)
    lists = np.array(shown.lists)
    told = []
    for name in np.unique(lists[split.holdout]):
        here = np.flatnonzero(lists == name)
        if np.ptp(shown.degree[here]) > 0:
            told.append(naive_ndcg(shown.degree[here].tolist(), scores[here].tolist(), 5))
    figures = {one.name: one for one in found.figures}
    assert found.value == pytest.approx(1 - np.mean(told))
    assert figures["ndcg_at_5"].value == pytest.approx(np.mean(told))
    assert (found.figures[0].name, found.block, found.auc, found.calibration) == ("ndcg_loss(5)", "list", None, ())
    assert {"mean_average_precision", "reciprocal_rank", "recall_at_5"} <= figures.keys()
    interval = figures["ndcg_at_5"].interval
    assert interval is not None
    spread = 1.96 * np.std(told) / np.sqrt(len(told))
    assert interval.high - interval.low == pytest.approx(2 * spread, rel=0.25)
    alike = found.left_out["in lists whose labels are all equal"]
    assert found.rows + alike == split.holdout.sum()
    assert [one.name for one in found.permuted] == ["price", "stars"]
    assert all(one.rise > 0.01 for one in found.permuted)
    assert found.influences
    assert found.months
    assert len(found.weeks) == 3


def test_a_slice_is_of_the_lists_that_have_such_a_row(shown: Searches, training_set: TrainingSet):
    found = judged(training_set)
    device = {one.holds: one for one in found.slices if one.column == "device"}
    assert device.keys() == {"phone", "desk"}
    assert sum(one.rows for one in device.values()) == found.rows
    stars = [one for one in found.slices if one.column == "stars"]
    assert len(stars) == 5
    assert all(one.rows <= found.rows for one in stars)
    assert sum(one.rows for one in stars) > found.rows  # a list has rows of several
    assert not any(leak.check == "group" for leak in found.leaks or ())


def test_baselines_are_any_order_the_order_shown_and_the_best_feature(training_set: TrainingSet):
    found = judged(training_set)
    random, shown, best, linear = (found.baselines[n] for n in ("random", "as_shown", "best_feature", "linear"))
    assert found.value < best < random  # type: ignore[operator]  # none of them is missing
    assert shown == pytest.approx(random, abs=0.05)  # they were shown in no order
    assert linear == pytest.approx(found.value, abs=0.05)
    champion = judged(training_set, champion_scores=np.zeros(int(time_split(training_set).holdout.sum())))
    assert champion.baselines["champion"] == pytest.approx(random)


def test_its_curve_and_folds_are_of_whole_lists(training_set: TrainingSet):
    model = made()
    fits: list[Any] = []

    def refit(rows: Any) -> Any:
        fits.append(rows)
        return fit(model, training_set, rows=rows)

    found = judged(training_set, model, refit=refit)
    assert len(found.learning_curve) == 4
    assert len(found.folds) == 4
    assert all(one.value is not None and 0 < one.value < 0.5 for one in (*found.learning_curve, *found.folds))
    for rows in fits:
        assert (training_set.whole(rows) == rows).all()


def test_a_feature_that_is_the_relevance_is_a_leak(training_set: TrainingSet, shown: Searches):
    clicked = msgspec.structs.replace(shown, degree=(shown.degree > 1).astype(float))
    chance = np.random.default_rng(5).uniform(size=clicked.degree.size)
    nearly = msgspec.structs.replace(clicked, stars=np.where(chance < 0.005, 1 - clicked.degree, clicked.degree))
    with pytest.raises(Misuse, match=r"Feature 'stars' alone predicts the label with AUC 0\.99"):
        fit(made(), nearly.training_set())
    told = msgspec.structs.replace(shown, stars=shown.degree)
    with pytest.raises(Misuse, match=r"Feature 'stars' alone predicts the label with R2 1\.0000"):
        fit(made(), told.training_set())


def test_the_parameters_of_a_ranker_are_searched_for(training_set: TrainingSet):
    import trimtab as tt
    from trimtab.training.fitting.search_trials import best_trial, run_trials

    def sized(leaves: int = 4) -> Any:
        return ranker(n_estimators=5, num_leaves=leaves)()

    model = made(sized, search=tt.search({"leaves": tt.integer(2, 8)}, trials=2))
    trials = run_trials(model, training_set, training_set.usable, keep=lambda trial: None)
    best = best_trial(trials)
    assert best is not None
    assert best.value is not None
    assert 0 < best.value < 0.4
