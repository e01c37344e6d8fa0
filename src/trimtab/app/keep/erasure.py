"""Erase everything that a project keeps about given keys, such as customers (`trimtab forget`).  # D26

An erasure searches all data, stores a plan that does not contain the keys, carries out the plan, and writes rows to the
ledger of decisions. If it is stopped, the next erasure of the same keys finishes it. Every step may be repeated.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from trimtab.app.features.materialising import writing_tables
from trimtab.app.features.source_counts import discard_counts, store_counts
from trimtab.app.keep.personal_data import PersonalData, SeenSet, find_personal_data, open_tables, partitions_of
from trimtab.app.keep.retention import LEASE as RETENTION
from trimtab.app.keep.subjects import Subject
from trimtab.app.online.views import LEASE
from trimtab.app.state.lease import Lease
from trimtab.app.system import System
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Conflict, Misuse, NotFound
from trimtab.core.records import Decision
from trimtab.core.shown import Shown, count_of, shown
from trimtab.core.time import format_time
from trimtab.features.online.store import OnlineStore
from trimtab.serving.log.buffered_log import BufferedLog
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.serving.log.spool import remove_spools
from trimtab.steering.ledger import Entry, Ledger
from trimtab.store.file_lock import FileLock
from trimtab.store.lmdb.place import ASIDE
from trimtab.store.ports import Catalog, Log, Put, Remove

ACT = "forget"
KIND = "forget"  # the kind of the catalogue records of unfinished runs; a record's key is the hash of the run's keys
_SALT = "forget_salt"
# folders that can be made again from the logs
_WORKSPACES = ("trimtab-replay-*", "backfill/*", "demo", f"*{ASIDE}")
_NAMED = 10  # of the keys without data, at most this many are named
_LEAST_BYTES = 6  # shorter keys occur in any file by chance
_WORDS = {
    "events": "events",
    "table_rows": "rows of tables of record",
    "predictions": "predictions",
    "quarantined": "rows in quarantine",
    "exposures": "exposures to variants",
    "stored_answers": "stored answers",
    "slices": "records with slices named after a key",
    "training_sets": "training sets",
}
_Some = TypeVar("_Some", str, tuple[str, int, str])
_BEYOND = (
    "Not reached: copies of the state folder (backups), files that were ingested or written with --out, data that "
    "was sent to other systems, and other processes that hold this project in memory."
)


class Forgotten(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The result of an erasure, or of a dry run."""

    entity: str
    keys: int  # the number of given keys
    nothing: list[str]  # the keys for which no data was found
    columns: dict[str, list[str]]  # the searched columns, by source
    counts: dict[str, int]  # the number of records or rows that were found, by kind of data
    sources: dict[str, int]  # the number of erased event records (versions of events, and deletions) by source
    training_sets: list[SeenSet]  # the stored training sets with rows about the keys; see `sets_deleted`
    learners: list[str]  # models whose online learner may have learnt from the erased data
    workspaces: list[str]  # folders with copies of the data, left by simulations, demos and joins on disk
    residue: list[str]  # files of the state folder that still contain a key
    dry_run: bool
    key_hash: str  # the hash of all keys together; the ledger has a hash of each key
    ledger_row: int | None  # the sequence number of the last ledger row (one for each key with data); None: a dry run
    sets_deleted: bool = False  # whether the rows of training sets were deleted, or would be

    def lines(self) -> list[str]:
        """The result as lines of text."""
        verb = "would be erased" if self.dry_run else "erased"
        counts = {_WORDS[place]: n for place, n in self.counts.items() if place != "training_sets"}
        who = self.entity if self.keys == 1 else f"{self.keys:,} keys of {self.entity}"
        out = [f"{who}: {verb}: " + ", ".join(f"{n:,} {what}" for what, n in counts.items())]
        if self.nothing:
            more = f" and {len(self.nothing) - _NAMED:,} more" if len(self.nothing) > _NAMED else ""
            out.append(f"  no data was found of {', '.join(map(repr, self.nothing[:_NAMED]))}{more}")
        out += [f"  {count_of(n, 'event record')} of {source}" for source, n in sorted(self.sources.items())]
        out.append("  searched " + "; ".join(f"{s}: {', '.join(c)}" for s, c in sorted(self.columns.items())))
        out += [f"  {verb}: the folder {name}, which can be made again" for name in self.workspaces]
        about = "this key" if self.keys == 1 else "these keys"
        for one in self.training_sets:
            fitted = f"; fitted on it: {', '.join(one.versions)}" if one.versions else ""
            what = f"{verb}: all rows of training set" if self.sets_deleted else "training set"
            had = "had" if self.sets_deleted and not self.dry_run else "has"
            out.append(f"  {what} {one.blob[:12]}, which {had} {count_of(one.rows, 'row')} about {about}{fitted}")
        if self.training_sets:
            how = "" if self.sets_deleted else " --training-sets deletes the rows of these sets."
            out.append(f"  Models cannot unlearn: train again.{how}")
        if self.learners:
            out.append(
                f"  online learners that may have learnt from these data: {', '.join(self.learners)}; train them again."
            )
        key = "the key" if self.keys == 1 else "a key"
        out += [f"  {name} still contains {key}, perhaps as part of another text" for name in self.residue]
        out.append(f"  {_BEYOND}")
        if self.ledger_row is not None:
            out.append(f"  ledger row {self.ledger_row}, key hash {self.key_hash}")
        return out


