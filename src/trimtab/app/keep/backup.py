"""Back up and restore the state folder (`trimtab storage backup`, `trimtab storage restore`).  # D25

A backup is complete and verified, or it is not made. Other processes may write meanwhile, so the order matters. Parts
that store positions in a log are copied before the log, so that no copied position lies beyond the copied log. Parts
that store addresses of blobs are copied before the blobs, so that each copied address leads to a blob.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from trimtab import store
from trimtab.app.keep.disk_usage import taken
from trimtab.app.keep.erasure import ACT as FORGET
from trimtab.app.keep.retention import LEASE
from trimtab.app.state.lease import Lease
from trimtab.app.state.lost_records import refuse_read_past
from trimtab.app.state.state import INDEX, check_format
from trimtab.app.state.state_use import FILE as FORMAT_FILE
from trimtab.app.state.state_use import PRIVATE, behind_links, have_alone, set_aside
from trimtab.app.system import System
from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound, TrimtabError, Unavailable
from trimtab.core.hashing import bytes_hash
from trimtab.core.package import VERSION
from trimtab.core.shown import Shown, format_bytes
from trimtab.core.time import format_time, parse_time_us
from trimtab.core.urls import store_url
from trimtab.features.online.store import read_cursors
from trimtab.run.signals import ENDING, caught
from trimtab.serving.access_keys import MARKER
from trimtab.steering.ledger import Ledger
from trimtab.store.durable_files import file_mode, make_folder, sync_directory, write_durably
from trimtab.store.embedded_files import catalog_file, is_of_catalog, is_of_process
from trimtab.store.file_lock import FileLock
from trimtab.store.ports import Copyable
from trimtab.store.regular_file import other_kind
from trimtab.store.sql_catalog import SqlCatalog

FORMAT = 1
MANIFEST = "backup.json"
_STATE = "state"
# in the order of copying: predictions store positions in the event log, so the event log is copied after them
_LOGS = ("exposures", "quarantine", "predictions", "events")
_STORES = ("online", "answers", "learners")
_OWN = {"log", "tables", "blob", *_STORES}  # parts that `_copy_parts` copies one by one, in its order
_PASSING = ("trimtab-replay-", "backfill", INDEX)  # folders that can be made again, which are not copied
_PATIENCE_S = 60.0  # how long to wait for another process that runs retention or a backup
_BLOCK = 1 << 20
_HASH_DIGITS = 64


class BackupFile(msgspec.Struct, frozen=True):
    """A file of a backup."""

    path: str  # the path relative to the state folder
    size_bytes: int
    sha256: str


class Positions(msgspec.Struct, frozen=True, kw_only=True):
    """The last positions of the copied logs, and the positions that the copied tables and views have reached."""

    logs: dict[str, dict[str, int]]  # by log and partition
    tables: dict[str, dict[str, int]]  # by source and partition
    views: dict[str, dict[str, int]]  # by view id and partition


class Backup(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The manifest of a backup, which lists its files."""

    format: int
    project: str
    made_at: str
    trimtab: str
    size_bytes: int
    positions: Positions
    files: list[BackupFile]

    def lines(self) -> list[str]:
        """The backup as lines of text."""
        logs = ", ".join(f"{sum(ends.values()):,} {name}" for name, ends in self.positions.logs.items())
        return [
            f"{self.project}, {self.made_at[:19]}: {len(self.files):,} files, {format_bytes(self.size_bytes)}; {logs}"
        ]


class _Sealed(msgspec.Struct, frozen=True):
    """The content of the manifest file: the manifest and its checksum."""

    sha256: str
    manifest: msgspec.Raw


def back_up(system: System, to: Path) -> Backup:
    """Copy the state folder into a new backup; see `Project.backup`."""
    to = to.absolute()
    if to.exists():
        raise Conflict(f"backup: {to} exists, and no backup is written over another. Name a new folder.")
    if behind_links(to).is_relative_to(behind_links(system.state_folder)):
        raise Misuse(f"backup: {to} lies in the state folder that is to be copied. Name a folder outside it.")
    partial = to.with_name(f".{to.name}.partial")
    otherwise = f"{system.state.folder}: another process runs retention or a backup there. Try again later."
    alone = Lease(system.state.catalog, LEASE, system.state.folder).taken(otherwise, patience_s=_PATIENCE_S)
    with alone, _refused_clearly(to, "No part of the backup was left"), _whole_or_nothing(partial, to, _put):
        _room(system.state_folder, partial.parent)
        positions = _copy_parts(system, partial / _STATE)
        files = [_hashed(path, partial / _STATE) for path in _walk(partial / _STATE)]
        manifest = Backup(
            format=FORMAT,
            project=system.config.project.name,
            made_at=format_time(system.clock.now_us()),
            trimtab=VERSION,
            size_bytes=sum(file.size_bytes for file in files),
            positions=positions,
            files=files,
        )
        refuse_read_past("events", positions.logs["events"], {**positions.tables, **positions.views})
        raw = msgspec.json.encode(manifest)
        write_durably(partial / MANIFEST, msgspec.json.encode(_Sealed(bytes_hash(raw), msgspec.Raw(raw))))
    return manifest


