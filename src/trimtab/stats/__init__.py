"""Metrics, intervals, paired and sequential tests, each with a stated error rate."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trimtab.stats.interval import Interval
from trimtab.stats.metrics.loss_names import (
    CLASS_LOSSES,
    LOSSES,
    Loss,
    loss_kind,
    ndcg_loss,
    pinball,
    quantile_of,
    top_of,
)

if TYPE_CHECKING:
    from trimtab.stats.association import auc_interval, r_squared_interval, share_interval
    from trimtab.stats.drift import js_distance, ks_distance, psi
    from trimtab.stats.inference.bootstrap import Metric, block_bootstrap, metric_interval, paired_difference, resampled
    from trimtab.stats.inference.edetector import (
        AlarmSide,
        AlarmSpec,
        AlarmState,
        Direction,
        Onset,
        alarm_onset,
        learn_alarm,
        update_alarm,
    )
    from trimtab.stats.inference.paired import Side, blocks_needed, paired_mean_bound
    from trimtab.stats.inference.sequences import PairedSequence, paired_sequence
    from trimtab.stats.metrics.choices import Choice, Choices, cheapest_class, compare_choices
    from trimtab.stats.metrics.lists import list_ndcg, list_places, unit_losses
    from trimtab.stats.metrics.losses import bounded_losses, expected_losses, row_losses
    from trimtab.stats.metrics.metric_value import Better, MetricValue, metric_value
    from trimtab.stats.metrics.metrics import score_metrics
    from trimtab.stats.metrics.multiclass import ClassMetrics, class_metrics
    from trimtab.stats.metrics.ranking import ranking_metrics
    from trimtab.stats.metrics.thresholds import ThresholdCost, Thresholds, choose_threshold
    from trimtab.stats.recalibration import Recalibration, RecalibrationKind, fit_recalibration
    from trimtab.stats.scores import (
        CalibrationBin,
        Confusion,
        auc,
        brier,
        calibration_curve,
        confusion,
        expected_calibration_error,
        log_loss,
        log_loss_rows,
    )

__all__ = [
    "CLASS_LOSSES",
    "LOSSES",
    "AlarmSide",
    "AlarmSpec",
    "AlarmState",
    "Better",
    "CalibrationBin",
    "Choice",
    "Choices",
    "ClassMetrics",
    "Confusion",
    "Direction",
    "Interval",
    "Loss",
    "Metric",
    "MetricValue",
    "Onset",
    "PairedSequence",
    "Recalibration",
    "RecalibrationKind",
    "Side",
    "ThresholdCost",
    "Thresholds",
    "alarm_onset",
    "auc",
    "auc_interval",
    "block_bootstrap",
    "blocks_needed",
    "bounded_losses",
    "brier",
    "calibration_curve",
    "cheapest_class",
    "choose_threshold",
    "class_metrics",
    "compare_choices",
    "confusion",
    "expected_calibration_error",
    "expected_losses",
    "fit_recalibration",
    "js_distance",
    "ks_distance",
    "learn_alarm",
    "list_ndcg",
    "list_places",
    "log_loss",
    "log_loss_rows",
    "loss_kind",
    "metric_interval",
    "metric_value",
    "ndcg_loss",
    "paired_difference",
    "paired_mean_bound",
    "paired_sequence",
    "pinball",
    "psi",
    "quantile_of",
    "r_squared_interval",
    "ranking_metrics",
    "resampled",
    "row_losses",
    "score_metrics",
    "share_interval",
    "top_of",
    "unit_losses",
    "update_alarm",
]

# NumPy is loaded when the first of these names is used, not by `import trimtab`.
_MODULES = (
    *(
        "scores",
        "metrics.losses",
        "metrics.lists",
        "inference.bootstrap",
        "inference.paired",
        "inference.sequences",
        "inference.edetector",
        "drift",
        "recalibration",
        "metrics.thresholds",
        "metrics.choices",
        "association",
    ),
    *("metrics.metrics", "metrics.multiclass", "metrics.ranking"),  # these modules load scikit-learn
)


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = import_module(f"{__name__}.{module}")
            if hasattr(found, name):
                return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
