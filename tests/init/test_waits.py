"""Waits that a file shows, and first models that are judged only where the wait is over."""

from __future__ import annotations

import datetime as dt
import random
import re
from pathlib import Path

import pytest
from messy import START as BEGIN
from messy import churn_known_early_where_yes, us

import trimtab as tt
from trimtab.app.start.init.options import Options
from trimtab.app.start.init.scaffold import scaffold
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, format_time

DAYS = 200


def write(path: Path, labels: list[str], extra: str = "", per_day: int = 10) -> Path:
    rng = random.Random(1)
    lines = [
        f"k{row},{format_time(us(BEGIN) + row * DAY_US // per_day)},{rng.random():.3f},{label}"
        for row, label in enumerate(labels)
    ]
    path.write_text("\n".join(["id,at,x,y", *lines, *([extra] if extra else [])]) + "\n")
    return path


def wait_of(path: Path, **options: str) -> str:
    made = scaffold(path, path.parent / "made", Options(label="y", **options))
    return next((one.said.split()[3] for one in made.assumed if one.role == "wait"), "")


@pytest.mark.parametrize("wait", [2, 7, 30, 90])
def test_a_constant_wait_is_found_to_the_day(tmp_path: Path, wait: int) -> None:
    rng = random.Random(wait)
    labels = [rng.choice("01") if row < (DAYS - wait) * 10 else "" for row in range(DAYS * 10)]
    assert wait_of(write(tmp_path / "a.csv", labels)) == f"{wait}d"


@pytest.mark.parametrize("state", ["new", "{}"])
def test_a_state_of_newer_rows_is_asked_about_and_then_read_as_no_label(tmp_path: Path, state: str) -> None:
    """Tickets that are open have no outcome yet, and no time at which they were closed."""
    rng = random.Random(2)
    lines = ["id,at,x,y,finished"]
    for row in range(DAYS * 10):
        at = us(BEGIN) + row * DAY_US // 10
        done = at + rng.randrange(1, 8 * DAY_US)
        known = done < us(BEGIN) + DAYS * DAY_US
        outcome = rng.choice(["solved", "escalated"]) if known else state
        lines.append(f"k{row},{format_time(at)},{rng.random():.3f},{outcome},{format_time(done) if known else ''}")
    file = tmp_path / "a.csv"
    file.write_text("\n".join(lines) + "\n")
    said = rf"'{re.escape(state)}' stands .* newer rows only, and in exactly those without 'finished'"
    with pytest.raises(Misuse, match=said):
        wait_of(file, time="at")
    assert wait_of(file, time="at", nulls=state) == "8d"


@pytest.mark.parametrize(("state", "asks"), [("pending", True), ("model 3", False)])
def test_a_new_class_is_asked_about_only_if_it_reads_like_a_state(tmp_path: Path, state: str, asks: bool) -> None:
    rng = random.Random(5)
    labels = [rng.choice(["a", "b"]) for _ in range(DAYS * 9)] + [rng.choice(["a", state]) for _ in range(DAYS)]
    file = write(tmp_path / "a.csv", labels)
    if asks:
        with pytest.raises(Misuse, match="--nulls=pending"):
            wait_of(file)
    assert wait_of(file, **({"known_at": "none"} if asks else {})) == "1d"


def test_labels_that_lack_at_random_show_no_wait(tmp_path: Path) -> None:
    rng = random.Random(3)
    labels = [rng.choice("01") if rng.random() < 0.7 else "" for _ in range(DAYS * 10)]
    assert wait_of(write(tmp_path / "a.csv", labels)) == "1d"


@pytest.mark.parametrize(("months", "wait"), [(1, "31d"), (2, "61d")])
def test_the_wait_of_snapshots_ends_at_the_newest_one_that_has_its_labels(
    tmp_path: Path, months: int, wait: str
) -> None:
    rng = random.Random(9)
    dates = [dt.date(2022 + month // 12, month % 12 + 1, 1) for month in range(30)]  # the newest: 2024-06-01
    lines = [
        f"{date},C{who},{rng.random():.3f},{int(rng.random() < 0.3) if date in dates[:-months] else ''}"
        for date in dates
        for who in range(40)
    ]
    file = tmp_path / "a.csv"
    file.write_text("\n".join(["month,customer,x,y", *lines]) + "\n")
    assert wait_of(file, key="customer") == wait


def test_an_old_gap_in_the_labels_is_no_wait(tmp_path: Path) -> None:
    rng = random.Random(4)
    labels = [rng.choice("01") if not 300 <= row < 500 else "" for row in range(DAYS * 10)]
    assert wait_of(write(tmp_path / "a.csv", labels)) == "1d"


def test_a_row_of_a_wrong_year_hides_no_wait(tmp_path: Path) -> None:
    rng = random.Random(5)
    labels = [rng.choice("01") if row < (DAYS - 30) * 10 else "" for row in range(DAYS * 10)]
    assert wait_of(write(tmp_path / "a.csv", labels, "late,2204-07-01T00:00:00Z,0.5,1")) == "30d"


def test_a_short_wait_of_few_rows_is_found(tmp_path: Path) -> None:
    labels = ["10"[row % 2] if row < 195 else "" for row in range(200)]
    assert wait_of(write(tmp_path / "a.csv", labels, per_day=1)) == "5d"


def test_few_positive_labels_at_the_end_are_asked_about(tmp_path: Path) -> None:
    rng = random.Random(6)
    labels = ["1" if rng.random() < (0.4 if row < 1_700 else 0.05) else "0" for row in range(DAYS * 10)]
    file = write(tmp_path / "a.csv", labels)
    with pytest.raises(Misuse, match=r"not known yet.*--wait \d+d, or --wait 1d"):
        wait_of(file)
    assert scaffold(file, tmp_path / "made", Options(label="y", wait="1d")).folder.is_dir()


def test_no_bound_of_the_gate_checks_nothing(tmp_path: Path) -> None:
    rng = random.Random(7)
    labels = [rng.choice("01") for _ in range(60)]
    made = scaffold(write(tmp_path / "a.csv", labels, per_day=1), tmp_path / "made", Options(label="y"))
    assert "calibration=0.1)" in (made.folder / "project.py").read_text()
    assert any("may refuse a good version" in note for note in made.notes)


def test_a_first_model_is_judged_only_on_days_whose_wait_is_over(tmp_path: Path) -> None:
    file = tmp_path / "churn.csv"
    truth = churn_known_early_where_yes(file)
    made = scaffold(file, tmp_path / "churn", Options(estimator="linear"))
    ends_us = us(BEGIN) + 499 * DAY_US
    waited_us = ends_us - 90 * DAY_US
    with tt.open(made.folder) as project:
        assert project.ingest("churn", file).accepted == truth.rows
        labels = project.ingest("churn_labels", file)
        open_rows = sum(1 for i in range(6_000) if us(BEGIN) + i * 500 // 6_000 * DAY_US > waited_us)
        assert (labels.accepted, labels.not_final) == (truth.rows - open_rows, open_rows)
        project.history.refresh()
        assert project.history.frame("churn_labels").event_at_us.max() <= waited_us
        project.train()
        registry = project.registry
        gates = [gate for version in registry.versions("churned") for gate in registry.gates_of(version)]
        assert gates
        assert all(gate.rows > 100 and gate.window_end_us <= waited_us + DAY_US for gate in gates)