class _Run(msgspec.Struct, frozen=True, kw_only=True):
    """The plan of an unfinished run, without personal data.

    If the run is stopped, the next search no longer finds the data that is erased already. The plan still names it.
    """

    begun_at_us: int
    counts: dict[str, int]
    sources: dict[str, int]
    partitions: dict[str, list[str]]  # for each log, the partitions whose files must be rewritten
    rows: dict[str, list[tuple[str, int, str]]]  # for each source, the rows of its table to erase
    sets: list[SeenSet]
    workspaces: list[str]
    why: str = ""


def forget(
    system: System,
    entity: str,
    keys: Sequence[Sequence[str]],
    *,
    why: str,
    dry_run: bool,
    training_sets: bool,
    actor: str,
) -> Forgotten:
    """Erase the data of an entity's keys; see `Project.forget`."""
    if not keys:
        raise Misuse(f"forget: no key of {entity!r} was given. Give one, or several.")
    subject = Subject(system.definitions, system.sources, entity, *keys)
    if any(part in why for key in subject.keys for part in key if len(part) >= _LEAST_BYTES):
        raise Misuse("forget: the reason contains a key, and the ledger keeps it for ever. Leave the key out of it.")
    if dry_run:
        digest = _digest(subject, _salt(system, make=False))
        run = _joined(_pending(system, subject, digest), _planned(system, find_personal_data(system, subject)))
        _refuse_without_data(system, subject, run, sets=training_sets)
        return _result(system, subject, run, digest, dry_run=True, sets_deleted=training_sets)
    with _alone(system):
        salt = _salt(system, make=True)
        digest = _digest(subject, salt)
        _empty_spools(system)
        found = find_personal_data(system, subject)
        run = _joined(_pending(system, subject, digest), _planned(system, found))
        _refuse_without_data(system, subject, run, sets=training_sets)
        run = msgspec.structs.replace(run, why=why or run.why)
        system.state.catalog.write([Put(KIND, digest, msgspec.json.encode(run))])
        _erase(system, found, run)
        if training_sets:
            for one in run.sets:
                system.state.blob.delete(one.blob)
        row = _write_rows(system, subject, run, salt, actor=actor, deleted=training_sets)
    return _result(system, subject, run, digest, dry_run=False, row=row, sets_deleted=training_sets)


