"""Orphaned blobs: blobs that no record names, for example because a process was killed before it named them.  # D59"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from trimtab.core.errors import Corrupt, NotFound
from trimtab.core.time import DAY_US
from trimtab.run.steps import KIND as STEP
from trimtab.store.ports import Blob, Catalog, Listed, StoredBlob

# the least age of blobs that may be removed. It is not a setting, because a running training stores blobs long before
# a record names them
YOUNGEST_US = DAY_US
_DIGEST = re.compile(rb"[0-9a-f]{64}")
_FOLLOWED_BYTES = 1 << 20  # larger blobs are not searched for hashes, because documents that name blobs are small


def orphans(
    catalog: Catalog,
    blob: Blob,
    listed: Listed,
    *,
    needed: Iterable[str],
    before_us: int,
    without: Collection[str] = (),
) -> tuple[StoredBlob, ...]:
    """Return the blobs that are not needed, oldest first.

    Needed are the blobs in `needed`, those that finished steps name, and those that needed blobs name.

    Args:
        listed: The same store, with methods that list blobs and their ages.
        needed: The hashes of blobs to keep, such as those that versions name.
        before_us: Only blobs that were stored before this time are returned.
        without: The keys of finished steps to ignore, because they will be removed.
    """
    old = {found.digest: found for found in listed.all() if found.put_at_us < before_us}
    named: set[str] = set()
    ahead = [*needed]
    for record in catalog.find(STEP):
        ahead += _digests(record.body) if record.key not in without else []
    while ahead:
        digest = ahead.pop()
        if digest not in named:
            named.add(digest)
            ahead += _named_in(digest, blob, listed)
    return tuple(sorted((one for digest, one in old.items() if digest not in named), key=lambda one: one.put_at_us))


def _named_in(digest: str, blob: Blob, listed: Listed) -> list[str]:
    found = listed.stored(digest)
    if found is None or found.size_bytes > _FOLLOWED_BYTES:
        return []
    try:
        return _digests(blob.get(digest))
    except (Corrupt, NotFound):
        return []


def _digests(text: bytes) -> list[str]:
    return [found.decode() for found in _DIGEST.findall(text)]
