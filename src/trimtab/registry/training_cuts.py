"""Training cuts of imported versions: the latest times of their training data, as set by the user.  # D62"""

from __future__ import annotations

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Misuse
from trimtab.core.time import format_time
from trimtab.registry.versions import Version
from trimtab.store.ports import Catalog, Put

KIND = "seen_until"


class TrainingCut(msgspec.Struct, frozen=True, kw_only=True):
    """A training cut that was set for an imported version. The one that was set last counts."""

    format: int = 1
    version: str
    until_us: int
    at_us: int
    actor: str


def set_training_cut(catalog: Catalog, version: Version, until_us: int, *, clock: Clock, actor: str) -> TrainingCut:
    """Store the training cut of an imported version: the latest time that its training data may have.

    Raises:
        Misuse: The version was trained here, or the time is in the future.
    """
    what = f"version {version.name}: seen_until={format_time(until_us)}"
    if version.imported is None:
        raise Misuse(f"{what}: the version was trained here, so its training data are known. Leave the option out.")
    now_us = clock.now_us()
    if until_us > now_us:
        raise Misuse(f"{what} is in the future. Give the latest time of the version's training data.")
    seen = TrainingCut(version=version.id, until_us=until_us, at_us=now_us, actor=actor)
    catalog.write([Put(KIND, version.id, msgspec.json.encode(seen))])
    return seen


def as_known(catalog: Catalog, version: Version) -> Version:
    """Return the version with the training cut that was set last for it, if one was."""
    record = None if version.imported is None else catalog.get(KIND, version.id)
    if record is None:
        return version
    return msgspec.structs.replace(version, cut_us=msgspec.json.decode(record.body, type=TrainingCut).until_us)
