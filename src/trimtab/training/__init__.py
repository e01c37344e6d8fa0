"""From a model definition and a cut-off to a pinned training set, a fitted model and its evaluation."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trimtab.training.definitions import Costs, Metric, Model, Task, model

if TYPE_CHECKING:
    from trimtab.training.data.sets import (
        Manifest,
        TrainingSet,
        assemble,
        build_training_set,
        load_manifest,
        load_training_set,
        save_training_set,
    )
    from trimtab.training.environment import Environment, current_environment
    from trimtab.training.fitting.artifact import Artifact
    from trimtab.training.fitting.contributions import Contributions
    from trimtab.training.fitting.fit import fit
    from trimtab.training.fitting.fitted import Fitted
    from trimtab.training.fitting.folds import OutOfFold
    from trimtab.training.fitting.online import OnlineLearner, fit_online
    from trimtab.training.fitting.splits import TimeSplit, time_split, walk_forward
    from trimtab.training.judge.evaluation import Evaluation, evaluate, load_evaluation, save_evaluation
    from trimtab.training.judge.importance import Permuted
    from trimtab.training.judge.learning_curve import CurvePoint
    from trimtab.training.judge.parts import Month, Slice, Week
    from trimtab.training.runtimes import Runtime, Scorer, Trust
    from trimtab.training.runtimes.estimators import neural, onnx

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
    "Artifact": "fitting.artifact",
    "Contributions": "fitting.contributions",
    "CurvePoint": "judge.learning_curve",
    "Environment": "environment",
    "Evaluation": "judge.evaluation",
    "Fitted": "fitting.fitted",
    "Manifest": "data.sets",
    "Month": "judge.parts",
    "OnlineLearner": "fitting.online",
    "OutOfFold": "fitting.folds",
    "Permuted": "judge.importance",
    "Runtime": "runtimes",
    "Scorer": "runtimes",
    "Slice": "judge.parts",
    "TimeSplit": "fitting.splits",
    "TrainingSet": "data.sets",
    "Trust": "runtimes",
    "Week": "judge.parts",
    "assemble": "data.sets",
    "build_training_set": "data.sets",
    "current_environment": "environment",
    "evaluate": "judge.evaluation",
    "fit": "fitting.fit",
    "fit_online": "fitting.online",
    "load_evaluation": "judge.evaluation",
    "load_manifest": "data.sets",
    "load_training_set": "data.sets",
    "neural": "runtimes.estimators",
    "onnx": "runtimes.estimators",
    "save_evaluation": "judge.evaluation",
    "save_training_set": "data.sets",
    "time_split": "fitting.splits",
    "walk_forward": "fitting.splits",
}


def __getattr__(name: str) -> Any:
    if name in _ROOM:
        return getattr(import_module(f"{__name__}.{_ROOM[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
