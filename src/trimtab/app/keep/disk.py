"""How much disk a project takes, part by part, against its budget, and how fast that grows."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from trimtab.app.keep.disk_usage import _LOGS, Taken, log_growth, over_budget, taken
from trimtab.core.errors import Unavailable
from trimtab.core.sizes import format_bytes
from trimtab.store.durable_files import existing

if TYPE_CHECKING:
    from trimtab.app.system import System


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the state folder."""

    name: str
    size_bytes: int
    of: dict[str, int]  # the same by partition or by source


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """What the state folder takes."""

    folder: str
    parts: list[Part]
    size_bytes: int
    free_bytes: int  # on the disk that it lies on
    budget_bytes: int | None
    frees_bytes: int | None  # about what the next `trimtab retain` would give back; None: the state cannot be read
    growth_bytes: int | None  # about, a day
    notes: list[str]
    red: list[str]

    def lines(self) -> list[str]:
        """The same for people."""
        width = max(len(part.name) for part in self.parts)
        out = []
        for part in self.parts:
            shown = part.name in (*_LOGS.values(), "tables of record")
            aside = ", ".join(f"{name} {format_bytes(size)}" for name, size in part.of.items()) if shown else ""
            out.append(f"{part.name:{width}}  {format_bytes(part.size_bytes):>9}" + (f"  ({aside})" if aside else ""))
        of = "no budget" if self.budget_bytes is None else f"budget {format_bytes(self.budget_bytes)}"
        out.append(
            f"{'in all':{width}}  {format_bytes(self.size_bytes):>9}  ({of}; {format_bytes(self.free_bytes)} free)"
        )
        if self.frees_bytes is not None:
            out.append(f"the next `trimtab retain` gives back about {format_bytes(self.frees_bytes)}")
        if self.growth_bytes is not None:
            out.append(f"it grows by about {format_bytes(self.growth_bytes)} a day" + self._lasts())
        return out + self.notes + [f"RED  {line}" for line in self.red]

    def _lasts(self) -> str:
        if self.budget_bytes is None or not self.growth_bytes or self.size_bytes >= self.budget_bytes:
            return ""
        days = (self.budget_bytes - self.size_bytes + (self.frees_bytes or 0)) / self.growth_bytes
        return f": within the budget for {days:,.0f} days" if days < 10_000 else ""


def disk_report(system: System) -> Disk:
    """See `Project.disk`. What needs no more than sizes of files is said of a full disk, too."""
    now = taken(system.state_folder)
    budget = system.config.retention.budget_bytes
    red = over_budget(now.size_bytes, budget)
    frees_bytes, growth, notes = _outlook(system, now)
    free = os.statvfs(existing(system.state_folder))
    return Disk(
        folder=str(system.state_folder),
        parts=[Part(name=name, size_bytes=now.of(name), of=of) for name, of in now.parts.items()],
        size_bytes=now.size_bytes,
        free_bytes=free.f_bavail * free.f_frsize,
        budget_bytes=budget,
        frees_bytes=frees_bytes,
        growth_bytes=growth,
        notes=notes,
        red=[] if red is None else [red],
    )


def _outlook(system: System, now: Taken) -> tuple[int | None, int | None, list[str]]:
    """What `retain` would give back, what a day adds, and what is to be said of it."""
    from trimtab.app.keep.retention import last_retained, plan_retention

    try:
        last = last_retained(system.state.catalog)
        notes = [] if last is None else [f"last retain: {last.at}, gave back {format_bytes(last.freed_bytes)}"]
        plan, growth = plan_retention(system), growth_bytes(system, now)
    except Unavailable as error:  # a full disk, where these figures are wanted most; or one that is read-only
        return None, None, [f"what `trimtab retain` gives back, and how fast it grows, cannot be read now: {error}"]
    return max(0, plan.freed_bytes), growth, notes + plan.notes


def growth_bytes(system: System, now: Taken) -> int:
    """About how much a day adds, from what the logs hold of the last week; loads of history do not count."""
    from trimtab.app.keep.retention import last_retained

    per_day = 0.0
    last = last_retained(system.state.catalog)
    logs = {
        "event log": system.state.events,
        "prediction log": system.state.predictions,
    }
    for part, log in logs.items():
        bytes_a_day = log_growth(log, now.parts.get(part, {}), system.clock.now_us(), events=part == "event log")
        if bytes_a_day is None:  # truncated: as it was then
            bytes_a_day = 0.0 if last is None else last.growth_bytes.get(part, 0.0)
        per_day += bytes_a_day
    return round(per_day)
