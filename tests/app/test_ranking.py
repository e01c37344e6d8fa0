"""A model that ranks the offers of a search, from a project file to closed days: trained, gated, served and watched."""

from __future__ import annotations

import json
import shutil
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shop
from click.testing import CliRunner

from indexed_labels import IndexedLabels
from trimtab.cli.group import trimtab
from trimtab.core.columns.data import Columns, column
from trimtab.core.errors import Unavailable
from trimtab.core.records import DayQuality
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US
from trimtab.features.labels import LabelIndex
from trimtab.feedback.blocks import day_qualities
from trimtab.feedback.open_days import OpenDays
from trimtab.feedback.outcomes import ListColumn, OutcomeJoin

PROJECT = """
import trimtab as tt

clicks = tt.source("clicks", time="clicked_at", key="offer_id", columns={
    "offer_id": str, "brand": str, "clicked_at": tt.Time, "degree": float})
offer = tt.request("offer", key="offer_id", time="at", columns={
    "offer_id": str, "search_id": str, "brand": str, "at": tt.Time, "price": float, "stars": float})
brand = tt.view("brand", source=clicks, by="brand", features={"wanted_7d": tt.mean("degree", over="7d")})


def ranker():
    from lightgbm import LGBMRanker

    return LGBMRanker(n_estimators=30, num_leaves=6, min_child_samples=20)


model = tt.model("offers", request=offer, features=[{"price": tt.col("price"), "stars": tt.col("stars")}, brand],
    label=tt.label(clicks, key="offer_id", value="degree", wait="1d"), estimator=ranker,
    metric=tt.ndcg_loss(5), group="search_id", slices=["brand"])
tt.deployment(model, retrain=tt.on_quality_drop(run_length="100d"))
"""
SIZE = 5


def searches(begin_us: int, days: int, per_day: int, seed: int, prefix: str) -> tuple[Columns, Columns]:
    """Lists of five offers and what was clicked (2: bought)."""
    chance = np.random.default_rng(seed)
    count = days * per_day
    begun_us = np.sort(begin_us + chance.integers(0, days * DAY_US - HOUR_US, count))
    rows = count * SIZE
    at_us = np.repeat(begun_us, SIZE)
    price, stars = chance.uniform(10, 300, rows), chance.integers(1, 6, rows).astype(float)
    wanted = stars - price / 60 + chance.normal(size=rows)
    brands = [("acme", "best", "cheap")[n] for n in chance.integers(0, 3, rows)]
    keys = [f"{prefix}{n:05d}" for n in range(rows)]
    offers = {
        "offer_id": column("str", keys),
        "search_id": column("str", [f"{prefix}s{n // SIZE:04d}" for n in range(rows)]),
        "brand": column("str", brands),
        "at": column("time", at_us.tolist()),
        "price": column("float", price.tolist()),
        "stars": column("float", stars.tolist()),
    }
    told = {
        "offer_id": column("str", keys),
        "brand": column("str", brands),
        "clicked_at": column("time", (at_us + 10 * MINUTE_US).tolist()),
        "degree": column("float", np.digitize(wanted, [0.5, 2.5]).astype(float).tolist()),
    }
    return Columns(offers), Columns(told)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranked")
    (folder / "trimtab.toml").write_text("")
    (folder / "project.py").write_text(PROJECT)
    offers, told = searches(shop.BEGIN_US, shop.DAYS, 25, 1, "h")
    with shop.opened(folder) as project:
        project.ingestor.load("offer", offers)
        project.ingestor.load("clicks", told)
        decisions = project.train("offers")
        assert [d.act for d in decisions] == ["train", "gate", "promote"], [d.cause for d in decisions]
    return folder


def offer(key: str, at_us: int, price: float, stars: float, search: str | None = "q1") -> dict[str, Any]:
    return {"offer_id": key, "search_id": search, "brand": "acme", "at": at_us, "price": price, "stars": stars}


