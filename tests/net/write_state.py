"""Write `state.tar.xz`: run by hand, once for a format. Nothing else writes it.

A project with a month of history lives for eleven more: versions are trained, put in service, rolled back; requests are
answered, labels come, days are closed; rows are refused, a batch is made; at last it is backed up. What the code of
that day wrote is what every later code must read.

    python tests/net/write_state.py
"""

from __future__ import annotations

import io
import platform
import shutil
import sys
import tarfile
from pathlib import Path
from tempfile import gettempdir
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from old_project import ARCHIVE, BEGIN_US, DAYS, END_US, HERE, T0_US, move, open_at, visits

import trimtab as tt
from trimtab.core.columns.data import Columns
from trimtab.core.time import DAY_US, HOUR_US

PER_DAY = 7
DROPPED = ("lock.mdb",)  # made again by whoever opens the store


def table(columns: dict[str, tuple[str, Any]]) -> Columns:
    return Columns.of({name: (dtype, list(values)) for name, (dtype, values) in columns.items()})  # type: ignore[misc]


def readings(from_us: int, until_us: int) -> Columns:
    """Both sites, every four hours; levels are eighths, a few are null."""
    times = np.arange(from_us, until_us, 4 * HOUR_US)
    rng = np.random.default_rng(from_us // HOUR_US)
    levels = [None if rng.random() < 0.05 else float(n) / 8 for n in rng.integers(-16, 17, 2 * len(times))]
    return table(
        {
            "site": ("str", ["north", "south"] * len(times)),
            "level": ("float", levels),
            "state": ("str", [("ok", "dry", "wet")[n] for n in rng.integers(0, 3, 2 * len(times))]),
            "read_at": ("time", np.repeat(times, 2).tolist()),
        }
    )


def sales(asked: list[dict[str, Any]], closed_us: list[int]) -> Columns:
    """What became of visits: more is bought with a greater x, and more is spent with more pages."""
    rng = np.random.default_rng(len(asked) + asked[0]["at"] // HOUR_US)
    return table(
        {
            "visit_id": ("str", [one["visit_id"] for one in asked]),
            "site": ("str", [one["site"] for one in asked]),
            "bought": ("bool", [bool(rng.random() < (0.85 if one["x"] > 0 else 0.2)) for one in asked]),
            "amount": ("float", [float(8 * one["pages"] + rng.integers(0, 9)) for one in asked]),
            "channel": ("str", [_channel(one["pages"], rng) for one in asked]),
            "closed_at": ("time", closed_us),
        }
    )


def _channel(pages: int, rng: np.random.Generator) -> str:
    place = pages // 9 if rng.random() < 0.8 else int(rng.integers(0, 3))
    return ("web", "phone", "shop")[place]


def load_history(project: tt.Project) -> None:
    """All sources, with one row of each kind that is refused."""
    asked = visits("h", BEGIN_US, T0_US - 2 * HOUR_US, PER_DAY * DAYS)
    project.ingest("readings", readings(BEGIN_US, T0_US))
    project.ingest(
        "visit",
        table(
            {
                "visit_id": ("str", [one["visit_id"] for one in asked]),
                "site": ("str", [one["site"] for one in asked]),
                "at": ("time", [one["at"] for one in asked]),
                "x": ("float", [one["x"] for one in asked]),
                "pages": ("int", [one["pages"] for one in asked]),
            }
        ),
    )
    project.ingest("sales", sales(asked, [one["at"] + HOUR_US for one in asked]))
    refused = project.push(
        "readings",
        [
            {"site": "north", "level": "high", "state": "ok", "read_at": T0_US},
            {"site": "north", "level": 1.0, "state": "ok", "read_at": "yesterday"},
            {"site": "north", "level": 1.0, "state": "ok", "read_at": T0_US + 9 * DAY_US},
        ],
    )
    assert (refused.accepted, refused.quarantined) == (0, 3)


def live_a_day(project: tt.Project, day: int, hours: tuple[int, ...] = (3, 9, 17)) -> None:
    """Read the sensors every four hours; answer at some; hear an hour later what became of it, and look."""
    begin_us = project.clock.now_us()
    for hour in range(24):
        now_us = begin_us + hour * HOUR_US
        if hour % 4 == 0:
            project.push("readings", readings(now_us, now_us + 1))
        if hour in hours:
            asked = visits(f"d{day}_{hour}", now_us, now_us, 6 // len(hours))
            for name in project.definitions.deployments:
                project.predict(name, asked)
        if hour - 1 in hours and day != 9:  # the labels of one day never come, nor does every fourth
            known = [one for n, one in enumerate(asked) if n != 4]
            project.push("sales", sales(known, [now_us] * len(known)))
        if hour == 20:
            project.teacher("learner").teach()
            project.tick()
        move(project, HOUR_US)


def train(project: tt.Project, model: str) -> None:
    """Train a version that takes over."""
    newest = project.train(model)[-1]
    assert newest.act == "promote", newest


def live(project: tt.Project) -> None:
    """Everything that leaves something in the state."""
    load_history(project)
    project.materialise()
    for name in project.definitions.deployments:
        train(project, name)
    for day in range(8):
        live_a_day(project, day)
        if day == 4:
            project.predict_table("amount", visits("b", project.clock.now_us(), project.clock.now_us(), 6))
    train(project, "sale")
    live_a_day(project, 8, (3,))  # from here on the hour stands still, which is noticed
    project.roll_back("sale", why="the newer one is slower", actor="alice")
    project.set_arm("sale@4", "canary", share=0.9, why="to look at it again", actor="alice")
    for day in (9, 10):
        live_a_day(project, day, (3,))
    now_us = project.clock.now_us()
    project.push("sales", [{"visit_id": "d8_3_0", "closed_at": now_us, "_op": "delete"}])
    project.predict_table("amount", visits("pre", now_us, now_us, 4), mode="precomputed")
    project.registry.tag("sale@2", "first", note="trained on history alone", actor="alice")
    project.registry.protect("sale", "canary", "reason", why="seen by nearly all", actor="alice")
    project.keys.add("dashboard", ["read"], rate="100/s")
    project.mute_alerts("amount", time="2d", why="known", actor="alice")
    project.skew("sale", sample=None, seed=1)
    assert {one.arm for block in project.predictions.scan() for one in block} == {"champion", "canary", "online"}
    project.freeze("a test of the switch", actor="alice")
    project.unfreeze("it works", actor="alice")
    train(project, "amount")
    project.materialise()
    assert project.clock.now_us() == END_US, project.clock.now_us()


def packed(folder: Path) -> bytes:
    """The folder as an archive that names nobody and no time."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        return None if Path(info.name).name in DROPPED else info

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz", preset=9) as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name, filter=plain)
    return out.getvalue()


def main() -> None:
    if ARCHIVE.exists() and "--again" not in sys.argv:
        sys.exit(f"{ARCHIVE.name} is there. What older code wrote is the point of it; --again replaces it.")
    platform.node = lambda: "wheelhouse"  # runs and leases name the machine
    folder = Path(gettempdir()) / "shop"  # Delta tables say where they were made
    folder.mkdir()
    try:
        shutil.copy(HERE / "state_project.py", folder / "project.py")
        (folder / "trimtab.toml").write_text('[project]\nname = "shop"\n')
        with open_at(folder, T0_US) as project:
            live(project)
            project.backup(folder / "backup")
        data = packed(folder)
    finally:
        shutil.rmtree(folder)
    ARCHIVE.write_bytes(data)
    print(f"{ARCHIVE.name}: {len(data):,} bytes. Now: python tests/net/update.py old_state")


if __name__ == "__main__":
    main()
