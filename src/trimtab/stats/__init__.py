"""Intervals, paired and sequential tests, e-processes: from samples to statements with stated error rates."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trimtab.stats.interval import Interval

if TYPE_CHECKING:
    from trimtab.stats.bootstrap import Metric, block_bootstrap, metric_interval, paired_difference
    from trimtab.stats.drift import js_distance, ks_distance, psi
    from trimtab.stats.edetector import (
        AlarmSide,
        AlarmSpec,
        AlarmState,
        Direction,
        Onset,
        alarm_onset,
        bounded_losses,
        learn_alarm,
        update_alarm,
    )
    from trimtab.stats.losses import Loss, row_losses
    from trimtab.stats.paired import Side, blocks_needed, paired_mean_bound
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
    "AlarmSide",
    "AlarmSpec",
    "AlarmState",
    "CalibrationBin",
    "Confusion",
    "Direction",
    "Interval",
    "Loss",
    "Metric",
    "Onset",
    "Side",
    "alarm_onset",
    "auc",
    "block_bootstrap",
    "blocks_needed",
    "bounded_losses",
    "brier",
    "calibration_curve",
    "confusion",
    "expected_calibration_error",
    "js_distance",
    "ks_distance",
    "learn_alarm",
    "log_loss",
    "log_loss_rows",
    "metric_interval",
    "paired_difference",
    "paired_mean_bound",
    "psi",
    "row_losses",
    "update_alarm",
]

# NumPy loads with the first name asked for, not with `import trimtab`.
_MODULES = ("scores", "losses", "bootstrap", "paired", "edetector", "drift")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = import_module(f"{__name__}.{module}")
            if hasattr(found, name):
                return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
