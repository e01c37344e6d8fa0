"""The comparison of two versions as a document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from trimtab.core.shown import format_bytes
from trimtab.core.time import format_time
from trimtab.registry.describing.compare import Comparison, Mean, Pair, PredictionComparison, Value
from trimtab.report import Bar, Document, Table, bar_chart
from trimtab.stats.interval import Interval

_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


def comparison_document(comparison: Comparison) -> Document:
    """Return a document of the differences between two versions. As a web page, it also shows equal values."""
    out = Document(f"{comparison.one} and {comparison.other}", "Differences between two versions, from their records")
    out.heading("The versions")
    out.table(_pair_table(comparison, comparison.about))
    _section(out, "Predictions for the same rows", *_predictions(comparison))
    if comparison.predictions is not None:
        _bars(out, comparison, comparison.predictions)
    _section(out, "Metrics of the stored evaluations", *_metrics(comparison))
    _section(out, "Features", *_features(comparison))
    _section(out, "Data", *_differing(comparison, comparison.data))
    _section(out, "Recipe", *_differing(comparison, comparison.recipe))
    if comparison.parameters is None:
        _section(
            out,
            "Parameters",
            None,
            [
                "Not known for at least one version: its file format does not store parameters, or its library is not "
                "installed, or the library cannot read them."
            ],
        )
    else:
        _section(out, "Parameters", *_differing(comparison, comparison.parameters))
    _section(out, "Environment", *_differing(comparison, comparison.environment))
    out.heading("All values", detail=True)
    everything = (
        ("Data", comparison.data),
        ("Recipe", comparison.recipe),
        ("Parameters", comparison.parameters or ()),
        ("Environment", comparison.environment),
    )
    for title, pairs in everything:
        if pairs:
            out.heading(title, 3)
            out.table(_pair_table(comparison, pairs))
    return out


def _section(out: Document, title: str, table: Table | None, sentences: Iterable[str]) -> None:
    out.heading(title)
    for sentence in sentences:
        out.paragraph(sentence)
    if table is not None:
        out.table(table)


def _predictions(comparison: Comparison) -> tuple[Table | None, list[str]]:
    found = comparison.predictions
    if found is None:
        return None, [comparison.not_scored or "The versions were not scored on the same rows."]
    start, end = format_time(found.start_us)[:10], format_time(found.end_us)[:10]
    sentences = [
        f"{found.rows:,} labelled rows, {start} to {end}, scored by each version with its own features, as of the "
        "time of each row.",
        f"{found.metric} of {comparison.one} {_with_interval(found.one)}, of {comparison.other} "
        f"{_with_interval(found.other)}.",
        f"Difference {_with_interval(found.difference, '+.4f')}: {_verdict(comparison, found)}",
        f"{found.moved:.1%} of predictions differ by more than {found.moved_by:.4g}; the mean difference is "
        f"{found.mean_moved:.4g}, the largest {found.most_moved:.4g}.",
        *_seen(comparison, found),
    ]
    if not found.most:
        return None, sentences
    of = ("class",) if any(row.of for row in found.most) else ()
    headers = ("row", "time", comparison.one, comparison.other, "label", *of)
    rows = tuple(
        (row.key, format_time(row.at_us)[:16], row.one, row.other, row.label, *((row.of,) if of else ()))
        for row in found.most
    )
    return Table(headers=headers, rows=rows, caption="The rows that differ most"), sentences


def _verdict(comparison: Comparison, found: PredictionComparison) -> str:
    interval = found.difference.interval
    if interval is not None and interval.high < 0.0:
        return f"{comparison.other} is significantly better on these rows."
    if interval is not None and interval.low > 0.0:
        return f"{comparison.one} is significantly better on these rows."
    return "these rows show no significant difference."


def _seen(comparison: Comparison, found: PredictionComparison) -> Iterator[str]:
    for name, seen in ((comparison.one, found.seen_one), (comparison.other, found.seen_other)):
        if seen:
            yield (
                f"{name} may have been fitted on {seen:,} of these rows, which makes its metrics look better. So "
                "this comparison cannot replace a gate."
            )


def _metrics(comparison: Comparison) -> tuple[Table | None, list[str]]:
    sides = tuple(zip((comparison.one, comparison.other), comparison.metrics_on, strict=True))
    sentences = [f"{name}: {on or 'the version was not evaluated'}." for name, on in sides]
    if all(comparison.metrics_on) and not comparison.same_rows:
        sentences.append("Each version was evaluated on its own rows, so a version with easier rows looks better.")
    if not comparison.metrics:
        return None, sentences
    headers = ("metric", comparison.one, "95 % interval", comparison.other, "95 % interval", "better if")
    rows = tuple(
        (
            one.name.replace("_", " "),
            *_side(one.one, one.one_interval),
            *_side(one.other, one.other_interval),
            one.better if one.better != "near" else f"nearer {'0' if one.name == 'bias' else 'the quantile'}",
        )
        for one in comparison.metrics
    )
    return Table(headers=headers, rows=rows, align=("left", "right", "right", "right", "right", "left")), sentences


def _features(comparison: Comparison) -> tuple[Table | None, list[str]]:
    sentences = [f"{comparison.same_features:,} features have the same definition in both versions."]
    if not comparison.features:
        return None, sentences
    rows = tuple((f"{_SIGNS[change.what]} {change.what}", change.name, change.words) for change in comparison.features)
    return Table(headers=("", "feature", "how"), rows=rows), sentences


def _differing(comparison: Comparison, pairs: Iterable[Pair]) -> tuple[Table | None, list[str]]:
    pairs = tuple(pairs)
    differ = [pair for pair in pairs if not pair.same]
    if not differ:
        return None, [f"All {len(pairs)} values are the same."]
    return _pair_table(comparison, differ), [f"{len(pairs) - len(differ)} of {len(pairs)} values are the same."]


def _pair_table(comparison: Comparison, pairs: Sequence[Pair]) -> Table:
    return Table(
        headers=("", comparison.one, comparison.other),
        rows=tuple((pair.what, _cell(pair, pair.one), _cell(pair, pair.other)) for pair in pairs),
        align=("left", "left", "left"),
    )


def _cell(pair: Pair, value: Value) -> Value:
    return format_bytes(value) if pair.what == "size" and isinstance(value, int) else value


def _bars(out: Document, comparison: Comparison, found: PredictionComparison) -> None:
    sides = ((comparison.one, found.one), (comparison.other, found.other))
    bars = [
        Bar(label=name, value=side.value)
        if side.interval is None
        else Bar(label=name, value=side.value, low=side.interval.low, high=side.interval.high)
        for name, side in sides
    ]
    out.plot(bar_chart(bars, title=f"{found.metric} on the same rows"))


def _with_interval(mean: Mean, form: str = ".4f") -> str:
    if mean.interval is None:
        return f"{mean.value:{form}} (no interval: the rows are of one day)"
    return f"{mean.value:{form}} ({mean.interval.low:{form}} to {mean.interval.high:{form}})"


def _side(value: float | None, interval: Interval | None) -> tuple[str, str]:
    """Return a metric and its interval as two texts."""
    ends = "–" if interval is None else f"{interval.low:,.4f} to {interval.high:,.4f}"
    return "–" if value is None else f"{value:,.4f}", ends
