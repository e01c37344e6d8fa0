"""Evaluate views from events on disk, one part of the entities after another.

For a history that does not fit in memory, this replaces `evaluate`. The values are the same, bit for bit.
"""

from __future__ import annotations

import fcntl
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab import store
from trimtab.core.clock import Clock
from trimtab.core.closing import Closing
from trimtab.core.columns.data import Column
from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound, Unavailable
from trimtab.core.hashing import bytes_hash, content_hash
from trimtab.core.urls import store_url
from trimtab.events.columns.frames import EventFrame
from trimtab.features.definitions import Join, View
from trimtab.features.offline.as_known_now import as_known_now
from trimtab.features.offline.view_columns import evaluate_view
from trimtab.features.parts.event_files import EventFiles, connected
from trimtab.features.parts.event_parts import TOGETHER, Split, entities_of, frame_of_part, parts_of, settle, split
from trimtab.features.parts.part_answers import Answers, packed, scattered, unpacked
from trimtab.run.steps import step
from trimtab.store.embedded_files import catalog_file

Array = NDArray[Any]

LEAST_MEMORY_BYTES = 256 << 20
# To choose the number of parts, each event counts as this many bytes. Evaluation needs only about 300 bytes per event,
# but some parts are larger than others, because some entities have many events.
_PER_EVENT_BYTES = 4_096
_LAYOUT = 2  # the version of the format of the files in the folder


