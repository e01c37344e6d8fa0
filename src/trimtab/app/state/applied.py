"""Store the applied definitions of a project in its catalogue, with version numbers.  # D36"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from trimtab.app.state.documents import Document
from trimtab.app.state.live_definitions import APPLIED, AppliedFeatures
from trimtab.core.errors import Conflict, Corrupt
from trimtab.core.records import Decision
from trimtab.features.stored import encode_features
from trimtab.steering.ledger import Entry, Ledger
from trimtab.store.ports import Catalog, Put, Remove
from trimtab.training.definitions import Model

_NOW, _EVERY = "definition", "definition_version"


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """A definition as it was applied. Its version number only changes with its content."""

    document: Document
    version: int
    at_us: int
    format: Literal[1] = 1


class AppliedDefinitions:
    """The definitions that were applied last, and all earlier versions of each definition."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._revisions: dict[str, int] = {}

    def now(self) -> dict[str, Applied]:
        """Return the applied definitions by `kind/name`, such as `view/carrier`.

        The result is empty if none have been applied yet.
        """
        records = self._catalog.find(_NOW)
        self._revisions = {record.key: record.revision for record in records}
        return {record.key: _decoded(record.body, record.key) for record in records}

    def versions(self, key: str) -> list[Applied]:
        """Return all versions of a definition, oldest first."""
        return [_decoded(record.body, key) for record in self._catalog.find(_EVERY, f"{key}/")]

    def view_names(self) -> dict[str, str]:
        """Return the names of all views that were ever applied, by the hash of their definitions."""
        found = (_decoded(record.body, record.key).document for record in self._catalog.find(_EVERY, "view/"))
        return {document.hash: document.name for document in found}

    def write(
        self,
        before: Mapping[str, Applied],
        documents: Mapping[str, Document],
        models: Sequence[Model],
        *,
        at_us: int,
        cause: str,
        actor: str,
    ) -> Decision:
        """Replace the applied definitions and add a row to the ledger of decisions, in one transaction.

        Raises:
            Conflict: Another process applied definitions since `before` was read.
        """
        changes: list[Put | Remove] = []
        evidence: dict[str, str | int | float | bool | None] = {}
        for key, document in documents.items():
            old = before.get(key)
            if old is not None and old.document == document:
                continue
            version, is_new = self._number(key, document)
            now = Applied(document=document, version=version, at_us=at_us)
            body = msgspec.json.encode(now)
            changes.append(Put(_NOW, key, body, expected=self._revisions.get(key, 0)))
            if is_new:
                changes.append(Put(_EVERY, f"{key}/{version:08d}", body, expected=0))
            if old is None or old.version != version:
                evidence[key] = f"version {version}" if old is None else f"version {old.version} -> {version}"
        for key in before.keys() - documents.keys():
            changes.append(Remove(_NOW, key, expected=self._revisions[key]))
            evidence[key] = "removed"
        changes += self._features(models)
        entry = Entry(at_us=at_us, model="*", act="apply", cause=cause, actor=actor, evidence=evidence)
        try:
            return Ledger(self._catalog).write([entry], changes)[0]
        except Conflict as error:
            raise Conflict(
                "apply: another process applied definitions just now. Look at the new plan first."
            ) from error

    def _number(self, key: str, document: Document) -> tuple[int, bool]:
        versions = self.versions(key)
        for one in versions:
            if one.document.hash == document.hash:
                return one.version, False
        return 1 + max((one.version for one in versions), default=0), True

    def _features(self, models: Sequence[Model]) -> list[Put | Remove]:
        """Return the writes that store the features of these models, and that delete those of removed models."""
        changes: list[Put | Remove] = []
        for model in models:
            document = encode_features(model.features).decode()
            body = msgspec.json.encode(AppliedFeatures(model.features.hash, document))
            changes.append(Put(APPLIED, model.name, body))
        names = {model.name for model in models}
        changes += [Remove(APPLIED, one.key) for one in self._catalog.find(APPLIED) if one.key not in names]
        return changes


def _decoded(body: bytes, key: str) -> Applied:
    try:
        return msgspec.json.decode(body, type=Applied)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"applied definition {key}: cannot be read ({error}). Restore the catalogue.") from error
