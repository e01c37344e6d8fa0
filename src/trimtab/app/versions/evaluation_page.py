"""An evaluation as a page: figures with intervals, baselines, calibration, parts, importance, thresholds."""

from __future__ import annotations

from pathlib import Path

import msgspec

from trimtab.app.state.searches import Searched, search_of, trial_table
from trimtab.app.versions.evaluation_text import (
    balance_table,
    choice_table,
    class_table,
    confusion_table,
    figure_table,
    fold_table,
    higher_slices,
    influence_table,
    interval_shown,
    leak_lines,
    period_table,
    ranked_features,
    shown,
    slice_table,
    threshold_table,
)
from trimtab.core.errors import NotFound, Unavailable
from trimtab.core.time import format_time, parse_time_us
from trimtab.registry import Registry, Version
from trimtab.registry.versions import possibly_seen
from trimtab.report import (
    Bar,
    CalibrationPoint,
    Document,
    Series,
    Swarm,
    Table,
    bar_chart,
    calibration_plot,
    curve_chart,
    html_page,
    line_chart,
    swarm_chart,
)
from trimtab.stats.scores import CalibrationBin
from trimtab.store.durable_files import write_durably
from trimtab.store.ports import Blob, Catalog
from trimtab.training.judge.evaluation import Evaluation, load_evaluation

_MOST_FEATURES = 20
_MOST_TRIALS = 30


def write_evaluation(registry: Registry, blob: Blob, catalog: Catalog, reference: str, to: Path) -> Path:
    """Write a version's page into the file or folder `to`; its card as Markdown and its figures as JSON beside it.

    Raises:
        NotFound: Neither it nor the version it refits was evaluated.
        Unavailable: There is no room for a file, or no access; none is half there.
    """
    version = registry.get(reference)
    evaluation = evaluation_of(registry, blob, version)
    judged = registry.as_known(version if version.refit_of is None else registry.get(version.refit_of))
    file = to if to.suffix == ".html" else to / f"{version.name.replace('@', '-')}.html"
    searched = search_of(catalog, version.model, judged.chosen)
    document: dict[str, object] = {"version": version.name, "address": version.id, "judged": judged.name}
    document |= {"evaluation": evaluation} | ({} if searched is None else {"search": searched})
    contents = {
        ".html": evaluation_page(judged, evaluation, searched).encode(),
        ".md": registry.card(version).encode(),
        ".json": msgspec.json.format(msgspec.json.encode(document)),
    }
    path = file.parent
    try:
        path.mkdir(parents=True, exist_ok=True)
        for suffix, content in contents.items():
            path = file.with_suffix(suffix)
            write_durably(path, content)
    except OSError as error:
        again = f"Check free space and access, then run: trimtab report {version.name}"
        raise Unavailable(f"{path}: {error.strerror}. {again}") from error
    return file


def evaluation_of(registry: Registry, blob: Blob, version: Version) -> Evaluation:
    """The evaluation of a version, or of the candidate that it is a refit of.

    Raises:
        NotFound: Neither was evaluated.
    """
    judged = version if version.refit_of is None else registry.get(version.refit_of)
    if judged.evaluation is None:
        raise NotFound(
            f"report of {version.name}: it was not evaluated. Train a version: trimtab train {version.model}"
        )
    return load_evaluation(judged.evaluation, blob)


def evaluation_page(version: Version, evaluation: Evaluation, searched: Searched | None = None) -> str:
    """A self-contained HTML page about the evaluation of one version."""
    window = f"{format_time(evaluation.start_us)[:16]} to {format_time(evaluation.end_us)[:16]} UTC"
    known = possibly_seen(version, evaluation.start_us)
    rows = f"{evaluation.rows:,} labelled rows{'' if known else ' it had not seen'}"
    page = Document(f"{version.name}: evaluation", f"{rows}, {window}. {known}".removesuffix(". "))
    _how_good(page, version, evaluation)
    if evaluation.classes:
        _by_class(page, evaluation)
    if evaluation.calibration:
        _calibration(page, version, evaluation)
    if evaluation.thresholds is not None:
        _thresholds(page, evaluation)
    if evaluation.choices is not None:
        _choices(page, evaluation)
    if evaluation.slices:
        _slices(page, evaluation)
    _periods(page, evaluation)
    _importance(page, evaluation)
    if evaluation.folds:
        _backtest(page, evaluation)
    if len(evaluation.learning_curve) > 1:
        _learning(page, evaluation)
    if evaluation.leaks is not None:
        _learnt_from(page, evaluation)
    if searched is not None:
        _search(page, searched)
    page.heading("What it is")
    page.facts(
        {
            "address": version.id[:16],
            "fitted on": f"{version.rows:,} labelled rows",
            "known until": format_time(version.cut_us)[:19],
            "training set": version.training_set[:16],
            "recipe": version.recipe[:16],
            "runtime": version.runtime,
            "calibration": evaluation.recalibration or "none",
        }
    )
    return html_page(page)


