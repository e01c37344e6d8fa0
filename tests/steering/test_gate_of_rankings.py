"""The gate and its scales, where lists are ordered: lists are its units."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from trimtab.core.errors import Misuse
from trimtab.core.expressions.nodes import col
from trimtab.core.records import GateRecord
from trimtab.core.time import DAY_US
from trimtab.events.definitions import Time, source
from trimtab.features.definitions import label, request
from trimtab.stats import list_ndcg, paired_mean_bound
from trimtab.steering.definitions import BeatsChampion, beats_champion, deployment
from trimtab.steering.gate.gate import judge
from trimtab.steering.gate.scales import label_unit, loss_cap, mean_distance, refit_distance
from trimtab.steering.gate.slices import Part
from trimtab.steering.gate.window import Window
from trimtab.training import Model, model

RNG = np.random.default_rng(3)
LISTS = np.repeat(np.arange(14 * 30), 6)
WANTED = RNG.normal(size=LISTS.size)
LABELS = np.clip(np.round(WANTED + 0.7 * RNG.normal(size=LISTS.size)), 0, 3)
LABELS[LISTS % 40 == 0] = 1.0  # lists whose rows are alike
WINDOW = Window(0, 14 * DAY_US, LISTS // 30 * DAY_US, LABELS, LISTS)
NOISE = RNG.normal(size=LISTS.size)


def judged(scores: np.ndarray, champion: np.ndarray | None, **given: object) -> GateRecord:
    return judge(
        given.pop("rule", BeatsChampion()),  # type: ignore[arg-type]  # a rule
        WINDOW,
        gate_id="g",
        model="m",
        metric="ndcg_loss(3)",
        candidate="c",
        candidate_scores=scores,
        champion=None if champion is None else "b",
        champion_scores=champion,
        judged_at_us=0,
        loads=True,
        **given,  # type: ignore[arg-type]  # a keyword of `judge`
    )


@pytest.mark.fast
def test_the_difference_and_its_bound_are_of_lists():
    found = judged(WANTED, NOISE)
    ours, theirs = (1 - list_ndcg(LABELS, scores, LISTS, top=3) for scores in (WANTED, NOISE))
    told = ~np.isnan(ours)
    bound = paired_mean_bound((ours - theirs)[told], np.arange(told.size)[told] // 30, level=0.9, side="upper")
    assert found.passed
    assert found.difference == pytest.approx(bound.estimate)
    assert found.bound == pytest.approx(bound.high)
    assert (found.rows, found.candidate_metric) == (LISTS.size, pytest.approx(ours[told].mean()))
    (lists,) = [one for one in found.findings if one.name == "lists"]
    alike = f"{(~told).sum()} were left out, because all labels of each are equal."
    assert lists.reason == f"{told.sum()} lists of the window were compared; {alike}"
    assert "calibrated" not in found.checks
    assert found.checks["lists"]


@pytest.mark.fast
def test_an_order_that_is_no_better_is_refused_and_the_scale_of_scores_is_nothing():
    assert "provably_better" in [name for name, held in judged(WANTED, WANTED).checks.items() if not held]
    assert not judged(NOISE, WANTED).passed
    assert judged(1000 * WANTED - 7, NOISE).difference == judged(WANTED, NOISE).difference
    assert judged(NOISE, None).reason.startswith("Passed: mean loss 0.")
    assert judged(WANTED, None, baselines={"random": np.zeros(LISTS.size)}).checks["floor"]
    refused = judged(-WANTED, None, baselines={"random": np.zeros(LISTS.size)})
    assert (refused.passed, refused.checks["floor"]) == (False, False)


@pytest.mark.fast
def test_a_slice_is_of_the_lists_that_have_a_row_of_it():
    scores = np.where(LISTS % 3 == 0, NOISE, WANTED)
    champion = np.where(LISTS % 3 == 0, WANTED, NOISE)
    first = np.concatenate([[True], LISTS[1:] != LISTS[:-1]])
    parts = [Part("third", first & (LISTS % 3 == 0)), Part("others", LISTS % 3 != 0)]
    found = judged(scores, champion, parts=parts, rule=beats_champion(slices=["x"]))
    verdicts = {one.name: one for one in found.findings}
    assert verdicts["slice third"].verdict == "failed"
    assert verdicts["slice others"].verdict == "held"
    ours, theirs = (1 - list_ndcg(LABELS, one, LISTS, top=3) for one in (scores, champion))
    here = ~np.isnan(ours) & (np.arange(ours.size) % 3 == 0)
    assert verdicts["slice third"].figure == pytest.approx((ours - theirs)[here].mean())


@pytest.mark.fast
def test_a_refit_is_near_when_it_lists_rows_in_nearly_the_same_places():
    assert mean_distance(WANTED, 5 * WANTED + 3, LISTS) == 0.0
    assert mean_distance(WANTED, NOISE, LISTS) == pytest.approx(7 / 18, abs=0.02)  # of six rows in any two orders
    assert mean_distance(np.array([3.0, 2.0, 1.0]), np.array([3.0, 1.0, 2.0]), np.zeros(3, int)) == pytest.approx(1 / 3)
    assert (refit_distance("ndcg_loss(3)"), label_unit("ndcg_loss(3)", LABELS)) == (0.2, 1.0)
    assert loss_cap("ndcg_loss(3)", np.array([0.1, 0.4])) == 1.0


def ranked() -> Model:
    offer = request("offer", key="id", time="at", columns={"id": str, "search": str, "at": Time, "price": float})
    clicks = source("clicks", time="at", key="id", columns={"id": str, "at": Time, "degree": float})
    return model(
        "offers",
        request=offer,
        features=[{"price": col("price")}],
        label=label(clicks, key="id", value="degree", wait="1d"),
        estimator=lambda: None,
        metric="ndcg_loss(3)",
        group="search",
    )


@pytest.mark.fast
def test_a_deployment_refuses_what_a_ranking_has_not():
    with pytest.raises(Misuse, match=r'a model that ranks needs all labels.*Use learn="batch"'):
        deployment(ranked(), learn="online")
    with pytest.raises(
        Misuse, match=r"needs probabilities of a class .* metric is ndcg_loss\(3\). Leave calibration_error out\.$"
    ):
        deployment(ranked(), gate=beats_champion(calibration_error=0.1))
    other = msgspec.structs.replace(ranked(), group=None)
    assert other.hash != ranked().hash
