"""A batch is logged in packs; whoever reads it finds what rows that were logged one by one would give."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import market
import pytest
import shop

import forked
from trimtab.app.inspect.skew_sample import draw
from trimtab.app.project import Project
from trimtab.core.columns.data import Columns
from trimtab.core.columns.packs import unpack
from trimtab.core.errors import NotFound
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.serving.answer.batch import batch_predictions
from trimtab.store.sqlite.log import SqliteLog

HOURS = range(-90, -3)


def visits() -> Columns:
    return Columns.of(
        {
            "visit_id": ("str", [f"t{hour}" for hour in HOURS]),
            "site": ("str", ["north" if hour % 2 else "süd" for hour in HOURS]),
            "at": ("time", [shop.NOW_US + hour * HOUR_US for hour in HOURS]),
            "x": ("float", [None if hour % 5 == 0 else hour / 10 for hour in HOURS]),
        }
    )


def one_by_one(self: SqliteLog, packs: list[bytes], *, at_us: int | None = None) -> range:
    payloads = [payload for pack in packs for payload in unpack(pack)]
    return self.append(payloads, at_us=None if at_us is None else [at_us] * len(payloads))


def sales(project: Project) -> None:
    bought = [hour for hour in HOURS if hour % 3]
    project.push("sales", Columns.of({
        "visit_id": ("str", [f"t{hour}" for hour in bought]),
        "site": ("str", ["north" for _ in bought]),
        "bought": ("bool", [hour % 2 == 0 for hour in bought]),
        "closed_at": ("time", [shop.NOW_US for _ in bought]),
    }))  # fmt: skip


def seen(project: Project) -> list[Any]:
    """Return what the readers of the prediction log make of it."""
    log = project.predictions
    rows = [one for block in log.scan() for one in block]
    places = [log.locate(one.id) for one in rows]
    ((partition, last),) = log.log.positions().items()
    rng = random.Random(1)
    starts = [rng.randrange(last) for _ in range(20)]
    some = [[one.id for block in log.between(partition, after, last - 1) for one in block] for after in starts]
    records = [log.log.read(partition, after, limit=3) for after in starts]
    return [
        rows,
        places,
        some,
        [[(one.position, one.payload) for one in found] for found in records],
        [log.find(one.id) for one in rows[::7]],
        log.positions_before(project.clock.now_us()),
        draw(log, lambda one: True, count=20, after={}, seed=3),
        project.quality("buyer", by="day").to_rows(),
        [project.why(one.id).lines() for one in rows[::40]],
    ]


def both(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[[Project], Any]) -> list[Any]:
    """Return what `use` finds in a project that logs packs, and in one that logs rows."""
    other, found = Path(shutil.copytree(trained, tmp_path / "rows")), []
    for folder in (trained, other):
        with shop.opened(folder) as project:
            project.predict("buyer", [shop.visit("live", shop.NOW_US)])
            project.predict_table("buyer", visits())
            project.predict("buyer", [shop.visit("later", shop.NOW_US)])
            sales(project)
        with shop.opened(folder, shop.NOW_US + 4 * DAY_US) as project:
            project.tick()
            found.append(use(project))
        monkeypatch.setattr(SqliteLog, "append_packs", one_by_one)
    return found


def batch_only(found: list[Any]) -> list[Any]:
    """Leave out the ids of live answers, which contain random letters."""
    live = {one.id for one in found[0] if one.mode == "live"}
    found[0] = [one for one in found[0] if one.id not in live]
    found[1] = found[1][1:-1]
    found[2] = [[one for one in ids if one not in live] for ids in found[2]]
    found[3] = [[one for one in records if not any(name.encode() in one[1] for name in live)] for records in found[3]]
    found[4] = [one for one in found[4] if one.id not in live]
    found[6] = [one for one in found[6] if one.id not in live]
    found[8] = found[8][1:]
    return found


def test_every_reader_finds_what_rows_would_give(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, rows = (batch_only(found) for found in both(trained, tmp_path, monkeypatch, seen))
    assert len(packed[0]) == len(HOURS)
    for of_pack, of_rows in zip(packed, rows, strict=True):
        assert of_pack == of_rows


def test_one_person_is_erased_within_a_pack(tmp_path: Path) -> None:
    folder, customers = market.write_project(tmp_path / "market"), [f"cust-{n:04}" for n in range(6)]
    with market.opened(folder) as project:
        market.load(project, customers)
        project.train()
        quotes = [market.quote(f"q{n}", customers[n % 6], market.NOW_US - HOUR_US) for n in range(60)]
        kinds = {name: project.definitions.deployments["sale"].model.request.columns[name] for name in quotes[0]}
        asked = Columns.of({name: (kind, [one[name] for one in quotes]) for name, kind in kinds.items()})
        made = project.predict_table("sale", asked)
        before = [one for part in batch_predictions(made, project.predictions) for one in part]
        assert project.forget("customer", "cust-0002").counts["predictions"] == 10
        with pytest.raises(NotFound, match="erased"):
            project.predictions.find(before[2].id)
        after = [one for part in batch_predictions(made, project.predictions) for one in part]
        assert after == [one for n, one in enumerate(before) if n % 6 != 2]
        assert [project.predictions.locate(one.id) for one in before] == [
            (made.parts[0].partition, made.parts[0].first + n) for n in range(60)
        ]
        files = [path for path in (folder / ".trimtab").rglob("*.db*") if path.parent.name == "predictions"]
        stored = b"".join(path.read_bytes() for path in files)
        assert b"cust-0002" not in stored
        assert b"cust-0003" in stored


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import shop, test_packed_batch
from pathlib import Path
from trimtab.serving.answer import batch
from trimtab.serving.log.prediction_log import PredictionLog

batch.score_table.__kwdefaults__["part_rows"] = 7
left, after, append = int(sys.argv[3]), sys.argv[4] == "after", PredictionLog.append_packs

def dying(self, packs, *, at_us=None):
    global left
    left -= 1
    if left < 0 and not after:
        os.kill(os.getpid(), signal.SIGKILL)
    found = append(self, packs, at_us=at_us)
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return found

PredictionLog.append_packs = dying
with shop.opened(Path(sys.argv[2])) as project:
    project.predict_table("buyer", test_packed_batch.visits())
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_batch_that_is_killed_again_and_again_is_logged_exactly_once(trained: Path, when: str) -> None:
    for left in (0, 1, 0, 2):
        command = [sys.executable, "-c", KILLED, str(Path(shop.__file__).parent), str(trained), str(left), when]
        process = forked.run(command, stderr=subprocess.PIPE, env={**os.environ, **shop.environment()})
        assert process.returncode in (-signal.SIGKILL, 0), process.stderr
    with shop.opened(trained) as project:
        made = project.predict_table("buyer", visits())
        assert made.complete
        logged = [one.request_id for block in project.predictions.scan() for one in block]
        assert sorted(logged) == sorted(f"t{hour}" for hour in HOURS)
        found = [one.request_id for part in batch_predictions(made, project.predictions) for one in part]
        assert found == [f"t{hour}" for hour in HOURS]
