"""What files of strangers need besides: corrections in a series, numbers of rows, leaks, labels that move."""

from __future__ import annotations

import datetime as dt
import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest

import forked
from trimtab.app.start.init.options import Options
from trimtab.app.start.init.scaffold import Scaffolded, scaffold
from trimtab.app.state.definitions import load_definitions
from trimtab.core.errors import Misuse, NotFound

BEGIN = dt.date(2024, 1, 1)


def written(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def made(file: Path, **options: Any) -> Scaffolded:
    return scaffold(file, file.parent / "made", Options(estimator="linear", **options))


def births(path: Path, corrected: int) -> Path:
    """Three states by day, of which some days come again, and a number for each row of the file."""
    chance = random.Random(2)
    rows = [
        f"{BEGIN + dt.timedelta(days=d)},{s},{chance.randrange(90)}" for d in range(100) for s in ("AK", "AL", "AR")
    ]
    rows += [f"{BEGIN + dt.timedelta(days=d)},AK,{100 + d}" for d in range(corrected)]
    return written(path, "rownames,date,state,births", [f"{n},{row}" for n, row in enumerate(rows, start=7)])


def test_a_number_of_the_rows_is_no_key_where_there_is_a_series(tmp_path: Path) -> None:
    plain = births(tmp_path / "p.csv", 0)
    found = made(plain, label="births")
    assert found.assumed[2].said.startswith("'births' has")
    request = load_definitions(found.folder / "project.py").requests["p"]
    assert request.source.reading.key_of == ("state", "date")


def test_a_few_rows_of_a_series_are_corrections_once_the_caller_says_so(tmp_path: Path) -> None:
    file = births(tmp_path / "p.csv", 9)
    again = r"9 rows .* differ otherwise: lines 2 and 302;.* say so: --key state,date"
    with pytest.raises(Misuse, match=again):
        made(file, label="births")
    found = made(file, label="births", key="state,date")
    said = "corrections: 9 rows correct a row with the same state and date; the last one counts"
    assert any(one.text.startswith(said) for one in found.assumed)
    many = births(tmp_path / "m.csv", 40)
    with pytest.raises(Misuse, match="40 rows have the same values there as another row"):
        made(many, label="births", key="state,date")


def shop(path: Path, moves: bool = True, a_day: int = 20) -> Path:
    """Orders whose `code` gives the label away. They are returned more often in every second month, or if dear."""
    chance = random.Random(3)
    rows = []
    for n in range(150 * a_day):
        day = n // a_day
        amount = chance.random()
        returned = chance.random() < (0.2 if (day // 30 % 2 if moves else amount < 0.5) else 0.6)
        code, said = ("R", "yes") if returned else ("K", "no")
        rows.append(f"o{n},{BEGIN + dt.timedelta(days=day)},{amount:.3f},{code},{said}")
    return written(path, "order_id,date,amount,code,returned", rows)


def test_columns_are_left_out_or_allowed_by_option(tmp_path: Path) -> None:
    file = shop(tmp_path / "orders.csv")
    found = made(file, label="returned", omit=("code",))
    assert found.left_out["code"] == "was named by --omit"
    model = load_definitions(found.folder / "project.py").models["returned"]
    assert "code" not in model.features.names
    allowed = scaffold(file, tmp_path / "allowed", Options(label="returned", allow_leakage=("code",)))
    assert load_definitions(allowed.folder / "project.py").models["returned"].allow_leakage == ("code",)
    with pytest.raises(NotFound, match="--omit"):
        scaffold(file, tmp_path / "none", Options(label="returned", omit=("colour",)))


def test_a_label_whose_mean_moves_widens_the_calibration_that_the_gate_allows(tmp_path: Path) -> None:
    file = shop(tmp_path / "orders.csv")
    found = made(file, label="returned", omit=("code",))
    gate = load_definitions(found.folder / "project.py").deployments["returned"].gate
    assert gate.calibration == 0.1
    assert any("The mean of 'returned' changes" in note for note in found.notes)


@pytest.mark.parametrize(("options", "status"), [(["--omit", "code"], 0), ([], 1)])
def test_run_goes_from_a_file_to_a_closed_loop_or_stops_with_the_reason(
    tmp_path: Path, options: list[str], status: int
) -> None:
    file = shop(tmp_path / "orders.csv", moves=False, a_day=8)
    command = [
        sys.executable,
        "-m",
        "trimtab.cli",
        "init",
        str(file),
        "--estimator",
        "linear",
        "--label",
        "returned",
        "--run",
        *options,
    ]
    done = forked.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"})
    assert done.returncode == status, done.stdout + done.stderr
    if status:
        assert "Stopped: `trimtab train` ended with status 2" in done.stdout
        assert "allow_leakage" in done.stderr
        return
    for part in ("1,200 rows taken", "promote", "1,200 rows answered", "$ trimtab tick", "trimtab simulate"):
        assert part in done.stdout