def read_manifest(backup: str | Path) -> Backup:
    """Read and verify the manifest of a backup.

    Raises:
        NotFound: There is no backup in this folder.
        Misuse: The backup has the format of another trimtab, or its manifest is no file.
        Corrupt: The manifest of the backup is damaged.
        Unavailable: The manifest cannot be read now.
    """
    backup = Path(backup)
    path = backup / MANIFEST
    if (kind := other_kind(path)) is not None:
        raise Misuse(f"{path}: found a {kind}, needed a file. Name a folder that `trimtab storage backup` wrote.")
    if not path.is_file():
        raise NotFound(
            f"{backup}: not a backup (it has no {MANIFEST}). Name a folder that `trimtab storage backup` wrote."
        )
    try:
        sealed = msgspec.json.decode(path.read_bytes(), type=_Sealed)
        if bytes_hash(bytes(sealed.manifest)) != sealed.sha256:
            raise Corrupt(f"{path}: damaged (wrong checksum). Use another backup.")
        made = msgspec.json.decode(sealed.manifest, type=dict[str, object])
        if made.get("format") != FORMAT:
            raise Misuse(
                f"{path}: format {made.get('format')}, but this trimtab reads {FORMAT}. Use the trimtab that wrote it."
            )
        return msgspec.json.decode(sealed.manifest, type=Backup)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"{path}: damaged ({error}). Use another backup.") from error
    except OSError as error:
        raise Unavailable(f"{path}: cannot be read ({error}). Check access and the disk.") from error


def restore(
    backup: str | Path, into: str | Path, *, force: bool = False, progress: Callable[[int, int], object] | None = None
) -> Backup:
    """Restore the state in a backup to a folder, after comparing the checksum of every file.

    Args:
        backup: The folder that `back_up` wrote.
        into: The state folder to restore to; in a project, `.trimtab`. If it is a link, its target is replaced.
        force: Whether to replace a state in the folder.
        progress: Called with the number of bytes done and the total number of bytes.

    Raises:
        NotFound: There is no backup in this folder.
        Misuse: `into` is a file.
        Conflict: The folder already contains a state, or a process has that state open.
        Corrupt: A file of the backup is damaged or missing. The message names the file, and nothing was changed.
        Unavailable: A disk is full, read-only or cannot be read. Nothing was changed.
    """
    backup, into = Path(backup).absolute(), behind_links(into)
    manifest = read_manifest(backup)
    if into.exists() and not into.is_dir():
        raise Misuse(f"{into} is a file. Name the folder for the restored state.")
    _refuse_there(into, force)
    partial = into.with_name(f".{into.name}.partial")
    with _refused_clearly(into, "Nothing was changed"), _had_alone(into):
        _refuse_there(into, force)  # checked again, because another process may have written a state meanwhile
        with _whole_or_nothing(partial, into, _replace):
            done = 0
            partial.chmod(stat.S_IMODE(into.stat().st_mode))  # the new folder gets the old folder's access rights
            for file in manifest.files:
                _restore_file(backup / _STATE, partial, file)
                done += file.size_bytes
                if progress is not None:
                    progress(done, manifest.size_bytes)
            check_format(partial)
            if (into / MARKER).exists() and not (partial / MARKER).exists():
                # API keys were made required after the backup, so the restored state must not be open to everyone
                shutil.copyfile(into / MARKER, partial / MARKER)
    return manifest


def undone_erasures(state: Path, made_at: str) -> list[str]:
    """Return lines about the erasures in a state that came after a backup was made: restoring it undoes them."""
    file = catalog_file(behind_links(state))
    if not file.exists():
        return []
    try:
        with SqlCatalog.sqlite(file) as catalog:
            rows = Ledger(catalog).rows()
    except TrimtabError as error:  # perhaps the state is restored because it is damaged
        return [f"It is not known whether this undoes erasures, because the old state cannot be read: {error}"]
    later = [row for row in rows if row.act == FORGET and row.at_us > parse_time_us(made_at)]
    said = "These erasures came later, so their data are back. Run trimtab forget for the same keys again:"
    listed = [f"  {format_time(row.at_us)[:19]}  {row.evidence.get('entity')}  {row.cause}" for row in later]
    return [said, *listed] if later else []


