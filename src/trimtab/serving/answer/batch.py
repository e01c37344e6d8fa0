"""Score a table of requests as a batch, and log the predictions.

The table is scored in parts. A batch can be resumed, and each part is logged exactly once.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import reduce
from itertools import chain, islice
from time import monotonic
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.clock import Clock
from trimtab.core.columns.data import Column, Columns
from trimtab.core.errors import Conflict, Misuse
from trimtab.core.hashing import bytes_hash, content_hash
from trimtab.core.records import Mode, Prediction
from trimtab.core.shown import Shown
from trimtab.core.time import format_time
from trimtab.serving.answer.batch_rows import BatchRows
from trimtab.serving.answer.inputs import OfflineInputs
from trimtab.serving.answer.served import RowScorer, ServedVersion
from trimtab.serving.log.prediction_ids import batch_prediction_ids
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.store.ports import Catalog, Put, read_record

KIND = "batch"  # the kind of the manifests in the catalogue
PART_ROWS = 12_500
_SCORING = 2  # the number of parts that are scored at once
_TOGETHER = 4  # after the first part, wait for this many scored parts (or all that were begun), and log them together
_AHEAD = 8  # the most parts that are being scored, wait to be scored, or are scored and wait to be logged
LEASE_S = 60.0  # if the lease of a batch is not renewed for this long, another process may resume the batch
_T = TypeVar("_T")


class Part(msgspec.Struct, frozen=True):
    """A range of positions in the prediction log that has consecutive predictions of a batch."""

    partition: str
    first: int
    rows: int


class Manifest(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The definition and the progress of a batch, stored in the catalogue."""

    format: Literal[1] = 1
    id: str
    model: str
    version: str
    requests: str  # the hash of the table and of its times
    rows: int
    part_rows: int
    made_at_us: int
    positions: dict[str, int]  # positions of the event log up to which events are used, also by resumed runs
    parts: tuple[Part, ...] = ()

    @property
    def complete(self) -> bool:
        """Return whether every row has been answered."""
        return sum(part.rows for part in self.parts) == self.rows


def score_table(
    served: ServedVersion,
    requests: Columns,
    at_us: NDArray[Any] | int,
    *,
    inputs: OfflineInputs,
    scorer: RowScorer,
    log: PredictionLog,
    catalog: Catalog,
    clock: Clock,
    batch_id: str | None = None,
    holder: str | None = None,
    mode: Mode = "batch",
    part_rows: int = PART_ROWS,
    progress: Callable[[int, int], object] | None = None,
) -> Manifest:
    """Answer every row of a table, log the predictions, and return the finished manifest.

    A second call with the same table and version does only what is missing. The manifest lists the parts that are done.
    If a call was killed after it logged a part and before it updated the manifest, the next call finds the part in the
    log by the ids of its predictions, which are computed from the batch and the row.

    Args:
        requests: The columns of the request, with one row for each request.
        at_us: The time as of which each row is answered (int64 microseconds), or one time for all rows.
        scorer: The fitted model. It is called in two other threads.
        batch_id: The name of the batch. By default, this is the hash of version, table and times.
        holder: The name under which this call holds the lease of the batch. By default, this is a new name.
        mode: The mode of the predictions: "batch", or "precomputed" for answers that are stored for later requests.
        part_rows: The number of rows that are scored and logged together.
        progress: Called after each append with the number of rows done and the total number of rows.

    Raises:
        Misuse: A column is missing, of the wrong type or not declared, a key is null, `at_us` has the wrong length or a
            time in the future, or `part_rows` is below 1.
        ModelFailed: The model raised an error, or returned no finite number for a row. The earlier parts are logged.
        Conflict: A batch with this name has another table or version, or another process is scoring this batch.
    """
    times_us = np.full(requests.rows, at_us, np.int64) if isinstance(at_us, int) else np.asarray(at_us, np.int64)
    table = _checked(inputs, requests, times_us)
    if part_rows < 1:
        raise Misuse(f"batch: part_rows={part_rows}. Give at least 1.")
    digest = _table_hash(table, times_us)
    name = batch_id or content_hash([served.version, digest])[:32]
    now_us = clock.now_us()
    lease, holder, begun_s = lease_of(name), holder or uuid.uuid4().hex, monotonic()
    if not catalog.acquire(lease, holder, LEASE_S):
        raise Conflict(
            f"batch {name!r}: another process is scoring this batch. Try again when that process has ended, or if it "
            f"was killed, {LEASE_S:g} s later."
        )
    held = None
    try:
        record = batch_manifest(catalog, name)
        # the clock may have been set back since the batch began. # D170
        latest_us = now_us if record is None else max(now_us, record.made_at_us)
        if times_us.size and times_us.max() > latest_us:
            latest = format_time(int(times_us.max()))
            raise Misuse(
                f"batch: the time of row {times_us.argmax()}, {latest}, is in the future. Leave such rows out."
            )
        frames, positions = inputs.snapshot(None if record is None else record.positions)
        fresh = Manifest(
            id=name,
            model=served.model,
            version=served.version,
            requests=digest,
            rows=table.rows,
            part_rows=part_rows,
            made_at_us=now_us,
            positions=dict(positions),
        )
        held = _Held(catalog, holder, begun_s, *_begin(catalog, fresh), progress)
        left = _left(held.manifest)
        while record is not None and left:  # an earlier call may have logged the next parts, but not listed them
            place = log.locate(batch_prediction_ids(name, held.manifest.made_at_us, left[0])[0])
            if place is None:
                break
            held.add([Part(*place, len(left.pop(0)))])
        common = Prediction(
            id=name,
            request_id="",
            model=served.model,
            version=served.version,
            arm=served.arm,
            mode=mode,
            made_at_us=held.manifest.made_at_us,
            at_us=0,
            positions=held.manifest.positions,
            score=0.0,
            request=b"",
            values=b"",
            reasons=b"",
        )
        batch = BatchRows(served, inputs, scorer, common, table, times_us, frames)
        _log_all(batch, left, log, held, clock)
    finally:
        # if an append may still be running, keep the lease until it expires, so that no process resumes the batch
        if held is None or not held.appending:
            catalog.release(lease, holder)
    return held.manifest


