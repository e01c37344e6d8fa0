"""Trees and a linear model, compared on the newest rows of the file before the project is written."""

from __future__ import annotations

import datetime as dt
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trimtab as tt
from trimtab.app.start.init.estimators import file_training_set
from trimtab.app.start.init.options import Options
from trimtab.app.start.init.scaffold import Scaffolded, scaffold
from trimtab.app.state.definitions import load_definitions
from trimtab.training.data.sets import load_training_set

BEGIN = dt.date(2024, 1, 1)


def written(path: Path, rows: list[list[object]], header: str) -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def made(file: Path, **options: Any) -> Scaffolded:
    return scaffold(file, file.parent / f"made_{file.stem}", Options(**options))


def said(found: Scaffolded) -> str:
    return next((one.said for one in found.assumed if one.role == "estimator"), "")


def world(path: Path, bent: bool, rows: int = 600) -> Path:
    rng = random.Random(5)
    lines: list[list[object]] = []
    for row in range(rows):
        x, z = rng.gauss(0, 1), rng.gauss(0, 1)
        y = (4 * math.sin(3 * x) * z if bent else 2 * x - z) + rng.gauss(0, 0.3)
        lines.append([f"k{row}", BEGIN + dt.timedelta(row // 8), f"{x:.4f}", f"{z:.4f}", f"{y:.4f}"])
    return written(path, lines, "id,day,x,z,y")


def test_the_linear_model_is_taken_where_it_wins_and_trees_where_they_do(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    line, bend = (
        made(world(tmp_path / "line.csv", False), label="y"),
        made(world(tmp_path / "bend.csv", True), label="y"),
    )
    for found, first, second, estimator in (
        (line, "a linear model", "trees", "Ridge"),
        (bend, "trees", "a linear model", "LGBMRegressor"),
    ):
        assert said(found).startswith(f"{first}, because squared_error on the newest ")
        assert f"; for {second} it is " in said(found)
        mine, other = (float(part.split()[-1]) for part in said(found).replace(",", "").split(";"))
        assert mine < other
        assert estimator in (found.folder / "project.py").read_text()
    assert 0.05 < float(said(line).split(" is ")[1].split(";")[0]) < 0.2  # the noise has a variance of 0.09


def test_nothing_is_compared_that_the_caller_decided_or_that_has_too_few_rows(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    assert said(made(world(tmp_path / "a.csv", False), label="y", estimator="trees")) == ""
    few = made(world(tmp_path / "b.csv", False, rows=90), label="y")
    assert "trees; they were not compared with a linear model, because" in said(few)
    assert "LGBMRegressor" in (few.folder / "project.py").read_text()


def test_a_baseline_that_no_model_beats_is_named_with_both_figures(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    rng, level, rows = random.Random(2), [0.0] * 3, []
    for day in range(250):
        for shop in range(3):
            level[shop] += rng.gauss(0, 1)
            rows.append([BEGIN + dt.timedelta(day), f"s{shop}", f"{level[shop] + 100 * shop:.3f}"])
    found = made(written(tmp_path / "walk.csv", rows, "day,shop,price"))
    (note,) = [note for note in found.notes if "baseline" in note]
    assert "the baseline last_value (by shop) is " in note
    numbers = [float(part.split()[0].rstrip(",.")) for part in note.split(" is ")[1:] + note.split("not above ")[1:]
               if part[0].isdigit()]  # fmt: skip
    assert numbers[0] <= numbers[-1]


@pytest.mark.parametrize("kind", ["panel", "known_at"])
def test_what_is_compared_on_is_what_the_project_trains_on(tmp_path: Path, kind: str) -> None:
    rng, rows = random.Random(4), []
    for day in range(100):
        for shop in range(4):
            at = BEGIN + dt.timedelta(day)
            known = "" if day % 11 == 0 else at + dt.timedelta(1 + rng.randrange(3))
            value = "" if day % 11 == 0 else f"{10 * shop + rng.gauss(0, 1):.3f}"
            rows.append([at, f"s{shop}", f"{rng.random():.3f}", known, value] if kind == "known_at" else
                        [at, f"s{shop}", f"{10 * shop + day % 7 + rng.gauss(0, 1):.3f}"])  # fmt: skip
    rows.append(rows[5])  # a row that is there twice
    header = "day,shop,load,known_at,y" if kind == "known_at" else "day,shop,y"
    file = written(tmp_path / "data.csv", rows, header)
    options = {"time": "day"} if kind == "known_at" else {"horizon": "3d"}
    found = made(file, label="y", key="shop", estimator="linear", **options)
    now_us = int(dt.datetime(2025, 1, 1, tzinfo=dt.UTC).timestamp()) * 1_000_000
    with tt.open(found.folder) as project:
        for source in ("data", "data_labels"):
            project.ingest(source, file)
        project.train()
        (digest,) = {one.training_set for one in project.registry.versions("y")}
        theirs = load_training_set(digest, project.state.blob, key="row_id")
    model = load_definitions(found.folder / "project.py").models["y"]
    mine = file_training_set(file, model, now_us)
    places = {key: place for place, key in enumerate(theirs.keys.to_list())}
    where = np.array([places[key] for key in mine.keys.to_list()])
    assert mine.rows == theirs.rows > 350
    assert mine.at_us.tolist() == theirs.at_us[where].tolist()
    for name in model.features.names:
        assert mine.features.values[name].to_list() == pytest.approx(theirs.features.values[name].take(where).to_list())
    both = mine.usable & theirs.usable[where]
    assert both.sum() > 250
    assert mine.target[both].tolist() == theirs.target[where][both].tolist()
    assert not (mine.usable & ~theirs.usable[where]).any()
