"""Sections about an evaluation, for the report page, the model card and the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast, get_args

from trimtab.core.time import format_time
from trimtab.report import Align, Bar, Document, Swarm, Table, bar_chart, curve_chart, swarm_chart
from trimtab.stats.interval import Interval
from trimtab.stats.metrics.metric_value import MetricValue
from trimtab.training.data.leakage import Leak
from trimtab.training.judge.evaluation import Evaluation
from trimtab.training.judge.evaluation_plots import calibration_picture, metric_by_week
from trimtab.training.judge.influence import ClassInfluence, Influence
from trimtab.training.judge.parts import Month, Slice, Week

_FEATURES = 30  # the largest number of features in plots and tables
_TERMINAL_FEATURES = 8
_WEEKS = 8  # with more weeks than this, a page shows a plot instead of a table
_HIGHER = " \u25b2"  # follows the names of slices with a significantly higher metric


def add_evaluation(document: Document, name: str, evaluation: Evaluation, *, seen: str = "") -> None:
    """Add a section for each part of an evaluation that was computed.

    Args:
        name: The name of the evaluated version, shown in the plots.
        seen: A sentence about rows that the model may have been trained on; "": there are none.
    """
    _metrics(document, evaluation, seen)
    _baselines(document, name, evaluation)
    _by_class(document, evaluation)
    _calibration(document, name, evaluation)
    _thresholds(document, evaluation)
    _choices(document, evaluation)
    _slices(document, evaluation)
    _periods(document, evaluation)
    _importance(document, evaluation)
    _contributions(document, evaluation)
    _backtest(document, evaluation)
    _learning_curve(document, evaluation)
    _labels_and_leaks(document, evaluation)


def _metrics(document: Document, evaluation: Evaluation, seen: str) -> None:
    document.heading("Metrics")
    window = f"{format_time(evaluation.start_us)[:10]} to {format_time(evaluation.end_us)[:10]}"
    text = f"{evaluation.rows:,} labelled rows{'' if seen else ' unseen by the model'}, {window}"
    document.paragraph(f"{text}; intervals bootstrapped by {evaluation.block}. {seen}".rstrip())
    rows = [(one.name.replace("_", " "), one.value, one.interval, _goal(one)) for one in evaluation.figures]
    document.table(_table(("metric", "value", "95 % interval", ""), rows))
    if evaluation.left_out:
        why = ", ".join(f"{count:,} {reason}" for reason, count in evaluation.left_out.items())
        document.note(f"Rows of the window that could not be evaluated: {why}.")


def _goal(metric: MetricValue) -> str:
    return f"best at {metric.goal:g}" if metric.goal is not None else f"{metric.better} is better"


def _baselines(document: Document, name: str, evaluation: Evaluation) -> None:
    document.heading("Baselines")
    document.paragraph(
        f"{evaluation.metric} (lower is better) of the model and of the baselines, on the same rows.", detail=True
    )
    values = [(name, evaluation.value, evaluation.interval)]
    for other, value in evaluation.baselines.items():
        one = evaluation.judged_baselines.get(other)
        by = f" (by {', '.join(one.by)})" if one is not None and one.by else ""
        values += [] if value is None else [(f"{other}{by}", value, None if one is None else one.interval)]
    document.plot(
        bar_chart(_bars(values), title=evaluation.metric),
        plain=_table((f"{evaluation.metric} of", "value", "95 % interval"), values),
    )
    if missing := [other for other, value in evaluation.baselines.items() if value is None]:
        document.paragraph(f"Not available: {', '.join(missing)}.")


def _by_class(document: Document, evaluation: Evaluation) -> None:
    if not evaluation.classes:
        return
    document.heading("Classes")
    document.paragraph("Each class against all others; the prediction for a row is its likeliest class.", detail=True)
    headers = ("class", "rows", "AUC", "interval", "precision", "recall", "mean score", "share")
    rows = [
        (c.name, c.rows, c.auc, c.auc_interval, c.precision, c.recall, c.mean_score, c.share)
        for c in evaluation.classes
    ]
    document.table(_table(headers, rows))
    names = [one.name for one in evaluation.classes]
    confusion = [(name, *row) for name, row in zip(names, evaluation.confusion, strict=True)]
    document.table(_table(("label, predicted as", *names), confusion))


def _calibration(document: Document, name: str, evaluation: Evaluation) -> None:
    if not evaluation.calibration:
        return
    document.heading("Calibration", detail=True)
    if evaluation.classes:
        document.paragraph("The probability of the likeliest class, and how often that class was the label.")
    if evaluation.raw_calibration:
        document.paragraph(
            f"Scores are corrected by {evaluation.recalibration} calibration, which was fitted in training on "
            "out-of-sample scores. Mean distance of predicted and true share: "
            f"{_text(evaluation.raw_calibration_error)} before, {_text(evaluation.calibration_error)} after."
        )
    document.plot(
        calibration_picture(name, evaluation.calibration, evaluation.raw_calibration),
        plain=_table(
            ("mean score", "true share", "rows"),
            [(one.mean_score, one.label_share, one.rows) for one in evaluation.calibration],
        ),
    )


def _thresholds(document: Document, evaluation: Evaluation) -> None:
    if (found := evaluation.thresholds) is None:
        return
    document.heading("Decision threshold")
    document.paragraph(
        f"A wrong yes costs {found.false_positive:g}, a wrong no {found.false_negative:g}. The threshold of least "
        "cost was chosen on the rows that it is evaluated on, so its cost is a little too low.",
        detail=True,
    )
    span = "" if found.best_interval is None else f" ({_text(found.best_interval)})"
    rows = [
        (name, at.threshold, at.cost, at.interval)
        for name, at in (
            (f"least cost on these rows{span}", found.best),
            ("best for calibrated scores", found.fair),
            ("one half", found.half),
        )
    ]
    constant = [("always yes", "", found.always, ""), ("never yes", "", found.never, "")]
    document.table(_table(("threshold", "yes at or above", "cost a row", "interval"), [*rows, *constant]))
    if len(found.curve) > 1:
        places = [(found.best.threshold, "least cost"), (found.half.threshold, "one half")]
        document.plot(
            curve_chart(found.curve, title="Cost a row by threshold", x_label="yes from this score on", places=places)
        )


def _choices(document: Document, evaluation: Evaluation) -> None:
    if (found := evaluation.choices) is None:
        return
    names = [one.name for one in evaluation.classes]
    document.heading("Cost of answers")
    saved = f"{_text(found.saved)} a row ({_text(found.saved_interval)})"
    document.paragraph(
        "The cost of each wrong answer, and the mean cost on these rows of three ways to answer. Answering with the "
        f"class of least expected cost saves {saved} compared with the likeliest class, and is best if the "
        "probabilities are right. Predictions name the likeliest class; trimtab.stats.cheapest_class returns the "
        "cheapest class for the scores of a prediction.",
        detail=True,
    )
    costs = [(name, *(f"{cost:g}" for cost in row)) for name, row in zip(names, found.costs, strict=True)]
    document.table(_table(("truth \\ answer", *names), costs), detail=True)
    answers = [
        ("the likeliest class", found.likeliest),
        ("the class of least expected cost", found.cheapest),
        (f"always {names[found.constant.answered.index(found.rows)]}", found.constant),
    ]
    rows = [(name, one.cost, one.interval, *one.answered) for name, one in answers]
    document.table(_table(("answering", "cost a row", "interval", *names), rows))


def _slices(document: Document, evaluation: Evaluation) -> None:
    if not evaluation.slices:
        return
    higher = [one for one in evaluation.slices if one.interval is not None and one.interval.above(evaluation.value)]
    document.heading("Slices", detail=not higher)
    if higher:
        listed = "; ".join(f"{one.column} = {one.holds}" for one in higher)
        document.note(
            f"{evaluation.metric} is significantly higher than on all rows ({_text(evaluation.value)}): {listed}."
        )
    document.paragraph(
        f"{evaluation.metric} of each slice, with an interval over its days; a dash means that there are fewer than "
        "three days. \u25b2 marks slices significantly above the value of all rows. A slice may be harder by nature, "
        "and of many slices about one in forty is marked by coincidence.",
        detail=True,
    )
    rows = [
        (one.column, one.holds + (_HIGHER if one in higher else ""), *_part(evaluation, one))
        for one in evaluation.slices
    ]
    document.table(_table(("column", "holds", *_part_headers(evaluation)), rows, left=2), detail=True)


def _periods(document: Document, evaluation: Evaluation) -> None:
    headers = _part_headers(evaluation)
    document.heading("Months", detail=True)
    months = [(one.month, *_part(evaluation, one)) for one in evaluation.months]
    document.table(_table(("month", *headers), months))
    weeks = evaluation.weeks
    if len(weeks) < 2:
        return
    document.heading("Weeks", 3, detail=True)
    table = _table(("week from", *headers), [(one.week, *_part(evaluation, one)) for one in weeks])
    if len(weeks) <= _WEEKS:
        document.table(table)
        return
    document.plot(metric_by_week(str(evaluation.metric), weeks), plain=table)


def _importance(document: Document, evaluation: Evaluation) -> None:
    metric = evaluation.metric
    document.heading("Feature importance", detail=not evaluation.permuted)
    if evaluation.permuted:
        ranked = sorted(evaluation.permuted, key=lambda one: -one.rise)
        document.paragraph(
            f"The mean rise of {metric} on these rows when a feature is shuffled {ranked[0].repeats} times. Spread: "
            "the standard deviation (the plot shows two). (all): all features of a view are shuffled together.",
            detail=True,
        )
        bars = [
            Bar(label=one.name, value=one.rise, low=one.rise - 2 * one.spread, high=one.rise + 2 * one.spread)
            for one in ranked[:_FEATURES]
        ]
        more = len(ranked) - _FEATURES
        document.plot(
            bar_chart(bars, title=f"rise of {metric}"),
            f"And {more} more features, each below the last one shown." if more > 0 else "",
            plain=_table(
                ("shuffled feature", f"rise of {metric}", "spread"),
                [(one.name, one.rise, one.spread) for one in ranked],
            ),
            most=_TERMINAL_FEATURES,
        )
    if evaluation.importance_kind == "library" or not evaluation.permuted:
        by = "the model's library" if evaluation.importance_kind == "library" else "permutation"
        document.paragraph(f"Importance as computed by {by} on the rows of the fit.", detail=True)
        shares = sorted(evaluation.importance.items(), key=lambda item: (-item[1], item[0]))[:_FEATURES]
        document.plot(
            bar_chart([Bar(label=name, value=value) for name, value in shares], title="importance"),
            plain=_table(("feature", "importance"), shares),
            detail=True,
        )


def _contributions(document: Document, evaluation: Evaluation) -> None:
    found = evaluation.influences
    if not found and not evaluation.no_influences:
        return
    document.heading("Contributions (SHAP)", 3, detail=not found)
    if not found:
        document.paragraph(f"No SHAP values: {evaluation.no_influences}")
        return
    document.paragraph(
        "SHAP values on these rows: what each feature adds to the raw score of a row, compared with an average row "
        "and before calibration. The raw score of a class is its log odds, that of a number is the number itself, and "
        "that of a count is its logarithm. If features have the same information, the share of each means little. The "
        "values describe the model, not causes.",
        detail=True,
    )
    lines = [Swarm(label=one.name, points=one.points) for one in found if one.points]
    if lines:
        title = "Contributions to the raw score"
        document.plot(swarm_chart(lines, title=title, x_label="contribution", shades="value of the feature"))
    classes = [of.name for of in found[0].classes]
    rows = [
        (one.name, one.mean, *([f"{of.mean:.4f} {_direction(of)}" for of in one.classes] or [_direction(one)]))
        for one in found[:_FEATURES]
    ]
    table = _table(("feature", "mean contribution", *(classes or ["as the feature grows"])), rows)
    document.table(table, most=_TERMINAL_FEATURES)


def _direction(one: Influence | ClassInfluence) -> str:
    if one.direction is None:
        return "no order"
    to = "either way" if abs(one.direction) < 0.1 else "up" if one.direction > 0 else "down"
    return f"{to} ({one.direction:+.2f})"


def _backtest(document: Document, evaluation: Evaluation) -> None:
    if not evaluation.folds:
        return
    document.heading("Backtest")
    document.paragraph(
        f"{evaluation.metric} of the same recipe on each fold before these rows, fitted on what was known when the "
        "fold began. The spread of the folds shows how misleading a single window can be.",
        detail=True,
    )
    spans = [
        (f"{format_time(one.start_us)[:10]} to {format_time(one.end_us)[:10]}", one.value, one.interval)
        for one in evaluation.folds
        if one.value is not None
    ]
    if spans:
        document.plot(bar_chart(_bars(spans), title=f"{evaluation.metric} by fold"))
    area = bool(evaluation.calibration)
    rows = [
        (format_time(f.start_us)[:10], f.fitted_rows, f.rows, f.value, f.interval, *([f.auc] if area else []))
        for f in evaluation.folds
    ]
    headers = ("fold from", "fitted on", "rows", evaluation.metric, "interval", *(["AUC"] if area else []))
    document.table(_table(headers, rows))


def _learning_curve(document: Document, evaluation: Evaluation) -> None:
    if len(evaluation.learning_curve) < 2:
        return
    document.heading("Learning curve", detail=True)
    document.paragraph(
        f"{evaluation.metric} on these rows, for the same recipe fitted on only the newest training rows. The last "
        "entry is the model itself."
    )
    points = [
        (f"{one.rows:,} rows, since {format_time(one.since_us)[:10]}", one.value, one.interval)
        for one in evaluation.learning_curve
        if one.value is not None
    ]
    document.plot(
        bar_chart(_bars(points), title=f"{evaluation.metric} by training rows"),
        plain=_table(("fitted on", evaluation.metric, "interval"), points),
    )
    if failed := [f"{one.rows:,}" for one in evaluation.learning_curve if one.value is None]:
        document.paragraph(f"No fit was possible on so few rows: {', '.join(failed)}.")


def _labels_and_leaks(document: Document, evaluation: Evaluation) -> None:
    document.heading("Labels and leaks", detail=not (evaluation.balance or evaluation.leaks))
    fitted, judged = (sum(getattr(one, of) for one in evaluation.balance) or 1 for of in ("kept", "holdout"))
    headers = ("label", "training rows", "fitted on", "share", "share of weight", "rows judged", "share")
    rows = [
        (
            one.name or f"{one.label:g}",
            *(one.rows, one.kept, f"{one.kept / fitted:.1%}", f"{one.weight:.1%}"),
            *(one.holdout, f"{one.holdout / judged:.1%}"),
        )
        for one in evaluation.balance
    ]
    document.table(_table(headers, rows))
    if any(one.kept < one.rows for one in evaluation.balance):
        document.paragraph("Rows were sampled. The weights of kept rows make up for the rows left out.", detail=True)
    for leak in evaluation.leaks or ():
        document.note(_leak_text(leak))
    if not evaluation.leaks:
        document.paragraph(
            "No check for leaks was made."
            if evaluation.leaks is None
            else "No leak was found: no single feature predicts the label too well, no column of the request has "
            "values that came later, labels are not known at request time, and no row is on both sides of the "
            "split.",
            detail=True,
        )


def _leak_text(leak: Leak) -> str:
    word = "Allowed" if leak.allowed else "Leak" if leak.severity == "error" else "Note"
    return f"{word} ({leak.check}): {leak.found}" + ("" if leak.allowed else f" {leak.todo}")


def _text(value: object) -> str:
    """Return the text of a table cell. None becomes a dash, and an interval becomes both of its ends."""
    match value:
        case None:
            return "–"
        case Interval():
            return f"{_text(value.low)} to {_text(value.high)}"
        case float():
            return f"{value:,.4f}" if abs(value) < 1e4 else f"{value:,.0f}"
        case int():
            return f"{value:,}"
    return str(value)


def _table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1) -> Table:
    """Return a table with `left` text columns first. All columns after them are numbers."""
    text, number = cast(tuple[Align, Align], get_args(Align))
    return Table(
        headers=tuple(headers),
        rows=tuple(tuple(map(_text, row)) for row in rows),
        align=(text,) * left + (number,) * (len(headers) - left),
    )


def _bars(values: Iterable[tuple[str, float, Interval | None]]) -> list[Bar]:
    return [
        Bar(label=label, value=value, low=None if i is None else i.low, high=None if i is None else i.high)
        for label, value, i in values
    ]


def _part_headers(evaluation: Evaluation) -> tuple[str, ...]:
    """The column headers that the tables of months, weeks and slices share."""
    area = ("AUC",) if evaluation.calibration else ()  # only models that predict probabilities have an AUC
    means = () if evaluation.block == "list" else ("mean score", "mean label")  # scores of a ranking have no scale
    return ("rows", evaluation.metric, "interval", *area, *means)


def _part(evaluation: Evaluation, one: Month | Week | Slice) -> tuple[object, ...]:
    area = (one.auc,) if evaluation.calibration else ()
    means = () if evaluation.block == "list" else (one.mean_score, one.mean_label)
    return (one.rows, one.value, one.interval, *area, *means)
