"""Compute features for many requests, either in memory or from events on disk in parts (D28)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import duckdb
import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab import store
from trimtab.app.features.feature_files import GROUP_ROWS
from trimtab.app.features.materialising import copy_to_tables
from trimtab.app.features.recorded_events import reached_in, table_files
from trimtab.app.online.history import SharedHistory, fits_memory
from trimtab.app.system import System
from trimtab.core.columns.data import Column, Columns, column
from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound
from trimtab.core.hashing import content_hash
from trimtab.core.package import VERSION
from trimtab.core.urls import store_url
from trimtab.events.columns.frame_index import key_values
from trimtab.events.columns.frames import EventFrame
from trimtab.events.definitions import Source
from trimtab.events.tables import materialise
from trimtab.features.definitions import Join, View
from trimtab.features.feature_set import FeatureSet
from trimtab.features.frames import FeatureFrame
from trimtab.features.offline.as_known_now import as_known_now
from trimtab.features.offline.evaluation import evaluate_by
from trimtab.features.offline.view_columns import evaluate_view
from trimtab.features.parts.event_files import EventFiles, table_events
from trimtab.features.parts.given_files import folder_events
from trimtab.features.parts.loaded_frames import LoadedFrames
from trimtab.features.parts.part_answers import Answers
from trimtab.features.parts.parted_views import PartedViews, claimed
from trimtab.store.durable_files import write_durably
from trimtab.store.ports import Table
from trimtab.training.data.parquet import columns_hash
from trimtab.training.definitions import Model

Meter = Callable[[int, int], object]

_LEFT_S = 7 * 86_400  # the files of a stopped run are kept for this long, so that it can resume
_VALUE_BYTES = 48  # the approximate memory of one value of the largest type, text


class Run(Protocol):
    """Computes the features of one table of requests."""

    positions: dict[str, int]  # for each partition of the event log, the last position that was read
    parts: int  # the events of a view are divided into at most this many parts
    scratch: Path | None  # folder for intermediate files; None if no folder is needed

    @property
    def where(self) -> str:
        """Say whether the features are computed in memory or on disk, as text for people."""
        ...

    def begin(self, rows: int, *, evaluations: int, columns: int, kept: bool) -> None:
        """Prepare to compute features for a number of requests.

        `evaluations`: how many times each request is evaluated. `columns`: the number of values of each request.
        `kept`: whether the results of all requests will be in memory, and not only those of one block.
        """
        ...

    def blocks(self, rows: int) -> list[slice]:
        """Divide the requests into blocks that fit into memory."""
        ...

    def evaluate(
        self, features: FeatureSet, requests: Columns, at_us: NDArray[Any], *, known_by_us: int | None = None
    ) -> FeatureFrame:
        """Compute features of requests, each as of its time in `at_us`.

        Only events that were known at that time count; or, with `known_by_us`, those that were known at `known_by_us`
        instead (`NEVER_US`: all events).
        """
        ...

    def entities(self, view: View, known_by_us: int | None) -> list[Column]:
        """Return the sorted keys of the view's entities that have an event known by `known_by_us` (None: any event)."""
        ...


class OpenedRun(msgspec.Struct, frozen=True, eq=False):
    """Computes features for one model, and holds the events of the model's requests and labels."""

    run: Run
    frames: Mapping[str, EventFrame]  # events of at least the request and label sources, up to the positions of `run`

    def evaluate(self, features: FeatureSet, requests: Columns, at_us: NDArray[Any]) -> FeatureFrame:
        """Compute the features of all requests, each as of the time of the request."""
        self.run.begin(requests.rows, evaluations=1, columns=len(requests.names) + len(features.names), kept=True)
        return FeatureFrame.concat(
            [self.run.evaluate(features, requests.take(cut), at_us[cut]) for cut in self.run.blocks(requests.rows)]
        )


OpenRun: TypeAlias = "Callable[[Model], AbstractContextManager[OpenedRun]]"


