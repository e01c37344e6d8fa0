"""Fits of libraries that add tree by tree, which say how far they are while somebody listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trimtab.run.progress import is_listening, report

_TREES = {"xgboost": 100, "catboost": 1_000}  # how many are added where an estimator does not say
_TOLD_BY = ("iterations", "n_estimators", "num_boost_round", "num_trees")


@contextmanager
def watched(estimator: Any) -> Iterator[dict[str, Any]]:
    """What to give the estimator's `fit` so that it reports its progress; nothing where it cannot, or nobody listens.

    The fitted model is the same with and without.
    """
    library = type(estimator).__module__.partition(".")[0]
    if not is_listening():
        yield {}
    elif library == "lightgbm":
        yield {"callbacks": [_lightgbm]}
    elif library == "catboost" and str(estimator.get_params().get("task_type", "CPU")).upper() == "CPU":
        yield {"callbacks": [_CatboostTrees(_trees(estimator, library))]}
    elif library == "xgboost":
        given = estimator.get_params().get("callbacks")
        estimator.set_params(callbacks=[*(given or ()), _xgboost(_trees(estimator, library))])
        try:
            yield {}
        finally:
            estimator.set_params(callbacks=given)
    else:
        yield {}


def _trees(estimator: Any, library: str) -> int:
    params = estimator.get_params()
    return next((int(params[name]) for name in _TOLD_BY if params.get(name)), _TREES[library])


def _lightgbm(env: Any) -> None:
    report(env.iteration + 1 - env.begin_iteration, env.end_iteration - env.begin_iteration)


class _CatboostTrees:
    def __init__(self, trees: int) -> None:
        self._trees = trees

    def after_iteration(self, info: Any) -> bool:
        report(info.iteration, self._trees)
        return True


def _xgboost(trees: int) -> Any:
    from xgboost.callback import TrainingCallback

    class Trees(TrainingCallback):
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            report(epoch + 1, trees)
            return False

    return Trees()
