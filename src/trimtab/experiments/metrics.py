"""Declare the metrics of experiments in a project file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args

from trimtab.core.errors import Misuse
from trimtab.core.shown import shown
from trimtab.core.time import duration_us
from trimtab.events.definitions import Source, check_name
from trimtab.experiments.definitions import NEGLIGIBLE, Metric, MetricKind, Role, Value
from trimtab.features.aggregates import Aggregate, check_aggregate

_COVARIATES = ("mean", "proportion")  # the kinds of metrics that can have a covariate
_CAPPED = ("mean", "ratio")


def metric(
    name: str,
    *,
    source: Source | None = None,
    by: str | Sequence[str] = (),
    value: Aggregate | None = None,
    denominator: Aggregate | None = None,
    prediction: Value | None = None,
    kind: MetricKind | None = None,
    within: str | int = "7d",
    before: str | int | None = None,
    quantile: float | None = None,
    cap: float | None = None,
    role: Role = "secondary",
    better: str | None = None,
    margin: float = 0.0,
    negligible: float = NEGLIGIBLE,
) -> Metric:
    """Declare a metric of an experiment: a number for each unit, from its events or predictions after its exposure.

    Args:
        name: Lower-case name, unique in the experiment.
        source: The source of the events.
        by: The source's columns that identify the unit, in the order of the experiment's `unit`.
        value: The aggregate of a unit's events, without a window: `tt.sum("amount")`.
        denominator: Makes the metric a ratio: the sum of `value` over all units divided by the sum of this.
        prediction: Instead of events: "loss" or "label", the mean over a unit's predictions that have a label; or
            "score", the mean over all of them. It needs an experiment over versions or deployments.
        kind: "mean" (the default); "proportion": the share of units whose value is present and not 0; "ratio";
            "quantile"; "time_to_event": the time to the first event that `value=tt.count(where=...)` counts.
        within: How long after the first exposure events count. A unit's value is known after this time.
        before: For a smaller error (CUPED): the same aggregate over this long before the exposure. Only for means and
            proportions.
        quantile: Makes the metric a quantile over the units, such as 0.9.
        cap: A unit's value counts at most this much (winsorising). For means, and for the numerators of ratios. The
            denominator of a ratio is not cut.
        role: "primary": the decision depends on it; "guardrail": it may not become worse than by `margin`; or
            "secondary".
        better: "higher" or "lower". By default "lower" for losses and times, and otherwise "higher". Guardrails of
            anything else need it, because a count of crashes and one of orders look alike.
        margin: For a guardrail: by how much it may be worse, as a share of the control's value.
        negligible: For a guardrail of rare events. While no unit has one, the control's value is 0, so a share of it is
            no margin. Then the guardrail holds once it is sure that at most this share of the units can have one.

    Raises:
        Misuse: The parts do not fit together. The message says what to change.

    >>> from trimtab.events.definitions import source
    >>> from trimtab.features.aggregates import sum
    >>> orders = source("orders", time="at", columns={"customer_id": str, "amount": float})
    >>> metric("revenue", source=orders, by="customer_id", value=sum("amount"), cap=500.0, role="primary").kind
    'mean'
    """
    check_name(name, "metric")
    what = f"metric {name!r}"
    implied: MetricKind | None = "ratio" if denominator is not None else "quantile" if quantile is not None else None
    found: MetricKind = kind or implied or "mean"
    low = prediction == "loss" or found == "time_to_event"
    within_us, before_us = duration_us(within), 0 if before is None else duration_us(before)
    columns = (by,) if isinstance(by, str) else tuple(by)
    refuse(
        what,
        (kind is not None and kind not in get_args(MetricKind), f"kind={kind!r}. Give one of {listed(MetricKind)}."),
        (implied is not None and found != implied, f"kind={kind!r}, but this is a {implied}. Leave kind out."),
        (found == "ratio" and denominator is None, "a ratio needs denominator=, the aggregate to divide by."),
        (found == "quantile" and quantile is None, "a quantile needs quantile=, such as 0.9."),
        (role not in get_args(Role), f"role={role!r}. Give one of {listed(Role)}."),
        (better not in (None, "higher", "lower"), f'better={better!r}. Give "higher" or "lower".'),
        (prediction not in (None, *get_args(Value)), f"prediction={prediction!r}. Give one of {listed(Value)}."),
        ((source is None) == (prediction is None), "give either source=, by= and value=, or prediction=."),
        (source is None and (value or denominator or columns), "value=, denominator= and by= need source=."),
        (source is None and found not in ("mean", "quantile"), f"prediction= gives no {found}. Leave kind out."),
        (source is not None and value is None, 'value= is missing. Give an aggregate, such as tt.sum("amount").'),
        (source is not None and not columns, "by= is missing. Name the source's columns that identify the unit."),
        (within_us == 0, 'within=0 leaves no time for an event. Give a duration such as "7d".'),
        (before is not None and before_us == 0, 'before=0 is an empty window. Give a duration such as "28d".'),
        (
            before_us > 0 and (found not in _COVARIATES or source is None),
            "before= is for means and proportions of events. Leave before out.",
        ),
        (quantile is not None and not 0 < quantile < 1, f"quantile={quantile}. Give a number between 0 and 1."),
        (cap is not None and not _is_cap(cap), f"cap={shown(cap)[:100]}. Give a finite number above 0."),
        (cap is not None and found not in _CAPPED, f"cap= is for means and ratios; this is a {found}. Leave cap out."),
        (not 0 <= margin < 1, f"margin={margin}. Give a share from 0 to 1, such as 0.02 for 2 %."),
        (role == "guardrail" and margin == 0, "a guardrail needs margin=, such as 0.02 for 2 % worse."),
        (not 0 < negligible < 1, f"negligible={negligible}. Give a share above 0 and below 1, such as 0.001."),
        (
            negligible != NEGLIGIBLE and (role != "guardrail" or found == "quantile"),
            f"negligible= is for guardrails other than quantiles, not a {role} {found}. Leave it out.",
        ),
        (role != "guardrail" and margin > 0, f"margin= is for guardrails; this metric is {role}. Leave margin out."),
        (
            role == "guardrail" and better is None and not low,
            'a guardrail needs better=, because a count of crashes and one of orders look alike. Give "higher" or '
            '"lower".',
        ),
    )  # fmt: skip
    if source is not None:
        _check_aggregates(what, source, columns, value, denominator, found)
    return Metric(
        name=name,
        kind=found,
        source=source,
        by=columns,
        value=value,
        denominator=denominator,
        prediction=prediction,
        within_us=within_us,
        before_us=before_us,
        quantile=0.5 if quantile is None else float(quantile),
        cap=None if cap is None else float(cap),
        role=role,
        better="lower" if better == "lower" or (better is None and low) else "higher",
        margin=float(margin),
        negligible=float(negligible),
    )


def _is_cap(cap: Any) -> bool:
    return isinstance(cap, int | float) and 0 < cap < math.inf


def _check_aggregates(
    what: str, source: Source, by: Sequence[str], value: Any, denominator: Any, kind: MetricKind
) -> None:
    if not isinstance(source, Source):
        raise Misuse(f"{what}: source={shown(source)[:100]} is no source. Make one with tt.source().")
    for column in by:
        if source.columns.get(column) not in ("str", "int"):
            found = source.columns.get(column, f"not one of {', '.join(source.columns)}")
            raise Misuse(
                f"{what}: by={column!r} must be a column of {source.name!r} of type str or int; it is {found}."
            )
    for part, one in (("value", value), ("denominator", denominator)):
        if one is None and part == "denominator":
            continue
        if isinstance(one, Aggregate) and (one.window_us is not None or one.until_us):
            raise Misuse(f"{what}: {part}= has a window of its own. Leave over, until and max_age out; give within=.")
        check_aggregate(f"{what}, {part}", one, source)
        if one.dtype(source.columns) not in ("int", "float", "bool"):
            raise Misuse(f"{what}: {part}= is a {one.dtype(source.columns)}. Give an aggregate that is a number.")
    if kind == "time_to_event" and value.kind != "count":
        raise Misuse(f"{what}: a time to an event needs value=tt.count(where=...), which says which events are meant.")


def refuse(what: str, *rules: tuple[Any, str]) -> None:
    """Raise Misuse with the text of the first rule that is broken."""
    for is_wrong, why in rules:
        if is_wrong:
            raise Misuse(f"{what}: {why}")


def listed(choices: Any) -> str:
    """Return the values of a `Literal` as text."""
    return ", ".join(map(repr, get_args(choices)))
