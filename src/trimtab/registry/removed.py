"""Removed versions: their artifacts are deleted, but their records stay, and say who removed them, when and why.

Garbage collection and registration may run at the same time. Therefore a collection removes a blob in three steps.
First it stores a record with the state `condemned` for the blob, in one transaction with the record of the version's
removal. Transactions of registrations and moves require that neither record exists, so all processes agree on what came
first. Second, the collection checks again whether the version or one of its blobs is needed. If so, it deletes both
records, and all blobs stay. Third, if they are not needed, it marks the blobs as `leaving` and deletes them. # D59
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from trimtab.core.errors import NotFound, Unavailable
from trimtab.core.time import format_time
from trimtab.registry.versions import Version
from trimtab.store.ports import Blob, Catalog, Put, Record, Remove, read_record

VERSION, BLOB, USED = "removed", "removed_blob", "version_used"  # kinds of records in the catalogue
LEASE = "collection"  # the lease (a lock that expires) that a process holds while it removes blobs
LEASE_S = 60.0
NO_VERSION = "-"  # recorded in place of a version for orphaned blobs
_WAIT_S = 30.0


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """The record of the removal of a version's artifact."""

    format: Literal[1] = 1
    version: str
    blobs: tuple[str, ...]
    size_bytes: int
    at_us: int
    actor: str
    why: str


class Fate(msgspec.Struct, frozen=True):
    """The state of a blob's removal.

    `condemned`: the removal can still be taken back. `leaving`: the blob is being deleted. `gone`: it is deleted.
    """

    state: Literal["condemned", "leaving", "gone"]
    version: str  # the version whose removal includes this blob

    def put(self, digest: str, *, expected: int | None = None) -> Put:
        """Return the change that stores this state. It requires that the stored record has the revision `expected`."""
        return Put(BLOB, digest, msgspec.json.encode(self), expected=expected)


def fate_of(body: bytes) -> Fate:
    """Return the state that is stored in a record of kind `BLOB`."""
    return msgspec.json.decode(body, type=Fate)


def removed(catalog: Catalog, version: str) -> Removed | None:
    """Return the removal of a version's artifact; None if the artifact was not removed."""
    return read_record(catalog, VERSION, version, Removed)


def refuse_removed(catalog: Catalog, version: Version) -> None:
    """Raise `NotFound` if the artifact of a version was removed. The message says who removed it, when and why."""
    found = removed(catalog, version.id)
    if found is not None:
        raise NotFound(
            f"version {version.name} ({version.id[:12]}): its artifact was removed by {found.actor} on "
            f"{format_time(found.at_us)} ({found.why}); its record stays. Train it again (equal data and code give "
            "the same version), or restore a backup."
        )


def take_back(catalog: Catalog, version: str, blobs: Iterable[str], *, look: bool) -> list[Remove]:
    """Return changes that take back the removal of a version and its blobs. They conflict if a blob is being deleted.

    Args:
        look: Whether to look for records of the removal, and delete them. If False, the transaction conflicts with any
            such record.
    """
    keys = [(VERSION, version), *((BLOB, digest) for digest in dict.fromkeys(blobs))]
    found = [catalog.get(kind, key) if look else None for kind, key in keys]
    return [
        Remove(kind, key, expected=0 if record is None or _leaves(record) else record.revision)
        for (kind, key), record in zip(keys, found, strict=True)
    ]


def settle(catalog: Catalog, blob: Blob, blobs: Sequence[str]) -> None:
    """Wait until no garbage collection is removing one of `blobs`. If a collection was killed, finish its work.

    Raises:
        Unavailable: The collection did not end in time.
    """
    end = time.monotonic() + _WAIT_S
    while _going(catalog, blobs):
        if catalog.acquire(LEASE, "settle", LEASE_S):
            try:
                finish(catalog, blob)
            finally:
                catalog.release(LEASE, "settle")
        elif time.monotonic() > end:
            raise Unavailable(f"registry: garbage collection did not end within {_WAIT_S:g} s. Try again.")
        else:
            time.sleep(0.02)


def finish(catalog: Catalog, blob: Blob) -> None:
    """Finish the work of a garbage collection that was killed. The caller must hold the lease `LEASE`.

    Blobs in the state `leaving` are deleted. Blobs in the state `condemned` are kept, because the second check, whether
    they are needed, may not have been made.
    """
    for record in catalog.find(BLOB):
        fate = fate_of(record.body)
        if fate.state == "condemned":
            catalog.write([Remove(BLOB, record.key), Remove(VERSION, fate.version)])
        elif fate.state == "leaving":
            blob.delete(record.key)
            catalog.write([Fate("gone", fate.version).put(record.key)])


def _leaves(record: Record) -> bool:
    """Return whether a record says that a blob is being deleted.

    This cannot be taken back, so a transaction that needs the blob must conflict and be tried again.
    """
    return record.kind == BLOB and fate_of(record.body).state == "leaving"


def _going(catalog: Catalog, blobs: Sequence[str]) -> bool:
    found = (catalog.get(BLOB, digest) for digest in blobs)
    return any(record is not None and fate_of(record.body).state != "gone" for record in found)


def restart_grace(version: str, at_us: int) -> Put:
    """Return the change that restarts a version's grace period, in which it is not collected."""
    return Put(USED, version, str(at_us).encode())
