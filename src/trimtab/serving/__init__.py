"""Serving: answers in process, over HTTP, in batch, precomputed; online learning; the prediction log."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.features.frames import NO_VIEW
    from trimtab.serving.answer.answering import Answerer
    from trimtab.serving.answer.batch import Manifest, batch_manifest, batch_predictions, score_table
    from trimtab.serving.answer.inputs import OfflineInputs, OnlineInputs
    from trimtab.serving.answer.precomputed import Looked, Precomputed
    from trimtab.serving.answer.request_rows import RequestRows
    from trimtab.serving.answer.served import (
        Answer,
        InputReader,
        ModelInputs,
        PastReader,
        Readers,
        RowScorer,
        ServedVersion,
        named_reasons,
    )
    from trimtab.serving.applier import Applier
    from trimtab.serving.arms.endpoint import Endpoint
    from trimtab.serving.arms.online_learning import Example, Learner, OnlineDeployment
    from trimtab.serving.failures import Late, ModelFailed, NotApplied
    from trimtab.serving.http.requests.limits import Limits
    from trimtab.serving.http.server.server import serve
    from trimtab.serving.http.service import HttpService
    from trimtab.serving.log.buffered_log import BufferedLog
    from trimtab.serving.log.commit import GroupCommit
    from trimtab.serving.log.prediction_ids import PredictionIds, batch_prediction_ids, id_time_us
    from trimtab.serving.log.prediction_log import PredictionLog
    from trimtab.serving.log.prediction_record import (
        LoggedPrediction,
        input_matrix,
        logged_prediction,
        prediction_columns,
        reason_matrix,
    )
    from trimtab.serving.observe.metrics import Metrics
    from trimtab.serving.problems import STATUS_BY_ERROR, InvalidField, Problem, Refused, problem_of

__all__ = [
    "NO_VIEW",
    "STATUS_BY_ERROR",
    "Answer",
    "Answerer",
    "Applier",
    "BufferedLog",
    "Endpoint",
    "Example",
    "GroupCommit",
    "HttpService",
    "InputReader",
    "InvalidField",
    "Late",
    "Learner",
    "Limits",
    "LoggedPrediction",
    "Looked",
    "Manifest",
    "Metrics",
    "ModelFailed",
    "ModelInputs",
    "NotApplied",
    "OfflineInputs",
    "OnlineDeployment",
    "OnlineInputs",
    "PastReader",
    "Precomputed",
    "PredictionIds",
    "PredictionLog",
    "Problem",
    "Readers",
    "Refused",
    "RequestRows",
    "RowScorer",
    "ServedVersion",
    "batch_manifest",
    "batch_prediction_ids",
    "batch_predictions",
    "id_time_us",
    "input_matrix",
    "logged_prediction",
    "named_reasons",
    "prediction_columns",
    "problem_of",
    "reason_matrix",
    "score_table",
    "serve",
]

_FILES = {  # which names are in which file; all are loaded on first use
    "answer.answering": "Answerer NO_VIEW",
    "answer.served": "Answer InputReader ModelInputs PastReader Readers RowScorer ServedVersion named_reasons",
    "applier": "Applier",
    "answer.batch": "Manifest batch_manifest batch_predictions score_table",
    "log.commit": "GroupCommit",
    "arms.endpoint": "Endpoint",
    "failures": "Late ModelFailed NotApplied",
    "http.requests.limits": "Limits",
    "http.server.server": "serve",
    "http.service": "HttpService",
    "answer.inputs": "OfflineInputs OnlineInputs",
    "observe.metrics": "Metrics",
    "log.buffered_log": "BufferedLog",
    "arms.online_learning": "Example Learner OnlineDeployment",
    "answer.precomputed": "Looked Precomputed",
    "log.prediction_ids": "PredictionIds batch_prediction_ids id_time_us",
    "log.prediction_log": "PredictionLog",
    "log.prediction_record": "LoggedPrediction input_matrix logged_prediction prediction_columns reason_matrix",
    "problems": "STATUS_BY_ERROR InvalidField Problem Refused problem_of",
    "answer.request_rows": "RequestRows",
}
_LAZY = {name: file for file, names in _FILES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"trimtab.serving.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