@contextmanager
def run_in_memory(history: SharedHistory, model: Model) -> Iterator[OpenedRun]:
    """Open a run that computes a model's features from the history in memory."""
    frames, positions = history.frames_at(_request_sources(model) | {view.source.name for view in model.features.views})
    yield OpenedRun(_InMemory(frames.__getitem__, positions, None), frames)


@contextmanager
def run_of_model(system: System, model: Model) -> Iterator[OpenedRun]:
    """Open a run that computes a model's features, in memory or on disk (see `opened_run`). # D28

    Both give values that are equal to the last bit.
    """
    if _fits(system):
        with run_in_memory(system.history, model) as opened:
            yield opened
        return
    frames, positions = system.asked_history.frames_at(_request_sources(model))
    sources = {view.source.name: view.source for view in model.features.views}
    with _kept(
        system, model.features, sources, ["model", model.name, sorted(positions.items())], {}, None, positions
    ) as run:
        yield OpenedRun(run, frames)


@contextmanager
def opened_run(
    system: System, features: FeatureSet, what: Sequence[Any], events: Mapping[str, Path], progress: Meter | None
) -> Iterator[Run]:
    """Open a run that computes features.

    If all events fit into half of the setting `features.memory_bytes`, and `events` is empty, the run uses the history
    in memory. Otherwise, it reads events from files: into memory, one source after another, if each source fits, and
    in parts on disk if not.

    Args:
        what: Everything else that determines the result. A stopped run is only resumed if this is unchanged.
        events: By name of the source: Parquet files to read instead of the history.
        progress: Called after each piece of work with the number of pieces done and the total number.
    """
    sources = {view.source.name: view.source for view in features.views}
    for name in events:
        if name not in sources:
            used = ", ".join(sources)
            raise NotFound(f"events of {name!r}: no feature here uses this source. The features use: {used}.")
    if not events and _fits(system):
        frames, positions = system.history.frames_at(sources)
        yield _InMemory(frames.__getitem__, positions, progress)
        return
    with _kept(system, features, sources, what, events, progress) as run:
        yield run


@contextmanager
def _kept(
    system: System,
    features: FeatureSet,
    sources: Mapping[str, Source],
    what: Sequence[Any],
    events: Mapping[str, Path],
    progress: Meter | None,
    positions: Mapping[str, int] | None = None,
) -> Iterator[Run]:
    """Open a run that reads events from files: into memory, one source after another, if each fits, else in parts.

    If it is stopped, its folder is kept, so that it can resume.

    `positions` says up to where each partition of the event log is read; by default, up to its end at the first start.
    """
    limit_bytes = system.config.features.memory_bytes
    made_by = [limit_bytes, VERSION, duckdb.__version__, np.__version__]
    inputs_hash = content_hash([features.hash, _plain(what), files_state(events), made_by])
    folder = system.state_folder / "backfill" / inputs_hash[:32]
    _sweep(folder.parent)
    with claimed(folder):
        try:
            with _on_disk(system, features, sources, events, folder, progress, positions) as run:
                yield run
        except (Misuse, NotFound, Corrupt):
            shutil.rmtree(folder, ignore_errors=True)  # after such an error, the run cannot resume
            raise
        shutil.rmtree(folder, ignore_errors=True)  # the run is finished