def keys_as_text(key: Sequence[Any], keys: Iterable[Any]) -> list[list[str]]:
    """Return the parts of `key`, if it has any, and of each of `keys` as texts.

    Raises:
        Misuse: `keys` is no list, or a part is neither a text nor a whole number, such as a null of a column.
    """
    if isinstance(keys, str | bytes | Mapping):
        raise Misuse(f"forget: keys={shown(keys)[:100]} is one {type(keys).__name__}. Give a list of keys.")
    several = [one if isinstance(one, list | tuple) else [one] for one in keys]
    given = [key, *several] if key else several
    for part in chain.from_iterable(given):
        if not isinstance(part, str | Integral):
            raise Misuse(f"forget: {shown(part)[:100]} is no part of a key. Give texts or whole numbers.")
    return [[*map(str, one)] for one in given]


def unfinished(catalog: Catalog) -> list[str]:
    """Return a line of text for each unfinished run, with the hash of its keys."""
    return [
        f"forget: a run of {format_time(msgspec.json.decode(record.body, type=_Run).begun_at_us)} is not finished "
        f"(key hash {record.key}); run the same command again"
        for record in catalog.find(KIND)
    ]


def _erase(system: System, found: PersonalData, run: _Run) -> None:
    """Carry out the plan of a run. Every step may be repeated. Logs come first, as all else is made from them."""
    state = system.state
    if run.sources:
        discard_counts(system)
    for name, log in _logs(system).items():
        for partition in run.partitions.get(name, []):
            log.erase(partition, found.in_log(name).get(partition, {}))
    with open_tables(system) as tables:
        for name, rows in run.rows.items():
            new = found.tables.get(name)
            tables[name].erase(_places(rows), None if new is None else new.instead)
    if run.counts.get("slices"):
        state.catalog.write(found.slices)
        state.catalog.vacuum()
    if run.counts["stored_answers"]:
        state.answers.erase(found.answers)
    if run.sources:
        store_counts(system)
        _reset_views(system, run.sources.keys())
    for leftover in (state.folder / "blob").glob(".*.new"):  # left by killed trainings; no training runs now
        leftover.unlink(missing_ok=True)
    for name in run.workspaces:
        shutil.rmtree(state.folder / name, ignore_errors=True)


def _empty_spools(system: System) -> None:
    """Move answers from the buffer files of killed services into the prediction log, so that the search finds them."""
    folder, answers = system.state.spools, system.state.predictions
    if isinstance(answers, BufferedLog):
        answers.release()
    if folder.is_dir():
        remove_spools(folder, PredictionLog(system.state.written_predictions))


def _reset_views(system: System, sources: Collection[str]) -> None:
    """Reset the online features of the views over these sources, so that they are filled again from the log.

    Afterwards, the database file nowhere contains the old values.
    """
    if system.state.online_place.mark() is None:
        return
    kv = system.state.online
    kv.erase()  # raises an error if another process has the store open, before anything is reset
    every = system.views.views
    OnlineStore(kv, every).drop_others()
    if reset := [view for view in every if view.source.name in sources]:
        OnlineStore(kv, reset).reset()
    kv.erase()
    kv.release_writer()


def _write_rows(system: System, subject: Subject, run: _Run, salt: bytes, *, actor: str, deleted: bool) -> Decision:
    """Write a ledger row for each key that had data. Each row has the counts of the whole run."""
    met = [key for key in subject.keys if key in subject.met] or list(subject.keys)
    versions = sorted({version for one in run.sets for version in one.versions})
    entries = [
        Entry(
            at_us=system.clock.now_us(),
            model="*",
            act=ACT,
            cause=run.why or "No reason was given.",
            actor=actor,
            evidence={
                "entity": subject.entity,
                "key_hash": _hashed(subject, key, salt),
                **({"keys": len(met)} if len(met) > 1 else {}),
                **run.counts,
                "sets": ", ".join(one.blob[:12] for one in run.sets) or None,
                "versions": ", ".join(versions) or None,
                "learners": ", ".join(_learners(system, subject)) or None,
                "sets_deleted": deleted,
            },
        )
        for key in met
    ]
    return Ledger(system.state.catalog).write(entries, [Remove(KIND, _digest(subject, salt))])[-1]