def lease_of(batch_id: str) -> str:
    """Return the name of the lease that a process holds while it scores a batch."""
    return f"batch/{batch_id}"


def batch_predictions(manifest: Manifest, log: PredictionLog) -> Iterator[list[Prediction]]:
    """Yield the predictions of a batch in the order of its table, in lists of at most `part_rows`."""
    for part in manifest.parts:
        for done in range(0, part.rows, manifest.part_rows):
            rows = min(manifest.part_rows, part.rows - done)
            yield log.read_range(part.partition, part.first + done, rows)


def batch_manifest(catalog: Catalog, batch_id: str) -> Manifest | None:
    """Return the manifest of a batch, or None when there is no batch with this name."""
    return read_record(catalog, KIND, batch_id, Manifest)


def batch_manifests(catalog: Catalog) -> list[Manifest]:
    """Return the manifests of all batches."""
    return [msgspec.json.decode(record.body, type=Manifest) for record in catalog.find(KIND, "")]


class _Scored(msgspec.Struct, frozen=True):
    """A part that is being scored or logged: its rows, and the id of its first prediction."""

    rows: range
    first_id: str


class _Held:
    """A batch for which this process holds the lease, with its manifest."""

    def __init__(
        self,
        catalog: Catalog,
        holder: str,
        held_at_s: float,
        manifest: Manifest,
        revision: int,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        self.manifest = manifest
        self._catalog = catalog
        self._holder = holder
        self._revision = revision
        self._progress = progress
        self._held_at_s = held_at_s  # the time (`monotonic`) at which the lease was last renewed
        self._lapsed = False  # whether another process may have logged parts that are not in the manifest
        self._keeping = threading.Lock()
        self.appending = False  # whether an append to the log may be running

    def keep(self) -> None:
        """Renew the lease, and check that no other process has resumed the batch.

        Raises:
            Conflict: The lease expired, and another process resumed the batch.
        """
        with self._keeping:
            name, record, now_s = self.manifest.id, None, monotonic()
            if self._catalog.acquire(lease_of(name), self._holder, LEASE_S):
                record = self._catalog.get(KIND, name)  # another process may have had the lease, and released it
            if record is None or record.revision != self._revision:
                raise Conflict(
                    f"batch {name!r}: this process paused for over {LEASE_S:g} s, and another one resumed the batch. "
                    "Once that process has ended, run the batch again: nothing is logged twice."
                )
            self._lapsed |= now_s - self._held_at_s >= LEASE_S
            self._held_at_s = now_s

    def keep_until(self, end: Future[_T]) -> Future[_T]:
        """Wait for a future, and keep the lease renewed meanwhile.

        Raises `Conflict` in the same way as `keep`.
        """
        while not wait([end], LEASE_S / 3).done:
            self.keep()
        return end

    def outlast(self, append: Future[Any]) -> None:
        """After a failure, wait until an append has ended. Keep the lease meanwhile, unless another process has it."""
        while not wait([append], LEASE_S / 3).done:
            self._catalog.acquire(lease_of(self.manifest.id), self._holder, LEASE_S)

    def is_alone(self) -> bool:
        """Return whether the next parts can be logged without searching the log for them first.

        They can if the lease did not expire since the last part (so no other process has logged these parts) and was
        renewed in the last 30 s (so it lasts until the parts are logged).

        Raises:
            Conflict: The lease expired, and another process resumed the batch.
        """
        paused = monotonic() - self._held_at_s > LEASE_S / 2  # `keep_until` renews the lease every 20 s
        if paused:
            self.keep()
        return not (paused or self._lapsed)

    def add(self, parts: Sequence[Part], *, found: bool = False) -> None:
        """Add parts that are in the log to the manifest.

        `found` is whether another process logged the last of these parts. It may have logged the next part as well.
        """
        self.manifest = msgspec.structs.replace(self.manifest, parts=reduce(_joined, parts, self.manifest.parts))
        name = self.manifest.id
        self._catalog.write([Put(KIND, name, msgspec.json.encode(self.manifest), expected=self._revision)])
        self._revision += 1
        self._lapsed = found  # the write succeeded, so no other process has changed the manifest meanwhile
        if self._progress is not None:
            self._progress(sum(part.rows for part in self.manifest.parts), self.manifest.rows)


def _log_all(batch: BatchRows, left: Sequence[range], log: PredictionLog, held: _Held, clock: Clock) -> None:
    """Log part after part while the model scores the next parts.  # D108

    One thread computes features, two compute scores, and one writes to the log. The calling thread waits for these
    threads and renews the lease. Parts that are scored while others are logged are then logged together. A part is
    logged only when those before it are in the manifest, or together with them.
    """
    batch_id = held.manifest.id
    scoring: deque[tuple[_Scored, Future[list[bytes]]]] = deque()
    appending: Future[tuple[list[Part], bool]] | None = None

    def append(parts: Sequence[_Scored], packs: Sequence[Sequence[bytes]]) -> tuple[list[Part], bool]:
        """Log parts. Return where they are, and whether the last of them was in the log already."""
        try:
            at_us = max(clock.now_us(), held.manifest.made_at_us)  # the clock may have been set back. # D170
            if held.is_alone():
                positions = log.append_packs([*chain.from_iterable(packs)], at_us=at_us)
                return [Part(log.log.partition, positions.start, len(positions))], False
            logged, place = list[Part](), None
            for part, made in zip(parts, packs, strict=True):
                place = log.locate(part.first_id)  # another process may have logged the part and then ended
                held.keep()  # the search for the part may have taken long
                partition, first = place or (log.log.partition, log.append_packs(made, at_us=at_us).start)
                logged.append(Part(partition, first, len(part.rows)))
            return logged, place is not None
        finally:
            held.appending = False

    def add_appended() -> None:
        if appending is not None:
            logged, found = held.keep_until(appending).result()
            held.add(logged, found=found)

    with _threads(1) as appends, _threads(_SCORING) as scores, _threads(1) as evaluations:
        try:
            evaluated = batch.parts(left)
            more = True
            while more or scoring:
                if more and len(scoring) < _AHEAD:
                    part = held.keep_until(evaluations.submit(next, evaluated, None)).result()
                    more = part is not None
                    if part is not None:
                        first = range(part.rows.start, part.rows.start + 1)
                        one = _Scored(part.rows, *batch_prediction_ids(batch_id, held.manifest.made_at_us, first))
                        scoring.append((one, scores.submit(batch.packs, part)))
                if not scoring:
                    break
                least = min(len(scoring), _TOGETHER if appending or held.manifest.parts else 1)
                if more and len(scoring) < _AHEAD:  # log now only if no append is running and `least` are scored
                    busy = appending is not None and not appending.done()
                    if busy or not all(found.done() for _, found in islice(scoring, least)):
                        continue
                for _, found in islice(scoring, least):
                    held.keep_until(found)
                add_appended()
                appending = None
                group: list[tuple[_Scored, Future[list[bytes]]]] = []
                while scoring and scoring[0][1].done() and not (group and scoring[0][1].exception()):
                    group.append(scoring.popleft())
                    if not held.manifest.parts:
                        break  # log the first part alone, and soon
                packs, parts = [found.result() for _, found in group], [one for one, _ in group]
                held.keep()
                held.appending = True
                appending = appends.submit(append, parts, packs)
            add_appended()
        finally:
            scores.shutdown(wait=False, cancel_futures=True)
            if appending is not None:
                held.outlast(appending)


def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "batch")


