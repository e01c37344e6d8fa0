"""The parameters that a stored estimator was fitted with, read from its bytes."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from trimtab.core.errors import Corrupt, Misuse, Unavailable
from trimtab.training.fitting.artifact import Artifact

_LIGHTGBM = re.compile(r"^\[([^:\]]+): ([^\]]*)\]$", re.MULTILINE)
_NO_MATTER = frozenset({"device_type", "gpu_id", "nthread", "num_threads", "thread_count", "n_jobs", "verbosity"})


def parameters_of(artifact: Artifact) -> dict[str, str] | None:
    """The parameters by name, as text; None where the format keeps none, or its library is not here.

    A pickle is not opened for it. What says only where and how fast it was fitted is left out.
    """
    try:
        found = _read(artifact)
    except (Corrupt, Misuse, Unavailable, ImportError):  # another library, or none: then nobody can say
        return None
    return None if found is None else {name: found[name] for name in sorted(found) if name not in _NO_MATTER}


def _read(artifact: Artifact) -> dict[str, str] | None:
    match artifact.runtime:
        case "lightgbm":
            _, _, told = artifact.estimator.decode().partition("\nparameters:")
            return dict(_LIGHTGBM.findall(told.partition("end of parameters")[0]))
        case "xgboost":
            return _of_xgboost(artifact.estimator)
        case "catboost":
            return _of_catboost(artifact.estimator)
        case "sklearn":
            from trimtab.training.runtimes.skops_bytes import loads

            given = loads(artifact.estimator).get_params(deep=True)
            return {name: repr(value) for name, value in given.items() if not hasattr(value, "get_params")}
    return None


def _of_xgboost(data: bytes) -> dict[str, str]:
    import xgboost

    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(data))
    found: dict[str, str] = {}
    _leaves(msgspec.json.decode(booster.save_config())["learner"], found)
    return found | {"num_boosted_rounds": str(booster.num_boosted_rounds())}


def _leaves(node: Any, found: dict[str, str]) -> None:
    """The parameters of a configuration, wherever they stand in it."""
    for name, value in node.items() if isinstance(node, dict) else ():
        if isinstance(value, str) and name not in ("version", "name"):
            found[name] = value
        else:
            _leaves(value, found)


def _of_catboost(data: bytes) -> dict[str, str]:
    import catboost

    model = catboost.CatBoost()
    model.load_model(blob=data, format="cbm")
    return {name: str(value) for name, value in model.get_all_params().items()} | {"tree_count": str(model.tree_count_)}
