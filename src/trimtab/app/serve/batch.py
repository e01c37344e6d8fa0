"""Answer a table of requests as a batch. It can be resumed, written to a file, and stored for the service."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.app.models.answerers import refuse_before
from trimtab.app.system import System
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Column, Columns, column
from trimtab.core.errors import Conflict, Misuse, NotFound, Unavailable
from trimtab.core.hashing import bytes_hash, content_hash
from trimtab.core.records import Prediction
from trimtab.events import Rows, read_rows
from trimtab.events.files.files import problem_of
from trimtab.events.values.fitting import FileRows
from trimtab.features.definitions import Request
from trimtab.serving.answer.batch import Manifest, batch_manifest, batch_predictions, lease_of, score_table
from trimtab.serving.answer.batch_rows import off_lead
from trimtab.serving.answer.served import Answer, ServedVersion, shown
from trimtab.serving.log.prediction_record import prediction_columns
from trimtab.store.duckdb_opening import open_duckdb
from trimtab.store.durable_files import make_folder
from trimtab.store.file_lock import FileLock
from trimtab.store.regular_file import other_kind

Mode = Literal["batch", "precomputed"]
OnError = Literal["refuse", "skip"]
_UNUSED_KEY = b"\xff"  # a key that no stored answer has


class AnsweredTable(Manifest, frozen=True, kw_only=True):
    """A batch, and the rows of its table that have no answer, because they do not fit the request."""

    answered_before: bool = False  # whether an earlier call answered the same table, and these are its answers
    not_at_lead: int = 0  # the number of answers given more than a day too early (before request time minus lead)
    unanswered: tuple[str, ...] = ()  # for each row without an answer: where it is, what was found, what was needed


def answer_table(
    system: System,
    model: str,
    requests: Rows,
    *,
    at_us: int | None,
    mode: Mode,
    out: Path | None,
    on_error: OnError,
    progress: Callable[[int, int], object] | None,
    again: bool = False,
) -> AnsweredTable:
    """Answer a table of requests; see `Project.predict_table`.

    With `again`, new predictions are made even if an earlier call answered the same table.
    """
    for name, given, known in (("mode", mode, get_args(Mode)), ("on_error", on_error, get_args(OnError))):
        if given not in known:
            raise Misuse(f"predict_table: {name}={given!r}. Needed: {' or '.join(map(repr, known))}.")
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise Misuse(f"--out {out}: the name must end in .csv or .parquet.")
    if out is not None and not out.absolute().parent.is_dir():
        raise NotFound(f"--out {out}: there is no folder {out.absolute().parent}. Make it, or name another file.")
    if out is not None and out.exists():
        raise Conflict(f"{out} exists and is not overwritten. Name another file, or remove it.")
    served = system.served(model)
    loaded = served.refresh()
    answerers = served.answerers
    answering = answerers.served(loaded)
    request = answerers.features(loaded).request
    inputs = answerers.offline(loaded)
    with ThreadPoolExecutor(1, "batch") as ahead:
        events = ahead.submit(inputs.snapshot, None)  # kept in memory until the batch asks for them
        rows = read_rows(requests, request.source, on_error="quarantine")
    events.result()
    table, where = rows.columns, str(requests) if isinstance(requests, str | Path) else "the table"
    unanswered = tuple(problem_of(bad, request.source.declared) for bad in rows.bad)
    if on_error == "skip":
        is_text = rows.kept is not None and isinstance(requests, str | Path)
        table, nameless = named_rows(request, rows, rows.bad[0].unit if rows.bad else "line" if is_text else "row")
        unanswered += nameless
    if unanswered and (on_error == "refuse" or not table.rows):
        more = f" {len(unanswered) - 1:,} more such rows follow." if len(unanswered) > 1 else ""
        skip = " Correct it, or skip such rows: on_error='skip'." if table.rows else " Correct it."
        raise Misuse(f"{where}, {unanswered[0]}{more}{skip}")
    absent = [name for name in request.columns if name not in table]
    if absent:
        raise Misuse(f"{where}: no column {absent[0]!r}, which request {request.name!r} declares. Add it.")
    table = table.select(request.columns)
    name = uuid.uuid4().hex if again else _batch_name(loaded.version.id, table, at_us, mode)
    begun = batch_manifest(system.state.catalog, name)
    made_at_us = system.clock.now_us() if begun is None else begun.made_at_us
    times = _times(request, table, made_at_us) if at_us is None else at_us
    kept_from_us = answerers.features_from_us(answerers.features(loaded))
    refuse_before(int(np.min(times, initial=made_at_us)), kept_from_us)
    try:
        if mode == "precomputed":
            system.state.answers.write({}, [_UNUSED_KEY])  # check first that answers can be stored
        with _scoring(system, name) as holder:
            manifest = score_table(
                answering,
                table,
                times,
                inputs=inputs,
                scorer=answerers.scorer(loaded),
                log=system.predictions,
                catalog=system.state.catalog,
                clock=VirtualClock(made_at_us) if begun is None else system.clock,
                batch_id=name,
                holder=holder,
                mode=mode,
                progress=progress,
            )
        if mode == "precomputed":
            served.precomputed.put(_stored(system, request, answering, manifest))
    finally:
        if mode == "precomputed":
            system.state.answers.release_writer()
    if out is not None:
        _write(system, manifest, out)
    before = begun is not None and begun.complete
    off = 0 if at_us is not None else int(off_lead(request, table, made_at_us).sum())
    return AnsweredTable(
        **msgspec.structs.asdict(manifest), answered_before=before, not_at_lead=off, unanswered=unanswered
    )


def named_rows(request: Request, rows: FileRows, unit: str) -> tuple[Columns, tuple[str, ...]]:
    """Return the rows that have a time and a key, and for each other row where it is and what it lacks."""
    table, lacking = rows.columns, []
    good = np.ones(table.rows, bool)
    for name in (request.time, request.key):
        there = table[name].present() if name in table else good
        for row in np.flatnonzero(good & ~there).tolist():
            number = row if rows.kept is None else int(rows.kept[row])
            parts = request.source.reading.key_of if name == request.key else ()
            lacks = next((part for part in parts if part in table and not table[part].present()[row]), name)
            lacking.append(f"{unit} {number + 1}, column {lacks!r}: needed a value, found none (missing).")
        good &= there
    return (table if good.all() else table.take(good)), tuple(lacking)


@contextmanager
def _scoring(system: System, name: str) -> Iterator[str]:
    """Yield a new name with which to take the lease of a batch. During the block, lock a file that has this name.

    The lock ends with the process. A process that continues the batch after a crash takes the locks of dead holders,
    and releases their leases. So it need not wait until these expire.
    """
    folder, catalog = system.state.folder / "batches", system.state.catalog
    try:
        make_folder(folder)
        for path in folder.glob(f"{name}.*.lock"):
            dead = FileLock.take(path)
            if dead is not None:
                catalog.release(lease_of(name), path.name.split(".")[1])
                path.unlink(missing_ok=True)
                dead.release()
        holder = uuid.uuid4().hex
        own = folder / f"{name}.{holder}.lock"
        lock = FileLock.take(own)
    except OSError as error:
        raise Unavailable(f"{folder}: cannot be written ({error}). Check space and access.") from error
    try:
        yield holder
    finally:
        own.unlink(missing_ok=True)
        if lock is not None:
            lock.release()


def _batch_name(version: str, table: Columns, at_us: int | None, mode: str) -> str:
    """Return the id of a batch.

    The same table, version, time and mode give the same id, so that no prediction is logged twice.
    """
    columns = [
        [name, of_column.dtype, bytes_hash(msgspec.msgpack.encode(of_column.to_list()))]
        for name, of_column in table.by_name.items()
    ]
    return content_hash([version, columns, at_us, mode])[:32]


def _times(request: Request, table: Columns, made_at_us: int) -> NDArray[Any]:
    """Return the time as of which to answer each request: its own time minus the lead, at most the batch's start."""
    times: NDArray[Any] = np.minimum(table[request.time].values - request.lead_us, made_at_us)
    return times