def _search(page: Document, searched: Searched) -> None:
    page.heading("How its parameters were found")
    found = searched.lines(most=0)[:3]
    page.paragraph(f"{found[0].partition(': ')[2].capitalize()}; {found[1]}. {found[2].capitalize()}.")
    page.paragraph(
        "The best of many trials on the same rows looks a little too good there; no figure above is of these rows."
    )
    page.table(trial_table(searched, most=_MOST_TRIALS))


def _how_good(page: Document, version: Version, evaluation: Evaluation) -> None:
    page.heading("How good")
    page.table(figure_table(evaluation))
    if evaluation.left_out:
        why = ", ".join(f"{count:,} {reason}" for reason, count in evaluation.left_out.items())
        page.note(f"Rows of the window that could not be judged: {why}.")
    page.heading("Against baselines")
    page.paragraph(f"The same metric ({evaluation.metric}, lower is better) on the same rows.")
    others = [Bar(label=name, value=value) for name, value in evaluation.baselines.items() if value is not None]
    interval = evaluation.interval
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    own = Bar(label=version.name, value=evaluation.value, low=low, high=high)
    page.plot(bar_chart([own, *others], title=evaluation.metric))
    if missing := [name for name, value in evaluation.baselines.items() if value is None]:
        page.paragraph(f"Could not be had: {', '.join(missing)}.")


def _by_class(page: Document, evaluation: Evaluation) -> None:
    page.heading("By class")
    page.paragraph("Each class against all others; a row is answered as its likeliest class.")
    page.table(class_table(evaluation))
    page.table(confusion_table(evaluation))


def _calibration(page: Document, version: Version, evaluation: Evaluation) -> None:
    page.heading("Calibration")
    if evaluation.classes:
        page.paragraph("Of the likeliest class: its chance, and how often it was the label.")
    curves = [(version.name, _points(evaluation.calibration))]
    if evaluation.raw_calibration:
        curves.append(("before calibration", _points(evaluation.raw_calibration)))
        page.paragraph(
            f"Scores are corrected by {evaluation.recalibration} calibration, fitted in training on rows that their "
            f"model had not seen. Mean distance of promised and true share: "
            f"{shown(evaluation.raw_calibration_error)} before, {shown(evaluation.calibration_error)} after."
        )
    page.plot(calibration_plot(curves, title="Predicted and true rate"))


def _points(bins: tuple[CalibrationBin, ...]) -> list[CalibrationPoint]:
    return [CalibrationPoint(mean_score=b.mean_score, label_share=b.label_share, rows=b.rows) for b in bins]


def _thresholds(page: Document, evaluation: Evaluation) -> None:
    found = evaluation.thresholds
    assert found is not None  # the caller asked
    page.heading("Where to say yes")
    page.paragraph(
        f"A wrong yes costs {found.false_positive:g}, a wrong no {found.false_negative:g}. The threshold of least cost "
        "was chosen on the rows that it is judged on, so its cost is a little too good."
    )
    page.table(threshold_table(evaluation))
    if len(found.curve) > 1:
        places = [(found.best.threshold, "least cost"), (found.half.threshold, "one half")]
        page.plot(
            curve_chart(found.curve, title="Cost a row by threshold", x_label="yes from this score on", places=places)
        )


def _choices(page: Document, evaluation: Evaluation) -> None:
    found = evaluation.choices
    assert found is not None  # the caller asked
    names = [one.name for one in evaluation.classes]
    page.heading("Which class to answer")
    saved = f"{shown(found.saved)} a row ({interval_shown(found.saved_interval)})"
    page.paragraph(
        "What wrong answers cost, and what answering costs on these rows. The class of least expected cost saves "
        f"{saved} against the likeliest; it is the best answer where chances are right. Answers have the likeliest "
        "class as their prediction; trimtab.stats.cheapest_class takes their scores and gives the other."
    )
    page.table(
        Table(
            headers=("truth \\ answer", *names),
            rows=tuple((name, *(f"{cost:g}" for cost in row)) for name, row in zip(names, found.costs, strict=True)),
        )
    )
    page.table(choice_table(evaluation))


def _slices(page: Document, evaluation: Evaluation) -> None:
    page.heading("By slice")
    higher = higher_slices(evaluation)
    if higher:
        said = "; ".join(f"{one.column} = {one.holds}" for one in higher)
        page.note(
            f"{evaluation.metric} is higher than of the whole ({shown(evaluation.value)}), beyond chance: {said}."
        )
    page.paragraph(
        f"{evaluation.metric} of each slice, its interval from the days that it has; a dash where these are fewer than "
        "three. \u25b2 marks those above the whole beyond chance: a slice may be harder by nature, and of many slices "
        "one in forty is marked by chance alone."
    )
    page.table(slice_table(evaluation))


