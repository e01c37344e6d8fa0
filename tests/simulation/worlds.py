"""A small world made up by a seed: visits to a few sites, what sensors there read, and who bought something.

Whether a visitor buys depends on the visit's own `x`, on the site's newest reading and on its rate of the last days;
from a planted day on the effect of `x` turns round. Readings come on the hour and are known an hour later; sales are
known as soon as they close, some of them after the label's wait. Many visits, readings and sales share an instant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import trimtab as tt
from trimtab import store
from trimtab.core.columns.data import Columns
from trimtab.core.records import Prediction
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US, parse_time_us
from trimtab.events.columns.history import History
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.simulation.replay import Progress, Recording, Replay, ReplaySettings
from trimtab.simulation.results import ReplayResult
from trimtab.simulation.scenarios.scenario import Scenario
from trimtab.steering.causes import Triggers
from trimtab.steering.definitions import Deployment
from trimtab.training.data.sets import Manifest, TrainingSet, build_training_set, load_manifest

ORIGIN_US = parse_time_us("2020-01-01T00:00:00Z")
HISTORY_DAYS = 30
SITES = [f"site{n}" for n in range(5)]

readings = tt.source("readings", time="read_at", delay="1h", columns={"site": str, "level": float})
sales = tt.source(
    "sales", time="closed_at", key="visit_id", columns={"visit_id": str, "site": str, "bought": bool, "amount": float}
)
VISIT = {"visit_id": str, "site": str, "at": tt.Time, "x": float}
visit = tt.request("visit", key="visit_id", time="at", columns=VISIT)

site = tt.view(
    "site",
    source=readings,
    by="site",
    features={"level": tt.latest("level", max_age="9h"), "level_1d": tt.mean("level", over="1d")},
)
past = tt.view(
    "past",
    source=sales,
    by="site",
    features={
        "rate_7d": tt.mean("bought", over="7d"),
        "sales_1d": tt.count(over="1d"),
        "best_6h": tt.max("amount", over="6h"),
    },
)
FEATURES = [{"x": tt.col("x"), "hour": tt.col("at").hour(tz="UTC")}, site, past]
SOURCES = [readings, sales, visit.source]


def logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression()


def trees() -> Any:
    """A model that answers one row and a batch with the same bits."""
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=10, num_leaves=7)


def stream() -> Any:
    from sklearn.linear_model import SGDClassifier

    return SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.01)


def deployed(
    estimator: Callable[[], Any] = logistic, request: tt.Request = visit, wait: str = "2d", **rules: Any
) -> Deployment:
    """The model of this world, in service under `rules`."""
    model = tt.model(
        "buyer",
        request=request,
        features=FEATURES,
        label=tt.label(sales, key="visit_id", value="bought", wait=wait),
        estimator=estimator,
        metric="log_loss",
    )
    return tt.deployment(model, **rules)


def policy(**rules: Any) -> Scenario:
    """A line that retrains when the alarm rings."""
    return Scenario(name="policy", deployment=deployed(retrain=tt.on_quality_drop(), **rules))


def never(name: str = "never", **rules: Any) -> Scenario:
    return Scenario(name=name, deployment=msgspec.structs.replace(deployed(**rules), retrain=Triggers()))


def day_us(day: float) -> int:
    """The first moment of a day; day 0 is the first day after the history."""
    return ORIGIN_US + round((HISTORY_DAYS + day) * DAY_US)


def make(
    seed: int = 0, *, days: int, per_day: int = 100, drift_day: float | None = None, flip: float = -1.0
) -> dict[str, Columns]:
    """Tables by source for the history and `days` more."""
    chance = np.random.default_rng(seed)
    spans = HISTORY_DAYS + days
    levels = _levels(chance, spans * 8)
    count = spans * per_day
    minutes = np.sort(chance.integers(0, spans * 24 * 60, count))
    minutes[::5] = minutes[::5] // 60 * 60  # on the hour, like the readings
    minutes.sort()
    at_us = ORIGIN_US + minutes * MINUTE_US
    place = chance.integers(0, len(SITES), count)
    x = chance.normal(size=count)
    effect = np.ones(count)
    if drift_day is not None:
        effect[at_us >= day_us(drift_day)] = flip
    signal = -0.6 + 1.5 * effect * x + 0.8 * levels[minutes // 180, place]
    bought = chance.random(count) < 1 / (1 + np.exp(-signal))
    after = np.minimum(chance.exponential(9 * 60, count), 4 * 24 * 60).astype(np.int64)  # 0.5 % after the wait of 2 d
    closed = chance.random(count) < 0.97  # the others are never known
    ids = [f"v{n:06d}" for n in range(count)]
    sites = [SITES[n] for n in place]
    times = np.repeat(np.arange(spans * 8), len(SITES)) * 3 * HOUR_US + ORIGIN_US
    level = np.where(chance.random(levels.size) < 0.03, np.nan, levels.reshape(-1))
    order = np.flatnonzero(closed)
    return {
        "readings": Columns.of(
            {
                "site": ("str", SITES * (spans * 8)),
                "level": ("float", level.tolist()),
                "read_at": ("time", times.tolist()),
            }
        ),
        "sales": Columns.of(
            {
                "visit_id": ("str", [ids[n] for n in order]),
                "site": ("str", [sites[n] for n in order]),
                "bought": ("bool", bought[order].tolist()),
                "amount": ("float", chance.lognormal(size=len(order)).tolist()),
                "closed_at": ("time", (at_us + after * MINUTE_US)[order].tolist()),
            }
        ),
        "visit": Columns.of(
            {
                "visit_id": ("str", ids),
                "site": ("str", sites),
                "at": ("time", at_us.tolist()),
                "x": ("float", x.tolist()),
            }
        ),
    }


def replay(
    folder: Path,
    tables: Mapping[str, Columns],
    lines: Sequence[Scenario],
    *,
    days: float,
    seed: int = 1,
    sampled_rows: int = 0,
    look_every_us: int = DAY_US,
    progress: Callable[[Progress], None] | None = None,
) -> ReplayResult:
    """Replay `days` after the history; the first line is the main one.

    Inputs are checked once a day, because more checks take a third of the time; `test_watched_inputs` has them hourly.
    """
    sources = [readings, sales, lines[0].deployment.model.request.source]
    with Replay(
        [msgspec.structs.replace(line, main=number == 0) for number, line in enumerate(lines)],
        Recording(tables, sources),
        folder,
        ReplaySettings(
            start_us=day_us(0), until_us=day_us(days), seed=seed, sampled_rows=sampled_rows, look_every_us=look_every_us
        ),
        progress=progress,
    ) as running:
        return running.run()


def home(folder: Path, number: int) -> Path:
    """Where the state of line `number` is."""
    return folder if number == 0 else folder / "replay" / f"{number:02d}"


def predictions(folder: Path, number: int = 0) -> list[Prediction]:
    """The prediction log of a line, read back."""
    log = PredictionLog(store.open(f"sqlite://{home(folder, number)}/log/predictions", "log"))
    try:
        return [prediction for block in log.scan() for prediction in block]
    finally:
        log.close()


def ledger(folder: Path, number: int = 0) -> list[bytes]:
    """The bodies of a line's ledger rows as they are stored."""
    with store.open(f"sqlite://{home(folder, number)}/catalog.db", "catalog") as catalog:
        return [entry.body for entry in catalog.journal("ledger")]


