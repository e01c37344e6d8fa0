"""Training: from a model's definition and a cut to a training set, a fitted model and its evaluation."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trimtab.training.definitions import Costs, Metric, Model, model

if TYPE_CHECKING:
    from trimtab.training.data.sets import TrainingSet, build_training_set, save_training_set
    from trimtab.training.environment import Environment
    from trimtab.training.fitting.fit import fit
    from trimtab.training.fitting.fitted import Fitted
    from trimtab.training.fitting.online import OnlineLearner, fit_online
    from trimtab.training.fitting.splits import TimeSplit, time_split, walk_forward
    from trimtab.training.judge.evaluation import Evaluation, evaluate, save_evaluation
    from trimtab.training.judge.importance import Permuted
    from trimtab.training.judge.learning_curve import CurvePoint
    from trimtab.training.judge.parts import Month, Slice, Week
    from trimtab.training.runtimes.estimators import neural, onnx

__all__ = [
    "Costs",
    "CurvePoint",
    "Environment",
    "Evaluation",
    "Fitted",
    "Metric",
    "Model",
    "Month",
    "OnlineLearner",
    "Permuted",
    "Slice",
    "TimeSplit",
    "TrainingSet",
    "Week",
    "build_training_set",
    "evaluate",
    "fit",
    "fit_online",
    "model",
    "neural",
    "onnx",
    "save_evaluation",
    "save_training_set",
    "time_split",
    "walk_forward",
]

_ROOM = {  # the modules of the names that are loaded at their first use, because those modules load NumPy or more
    "CurvePoint": "judge.learning_curve",
    "Environment": "environment",
    "Evaluation": "judge.evaluation",
    "Fitted": "fitting.fitted",
    "Month": "judge.parts",
    "OnlineLearner": "fitting.online",
    "Permuted": "judge.importance",
    "Slice": "judge.parts",
    "TimeSplit": "fitting.splits",
    "TrainingSet": "data.sets",
    "Week": "judge.parts",
    "build_training_set": "data.sets",
    "evaluate": "judge.evaluation",
    "fit": "fitting.fit",
    "fit_online": "fitting.online",
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
