"""An evaluation in words and tables: the parts that its page and the terminal share."""

from __future__ import annotations

from collections.abc import Iterable

from trimtab.core.time import format_moment
from trimtab.report import Align, Cell, Table, text_table
from trimtab.stats.figures import Figure
from trimtab.stats.interval import Interval
from trimtab.stats.thresholds import ThresholdCost
from trimtab.training.evaluation import Evaluation
from trimtab.training.importance import Permuted
from trimtab.training.parts import Month, Slice, Week

_UNBROKEN = "\u00a0"  # a space that a page breaks no line at
_HIGHER = "\u00a0\u25b2"
_BETTER = {"lower": "lower is better", "higher": "higher is better"}


def evaluation_text(evaluation: Evaluation, *, most: int = 8) -> str:
    """A summary for a terminal.

    Args:
        evaluation: What to tell about.
        most: Lines of the longer tables.
    """
    window = f"{format_moment(evaluation.start_us)[:10]} to {format_moment(evaluation.end_us)[:10]}"
    parts = [f"{evaluation.model}: {evaluation.rows:,} labelled rows it had not seen, {window}{_left(evaluation)}"]
    parts.append(_plain(figure_table(evaluation)))
    names = [(name, value) for name, value in evaluation.baselines.items()]
    parts.append(text_table((f"{evaluation.metric} of", ""), [(evaluation.model, evaluation.value), *names]))
    if higher := higher_slices(evaluation):
        said = "; ".join(f"{one.column} = {one.holds}" for one in higher)
        parts.append(f"{evaluation.metric} is higher than of the whole, beyond chance: {said}.")
    if evaluation.permuted:
        ranked = ranked_features(evaluation)[:most]
        parts.append(
            text_table(
                ("shuffled feature", f"rise of {evaluation.metric}", "spread"),
                [(one.name, f"{one.rise:.4f}", f"{one.spread:.4f}") for one in ranked],
            )
        )
    if evaluation.thresholds is not None:
        best, half = evaluation.thresholds.best, evaluation.thresholds.half
        parts.append(f"Least cost a row: {best.cost:.4f} from {best.threshold:.4g} on; {half.cost:.4f} from 0.5 on.")
    return "\n\n".join(parts)


def figure_table(evaluation: Evaluation) -> Table:
    """Every figure with its interval."""
    figures = evaluation.figures or (
        Figure(name=evaluation.metric, value=evaluation.value, interval=evaluation.interval, better="lower"),
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
    return (evaluation.metric, "interval", *area, "mean score", "mean label")


def _part(evaluation: Evaluation, one: Month | Week | Slice) -> tuple[str, ...]:
    area = (shown(one.auc),) if evaluation.calibration else ()
    return (shown(one.value), interval_shown(one.interval), *area, shown(one.mean_score), shown(one.mean_label))


def _rights(columns: int) -> tuple[Align, ...]:
    side: Align = "right"
    return (side,) * columns


def _direction(figure: Figure) -> str:
    return _BETTER.get(figure.better, f"best at {figure.goal:g}" if figure.goal is not None else "")


def _left(evaluation: Evaluation) -> str:
    if not evaluation.left_out:
        return ""
    return " (left out: " + ", ".join(f"{count:,} {why}" for why, count in evaluation.left_out.items()) + ")"


def _plain(table: Table) -> str:
    return text_table(table.headers, table.rows, table.align)
