"""An evaluation in words and tables: the parts that its page and the terminal share."""

from __future__ import annotations

from collections.abc import Iterable

from trimtab.core.time import format_time
from trimtab.report import Align, Cell, Table, text_table
from trimtab.stats.interval import Interval
from trimtab.stats.metrics.metrics import MetricValue
from trimtab.stats.metrics.thresholds import ThresholdCost
from trimtab.training.judge.evaluation import Evaluation
from trimtab.training.judge.importance import Permuted
from trimtab.training.judge.influence import ClassInfluence, Influence
from trimtab.training.judge.parts import Month, Slice, Week

_UNBROKEN = "\u00a0"  # a space that a page breaks no line at
_HIGHER = "\u00a0\u25b2"
_BETTER = {"lower": "lower is better", "higher": "higher is better"}


def evaluation_text(evaluation: Evaluation, *, most: int = 8) -> str:
    """A summary for a terminal.

    Args:
        evaluation: What to tell about.
        most: Lines of the longer tables.
    """
    window = f"{format_time(evaluation.start_us)[:10]} to {format_time(evaluation.end_us)[:10]}"
    parts = [f"{evaluation.model}: {evaluation.rows:,} labelled rows it had not seen, {window}{_left(evaluation)}"]
    parts.append(_plain(figure_table(evaluation)))
    names = [(name, shown(value)) for name, value in evaluation.baselines.items()]
    parts.append(
        text_table(
            (f"{evaluation.metric} of", ""), [(evaluation.model, shown(evaluation.value)), *names], ("left", "right")
        )
    )
    if higher := higher_slices(evaluation):
        said = "; ".join(f"{one.column} = {one.holds}" for one in higher)
        parts.append(f"{evaluation.metric} is higher than of the whole, beyond chance: {said}.")
    if evaluation.classes:
        parts += [_plain(class_table(evaluation)), _plain(confusion_table(evaluation))]
    if evaluation.balance:
        parts.append(_plain(balance_table(evaluation)))
    parts += leak_lines(evaluation)
    if evaluation.permuted:
        parts.append(
            text_table(
                ("shuffled feature", f"rise of {evaluation.metric}", "spread"),
                [(one.name, f"{one.rise:.4f}", f"{one.spread:.4f}") for one in ranked_features(evaluation)[:most]],
            )
            + _more(len(evaluation.permuted) - most)
        )
    if evaluation.influences:
        parts.append(_plain(influence_table(evaluation, most=most)) + _more(len(evaluation.influences) - most))
    if evaluation.folds:
        parts.append(_plain(fold_table(evaluation)))
    if evaluation.choices is not None:
        parts.append(_plain(choice_table(evaluation)))
    if evaluation.thresholds is not None:
        best, half = evaluation.thresholds.best, evaluation.thresholds.half
        parts.append(f"Least cost a row: {best.cost:.4f} from {best.threshold:.4g} on; {half.cost:.4f} from 0.5 on.")
    return "\n\n".join(parts)


def figure_table(evaluation: Evaluation) -> Table:
    """Every figure with its interval."""
    figures = evaluation.figures or (
        MetricValue(name=evaluation.metric, value=evaluation.value, interval=evaluation.interval, better="lower"),
    )
    return Table(
        headers=("figure", "value", "95 % interval", ""),
        rows=tuple(
            (f.name.replace("_", " "), shown(f.value), interval_shown(f.interval), _direction(f)) for f in figures
        ),
        align=("left", "right", "right", "left"),
    )


def period_table(evaluation: Evaluation, periods: Iterable[Month | Week], name: str) -> Table:
    """Months or weeks."""
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (one.month if isinstance(one, Month) else one.week, one.rows, *_part(evaluation, one)) for one in periods
    )
    headers = (name, "rows", *_part_headers(evaluation))
    return Table(headers=headers, rows=rows, align=("left", *_rights(len(headers) - 1)))


