"""Find the deployment that a command means if the user names none, and refuse if several are possible."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.app.training.searches import searches
from trimtab.core.errors import Conflict, Misuse, NotFound
from trimtab.steering.loop_state import APPROVAL, CANARY, SHADOW, loop_state
from trimtab.store.ports import Catalog


def waiting(what: str, model: str | None, names: Sequence[str], catalog: Catalog) -> str | None:
    """Return the deployment `model`. If it is None, return the one whose candidate waits for approval.

    A candidate in its rollout also counts if `what` is "reject".

    If the project has at most one deployment, `model` is returned unchanged, even if it is None.

    Raises:
        Misuse: No deployment is named, and candidates of several deployments wait for approval.
        Conflict: No deployment is named, no candidate waits, and the project has several deployments.
    """
    if model is not None or len(names) < 2:
        return model
    phases = (APPROVAL, SHADOW, CANARY) if what == "reject" else (APPROVAL,)
    found = [name for name in names if loop_state(catalog, name).phase in phases]
    state = "waits for approval" + (" or is in its rollout" if what == "reject" else "")
    if not found:
        raise Conflict(f"{what}: no candidate of {', '.join(names)} {state}. See: trimtab status")
    _check_one(what, found, f"there are candidates of {', '.join(found)}")
    return found[0]


def searched_for(what: str, model: str | None, names: Sequence[str], catalog: Catalog) -> str | None:
    """Return the deployment `model`. If it is None, return the one that has a parameter search.

    If the project has at most one deployment, `model` is returned unchanged, even if it is None.

    Raises:
        Misuse: No deployment is named, and several have searches.
        NotFound: No deployment is named, none has a search, and the project has several deployments.
    """
    if model is not None or len(names) < 2:
        return model
    found = [name for name in names if searches(catalog, name)]
    if not found:
        raise NotFound(f"{what}: nothing was searched yet for {', '.join(names)}. Search: trimtab search run MODEL")
    _check_one(what, found, f"there are searches for {', '.join(found)}")
    return found[0]


def _check_one(what: str, found: Sequence[str], why: str) -> None:
    if len(found) > 1:
        raise Misuse(f"{what}: no model is named, and {why}. Name one of them.")
