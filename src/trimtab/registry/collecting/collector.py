"""Garbage collection: which versions nothing needs any more, and the removal of their blobs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, Misuse, NotFound
from trimtab.core.records import GateRecord
from trimtab.core.time import DAY_US, HOUR_US, format_duration, format_time
from trimtab.registry import removed as gone
from trimtab.registry.aliases import Aliases
from trimtab.registry.collecting.orphans import YOUNGEST_US, orphans
from trimtab.registry.versions import Version
from trimtab.store.ports import Blob, Catalog, Listed, Put, Remove, StoredBlob
from trimtab.training.data.sets import load_manifest

_EVER_US = 2**62


class Reason(msgspec.Struct, frozen=True):
    """Why a version stays, and what would let it go as far as this is concerned."""

    said: str
    frees: str
    evidence_us: int | None = None  # the age of a record that counts as evidence: `--evidence` below it frees


class Kept(msgspec.Struct, frozen=True):
    """A version that stays, why, and what would let it go: all of it."""

    version: str
    name: str
    why: tuple[str, ...]
    size_bytes: int
    frees: tuple[str, ...] = ()


class Going(msgspec.Struct, frozen=True):
    """A version that nothing needs any more: its blobs, but for those that a kept version has too."""

    version: str
    name: str
    blobs: tuple[StoredBlob, ...]

    @property
    def size_bytes(self) -> int:
        """What its removal gives back."""
        return sum(one.size_bytes for one in self.blobs)


class Forgotten(msgspec.Struct, frozen=True):
    """Something beside versions that nothing needs any more, and that is small: what it named goes as blobs."""

    what: Literal["search", "step"]
    name: str  # "late_flight/6f1c...": a search; "train.fit/09ab...": a finished step
    at_us: int  # when it came to its end, or began where it never did


class Collection(msgspec.Struct, frozen=True):
    """What a collection finds, or did."""

    kept: tuple[Kept, ...]
    going: tuple[Going, ...]
    orphans: tuple[StoredBlob, ...] = ()  # blobs that nothing names
    unfinished_bytes: int = 0  # of files that were being stored when their process was killed
    forgotten: tuple[Forgotten, ...] = ()  # searches and finished steps that nothing needs

    @property
    def size_bytes(self) -> int:
        """What the removal of all that goes gives back."""
        of_blobs = sum(one.size_bytes for one in self.orphans) + self.unfinished_bytes
        return sum(one.size_bytes for one in self.going) + of_blobs


class Keep(msgspec.Struct, frozen=True, kw_only=True):
    """What a collection has to leave alone."""

    grace_us: int = 7 * DAY_US  # what was registered or put since stays, whatever it is
    rollbacks: int = 10  # how many steps back each alias can go
    evidence_us: int | None = None  # gate records and ledger rows older than this keep nothing; None: all of them do

    @property
    def youngest_us(self) -> int:
        """How old what nothing names must be before it may go."""
        return max(self.grace_us, YOUNGEST_US)

    def __post_init__(self) -> None:
        if self.grace_us < 0 or self.rollbacks < 1 or (self.evidence_us is not None and self.evidence_us < 0):
            raise Misuse(f"collection: {self}: give a grace and evidence of 0 or more, and at least one step back.")


class Collector:
    """Looks for versions that nothing reaches, and removes their blobs. # D59

    Args:
        catalog: The registry's.
        blob: Where blobs are.
        clock: Ages are measured with it.
        actor: Who asks.
        keep: What has to stay.
        also: By version, why somebody outside the registry needs it (a ledger row, logged predictions).
        forgotten: What else is to go: the blobs that such a step names are not needed for its sake.
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
        self._aliases = Aliases(catalog, clock=clock, actor=actor)

    def look(self) -> Collection:
        """What would go and what stays, as things are now."""
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
                said = tuple(one.said for one in reasons)
                kept.append(Kept(version.id, version.name, said, size, _freeing(reasons)))
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
        """Remove what nothing needs; what stayed and what went.

        Raises:
            Conflict: Another collection is under way.
        """
        holder = f"{self._actor} {os.getpid()}"
        if not self._catalog.acquire(gone.LEASE, holder, gone.LEASE_S):
            raise Conflict("collection: another one is under way. Try again when it is over.")
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
        """Remove one version's blobs, unless somebody came to need it meanwhile."""
        if not self._catalog.acquire(gone.LEASE, holder, gone.LEASE_S):
            raise Conflict("collection: it took so long that another one began. Run it again.")
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
        if wanted or not self._let_leave(condemned, one.version):
            taken_back = [Remove(gone.VERSION, one.version), *(Remove(gone.BLOB, digest) for digest in digests)]
            self._catalog.write(taken_back)
            return False
        for digest in digests:
            self._blob.delete(digest)
        self._catalog.write([gone.Fate("gone", one.version).put(digest) for digest in digests])
        return True

    def _collect_orphans(self, found: Sequence[StoredBlob]) -> tuple[StoredBlob, ...]:
        """Remove what nobody came to name meanwhile; what went."""
        condemned = self._condemn([one.digest for one in found], gone.NOBODY)
        if condemned is None:
            return ()
        now_us, went = self._clock.now_us(), []
        still = set(self._orphans(self._versions(), now_us))
        for one in found:
            mine = {one.digest: condemned[one.digest]}
            leaves = one in still and self._let_leave(mine, gone.NOBODY)
            if leaves and self._listed.expire(one.digest, self._before_us(now_us)):
                went.append(one)  # whoever was about to name it finds this, and puts it again
                self._catalog.write([gone.Fate("gone", gone.NOBODY).put(one.digest)])
            else:
                self._catalog.write([Remove(gone.BLOB, one.digest)])
        return tuple(went)

    def _condemn(self, digests: Sequence[str], version: str, *also: Put) -> dict[str, int] | None:
        """Note that blobs are about to go; by blob the note's revision, None where somebody came between."""
        found = {digest: self._catalog.get(gone.BLOB, digest) for digest in digests}
        before = {digest: 0 if record is None else record.revision for digest, record in found.items()}
        fate = gone.Fate("condemned", version)
        try:
            self._catalog.write([*also, *(fate.put(digest, expected=before[digest]) for digest in digests)])
        except Conflict:
            return None
        return {digest: revision + 1 for digest, revision in before.items()}

    def _let_leave(self, condemned: Mapping[str, int], version: str) -> bool:
        """The point of no return; False where somebody took a note of `_condemn` back: he needs the blob."""
        fate = gone.Fate("leaving", version)
        try:
            self._catalog.write([fate.put(digest, expected=revision) for digest, revision in condemned.items()])
        except Conflict:
            return False
        return True

    def _orphans(self, versions: Mapping[str, Version], now_us: int) -> tuple[StoredBlob, ...]:
        needed = (digest for version in versions.values() for digest in self._blobs(version))
        without = {one.name for one in self._forgotten if one.what == "step"}
        before_us = self._before_us(now_us)
        return orphans(self._catalog, self._blob, self._listed, needed=needed, before_us=before_us, without=without)

    def _before_us(self, now_us: int) -> int:
        return now_us - self._keep.youngest_us

    def _versions(self, *, without: str | None = None) -> dict[str, Version]:
        """All versions that are not removed already."""
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
        """The blob of a version's input profile, which monitoring made."""
        record = self._catalog.get("input_profile", version)
        blob = None if record is None else msgspec.json.decode(record.body).get("blob")
        return [] if blob is None else [blob]

    def _reasons(self, versions: Mapping[str, Version], now_us: int) -> dict[str, list[Reason]]:
        """Why each version stays; one without a reason is not in it."""
        why: dict[str, list[Reason]] = {}

        def note(version: str | None, said: str, frees: str = "", evidence_us: int | None = None) -> None:
            reason = Reason(said, frees, evidence_us)
            if version is not None and version in versions and reason not in why.get(version, ()):
                why.setdefault(version, []).append(reason)

        for version, reason in self._of_aliases(versions.values()):
            note(version, reason.said, reason.frees)
        evidence_us = _EVER_US if self._keep.evidence_us is None else self._keep.evidence_us
        for record in self._catalog.find("gate"):
            gate = msgspec.json.decode(record.body, type=GateRecord)
            age_us = now_us - gate.judged_at_us
            if age_us <= evidence_us:
                note(gate.candidate, f"gate record {gate.id} judged it", evidence_us=age_us)
                note(gate.champion, f"gate record {gate.id} compared with it", evidence_us=age_us)
        for version, reasons in self._also.items():
            for reason in reasons:
                note(version, reason.said, reason.frees, reason.evidence_us)
        used = {record.key: int(record.body) for record in self._catalog.find(gone.USED)}
        for one in versions.values():
            at_us = max(one.made_at_us, used.get(one.id, 0))
            if now_us - at_us < self._keep.grace_us:
                within = f"registered {format_time(at_us)}, within {format_duration(self._keep.grace_us)}"
                note(one.id, within, f"--grace {_below(now_us - at_us)}")
        for one in sorted(versions.values(), key=lambda version: -version.number):  # what a refit refits is older
            if one.id in why and one.refit_of is not None:
                note(one.refit_of, f"{one.name} refits it", f"letting {one.name} go")
        return why

    def _of_aliases(self, versions: Iterable[Version]) -> Iterable[tuple[str, Reason]]:
        for model in sorted({version.model for version in versions}):
            for alias in self._aliases.places(model):
                now, *before = self._aliases.reach(model, alias)[: self._keep.rollbacks + 1]
                yield now, Reason(f"alias {alias} points to it", f"moving alias {alias} on")
                for steps, version in enumerate(before, 1):
                    said = f"alias {alias} can go back to it in {steps} step{'s' * (steps > 1)}"
                    frees = f"--rollbacks {steps - 1}" if steps > 1 else f"moving alias {alias} on"
                    yield version, Reason(said, frees)


def _decoded(body: bytes) -> Version:
    return msgspec.json.decode(body, type=Version)


def _freeing(reasons: Sequence[Reason]) -> tuple[str, ...]:
    """What has to be asked for or done so that none of the reasons holds."""
    ages_us = [one.evidence_us for one in reasons if one.evidence_us is not None]
    evidence = [f"--evidence {_below(min(ages_us))}"] if ages_us else []
    return tuple(dict.fromkeys([*(one.frees for one in reasons if one.frees), *evidence]))


def _below(age_us: int) -> str:
    """The longest whole number of days, else of hours, that is shorter than an age."""
    days, hours = (max(age_us - 1, 0) // unit_us for unit_us in (DAY_US, HOUR_US))
    return f"{days}d" if days else f"{hours}h" if hours else "0s"


def _each_blob_once(going: Iterable[Going]) -> Iterable[Going]:
    seen: set[str] = set()
    for one in going:
        yield msgspec.structs.replace(one, blobs=tuple(b for b in one.blobs if b.digest not in seen))
        seen.update(b.digest for b in one.blobs)
