"""Report the disk usage of a project by part, its limit and its growth."""

from __future__ import annotations

import os

import msgspec

from trimtab.app.keep.disk_usage import LOGS, Taken, over_budget, taken
from trimtab.app.system import System
from trimtab.core.errors import Unavailable
from trimtab.core.shown import Shown, format_bytes
from trimtab.store.durable_files import existing


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """The disk usage of one part of the state folder."""

    name: str
    size_bytes: int
    of: dict[str, int]  # the bytes of each partition, source or folder in it


class Disk(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The disk usage of the state folder."""

    folder: str
    parts: list[Part]
    size_bytes: int
    free_bytes: int  # the free space on the disk of the folder
    budget_bytes: int | None  # the setting `disk_budget`
    frees_bytes: int | None  # about how many bytes `trimtab storage prune` would free; None: unknown
    growth_bytes: int | None  # about how many bytes are added a day; None: unknown
    notes: list[str]
    red: list[str]

    def lines(self) -> list[str]:
        """The disk usage as lines of text."""
        width = max(len(part.name) for part in self.parts)
        out = []
        for part in self.parts:
            shown = part.name in (*LOGS.values(), "tables of record")
            aside = ", ".join(f"{name} {format_bytes(size)}" for name, size in part.of.items()) if shown else ""
            out.append(f"{part.name:{width}}  {format_bytes(part.size_bytes):>9}" + (f"  ({aside})" if aside else ""))
        of = "no budget" if self.budget_bytes is None else f"budget {format_bytes(self.budget_bytes)}"
        out.append(
            f"{'in all':{width}}  {format_bytes(self.size_bytes):>9}  ({of}; {format_bytes(self.free_bytes)} free)"
        )
        if self.frees_bytes is not None:
            out.append(f"the next `trimtab storage prune` frees about {format_bytes(self.frees_bytes)}")
        if self.growth_bytes is not None:
            lasts = ""
            if self.budget_bytes is not None and self.growth_bytes and self.size_bytes < self.budget_bytes:
                days = (self.budget_bytes - self.size_bytes + (self.frees_bytes or 0)) / self.growth_bytes
                lasts = f": within the budget for {days:,.0f} days" if days < 10_000 else ""
            out.append(f"it grows by about {format_bytes(self.growth_bytes)} a day{lasts}")
        return out + self.notes + [f"RED  {line}" for line in self.red]


def disk_report(system: System) -> Disk:
    """Return the disk usage of a project; see `Project.disk`.

    On a full or read-only disk, the report lacks the space that a prune would free, the growth and the last prune.
    """
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
    """Return how many bytes `trimtab storage prune` would free, how many a day adds, and remarks."""
    from trimtab.app.keep.retention import growths, last_retained, plan_retention

    try:
        last = last_retained(system.state.catalog)
        notes = [] if last is None else [f"last prune: {last.at}, freed {format_bytes(last.freed_bytes)}"]
        plan, growth = plan_retention(system), round(sum(growths(system, now).values()))
    except Unavailable as error:  # the disk is full or read-only; a report is needed even then
        return None, None, [f"what `trimtab storage prune` frees, and the growth, cannot be read now: {error}"]
    return max(0, plan.freed_bytes), growth, notes + plan.notes
