"""Stored choices of scoring paths (the code that scores single rows), by version and kind of machine.

A choice only affects speed, so it is not part of a version's id.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, Unavailable
from trimtab.registry.loading import LoadedModel
from trimtab.registry.versions import Version
from trimtab.store.ports import Catalog, Put
from trimtab.training.environment import Environment, current_environment
from trimtab.training.fitting.path_choice import RowChoice, choose_row_call, machine_kind

_KIND = "row_call"


class RowCalls:
    """Makes, stores and reads choices of scoring paths.  # D99"""

    def __init__(self, catalog: Catalog, *, clock: Clock, environment: Environment | None = None) -> None:
        self._catalog = catalog
        self._clock = clock
        self._environment = environment

    def of(self, version: Version) -> list[RowChoice]:
        """Return the choices for a version, one per kind of machine.

        A refit (the definition fitted on more data) without choices has those of the version that it refits.
        """
        for address in filter(None, (version.id, version.refit_of)):
            if records := self._catalog.find(_KIND, f"{address}/"):
                return [msgspec.json.decode(record.body, type=RowChoice) for record in records]
        return []

    def chosen(self, version: Version) -> str | None:
        """Return the scoring path that was chosen for machines like this one; None if none was chosen."""
        found = self._here(version)
        return None if found is None else found.chosen

    def choose(self, loaded: LoadedModel, rows: Sequence[list[float]]) -> RowChoice | None:
        """Return the stored choice for machines like this one, or measure the paths, choose one and store it.

        The result is None if the model has only one path.
        """
        version, machine = loaded.version, self._machine(loaded.version)
        before = self._here(version)
        if before is not None or loaded.row_call is None:
            return before
        found = choose_row_call(
            loaded.artifact, loaded.scorer, rows, version=version.id, machine=machine, at_us=self._clock.now_us()
        )
        if found is not None:
            with suppress(Conflict, Unavailable):  # another process has stored a choice, or the catalogue is read-only
                self._catalog.write([Put(_KIND, f"{version.id}/{machine}", msgspec.json.encode(found), expected=0)])
        return found

    def _here(self, version: Version) -> RowChoice | None:
        """Return the stored choice for machines like this one.

        Each load calls this, so the choice is read by its key, without a search.
        """
        machine = self._machine(version)
        for address in filter(None, (version.id, version.refit_of)):
            if (record := self._catalog.get(_KIND, f"{address}/{machine}")) is not None:
                return msgspec.json.decode(record.body, type=RowChoice)
        return None

    def _machine(self, version: Version) -> str:
        if self._environment is None:
            self._environment = current_environment()
        return machine_kind(self._environment, version.runtime)
