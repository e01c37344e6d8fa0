"""The registry: immutable versions, aliases that move in one transaction with their history, gate records."""

from __future__ import annotations

import re

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound
from trimtab.core.records import GateRecord
from trimtab.features.feature_set import FeatureSet
from trimtab.registry.aliases import Aliases
from trimtab.registry.evidence import check_evidence
from trimtab.registry.loading import LoadedModel, load_version
from trimtab.registry.versions import Act, AliasMove, Version, address_of, version_id
from trimtab.store.ports import Append, Blob, Catalog, Put
from trimtab.training.environment import Environment, current_environment
from trimtab.training.fitted import Fitted

CHAMPION = "champion"  # the one alias that needs evidence
_REGISTERED = "Registered."
_ATTEMPTS = 50  # how often a number may be taken by somebody else before that is reported
_PREFIX = re.compile(r"[0-9a-f]{6,64}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


class Registry:
    """Versions and aliases of all models of a project; safe to use from many processes.

    It holds nothing open itself: the catalogue and the blob store belong to the caller.
    """

    def __init__(
        self, catalog: Catalog, blob: Blob, *, clock: Clock, actor: str, environment: Environment | None = None
    ) -> None:
        self._catalog = catalog
        self._blob = blob
        self._clock = clock
        self._actor = actor
        self._aliases = Aliases(catalog, clock=clock, actor=actor)
        self._environment = environment
        self._versions: dict[str, Version] = {}  # those that were read: they never change

    def register(
        self,
        fitted: Fitted,
        *,
        training_set: str,
        refit_of: str | None = None,
        evaluation: str | None = None,
        decision: int | None = None,
        alias: str | None = None,
    ) -> Version:
        """The version of a fitted model; the one there is already, when an equal one was registered before.

        Args:
            fitted: What `fit` gave.
            training_set: The manifest's hash, from `save_training_set`.
            refit_of: The address of the judged version whose recipe this one is fitted by, on more data.
            evaluation: The hash of a stored evaluation.
            decision: The ledger row that asked for it.
            alias: Point this alias to it in the same transaction ("champion" needs evidence: use `move`).

        Raises:
            Misuse: The training set or the evaluation is not stored, or the alias is "champion".
            NotFound: `refit_of` is no version.
            Conflict: Others kept taking the next number; try again.
        """
        for what, digest in (("training set", training_set), ("evaluation", evaluation)):
            if digest is not None and not self._blob.exists(digest):
                raise Misuse(f"register {fitted.model!r}: its {what} {digest[:12]} is not stored. Save it first.")
        if refit_of is not None and self.get(refit_of).model != fitted.model:
            raise Misuse(f"register {fitted.model!r}: refit_of={refit_of[:12]} is a version of another model.")
        if alias is not None:
            _check_alias(f"alias {fitted.model}@{alias}", alias, _REGISTERED)
        if alias == CHAMPION:
            raise Misuse(f"register {fitted.model!r}: a champion needs evidence. Register it, then use move().")
        address = version_id(
            model=fitted.model,
            artifact=self._blob.put(fitted.data),
            recipe=fitted.recipe,
            features=fitted.features,
            runtime=fitted.artifact.runtime,
            trust=fitted.artifact.trust,
            training_set=training_set,
            refit_of=refit_of,
        )
        for _ in range(_ATTEMPTS):
            found = self._version(address)
            if found is not None:
                if alias is not None:
                    self.move(found.model, alias, found, why=_REGISTERED)
                return found
            version, revision = self._numbered(fitted, address, training_set, refit_of, evaluation, decision)
            changes: list[Put | Append] = [
                Put("version", address, msgspec.json.encode(version), expected=0),
                Put("version_number", _numbered_key(version.model, version.number), address.encode(), expected=0),
                Put("version_count", version.model, str(version.number).encode(), expected=revision),
            ]
            if alias is not None:
                place = self._aliases.place(version.model, alias)
                act: Act = "first" if place.row is None else "move"
                row = self._aliases.next_row(
                    place, model=version.model, alias=alias, version=address, act=act, why=_REGISTERED
                )
                changes += self._aliases.changes(row, place)
            try:
                self._catalog.write(changes)
            except Conflict:
                continue  # another process registered a version of this model, or moved its alias: look again
            self._versions[address] = version
            return version
        raise Conflict(f"register {fitted.model!r}: others took {_ATTEMPTS} numbers meanwhile. Try again.")

    def get(self, reference: str) -> Version:
        """A version by "model@7", "model@champion" or the beginning of its address (at least 6 digits).

        Raises:
            NotFound: There is none; the message lists what there is.
            Misuse: The beginning fits several versions.
        """
        model, at, rest = reference.partition("@")
        if at and rest.isdecimal():
            record = self._catalog.get("version_number", _numbered_key(model, int(rest)))
            if record is None:
                raise NotFound(f"version {reference!r}: {self._what_there_is(model)}")
            return self._stored(record.body.decode())
        if at and not _PREFIX.fullmatch(rest):
            found = self.alias(model, rest)
            if found is None:
                raise NotFound(f"version {reference!r}: {self._what_there_is(model)}")
            return found
        return self._by_prefix(rest if at else model, model if at else None)

    def versions(self, model: str) -> list[Version]:
        """All versions of a model by number."""
        records = self._catalog.find("version_number", f"{model}/")
        return [self._stored(record.body.decode()) for record in records]

    def made_from(self, training_set: str) -> list[Version]:
        """The versions that were fitted on a training set, by its manifest's hash: lineage the other way."""
        found = (self._decoded(record.body) for record in self._catalog.find("version"))
        return sorted((v for v in found if v.training_set == training_set), key=lambda v: (v.model, v.number))

    def load(self, version: Version | str, *, features: FeatureSet | str | None = None) -> LoadedModel:
        """A version that is ready to score: bytes checked against their hash, golden predictions repeated.

        Args:
            version: The version, or any reference that `get` takes.
            features: The feature definitions it will be given: others than it was trained with, or in another order,
                are refused. Of a hash alone the order cannot be told.

        Raises:
            Corrupt: Stored bytes are not what was registered; the message names the blob.
            Misuse: The definitions changed, or this machine does not repeat the golden predictions.
        """
        return load_version(self._blob, self._resolved(version), features=features)

    def alias(self, model: str, alias: str) -> Version | None:
        """The version that an alias points to; None when it was never set."""
        address = self._aliases.place(model, alias).version
        return None if address is None else self._stored(address)

    def aliases(self, model: str) -> dict[str, AliasMove]:
        """Where each alias of a model points, and since which move."""
        return self._aliases.places(model)

    def move(
        self,
        model: str,
        alias: str,
        version: Version | str,
        *,
        why: str,
        gate: GateRecord | str | None = None,
        first: bool = False,
        expected_previous: str | msgspec.UnsetType | None = msgspec.UNSET,
    ) -> AliasMove:
        """Point an alias to a version, in one transaction with the row of its history.

        Pointing it to where it points already changes nothing and gives the row that did it.

        Args:
            model: The model.
            alias: "champion", "challenger", "shadow" or a name of your own.
            version: The version, or any reference that `get` takes.
            why: One sentence for the history.
            gate: For "champion": the passed gate record of this version, or of the one that it refits.
            first: For "champion": there is none yet, and this one starts without a gate.
            expected_previous: The address that the alias must point to now (None: nowhere).

        Raises:
            Misuse: "champion" without the evidence that it needs; the message names what is missing.
            Conflict: Somebody else moved it meanwhile, or the evidence speaks against another champion.
        """
        target = self._resolved(version)
        what = f"alias {model}@{alias}"
        if target.model != model:
            raise Misuse(f"{what}: {target.name} is a version of another model. Give one of {model!r}.")
        _check_alias(what, alias, why)
        place = self._aliases.place(model, alias)
        if expected_previous is not msgspec.UNSET and expected_previous != place.version:
            raise Conflict(f"{what}: expected at {expected_previous}, it is at {place.version}. Read it again.")
        if place.row is not None and place.version == target.id:
            return place.row
        stored = None if gate is None else self.get_gate(gate if isinstance(gate, str) else gate.id)
        if stored is not None and isinstance(gate, GateRecord) and stored != gate:
            raise Misuse(f"{what}: gate record {gate.id} differs from the stored one. Give that.")
        if alias == CHAMPION:
            check_evidence(target, stored, first=first, champion=place.version)
        row = self._aliases.next_row(
            place,
            model=model,
            alias=alias,
            version=target.id,
            act="first" if place.row is None else "move",
            why=why,
            gate=None if stored is None else stored.id,
        )
        return self._aliases.write(row, place)

    def roll_back(self, model: str, alias: str, *, why: str) -> AliasMove:
        """Point an alias to where it pointed before its newest move that was not itself rolled back.

        Raises:
            NotFound: There is nothing to go back to.
            Conflict: Somebody else moved it meanwhile.
        """
        place = self._aliases.place(model, alias)
        earlier = self._aliases.earlier(model, alias)
        if earlier is None:
            raise NotFound(f"alias {model}@{alias}: no earlier version to go back to. Move it to a version by name.")
        row = self._aliases.next_row(place, model=model, alias=alias, version=earlier, act="roll_back", why=why)
        return self._aliases.write(row, place)

    def history(self, model: str, alias: str) -> list[AliasMove]:
        """Every move of an alias, oldest first."""
        return list(self._aliases.history(model, alias))

    def at(self, model: str, alias: str, time_us: int) -> Version | None:
        """The version that an alias pointed to at a moment; None before its first move."""
        found = None
        for row in self._aliases.history(model, alias):
            if row.at_us > time_us:
                break
            found = row.version
        return None if found is None else self._stored(found)

    def put_gate(self, record: GateRecord) -> None:
        """Keep a gate's evidence; the same record again changes nothing.

        Raises:
            Conflict: Another record has this id.
        """
        changes = [
            Put("gate", record.id, msgspec.json.encode(record), expected=0),
            Put("gate_of", f"{record.candidate}/{record.id}", b"null", expected=0),
        ]
        try:
            self._catalog.write(changes)
        except Conflict:
            if self.get_gate(record.id) != record:
                raise Conflict(f"gate {record.id}: another record has this id. Give each judgement its own.") from None

    def get_gate(self, gate_id: str) -> GateRecord:
        """A gate record.

        Raises:
            NotFound: It was never kept.
        """
        record = self._catalog.get("gate", gate_id)
        if record is None:
            raise NotFound(f"gate {gate_id!r}: no such record. Keep it with put_gate before it is used.")
        return msgspec.json.decode(record.body, type=GateRecord)

    def gates_of(self, version: Version) -> list[GateRecord]:
        """The gate records that judged this version, or the one that it refits, by id."""
        candidates = [version.id] + ([] if version.refit_of is None else [version.refit_of])
        keys = [record.key for one in candidates for record in self._catalog.find("gate_of", f"{one}/")]
        return [self.get_gate(key.partition("/")[2]) for key in sorted(keys, key=lambda k: k.partition("/")[2])]

    def card(self, version: Version | str) -> str:
        """The model card in Markdown, made from the records alone."""
        from trimtab.registry.card import model_card

        target = self._resolved(version)
        moves = [row for alias in self.aliases(target.model) for row in self._aliases.history(target.model, alias)]
        return model_card(
            target, self._blob, gates=self.gates_of(target), moves=[m for m in moves if m.version == target.id]
        )

    def _numbered(
        self,
        fitted: Fitted,
        address: str,
        training_set: str,
        refit_of: str | None,
        evaluation: str | None,
        decision: int | None,
    ) -> tuple[Version, int]:
        """The version with the next free number, and the revision of the count that must still hold."""
        count = self._catalog.get("version_count", fitted.model)
        if self._environment is None:
            self._environment = current_environment()
        version = Version(
            id=address,
            model=fitted.model,
            number=1 if count is None else int(count.body) + 1,
            artifact=fitted.digest,
            recipe=fitted.recipe,
            features=fitted.features,
            runtime=fitted.artifact.runtime,
            trust=fitted.artifact.trust,
            training_set=training_set,
            refit_of=refit_of,
            metric=fitted.artifact.metric,
            cut_us=fitted.cut_us,
            positions=dict(fitted.positions),
            rows=fitted.rows,
            evaluation=evaluation,
            decision=decision,
            made_at_us=self._clock.now_us(),
            actor=self._actor,
            environment=self._environment,
        )
        return version, 0 if count is None else count.revision

    def _resolved(self, version: Version | str) -> Version:
        return self._stored(version.id) if isinstance(version, Version) else self.get(version)

    def _version(self, address: str) -> Version | None:
        if address not in self._versions:
            record = self._catalog.get("version", address)
            if record is None:
                return None
            self._versions[address] = self._decoded(record.body)
        return self._versions[address]

    def _stored(self, address: str) -> Version:
        found = self._version(address)
        if found is None:
            raise NotFound(f"version {address[:12]}: not in this registry. Register it first.")
        return found

    def _decoded(self, body: bytes) -> Version:
        version = msgspec.json.decode(body, type=Version)
        if address_of(version) != version.id:
            raise Corrupt(f"version {version.id[:12]} ({version.name}): its record was changed after it was made.")
        return version

    def _by_prefix(self, prefix: str, model: str | None) -> Version:
        if not _PREFIX.fullmatch(prefix):
            raise NotFound(f'version {prefix!r}: write "model@7", "model@champion" or 6 or more digits of an address.')
        found = [self._decoded(record.body) for record in self._catalog.find("version", prefix)]
        found = [v for v in found if model is None or v.model == model]
        if not found:
            raise NotFound(f"version {prefix!r}: no address begins like this.")
        if len(found) > 1:
            raise Misuse(f"version {prefix!r}: {', '.join(v.name for v in found)} begin like this. Give more digits.")
        return found[0]

    def _what_there_is(self, model: str) -> str:
        count = self._catalog.get("version_count", model)
        if count is None:
            models = [record.key for record in self._catalog.find("version_count")]
            return f"no versions of {model!r}; there are some of {', '.join(models) or 'no model'}."
        aliases = ", ".join(f"@{name}" for name in self.aliases(model)) or "none"
        return f"{model!r} has versions @1 to @{int(count.body)}; aliases: {aliases}."


def _numbered_key(model: str, number: int) -> str:
    return f"{model}/{number:08d}"


def _check_alias(what: str, alias: str, why: str) -> None:
    if not _NAME.fullmatch(alias) or not why.strip():
        raise Misuse(f"{what}, why={why!r}. Give an alias of a-z, 0-9 and _ that begins with a letter, and a reason.")
