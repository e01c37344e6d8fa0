"""Register fitted models as versions, even while other processes register models or collect garbage."""

from __future__ import annotations

from pathlib import Path

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, Misuse
from trimtab.registry.aliases import Aliases
from trimtab.registry.protection import CANARY, CHAMPION, Protections
from trimtab.registry.removed import restart_grace, settle, take_back
from trimtab.registry.version_records import VersionRecords, number_key
from trimtab.registry.versions import Act, Imported, Version, version_id
from trimtab.store.ports import Append, Blob, Catalog, Put, Remove
from trimtab.training.environment import Environment, current_environment
from trimtab.training.fitting.fitted import Fitted

_REASON = "Registered."
_ATTEMPTS = 50  # how often registration is tried again after a conflict with another process


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """The hashes of a new version's training set and evaluation, and what it was refitted or imported from."""

    training_set: str  # the hash of the training set's manifest
    refit_of: str | None = None
    evaluation: str | None = None
    imported: Imported | None = None


class Registration:
    """Registers fitted models as versions in a catalogue."""

    def __init__(
        self,
        catalog: Catalog,
        blob: Blob,
        *,
        records: VersionRecords,
        aliases: Aliases,
        protections: Protections,
        clock: Clock,
        environment: Environment | None,
        folder: Path | None,
    ) -> None:
        self._catalog = catalog
        self._blob = blob
        self._records = records
        self._aliases = aliases
        self._protections = protections
        self._clock = clock
        self._environment = environment
        self._folder = folder

    def register(self, fitted: Fitted, origin: Origin, *, alias: str | None, actor: str) -> Version:
        """Return the version of a fitted model, which may exist already; see `Registry.register`."""
        what = f"register {fitted.model!r}"
        for name, digest in (("training set", origin.training_set), ("evaluation", origin.evaluation)):
            if digest is not None and not self._blob.exists(digest):
                raise Misuse(f"{what}: its {name} {digest[:12]} is not stored. Save it first.")
        if origin.refit_of is not None and self._records.get(origin.refit_of).model != fitted.model:
            raise Misuse(f"{what}: refit_of={origin.refit_of[:12]} is a version of another model.")
        if alias in (CHAMPION, CANARY):
            raise Misuse(f"{what}: a {alias} needs evidence. Register the model without an alias, then use move().")
        address = version_id(
            model=fitted.model,
            artifact=self._blob.put(fitted.data),
            recipe=fitted.recipe,
            features=fitted.features,
            runtime=fitted.artifact.runtime,
            trust=fitted.artifact.trust,
            training_set=origin.training_set,
            refit_of=origin.refit_of,
        )
        blobs = [fitted.digest, origin.training_set, *([] if origin.evaluation is None else [origin.evaluation])]
        for attempt in range(_ATTEMPTS):
            if attempt:  # the conflict may be due to a garbage collection
                settle(self._catalog, self._blob, blobs)
            returned = take_back(self._catalog, address, blobs, look=attempt > 0)
            if attempt:  # after `take_back`: if a collection begins from then on, the transaction below conflicts
                self._put_again(fitted, blobs)
            found = self._records.find(address) if attempt else self._records.cached(address)
            changes: list[Put | Append | Remove] = [*returned, *self._pointing(fitted.model, alias, address)]
            if found is None:
                version, revision = self._numbered(fitted, address, origin, actor)
                changes += [
                    Put("version", address, msgspec.json.encode(version), expected=0),
                    Put("version_number", number_key(version.model, version.number), address.encode(), expected=0),
                    Put("version_count", version.model, str(version.number).encode(), expected=revision),
                ]
            else:
                version = found
                changes.append(restart_grace(address, self._clock.now_us()))
            try:
                self._catalog.write(changes)
            except Conflict:
                # another process registered an equal version, took the number, moved the alias, or removes a blob
                continue
            self._records.keep(version)
            return version
        raise Conflict(f"{what}: each of {_ATTEMPTS} attempts conflicted with another process. Try again.")

    def _numbered(self, fitted: Fitted, address: str, origin: Origin, actor: str) -> tuple[Version, int]:
        """Return the version with the next free number, and the revision that the model's counter must still have."""
        count = self._catalog.get("version_count", fitted.model)
        if self._environment is None:
            self._environment = current_environment(self._folder)  # only for a new version, because this starts Git
        version = Version(
            id=address,
            model=fitted.model,
            number=1 if count is None else int(count.body) + 1,
            artifact=fitted.digest,
            recipe=fitted.recipe,
            features=fitted.features,
            runtime=fitted.artifact.runtime,
            trust=fitted.artifact.trust,
            training_set=origin.training_set,
            refit_of=origin.refit_of,
            metric=fitted.artifact.metric,
            cut_us=fitted.cut_us,
            positions=dict(fitted.positions),
            rows=fitted.rows,
            evaluation=origin.evaluation,
            made_at_us=self._clock.now_us(),
            actor=actor,
            environment=self._environment,
            chosen=fitted.chosen,
            half_life_us=fitted.half_life_us,
            imported=origin.imported,
        )
        return version, 0 if count is None else count.revision

    def _pointing(self, model: str, alias: str | None, address: str) -> list[Put | Append]:
        """Return the changes that point an alias to the version; none if it points there already or is None."""
        if alias is None:
            return []
        place = self._aliases.place(model, alias)
        if self._protections.needs(model, alias) != "nothing":
            raise Misuse(f"register {model!r}: alias {alias!r} is protected. Register without it, then use move().")
        if place.version == address:
            return []
        act: Act = "first" if place.row is None else "move"
        row = self._aliases.next_row(place, model=model, alias=alias, version=address, act=act, why=_REASON)
        return self._aliases.changes(row, place)

    def _put_again(self, fitted: Fitted, blobs: list[str]) -> None:
        self._blob.put(fitted.data)
        for digest in blobs:
            if digest != fitted.digest and not self._blob.exists(digest):
                raise Misuse(f"register {fitted.model!r}: {digest[:12]} was removed as garbage. Save it again first.")
