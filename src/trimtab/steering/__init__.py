"""Signals in, decisions out: trigger, wait, train, gate, promote or refuse; the ledger."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.steering.causes import (
        Every,
        OnNewLabels,
        OnQualityDrop,
        OnSliceDrop,
        Triggers,
        every,
        on_new_labels,
        on_quality_drop,
        on_slice_drop,
    )
    from trimtab.steering.definitions import BeatsChampion, Deployment, beats_champion, deployment
    from trimtab.steering.gate.gate import judge
    from trimtab.steering.gate.window import Window
    from trimtab.steering.ledger import Ledger
    from trimtab.steering.loop.controller import Controller
    from trimtab.steering.loop.loop import Loop
    from trimtab.steering.loop_state import FREEZE, LoopState, Repair

_HOMES = {
    "trimtab.steering.loop.controller": ("Controller",),
    "trimtab.steering.causes": (
        "Every",
        "OnNewLabels",
        "OnQualityDrop",
        "OnSliceDrop",
        "Triggers",
        "every",
        "on_new_labels",
        "on_quality_drop",
        "on_slice_drop",
    ),
    "trimtab.steering.definitions": ("BeatsChampion", "Deployment", "beats_champion", "deployment"),
    "trimtab.steering.gate.gate": ("judge",),
    "trimtab.steering.gate.window": ("Window",),
    "trimtab.steering.ledger": ("Ledger",),
    "trimtab.steering.loop.loop": ("Loop",),
    "trimtab.steering.loop_state": ("FREEZE", "LoopState", "Repair"),
}

__all__ = [
    "FREEZE",
    "BeatsChampion",
    "Controller",
    "Deployment",
    "Every",
    "Ledger",
    "Loop",
    "LoopState",
    "OnNewLabels",
    "OnQualityDrop",
    "OnSliceDrop",
    "Repair",
    "Triggers",
    "Window",
    "beats_champion",
    "deployment",
    "every",
    "judge",
    "on_new_labels",
    "on_quality_drop",
    "on_slice_drop",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():  # NumPy loads with the first name that needs it
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
