"""The registry of a project: versions of fitted models, the aliases that point to them, and gate records."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound
from trimtab.core.records import GateRecord
from trimtab.features.feature_set import FeatureSet
from trimtab.registry.aliases import Aliases, Place, Together
from trimtab.registry.evidence import Gates, check_evidence
from trimtab.registry.loading import LoadedModel, load_version
from trimtab.registry.path_choices import RowCalls
from trimtab.registry.protection import (
    CANARY,
    CHAMPION,
    Declared,
    Needs,
    Protection,
    Protections,
    check_reason,
    not_held,
    refuse_held,
)
from trimtab.registry.registration import Origin, Registration
from trimtab.registry.removed import refuse_removed
from trimtab.registry.searching import Found, Search, Searcher
from trimtab.registry.tags import Note, Tag, Tags, check_note
from trimtab.registry.training_cuts import TrainingCut, as_known, set_training_cut
from trimtab.registry.version_records import VersionRecords
from trimtab.registry.versions import AliasMove, Imported, Version
from trimtab.store.ports import Blob, Catalog, Put
from trimtab.training.environment import Environment
from trimtab.training.fitting.fitted import Fitted
from trimtab.training.fitting.path_choice import RowChoice

if TYPE_CHECKING:
    from trimtab.registry.describing.card import About

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


class Registry:
    """The versions and aliases of all models of a project. Several processes may use them at the same time.

    Args:
        blob: The store of artifacts and other large values.
        actor: The default actor of calls.
        environment: The environment recorded in versions; by default the present one, and `folder`'s Git commit.
        declared: The declared models, including those without a version, and the aliases that the settings protect.
    """

    def __init__(
        self,
        catalog: Catalog,
        blob: Blob,
        *,
        clock: Clock,
        actor: str,
        environment: Environment | None = None,
        folder: Path | None = None,
        declared: Declared | None = None,
    ) -> None:
        self._catalog = catalog
        self._blob = blob
        self._clock = clock
        self._actor = actor
        self._aliases = Aliases(catalog, clock=clock, actor=actor)
        self._declared = declared or {}
        self._protections = Protections(catalog, self._aliases, declared=self._declared, clock=clock, actor=actor)
        self._tags = Tags(catalog, clock=clock, actor=actor)
        self._row_calls = RowCalls(catalog, clock=clock, environment=environment)
        self._searcher = Searcher(catalog, blob, tags=self._tags, aliases=self._aliases)
        self._records = VersionRecords(catalog, self._aliases)
        self._gates = Gates(catalog)
        self._registration = Registration(
            catalog,
            blob,
            records=self._records,
            aliases=self._aliases,
            protections=self._protections,
            clock=clock,
            environment=environment,
            folder=folder,
        )

    def register(
        self,
        fitted: Fitted,
        *,
        training_set: str,
        refit_of: str | None = None,
        evaluation: str | None = None,
        alias: str | None = None,
        imported: Imported | None = None,
        actor: str | None = None,
    ) -> Version:
        """Register a fitted model, and return its version. Equal models have the same version, which may exist already.

        Args:
            training_set: The hash of the training set's manifest, from `save_training_set`.
            refit_of: The id of the version that this model refits (the same definition, fitted on more data), if any.
            evaluation: The hash of a stored evaluation.
            alias: An alias to point to the version in the same transaction; for "champion" and "canary" use `move`.
            imported: The source of the model if it was not trained here.
            actor: Who registers the version; by default the registry's actor.

        Raises:
            Misuse: The training set or the evaluation is not stored, `refit_of` is of another model, or the alias is
                "champion", "canary" or protected.
            NotFound: `refit_of` names no version.
            Conflict: All attempts conflicted with other processes; try again.
        """
        if alias is not None:
            _check_alias(f"alias {fitted.model}@{alias}", alias, "Registered.")
        origin = Origin(training_set=training_set, refit_of=refit_of, evaluation=evaluation, imported=imported)
        return self._registration.register(fitted, origin, alias=alias, actor=actor or self._actor)

    def get(self, reference: str) -> Version:
        """Return a version by "model@7", by "model@champion", or by the first digits of its id (at least 6).

        Raises:
            NotFound: There is no such version.
            Misuse: Several ids begin with these digits.
        """
        return self._records.get(reference)

    def versions(self, model: str) -> list[Version]:
        """Return all versions of a model, sorted by number."""
        return self._records.of_model(model)

    def models(self) -> list[str]:
        """Return the names of the models that have versions."""
        return self._records.models()

    def search(self, search: Search | None = None, *, model: str | None = None) -> list[Found]:
        """Return the versions that match, with their tags, notes, aliases and evaluated metric.

        Args:
            search: The conditions; by default every version matches.
            model: The model to search in; by default all models.

        Raises:
            NotFound: None of these versions has such a metric, feature or source.
        """
        versions = [version for name in self.models() if model in (None, name) for version in self.versions(name)]
        return self._searcher.find(versions, search or Search())

    def tag(self, version: Version | str, *tags: str, note: str | None = None, actor: str | None = None) -> list[Tag]:
        """Add tags and a note to a version, and return the tags that are new. The version's id does not change.

        Args:
            version: The version, or any reference that `get` takes.
            tags: Tags of up to 100 characters a-z, 0-9 and _ . : = -. Tags are never removed.
            note: A remark about the version.
            actor: Who adds the tags and the note; by default the registry's actor.

        Raises:
            Misuse: A tag or the note is invalid.
        """
        target = self._records.resolved(version)
        if note is not None:
            check_note(note)  # before a tag is added
        new = self._tags.add(target.id, tags, actor=actor)
        if note is not None:
            self._tags.note(target.id, note, actor=actor)
        return new

    def tags(self, version: Version | str) -> list[Tag]:
        """Return the tags of a version, by name."""
        return self._tags.of(self._records.resolved(version).id)

    def notes(self, version: Version | str) -> list[Note]:
        """Return the notes of a version, oldest first."""
        return self._tags.notes(self._records.resolved(version).id)

    def set_training_cut(self, version: Version | str, until_us: int, *, actor: str | None = None) -> TrainingCut:
        """Set the training cut of an imported version: the latest time that its training data may have.

        Args:
            version: The version, or any reference that `get` takes.
            until_us: The training cut, in UTC microseconds. Judgements use the cut that was set last.
            actor: Who sets the cut; by default the registry's actor.

        Raises:
            Misuse: The version was trained here, or the time is in the future.
        """
        return set_training_cut(
            self._catalog, self._records.resolved(version), until_us, clock=self._clock, actor=actor or self._actor
        )

    def as_known(self, version: Version) -> Version:
        """Return the version with the training cut that was set last for it, if one was."""
        return as_known(self._catalog, version)

    def protect(self, model: str, alias: str, needs: Needs, *, why: str, actor: str | None = None) -> Protection:
        """Set the evidence that moves of an alias need from now on, including moves that other processes have begun.

        Args:
            alias: Any alias except "champion", which always needs a passed gate record.
            needs: What a move needs. "gate": a passed gate record that compares the version with the champion, or with
                the version that the alias points to. "reason": a reason of ten characters or more. "nothing": no
                evidence. Rolling back is always allowed.
            why: The reason for this change in one sentence, kept in the history.
            actor: Who sets the protection; by default the registry's actor.

        Raises:
            NotFound: The model is not declared and has no version.
            Misuse: The alias is "champion", `why` is too short, or the settings require more than `needs`.
            Conflict: The alias was moved at the same time.
        """
        _check_alias(f"alias {model}@{alias}", alias, why)
        models = sorted({*self._declared, *self.models()})
        if model not in models:
            raise NotFound(f"protect {model}@{alias}: no model {model!r}. There are: {', '.join(models) or 'none'}.")
        return self._protections.change(model, alias, needs, why, actor=actor)

    def needs(self, model: str) -> dict[str, Needs]:
        """Return what moves of an alias need, for each that exists or is protected (by `protect` or the settings)."""
        known = {CHAMPION, *self._declared.get(model, {}), *self._protections.of(model), *self.aliases(model)}
        return {alias: self._protections.needs(model, alias) for alias in sorted(known)}

    def load(self, version: Version | str, *, features: FeatureSet | str | None = None) -> LoadedModel:
        """Load a version: check its bytes, and repeat its golden predictions (stored scores of stored rows).

        Args:
            version: The version, or any reference that `get` takes.
            features: The definitions of the features that the caller will pass in. They must equal the definitions at
                training, in their order. With only a hash, the order is not checked.

        Raises:
            NotFound: There is no such version, or its artifact was removed; the message says by whom, and when.
            Corrupt: Stored bytes are damaged; the message names the blob.
            Misuse: The definitions differ, or this machine does not repeat the golden predictions.
        """
        target = self._records.resolved(version)
        try:
            return load_version(self._blob, target, features=features, row_call=self._row_calls.chosen)
        except Corrupt:
            refuse_removed(self._catalog, target)
            raise

    def choose_row_call(self, loaded: LoadedModel, rows: Sequence[list[float]] = ()) -> RowChoice | None:
        """Return the scoring path that was chosen for a version on machines like this one; see `RowChoice`.

        If none was chosen yet, measure the paths, choose the fastest, and store the choice.

        Args:
            loaded: The loaded version, which uses the chosen path from now on. No other thread may use it during this
                call.
            rows: Rows to measure with, in addition to the stored golden rows.

        Returns:
            The choice; None if there is only one path.
        """
        return self._row_calls.choose(loaded, rows)

    def row_choices(self, version: Version | str) -> list[RowChoice]:
        """Return a version's choices of a scoring path, one for each kind of machine; see `RowCalls.of`."""
        return self._row_calls.of(self._records.resolved(version))

    def alias(self, model: str, alias: str) -> Version | None:
        """Return the version that an alias points to; None before the alias was set."""
        address = self._aliases.place(model, alias).version
        return None if address is None else self._records.stored(address)

    def aliases(self, model: str) -> dict[str, AliasMove]:
        """Return the newest move of each alias of a model."""
        return self._aliases.places(model)

    def touch(self, model: str, alias: str) -> Put:
        """Return a change that gives the alias a new revision, so that a move based on the old one conflicts."""
        return self._aliases.touch(model, alias)

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
        actor: str | None = None,
        together: Together | None = None,
    ) -> AliasMove:
        """Point an alias to a version, and add a row to the alias's history in the same transaction.

        If the alias already points to this version, return the row of the earlier move, and change nothing.

        Args:
            alias: "champion", "challenger", "shadow" or a name of your own.
            version: The version, or any reference that `get` takes.
            why: The reason in one sentence, kept in the history. For a canary without gate record: ten letters.
            gate: For an alias that needs one, such as "champion": a gate record that this version passed, or that the
                version that it refits passed.
            first: Whether this is the alias's first version, which needs no gate record if `why` has ten characters.
            expected_previous: The id of the version that the alias must point to now; None if it must point to none.
            actor: Who moves the alias; by default the registry's actor.
            together: A function that writes the row and further changes (such as ledger rows) in one transaction.

        Raises:
            Misuse: The version is of another model, the given gate record differs from the stored one, or the evidence
                that the alias needs is missing; the message says what is missing.
            NotFound: There is no such version or gate record, or the artifact of the version was removed.
            Conflict: The alias was moved, the gate record compares with another champion, or an approval is pending.
        """
        target = self._records.resolved(version)
        what = f"alias {model}@{alias}"
        if target.model != model:
            raise Misuse(f"{what}: {target.name} is a version of another model. Give one of {model!r}.")
        _check_alias(what, alias, why)
        refuse_removed(self._catalog, target)
        place = self._aliases.place(model, alias)
        self._check_expected(what, expected_previous, place)
        if place.row is not None and place.version == target.id:
            return place.row
        refuse_held(self._catalog, model, alias)
        stored = None if gate is None else self.get_gate(gate if isinstance(gate, str) else gate.id)
        if stored is not None and isinstance(gate, GateRecord) and stored != gate:
            raise Misuse(f"{what}: gate record {gate.id} differs from the stored one. Give the stored one.")
        # read after the alias, so that a later change of the protection makes the move conflict
        needs = self._protections.needs(model, alias)
        if needs == "gate":
            compared, in_service = place.version, self._aliases.place(model, CHAMPION).version
            if stored is not None and in_service is not None and stored.champion == in_service:
                compared = in_service  # a version that beat the champion may also take other aliases
            check_evidence(target, stored, first=first, champion=compared, alias=alias)
            self._gates.check_newer(target, stored)
        elif needs == "reason":
            check_reason(f"{what}, which is protected", why)
        if alias == CANARY or (first and needs == "gate"):
            self._gates.check_ungated(f"{what} to", target, why)
        row = self._aliases.next_row(
            place,
            model=model,
            alias=alias,
            version=target.id,
            act="first" if place.row is None else "move",
            why=why,
            gate=None if stored is None else stored.id,
            actor=actor,
        )
        try:
            return self._aliases.write(row, place, unless=[not_held(model, alias)], together=together)
        except Conflict:
            refuse_held(self._catalog, model, alias)
            raise

    def roll_back(
        self,
        model: str,
        alias: str,
        *,
        why: str,
        expected_previous: str | msgspec.UnsetType = msgspec.UNSET,
        actor: str | None = None,
        together: Together | None = None,
    ) -> AliasMove:
        """Undo an alias's newest move that is not undone yet. The alias points to the previous version again.

        Args:
            why: The reason in one sentence, kept in the history; as for `move`.
            expected_previous: The id of the version that the alias must point to now.
            actor: Who rolls back; by default the registry's actor.
            together: A function that writes the row and further changes (such as ledger rows) in one transaction.

        Raises:
            Misuse: The earlier version of a "canary" has no passed gate record, and the reason is too short.
            NotFound: There is no move to undo, or the artifact of the earlier version was removed.
            Conflict: The alias was moved at the same time.
        """
        place = self._aliases.place(model, alias)
        self._check_expected(f"alias {model}@{alias}", expected_previous, place)
        earlier = self._aliases.earlier(model, alias)
        if earlier is None:
            raise NotFound(f"alias {model}@{alias}: no earlier version to go back to. {_by_name(model, alias)}")
        if alias == CANARY:
            self._gates.check_ungated(f"alias {model}@{alias} back to", self._records.stored(earlier), why)
        row = self._aliases.next_row(
            place, model=model, alias=alias, version=earlier, act="roll_back", why=why, actor=actor
        )
        return self._aliases.write(row, place, together=together)

    def history(self, model: str, alias: str) -> list[AliasMove]:
        """Return every move of an alias, oldest first."""
        return list(self._aliases.history(model, alias))

    def put_gate(self, record: GateRecord) -> None:
        """Store a gate record; see `Gates.put`."""
        self._gates.put(record)

    def get_gate(self, gate_id: str) -> GateRecord:
        """Return the gate record with an id; see `Gates.get`."""
        return self._gates.get(gate_id)

    def gates_of(self, version: Version) -> list[GateRecord]:
        """Return the gate records of this version, sorted by id. Records of the version that it refits are included."""
        return self._gates.of(version)

    def passed_gate(self, version: Version) -> GateRecord | None:
        """Return the newest gate record that a version has passed, if any; see `in_force`."""
        return self._gates.passed(version)

    def card(self, version: Version | str, *, html: bool = False) -> str:
        """Return the model card as Markdown or HTML, made only from stored records.

        Raises:
            NotFound: There is no such version, or its artifact was removed.
            Corrupt: A stored part is damaged; the message names the blob.
        """
        from trimtab.registry.describing.card import card_document
        from trimtab.report import html_page, markdown_text

        card = card_document(_about(self, self._catalog, self._blob, self._records.resolved(version)))
        return html_page(card) if html else markdown_text(card)

    def _check_expected(self, what: str, expected: str | msgspec.UnsetType | None, place: Place) -> None:
        if expected is not msgspec.UNSET and expected != place.version:
            found = f"expected {self._records.name(expected)}, found {self._records.name(place.version)}"
            raise Conflict(f"{what}: {found}. Read the alias again before you decide.")