def _joined(parts: tuple[Part, ...], part: Part) -> tuple[Part, ...]:
    """Return the parts with one more part at the end.

    A part that directly follows the previous part in the log is merged with it, so that manifests stay short.

    >>> _joined((Part("p", 1, 10),), Part("p", 11, 5))
    (Part(partition='p', first=1, rows=15),)
    """
    if parts and (parts[-1].partition, parts[-1].first + parts[-1].rows) == (part.partition, part.first):
        return *parts[:-1], Part(part.partition, parts[-1].first, parts[-1].rows + part.rows)
    return *parts, part


def _left(manifest: Manifest) -> list[range]:
    """Return the row ranges of the parts that are not in the manifest yet."""
    done = sum(part.rows for part in manifest.parts)
    starts = range(done, manifest.rows, manifest.part_rows)
    return [range(start, min(start + manifest.part_rows, manifest.rows)) for start in starts]


def _begin(catalog: Catalog, fresh: Manifest) -> tuple[Manifest, int]:
    """Store the manifest of a new batch, or read that of a batch that was begun before. Return it with its revision.

    Raises:
        Conflict: A batch with this name has another table or version.
    """
    record = catalog.get(KIND, fresh.id)
    if record is None:
        catalog.write([Put(KIND, fresh.id, msgspec.json.encode(fresh), expected=0)])
        return fresh, 1
    found = msgspec.json.decode(record.body, type=Manifest)
    if (found.version, found.requests) != (fresh.version, fresh.requests):
        what = "version" if found.version != fresh.version else "table"
        raise Conflict(f"batch {fresh.id!r}: was begun with another {what}. Give this batch another name, or none.")
    return found, record.revision


