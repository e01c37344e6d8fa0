"""Measure the disk usage of each part of the state folder, and the growth of its logs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from trimtab.app.state.state import INDEX
from trimtab.core.shown import format_bytes
from trimtab.core.time import DAY_US
from trimtab.events.records import decode_all
from trimtab.store.embedded_files import catalog_file, is_of_catalog
from trimtab.store.log_places import positions_before
from trimtab.store.ports import Log

LOGS = {"events": "event log", "predictions": "prediction log", "quarantine": "quarantine", "exposures": "exposure log"}

_PARTS = {
    "online": "online features",
    "answers": "stored answers",
    "learners": "online learners",
    "blob": "blobs: versions, training sets, evaluations",
    "spool": "answers on their way to the log",
    "reports": "reports",
    INDEX: "index of the event log",
}

_WINDOW_US = 7 * DAY_US  # the time over which growth is measured

_SAMPLED = 200  # about this many events of a partition are read to estimate the share that was not loaded as history


class Taken(msgspec.Struct, frozen=True):
    """The disk usage of a state folder."""

    parts: dict[str, dict[str, int]]  # for each part, the bytes of each partition, source or folder in it

    def of(self, part: str) -> int:
        return sum(self.parts.get(part, {}).values())

    @property
    def size_bytes(self) -> int:
        return sum(map(self.of, self.parts))


def taken(folder: Path) -> Taken:
    """Return the disk usage of each part of a state folder."""
    parts: dict[str, dict[str, int]] = {"event log": {}, "tables of record": {}}
    for path, size in _files(folder):
        part, what = _part(path.relative_to(folder).parts)
        within = parts.setdefault(part, {})
        within[what] = within.get(what, 0) + size
    return Taken({part: dict(sorted(of.items())) for part, of in parts.items()})


def over_budget(size_bytes: int, budget_bytes: int | None) -> str | None:
    """Return an error message if a state folder exceeds its budget."""
    if budget_bytes is None or size_bytes <= budget_bytes:
        return None
    return (
        f"disk: {format_bytes(size_bytes)} are taken, but the budget is {format_bytes(budget_bytes)}; `trimtab storage "
        "disk` shows the parts. Run: trimtab storage prune. If that is not enough, keep events or predictions for a "
        "shorter time ([retention]), or raise disk_budget"
    )


def log_growth(log: Log, sizes: Mapping[str, int], now_us: int, *, events: bool) -> float | None:
    """Return the mean growth of a log in the last week, in bytes a day; None if the log is empty.

    With `events`, events that were loaded as history do not count.
    """
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
    """Return the mean size in bytes of a partition's records in its file; 0 if there are none."""
    held = _held(log, partition)
    return 0.0 if held is None else size / max(1, held[1] - held[0])


def _held(log: Log, partition: str) -> tuple[int, int, int] | None:
    """Return the position before the first record of a partition, its last position, and its first append time."""
    first = log.read(partition, 0, limit=1)
    return (first[0].position - 1, log.positions()[partition], first[0].appended_at_us) if first else None


def _live_share(log: Log, partition: str, after: int, last: int) -> float:
    """Return the share of the events in a part of a partition that were not loaded as history."""
    step = max(1, (last - after) // _SAMPLED)
    payloads = [r.payload for at in range(after, last, step) for r in log.read(partition, at, limit=1)]
    return sum(not event.history for event in decode_all(payloads)) / max(1, len(payloads))


def _part(path: tuple[str, ...]) -> tuple[str, str]:
    match path:
        case ("log", log, name) if log in LOGS:
            return LOGS[log], name.partition(".")[0]
        case ("tables", source, *_):
            return "tables of record", source
        case (name,) if is_of_catalog(name):
            return "catalogue", catalog_file(Path()).name
        case (first, _, *_):
            return _PARTS.get(first, "other"), first
    return "other", path[0]


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    for at, _, names in os.walk(folder):
        for name in names:
            path = Path(at, name)
            try:
                yield path, path.lstat().st_blocks * 512
            except FileNotFoundError:  # a temporary file was removed after it was listed
                continue
