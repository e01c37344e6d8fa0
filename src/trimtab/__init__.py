"""trimtab: the whole production machine-learning loop in one Python process."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.app import Project
    from trimtab.app import open_project as open
    from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound, TrimtabError, Unavailable
    from trimtab.core.expressions import col, lit, when
    from trimtab.core.functions import transform
    from trimtab.events.definitions import Time, source
    from trimtab.features.aggregates import (
        count,
        count_distinct,
        decayed_mean,
        decayed_sum,
        first,
        last,
        last_n,
        latest,
        max,
        mean,
        min,
        std,
        sum,
        top_k,
        var,
    )
    from trimtab.features.definitions import entity, label, request, view
    from trimtab.stats.loss_names import pinball
    from trimtab.steering.definitions import beats_champion, deployment, every, on_quality_drop
    from trimtab.training.definitions import model

__version__ = "0.1.0"

__all__ = [
    "Conflict",
    "Corrupt",
    "Misuse",
    "NotFound",
    "Project",
    "Time",
    "TrimtabError",
    "Unavailable",
    "beats_champion",
    "col",
    "count",
    "count_distinct",
    "decayed_mean",
    "decayed_sum",
    "deployment",
    "entity",
    "every",
    "first",
    "label",
    "last",
    "last_n",
    "latest",
    "lit",
    "max",
    "mean",
    "min",
    "model",
    "on_quality_drop",
    "open",
    "pinball",
    "request",
    "source",
    "std",
    "sum",
    "top_k",
    "transform",
    "var",
    "view",
    "when",
]

_HOMES = {
    "trimtab.app": ("Project",),
    "trimtab.core.errors": ("Conflict", "Corrupt", "Misuse", "NotFound", "TrimtabError", "Unavailable"),
    "trimtab.core.expressions": ("col", "lit", "when"),
    "trimtab.core.functions": ("transform",),
    "trimtab.events.definitions": ("Time", "source"),
    "trimtab.features.aggregates": (
        "count",
        "count_distinct",
        "decayed_mean",
        "decayed_sum",
        "first",
        "last",
        "last_n",
        "latest",
        "max",
        "mean",
        "min",
        "std",
        "sum",
        "top_k",
        "var",
    ),
    "trimtab.features.definitions": ("entity", "label", "request", "view"),
    "trimtab.stats.loss_names": ("pinball",),
    "trimtab.steering.definitions": ("beats_champion", "deployment", "every", "on_quality_drop"),
    "trimtab.training.definitions": ("model",),
}


def __getattr__(name: str) -> Any:
    if name == "open":
        return import_module("trimtab.app").open_project
    for home, names in _HOMES.items():  # loaded on first use: `import trimtab` stays light
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'trimtab' has no attribute {name!r}")
