"""Batch scoring: a table of requests to logged predictions, in parts, each exactly once however often it is resumed."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.clock import Clock
from trimtab.core.columns import Column, Columns
from trimtab.core.errors import Conflict, Misuse
from trimtab.core.hashing import bytes_hash, content_hash
from trimtab.core.records import Mode, Prediction
from trimtab.core.time import format_moment
from trimtab.serving.answering import RowScorer, ServedVersion
from trimtab.serving.inputs import OfflineInputs
from trimtab.serving.prediction_ids import batch_prediction_ids
from trimtab.serving.prediction_log import PredictionLog
from trimtab.store.ports import Catalog, Put

KIND = "batch"  # of the manifests in the catalogue
PART_ROWS = 50_000
LEASE_S = 60.0  # how long a part may take before somebody else may go on with the batch


class Part(msgspec.Struct, frozen=True):
    """Where the predictions of one part stand in the prediction log."""

    partition: str
    first: int
    rows: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch is made of and how far it has come; a record of the catalogue."""

    format: Literal[1] = 1
    id: str
    model: str
    version: str
    requests: str  # hash of the table and its moments
    rows: int
    part_rows: int
    made_at_us: int
    positions: dict[str, int]  # P of the first run; a run that is resumed evaluates as of the same
    parts: tuple[Part, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every row has been answered."""
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
    mode: Mode = "batch",
    part_rows: int = PART_ROWS,
    progress: Callable[[int, int], object] | None = None,
) -> Manifest:
    """Answer every row of a table and log the answers; the finished manifest.

    Calling it again with the same table and version does nothing that was done: parts that are in the log are found
    there by their identifiers, which follow from the batch and the row.

    Args:
        served: Which version answers, and as what.
        requests: The request's columns, one row a question.
        at_us: The moment each row is asked about (int64 microseconds), or one moment for all.
        inputs: Evaluates the features.
        scorer: The fitted model.
        log: Where the predictions go.
        catalog: Where the manifest is kept.
        clock: When the batch was made.
        batch_id: Its name; left out, the hash of version, table and moments.
        mode: What the predictions say they are: "batch", or "precomputed" for answers made ahead.
        part_rows: Rows evaluated, scored and logged together.
        progress: Called after each part with the rows done and the rows there are.

    Raises:
        Misuse: A column is missing or of the wrong type, a key or moment is null, or the lengths differ.
        Conflict: A batch of this name has another table or version, or somebody else is scoring it now.
    """
    moments = np.full(requests.rows, at_us, np.int64) if isinstance(at_us, int) else np.asarray(at_us, np.int64)
    table = _checked(inputs, requests, moments)
    if part_rows < 1:
        raise Misuse(f"batch: part_rows={part_rows}. Give at least 1.")
    digest = _table_hash(table, moments)
    name = batch_id or content_hash([served.version, digest])[:32]
    now_us = clock.now_us()
    if moments.size and moments.max() > now_us:
        raise Misuse(f"batch: row {moments.argmax()} asks about {format_moment(int(moments.max()))}, which is to come.")
    record = batch_manifest(catalog, name)
    frames, positions = inputs.snapshot(None if record is None else record.positions)
    manifest = Manifest(
        id=name,
        model=served.model,
        version=served.version,
        requests=digest,
        rows=table.rows,
        part_rows=part_rows,
        made_at_us=now_us,
        positions=dict(positions),
    )
    lease, holder = f"batch/{name}", uuid.uuid4().hex
    if not catalog.acquire(lease, holder, LEASE_S):
        raise Conflict(f"batch {name!r}: somebody else is scoring it. If that has ended, try again in {LEASE_S:g} s.")
    try:
        manifest, revision = _begin(catalog, manifest)
        resumed = record is not None
        batch = _Batch(served, inputs, scorer, mode)
        while not manifest.complete:
            start = sum(part.rows for part in manifest.parts)
            rows = range(start, min(start + manifest.part_rows, manifest.rows))
            ids = batch_prediction_ids(name, manifest.made_at_us, rows)
            place = log.locate(ids[0]) if resumed else None  # appended, but the manifest did not hear of it any more
            resumed = False
            if place is None:
                cut = slice(rows.start, rows.stop)
                made = batch.predictions(table.take(cut), moments[cut], frames, ids, manifest)
                if not catalog.acquire(lease, holder, LEASE_S):
                    raise Conflict(
                        f"batch {name!r}: a part took over {LEASE_S:g} s, and somebody else went on with it."
                    )
                place = (log.log.partition, log.append(made).start)
            manifest = msgspec.structs.replace(manifest, parts=(*manifest.parts, Part(*place, len(rows))))
            catalog.write([Put(KIND, name, msgspec.json.encode(manifest), expected=revision)])
            revision += 1
            if progress is not None:
                progress(rows.stop, manifest.rows)
    finally:
        catalog.release(lease, holder)
    return manifest


def batch_predictions(manifest: Manifest, log: PredictionLog) -> Iterator[list[Prediction]]:
    """The predictions of a batch, part by part, in the order of its table."""
    for part in manifest.parts:
        yield log.read_range(part.partition, part.first, part.rows)


def batch_manifest(catalog: Catalog, batch_id: str) -> Manifest | None:
    """The manifest of a batch, None when there is none of this name."""
    record = catalog.get(KIND, batch_id)
    return None if record is None else msgspec.json.decode(record.body, type=Manifest)


class _Batch:
    """Makes the predictions of a part."""

    def __init__(self, served: ServedVersion, inputs: OfflineInputs, scorer: RowScorer, mode: Mode) -> None:
        self._served = served
        self._inputs = inputs
        self._scorer = scorer
        self._mode: Mode = mode

    def predictions(
        self, table: Columns, at_us: NDArray[Any], frames: Any, ids: list[str], manifest: Manifest
    ) -> Iterator[Prediction]:
        """One after the other, so that only their encoded form is ever there in full."""
        matrix, codes = self._inputs.compute(table, at_us, frames)
        scores = np.asarray(self._scorer.predict(matrix), np.float64)
        width, served, encode = matrix.shape[1], self._served, msgspec.msgpack.Encoder().encode
        values, reasons = matrix.astype("<f8", copy=False).tobytes(), codes.tobytes()
        keys = table[self._inputs.features.request.key].values.tolist()
        lists = [column.to_list() for column in table.by_name.values()]
        return (
            Prediction(
                id=ids[n],
                request_id=str(key),
                model=served.model,
                version=served.version,
                arm=served.arm,
                mode=self._mode,
                made_at_us=manifest.made_at_us,
                at_us=moment,
                positions=manifest.positions,
                score=score,
                request=encode(row),
                values=values[8 * width * n : 8 * width * (n + 1)],
                reasons=reasons[width * n : width * (n + 1)],
            )
            for n, (key, moment, score, row) in enumerate(
                zip(keys, at_us.tolist(), scores.tolist(), zip(*lists, strict=True), strict=True)
            )
        )


def _begin(catalog: Catalog, fresh: Manifest) -> tuple[Manifest, int]:
    """The manifest to go on from, and its revision."""
    record = catalog.get(KIND, fresh.id)
    if record is None:
        catalog.write([Put(KIND, fresh.id, msgspec.json.encode(fresh), expected=0)])
        return fresh, 1
    found = msgspec.json.decode(record.body, type=Manifest)
    if (found.version, found.requests) != (fresh.version, fresh.requests):
        what = "version" if found.version != fresh.version else "table"
        raise Conflict(f"batch {fresh.id!r}: it was begun with another {what}. Give this one another name, or none.")
    return found, record.revision


def _checked(inputs: OfflineInputs, requests: Columns, at_us: NDArray[Any]) -> Columns:
    request = inputs.features.request
    what = f"batch of request {request.name!r}"
    for name, dtype in request.columns.items():
        if name not in requests:
            raise Misuse(f"{what}: needs a column {name!r} of {dtype}; there are {', '.join(requests.names)}.")
        if requests[name].dtype != dtype:
            raise Misuse(f"{what}: column {name!r} must be {dtype}; it is {requests[name].dtype}.")
    unknown = [name for name in requests.names if name not in request.columns]
    if unknown:
        raise Misuse(f"{what}: column {unknown[0]!r} is not declared. Leave it out, or correct its name.")
    if len(at_us) != requests.rows:
        raise Misuse(
            f"{what}: {requests.rows} rows, but {len(at_us)} moments in at_us. Give one a row, or one for all."
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
