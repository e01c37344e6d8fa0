"""A file of a source's events into the log, slice by slice; rows that do not fit go to quarantine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trimtab.events import read_file
from trimtab.events.ingest import Problem, Pushed
from trimtab.events.quarantine import Quarantined, raw_json

if TYPE_CHECKING:
    from trimtab.app.project import Project

_SLICE = 20_000  # rows between two words about the progress
_NAMED = 100  # problems that are named; the quarantine has all


def load_file(
    project: Project, source: str, file: Path, *, history: bool, progress: Callable[[int, int], object] | None
) -> Pushed:
    """See `Project.ingest`."""
    show = progress or (lambda done, of: None)
    read = read_file(file, project.definitions.source(source), on_error="quarantine")
    rows, bad = read.columns.rows, len(read.bad)
    show(0, rows + bad)
    now_us = project.clock.now_us()
    project.quarantine.add(
        [Quarantined(source, raw_json(b.row), b.reason, b.field, now_us, "upsert", history) for b in read.bad]
    )
    show(bad, rows + bad)
    problems = [Problem(b.number - 1, b.field, b.reason, b.found) for b in read.bad[:_NAMED]]
    done = Pushed(0, bad, project.state.events.partition, 0, tuple(problems))
    for start in range(0, rows, _SLICE):
        part = read.columns.take(slice(start, start + _SLICE))
        done = _both(done, project.ingestor.load(source, part, history=history), start)
        show(bad + start + part.rows, rows + bad)
    return done


def _both(done: Pushed, more: Pushed, offset: int) -> Pushed:
    problems = [msgspec.structs.replace(problem, row=problem.row + offset) for problem in more.problems]
    return Pushed(
        done.accepted + more.accepted,
        done.quarantined + more.quarantined,
        more.partition,
        max(done.position, more.position),
        (*done.problems, *problems)[:_NAMED],
    )