def _checked(inputs: OfflineInputs, requests: Columns, at_us: NDArray[Any]) -> Columns:
    request = inputs.features.request
    what = f"batch of request {request.name!r}"
    for name, dtype in request.columns.items():
        if name not in requests:
            raise Misuse(f"{what}: needs a column {name!r} of {dtype}; its columns are {', '.join(requests.names)}.")
        if requests[name].dtype != dtype:
            raise Misuse(f"{what}: column {name!r} must be {dtype}; it is {requests[name].dtype}.")
    unknown = [name for name in requests.names if name not in request.columns]
    if unknown:
        raise Misuse(f"{what}: column {unknown[0]!r} is not declared. Leave it out, or correct its name.")
    if len(at_us) != requests.rows:
        raise Misuse(
            f"{what}: {requests.rows} rows, but {len(at_us)} times in at_us. Give one time per row, or one for all."
        )
    missing = np.flatnonzero(~requests[request.key].present())
    if missing.size:
        raise Misuse(f"{what}: row {missing[0]} has no {request.key!r}. Every request needs its key.")
    return requests.select(request.columns)


def _table_hash(table: Columns, at_us: NDArray[Any]) -> str:
    parts = [at_us.tobytes()]
    for name, column in table.by_name.items():
        parts.append(f"{name} {column.dtype} {len(column)}".encode())
        parts.append(column.present().tobytes())
        parts.append(_column_bytes(column))
    return content_hash([bytes_hash(part) for part in parts])


def _column_bytes(column: Column) -> bytes:
    if column.dtype == "str":
        return msgspec.msgpack.encode(column.to_list())
    values = column.values if column.valid is None else np.where(column.valid, column.values, 0)
    return np.ascontiguousarray(values).tobytes()
