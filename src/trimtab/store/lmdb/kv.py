"""The key-value store in a folder, built on LMDB. One process writes, and many read."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from operator import add
from pathlib import Path
from typing import Any, Literal

import lmdb

from trimtab.core.closing import Closing
from trimtab.core.errors import Corrupt, Misuse
from trimtab.store.forks import forked, guard, unguard
from trimtab.store.lmdb.absence import RESIDUE, hidden
from trimtab.store.lmdb.environment import FORMAT_KEY, RESTORE, share, unshare

_FIRST_MAP_BYTES = 1 << 30  # address space, not disk space: the file grows as pairs are written
_LONGEST_KEY_BYTES = 511
_crc32 = zlib.crc32
_tail = struct.Struct("<I").pack
_get = lmdb.Transaction.get


class LmdbKeyValue(Closing):
    """A `KeyValue` in a directory. Each value is stored with a CRC-32 of its key and the value.

    LMDB forbids opening a directory twice in one process, so all objects for a directory share one LMDB environment.
    The first write takes the directory's writer lock for this process, until `release_writer` is called or the last of
    these objects is closed. Many threads may use a store at once.

    Args:
        directory: The directory of the store. It is created if it does not exist.
        map_bytes: The initial size of the memory map.
        mode: With "relaxed", a write waits for one sync instead of two. Then a power cut may undo the last write, as a
            whole. The first object for a directory decides the mode for all objects of this process.
        repair: A sentence for messages that says what to do if the store is damaged. (Only the caller knows what the
            store holds and how to restore it.)

    >>> import tempfile
    >>> with LmdbKeyValue(Path(tempfile.mkdtemp())) as store:
    ...     store.write({b"a": b"1", b"b": b"2"})
    ...     store.get_many([b"b", b"c"])
    [b'2', None]
    """

    def __init__(
        self,
        directory: Path,
        *,
        map_bytes: int = _FIRST_MAP_BYTES,
        mode: Literal["durable", "relaxed"] = "durable",
        repair: str = RESTORE,
    ) -> None:
        self.directory = Path(directory)
        self._repair = repair
        self._refusal: Misuse | None = None  # after the store is closed: the error that every call raises
        self._environment = share(self.directory, map_bytes, repair, relaxed=mode == "relaxed")
        self._read = self._environment.read
        guard(self, self.directory)

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None if there is none.

        Raises:
            Corrupt: The checksum of the value is wrong, or a damaged page may hide the value. The message names the
                key.
        """
        raw: bytes | None = self._read(_get, key)
        if raw is None:
            return self.get_many([key])[0]
        if _crc32(raw, _crc32(key)) != RESIDUE:
            raise self._damaged(key)
        return raw[:-4]

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of all keys, from one snapshot.

        Raises:
            Corrupt: A checksum is wrong, or a damaged page may hide a value. The message names a key.
        """
        found, damaged = self._read(_get_all, keys)
        if damaged is not None:
            raise self._damaged(damaged)
        crc32 = _crc32
        i = 0
        for key in keys:
            raw = found[i]
            if raw is not None:
                if crc32(raw, crc32(key)) != RESIDUE:
                    raise self._damaged(key)
                found[i] = raw[:-4]
            i += 1  # noqa: SIM113  # faster than enumerate
        return found

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = ()) -> None:
        """Delete keys, then store pairs, in one synced transaction.

        Raises:
            Misuse: A key is empty, longer than 511 bytes, or begins with a zero byte.
            Conflict: Another process writes to this store.
            Unavailable: The disk is full. Nothing was written.
        """
        self._refuse_closed()
        removed = list(deletes)
        if not puts and not removed:
            return
        keys = sorted(puts)  # sorted, because neighbouring keys share pages
        values = list(puts.values() if keys == list(puts) else map(puts.__getitem__, keys))
        self._check_keys(keys)
        self._check_keys(sorted(removed))

        def change(transaction: Any) -> None:
            for key in removed:
                transaction.delete(key)
            if keys:
                cursor = transaction.cursor()
                behind = not cursor.last() or cursor.key() < keys[0]
                checks = map(_crc32, values, map(_crc32, keys))
                tails = map(_tail, checks)
                pairs = zip(keys, map(add, values, tails))  # noqa: B905  # lazy: no second copy of all values
                # If all keys come after those in the store, append them, which fills pages and needs no search.
                cursor.putmulti(pairs, append=behind)

        self._environment.write(change)

    def release_writer(self) -> None:
        """Let another process write, until this process writes again."""
        self._refuse_closed()
        self._environment.release_writer()

    def scan(self, prefix: bytes, *, after: bytes = b"", limit: int = 10_000) -> Iterator[tuple[bytes, bytes]]:
        """Yield up to `limit` pairs whose key starts with `prefix` and is greater than `after`.

        The pairs are in the order of their keys, and come from one snapshot.

        Raises:
            Corrupt: The checksum of a pair is wrong. The message names the key.
        """
        found = self._read(_scan, (prefix, after, limit))
        for (key, _), (following, _) in pairwise(found):
            if key >= following:
                raise self._damaged(following)
        return iter([(key, self._verified(key, raw)) for key, raw in found])

    def erase(self, keys: Iterable[bytes] = ()) -> None:
        """Delete keys. Remove their data, and all data deleted or replaced earlier, from the disk.

        The whole file is rewritten, which takes as long as copying it. Readers in this process wait for a short time.

        Raises:
            Conflict: Another process has the store open. Nothing was done.
            Unavailable: The disk is full. Nothing was done.
        """
        self._refuse_closed()
        self._environment.rewrite(keys)

    def check(self) -> int:
        """Check every pair, the order of the pairs and their number. Return the number of pairs.

        A `get` only checks the pair that it finds, or the neighbours of a key that it does not find. `check` also finds
        pages that are missing, or that were replaced by older pages. Run it after restoring a copy, or when a disk may
        be faulty.

        Raises:
            Corrupt: A pair or a page is damaged or missing. The message names it.
        """
        return self._read(_check, self)

    def reopen_if_replaced(self, *, make: bool = False) -> bool:
        """If another file is in the store's place now, open the store again.

        Args:
            make: Whether to create an empty store if the file is missing. Only the writer may do this.

        Returns:
            Whether another file was there.

        Raises:
            Unavailable: The file is missing, and `make` is false.
            Corrupt: The file is damaged. Later calls try to open it again.
        """
        self._refuse_closed()
        return self._environment.reopen_if_replaced(make=make)

    def copy_to(self, directory: Path) -> None:
        """Write a snapshot of all pairs to a new directory. Other threads and processes may write meanwhile.

        Raises:
            Unavailable: The disk is full or read-only.
        """
        self._refuse_closed()
        self._environment.copy(directory)

    def close(self) -> None:
        """Release the LMDB environment. A second call does nothing."""
        if self._refusal is None:
            self._refuse_from_now(
                Misuse(f"{self.directory}: this key-value store is closed. Open it again with store.open.")
            )
            unguard(self)
            unshare(self._environment)

    def after_fork(self) -> None:
        """Make every later call fail. This is called in a forked child."""
        self._refuse_from_now(self._refusal or forked(self.directory))

    def _check_keys(self, keys: Sequence[bytes]) -> None:
        """Refuse keys that LMDB cannot store. The given keys must be sorted."""
        if not keys or (max(map(len, keys)) <= _LONGEST_KEY_BYTES and keys[0][:1] > b"\0"):
            return
        wrong = next(key for key in keys if not 0 < len(key) <= _LONGEST_KEY_BYTES or key[0] == 0)
        raise Misuse(
            f"{self.directory}: key {wrong!r} has {len(wrong)} bytes. Give 1 to 511 bytes, the first of them not zero."
        )

    def _verified(self, key: bytes, raw: bytes) -> bytes:
        if _crc32(raw, _crc32(key)) != RESIDUE:
            raise self._damaged(key)
        return raw[:-4]

    def _damaged(self, key: bytes) -> Corrupt:
        return Corrupt(
            f"{self.directory}/data.mdb: the value of key {key!r}, or the page that has it, is damaged (wrong "
            f"checksum). {self._repair}"
        )

    def _refuse_from_now(self, refusal: Misuse) -> None:
        self._refusal = refusal
        self._read = self._refuse_closed  # type: ignore[assignment]  # raises

    def _refuse_closed(self, *_: Any) -> Any:
        if self._refusal is not None:
            raise self._refusal


def _get_all(transaction: Any, keys: Sequence[bytes]) -> tuple[list[bytes | None], bytes | None]:
    """Return the value of each key, and a key at which damage was found that may hide a value (None: no damage)."""
    found = list(map(transaction.get, keys))
    if None not in found:
        return found, None
    absent = (key for key, raw in zip(keys, found, strict=True) if raw is None)
    return found, hidden(transaction, absent, FORMAT_KEY)


def _scan(transaction: Any, what: tuple[bytes, bytes, int]) -> list[tuple[bytes, bytes]]:
    prefix, after, limit = what
    cursor = transaction.cursor()
    start = max(prefix, after)
    more = cursor.set_range(start) if start else cursor.first()
    found: list[tuple[bytes, bytes]] = []
    while more and len(found) < limit:
        key, raw = cursor.item()
        if not key.startswith(prefix) and key > prefix:
            break
        if key > after and key != FORMAT_KEY and key.startswith(prefix):
            found.append((key, raw))
        more = cursor.next()
    return found


def _check(transaction: Any, store: LmdbKeyValue) -> int:
    before, count = b"", 0
    for key, raw in transaction.cursor():
        if key <= before:
            raise store._damaged(key)
        if key != FORMAT_KEY:
            store._verified(key, raw)
        # the loop goes from leaf to leaf; this look-up also checks the pages above the leaves
        if transaction.get(key) is None:
            raise Corrupt(
                f"{store.directory}/data.mdb: key {key!r} is stored but cannot be found: a page that leads to it is "
                f"damaged. {store._repair}"
            )
        before, count = key, count + 1
    entries = transaction.stat()["entries"]
    if count != entries:
        raise Corrupt(f"{store.directory}/data.mdb: found {count} pairs, but {entries} were written. {store._repair}")
    return count - 1  # without the key of the format
