"""Views, requests and labels, evaluated offline in columns and online in rows.

Both evaluations use the same definition and give equal values to the last bit.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trimtab.features.aggregates import (
        Aggregate,
        Several,
        count,
        count_distinct,
        decayed_mean,
        decayed_sum,
        first,
        last,
        last_n,
        latest,
        max,  # noqa: A004  # the field's word for it
        mean,
        min,  # noqa: A004  # the field's word for it
        std,
        sum,  # noqa: A004  # the field's word for it
        top_k,
        var,
    )
    from trimtab.features.definitions import Entity, Join, Label, Request, View, entity, label, request, view
    from trimtab.features.encoding import Encoding, fit
    from trimtab.features.feature_set import FeatureSet
    from trimtab.features.frames import REASONS, FeatureFrame, Reason
    from trimtab.features.labels import LABEL_STATES, LabelFrame, LabelIndex, LabelState
    from trimtab.features.offline.evaluation import evaluate
    from trimtab.features.online.read.request_plan import OnlineRows, RequestPlan
    from trimtab.features.online.store import Applied, OnlineStore, ViewApplied

_MODULES = {  # loaded on first use, so that `import trimtab` stays light
    "aggregates": [
        "Aggregate", "Several", "count", "count_distinct", "decayed_mean", "decayed_sum", "first", "last", "last_n",
        "latest", "max", "mean", "min", "std", "sum", "top_k", "var",
    ],
    "definitions": ["Entity", "Join", "Label", "Request", "View", "entity", "label", "request", "view"],
    "encoding": ["Encoding", "fit"],
    "feature_set": ["FeatureSet"],
    "frames": ["REASONS", "FeatureFrame", "Reason"],
    "labels": ["LABEL_STATES", "LabelFrame", "LabelIndex", "LabelState"],
    "offline.evaluation": ["evaluate"],
    "online.store": ["Applied", "OnlineStore", "ViewApplied"],
    "online.read.request_plan": ["OnlineRows", "RequestPlan"],
}  # fmt: skip

__all__ = [
    "LABEL_STATES",
    "REASONS",
    "Aggregate",
    "Applied",
    "Encoding",
    "Entity",
    "FeatureFrame",
    "FeatureSet",
    "Join",
    "Label",
    "LabelFrame",
    "LabelIndex",
    "LabelState",
    "OnlineRows",
    "OnlineStore",
    "Reason",
    "Request",
    "RequestPlan",
    "Several",
    "View",
    "ViewApplied",
    "count",
    "count_distinct",
    "decayed_mean",
    "decayed_sum",
    "entity",
    "evaluate",
    "first",
    "fit",
    "label",
    "last",
    "last_n",
    "latest",
    "max",
    "mean",
    "min",
    "request",
    "std",
    "sum",
    "top_k",
    "var",
    "view",
]


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"trimtab.features.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
