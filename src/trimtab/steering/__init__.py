"""From signals to decisions: trigger, wait, train, gate, promote or refuse; the ledger."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.steering.gate.gate import judge
    from trimtab.steering.gate.window import Window

__all__ = ["Window", "judge"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # loading the first of these names also loads NumPy
        home = "gate" if name == "judge" else "window"
        return getattr(import_module(f"trimtab.steering.gate.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
