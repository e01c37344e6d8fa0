"""A first version is found although the world changed within the history."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import trimtab as tt
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.time import DAY_US, HOUR_US

_END_US = 20_000 * DAY_US
_DAYS, _PER_DAY, _CHANGED = 240, 40, 60
_PROJECT = """
import trimtab as tt
from sklearn.linear_model import LogisticRegression

sales = tt.source("sales", time="closed_at", key="id", columns={"id": str, "closed_at": tt.Time, "bought": bool})
visit = tt.request("visit", key="id", time="at", columns={"id": str, "at": tt.Time, "x": float})
model = tt.model("buyer", request=visit, features=[{"x": tt.col("x")}],
    label=tt.label(sales, key="id", value="bought", wait="1d"), estimator=LogisticRegression, metric="log_loss")
tt.deployment(model)
"""


def trained(folder: Path, *, changes: bool) -> tuple[list[str], int | None, str]:
    """Return the acts of a first training, the half-life of the version, and the gate's reason."""
    folder.mkdir()
    (folder / "project.py").write_text(_PROJECT)
    (folder / "trimtab.toml").write_text("")
    rng, rows = np.random.default_rng(4), _DAYS * _PER_DAY
    at_us = _END_US - np.sort(rng.integers(DAY_US, _DAYS * DAY_US, rows))[::-1]
    x = rng.normal(size=rows)
    sign = np.where((at_us >= _END_US - _CHANGED * DAY_US) & changes, -2.0, 2.0)
    bought = rng.random(rows) < 1 / (1 + np.exp(-sign * x))
    ids = [f"v{n}" for n in range(rows)]
    with tt.open(folder, clock=VirtualClock(_END_US), environment={}) as project:
        visits = {"id": ("str", ids), "at": ("time", at_us.tolist()), "x": ("float", x.tolist())}
        sales = {"id": ("str", ids), "bought": ("bool", bought.tolist())}
        project.ingest("visit", Columns.of(visits))  # type: ignore[arg-type]  # dtypes are literals
        closed = {"closed_at": ("time", (at_us + HOUR_US).tolist())}
        project.ingest("sales", Columns.of(sales | closed))  # type: ignore[arg-type]
        acts = [one.act for one in project.train()]
        version = project.registry.versions("buyer")[0]
        return acts, version.half_life_us, project.registry.gates_of(version)[0].reason


def test_a_first_version_forgets_a_world_that_has_changed(tmp_path: Path) -> None:
    acts, half_life_us, reason = trained(tmp_path / "changed", changes=True)
    assert acts[-1] == "promote", reason
    assert half_life_us in (7 * DAY_US, 14 * DAY_US, 28 * DAY_US)


def test_in_a_steady_world_no_row_of_a_first_version_is_forgotten(tmp_path: Path) -> None:
    assert trained(tmp_path / "steady", changes=False)[:2] == (["train", "gate", "promote"], None)