class PartedViews(Closing):
    """Evaluates views from events on disk.

    All results are stored in a folder, so an interrupted run continues where it stopped. Only one process at a time may
    use the folder; see `claimed`.

    Args:
        folder: The folder. It is created if needed. It may also have results for other events, which are not used.
        address: A hash that identifies these events, for example of their positions in the log, or of the files.
        memory_bytes: About how much memory to use, including that of Python and of the requests.
        clock: Gives the time that is stored with finished parts.
        done: Called after each part that was evaluated, and after each view whose events were split.

    Raises:
        Misuse: The memory limit is too low.
    """

    def __init__(
        self,
        folder: Path,
        events: Mapping[str, EventFiles],
        *,
        address: str,
        memory_bytes: int,
        clock: Clock,
        done: Callable[[], object] = lambda: None,
    ) -> None:
        if memory_bytes < LEAST_MEMORY_BYTES:
            raise Misuse(f"memory: {memory_bytes:,} bytes. Give at least {LEAST_MEMORY_BYTES:,} (256 MiB).")
        self.address = content_hash([address, duckdb.__version__, np.__version__, memory_bytes, _LAYOUT])
        self.folder = folder
        self._events = dict(events)
        self.memory_bytes = memory_bytes
        self._clock = clock
        self._done = done
        self._counts: dict[str, int] = {}
        self._splits: dict[str, Split] = {}
        self._settled: dict[str, str] = {}
        self._catalog = store.open(store_url("sqlite", catalog_file(self.folder)), "catalog", clock=clock)
        self._blob = store.open(store_url("file", self.folder / "blob"), "blob")
        self._connection = self._connected(4)  # DuckDB may use a quarter of the memory

    def parts(self, view: View) -> int:
        """Return the number of parts that the entities of a view are split into."""
        name = view.source.name
        if name not in self._counts:
            with named_errors(self.folder, name):
                self._counts[name] = self._of(view).count(self._connection)
        return max(1, math.ceil(self._counts[name] * _PER_EVENT_BYTES / self.memory_bytes))

    def answer(self, join: Join, keys: Sequence[Column], at_us: Array, *, known_by_us: int | None = None) -> Answers:
        """Return the value and the reason code of each feature of a view, for the entity in each row of `keys`.

        Args:
            at_us: The time of each row in microseconds, int64.
            known_by_us: If given, the features are as if all that was known by then had always been known; see
                `as_known_now`.
        """
        divided = self._split(join.view)
        address = content_hash([self.address, join.view.hash, known_by_us, divided.parts, _digest(keys, at_us)])
        part_of = parts_of(keys, divided.parts, self._connection)
        order = np.argsort(part_of, kind="stable")
        bounds = np.searchsorted(part_of[order], np.arange(divided.parts + 1))
        found: list[tuple[Array, Answers]] = []
        for part in range(divided.parts):
            rows = order[bounds[part] : bounds[part + 1]]
            if len(rows) or not len(at_us):
                of_part, at = [key.take(rows) for key in keys], at_us[rows]
                made = step(
                    self._catalog,
                    self._blob,
                    "features",
                    content_hash([address, part]),
                    lambda of_part=of_part, at=at, part=part: packed(  # type: ignore[misc]  # binds the current values
                        self._evaluated(join.view, of_part, at, divided, part, known_by_us)
                    ),
                    clock=self._clock,
                )
                found.append((rows, unpacked(made.result)))
            self._done()
        return scattered(found, len(at_us))

    def entities(self, view: View, known_by_us: int | None) -> list[Column]:
        """Return the key columns of the entities with a record known at a time (None: at any time), in order."""
        divided = self._split(view)
        with named_errors(self.folder):
            return entities_of(divided, known_by_us, self._connection)

    def prepare(self, views: Sequence[View]) -> None:
        """Split the events that the given views need."""
        for view in views:
            self._split(view)
            self._done()

    def close(self) -> None:
        self._connection.close()
        self._catalog.close()
        self._blob.close()

    def _of(self, view: View) -> EventFiles:
        if view.source.name not in self._events:
            found = ", ".join(self._events) or "none"
            raise NotFound(
                f"view {view.name!r}: needs the events of {view.source.name!r}; found the events of {found}."
            )
        return self._events[view.source.name]

    def _connected(self, divided_by: int) -> duckdb.DuckDBPyConnection:
        return connected(self.folder / "overflow", self.memory_bytes // divided_by)

    def _split(self, view: View) -> Split:
        names = view.columns_read
        key = content_hash([view.source.hash, view.by, sorted(names)])[:16]
        if key not in self._splits:
            events, parts = self._of(view), self.parts(view)
            self._connection.close()  # closing frees DuckDB's memory for the next step
            try:
                name = view.source.name
                with named_errors(self.folder, name), self._connected(2) as connection:
                    if name not in self._settled:
                        versions = self.folder / f"{name}.versions.{self.address[:16]}"
                        together = min(TOGETHER, self.memory_bytes // _PER_EVENT_BYTES)  # not more than a part
                        self._settled[name] = settle(events, versions, connection, parts, together)
                    folder = self.folder / f"{name}.{key}.{self.address[:16]}"
                    self._splits[key] = split(
                        self._settled[name], events, view.by, sorted(names), parts, folder, connection
                    )
            finally:
                self._connection = self._connected(4)
        return self._splits[key]

    def _evaluated(
        self, view: View, keys: Sequence[Column], at_us: Array, divided: Split, part: int, known_by_us: int | None
    ) -> Answers:
        with named_errors(self.folder):
            frame = frame_of_part(divided, part, self._connection)
        known = frame if known_by_us is None else as_known_now(frame, known_by_us)
        return in_slices(view, keys, at_us, known, self._slices(view, known))

    def _slices(self, view: View, frame: EventFrame) -> int:
        """Return how many time intervals a part is evaluated in, so that it fits in memory; 1 for unlimited windows."""
        bounded = all(a.window_us is not None for a in view.features.values())
        return math.ceil(frame.rows * _PER_EVENT_BYTES / 4 / self.memory_bytes) if bounded else 1


def in_slices(view: View, keys: Sequence[Column], at_us: Array, frame: EventFrame, slices: int) -> Answers:
    """Evaluate a view by time intervals. Each interval only needs the events near it."""
    if slices <= 1:
        return evaluate_view(view, keys, at_us, frame)
    order = np.argsort(at_us, kind="stable")
    found = [
        (rows, evaluate_view(view, [key.take(rows) for key in keys], at_us[rows], frame))
        for rows in np.array_split(order, slices)
        if len(rows)
    ]
    return scattered(found, len(at_us))


def _digest(keys: Sequence[Column], at_us: Array) -> str:
    texts = [key.values.tolist() if key.dtype == "str" else key.to_list() for key in keys]
    return content_hash([bytes_hash(at_us.tobytes()), [bytes_hash(msgspec.msgpack.encode(t)) for t in texts]])


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """Lock a folder inside the block, so that no other process uses it. The folder is created if needed.

    Raises:
        Conflict: Another process uses the folder.
        Unavailable: The folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise Unavailable(f"{folder}: {error}. Check free space and access, and try again.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"{folder}: another process is computing the same features. Wait for it, or stop it."
            ) from None
        yield folder


@contextmanager
def named_errors(folder: Path, source: str | None = None) -> Iterator[None]:
    """Turn DuckDB's errors into trimtab's errors. `source` is the source whose files are read, if it is known."""
    try:
        yield
    except (duckdb.OutOfMemoryException, duckdb.IOException, OSError) as error:
        first = str(error).splitlines()[0]
        raise Unavailable(
            f"{folder}: {first} Free some memory or disk, or raise `memory_bytes`, and run it again. The next run "
            "continues where this one stopped."
        ) from error
    except duckdb.Error as error:  # the columns of the file could be read, but its values are damaged
        what = "" if source is None else f"events of {source!r}: "
        raise Corrupt(f"{what}{str(error).splitlines()[0]} Restore that file from a copy.") from error
