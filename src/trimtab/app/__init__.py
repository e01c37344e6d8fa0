"""The package of projects: it connects all other packages to open, train, serve and inspect a project."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.app.inspect.explain import Explanation
    from trimtab.app.inspect.status import Status
    from trimtab.app.project import Project, open_project
    from trimtab.app.state.definitions import Definitions, load_definitions

_HOMES = {
    "Definitions": "state.definitions",
    "Explanation": "inspect.explain",
    "Project": "project",
    "Status": "inspect.status",
    "load_definitions": "state.definitions",
    "open_project": "project",
}

__all__ = ["Definitions", "Explanation", "Project", "Status", "load_definitions", "open_project"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:  # each module is loaded only when one of its names is first used
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
