"""Garbage collection: find versions that are no longer needed, and remove their blobs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, Misuse, NotFound
from trimtab.core.records import GateRecord
from trimtab.core.shown import Shown
from trimtab.core.time import DAY_US, HOUR_US, format_duration, format_time
from trimtab.registry import removed as gone
from trimtab.registry.aliases import Aliases
from trimtab.registry.collecting.orphans import YOUNGEST_US, orphans
from trimtab.registry.versions import Version
from trimtab.store.ports import Blob, Catalog, Listed, Put, Remove, StoredBlob
from trimtab.training.data.sets import load_manifest

_EVER_US = 2**62


class Reason(msgspec.Struct, frozen=True):
    """A reason why a version is kept, and what the user can do about it."""

    text: str
    frees: str  # the option or action that removes this reason; "": only the option `--evidence` can remove it
    # the age of the judgement or decision that keeps the version: `--evidence` with a shorter time removes this reason
    evidence_us: int | None = None


class Kept(msgspec.Struct, frozen=True):
    """A version that is kept, the reasons, and everything that would free it."""

    version: str
    name: str
    why: tuple[str, ...]
    size_bytes: int
    frees: tuple[str, ...] = ()


class Going(msgspec.Struct, frozen=True):
    """A version to remove, with those of its blobs that no kept version needs."""

    version: str
    name: str
    blobs: tuple[StoredBlob, ...]

    @property
    def size_bytes(self) -> int:
        """The disk space that the removal of the version frees."""
        return sum(one.size_bytes for one in self.blobs)


class Forgotten(msgspec.Struct, frozen=True):
    """A record of a search or a finished step to remove.

    The record itself is small. But once it is removed, no record names its blobs, so these can be removed, too.
    """

    what: Literal["search", "step"]
    name: str  # "late_flight/6f1c..." for a search; "train.fit/09ab..." for a finished step
    at_us: int  # the end of the search or step, or its start if it did not end


class Collection(Shown, msgspec.Struct, frozen=True):
    """The result of a collection: what it found, or what it removed."""

    kept: tuple[Kept, ...]
    going: tuple[Going, ...]
    orphans: tuple[StoredBlob, ...] = ()  # blobs that no record names
    unfinished_bytes: int = 0  # the size of unfinished files that killed processes left
    forgotten: tuple[Forgotten, ...] = ()  # searches and finished steps to remove

    @property
    def size_bytes(self) -> int:
        """The disk space that the whole collection frees."""
        of_blobs = sum(one.size_bytes for one in self.orphans) + self.unfinished_bytes
        return sum(one.size_bytes for one in self.going) + of_blobs


class Keep(msgspec.Struct, frozen=True, kw_only=True):
    """The rules for what a collection keeps."""

    grace_us: int = 7 * DAY_US  # everything that was registered or stored within this time is kept
    rollbacks: int = 10  # the number of roll-back steps per alias whose versions are kept
    # gate records and ledger rows up to this age keep their versions; None: of every age
    evidence_us: int | None = None

    @property
    def youngest_us(self) -> int:
        """Orphaned blobs of at least this age may be removed."""
        return max(self.grace_us, YOUNGEST_US)

    def __post_init__(self) -> None:
        if self.grace_us < 0 or self.rollbacks < 1 or (self.evidence_us is not None and self.evidence_us < 0):
            raise Misuse(f"collection: {self}: grace and evidence must be at least 0, and rollbacks at least 1.")


class Collector:
    """Finds versions that are no longer needed, and removes their blobs.  # D59

    Args:
        actor: The name of the person or process that starts the collection.
        keep: The rules for what is kept.
        also: Further reasons to keep versions, by version id, from outside the registry (a ledger row, logged
            predictions).
        forgotten: Searches and finished steps that the caller removes, so that they keep no blobs.
        needed: The hashes of further blobs to keep.
    """

    def __init__(
        self,
        catalog: Catalog,
        blob: Blob,
        *,
        clock: Clock,
        actor: str,
        keep: Keep | None = None,
        also: Mapping[str, Sequence[Reason]] | None = None,
        forgotten: Sequence[Forgotten] = (),
        needed: Sequence[str] = (),
    ) -> None:
        if not isinstance(blob, Listed):
            raise Misuse(f"collection: {type(blob).__name__} does not say how old its blobs are. Use a file store.")
        self._catalog = catalog
        self._blob = blob
        self._listed: Listed = blob
        self._clock = clock
        self._actor = actor
        self._keep = keep or Keep()
        self._also = also or {}
        self._forgotten = tuple(forgotten)
        self._needed = tuple(needed)
        self._aliases = Aliases(catalog, clock=clock, actor=actor)

    def look(self) -> Collection:
        """Return the versions and blobs that a collection would remove now, and the versions that it would keep."""
        now_us = self._clock.now_us()
        versions = self._versions()
        why = self._reasons(versions, now_us)
        blobs = {version.id: self._blobs(version) for version in versions.values()}
        needed = {digest for one in why for digest in blobs[one]}
        kept, going = [], []
        for version in sorted(versions.values(), key=lambda v: (v.model, v.number)):
            found = [stored for digest in blobs[version.id] if (stored := self._listed.stored(digest)) is not None]
            if version.id in why:
                size, reasons = sum(one.size_bytes for one in found), why[version.id]
                texts = tuple(one.text for one in reasons)
                kept.append(Kept(version.id, version.name, texts, size, _freeing(reasons)))
            else:
                old = (
                    one for one in found if one.digest not in needed and now_us - one.put_at_us >= self._keep.grace_us
                )
                going.append(Going(version.id, version.name, tuple(old)))
        return Collection(
            tuple(kept),
            tuple(_each_blob_once(going)),
            self._orphans(versions, now_us),
            self._listed.sweep(self._before_us(now_us), look=True),
            self._forgotten,
        )

    def collect(self, *, why: str) -> Collection:
        """Remove what is no longer needed. Return what was kept and what was removed.

        Raises:
            Conflict: Another collection is running.
        """
        holder = f"{self._actor} {os.getpid()}"
        if not self._catalog.acquire(gone.LEASE, holder, gone.LEASE_S):
            raise Conflict("collection: another collection is running. Try again when it has ended.")
        try:
            gone.finish(self._catalog, self._blob)
            found = self.look()
            went = [one for one in found.going if self._collect(one, why, holder)]
            return msgspec.structs.replace(
                found,
                going=tuple(went),
                orphans=self._collect_orphans(found.orphans),
                unfinished_bytes=self._listed.sweep(self._before_us(self._clock.now_us())),
            )
        finally:
            self._catalog.release(gone.LEASE, holder)

    def _collect(self, one: Going, why: str, holder: str) -> bool:
        """Remove a version's blobs in the steps that removed.py describes. Return False if it is needed after all."""
        if not self._catalog.acquire(gone.LEASE, holder, gone.LEASE_S):
            raise Conflict("collection: it took so long that another collection began. Run it again.")
        digests = [blob.digest for blob in one.blobs]
        note = gone.Removed(
            version=one.version,
            blobs=tuple(digests),
            size_bytes=one.size_bytes,
            at_us=self._clock.now_us(),
            actor=self._actor,
            why=why,
        )
        removed = Put(gone.VERSION, one.version, msgspec.json.encode(note), expected=0)
        condemned = self._condemn(digests, one.version, removed)
        if condemned is None:
            return False
        now_us, versions = self._clock.now_us(), self._versions(without=one.version)
        reasons = self._reasons(versions | {one.version: self._version(one.version)}, now_us)
        needed = {digest for other in reasons if other in versions for digest in self._blobs(versions[other])}
        young = any(now_us - s.put_at_us < self._keep.grace_us for d in digests if (s := self._listed.stored(d)))
        wanted = one.version in reasons or needed & set(digests) or young
        if wanted or not self._make_final(condemned, one.version):
            taken_back = [Remove(gone.VERSION, one.version), *(Remove(gone.BLOB, digest) for digest in digests)]
            self._catalog.write(taken_back)
            return False
        for digest in digests:
            self._blob.delete(digest)
        self._catalog.write([gone.Fate("gone", one.version).put(digest) for digest in digests])
        return True

    def _collect_orphans(self, found: Sequence[StoredBlob]) -> tuple[StoredBlob, ...]:
        """Remove those of the given blobs that still no record names, and return them."""
        condemned = self._condemn([one.digest for one in found], gone.NO_VERSION)
        if condemned is None:
            return ()
        now_us, went = self._clock.now_us(), []
        still = set(self._orphans(self._versions(), now_us))
        for one in found:
            mine = {one.digest: condemned[one.digest]}
            leaves = one in still and self._make_final(mine, gone.NO_VERSION)
            if leaves and self._listed.expire(one.digest, self._before_us(now_us)):
                # a registration that needs the blob finds the record `gone` from now on, and stores the blob again
                went.append(one)
                self._catalog.write([gone.Fate("gone", gone.NO_VERSION).put(one.digest)])
            else:
                self._catalog.write([Remove(gone.BLOB, one.digest)])
        return tuple(went)

    def _condemn(self, digests: Sequence[str], version: str, *also: Put) -> dict[str, int] | None:
        """Record that these blobs will be removed, and return the revisions of the records.

        Return None if another process changed one of the records at the same time.
        """
        found = {digest: self._catalog.get(gone.BLOB, digest) for digest in digests}
        before = {digest: 0 if record is None else record.revision for digest, record in found.items()}
        fate = gone.Fate("condemned", version)
        try:
            self._catalog.write([*also, *(fate.put(digest, expected=before[digest]) for digest in digests)])
        except Conflict:
            return None
        return {digest: revision + 1 for digest, revision in before.items()}

    def _make_final(self, condemned: Mapping[str, int], version: str) -> bool:
        """Make the removal final. Return False if another process took it back, by changing a record of `_condemn`."""
        fate = gone.Fate("leaving", version)
        try:
            self._catalog.write([fate.put(digest, expected=revision) for digest, revision in condemned.items()])
        except Conflict:
            return False
        return True

    def _orphans(self, versions: Mapping[str, Version], now_us: int) -> tuple[StoredBlob, ...]:
        needed = [*self._needed, *(digest for version in versions.values() for digest in self._blobs(version))]
        without = {one.name for one in self._forgotten if one.what == "step"}
        before_us = self._before_us(now_us)
        return orphans(self._catalog, self._blob, self._listed, needed=needed, before_us=before_us, without=without)

    def _before_us(self, now_us: int) -> int:
        return now_us - self._keep.youngest_us

    def _versions(self, *, without: str | None = None) -> dict[str, Version]:
        """Return all versions whose artifacts were not removed."""
        removed = {record.key for record in self._catalog.find(gone.VERSION)} | {without}
        return {r.key: _decoded(r.body) for r in self._catalog.find("version") if r.key not in removed}

    def _version(self, address: str) -> Version:
        record = self._catalog.get("version", address)
        if record is None:
            raise NotFound(f"version {address[:12]}: not in this registry.")
        return _decoded(record.body)

    def _blobs(self, version: Version) -> list[str]:
        blobs = [version.artifact, version.training_set, *([version.evaluation] if version.evaluation else [])]
        blobs += self._profile(version.id)
        try:
            parquet = load_manifest(version.training_set, self._blob).parquet
        except NotFound:
            return blobs
        return blobs if parquet is None else [*blobs, parquet]

    def _profile(self, version: str) -> list[str]:
        """Return the blob of a version's input profile (stored by monitoring) as a list, which may be empty."""
        record = self._catalog.get("input_profile", version)
        blob = None if record is None else msgspec.json.decode(record.body).get("blob")
        return [] if blob is None else [blob]

    def _reasons(self, versions: Mapping[str, Version], now_us: int) -> dict[str, list[Reason]]:
        """Return the reasons to keep each version; versions without a reason are left out."""
        why: dict[str, list[Reason]] = {}

        def add(version: str | None, text: str, frees: str = "", evidence_us: int | None = None) -> None:
            reason = Reason(text, frees, evidence_us)
            if version is not None and version in versions and reason not in why.get(version, ()):
                why.setdefault(version, []).append(reason)

        for version, reason in self._of_aliases(versions.values()):
            add(version, reason.text, reason.frees)
        evidence_us = _EVER_US if self._keep.evidence_us is None else self._keep.evidence_us
        for record in self._catalog.find("gate"):
            gate = msgspec.json.decode(record.body, type=GateRecord)
            age_us = now_us - gate.judged_at_us
            if age_us <= evidence_us:
                add(gate.candidate, f"gate record {gate.id} judged it", evidence_us=age_us)
                add(gate.champion, f"gate record {gate.id} compared a candidate with it", evidence_us=age_us)
        for version, reasons in self._also.items():
            for reason in reasons:
                add(version, reason.text, reason.frees, reason.evidence_us)
        used = {record.key: int(record.body) for record in self._catalog.find(gone.USED)}
        for one in versions.values():
            at_us = max(one.made_at_us, used.get(one.id, 0))
            if now_us - at_us < self._keep.grace_us:
                at, grace = format_time(at_us)[:19], format_duration(self._keep.grace_us)
                within = f"registered {at}, within the grace of {grace}"
                add(one.id, within, f"--grace {_below(now_us - at_us)}")
        # newest first: a kept refit is a reason to keep the version that it refits, and this may be a refit, too
        for one in sorted(versions.values(), key=lambda version: -version.number):
            if one.id in why and one.refit_of is not None:
                add(one.refit_of, f"{one.name} refits it", f"removing {one.name}")
        return why

    def _of_aliases(self, versions: Iterable[Version]) -> Iterable[tuple[str, Reason]]:
        for model in sorted({version.model for version in versions}):
            for alias in self._aliases.places(model):
                now, *before = self._aliases.reach(model, alias)[: self._keep.rollbacks + 1]
                yield now, Reason(f"alias {alias} points to it", f"moving alias {alias} to another version")
                for steps, version in enumerate(before, 1):
                    text = f"alias {alias} can go back to it in {steps} step{'s' * (steps > 1)}"
                    frees = f"--rollbacks {steps - 1}" if steps > 1 else f"moving alias {alias} to another version"
                    yield version, Reason(text, frees)


def _decoded(body: bytes) -> Version:
    return msgspec.json.decode(body, type=Version)


def _freeing(reasons: Sequence[Reason]) -> tuple[str, ...]:
    """Return the options and actions by which the user frees a version from the given reasons."""
    ages_us = [one.evidence_us for one in reasons if one.evidence_us is not None]
    evidence = [f"--evidence {_below(min(ages_us))}"] if ages_us else []
    return tuple(dict.fromkeys([*(one.frees for one in reasons if one.frees), *evidence]))


def _below(age_us: int) -> str:
    """Return the longest duration below an age, in whole days or, below one day, in whole hours."""
    days, hours = (max(age_us - 1, 0) // unit_us for unit_us in (DAY_US, HOUR_US))
    return f"{days}d" if days else f"{hours}h" if hours else "0s"


def _each_blob_once(going: Iterable[Going]) -> Iterable[Going]:
    seen: set[str] = set()
    for one in going:
        yield msgspec.structs.replace(one, blobs=tuple(b for b in one.blobs if b.digest not in seen))
        seen.update(b.digest for b in one.blobs)