@contextmanager
def _on_disk(
    system: System,
    features: FeatureSet,
    sources: Mapping[str, Source],
    events: Mapping[str, Path],
    folder: Path,
    progress: Meter | None,
    given: Mapping[str, int] | None,
) -> Iterator[Run]:
    positions = _pinned(system, folder) if given is None else dict(given)
    memory_bytes = system.config.features.memory_bytes
    files = _event_files(system, sources, positions, folder, events)
    with LoadedFrames(folder, files, features.views, memory_bytes // 2) as loaded:
        if loaded.fits:
            yield _InMemory(loaded.frame, positions, progress, loaded, memory_bytes)
            return
    run = _OnDisk(features, positions, folder, progress)
    views = PartedViews(
        folder,
        files,
        address=content_hash([positions, files_state(events)]),
        memory_bytes=memory_bytes,
        clock=system.clock,
        done=run.step,
    )
    with views:
        run.views = views
        yield run


class _InMemory:
    def __init__(
        self,
        frame_of: Callable[[str], EventFrame],
        positions: dict[str, int],
        progress: Meter | None,
        loaded: LoadedFrames | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        self.positions, self.parts, self.where = positions, 1, "in memory"
        self.scratch: Path | None = None
        self._frame_of = frame_of
        # the last result of `as_known_now`: the name of the source, `known_by_us`, and the events
        self._known: tuple[str, int, EventFrame] | None = None
        self._progress = progress
        self._loaded = loaded
        self._threads = 1 if loaded is None else loaded.threads
        # the memory for the whole computation, which decides the size of blocks; None: one block has all requests
        self._memory_bytes = memory_bytes

    def begin(self, rows: int, *, evaluations: int, columns: int, kept: bool) -> None:
        whole = kept or self._memory_bytes is None
        self._rows, self._block_rows = rows, rows if whole else _block_rows(self._memory_bytes or 0, columns)
        if self._loaded is not None:
            # keep the events if all fit and are needed again; otherwise each source takes the memory of the one before
            self._loaded.keep = self._loaded.all_fit and evaluations * len(self.blocks(rows)) > 1

    def blocks(self, rows: int) -> list[slice]:
        return _blocks(rows, self._block_rows)

    def evaluate(
        self, features: FeatureSet, requests: Columns, at_us: NDArray[Any], *, known_by_us: int | None = None
    ) -> FeatureFrame:
        def answer(join: Join, keys: Sequence[Column], at_us: NDArray[Any]) -> Answers:
            return evaluate_view(join.view, keys, at_us, self._frame(join.view.source.name, known_by_us))

        if self._threads == 1:
            found = evaluate_by(answer, features, requests, at_us)
        else:
            with ThreadPoolExecutor(self._threads) as pool:
                found = evaluate_by(answer, features, requests, at_us, pool.map)
        if self._progress is not None:
            self._progress(self._rows, self._rows)
        return found

    def entities(self, view: View, known_by_us: int | None) -> list[Column]:
        frame = self._frame(view.source.name, None)
        known = slice(None) if known_by_us is None else np.flatnonzero(frame.known_at_us <= known_by_us)
        keys = set(key_values([frame.columns[name].take(known) for name in view.by])) - {None}
        ordered = sorted(keys)
        lists = [ordered] if len(view.by) == 1 else [list(v) for v in zip(*ordered, strict=True)] or [[]] * len(view.by)
        return [column(view.source.columns[name], values) for name, values in zip(view.by, lists, strict=True)]

    def _frame(self, name: str, known_by_us: int | None) -> EventFrame:
        if known_by_us is None:
            return self._frame_of(name)
        last = self._known
        if last is None or last[:2] != (name, known_by_us):
            last = self._known = (name, known_by_us, as_known_now(self._frame_of(name), known_by_us))
        return last[2]


class _OnDisk:
    views: PartedViews

    def __init__(self, features: FeatureSet, positions: dict[str, int], folder: Path, progress: Meter | None) -> None:
        self.positions, self.parts = positions, 1
        self.scratch: Path | None = folder
        self._features = features
        self._progress = progress
        self._steps = self._done = 0
        self._block_rows = 0

    @property
    def where(self) -> str:
        return f"on disk, in {self.parts} {'part' if self.parts == 1 else 'parts'}"

    def begin(self, rows: int, *, evaluations: int, columns: int, kept: bool) -> None:
        self._block_rows = _block_rows(self.views.memory_bytes, columns)
        parts = [self.views.parts(join.view) for join in self._features.joins]
        self.parts = max(parts, default=1)
        self._steps = sum(parts) * evaluations * len(self.blocks(rows)) + len(self._features.views)
        self.views.prepare(self._features.views)

    def blocks(self, rows: int) -> list[slice]:
        return _blocks(rows, self._block_rows)

    def evaluate(
        self, features: FeatureSet, requests: Columns, at_us: NDArray[Any], *, known_by_us: int | None = None
    ) -> FeatureFrame:
        return evaluate_by(partial(self.views.answer, known_by_us=known_by_us), features, requests, at_us)

    def entities(self, view: View, known_by_us: int | None) -> list[Column]:
        return self.views.entities(view, known_by_us)

    def step(self) -> None:
        """Count a finished piece of work and report the progress."""
        self._done += 1
        if self._progress is not None and self._steps:
            self._progress(min(self._done, self._steps), self._steps)


def _block_rows(memory_bytes: int, columns: int) -> int:
    """Return how many requests of `columns` values fit into a quarter of the memory: whole groups, at least one."""
    return max(1, memory_bytes // 4 // (_VALUE_BYTES * columns) // GROUP_ROWS) * GROUP_ROWS


def _blocks(rows: int, block_rows: int) -> list[slice]:
    starts = range(0, max(rows, 1), max(block_rows, 1))
    return [slice(start, min(start + block_rows, rows)) for start in starts]


def _fits(system: System) -> bool:
    return fits_memory(system.state.events, system.config.features.memory_bytes)


def _request_sources(model: Model) -> set[str]:
    """Return the names of the sources that hold a model's requests and labels."""
    return {model.request.name, model.label.source.name}


def _sweep(folder: Path) -> None:
    """Remove the remains of runs that were stopped long ago and never resumed."""
    for lock in folder.glob("*/lock"):
        with suppress(FileNotFoundError, Conflict):  # another process has just removed it, or uses it
            if time.time() - lock.stat().st_mtime > _LEFT_S:
                with claimed(lock.parent):
                    shutil.rmtree(lock.parent, ignore_errors=True)


def _pinned(system: System, folder: Path) -> dict[str, int]:
    """Return the position up to which a run reads each partition of the event log.

    A resumed run keeps its positions; a new run takes the current end of the log.
    """
    file = folder / "positions.json"
    if not file.exists():
        positions = system.state.events.positions()
        tables = system.state.tables(system.sources, make=False)
        for table in tables.values():  # the end of a partition that is gone from the log is found in the tables
            for name, last in reached_in(table).items():
                positions.setdefault(name, last)
        write_durably(file, msgspec.json.encode(dict(sorted(positions.items()))))
    return msgspec.json.decode(file.read_bytes(), type=dict[str, int])


def _event_files(
    system: System,
    sources: Mapping[str, Source],
    positions: Mapping[str, int],
    folder: Path,
    events: Mapping[str, Path],
) -> dict[str, EventFiles]:
    found = {name: folder_events(sources[name], Path(path), folder / "given" / name) for name, path in events.items()}
    rest = [source for name, source in sources.items() if name not in found]
    if not rest:
        return found
    if system.state.tables(system.sources, make=False):
        copy_to_tables(system)
        tables = system.state.tables(system.sources, make=False)
        return found | {s.name: table_events(s, table_files(tables[s.name]), list(positions), positions) for s in rest}
    with ExitStack() as stack:  # without tables of record, write the log as tables for this run only
        made: dict[str, Table] = {}
        for source in rest:
            url = store_url("delta", folder / "tables" / source.name)
            made[source.name] = store.open(url, "table")
            stack.callback(made[source.name].close)
        materialise(system.state.events, rest, made)
        for s in rest:
            found[s.name] = table_events(s, table_files(made[s.name]), list(positions), positions)
    return found


def files_state(events: Mapping[str, Path]) -> list[Any]:
    """Return the names, sizes and modification times of Parquet files. If a file changes, these change."""
    out: list[Any] = []
    for name, path in sorted(events.items()):
        files = sorted(Path(path).glob("*.parquet")) if Path(path).is_dir() else [Path(path)]
        out += [[name, str(f.absolute()), f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.is_file()]
    return out


def _plain(what: Sequence[Any]) -> list[Any]:
    return [columns_hash(one) if isinstance(one, Columns) else one for one in what]
