"""The embedded blob store: one file for each content, named by its SHA-256."""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType

from trimtab.core.errors import Corrupt, Misuse, NotFound, Unavailable
from trimtab.core.hashing import bytes_hash
from trimtab.store.durable_files import sync_directory, write_durably

FORMAT = 1
_DIGEST = re.compile(r"[0-9a-f]{64}")


class FileBlob:
    """A `Blob` in a directory: `ab/cd/abcd...` below it. Safe to use from many threads and processes.

    >>> import tempfile
    >>> blobs = FileBlob(Path(tempfile.mkdtemp()))
    >>> blobs.get(blobs.put(b"weights"))
    b'weights'
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._check_format()
        except OSError as error:
            raise self._unavailable(error) from error

    def put(self, data: bytes) -> str:
        """Store `data`; its hash. Durable when it returns; a damaged copy that is there already is replaced.

        Raises:
            Unavailable: The disk is full or read-only; nothing was stored.
        """
        digest = bytes_hash(data)
        path = self._path(digest)
        try:
            if _holds(path, data):
                sync_directory(path.parent)  # who put it first may have been killed before this
            else:
                self._make_shard(path.parent)
                write_durably(path, data)
        except OSError as error:
            raise self._unavailable(error) from error
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes.

        Raises:
            NotFound: They were never put here, or deleted.
            Corrupt: They no longer match their hash.
        """
        path = self._path(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise NotFound(f"{self.directory}: no blob {digest}. It was never put here, or was deleted.") from None
        except OSError as error:
            raise self._unavailable(error) from error
        if bytes_hash(data) != digest:
            raise Corrupt(f"{path}: {len(data)} bytes that do not match their hash. Restore it, or put it again.")
        return data

    def exists(self, digest: str) -> bool:
        return self._path(digest).is_file()

    def delete(self, digest: str) -> bool:
        """Remove it; False when it was not there."""
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
        """Nothing is held open."""

    def __enter__(self) -> FileBlob:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise Misuse(f"blob: {digest!r} is no hash. Give the 64 hexadecimal digits that put returned.")
        return self.directory / digest[:2] / digest[2:4] / digest

    def _make_shard(self, shard: Path) -> None:
        if not shard.is_dir():
            shard.mkdir(parents=True, exist_ok=True)
            sync_directory(shard.parent)
            sync_directory(self.directory)

    def _check_format(self) -> None:
        path = self.directory / "format"
        try:
            found = path.read_text("ascii", "replace").strip()
        except FileNotFoundError:
            others = any(not entry.name.startswith(".") for entry in self.directory.iterdir())
            if others and not path.exists():
                raise Misuse(
                    f"{self.directory}: holds other files. Give an empty directory, or a blob store."
                ) from None
            write_durably(path, f"{FORMAT}\n".encode())
            return
        if found != str(FORMAT):
            raise Misuse(f"{path}: blob format {found!r}, this trimtab reads {FORMAT}. Use the trimtab that wrote it.")

    def _unavailable(self, error: OSError) -> Unavailable:
        return Unavailable(f"{self.directory}: {error}. Check free space and access, and try again; nothing was lost.")


def _holds(path: Path, data: bytes) -> bool:
    try:
        if path.stat().st_size != len(data):
            return False
        return path.read_bytes() == data
    except FileNotFoundError:
        return False
