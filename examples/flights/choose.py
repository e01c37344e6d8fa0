"""Chooses the estimators of this project on January and February 2013 alone: `python examples/flights/choose.py`.

No event after 28 February (New York) is handed to the product, which computes each flight's features as of its own
time. The rules were set before anything was computed:

- Trees: each setting is fitted on what was known on 1 and on 14 February and judged on the two weeks after each, as far
  as labels are final by 1 March. The least mean log loss over both folds and both feature sets is taken, since one
  estimator serves both models.
- Linear model: February is replayed, hour by hour on true label delays. The rate of the least log loss is taken.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from load import load

import trimtab as tt
from trimtab.app.state.definitions import Definitions, load_definitions
from trimtab.app.training.loops import Loops
from trimtab.core.clock import VirtualClock
from trimtab.core.columns import Columns
from trimtab.core.time import DAY_US, parse_time_us
from trimtab.events import read_file
from trimtab.report import text_table
from trimtab.simulation.replay import Recording, Replay, ReplaySettings
from trimtab.simulation.scenarios.scenario import Scenario
from trimtab.stats import log_loss
from trimtab.steering.causes import Triggers
from trimtab.training import Model, TrainingSet, fit
from trimtab.training.fitting.folds import known_before
from trimtab.training.fitting.score_checks import fitted_values

HERE = Path(__file__).parent
END_US = parse_time_us("2013-03-01T05:00:00Z")  # midnight in New York; nothing later is read
FOLDS_US = tuple(parse_time_us(f"2013-02-{day}T05:00:00Z") for day in ("01", "14"))
JUDGED_US = 14 * DAY_US
MODELS = ("late_flight_plain", "late_flight")  # "v1" and "v2"
GRID = [
    {"num_leaves": leaves, "learning_rate": rate, "n_estimators": trees}
    for leaves, rate, trees in product((7, 15, 31), (0.05, 0.1), (50, 100, 200))
]
RATES = (0.0003, 0.001, 0.003, 0.01)  # of the linear model, `eta0`


def main() -> None:
    project = load_definitions(HERE / "project.py")
    with tempfile.TemporaryDirectory() as folder:
        tables = recorded(project, Path(folder))
        sets = training_sets(project, tables, Path(folder, "state"))
        show_trees([(setting, [*losses_of(project, sets, setting)]) for setting in GRID])
        show_rates(losses_of_rates(project, tables, Path(folder, "replay")))


def recorded(project: Definitions, folder: Path) -> dict[str, Columns]:
    """The events of each source before `END_US`; landings without a time are left out."""
    files, found = load(folder), {}
    for name, source in project.sources.items():
        table = read_file(files[name], source).columns
        at = table[source.time]
        found[name] = table.take(np.flatnonzero(at.present() & (at.values < END_US)))
    return found


def training_sets(project: Definitions, tables: dict[str, Columns], state: Path) -> dict[str, TrainingSet]:
    """The training set of each model as of `END_US`."""
    with tt.open(HERE, clock=VirtualClock(END_US), state=state, environment={}) as opened:
        for name, table in tables.items():
            opened.ingest(name, table)
        return {
            name: opened.part(Loops).living_data().training_set(opened.definitions.models[name], cut_us=END_US)
            for name in MODELS
        }


def losses_of(project: Definitions, sets: dict[str, TrainingSet], setting: dict[str, Any]) -> Iterator[float]:
    """The mean log loss of a setting for each model and fold."""
    for name, rows in sets.items():
        model = changed(project.models[name], setting)
        for start_us in FOLDS_US:
            fitted = fit(model, rows, rows=known_before(rows, start_us))
            judged = rows.take(rows.usable & (rows.at_us >= start_us) & (rows.at_us < start_us + JUDGED_US))
            yield log_loss(judged.target, fitted_values(fitted, judged.features.values))


def losses_of_rates(project: Definitions, tables: dict[str, Columns], folder: Path) -> list[tuple[float, float]]:
    """The mean log loss over February of the linear model, for each rate of learning."""
    usual = msgspec.structs.replace(
        project.deployments["late_flight_online"],
        retrain=Triggers(),
        gate=tt.beats_champion(baselines=[], calibration=1.0),  # each rate begins, however bad its first version
    )
    lines = [
        Scenario(
            name=str(rate),
            deployment=msgspec.structs.replace(usual, model=changed(usual.model, {"eta0": rate})),
        )
        for rate in RATES
    ]
    sources = list(project.sources.values())
    with Replay(
        lines, Recording(tables, sources), folder, ReplaySettings(start_us=FOLDS_US[0], until_us=END_US, seed=1)
    ) as replay:
        found = replay.run().lines
    judged = {rate: (found[str(rate)], found[str(rate)].judged) for rate in RATES}
    return [(rate, log_loss(line.labels[rows], line.scores[rows])) for rate, (line, rows) in judged.items()]


def changed(model: Model, setting: dict[str, Any]) -> Model:
    """The model with other parameters of its estimator."""
    usual: Callable[[], Any] = model.estimator
    return msgspec.structs.replace(model, estimator=lambda: usual().set_params(**setting))


def show_trees(found: list[tuple[dict[str, Any], list[float]]]) -> None:
    """A line for each setting, the best first."""
    found = sorted(found, key=lambda one: float(np.mean(one[1])))
    titles = ["leaves", "rate", "trees", "v1 1 Feb", "v1 14 Feb", "v2 1 Feb", "v2 14 Feb", "v1", "v2", "mean"]
    rows = []
    for setting, losses in found:
        means = [np.mean(losses[:2]), np.mean(losses[2:]), np.mean(losses)]
        rows.append([*map(str, setting.values()), *(f"{loss:.4f}" for loss in (*losses, *means))])
    print("\n".join([text_table(titles, rows), "", f"chosen: {found[0][0]}", ""]))


def show_rates(found: list[tuple[float, float]]) -> None:
    """A line for each rate."""
    print(text_table(["eta0", "February"], [[str(rate), f"{loss:.4f}"] for rate, loss in found]))
    print(f"\nchosen: eta0={min(found, key=lambda one: one[1])[0]}")


if __name__ == "__main__":
    main()