def fold_table(evaluation: Evaluation) -> Table:
    """The walk forward: how the recipe did on what came before the holdout, fold by fold."""
    area = ("AUC",) if evaluation.calibration else ()
    headers = ("fold from", "fitted on", "rows", evaluation.metric, "interval", *area)
    rows: list[tuple[Cell, ...]] = [
        (
            format_time(one.start_us)[:10],
            f"{one.fitted_rows:,}",
            f"{one.rows:,}",
            shown(one.value),
            interval_shown(one.interval),
            *((shown(one.auc),) if area else ()),
        )
        for one in evaluation.folds
    ]
    return Table(headers=headers, rows=tuple(rows), align=("left", *_rights(len(headers) - 1)))


def influence_table(evaluation: Evaluation, *, most: int | None = None) -> Table:
    """How much each feature moves the raw score, and which way as it grows; of several classes that of each."""
    classes = evaluation.influences[0].classes if evaluation.influences else ()
    if classes:
        right: Align = "right"
        return Table(
            headers=("feature", "mean contribution", *(one.name for one in classes)),
            rows=tuple(
                (one.name, f"{one.mean:.4f}", *(f"{of.mean:.4f} {_direction_of(of)}" for of in one.classes))
                for one in evaluation.influences[:most]
            ),
            align=("left", *[right for _ in range(len(classes) + 1)]),
        )
    return Table(
        headers=("feature", "mean contribution", "as it grows"),
        rows=tuple((one.name, f"{one.mean:.4f}", _direction_of(one)) for one in evaluation.influences[:most]),
        align=("left", "right", "left"),
    )


def _direction_of(one: Influence | ClassInfluence) -> str:
    if one.direction is None:
        return "no order"
    way = "up" if one.direction > 0 else "down"
    return f"{way} ({one.direction:+.2f})" if abs(one.direction) >= 0.1 else f"either way ({one.direction:+.2f})"


def slice_table(evaluation: Evaluation) -> Table:
    """The slices, column by column; a mark where the metric is higher than of the whole, beyond chance."""
    higher = higher_slices(evaluation)
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            one.column,
            one.holds.replace(" ", _UNBROKEN) + (_HIGHER if one in higher else ""),
            one.rows,
            *_part(evaluation, one),
        )
        for one in evaluation.slices
    )
    headers = ("column", "holds", "rows", *_part_headers(evaluation))
    return Table(headers=headers, rows=rows, align=("left", "left", *_rights(len(headers) - 2)))


def threshold_table(evaluation: Evaluation) -> Table:
    """What answering costs, by where yes begins."""
    found = evaluation.thresholds
    assert found is not None  # asked for only where there are costs
    span = "" if found.best_interval is None else f" ({interval_shown(found.best_interval)})"
    lines: list[tuple[str, ThresholdCost]] = [
        (f"least cost on these rows{span}", found.best),
        ("best for calibrated scores", found.fair),
        ("one half", found.half),
    ]
    return Table(
        headers=("threshold", "yes from", "cost a row", "interval"),
        rows=(
            *((name, shown(at.threshold), shown(at.cost), interval_shown(at.interval)) for name, at in lines),
            ("always yes", "", shown(found.always), ""),
            ("never yes", "", shown(found.never), ""),
        ),
        align=("left", "right", "right", "right"),
    )


def choice_table(evaluation: Evaluation) -> Table:
    """What three ways to answer cost, and what they answer."""
    found = evaluation.choices
    assert found is not None  # asked for only where there are costs
    names = [one.name for one in evaluation.classes]
    ways = [
        ("the likeliest class", found.likeliest),
        ("the class of least expected cost", found.cheapest),
        (f"always {names[found.constant.answered.index(found.rows)]}", found.constant),
    ]
    right: Align = "right"
    return Table(
        headers=("answering", "cost a row", "interval", *names),
        rows=tuple(
            (way, shown(one.cost), interval_shown(one.interval), *(f"{count:,}" for count in one.answered))
            for way, one in ways
        ),
        align=("left", *[right for _ in range(len(names) + 2)]),
    )