def _planned(system: System, found: PersonalData) -> _Run:
    partitions = {name: partitions_of(log, found.in_log(name)) for name, log in _logs(system).items()}
    return _Run(
        begun_at_us=system.clock.now_us(),
        counts=found.counts(),
        sources=found.sources,
        partitions={name: some for name, some in partitions.items() if some},
        rows={name: table.rows for name, table in found.tables.items()},
        sets=found.sets,
        workspaces=list(_workspaces(system.state.folder)),
    )


def _joined(before: _Run | None, now: _Run) -> _Run:
    """Return the plan of a stopped run combined with the plan of this run."""
    if before is None:
        return now
    return _Run(
        begun_at_us=before.begun_at_us,
        counts=_greater(before.counts, now.counts),
        sources=_greater(before.sources, now.sources),
        partitions=_united(before.partitions, now.partitions),
        rows=_united(before.rows, now.rows),
        sets=list({one.blob: one for one in (*before.sets, *now.sets)}.values()),
        workspaces=sorted({*before.workspaces, *now.workspaces}),
        why=before.why,
    )


def _greater(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in {**one, **other}}


def _united(one: Mapping[str, list[_Some]], other: Mapping[str, list[_Some]]) -> dict[str, list[_Some]]:
    found: dict[str, list[_Some]] = {}
    for each in (one, other):
        for name, some in each.items():
            found[name] = list(dict.fromkeys(found.get(name, []) + some))
    return found


def _places(rows: Sequence[tuple[str, int, str]]) -> Columns:
    """Return the log positions and operations of a table's rows, which identify the rows to erase.

    A row and the deletion that replaces it have the same position and differ in `_op`.
    """
    partitions, positions, ops = zip(*rows, strict=True)
    return Columns.of(
        {"_partition": ("str", list(partitions)), "_position": ("int", list(positions)), "_op": ("str", list(ops))}
    )


def _refuse_without_data(system: System, subject: Subject, run: _Run, *, sets: bool) -> None:
    if any(n for place, n in run.counts.items() if place != "training_sets" or sets):
        return
    places = "; ".join(f"{s}: {', '.join(c)}" for s, c in _shown_places(subject).items())
    said = ""
    hashes = {_hashed(subject, key, _salt(system, make=False)) for key in subject.keys}
    before = [d for d in Ledger(system.state.catalog).rows() if d.act == ACT and d.evidence.get("key_hash") in hashes]
    if before:
        erased = "The data of this key was" if len(subject.keys) == 1 else "Data of one of these keys was last"
        said += f" {erased} erased {format_time(before[-1].at_us)} (ledger row {before[-1].sequence})."
    if run.sets:
        what = "stored training set has" if len(run.sets) == 1 else "stored training sets have"
        said += f" {len(run.sets)} {what} rows about it; --training-sets deletes all rows of such sets."
    outside = " outside training sets" if run.sets else ""
    raise NotFound(
        f"forget: no data of {subject.shown} was found{outside} (searched: {places}).{said} Nothing was erased."
    )


def _result(
    system: System,
    subject: Subject,
    run: _Run,
    digest: str,
    *,
    dry_run: bool,
    sets_deleted: bool,
    row: Decision | None = None,
) -> Forgotten:
    return Forgotten(
        entity=subject.entity,
        keys=len(subject.keys),
        nothing=[", ".join(key) for key in subject.keys if key not in subject.met] if len(subject.keys) > 1 else [],
        columns=_shown_places(subject),
        counts=run.counts,
        sources=run.sources,
        training_sets=run.sets,
        learners=_learners(system, subject),
        workspaces=run.workspaces,
        residue=[] if dry_run else list(_leftovers(system.state.folder, subject)),
        dry_run=dry_run,
        key_hash=digest,
        ledger_row=None if row is None else row.sequence,
        sets_deleted=sets_deleted,
    )