def _by_name(model: str, alias: str) -> str:
    """Say how the user can point an alias to any version."""
    if alias == CHAMPION:
        return f"Choose one from `trimtab versions list {model}`, and put it in service: trimtab promote {model}@N"
    return f"Point it to a version by its name: registry.move({model!r}, {alias!r}, ...)."


def _check_alias(what: str, alias: str, why: str) -> None:
    if not _NAME.fullmatch(alias) or not why.strip():
        raise Misuse(f"{what}, why={why!r}. Give an alias of a-z, 0-9 and _ that begins with a letter, and a reason.")


def _about(registry: Registry, catalog: Catalog, blob: Blob, version: Version) -> About:
    """Collect the records for a version's card."""
    from trimtab.registry.describing.card import About, stored_parts
    from trimtab.training.judge.evaluation import load_evaluation

    refuse_removed(catalog, version)
    moves = [row for alias in registry.aliases(version.model) for row in registry.history(version.model, alias)]
    judged = version if version.evaluation or version.refit_of is None else registry.get(version.refit_of)
    artifact, manifest = stored_parts(version, blob)
    return About(
        version=registry.as_known(version),
        artifact=artifact,
        manifest=manifest,
        evaluation=None if judged.evaluation is None else load_evaluation(judged.evaluation, blob),
        judged=judged.name,
        gates=registry.gates_of(version),
        moves=[move for move in moves if move.version == version.id],
        tags=registry.tags(version),
        notes=registry.notes(version),
        relatives=_relatives(version, registry.versions(version.model)),
        row_choices=registry.row_choices(version),
    )


def _relatives(version: Version, versions: list[Version]) -> list[tuple[str, str]]:
    """Return the names of related versions, each with its relation in words: this version "refits" the named one."""
    found = []
    for other in versions:
        if other.id == version.refit_of:
            found.append((other.name, "refits"))
        elif other.refit_of == version.id:
            found.append((other.name, "is refitted by"))
        elif other.training_set == version.training_set and other.id != version.id and version.imported is None:
            found.append((other.name, "shares its training set with"))
    return found