def test_it_is_trained_gated_and_evaluated_by_list(folder: Path):
    with shop.opened(folder) as project:
        found = project.evaluation("offers@champion")
        assert (found.metric, found.block) == ("ndcg_loss(5)", "list")
        assert found.value < found.baselines["best_feature"] < found.baselines["random"]  # type: ignore[operator]
        assert [one.name for one in found.figures][:2] == ["ndcg_loss(5)", "ndcg_at_5"]
        gate = project.registry.gates_of(project.registry.get("offers@1"))[0]
        assert gate.passed
        assert "calibrated" not in gate.checks
        assert any(one.name == "lists" and "lists of the window were compared" in one.reason for one in gate.findings)
        page = project.report("offers@champion", folder / "report")
        assert "ndcg at 5" in page.read_text()
        assert "mean average precision" in page.read_text()
        assert "ndcg_loss(5)" in page.with_suffix(".md").read_text()
        watch = project.loop("offers").monitor.watch
        assert watch is not None
        assert (watch.figures.keys(), watch.unwatched, watch.loss_cap) == ({"quality_loss"}, {}, 1.0)
        again = project.train("offers")
        assert again == []  # same data, code and seed


def test_lists_by_another_column_are_made_anew_for_the_same_requests_and_labels(folder: Path, tmp_path: Path):
    shutil.copytree(folder, tmp_path / "regrouped")
    (tmp_path / "regrouped" / "project.py").write_text(PROJECT.replace('group="search_id"', 'group="brand"'))
    with (
        shop.opened(tmp_path / "regrouped") as project,
        pytest.raises(Unavailable, match="0 of 3 lists have a final label for each of their rows"),
    ):
        project.train("offers")


def test_the_rows_of_a_list_are_answered_together_in_order_and_the_status_is_quiet(folder: Path):
    with shop.opened(folder) as project:
        now_us = shop.NOW_US
        answers = project.predict(
            "offers", [offer("a", now_us, 290.0, 1.0), offer("b", now_us, 20.0, 5.0), offer("c", now_us, 120.0, 3.0)]
        )
        assert [one.request_id for one in answers] == ["a", "b", "c"]
        assert answers[1].score > answers[2].score > answers[0].score
        (alone,) = project.predict("offers", [offer("b2", now_us, 20.0, 5.0, None)])
        assert alone.score == answers[1].score  # a score is of its row: the list changes nothing
        assert not any("not watched" in line for line in project.status().red)


def test_two_versions_are_held_side_by_side_by_list_and_one_is_exported(folder: Path, tmp_path: Path):
    with shop.opened(folder) as project:
        found = project.compare("offers@1", "offers@2").predictions  # the candidate and its refit
        assert found is not None
        assert found.metric == "ndcg_loss(5)"
        assert 0.0 < found.other.value < found.one.value < 0.1  # the refit has seen these lists
        assert found.one.interval is not None
        assert 0.0 < found.mean_moved < 0.2 < found.most_moved <= 1.0
        project.export("offers@champion", tmp_path / "out")
        assert '"ranking"' in (tmp_path / "out" / "signature.json").read_text()


