"""A project's ingested history as the recorded events of a replay."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trimtab.app.lines import lines_of
from trimtab.core.columns import Columns
from trimtab.core.errors import NotFound
from trimtab.core.time import format_moment, moment_us
from trimtab.events.frames import EventFrame
from trimtab.simulation.replay import Progress, Replay
from trimtab.simulation.results import ReplayResult

if TYPE_CHECKING:
    from trimtab.app.project import Project


def simulate_project(
    project: Project,
    *,
    lines: Sequence[str] | None,
    start: str | int | None,
    until: str | int | None,
    seed: int | None,
    progress: Callable[[int, int], object] | None,
) -> ReplayResult:
    """See `Project.simulate`."""
    chosen = lines_of(project.definitions, project.line_settings(lines))
    project.history.refresh()
    tables = {name: _recorded(project.history.frame(name)) for name in project.definitions.sources}
    request = chosen[0].deployment.model.request
    asked = np.sort(tables[request.name][request.time].values)
    if not len(asked):
        raise NotFound(f"simulate: no request {request.name!r} was ingested. Run: trimtab ingest {request.name} FILE")
    demo = project.config.demo
    start_us = moment_us(start if start is not None else demo.start if demo else int(asked[len(asked) // 4]))
    until_us = moment_us(until if until is not None else demo.until if demo else int(asked[-1]) + 1)
    if not start_us < until_us:
        raise NotFound(f"simulate: nothing lies between {format_moment(start_us)} and {format_moment(until_us)}.")

    def show(at: Progress) -> None:
        if progress is not None:
            progress(at.now_us - start_us, until_us - start_us)

    with (
        tempfile.TemporaryDirectory(prefix="trimtab-replay-", dir=project.state_folder) as folder,
        Replay(
            chosen,
            tables,
            project.sources,
            Path(folder),
            start_us=start_us,
            until_us=until_us,
            seed=project.config.seed if seed is None else seed,
            progress=show,
        ) as replay,
    ):
        return replay.run()


def _recorded(frame: EventFrame) -> Columns:
    """The newest version of every event."""
    return frame.columns.take(~frame.deleted & (frame.superseded_at_us == np.iinfo(np.int64).max))
