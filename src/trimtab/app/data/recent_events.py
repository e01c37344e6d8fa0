"""The newest events of sources that do not fit into memory, as a sample for the checks of inputs."""

from __future__ import annotations

import math
import shutil

import msgspec
import numpy as np

from trimtab.app.system import System
from trimtab.core.time import HOUR_US, MINUTE_US
from trimtab.events.columns.frames import EventFrame
from trimtab.events.definitions import Source
from trimtab.monitoring.inputs.checks.feeds import REACH_US

_AGAIN_US = 30 * MINUTE_US  # a sample is read again at this age; less than an hour, after which a feed may be late
_ALL_EVENTS = 60_000  # all samples together have about this many events, of at most a kilobyte each


class _Sample(msgspec.Struct, frozen=True, eq=False):
    frame: EventFrame
    read_at_us: int


class RecentEvents:
    """Samples of the events that became known in the last six weeks, read from the tables of record.

    All samples together take less than 60 MB. The sample of a source with few events is complete. Otherwise, it has all
    versions of each n-th id (by the hash of the id), so that repetitions and corrections are recognised.
    """

    def __init__(self, system: System, model: str) -> None:
        self._system = system
        self._model = model  # part of the name of the folder: only one process at a time uses the loop of a model
        self._samples: dict[str, _Sample] = {}

    def frame(self, source: str) -> EventFrame:
        """Return the sample of a source, at most half an hour old. Its only columns are the columns of numbers."""
        now_us, known = self._system.clock.now_us(), self._samples.get(source)
        if known is None or not 0 <= now_us - known.read_at_us < _AGAIN_US:
            frame = self._read(self._system.definitions.sources[source], now_us - REACH_US)
            known = self._samples[source] = _Sample(frame, now_us)
        return known.frame

    def _read(self, source: Source, since_us: int) -> EventFrame:
        from trimtab.app.features.recorded_events import recorded_events, table_files  # imported here: they load DuckDB
        from trimtab.features.parts.chosen_events import with_all_versions
        from trimtab.features.parts.event_files import connected, literal, parquet
        from trimtab.features.parts.event_parts import frame_of_part, settle, split
        from trimtab.features.parts.parted_views import LEAST_MEMORY_BYTES, claimed, named_errors

        system = self._system
        most = _ALL_EVENTS // len(system.sources)
        numbers = [name for name, dtype in source.columns.items() if dtype in ("float", "int")]
        folder = system.state_folder / "backfill" / f"recent-{self._model}-{source.name}"
        with (
            claimed(folder),
            named_errors(folder),
            connected(folder / "overflow", LEAST_MEMORY_BYTES // 2) as connection,
        ):
            files = folder / "files"
            shutil.rmtree(files, ignore_errors=True)  # left by a process that was killed
            files.mkdir()
            events = recorded_events(system, source)
            new = f"FROM ({events.select}) WHERE known_at > {since_us}"
            counted = connection.execute(f"SELECT count(*) {new}").fetchone()
            step = max(1, math.ceil((counted[0] if counted else 0) / most))
            ids, limit_bytes = files / "ids.parquet", LEAST_MEMORY_BYTES // 2
            connection.execute(f"COPY (SELECT h {new} AND h % {step} = 0) TO {literal(ids)} (FORMAT parquet)")
            chosen = with_all_versions(events, [ids], files, connection, limit_bytes)
            settled = settle(chosen, files / "versions", connection)
            frame = frame_of_part(
                split(settled, chosen, (), numbers, 1, files / "events", connection), 0, connection
            )  # fmt: skip
            files_of = table_files(system.state.tables(system.sources, make=False)[source.name])
            loads = f'SELECT "_partition", "_position", epoch_us("_append_at") // {HOUR_US} FROM {parquet(files_of)} '
            new = f'WHERE "_history" AND epoch_us("_known_at") > {since_us} AND hash("_id") % {step} = 0'
            found = connection.execute(loads + new).fetchall() if files_of else []
            shutil.rmtree(folder, ignore_errors=True)
        hours = {(name, position): hour for name, position, hour in found}
        places = zip(frame.partition.tolist(), frame.position.tolist(), strict=True)
        loaded_h = [hours.get((frame.partitions[part], position), 0) for part, position in places]
        return msgspec.structs.replace(frame, loaded_h=np.array(loaded_h, np.int32))
