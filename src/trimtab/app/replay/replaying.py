"""Replay a project's event log and logged requests, to try other models and policies on them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from trimtab.app.data.logged_requests import LoggedRequest, LoggedRequests, decode_requests, ingested_requests
from trimtab.app.features.project_spec import runs_in_child
from trimtab.app.replay.beginnings import Starts, check_judged, check_labels, last_request, recording_end, starts
from trimtab.app.replay.scenario_process import ScenarioSource, divide_among_processors, replay_side_by_side
from trimtab.app.replay.scenarios import USUAL, given_policies, scenario_settings
from trimtab.app.system import System
from trimtab.core.columns.data import Column, Columns, column
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.time import format_time
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.events.definitions import Source
from trimtab.events.values.checks import given_time_us
from trimtab.features.definitions import Request
from trimtab.simulation.faults import OF_LOOP, Fault, in_words, read_faults
from trimtab.simulation.generating.streams import Stream, stream_of
from trimtab.simulation.policies import Decide, Policy
from trimtab.simulation.replay import Recording, ReplaySettings
from trimtab.simulation.results import ReplayResult
from trimtab.simulation.scenarios.scenario import Scenario
from trimtab.store.file_lock import FileLock

_REPLAYS = "trimtab-replay-"  # the names of replay folders begin with this; erasures and backups use it, too
_LOCK = "replay.lock"


def simulate_project(
    system: System,
    *,
    lines: Sequence[str] | None,
    policies: Sequence[Policy | Decide | str] | None,
    model: str | None,
    stream: Stream | str | None,
    faults: str | Path | Columns | Fault | Sequence[Fault | Mapping[str, Any]] | None,
    start: str | int | None,
    until: str | int | None,
    seed: int | None,
    progress: Callable[[int, int], object] | None,
) -> ReplayResult:
    """Replay the recorded history of a project, or generated data; see `Project.simulate`."""
    if lines is not None and (policies is not None or model is not None):
        other = "model" if policies is None else "policies"
        raise Misuse(
            f"simulate: both lines and {other} are given. Give `lines` (the names of scenarios in section [demo] of "
            f"trimtab.toml) or `{other}`, not both."
        )
    if policies is None and model is None:
        source = ScenarioSource(str(system.config.project_file), lines=scenario_settings(system.config, lines))
    else:
        given = [one.policy for one in USUAL] if policies is None else given_policies(policies)
        source = ScenarioSource(str(system.config.project_file), policies=given, model=model)
    chosen = source.scenarios(system.definitions)
    used = system.config.seed if seed is None else seed
    if used < 0:
        raise Misuse(f"simulate: found seed={used}, needed a whole number of 0 or more.")
    if stream is None:
        tables, from_us = _history(system, chosen)
        check_labels(chosen, tables)
        begin, until_us, ended_us = _times(system, chosen, tables, from_us, start, until)
        made = None
    else:
        made = stream_of(stream, chosen[0].deployment.model, used) if isinstance(stream, str) else stream
        if not isinstance(made, Stream):
            raise Misuse(f"simulate: found stream={made!r}, needed what tt.stream() returned, or a text.")
        tables = made.tables
        begin = Starts((made.start_us if start is None else given_time_us(start, "start", system.clock),))
        until_us = made.until_us if until is None else given_time_us(until, "until", system.clock)
        ended_us = min(until_us, made.until_us)
        first_us = int(made.truth.at_us[0])
        if begin.at_us[0] <= first_us:
            raise Misuse(
                f"simulate: found the start {format_time(begin.at_us[0])}, needed one after the first generated "
                f"request, {format_time(first_us)}. Leave out --start, or generate a longer history."
            )
        if begin.at_us[0] < until_us:  # otherwise there is an error below
            check_judged(chosen, made.truth.at_us, (begin.at_us[0], until_us), ended_us)
    if not begin.at_us[-1] < until_us:
        raise Misuse(
            f"simulate: the start {format_time(begin.at_us[-1])} is not before the end {format_time(until_us)}. Give "
            "an earlier start (--start) or a later end (--until)."
        )
    put_in = [] if faults is None else read_faults(faults)
    for one in put_in:
        if one.start_us >= until_us or (one.kind in OF_LOOP and one.end_us <= begin.at_us[0]):
            span = f"{format_time(begin.at_us[0])} to {format_time(until_us)}"
            raise Misuse(f"simulate: the fault {in_words([one])[0]} is outside of the replayed time, {span}.")
    settings = ReplaySettings(
        start_us=begin.at_us[0], or_start_us=begin.at_us[1:], start_why=begin.why, until_us=until_us, seed=used
    )
    recording = Recording(tables, system.sources, stream=made, faults=put_in, until_us=ended_us)
    in_children = runs_in_child(system.config.training, system.clock)
    parts = divide_among_processors(chosen, source, settings) if in_children else [chosen]

    def reached(at_us: int) -> None:
        if progress is not None:
            progress(max(0, at_us - begin.at_us[0]), until_us - begin.at_us[0])

    with _own_folder(system.state_folder) as folder:
        found = replay_side_by_side(parts, source, recording, folder, settings, reached=reached)
    return msgspec.structs.replace(found, lines={one.name: found.lines[one.name] for one in chosen})


def _history(system: System, chosen: Sequence[Scenario]) -> tuple[dict[str, Columns], int]:
    """Return the recorded events by source, and the time since which all events that features need are kept."""
    request = chosen[0].deployment.model.request
    frames, _ = system.history.frames_at(system.definitions.sources)
    tables = {name: _recorded(source, frames[name]) for name, source in system.definitions.sources.items()}
    tables[request.name] = _requests(system, request, frames[request.name])
    from_us = max(system.features_from_us(line.deployment.model) for line in chosen)
    whole = tables[request.name]["_known_at"].values >= from_us
    tables[request.name] = tables[request.name].take(whole)  # requests whose events are all kept # D23
    if not tables[request.name].rows:
        raise NotFound(
            f"simulate: no request {request.name!r} is stored, or events that its features need were removed "
            f"([retention]). Run: trimtab ingest {request.name} FILE"
        )
    return tables, from_us


def _times(
    system: System,
    chosen: Sequence[Scenario],
    tables: Mapping[str, Columns],
    from_us: int,
    start: str | int | None,
    until: str | int | None,
) -> tuple[Starts, int, int]:
    """Return the times at which the replay may start, the time at which it ends, and when the recording ended."""
    if demo := system.config.demo:
        start, until = demo.start if start is None else start, demo.until if until is None else until
    request = chosen[0].deployment.model.request
    asked_us = np.sort(tables[request.name]["_known_at"].values)
    until_us = last_request(asked_us) + 1 if until is None else given_time_us(until, "until", system.clock)
    asked_us = asked_us[asked_us < until_us]
    if not len(asked_us):
        raise NotFound(f"simulate: no request {request.name!r} is older than {format_time(until_us)} (--until).")
    ended_us = min(recording_end(chosen, tables, int(asked_us[-1])), system.clock.now_us())
    if start is None:
        return starts(chosen, asked_us, ended_us), until_us, ended_us
    start_us = given_time_us(start, "start", system.clock)
    if start_us < from_us:
        raise Misuse(
            f"simulate: a replay from {format_time(start_us)} needs events that were removed ([retention]). "
            f"Start at {format_time(from_us)} or later (--start)."
        )
    if start_us < until_us:  # otherwise the caller raises an error
        check_judged(chosen, asked_us, (start_us, until_us), ended_us)
    return Starts((start_us,)), until_us, ended_us


def clear_replays(state_folder: Path) -> list[str]:
    """Remove the folders of killed simulations, and return their names.

    A running simulation holds a lock in its folder.
    """
    return [one.name for one in sorted(state_folder.glob(f"{_REPLAYS}*")) if one.is_dir() and _cleared(one)]


def _cleared(folder: Path) -> bool:
    with suppress(FileNotFoundError):  # another process has just removed the folder
        lock = None if any(map(FileLock.is_held, folder.rglob("*.lock"))) else FileLock.take(folder / _LOCK)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()
            return not folder.exists()
    return False


@contextmanager
def _own_folder(state_folder: Path) -> Iterator[Path]:
    """Make a locked folder for one replay, and remove the folder at the end of the block."""
    clear_replays(state_folder)
    folder = Path(tempfile.mkdtemp(prefix=_REPLAYS, dir=state_folder))
    lock = FileLock.take(folder / _LOCK)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            lock.release()


def _recorded(source: Source, frame: EventFrame) -> Columns:
    """Return all versions of all events, including deletions, with the time at which each became known."""
    columns = frame.columns.replace(
        {
            source.time: Column("time", frame.event_at_us),  # the column may be null in deletions
            "_known_at": Column("time", frame.known_at_us),
        }
    )
    if source.key is None:  # without a key, even equal events are different events
        ids = [f"{part}/{position}" for part, position in zip(frame.partition, frame.position, strict=True)]
        return columns.replace({"_id": column("str", ids)})
    if frame.deleted.any():
        ops = ["delete" if gone else "upsert" for gone in frame.deleted.tolist()]
        return columns.replace({"_op": column("str", ops)})
    return columns


def _requests(system: System, request: Request, frame: EventFrame) -> Columns:
    """Return every request once. The column `_known_at` is the time at which it is replayed.

    A request that was answered is taken from the prediction log, with the time of its first answer. If it was ingested,
    and never answered or only after the wait for its label, it is taken from its event, with its own time.
    """
    logged: dict[str, LoggedRequest] = {}
    for model in system.definitions.models.values():
        if model.request.name == request.name:
            requests = LoggedRequests(model, system.predictions, request_of=system.live.request_of)
            requests.read()
            for key, p in requests.first.items():
                if key not in logged or p.at_us < logged[key].at_us:
                    logged[key] = p
    known, at_us = ingested_requests(request, frame, NEVER_US - 1, deleted=True)
    waits_us = [one.label.wait_us for one in system.definitions.models.values() if one.request.name == request.name]
    for key, asked_us in zip(known[request.key].values.tolist(), at_us.tolist(), strict=True):
        if str(key) in logged and logged[str(key)].at_us > asked_us + max(waits_us):
            del logged[str(key)]
    fresh = np.array([str(key) not in logged for key in known[request.key].values.tolist()], bool)
    there = decode_requests(request, [p.request for p in logged.values()])
    times = np.concatenate([at_us[fresh], np.array([p.at_us for p in logged.values()], np.int64)])
    return Columns.concat([known.take(fresh), there]).replace({"_known_at": Column("time", times)})
