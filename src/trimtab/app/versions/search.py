"""Search the registered versions, and show the inputs and outputs of a version."""

from __future__ import annotations

from trimtab.app.system import System
from trimtab.core.errors import NotFound
from trimtab.registry.describing.signature import Signature, signature_of
from trimtab.registry.searching import Found, Search


def search_versions(system: System, model: str | None = None, wanted: Search | None = None) -> list[Found]:
    """Return the versions that match a search, of one model or of all models.

    Raises:
        NotFound: A model, metric, feature or source of this name does not exist.
    """
    found = system.registry.search(wanted or Search(), model=model)
    if model is not None and not found:
        known = dict.fromkeys([*system.definitions.models, *system.registry.models()])
        if model not in known:
            raise NotFound(f"versions: no model {model!r}. Models: {', '.join(known) or 'none'}.")
    return found


def version_signature(system: System, version: str) -> Signature:
    """Return the names and types of a version's inputs and its output.

    Raises:
        NotFound: The version does not exist, or its artifact was removed.
    """
    loaded = system.registry.load(version)
    return signature_of(loaded.version, loaded.artifact)
