"""The estimators of the flights example are chosen by what was known before the months that are reported."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from trimtab.app.state.definitions import Definitions, load_definitions
from trimtab.core.config import load_config
from trimtab.core.time import DAY_US, parse_time_us
from trimtab.training.fitting.folds import known_before

FLIGHTS = Path(__file__).parents[2] / "examples" / "flights"


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FLIGHTS)
    spec = importlib.util.spec_from_file_location("flights_choose", FLIGHTS / "choose.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project() -> Definitions:
    return load_definitions(FLIGHTS / "project.py")


def test_what_is_declared_is_among_what_was_compared(choose: ModuleType, project: Definitions) -> None:
    trees = project.models["late_flight"].new_estimator().get_params()
    assert {name: trees[name] for name in choose.GRID[0]} in choose.GRID
    assert project.models["late_flight_plain"].new_estimator().get_params() == trees
    assert project.models["late_flight_online"].new_estimator().eta0 in choose.RATES


@pytest.mark.slow
def test_nothing_from_the_reported_months_is_seen(
    choose: ModuleType, project: Definitions, package: Path, tmp_path: Path
) -> None:
    demo = load_config(FLIGHTS, {}).demo
    assert demo is not None
    assert parse_time_us(demo.start) == choose.END_US
    tables = choose.recorded(project, tmp_path)
    for name, source in project.sources.items():
        assert tables[name][source.time].values.max() < choose.END_US
    sets = choose.training_sets(project, tables, tmp_path / "state")
    assert sets.keys() == {"late_flight_plain", "late_flight"}
    for rows in sets.values():
        assert rows.rows == tables["flight"].rows > 50_000
        labelled = ~np.isnan(rows.target)
        assert rows.label_known_at_us[labelled].max() < choose.END_US
        for start_us in choose.FOLDS_US:
            learnt = known_before(rows, start_us)
            assert learnt.sum() > 20_000
            assert rows.at_us[learnt].max() <= start_us - 2 * DAY_US
            assert rows.label_known_at_us[learnt].max() <= start_us