def manifests(folder: Path, line: Scenario, number: int = 0) -> list[Manifest]:
    """What the sets that a line's versions were fitted on were made of, by their cut."""
    with store.open(f"sqlite://{home(folder, number)}/catalog.db", "catalog") as catalog:
        addresses = {msgspec.json.decode(r.body)["training_set"] for r in catalog.find("version")}
    with store.open(f"file://{folder}/blob", "blob") as blob:
        return sorted((load_manifest(address, blob) for address in addresses), key=lambda m: m.cut_us)


def rebuilt(folder: Path, line: Scenario, like: Manifest) -> TrainingSet:
    """A training set built anew from the event log alone, at the positions and the cut of a manifest."""
    model = line.deployment.model
    log = store.open(f"sqlite://{folder}/log/events", "log")
    try:
        history = History(log, [readings, sales, model.request.source], upto=like.positions)
        history.refresh()
    finally:
        log.close()
    frames = {name: history.frame(name) for name in ("readings", "sales", model.request.name)}
    asked = frames.pop(model.request.name).columns
    order = np.lexsort((asked[model.request.key].values.astype(str), asked[model.request.time].values))
    left_out = [msgspec.structs.replace(one, rows=0) for one in like.left_out or ()]  # they are counted anew
    return build_training_set(
        model, asked.take(order), frames, cut_us=like.cut_us, positions=history.positions, left_out=left_out
    )


def _levels(chance: np.random.Generator, steps: int) -> np.ndarray:
    """A slowly wandering level for each site, by step of three hours."""
    shocks = chance.normal(size=(steps, len(SITES)))
    levels = np.zeros((steps, len(SITES)))
    for n in range(1, steps):
        levels[n] = 0.9 * levels[n - 1] + 0.4 * shocks[n]
    return levels