def test_the_service_and_the_command_line_rank(folder: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [{**offer(f"x{n}", 0, 300.0 - 70 * n, n + 1.0), "at": "2024-04-10T00:00:00Z"} for n in range(4)]
    with shop.serving(folder, "--as-of", "2024-04-10T00:00:00Z") as (_, url):
        status, answer = shop.call(f"{url}/v1/models/offers/predict", {"rows": rows})
        assert status == 200, answer
        assert [one["request_id"] for one in answer["predictions"]] == ["x0", "x1", "x2", "x3"]
        scores = [one["score"] for one in answer["predictions"]]
        assert scores == sorted(scores)
    monkeypatch.chdir(folder)
    told = CliRunner().invoke(trimtab, ["versions", "show", "offers@champion"])
    assert "the score that a list is ordered by, the highest first" in told.stdout, told.output
    row = json.dumps(rows[0])
    replayed = CliRunner().invoke(trimtab, ["simulate", "--start", "2024-03-25"])
    assert replayed.exit_code == 0, replayed.output
    assert "ndcg loss(5)" in replayed.output
    done = CliRunner().invoke(trimtab, ["predict", "offers", "--row", row, "--at", "2024-04-10T00:00:00Z"])
    assert done.exit_code == 0, done.output


def naive(pairs: list[tuple[float, float]]) -> float | None:
    """1 less NDCG at 5 of scores and labels; None where the labels are alike."""
    if len({label for _, label in pairs}) == 1:
        return None
    tied = [[label for other, label in pairs if other == score] for score, _ in sorted(pairs, key=lambda one: -one[0])]
    shown, best = [sum(some) / len(some) for some in tied], sorted((label for _, label in pairs), reverse=True)
    reached, ideal = (sum(gain / log2(n + 2) for n, gain in enumerate(order)) for order in (shown, best))
    return 1 - reached / ideal


def asked_day(project: shop.Project, *, broken: bool) -> list[list[tuple[float, float | None]]]:
    """A day of searches, each asked as it comes, then what was clicked: the lists with scores and labels.

    Of the first list all are alike, of the second one label never comes.
    """
    begin_us = project.clock.now_us()
    offers, told = searches(begin_us, 1, 25, begin_us // DAY_US, f"d{begin_us // DAY_US}-")
    scores: list[float] = []
    for first in range(0, offers.rows, SIZE):
        rows = offers.take(slice(first, first + SIZE))
        shop.move(project, int(rows["at"].values[0]) - project.clock.now_us())
        values = zip(*(one.to_list() for one in rows.by_name.values()), strict=True)
        asked = [dict(zip(rows.names, row, strict=True)) for row in values]
        scores += [answer.score for answer in project.predict("offers", asked)]
    degree = told["degree"].values.copy()
    if broken:
        degree = 2.0 - degree  # what was wanted is so no more
    degree[:SIZE] = 1.0
    kept = np.arange(told.rows) != SIZE + 2
    shop.move(project, begin_us + DAY_US - project.clock.now_us())
    project.ingestor.load("clicks", told.replace({"degree": column("float", degree.tolist())}).take(kept))
    labels = [float(d) if there else None for d, there in zip(degree, kept, strict=True)]
    pairs = list(zip(scores, labels, strict=True))
    return [pairs[n : n + SIZE] for n in range(0, len(pairs), SIZE)]


def closed_days(project: shop.Project) -> list[DayQuality]:
    """What the loop closes, once more from the logs."""
    model = project.definitions.models["offers"]
    project.history.refresh()
    index = LabelIndex(model.label)
    index.update(project.history.frame("clicks"))
    join = OutcomeJoin(
        IndexedLabels(index),
        wait_us=model.label.wait_us,
        key_dtype="str",
        lists=ListColumn(list(model.request.columns).index("search_id"), len(model.request.columns)),
    )
    days = OpenDays("offers", model.metric, join, closed_until_us=shop.NOW_US, cap=lambda version: 1.0)
    for block in project.predictions.scan():
        days.add(block)
    return day_qualities(days.close(project.clock.now_us()))


def test_days_close_with_the_ndcg_of_whole_lists_and_a_world_that_turned_rings(folder: Path, tmp_path: Path):
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    with shop.opened(again) as project:
        days = [asked_day(project, broken=False) for _ in range(3)]
        shop.move(project, DAY_US)
        project.loop("offers").tick()
        watch = project.loop("offers").monitor.watch
        assert watch is not None
        assert not watch.alarming
        assert watch.last_day_us == shop.NOW_US + 2 * DAY_US
        mine = [day for day in closed_days(project) if day.day_us >= shop.NOW_US][:3]
        for lists, day in zip(days, mine, strict=True):
            whole = [[(s, x) for s, x in one if x is not None] for one in lists if all(x is not None for _, x in one)]
            losses = [loss for loss in map(naive, whole) if loss is not None]
            assert day.labelled == len(losses)
            assert day.loss_sum == pytest.approx(sum(losses))
            assert day.missing >= 1
            assert day.predictions - day.labelled - day.missing >= 1
        for _ in range(5):
            asked_day(project, broken=True)
            project.loop("offers").tick()
        shop.move(project, DAY_US)
        project.loop("offers").tick()
        watch = project.loop("offers").monitor.watch
        assert watch is not None
        assert watch.alarming
        assert watch.onset is not None
        assert watch.onset.at_us <= shop.NOW_US + 4 * DAY_US
        acts = [decision.act for decision in project.ledger()]
        assert "trigger" in acts