def _periods(page: Document, evaluation: Evaluation) -> None:
    page.heading("By month")
    page.table(period_table(evaluation, evaluation.months, "month"))
    if len(evaluation.weeks) < 2:
        return
    page.heading("By week", 3)
    if len(evaluation.weeks) > 8:
        weeks = evaluation.weeks
        line = Series(
            name=evaluation.metric,
            x=[parse_time_us(one.week) for one in weeks],
            y=[one.value for one in weeks],
            low=[None if one.interval is None else one.interval.low for one in weeks],
            high=[None if one.interval is None else one.interval.high for one in weeks],
        )
        page.plot(line_chart([line], title=f"{evaluation.metric} by week", x_label="UTC"))
    else:
        page.table(period_table(evaluation, evaluation.weeks, "week from"))


def _importance(page: Document, evaluation: Evaluation) -> None:
    page.heading("What it looks at")
    if evaluation.permuted:
        ranked = ranked_features(evaluation)
        page.paragraph(
            f"How much {evaluation.metric} rises on these rows once a feature is shuffled, the mean of "
            f"{ranked[0].repeats} times with two standard deviations; (all): the features of a view together."
        )
        bars = [
            Bar(label=one.name, value=one.rise, low=one.rise - 2 * one.spread, high=one.rise + 2 * one.spread)
            for one in ranked[:_MOST_FEATURES]
        ]
        page.plot(bar_chart(bars, title=f"rise of {evaluation.metric}"))
        if len(ranked) > _MOST_FEATURES:
            page.paragraph(f"And {len(ranked) - _MOST_FEATURES} more, each below the last.")
    if evaluation.importance_kind == "library" or not evaluation.permuted:
        page.paragraph(f"Importance by {evaluation.importance_kind}, on the rows that it was fitted on.")
        shares = sorted(evaluation.importance.items(), key=lambda item: -item[1])[:_MOST_FEATURES]
        page.plot(bar_chart([Bar(label=name, value=value) for name, value in shares], title="importance"))
    if evaluation.influences or evaluation.no_influences:
        _contributions(page, evaluation)


def _contributions(page: Document, evaluation: Evaluation) -> None:
    page.heading("What moves its answers", 3)
    if not evaluation.influences:
        page.paragraph(f"No SHAP values: {evaluation.no_influences}")
        return
    page.paragraph(
        "SHAP values on these rows: what each feature adds to the raw score (log odds of a class, the number, the log "
        "of a count; of several classes each has its own) against an average row; a calibration comes after it. Of "
        "features that tell the same, the share of each says little. They tell what the model does, not what causes "
        "what."
    )
    lines = [Swarm(label=one.name, points=one.points) for one in evaluation.influences if one.points]
    title = "Contributions to the raw score"
    if lines:
        page.plot(swarm_chart(lines, title=title, x_label="contribution", shades="value of the feature"))
    page.table(influence_table(evaluation, most=_MOST_FEATURES))


def _backtest(page: Document, evaluation: Evaluation) -> None:
    page.heading("Walking forward before these rows")
    page.paragraph(
        f"{evaluation.metric} of the same recipe on each fold, fitted on what was known when the fold began. The "
        "spread of the folds says how much a single window, like that of the figures above, can mislead."
    )
    bars = [
        Bar(
            label=f"{format_time(one.start_us)[:10]} to {format_time(one.end_us)[:10]}",
            value=one.value,
            low=None if one.interval is None else one.interval.low,
            high=None if one.interval is None else one.interval.high,
        )
        for one in evaluation.folds
        if one.value is not None
    ]
    if bars:
        page.plot(bar_chart(bars, title=f"{evaluation.metric} by fold"))
    page.table(fold_table(evaluation))


def _learnt_from(page: Document, evaluation: Evaluation) -> None:
    page.heading("What it learnt from")
    if evaluation.balance:
        page.table(balance_table(evaluation))
    page.heading("Leaks", 3)
    for line in leak_lines(evaluation):
        page.note(line)
    if not evaluation.leaks:
        page.paragraph(
            "None found: no feature foretells the label too well alone, no column of the request holds what came "
            "later, labels are not known before their time, and no row stands on both sides of the split."
        )


def _learning(page: Document, evaluation: Evaluation) -> None:
    page.heading("Would more history help")
    page.paragraph(
        f"{evaluation.metric} on these rows of the same recipe fitted on the newest rows only; the last is the model."
    )
    bars = [
        Bar(
            label=f"{one.rows:,} rows, since {format_time(one.since_us)[:10]}",
            value=one.value,
            low=None if one.interval is None else one.interval.low,
            high=None if one.interval is None else one.interval.high,
        )
        for one in evaluation.learning_curve
        if one.value is not None
    ]
    page.plot(bar_chart(bars, title=f"{evaluation.metric} by rows to learn from"))
    if failed := [f"{one.rows:,}" for one in evaluation.learning_curve if one.value is None]:
        page.paragraph(f"Too few to be fitted: {', '.join(failed)} rows.")
