"""Versions whose artifact is not kept any more: the record stays, and says who removed it, when and why.

A collection of garbage and a registration may meet. Each blob that is about to go gets a record first
(`condemned`), in one transaction with the version's. Whoever registers or moves an alias writes, in its own
transaction, that there is no such record, so one of the two comes first for everybody. After its transaction the
collection looks once more at what refers to the blobs, takes back what is needed by now, and only then removes. # D59
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from trimtab.core.errors import NotFound, Unavailable
from trimtab.core.time import format_time
from trimtab.registry.versions import Version
from trimtab.store.ports import Blob, Catalog, Put, Record, Remove

VERSION, BLOB, USED = "removed", "removed_blob", "version_used"  # kinds of the catalogue's records
LEASE = "collection"  # of whoever removes blobs
LEASE_S = 60.0
NOBODY = "-"  # instead of a version, of a blob that none names
_WAIT_S = 30.0


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of a version whose artifact was removed, beside its record."""

    format: Literal[1] = 1
    version: str
    blobs: tuple[str, ...]
    size_bytes: int
    at_us: int
    actor: str
    why: str


class Fate(msgspec.Struct, frozen=True):
    """How far the removal of a blob is: `condemned` can still be taken back, `leaving` cannot."""

    state: Literal["condemned", "leaving", "gone"]
    version: str  # whose removal it is part of

    def put(self, digest: str, *, expected: int | None = None) -> Put:
        """The change that notes it, where the note before it has the revision `expected`."""
        return Put(BLOB, digest, msgspec.json.encode(self), expected=expected)


def fate_of(body: bytes) -> Fate:
    """The fate in a record of kind `BLOB`."""
    return msgspec.json.decode(body, type=Fate)


def removed(catalog: Catalog, version: str) -> Removed | None:
    """What a collection left behind about a version; None while its artifact is kept."""
    record = catalog.get(VERSION, version)
    return None if record is None else msgspec.json.decode(record.body, type=Removed)


def refuse_removed(catalog: Catalog, version: Version) -> None:
    """Refuse a version whose artifact is not there any more.

    Raises:
        NotFound: It is one; the message says who removed it, when and why.
    """
    found = removed(catalog, version.id)
    if found is not None:
        raise NotFound(
            f"version {version.name} ({version.id[:12]}): its artifact was removed by {found.actor} on "
            f"{format_time(found.at_us)} ({found.why}); its record stays. Train it again: equal data and code give "
            "the same version back, or restore a backup."
        )


def back(catalog: Catalog, version: str, blobs: Iterable[str], *, look: bool) -> list[Remove]:
    """Changes after which neither a version nor its blobs are removed ones.

    Args:
        catalog: Where the records are.
        version: The version's address.
        blobs: Its blobs.
        look: Take records away that are there; otherwise the transaction is refused when there are some.
    """
    keys = [(VERSION, version), *((BLOB, digest) for digest in dict.fromkeys(blobs))]
    found = [catalog.get(kind, key) if look else None for kind, key in keys]
    return [
        Remove(kind, key, expected=0 if record is None or _leaves(record) else record.revision)
        for (kind, key), record in zip(keys, found, strict=True)
    ]


def settle(catalog: Catalog, blob: Blob, blobs: Sequence[str]) -> None:
    """Wait until no collection is about to remove one of `blobs`; of one that was killed, finish its work.

    Raises:
        Unavailable: A collection did not come to an end.
    """
    end = time.monotonic() + _WAIT_S
    while _going(catalog, blobs):
        if catalog.acquire(LEASE, "settle", LEASE_S):
            try:
                finish(catalog, blob)
            finally:
                catalog.release(LEASE, "settle")
        elif time.monotonic() > end:
            raise Unavailable(f"registry: a collection of garbage did not end within {_WAIT_S:g} s. Try again.")
        else:
            time.sleep(0.02)


def finish(catalog: Catalog, blob: Blob) -> None:
    """Bring to an end what a killed collection began. Needs the lease.

    Blobs that were leaving go; those that were only condemned stay, because nobody looked again who needs them.
    """
    for record in catalog.find(BLOB):
        fate = fate_of(record.body)
        if fate.state == "condemned":
            catalog.write([Remove(BLOB, record.key), Remove(VERSION, fate.version)])
        elif fate.state == "leaving":
            blob.delete(record.key)
            catalog.write([Fate("gone", fate.version).put(record.key)])


def _leaves(record: Record) -> bool:
    """Whether a blob is being deleted now: that cannot be taken back, so the transaction is refused and tried again."""
    return record.kind == BLOB and fate_of(record.body).state == "leaving"


def _going(catalog: Catalog, blobs: Sequence[str]) -> bool:
    found = (catalog.get(BLOB, digest) for digest in blobs)
    return any(record is not None and fate_of(record.body).state != "gone" for record in found)


def note_use(version: str, at_us: int) -> Put:
    """The change that keeps a version for a grace period from now on."""
    return Put(USED, version, str(at_us).encode())
