"""The registry: immutable versions, aliases with their histories, gate records."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trimtab.registry.versions import AliasMove, Version

if TYPE_CHECKING:
    from trimtab.registry.loading import LoadedModel
    from trimtab.registry.registry import Registry

__all__ = ["AliasMove", "LoadedModel", "Registry", "Version"]

_ROOM = {"LoadedModel": "loading", "Registry": "registry"}  # loaded at the first use, because these modules load NumPy


def __getattr__(name: str) -> Any:
    if name in _ROOM:
        return getattr(import_module(f"{__name__}.{_ROOM[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