def class_table(evaluation: Evaluation) -> Table:
    """Each class against all others."""
    return Table(
        headers=("class", "rows", "AUC", "interval", "precision", "recall", "mean score", "share"),
        rows=tuple(
            (
                one.name,
                f"{one.rows:,}",
                shown(one.auc),
                interval_shown(one.auc_interval),
                shown(one.precision),
                shown(one.recall),
                shown(one.mean_score),
                shown(one.share),
            )
            for one in evaluation.classes
        ),
        align=("left", *_rights(7)),
    )


def confusion_table(evaluation: Evaluation) -> Table:
    """Rows by label, and what was the likeliest class."""
    names = [one.name for one in evaluation.classes]
    return Table(
        headers=("label, answered as", *names),
        rows=tuple(
            (name, *(f"{count:,}" for count in row)) for name, row in zip(names, evaluation.confusion, strict=True)
        ),
        align=("left", *_rights(len(names))),
    )


def balance_table(evaluation: Evaluation) -> Table:
    """The classes that were learnt from and judged."""
    learnt, judged = (sum(getattr(one, of) for one in evaluation.balance) or 1 for of in ("kept", "holdout"))
    return Table(
        headers=("label", "rows to learn from", "fitted on", "share", "weight", "rows judged", "share"),
        rows=tuple(
            (
                one.name or f"{one.label:g}",
                f"{one.rows:,}",
                f"{one.kept:,}",
                f"{one.kept / learnt:.1%}",
                f"{one.weight:.1%}",
                f"{one.holdout:,}",
                f"{one.holdout / judged:.1%}",
            )
            for one in evaluation.balance
        ),
        align=("left", *_rights(6)),
    )


def leak_lines(evaluation: Evaluation) -> list[str]:
    """A sentence or two for each leak; those that the model allows say so."""
    return [
        f"{'Allowed' if leak.allowed else 'Leak' if leak.severity == 'error' else 'Note'} ({leak.check}): {leak.found}"
        + ("" if leak.allowed else f" {leak.todo}")
        for leak in evaluation.leaks or ()
    ]


def ranked_features(evaluation: Evaluation) -> list[Permuted]:
    """What was shuffled, views among features, what matters most first."""
    return sorted(evaluation.permuted, key=lambda one: -one.rise)


def higher_slices(evaluation: Evaluation) -> list[Slice]:
    """Slices whose whole interval lies above the value of all rows."""
    return [one for one in evaluation.slices if one.interval is not None and one.interval.above(evaluation.value)]


def shown(value: float | None) -> str:
    """A figure to four places, a dash for none."""
    return "–" if value is None else f"{value:,.4f}" if abs(value) < 1e4 else f"{value:,.0f}"


def interval_shown(interval: Interval | None) -> str:
    """Both ends, a dash for none."""
    return "–" if interval is None else f"{shown(interval.low)} to {shown(interval.high)}"


def _part_headers(evaluation: Evaluation) -> tuple[str, ...]:
    area = ("AUC",) if evaluation.calibration else ()  # of chances only
    means = () if evaluation.block == "list" else ("mean score", "mean label")  # scores of a ranking have no scale
    return (evaluation.metric, "interval", *area, *means)


def _part(evaluation: Evaluation, one: Month | Week | Slice) -> tuple[str, ...]:
    area = (shown(one.auc),) if evaluation.calibration else ()
    means = () if evaluation.block == "list" else (shown(one.mean_score), shown(one.mean_label))
    return (shown(one.value), interval_shown(one.interval), *area, *means)


def _rights(columns: int) -> tuple[Align, ...]:
    side: Align = "right"
    return (side,) * columns


def _direction(figure: MetricValue) -> str:
    return _BETTER.get(figure.better, f"best at {figure.goal:g}" if figure.goal is not None else "")


def _left(evaluation: Evaluation) -> str:
    if not evaluation.left_out:
        return ""
    return " (left out: " + ", ".join(f"{count:,} {why}" for why, count in evaluation.left_out.items()) + ")"


def _more(left: int) -> str:
    return f"\n(and {left:,} more)" if left > 0 else ""


def _plain(table: Table) -> str:
    return text_table(table.headers, table.rows, table.align)
