"""Labels in a later file of the same form: their rows have the time of the request, which may be a date alone."""

from __future__ import annotations

import datetime as dt
import random
from pathlib import Path
from typing import Any

import pytest

import trimtab as tt
from trimtab.app.start.init.options import Options
from trimtab.app.start.init.scaffold import scaffold
from trimtab.core.clock import VirtualClock
from trimtab.core.time import DAY_US, HOUR_US, parse_time_us

BEGIN = dt.date(2024, 1, 1)
ASKED = dt.date(2024, 3, 11)
AFTERNOON_US = parse_time_us(str(ASKED)) + 14 * HOUR_US + 180_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project that was made from a file whose times are dates alone, with a version in service."""
    file = tmp_path_factory.mktemp("dates") / "orders.csv"
    rng = random.Random(1)
    lines = ["order_id,day,amount,returned"]
    for n in range(1_400):
        amount = rng.random()
        lines.append(f"o{n},{BEGIN + dt.timedelta(n // 20)},{amount:.3f},{'yn'[rng.random() < amount]}")
    file.write_text("\n".join(lines) + "\n")
    made = scaffold(file, file.parent / "made", Options(label="returned", estimator="linear")).folder
    with opened(made) as project:
        for source in ("orders", "orders_labels"):
            project.ingest(source, file)
        assert project.train()[-1].act == "promote"
    return made


def opened(folder: Path) -> Any:
    return tt.open(folder, clock=VirtualClock(AFTERNOON_US), environment={})


@pytest.mark.parametrize("history", [True, False], ids=["history", "live"])
def test_a_row_with_the_date_of_its_request_is_the_label_of_an_answer_of_that_day(folder: Path, history: bool) -> None:
    key = f"asked-{history}"
    with opened(folder) as project:
        (answer,) = project.predict("returned", [{"order_id": key, "day": str(ASKED), "amount": 0.25}])
        project.clock.advance_to(AFTERNOON_US + 2 * DAY_US)
        later = folder.parent / f"later-{history}.csv"
        later.write_text(f"order_id,day,amount,returned\n{key},{ASKED},0.25,y\n")
        assert project.ingest("orders_labels", later, history=history).accepted == 1
        why = project.why(answer.id)
        assert (why.label, why.label_state) == (1.0, "labelled" if history else "late")


def test_a_label_that_was_known_when_the_question_was_asked_again_is_none_of_that_answer(folder: Path) -> None:
    with opened(folder) as project:
        (answer,) = project.predict("returned", [{"order_id": "o3", "day": str(BEGIN), "amount": 0.25}])
        project.clock.advance_to(AFTERNOON_US + 2 * DAY_US)
        assert project.why(answer.id).label is None
