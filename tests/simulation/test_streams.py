"""Generated streams: the same bytes for the same seed, shifts where they are declared, and an optimum nobody beats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trimtab as tt
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.simulation import Stream, never, shift, ungated
from trimtab.simulation.generating.streams import grown, stream_of
from trimtab.simulation.measures import Judged, measures
from trimtab.simulation.replay import Recording, Replay, ReplaySettings
from trimtab.simulation.results import ReplayResult
from trimtab.simulation.scenarios.scenario import Scenario
from trimtab.training import Model

readings = tt.source("readings", time="read_at", delay="1h", columns={"site": str, "level": float})
outcomes = tt.source(
    "outcomes",
    time="closed_at",
    key="visit_id",
    columns={"visit_id": str, "site": str, "bought": bool, "amount": float, "items": int, "ending": str},
)
visit = tt.request(
    "visit",
    key="visit_id",
    time="at",
    columns={"visit_id": str, "search_id": str, "site": str, "at": tt.Time, "x1": float, "x2": float},
)
site = tt.view("site", source=readings, by="site", features={"level": tt.latest("level", max_age="6h")})


def logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=10)


def ridge() -> Any:
    from sklearn.linear_model import Ridge

    return Ridge()


KINDS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "binary": ("log_loss", "bought", {}),
    "late": ("brier", tt.col("amount") >= 30, {}),
    "number": ("squared_error", "amount", {}),
    "absolute": ("absolute_error", "amount", {}),
    "quantile": (tt.pinball(0.8), "amount", {}),
    "count": ("poisson_deviance", "items", {}),
    "classes": ("multi_log_loss", "ending", {"classes": ["no", "yes", "back"]}),
    "ranking": (tt.ndcg_loss(3), "items", {}),
}


def made_model(kind: str = "binary", estimator: Any = logistic) -> Model:
    metric, value, more = KINDS[kind]
    return tt.model(
        "guess",
        request=visit,
        features=[{"x1": tt.col("x1"), "x2": tt.col("x2")}, site],
        label=tt.label(outcomes, key="visit_id", value=value, wait="48h", **more),
        estimator=estimator,
        metric=metric,
        group="search_id" if kind == "ranking" else None,
    )


def rows_of(table: Columns) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_list() for column in table.by_name.values()), strict=True))


def replayed(folder: Path, made: Stream, lines: list[Scenario]) -> ReplayResult:
    with Replay(
        lines,
        Recording(made.tables, [readings, outcomes, visit.source], stream=made),
        folder,
        ReplaySettings(start_us=made.start_us, until_us=made.until_us, seed=1),
    ) as running:
        return running.run()


def labels_of(made: Stream, model: Model) -> np.ndarray:
    """The label of each request, in the order of the truth."""
    from trimtab.core.expressions.by_columns import evaluate_columns

    table = made.tables["outcomes"]
    values = evaluate_columns(model.label.value, table).to_list()
    if model.label.classes:
        values = [model.label.classes.index(one) for one in values]
    by_key = dict(zip(table["visit_id"].to_list(), values, strict=True))
    return np.array([float(by_key.get(key, np.nan)) for key in made.truth.keys.tolist()])


@pytest.mark.fast
@pytest.mark.parametrize("kind", list(KINDS))
def test_nothing_beats_the_best_answers(kind: str) -> None:
    model = made_model(kind)
    made = tt.stream(model, seed=3, history=30, days=60, per_day=200, day_sd=0.0)
    labels, best = labels_of(made, model), made.truth.best
    own = measures(model.metric)[0]
    lists = np.arange(len(labels)) // 5 if kind == "ranking" else None
    least = own.value(Judged(labels, best, lists))
    assert least is not None
    rng = np.random.default_rng(0)
    others = [np.roll(best, 1, axis=0)]
    if kind == "classes":
        others += [0.8 * best + 0.2 / best.shape[1], best**1.6 / (best**1.6).sum(axis=1, keepdims=True)]
    elif kind in ("binary", "late"):
        others += [0.85 * best + 0.03, np.clip(best**1.4, 0, 1), np.full(len(best), np.nanmean(labels))]
    elif kind == "count":
        others += [best * 1.2, best * 0.85, best**0.7]
    else:
        others += [best + 0.4 * rng.normal(size=len(best))]
        others += [] if kind == "ranking" else [best * 0.8 + 0.1, best + 0.2, best - 0.2]  # of the same order
    for other in others:
        value = own.value(Judged(labels, other, lists))
        assert value is not None
        assert value > least


@pytest.mark.fast
def test_the_same_seed_gives_the_same_rows_and_another_seed_others() -> None:
    model = made_model()
    one, again, other = (tt.stream(model, seed=seed, days=20, per_day=50) for seed in (5, 5, 6))
    assert {name: rows_of(t) for name, t in one.tables.items()} == {
        name: rows_of(t) for name, t in again.tables.items()
    }
    assert np.array_equal(one.truth.best, again.truth.best)
    assert rows_of(one.tables["visit"]) != rows_of(other.tables["visit"])


@pytest.mark.fast
@settings(max_examples=40, deadline=None)
@given(st.floats(-5, 30), st.integers(0, 20), st.floats(-10, 60))
def test_a_shift_grows_from_its_day_to_its_full_size(begin: float, over: int, day: float) -> None:
    one = shift("prior", begin, over=f"{over}d" if over else 0)
    found = float(grown(one, np.array([day]))[0])
    if day < begin:
        assert found == 0.0
    elif day >= begin + over:
        assert found == 1.0
    else:
        assert found == pytest.approx((day - begin) / over)


@pytest.mark.fast
def test_each_kind_of_shift_moves_what_it_says() -> None:
    model = made_model()
    plain = {"seed": 2, "history": 20, "days": 40, "per_day": 400, "day_sd": 0.0}

    def after(made: Stream) -> tuple[np.ndarray, np.ndarray, float]:
        later = made.truth.at_us >= made.day_us(20)
        x, labels = made.tables["visit"]["x1"].values[later], labels_of(made, model)[later]
        return x, made.truth.best[later], float(np.nanmean(labels))

    x, best, share = after(tt.stream(model, **plain))  # type: ignore[arg-type]
    assert np.corrcoef(x, best)[0, 1] > 0.5
    turned_x, turned, _ = after(tt.stream(model, shifts=[shift("concept", 20)], **plain))  # type: ignore[arg-type]
    assert np.array_equal(turned_x, x)
    assert np.corrcoef(x, turned)[0, 1] < -0.5
    moved_x, moved, _ = after(tt.stream(model, shifts=[shift("covariate", 20, size=2)], **plain))  # type: ignore[arg-type]
    assert np.allclose(moved_x, x + 2)
    assert moved.mean() > best.mean() + 0.1
    _, _, common = after(tt.stream(model, shifts=[shift("prior", 20, size=1.5)], **plain))  # type: ignore[arg-type]
    assert common > share + 0.1
    gone = tt.stream(model, shifts=[shift("concept", 20, size=0.5)], **plain)  # type: ignore[arg-type]
    assert abs(np.corrcoef(x, after(gone)[1])[0, 1]) < 0.1


@pytest.mark.fast
def test_calendars_delays_and_missing_labels_are_as_declared() -> None:
    model = made_model()
    made = tt.stream(
        model, seed=4, days=56, per_day=300, week=0.5, season=0.4, holidays=[10, 20], delay=("2h", "30h"), missing=0.1
    )
    day = (made.truth.at_us - made.start_us) // DAY_US
    counts = np.bincount(day[day >= 0], minlength=56)
    weekday = (made.start_us // DAY_US + np.arange(56) + 3) % 7
    assert counts[10] == counts[20] == 100
    usual = np.setdiff1d(np.arange(56), [10, 20])
    assert set(counts[usual[weekday[usual] < 5]]) == {300}
    assert set(counts[usual[weekday[usual] >= 5]]) == {240}
    asked = dict(zip(made.truth.keys.tolist(), made.truth.at_us.tolist(), strict=True))
    told = made.tables["outcomes"]
    waits = told["closed_at"].values - np.array([asked[key] for key in told["visit_id"].to_list()])
    assert waits.min() >= 2 * HOUR_US
    assert waits.max() <= 30 * HOUR_US
    assert 0.85 < told.rows / len(asked) < 0.95


@pytest.mark.slow
def test_in_a_replay_only_who_learns_comes_back_to_the_optimum(tmp_path: Path) -> None:
    model = made_model()
    made = tt.stream(model, seed=1, history=30, days=40, per_day=300, shifts=[shift("concept", 8)], day_sd=0.0)
    deployment = tt.deployment(model, gate=tt.beats_champion(calibration=0.2))
    lines = [
        Scenario(name=one.name, deployment=one.rules(deployment), decide=one.decide) for one in (never(), ungated("5d"))
    ]
    result = replayed(tmp_path, made, lines)
    assert result.optimum is not None
    best = result.optimum
    assert len(best.scores) == len(result.lines["never"].scores)
    before = result.lines["never"].at_us < made.day_us(8)

    def above(name: str, rows: np.ndarray) -> float:
        found = [one.measures[0].value(one.rows(rows & one.judged)) for one in (result.lines[name], best)]
        return float(found[0] or 0.0) / float(found[1] or 1.0) - 1.0

    assert above("never", before) < 0.05
    late = best.at_us >= made.day_us(30)
    assert above("never", late) > 0.5
    assert above("ungated 5d", late) < 0.4
    assert above("ungated 5d", late) < above("never", late)


@pytest.mark.fast
def test_what_cannot_be_made_up_is_refused() -> None:
    odd = msgspec.structs.replace(made_model().label, value=tt.col("amount") + 1)
    strange = msgspec.structs.replace(made_model("number"), label=odd)
    with pytest.raises(Misuse, match="Other labels cannot be generated"):
        tt.stream(strange)
    with pytest.raises(Misuse, match="weights of z"):
        tt.stream(made_model(), weights={"z": 1.0})
    with pytest.raises(Misuse, match=r"missing=1.0, needed a number from 0 to below 1"):
        tt.stream(made_model(), missing=1.0)
    with pytest.raises(Misuse, match="column 'site' has no weight"):
        tt.stream(made_model(), shifts=[shift("concept", 3, column="site")])
    with pytest.raises(Misuse, match="prior shift of day 60 begins after the last of 60 days"):
        tt.stream(made_model(), days=60, shifts=[shift("prior", 60)])
    with pytest.raises(Misuse, match="Needed: concept, covariate or prior"):
        shift("other", 3)  # type: ignore[arg-type]
    with pytest.raises(Misuse, match="is none of history="):
        stream_of("speed=3", made_model(), 1)
    for words in ("days", "days=x", "days=3.5", "concept=4+x"):
        with pytest.raises(Misuse, match="needs a number; for history="):
            stream_of(words, made_model(), 1)
    made = stream_of("days=10 history=5 per_day=20 concept=3 prior=4+2 missing=0.2", made_model(), 1)
    assert [(one.kind, one.day, one.over_us) for one in made.shifts] == [("concept", 3, 0), ("prior", 4, 2 * DAY_US)]
    with pytest.raises(Misuse, match="no request has the key"):
        made.truth.best_of(["nobody"])


NAN = float("nan")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"season": NAN}, "season=nan"),
        ({"week": float("inf")}, "week=inf"),
        ({"day_sd": -1.0}, "day_sd=-1.0"),
        ({"day_sd": float("inf")}, "day_sd=inf"),
        ({"weights": {"x": NAN}}, "weights="),
        ({"columns": {"x": (10, 0)}}, "columns="),
        ({"columns": {"x": (10, -1)}}, "columns="),
        ({"columns": {"x": 10}}, "columns="),
        ({"columns": {"xx": (10, 1)}}, "columns: found 'xx', needed a column of floats"),
        ({"columns": {"site": (10, 1)}}, "columns: found 'site', needed a column of floats"),
        ({"seed": None}, "seed=None"),
        ({"seed": "a"}, "seed='a'"),
        ({"seed": -1}, "seed=-1"),
        ({"history": 1.5}, "history=1.5"),
        ({"days": True}, "days=True"),
        ({"per_day": 2.5}, "per_day=2.5"),
        ({"holidays": [NAN]}, r"holidays=\[nan\]"),
        ({"holidays": 3}, "holidays=3"),
        ({"holidays": [999]}, r"holidays=\[999\], needed a list of days from -45 to 119"),
        ({"delay": ("5d",)}, "delay="),
        ({"delay": "5d"}, "delay='5d'"),
        ({"delay": ("5d", "3d")}, "delay="),
        ({"delay": ("5d", "900d")}, "at most the wait for labels"),
        ({"shifts": shift("prior", 3)}, "shifts="),
    ],
)
def test_arguments_of_a_stream_that_make_no_sense_are_refused_by_name(given: dict[str, Any], said: str) -> None:
    with pytest.raises(Misuse, match=said):
        tt.stream(made_model(), **given)


@pytest.mark.fast
def test_shifts_of_no_size_and_words_given_twice_are_refused() -> None:
    for size in (0, NAN, float("inf"), "big"):
        with pytest.raises(Misuse, match="found size="):
            shift("prior", 5, size=size)  # type: ignore[arg-type]
    with pytest.raises(Misuse, match="found day='5'"):
        shift("concept", "5")  # type: ignore[arg-type]
    with pytest.raises(Misuse, match="a prior shift concerns no column"):
        shift("prior", 5, column="x")
    with pytest.raises(Misuse, match="days= is given twice"):
        stream_of("days=30 days=40", made_model(), 1)
    assert len(stream_of("days=9 history=5 per_day=5 concept=2 concept=4", made_model(), 1).shifts) == 2
