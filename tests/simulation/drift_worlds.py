"""Worlds that change on a known day, made by `tt.stream` for each kind of model, and how soon a policy gets over it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

import trimtab as tt
from trimtab.core.time import DAY_US
from trimtab.simulation.faults import Fault
from trimtab.simulation.generating.streams import Shift, shift
from trimtab.simulation.replay import Recording, Replay, ReplaySettings
from trimtab.simulation.results import ReplayResult, ScenarioResult
from trimtab.simulation.scenarios.scenario import Scenario
from trimtab.stats.metrics.lists import unit_losses

Kind = Literal["binary", "regression", "classes", "ranking"]
STRONG, MODERATE = 2 / 3, 0.29  # of a concept shift: a weight of 1.2 becomes -0.4, and 0.5
VISIT = {"visit_id": str, "site": str, "at": tt.Time} | dict.fromkeys(("x1", "x2", "x3"), float)

readings = tt.source("readings", time="read_at", columns={"site": str, "read_at": tt.Time, "level": float})
site = tt.view("site", source=readings, by="site", features={"level": tt.latest("level", max_age="6h")})


def _logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=10)


def _least_squares() -> Any:
    from sklearn.linear_model import LinearRegression

    return LinearRegression()


def _ranker() -> Any:
    from lightgbm import LGBMRanker

    return LGBMRanker(n_estimators=60, num_leaves=15, min_child_samples=80, verbose=-1)


def model(kind: Kind = "binary", *, wait: str = "48h", season: bool = False) -> Any:
    """The model of a kind: three columns of the request, and the newest level of its site.

    With `season` it also has powers of the day of the year, from which a linear model can learn the swing of a year.
    """
    columns = {**VISIT, "shelf": str} if kind == "ranking" else VISIT
    visit = tt.request("visit", key="visit_id", time="at", columns=columns)
    dtype: Any = {"binary": bool, "regression": float, "classes": str, "ranking": float}[kind]
    outcomes = tt.source(
        "outcomes", time="closed_at", key="visit_id", columns={"visit_id": str, "closed_at": tt.Time, "value": dtype}
    )
    more: dict[str, Any] = {"classes": ["low", "middle", "high"]} if kind == "classes" else {}
    label = tt.label(outcomes, key="visit_id", value="value", wait=wait, **more)
    how: dict[Kind, dict[str, Any]] = {
        "binary": {"estimator": _logistic, "metric": "log_loss"},
        "regression": {"estimator": _least_squares, "metric": "squared_error"},
        "classes": {"estimator": _logistic, "metric": "multi_log_loss"},
        "ranking": {"estimator": _ranker, "metric": tt.ndcg_loss(5), "group": "shelf"},
    }
    features = [{name: tt.col(name) for name in ("x1", "x2", "x3")}, site]
    if season:
        turn = (tt.col("at").day_of_year() - 183) / 183
        features.append({f"turn_{power}": turn**power for power in range(1, 7)})
    return tt.model("buyer", request=visit, features=features, label=label, **how[kind])


def line(name: str, made: Any, retrain: Any, **rules: Any) -> Scenario:
    """A policy under the project's rules."""
    return Scenario(name=name, deployment=tt.deployment(made, retrain=retrain, **rules))


class Life(msgspec.Struct, frozen=True):
    """How a policy fared."""

    result: ScenarioResult
    above: NDArray[np.float64]  # by day: its loss as a share above the best
    start_us: int

    def recovered(self, day: int, within: float, *, unknowable: range = range(0)) -> int | None:
        """Days from a change until every later mean of three days is within a share of the best; None: never.

        Days on which no policy can know what the best answer knows, an outage, do not count.
        """
        above = np.delete(self.above, [one for one in unknowable if one < len(self.above)])
        smooth = np.convolve(above, np.ones(3) / 3, "valid")
        well = [one for one in range(day, len(smooth)) if (smooth[one:] <= within).all()]
        return well[0] - day if well else None

    def acts(self, since: float, until: float = 1e9) -> list[str]:
        """What was decided between two days, the days counted from the end of the history."""
        return [d.act for d in self.result.decisions if since <= (d.at_us - self.start_us) / DAY_US < until]

    def answered_by(self, versions: set[str], after: float) -> float:
        """The share of the requests from a day on that some versions answered."""
        here = self.result.at_us >= self.start_us + after * DAY_US
        assert self.result.versions is not None
        return float(np.isin(self.result.versions[here].astype(str), sorted(versions)).mean())


def lived(
    folder: Path,
    lines: Sequence[Scenario],
    seed: int,
    *,
    days: int,
    per_day: int = 2_000,
    shifts: Sequence[Shift] = (),
    faults: Callable[[Callable[[float], int]], Sequence[Fault]] = lambda day_us: (),
    look: Callable[[Replay], object] = lambda replay: None,
    look_every_us: int = DAY_US // 4,
    **how: Any,
) -> tuple[dict[str, Life], ReplayResult]:
    """Let policies live in the same generated world.

    Args:
        folder: For the state.
        lines: The policies.
        seed: Of world and fits.
        days: How many.
        per_day: Requests a day.
        shifts: Changes of the world.
        faults: Gives what goes wrong, from what turns days into times.
        look: Given the replay when it is over.
        look_every_us: Time between two checks of the inputs, which take a third of the time of a small world.
        how: More of `tt.stream`.
    """
    made = lines[0].deployment.model
    world = tt.stream(made, seed=seed, days=days, per_day=per_day, shifts=shifts, **how)
    with Replay(
        [msgspec.structs.replace(one, main=place == 0) for place, one in enumerate(lines)],
        Recording(
            world.tables, [readings, made.label.source, made.request.source], stream=world, faults=faults(world.day_us)
        ),
        folder,
        ReplaySettings(start_us=world.start_us, until_us=world.until_us, seed=seed, look_every_us=look_every_us),
    ) as running:
        result = running.run()
        look(running)
    assert result.optimum is not None
    judged = days - 2 - (made.label.wait_us + DAY_US - 1) // DAY_US  # of the last ones not all labels are there
    best = daily(result.optimum, world.start_us, judged)
    found = {
        name: Life(one, daily(one, world.start_us, judged) / best - 1.0, world.start_us)
        for name, one in result.lines.items()
    }
    return found, result


def daily(line: ScenarioResult, start_us: int, days: int) -> NDArray[np.float64]:
    """The mean loss of each day by the labels; shape (days,)."""
    known = ~np.isnan(line.labels)
    lists = None if line.lists is None else line.lists[known]
    losses, rows = unit_losses(line.metric, line.labels[known], line.scores[known], lists)
    day = (line.at_us[known][rows] - start_us) // DAY_US
    here = day < days
    counts = np.bincount(day[here], minlength=days)
    return np.asarray(np.bincount(day[here], losses[here], minlength=days) / counts)


def strong(day: float = 40) -> list[Shift]:
    """A first column that turns round on a day."""
    return [shift("concept", day, size=STRONG)]


def moderate(day: float = 40) -> list[Shift]:
    """A first column whose weight is halved on a day: the loss rises by some 8 %."""
    return [shift("concept", day, size=MODERATE)]
