"""An evaluation as a page: figures with intervals, baselines, calibration, months, importance."""

from __future__ import annotations

from pathlib import Path

from trimtab.core.errors import NotFound
from trimtab.core.time import format_moment
from trimtab.registry import Registry, Version
from trimtab.report import Bar, CalibrationPoint, Page, Table, bar_chart, calibration_plot
from trimtab.stats.interval import Interval
from trimtab.store.ports import Blob
from trimtab.training.evaluation import Evaluation, load_evaluation

_MOST_FEATURES = 20


def write_evaluation(registry: Registry, blob: Blob, reference: str, to: Path) -> Path:
    """Write a version's page into the file or folder `to`, its card as Markdown beside it; see `Project.report`."""
    version = registry.get(reference)
    judged = version if version.refit_of is None else registry.get(version.refit_of)
    if judged.evaluation is None:
        raise NotFound(
            f"report of {version.name}: it was not evaluated. Train a version: trimtab train {version.model}"
        )
    file = to if to.suffix == ".html" else to / f"{version.name.replace('@', '-')}.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(evaluation_page(judged, load_evaluation(judged.evaluation, blob)), "utf-8")
    file.with_suffix(".md").write_text(registry.card(version), "utf-8")
    return file


def evaluation_page(version: Version, evaluation: Evaluation) -> str:
    """A self-contained HTML page about the evaluation of one version."""
    window = f"{format_moment(evaluation.start_us)} to {format_moment(evaluation.end_us)}"
    page = Page(f"{version.name}: evaluation", f"{evaluation.rows:,} labelled rows it had not seen, {window}")
    page.heading("How good")
    figures: dict[str, str] = {evaluation.metric: _with_interval(evaluation.value, evaluation.interval)}
    if evaluation.auc is not None:
        figures["AUC"] = _with_interval(evaluation.auc, evaluation.auc_interval)
    if evaluation.calibration_error is not None:
        figures["calibration error"] = f"{evaluation.calibration_error:.4f}"
    page.facts(figures)
    page.heading("Against baselines")
    page.paragraph(f"The same metric ({evaluation.metric}, lower is better) on the same rows.")
    baselines = [Bar(label=name, value=value) for name, value in evaluation.baselines.items() if value is not None]
    interval = evaluation.interval
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    own = Bar(label=version.name, value=evaluation.value, low=low, high=high)
    page.figure(bar_chart([own, *baselines], title=evaluation.metric))
    if evaluation.calibration:
        page.heading("Calibration")
        points = [
            CalibrationPoint(mean_score=one.mean_score, label_share=one.label_share, rows=one.rows)
            for one in evaluation.calibration
        ]
        page.figure(calibration_plot([(version.name, points)], title="Predicted and true rate"))
    page.heading("By month")
    page.table(
        Table(
            headers=("month", "rows", evaluation.metric, "AUC", "mean score", "mean label"),
            rows=tuple(
                (m.month, f"{m.rows:,}", _figure(m.value), _figure(m.auc), _figure(m.mean_score), _figure(m.mean_label))
                for m in evaluation.months
            ),
        )
    )
    page.heading("What it looks at")
    page.paragraph(f"Importance by {evaluation.importance_kind}.")
    ranked = sorted(evaluation.importance.items(), key=lambda item: -item[1])[:_MOST_FEATURES]
    page.figure(bar_chart([Bar(label=name, value=value) for name, value in ranked], title="importance"))
    page.heading("What it is")
    page.facts(
        {
            "address": version.id[:16],
            "fitted on": f"{version.rows:,} labelled rows",
            "known until": format_moment(version.cut_us)[:19],
            "training set": version.training_set[:16],
            "recipe": version.recipe[:16],
            "runtime": version.runtime,
        }
    )
    return page.render()


def _with_interval(value: float, interval: Interval | None) -> str:
    if interval is None:
        return _figure(value)
    return f"{value:.4f} ({interval.low:.4f} to {interval.high:.4f} at {interval.level:.0%})"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
