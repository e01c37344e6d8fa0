"""From a model definition and a cut-off to a pinned training set, a fitted model and its evaluation."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trimtab.training.definitions import Costs, Metric, Model, Task, model

if TYPE_CHECKING:
    from trimtab.training.artifact import Artifact
    from trimtab.training.contributions import Contributions
    from trimtab.training.environment import Environment, current_environment
    from trimtab.training.evaluation import Evaluation, evaluate, load_evaluation, save_evaluation
    from trimtab.training.fitted import Fitted
    from trimtab.training.fitting import fit
    from trimtab.training.folds import OutOfFold
    from trimtab.training.importance import Permuted
    from trimtab.training.learning_curve import CurvePoint
    from trimtab.training.online import OnlineLearner, fit_online
    from trimtab.training.parts import Month, Slice, Week
    from trimtab.training.runtimes import Runtime, Scorer, Trust
    from trimtab.training.runtimes.estimators import neural, onnx
    from trimtab.training.sets import (
        Manifest,
        TrainingSet,
        assemble,
        build_training_set,
        load_manifest,
        load_training_set,
        save_training_set,
    )
    from trimtab.training.splits import TimeSplit, time_split, walk_forward

__all__ = [
    "Artifact",
    "Contributions",
    "Costs",
    "CurvePoint",
    "Environment",
    "Evaluation",
    "Fitted",
    "Manifest",
    "Metric",
    "Model",
    "Month",
    "OnlineLearner",
    "OutOfFold",
    "Permuted",
    "Runtime",
    "Scorer",
    "Slice",
    "Task",
    "TimeSplit",
    "TrainingSet",
    "Trust",
    "Week",
    "assemble",
    "build_training_set",
    "current_environment",
    "evaluate",
    "fit",
    "fit_online",
    "load_evaluation",
    "load_manifest",
    "load_training_set",
    "model",
    "neural",
    "onnx",
    "save_evaluation",
    "save_training_set",
    "time_split",
    "walk_forward",
]

_ROOM = {  # where each name lives whose module loads NumPy or more
    "Artifact": "artifact",
    "Contributions": "contributions",
    "CurvePoint": "learning_curve",
    "Environment": "environment",
    "Evaluation": "evaluation",
    "Fitted": "fitted",
    "Manifest": "sets",
    "Month": "parts",
    "OnlineLearner": "online",
    "OutOfFold": "folds",
    "Permuted": "importance",
    "Runtime": "runtimes",
    "Scorer": "runtimes",
    "Slice": "parts",
    "TimeSplit": "splits",
    "TrainingSet": "sets",
    "Trust": "runtimes",
    "Week": "parts",
    "assemble": "sets",
    "build_training_set": "sets",
    "current_environment": "environment",
    "evaluate": "evaluation",
    "fit": "fitting",
    "fit_online": "online",
    "load_evaluation": "evaluation",
    "load_manifest": "sets",
    "load_training_set": "sets",
    "neural": "runtimes.estimators",
    "onnx": "runtimes.estimators",
    "save_evaluation": "evaluation",
    "save_training_set": "sets",
    "time_split": "splits",
    "walk_forward": "splits",
}


def __getattr__(name: str) -> Any:
    if name in _ROOM:
        return getattr(import_module(f"{__name__}.{_ROOM[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