def _stored(
    system: System, request: Request, served: ServedVersion, manifest: Manifest
) -> Iterator[tuple[Any, str, str, Answer]]:
    """Yield for each row its request, id, version and answer, as they are stored for the service."""
    names = tuple(request.columns)
    for part in batch_predictions(manifest, system.predictions):
        for p in part:
            row = dict(zip(names, msgspec.msgpack.decode(p.request), strict=True))
            yield row, p.request_id, p.version, shown(p, served)


def flag_column(answers: Sequence[Answer | Prediction]) -> Column:
    """Return the flags of answers as a column of texts, null for those without flags."""
    return column("str", [", ".join(one.flags) or None for one in answers])


def _write(system: System, manifest: Manifest, out: Path) -> None:
    """Write the answers to a file, either completely or not at all.

    Raises:
        Misuse: `out` is a folder, or something else that is no file.
        Unavailable: The file cannot be written. The answers are logged, so another attempt only has to write the file.
    """
    import duckdb

    classes = system.registry.load(manifest.version).artifact.class_names
    made = batch_predictions(manifest, system.predictions)
    parts = [prediction_columns(part, classes).replace({"flags": flag_column(part)}) for part in [*made] or [[]]]
    several = ["prediction", *(f"scores.{name}" for name in classes)] if classes else []
    table = Columns.concat(parts).select(["id", "request_id", "model", "version", "at", "score", *several, "flags"])
    name = system.registry.get(manifest.version).name  # every answer shows this name of the version
    table = table.replace({"version": column("str", [name] * table.rows)})
    if (kind := other_kind(out)) is not None:
        raise Misuse(f"file {out}: is a {kind}. Give the name of a new file.")
    partial = out.with_name(out.name + ".partial")
    arrays = {name: of_column.values for name, of_column in table.by_name.items()}
    try:
        with open_duckdb() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.register("answers", arrays)
            connection.sql(
                'SELECT * REPLACE (make_timestamptz("at") AS "at", flags::VARCHAR AS flags) FROM answers'
            ).to_view("shown")
            shown = connection.table("shown")
            if out.suffix == ".csv":
                shown.write_csv(str(partial))
            else:
                shown.write_parquet(str(partial))
        partial.rename(out)
    except (duckdb.IOException, OSError) as error:
        if partial.is_file():
            partial.unlink()
        raise Unavailable(
            f"{out}: {error}. The answers are logged. Check free space and access, and run it again."
        ) from error
