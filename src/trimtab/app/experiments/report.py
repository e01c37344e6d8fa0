"""Reports about experiments: the results of one, its page, and a line about each that runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trimtab.app.experiments.assigning import cannot_close, experiments, notes
from trimtab.app.experiments.closing import close_due
from trimtab.core.errors import Conflict, NotFound, Unavailable
from trimtab.experiments.days import not_closed, stored_days, stored_reached
from trimtab.experiments.reading.document import experiment_document
from trimtab.experiments.reading.reading import read_experiment
from trimtab.experiments.reading.results import Reading, Recommendation, shown_days
from trimtab.experiments.records import experiment_state, past_state, stored_definition
from trimtab.report import html_page
from trimtab.store.durable_files import write_durably

if TYPE_CHECKING:
    from trimtab.app.system import System


def experiment_report(
    system: System, name: str, *, close: bool = True, slices: bool = True, generation: int | None = None
) -> Reading:
    """Return what an experiment says now; see `Project.experiment_report`.

    Args:
        close: Whether to close the days that can be closed now, before they are read.
        slices: Whether to include the results of each slice.
        generation: The number of an earlier start, from 1: report the days that were closed before the next start.
            None: the newest start.
    """
    state = experiment_state(system.state.catalog, name)
    if state is None:
        system.definitions.experiment(name)  # raises NotFound
        raise Conflict(f"experiment {name!r}: it was not started. Start it: trimtab experiment start {name} --why TEXT")
    if generation not in (None, state.generation):
        past = past_state(system.state.catalog, name, generation)
        if past is None:
            what = f"there is no start {generation!r}. Give a number from 1 to {state.generation}, the newest start"
            raise NotFound(f"experiment {name!r}: {what}.")
        days = stored_days(system.state.catalog, name, past.generation)
        reading = read_experiment(stored_definition(past), past, days, slices=slices, final=True)
        lost = not_closed(system.state.catalog, past)
        return msgspec.structs.replace(reading, notes=[*reading.notes, *filter(None, [lost])])
    if close:
        close_due(system, name)
    days = stored_days(system.state.catalog, name, state.generation)
    cut_units = stored_reached(system.state.catalog, state)[0].cut_units
    reading = read_experiment(stored_definition(state), state, days, slices=slices, cut_units=cut_units)
    if (why := cannot_close(system, state)) is not None:
        blocked = Recommendation(act="blocked", text=f"blocked: {why}.")
        reading = msgspec.structs.replace(reading, decision=blocked)
    return msgspec.structs.replace(reading, notes=[*reading.notes, *notes(system, state)])


def write_experiment_page(system: System, name: str, to: Path, generation: int | None = None) -> Path:
    """Write the page of an experiment into the file or folder `to`, and return the path of the file.

    Raises:
        NotFound: The experiment does not exist.
        Conflict: It was not started.
        Unavailable: The file cannot be written, for lack of space or access.
    """
    file = to if to.suffix == ".html" else to / f"{name}-experiment.html"
    page = html_page(experiment_document(experiment_report(system, name, generation=generation)))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_durably(file, page.encode())
    except OSError as error:
        raise Unavailable(f"{file}: {error.strerror}. Check free space and access, then try again.") from error
    return file


def running_lines(system: System) -> Iterator[tuple[str, str, bool]]:
    """Yield each experiment that runs or is paused: its name, what its closed days say, and whether that is a problem.

    The problems: the sample-ratio check failed, days cannot be closed, or every treatment should be stopped.
    """
    for one in experiments(system):
        if one.phase in ("running", "paused"):
            reading = experiment_report(system, one.name, close=False, slices=False)
            note = f" ({'; '.join(reading.notes)})" if reading.notes else ""
            text = f"{one.phase}, {shown_days(reading)}: {reading.decision.text}{note}"
            yield one.name, text, reading.decision.act in ("blocked", "stop")
