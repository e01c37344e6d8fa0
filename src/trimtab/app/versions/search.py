"""Search of registered versions, and their signatures."""

from __future__ import annotations

from trimtab.app.system import System
from trimtab.core.errors import NotFound
from trimtab.registry.describing.signature import Signature, signature_of
from trimtab.registry.searching import Found, Search


def search_versions(system: System, model: str | None = None, wanted: Search | None = None) -> list[Found]:
    """The versions that match, of one model or of all.

    Raises:
        NotFound: There is no such model, metric, feature or source.
    """
    found = system.registry.search(wanted or Search(), model=model)
    if model is not None and not found:
        known = dict.fromkeys([*system.definitions.models, *system.registry.models()])
        if model not in known:
            raise NotFound(f"versions: no model {model!r}. There is: {', '.join(known) or 'none'}.")
    return found


def version_signature(system: System, version: str) -> Signature:
    """The inputs and the output of a version.

    Raises:
        NotFound: There is no such version, or its artifact was removed.
    """
    loaded = system.registry.load(version)
    return signature_of(loaded.version, loaded.artifact)
