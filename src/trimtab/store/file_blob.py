"""The blob store in a folder: one file for each content, named by its SHA-256."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from trimtab.core.closing import Closing
from trimtab.core.errors import Corrupt, Misuse, NotFound, Unavailable
from trimtab.core.hashing import bytes_hash
from trimtab.store.durable_files import TEMPORARY, make_folder, sync_directory, write_content, write_durably
from trimtab.store.ports import StoredBlob

FORMAT = 2
KNOWN = ("2",)  # format 1 (two levels of folders) was never released # D83
_DIGEST = re.compile(r"[0-9a-f]{64}")


class FileBlob(Closing):
    """A `Blob` in one directory. Many threads and processes may use it.

    >>> import tempfile
    >>> blobs = FileBlob(Path(tempfile.mkdtemp()))
    >>> blobs.get(blobs.put(b"weights"))
    b'weights'
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        try:
            # the first `put` writes the file that says the format
            self._marked = self._format() == str(FORMAT)
        except OSError as error:
            raise self._unavailable(error) from error

    def put(self, data: bytes) -> str:
        """Store `data` and return its hash. When this returns, the data are durable. A damaged copy is replaced.

        Raises:
            Unavailable: The disk is full or read-only. Nothing was stored.
        """
        digest = bytes_hash(data)
        path = self._path(digest)
        try:
            # if the file exists, its writer may have been killed before the sync
            if not (_holds(path, data) and _renewed(path) and self._synced(path)):
                self._mark()
                write_content(path, data)
        except OSError as error:
            raise self._unavailable(error) from error
        return digest

    def get(self, digest: str) -> bytes:
        """Return the bytes with a hash.

        Raises:
            NotFound: No such bytes were ever stored, or they were deleted.
            Corrupt: The bytes no longer match their hash.
        """
        path = self._path(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise NotFound(f"{self.directory}: no blob {digest}. It was never put here, or was deleted.") from None
        except OSError as error:
            raise self._unavailable(error) from error
        if bytes_hash(data) != digest:
            raise Corrupt(f"{path}: its {len(data)} bytes do not match its hash. Restore it, or put it again.")
        return data

    def exists(self, digest: str) -> bool:
        return self._path(digest).is_file()

    def stored(self, digest: str) -> StoredBlob | None:
        """Return the size of a blob and the time of its last `put`; None if the blob does not exist."""
        try:
            return _weighed(digest, self._path(digest).stat())
        except FileNotFoundError:
            return None

    def all(self) -> Iterator[StoredBlob]:
        """Yield every blob, in no particular order. A blob that is removed meanwhile may or may not be included."""
        for path in blob_files(self.directory):
            try:
                yield _weighed(path.name, path.stat())
            except FileNotFoundError:
                continue

    def expire(self, digest: str, before_us: int) -> bool:
        """Remove a blob if its last `put` was before a time. Return whether it was removed."""
        path = self._path(digest)
        aside = path.with_name(f"{TEMPORARY[0]}{digest}.{os.getpid()}{TEMPORARY[1]}")
        try:
            os.rename(path, aside)  # from now on, `put` does not find the blob, and stores it again
            if aside.stat().st_mtime_ns // 1_000 >= before_us:
                os.rename(aside, path)
                return False
            aside.unlink()
            sync_directory(path.parent)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._unavailable(error) from error
        return True

    def sweep(self, before_us: int, *, look: bool = False) -> int:
        """Remove unfinished files that killed processes left before a time. Return the number of bytes freed.

        If `look` is True, only count the bytes.
        """
        found = 0
        for path in self.directory.glob(f"{TEMPORARY[0]}*{TEMPORARY[1]}"):
            try:
                seen = path.stat()
                if seen.st_mtime_ns // 1_000 >= before_us:
                    continue
                if not look:
                    path.unlink()
                found += seen.st_size
            except FileNotFoundError:
                continue
        return found

    def delete(self, digest: str) -> bool:
        """Remove a blob. Return False if it does not exist."""
        path = self._path(digest)
        try:
            path.unlink()
            sync_directory(path.parent)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._unavailable(error) from error
        return True

    def close(self) -> None:
        """Do nothing, because no file is kept open."""

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise Misuse(f"blob: {digest!r} is not a hash. Give the 64 hexadecimal digits that put returned.")
        return self.directory / digest

    def _synced(self, path: Path) -> bool:
        """Sync the content of a blob and the name of its file. Return False if another process has deleted it."""
        try:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        except FileNotFoundError:
            return False
        sync_directory(self.directory)
        return True

    def _mark(self) -> None:
        """Write the file that says the format, unless this was done before."""
        if not self._marked:
            make_folder(self.directory)
            if self._format() != str(FORMAT):
                write_durably(self.directory / "format", f"{FORMAT}\n".encode())
                sync_directory(self.directory.parent)
            self._marked = True

    def _format(self) -> str | None:
        """Return the format of the directory (one of `KNOWN`), or None if no blob was ever stored in it."""
        path = self.directory / "format"
        try:
            found = path.read_text("ascii", "replace").strip()
        except FileNotFoundError:
            others = self.directory.exists() and any(e.name[0] != "." for e in self.directory.iterdir())
            if not others:
                return None
            if not path.exists():  # otherwise another process has written the format
                raise Misuse(
                    f"{self.directory}: holds other files. Give an empty directory, or a blob store."
                ) from None
            found = path.read_text("ascii", "replace").strip()
        check_format(path, found)
        return found

    def _unavailable(self, error: OSError) -> Unavailable:
        return Unavailable(f"{self.directory}: {error}. Check free space and access, and try again; nothing was lost.")


def blob_files(directory: Path) -> Iterator[Path]:
    """Yield the paths of all blobs in a store's directory."""
    return (path for path in directory.glob("*") if _DIGEST.fullmatch(path.name))


def check_format(path: Path, found: str) -> None:
    """Raise `Misuse` for a format that this trimtab does not read."""
    if found not in KNOWN:
        known = ", ".join(KNOWN)
        raise Misuse(f"{path}: blob format {found!r}, but this trimtab reads {known}. Use the trimtab that wrote it.")


def _weighed(digest: str, found: os.stat_result) -> StoredBlob:
    return StoredBlob(digest, found.st_size, found.st_mtime_ns // 1_000)


def _renewed(path: Path) -> bool:
    """Set the time of a blob to now, so that garbage collection keeps it. Return False if the blob was just removed."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _holds(path: Path, data: bytes) -> bool:
    try:
        if path.stat().st_size != len(data):
            return False
        return path.read_bytes() == data
    except FileNotFoundError:
        return False
