"""A process that exposes units, takes in orders and ticks, every eight hours of its own time, until it is killed."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import msgspec
from experiment_world import BEGIN_US, opened

from trimtab.core.clock import VirtualClock
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.experiments.exposures import log_exposures
from trimtab.experiments.records import Exposure
from trimtab.store import Log, LogRecord

STEP_US = 8 * HOUR_US
UNITS = 400


def exposures_of(step: int) -> list[Exposure]:
    """The exposures of the time before a step. Most units are exposed again and again, over days."""
    rng, now_us = random.Random(step), BEGIN_US + step * STEP_US
    found = []
    for _ in range(30):
        unit = rng.randrange(UNITS)
        found.append(
            Exposure(
                experiment="prices", generation=1, unit=f"u{unit}", variant=("old", "new")[unit % 2],
                at_us=now_us - rng.choice((0, 1, rng.randrange(STEP_US), rng.randrange(30 * HOUR_US))),
                reason=rng.choice(("", "", "timeout")), override=unit % 17 == 0,
                attributes=msgspec.msgpack.encode({"country": ("DE", "FR")[unit % 3 == 0]}),
            )
        )  # fmt: skip
    return found


def orders_of(step: int) -> list[dict[str, object]]:
    """The orders that become known at a step: new ones, late ones, and changes of earlier ones."""
    rng, now_us = random.Random(-step - 1), BEGIN_US + step * STEP_US
    found: list[dict[str, object]] = []
    for number in range(25):
        at_us = now_us - rng.choice((0, rng.randrange(STEP_US), rng.randrange(4 * DAY_US)))
        amount = rng.choice((0.1, 1e16, 11.0, rng.lognormvariate(1, 1)))
        row = {"id": f"o{step}-{number}", "at": at_us, "user": f"u{rng.randrange(UNITS)}", "shop": 1, "amount": amount}
        found.append(row)
    earlier = {f"o{rng.randrange(max(1, step - 9), step + 1)}-{rng.randrange(25)}" for _ in range(3)} if step else set()
    changed = [{"id": name, "at": now_us, "user": "u1", "shop": 1, "amount": 5.5} for name in sorted(earlier)]
    changed[:1] = [{"id": one["id"], "_op": "delete"} for one in changed[:1]]
    return found + changed


def records(log: Log) -> list[LogRecord]:
    found = []
    for partition, last in sorted(log.positions().items()):
        after = 0
        while after < last and (some := log.read(partition, after)):
            found += some
            after = some[-1].position
    return found


def main(folder: str) -> None:
    clock = VirtualClock(BEGIN_US)
    with opened(Path(folder), clock) as project:
        last_us = max((one.appended_at_us for one in records(project.state.exposures)), default=BEGIN_US)
        step = (last_us - BEGIN_US) // STEP_US  # this one again, as it may not have been finished
        print("ready", flush=True)
        while True:
            clock.advance_to(BEGIN_US + step * STEP_US)
            made = exposures_of(step)
            for start in range(0, len(made), 7):
                log_exposures(project.state.exposures, made[start : start + 7])
            project.push("orders", orders_of(step))
            project.tick()
            step += 1


if __name__ == "__main__":
    main(sys.argv[1])
