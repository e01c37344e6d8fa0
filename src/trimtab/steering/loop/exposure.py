"""Change which version answers requests: the share of a canary, and the rollback of a champion."""

from __future__ import annotations

import msgspec

from trimtab.core.errors import Conflict
from trimtab.registry import Registry
from trimtab.registry.aliases import Together
from trimtab.registry.evidence import Gates
from trimtab.registry.protection import CHAMPION
from trimtab.serving.arms.arms import CANARY, KIND, shares_of
from trimtab.steering.gate.checks import percent
from trimtab.steering.loop_state import Repair
from trimtab.store.ports import Catalog, Put


class Exposure:
    """Changes the share of requests that a model's canary answers, and rolls its champion back."""

    def __init__(self, model: str, registry: Registry, catalog: Catalog) -> None:
        self._model = model
        self._registry = registry
        self._catalog = catalog

    def answered(self, repair: Repair) -> tuple[str | None, float]:
        """Return the share of the requests that the canary answers now, after its name if it is not the successor."""
        found = self._registry.alias(self._model, CANARY)
        share = shares_of(self._catalog.get(KIND, self._model)).canary
        return None if found is None or found.id == repair.successor else found.name, share

    def recipe(self, repair: Repair) -> str | None:
        """Return the recipe (definition and way of fitting) of a repair's successor; None: it has no successor."""
        return None if repair.successor is None else self._registry.get(repair.successor).recipe

    def taken(self) -> str | None:
        """Return in a sentence which experiment splits the requests, so that no canary can begin; None: none does."""
        name = shares_of(self._catalog.get(KIND, self._model)).experiment
        said = f"The experiment {name!r} splits the requests, so no candidate can be the canary. Wait, or stop it: "
        return None if name is msgspec.UNSET else f"{said}trimtab experiment stop {name} --why TEXT"

    def share(self, repair: Repair, share: float) -> list[Put]:
        """Return the changes that let the successor of a repair answer a share of the requests as a canary.

        The call itself points the alias `canary` to the successor. The share only takes effect when the caller writes
        the returned changes.

        Raises:
            Conflict: Another version is the canary, or an experiment splits the requests.
        """
        name = self._model
        record, found = self._catalog.get(KIND, name), self._registry.aliases(name).get(CANARY)
        shares, other = shares_of(record), found is None or found.version != repair.successor
        if not share and (other or not shares.canary):
            return []
        if other and (taken := self.taken()) is not None:
            raise Conflict(f"rollout of {name!r}: {taken}")
        if other and shares.canary:
            raise Conflict(
                f"rollout of {name!r}: another version answers {percent(shares.canary)} of the requests as the canary. "
                f"End that first: trimtab canary {name} --share 0"
            )
        assert repair.successor is not None  # a repair that is rolled out always has a successor
        if other:
            why = "The rollout of a version that passed the gate."
            self._registry.move(name, CANARY, repair.successor, gate=repair.gate, why=why, actor="policy")
        changed = msgspec.structs.replace(shares, canary=share)
        revision = 0 if record is None else record.revision
        return [Put(KIND, name, msgspec.json.encode(changed), expected=revision)]

    def refused(self, version: str, why: str, at_us: int) -> list[Put]:
        """Return the changes that store that a version was refused in its rollout, so that it needs a new gate."""
        return Gates(self._catalog).refusal(self._registry.get(version), why, at_us)

    def roll_back(self, version: str, why: str, together: Together) -> None:
        """Put back in service the version that `version` replaced. `together` gets the changes and writes them.

        Raises:
            Conflict: Another process has moved the alias.
        """
        self._registry.roll_back(
            self._model, CHAMPION, why=why, expected_previous=version, actor="policy", together=together
        )
