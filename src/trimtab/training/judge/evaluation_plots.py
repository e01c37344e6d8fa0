"""Plots of an evaluation: calibration, and the metric over time."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.core.time import parse_time_us
from trimtab.report import CalibrationPoint, Series, calibration_plot, line_chart
from trimtab.report.markup import Markup
from trimtab.stats.scores import CalibrationBin
from trimtab.training.judge.parts import Day, Week


def calibration_picture(name: str, bins: Sequence[CalibrationBin], raw: Sequence[CalibrationBin]) -> Markup:
    """Return the plot of predicted and true rates. `raw` are the bins of the scores before calibration, if any."""
    curves = [(name, _points(bins))]
    if raw:
        curves.append(("before calibration", _points(raw)))
    return calibration_plot(curves, title="Predicted and true rate")


def metric_by_day(metric: str, days: Sequence[Day]) -> Markup:
    """Return the plot of a metric by day."""
    line = Series(name=metric, x=[parse_time_us(one.day) for one in days], y=[one.value for one in days])
    return line_chart([line], title=f"{metric} by day", x_label="UTC")


def metric_by_week(metric: str, weeks: Sequence[Week]) -> Markup:
    """Return the plot of a metric by week, with its intervals."""
    line = Series(
        name=metric,
        x=[parse_time_us(one.week) for one in weeks],
        y=[one.value for one in weeks],
        low=[None if one.interval is None else one.interval.low for one in weeks],
        high=[None if one.interval is None else one.interval.high for one in weeks],
    )
    return line_chart([line], title=f"{metric} by week", x_label="UTC")


def _points(bins: Sequence[CalibrationBin]) -> list[CalibrationPoint]:
    return [CalibrationPoint(mean_score=b.mean_score, label_share=b.label_share, rows=b.rows) for b in bins]
