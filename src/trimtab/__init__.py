"""trimtab: the whole production machine-learning loop in one Python process."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trimtab.core.version import VERSION

if TYPE_CHECKING:
    from trimtab.app import Project
    from trimtab.app import open_project as open
    from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound, TrimtabError, Unavailable
    from trimtab.core.expressions.functions import transform
    from trimtab.core.expressions.nodes import col, lit, when
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
    from trimtab.monitoring.guardrails import guardrails
    from trimtab.serving.answer.score_cache import cache
    from trimtab.serving.client import connect
    from trimtab.serving.protect.degradation import degrade
    from trimtab.simulation.streams import stream
    from trimtab.stats.metrics.loss_names import ndcg_loss, pinball
    from trimtab.steering.causes import every, on_new_labels, on_quality_drop, on_slice_drop
    from trimtab.steering.definitions import beats_champion, deployment
    from trimtab.steering.rollouts import rollout
    from trimtab.training.definitions import model
    from trimtab.training.search import choice, integer, number, search
    from trimtab.training.weighting import sample

__version__ = VERSION

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
    "cache",
    "choice",
    "col",
    "connect",
    "count",
    "count_distinct",
    "decayed_mean",
    "decayed_sum",
    "degrade",
    "deployment",
    "entity",
    "every",
    "first",
    "guardrails",
    "integer",
    "label",
    "last",
    "last_n",
    "latest",
    "lit",
    "max",
    "mean",
    "min",
    "model",
    "ndcg_loss",
    "number",
    "on_new_labels",
    "on_quality_drop",
    "on_slice_drop",
    "open",
    "pinball",
    "request",
    "rollout",
    "sample",
    "search",
    "source",
    "std",
    "stream",
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
    "trimtab.core.expressions.nodes": ("col", "lit", "when"),
    "trimtab.core.expressions.functions": ("transform",),
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
    "trimtab.monitoring.guardrails": ("guardrails",),
    "trimtab.serving.client": ("connect",),
    "trimtab.serving.protect.degradation": ("degrade",),
    "trimtab.serving.answer.score_cache": ("cache",),
    "trimtab.simulation.streams": ("stream",),
    "trimtab.stats.metrics.loss_names": ("ndcg_loss", "pinball"),
    "trimtab.steering.causes": ("every", "on_new_labels", "on_quality_drop", "on_slice_drop"),
    "trimtab.steering.definitions": ("beats_champion", "deployment"),
    "trimtab.steering.rollouts": ("rollout",),
    "trimtab.training.definitions": ("model",),
    "trimtab.training.search": ("choice", "integer", "number", "search"),
    "trimtab.training.weighting": ("sample",),
}


def __getattr__(name: str) -> Any:
    if name == "open":
        return import_module("trimtab.app").open_project
    for home, names in _HOMES.items():  # loaded on first use: `import trimtab` stays light
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'trimtab' has no attribute {name!r}")
