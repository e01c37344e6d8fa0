"""How much disk a project takes, part by part, against its budget, and how fast that grows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trimtab.core.errors import Unavailable
from trimtab.core.sizes import format_bytes
from trimtab.core.time import DAY_US
from trimtab.store.durable_files import existing
from trimtab.store.log_places import positions_before

if TYPE_CHECKING:
    from trimtab.app.project import Project
    from trimtab.store.ports import Log

_LOGS = {"events": "event log", "predictions": "prediction log", "quarantine": "quarantine"}
_PARTS = {
    "online": "online features",
    "answers": "stored answers",
    "learners": "online learners",
    "blob": "blobs: versions, training sets, evaluations",
    "spool": "answers on their way to the log",
    "reports": "reports",
}
_WINDOW_US = 7 * DAY_US  # over which growth is measured
_SAMPLED = 200  # events that are looked at for how many came as they happened


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


class Taken(msgspec.Struct, frozen=True):
    """Bytes on disk by part, and by what is in it."""

    parts: dict[str, dict[str, int]]

    def of(self, part: str) -> int:
        return sum(self.parts.get(part, {}).values())

    @property
    def size_bytes(self) -> int:
        return sum(map(self.of, self.parts))


def taken(folder: Path) -> Taken:
    """What every part of a state folder takes on disk."""
    parts: dict[str, dict[str, int]] = {"event log": {}, "tables of record": {}}
    for path, size in _files(folder):
        part, what = _part(path.relative_to(folder).parts)
        within = parts.setdefault(part, {})
        within[what] = within.get(what, 0) + size
    return Taken({part: dict(sorted(of.items())) for part, of in parts.items()})


def over_budget(size_bytes: int, budget_bytes: int | None) -> str | None:
    """What is wrong with a state folder of this size, if anything is."""
    if budget_bytes is None or size_bytes <= budget_bytes:
        return None
    return (
        f"disk: {format_bytes(size_bytes)} of a budget of {format_bytes(budget_bytes)}; `trimtab disk` shows what "
        "takes it. Run: trimtab retain. If that is not enough, keep events or predictions for a shorter time "
        "([retention]), or raise disk_budget"
    )


def disk_report(project: Project) -> Disk:
    """See `Project.disk`. What needs no more than sizes of files is said of a full disk, too."""
    now = taken(project.state_folder)
    budget = project.config.retention.budget_bytes
    red = over_budget(now.size_bytes, budget)
    frees_bytes, growth, notes = _outlook(project, now)
    free = os.statvfs(existing(project.state_folder))
    return Disk(
        folder=str(project.state_folder),
        parts=[Part(name=name, size_bytes=now.of(name), of=of) for name, of in now.parts.items()],
        size_bytes=now.size_bytes,
        free_bytes=free.f_bavail * free.f_frsize,
        budget_bytes=budget,
        frees_bytes=frees_bytes,
        growth_bytes=growth,
        notes=notes,
        red=[] if red is None else [red],
    )


def _outlook(project: Project, now: Taken) -> tuple[int | None, int | None, list[str]]:
    """What `retain` would give back, what a day adds, and what is to be said of it."""
    from trimtab.app.keep.retention import last_retained, plan_retention

    try:
        last = last_retained(project.state.catalog)
        notes = [] if last is None else [f"last retain: {last.at}, gave back {format_bytes(last.freed_bytes)}"]
        plan, growth = plan_retention(project), growth_bytes(project, now)
    except Unavailable as error:  # a full disk, where these figures are wanted most; or one that is read-only
        return None, None, [f"what `trimtab retain` gives back, and how fast it grows, cannot be read now: {error}"]
    return max(0, plan.freed_bytes), growth, notes + plan.notes


def growth_bytes(project: Project, now: Taken) -> int:
    """About how much a day adds, from what the logs hold of the last week; loads of history do not count."""
    from trimtab.app.keep.retention import last_retained

    per_day = 0.0
    last = last_retained(project.state.catalog)
    logs = {
        "event log": project.state.events,
        "prediction log": project.state.predictions,
    }
    for part, log in logs.items():
        bytes_a_day = log_growth(log, now.parts.get(part, {}), project.clock.now_us(), events=part == "event log")
        if bytes_a_day is None:  # truncated: as it was then
            bytes_a_day = 0.0 if last is None else last.growth_bytes.get(part, 0.0)
        per_day += bytes_a_day
    return round(per_day)


def log_growth(log: Log, sizes: Mapping[str, int], now_us: int, *, events: bool) -> float | None:
    """Bytes a day that a log has grown by in the last week; None: it holds nothing to say it by."""
    bytes_a_day, days = 0.0, 0.0
    since = positions_before(log, now_us - _WINDOW_US)
    for partition, after in since.items():
        held = _held(log, partition)
        if held is None:
            continue
        begin, last, first_us = held
        recent = last - max(after, begin)
        share = _live_share(log, partition, max(after, begin), last) if events else 1.0
        bytes_a_day += recent * share * record_bytes(log, partition, sizes.get(partition, 0))
        days = max(days, (now_us - max(first_us, now_us - _WINDOW_US)) / DAY_US)
    return None if not days else bytes_a_day / max(1.0, days)


def record_bytes(log: Log, partition: str, size: int) -> float:
    """About how many bytes of a partition's file a record takes; 0 when there is none."""
    held = _held(log, partition)
    return 0.0 if held is None else size / max(1, held[1] - held[0])


def _held(log: Log, partition: str) -> tuple[int, int, int] | None:
    """Behind which position a partition begins, where it ends, and when its first record was appended."""
    first = log.read(partition, 0, limit=1)
    return (first[0].position - 1, log.positions()[partition], first[0].appended_at_us) if first else None


def _live_share(log: Log, partition: str, after: int, last: int) -> float:
    """The share of events that came as they happened, not in a load of history."""
    from trimtab.events.records import decode_all

    step = max(1, (last - after) // _SAMPLED)
    payloads = [r.payload for at in range(after, last, step) for r in log.read(partition, at, limit=1)]
    return sum(not event.history for event in decode_all(payloads)) / max(1, len(payloads))


def _part(path: tuple[str, ...]) -> tuple[str, str]:
    match path:
        case ("log", log, name) if log in _LOGS:
            return _LOGS[log], name.partition(".")[0]
        case ("tables", source, *_):
            return "tables of record", source
        case (name,) if name.startswith("catalog.db"):
            return "catalogue", "catalog.db"
        case (first, _, *_):
            return _PARTS.get(first, "other"), first
    return "other", path[0]


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    for at, _, names in os.walk(folder):
        for name in names:
            path = Path(at, name)
            try:
                yield path, path.lstat().st_blocks * 512
            except FileNotFoundError:  # it was temporary
                continue