def _copy_parts(system: System, to: Path) -> Positions:
    """Copy all parts in the right order, and return the positions that the copies have reached."""
    state, folder = system.state, system.state_folder
    _copy_rest(folder, to)  # this includes the buffers with answers that are not in the prediction log yet
    _copied(state.catalog, catalog_file(to))
    for name in _STORES:
        if (folder / name).exists():
            _copied(getattr(state, name), to / name)
    for path in sorted((folder / "tables").glob("*/_delta_log")):
        source = path.parent.name
        with store.open(store_url("delta", path.parent), "table") as table:  # type: ignore[attr-defined]  # Delta can
            _copied(table, to / "tables" / source)
    _copy_tree(folder / "blob", to / "blob")
    logs = {name: _copied(getattr(state, name), to / "log" / name) for name in _LOGS}
    return _positions(to, {name: dict(ends) for name, ends in logs.items() if isinstance(ends, Mapping)})


def _positions(to: Path, logs: dict[str, dict[str, int]]) -> Positions:
    """Return the log positions that are stored in the copies of views and tables."""
    tables: dict[str, dict[str, int]] = {}
    for path in sorted((to / "tables").glob("*")):
        table = store.open(store_url("delta", path), "table")
        tables[path.name] = {partition: table.position(partition) for partition in logs["events"]}
        table.close()
    views: dict[str, dict[str, int]] = {}
    if (to / "online").exists():
        online = store.open(store_url("lmdb", to / "online"), "kv")
        views = {view: cursor.positions for view, cursor in read_cursors(online).items()}
        online.close()
        for path in filter(is_of_process, (to / "online").iterdir()):
            path.unlink()
    return Positions(logs=logs, tables=tables, views=views)


def _copied(part: object, to: Path) -> object:
    if not isinstance(part, Copyable):
        raise Misuse(f"backup: {type(part).__name__} cannot be copied to a folder. Back up its server instead.")
    make_folder(to.parent)
    return part.copy_to(to)


def _copy_rest(folder: Path, to: Path) -> None:
    """Copy all files that are not in folders of `_OWN` or `_PASSING`, except the catalogue, locks and hidden files."""
    make_folder(to)
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in _OWN and not path.name.startswith((".", *_PASSING)):
            _copy_tree(path, to / path.name)
        elif path.is_file() and not (path.name.startswith(".") or is_of_catalog(path.name) or is_of_process(path)):
            _copy_file(path, to / path.name)


def _copy_tree(folder: Path, to: Path) -> None:
    for path in _walk(folder):
        if not path.name.startswith(".") and not is_of_process(path):
            _copy_file(path, to / path.relative_to(folder))


def _copy_file(path: Path, to: Path) -> None:
    make_folder(to.parent)
    try:
        shutil.copyfile(path, to)
    except FileNotFoundError:  # the file was removed since it was listed
        to.unlink(missing_ok=True)


def _hashed(path: Path, folder: Path) -> BackupFile:
    """Sync a copied file to the disk, and return its entry in the manifest.

    If the file's name ends in a hash, as those of blobs do, it must be the hash of the content.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fchmod(file.fileno(), 0o600)
        os.fsync(file.fileno())
    named = path.stem.rpartition("-")[2]
    if len(named) == _HASH_DIGITS and named != digest:
        raise Corrupt(f"{path.relative_to(folder)} in the state folder is damaged (wrong checksum). Restore it first.")
    return BackupFile(str(path.relative_to(folder)), path.stat().st_size, digest)


def _restore_file(source: Path, to: Path, file: BackupFile) -> None:
    path, target = source / file.path, to / file.path
    if not target.is_relative_to(to) or ".." in Path(file.path).parts:
        raise Corrupt(f"{source}: the manifest names {file.path}, which is not in the backup. Use another backup.")
    make_folder(target.parent)
    digest = hashlib.sha256()
    if (kind := other_kind(path)) is not None:
        raise Corrupt(f"{path}: this file of the backup is a {kind}. Use another backup.")
    with target.open("wb") as write:
        for block in _blocks(path):
            digest.update(block)
            write.write(block)
        write.flush()
        os.fchmod(write.fileno(), file_mode(target.parent))
        os.fsync(write.fileno())
    if digest.hexdigest() != file.sha256:
        raise Corrupt(f"{path}: this file of the backup is damaged (wrong checksum). Use another backup.")


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield the content of a file of the backup."""
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block
    except FileNotFoundError:
        raise Corrupt(f"{path}: this file of the backup is gone. Use another backup.") from None
    except OSError as error:
        raise Unavailable(f"{path}: cannot be read ({error.strerror}). Check access and the disk.") from error


