"""Store version records in the catalogue. When a record is read, its contents are checked against its id."""

from __future__ import annotations

import re

import msgspec

from trimtab.core.errors import Corrupt, Misuse, NotFound
from trimtab.registry.aliases import Aliases
from trimtab.registry.versions import Version, id_of
from trimtab.store.ports import Catalog

_PREFIX = re.compile(r"[0-9a-f]{6,64}")


class VersionRecords:
    """The versions in a catalogue. Versions never change, so each is cached in memory once it was read."""

    def __init__(self, catalog: Catalog, aliases: Aliases) -> None:
        self._catalog = catalog
        self._aliases = aliases
        self._read: dict[str, Version] = {}

    def get(self, reference: str) -> Version:
        """Return a version by "model@7", by "model@champion", or by the first digits of its id; see `Registry.get`."""
        model, at, rest = reference.partition("@")
        if at and rest.isdecimal():
            record = self._catalog.get("version_number", number_key(model, int(rest)))
            if record is None:
                raise NotFound(f"version {reference!r}: {self._existing(model)}")
            return self.stored(record.body.decode())
        found = self._aliases.place(model, rest).version if at else None
        if found is not None:  # even if the alias looks like the digits of an id, such as "facade"
            return self.stored(found)
        if at and not _PREFIX.fullmatch(rest):
            raise NotFound(f"version {reference!r}: {self._existing(model)}")
        return self._by_prefix(rest if at else model, model if at else None)

    def resolved(self, version: Version | str) -> Version:
        """Return the stored version for a reference or for a `Version` object."""
        return self.stored(version.id) if isinstance(version, Version) else self.get(version)

    def of_model(self, model: str) -> list[Version]:
        """Return all versions of a model, sorted by number."""
        records = self._catalog.find("version_number", f"{model}/")
        return [self.stored(record.body.decode()) for record in records]

    def models(self) -> list[str]:
        """Return the names of the models that have versions."""
        return [record.key for record in self._catalog.find("version_count")]

    def name(self, version_id: str | None) -> str:
        """Return a version's name for messages: the id if there is no such version, "no version" for None."""
        found = None if version_id is None else self.find(version_id)
        return "no version" if version_id is None else version_id if found is None else found.name

    def cached(self, version_id: str) -> Version | None:
        """Return the version if it is cached in memory; otherwise None."""
        return self._read.get(version_id)

    def keep(self, version: Version) -> None:
        """Add a version that was just registered to the cache in memory."""
        self._read[version.id] = version

    def find(self, version_id: str) -> Version | None:
        """Return the version with an id; None if there is none."""
        if version_id not in self._read:
            record = self._catalog.get("version", version_id)
            if record is None:
                return None
            self._read[version_id] = _decoded(record.body)
        return self._read[version_id]

    def stored(self, version_id: str) -> Version:
        """Return the version with an id.

        Raises:
            NotFound: There is no version with this id.
        """
        found = self.find(version_id)
        if found is None:
            raise NotFound(f"version {version_id[:12]}: not in this registry. Register it first.")
        return found

    def _by_prefix(self, prefix: str, model: str | None) -> Version:
        if not _PREFIX.fullmatch(prefix):
            raise NotFound(f'version {prefix!r}: write "model@7", "model@champion" or 6 or more digits of its address.')
        found = [_decoded(record.body) for record in self._catalog.find("version", prefix)]
        found = [v for v in found if model is None or v.model == model]
        if not found:
            raise NotFound(f"version {prefix!r}: no version has an address that begins like this.")
        if len(found) > 1:
            raise Misuse(f"version {prefix!r}: {', '.join(v.name for v in found)} begin like this. Give more digits.")
        return found[0]

    def _existing(self, model: str) -> str:
        count = self._catalog.get("version_count", model)
        if count is None:
            models = self.models()
            found = f"versions of {', '.join(models)}" if models else "none at all"
            return f"no versions of {model!r}; there are {found}."
        aliases = ", ".join(f"@{name}" for name in self._aliases.places(model)) or "none"
        return f"{model!r} has versions @1 to @{int(count.body)}; aliases: {aliases}."


def number_key(model: str, number: int) -> str:
    """Return the key under which the catalogue stores the id of a numbered version."""
    return f"{model}/{number:08d}"


def _decoded(body: bytes) -> Version:
    version = msgspec.json.decode(body, type=Version)
    if id_of(version) != version.id:
        raise Corrupt(f"version {version.id[:12]} ({version.name}): its record was changed after it was made.")
    return version