def _shown_places(subject: Subject) -> dict[str, list[str]]:
    return {source: [" + ".join(names) for names in places] for source, places in subject.places.items()}


def _learners(system: System, subject: Subject) -> list[str]:
    found = [d for d in system.definitions.deployments.values() if d.learn == "online"]
    return sorted(d.name for d in found if {d.model.request.name, d.model.label.source.name} & subject.places.keys())


def _workspaces(folder: Path) -> Iterator[str]:
    """Yield the folders of simulations, demos and long joins that are no longer running.

    While a run goes on, it holds a lock on a file in its folder.
    """
    for path in sorted(path for pattern in _WORKSPACES for path in folder.glob(pattern)):
        files = [lock for lock in sorted(path.rglob("*")) if lock.name == "lock" or lock.suffix == ".lock"]
        locks = [FileLock.take(lock) for lock in files]
        for lock in locks:
            if lock is not None:
                lock.release()
        if None not in locks:
            yield str(path.relative_to(folder))


def _leftovers(folder: Path, subject: Subject) -> Iterator[str]:
    """Yield the files that contain a key.

    Short keys, which occur in any file by chance, are not searched for.
    """
    needles = subject.stored_as(_LEAST_BYTES)
    if not needles:
        return
    most = max(map(len, needles))
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with suppress(FileNotFoundError), path.open("rb") as file:  # another process may remove files
            tail = b""
            while block := file.read(1 << 20):
                there = tail + block
                if any(needle in there for needle in needles):
                    yield str(path.relative_to(folder))
                    break
                tail = block[-most:]


@contextmanager
def _alone(system: System) -> Iterator[None]:
    """While the block runs, keep other processes from serving, training, retention, backups and writing tables."""
    state = system.state
    names = [LEASE, RETENTION, *(f"loop.{name}" for name in system.definitions.deployments)]
    with ExitStack() as held:
        held.enter_context(writing_tables(state))  # else another process might move records into tables before erasure
        for name in names:
            otherwise = (
                f"{state.folder}: another process uses this project (to serve, train, prune or back up: {name}). "
                "Stop it, run forget, and start it again: a service holds data in memory."
            )
            held.enter_context(Lease(state.catalog, name, state.folder).taken(otherwise))
        yield


def _pending(system: System, subject: Subject, digest: str) -> _Run | None:
    record = system.state.catalog.get(KIND, digest)
    if record is None:
        return None
    subject.met.update(subject.keys)  # the stored plan does not say which keys had data: assume all
    return msgspec.json.decode(record.body, type=_Run)


def _salt(system: System, *, make: bool) -> bytes:
    """Return the project's secret salt for hashes of keys. Without it, a hash would confirm a guessed key."""
    catalog = system.state.catalog
    record = catalog.get(_SALT, "1")
    if record is None and make:
        with suppress(Conflict):  # another process has just stored a salt
            catalog.write([Put(_SALT, "1", msgspec.json.encode(os.urandom(32).hex()), expected=0)])
        record = catalog.get(_SALT, "1")
    return b"" if record is None else bytes.fromhex(msgspec.json.decode(record.body, type=str))


def _hashed(subject: Subject, key: Sequence[str], salt: bytes) -> str:
    what = msgspec.msgpack.encode([subject.columns, key])
    return hashlib.blake2b(what, key=salt, digest_size=16).hexdigest()


def _digest(subject: Subject, salt: bytes) -> str:
    """Return one hash of all keys of a subject, which does not depend on their order."""
    hashes = sorted(_hashed(subject, key, salt) for key in subject.keys)
    return hashes[0] if len(hashes) == 1 else hashlib.blake2b("".join(hashes).encode(), digest_size=16).hexdigest()


def _logs(system: System) -> dict[str, Log]:
    state = system.state
    logs = {"events": state.events, "predictions": state.predictions, "quarantine": state.quarantine}
    return {**logs, "exposures": state.exposures}