def _refuse_there(folder: Path, force: bool) -> None:
    """Raise an error if the folder has a state and `force` is not given, if a process uses that state, or if the folder
    holds other files, which `force` would delete.
    """
    names = {one.name for one in folder.iterdir() if not is_of_process(one)} if folder.is_dir() else set()
    if not names:
        return
    if not any(name == FORMAT_FILE or is_of_catalog(name) for name in names):
        some = ", ".join(sorted(names)[:3])
        raise Conflict(
            f"{folder}: it holds other files ({some}) and no state. Name an empty folder, or a state folder."
        )
    if not force:
        raise Conflict(f"{folder}: it has a state already. Name another folder (--into), or replace the state: --force")
    for path in sorted(folder.rglob("*.lock")):
        if FileLock.is_held(path):
            raise Conflict(f"{folder}: process {FileLock.holder(path)} uses it ({path.name}). Stop it first.")


@contextmanager
def _had_alone(folder: Path) -> Iterator[None]:
    """Lock the folder, so that no other process opens a project in it while the block runs.

    If the folder did not exist before, it is removed when the block fails.
    """
    hold, made = have_alone(folder)
    try:
        yield
    except BaseException:
        if made:
            with suppress(OSError):
                folder.rmdir()
        raise
    finally:
        hold.release()


@contextmanager
def _refused_clearly(to: Path, left: str) -> Iterator[None]:
    """Turn an OSError in the block into an error that says what remains on the disk."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            why, do = "the disk (or quota) is full", "free some space or name another disk"
        else:
            why, do = error.strerror or str(error), "name a folder that can be made and written to"
        raise Unavailable(f"{to}: {why}. {left}; {do}.") from error


@contextmanager
def _whole_or_nothing(partial: Path, to: Path, put: Callable[[Path, Path], None]) -> Iterator[None]:
    """Let the block fill the folder `partial`, and move that folder to `to` at the end.

    If the block fails, `partial` is removed.
    """
    _remove(partial)  # perhaps left by a process that was killed
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir(mode=PRIVATE)
        yield
        for folder, _, _ in os.walk(partial):
            sync_directory(Path(folder))
        put(partial, to)
    except BaseException:
        _remove(partial)
        raise


def _put(partial: Path, to: Path) -> None:
    partial.rename(to)
    sync_directory(to.parent)


def _replace(partial: Path, to: Path) -> None:
    """Replace the folder `to` by `partial`, and remove the old folder. If this fails, the old folder is put back."""
    old = set_aside(to)
    _remove(old)  # perhaps left by a process that was killed after it had put its new folder in place
    with _uninterrupted():  # the error for an interrupt would say that nothing was changed, which may be wrong here
        try:
            _refuse_there(to, force=True)
            if any(to.iterdir()):
                to.rename(old)
            partial.rename(to)
            sync_directory(to.parent)
        except BaseException:
            _put_back(old, to, partial)
            raise
        if old.exists():
            old.rename(partial)  # so that if this process is killed now, the next one does not put the old state back
        _remove(partial)


def _put_back(old: Path, to: Path, partial: Path) -> None:
    try:
        if not partial.exists():
            to.rename(partial)
        if old.exists():
            old.rename(to)
    except OSError as error:
        raise Unavailable(
            f"{to}: the previous state is in {old} and cannot be put back ({error}). Put it back: mv '{old}' '{to}'"
        ) from error


def _remove(folder: Path) -> None:
    """Delete a folder as far as possible. If it is a link, delete only the link."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C, SIGTERM and the end of the terminal during the block."""
    # a handler that was not set by Python (None) could not be restored afterwards
    own = [number for number in ENDING if signal.getsignal(number) is not None]
    with caught(lambda *_: None, own):
        yield


def _room(folder: Path, to: Path) -> None:
    """Raise an error if the disk has too little free space for a backup."""
    needed, free = taken(folder).size_bytes, shutil.disk_usage(to).free
    if needed > free:
        raise Unavailable(
            f"backup: about {format_bytes(needed)} are needed in {to}, {format_bytes(free)} are free. Free some, or "
            "name another disk."
        )


def _walk(folder: Path) -> Iterator[Path]:
    for at, _, names in sorted(os.walk(folder)):
        yield from (path for name in sorted(names) if (path := Path(at, name)).is_file())
