"""Declare experiments in a project file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from itertools import pairwise
from typing import Any, get_args

import msgspec

from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse
from trimtab.core.expressions.nodes import Expression
from trimtab.core.shown import shown
from trimtab.core.time import DAY_US, duration_us, format_duration, parse_time_us
from trimtab.events.definitions import check_name, declared_columns
from trimtab.experiments.assignment import BUCKETS, joined, plain
from trimtab.experiments.definitions import Crossovers, Experiment, Metric, Rule, Switchback
from trimtab.experiments.eligibility import eligibility_features, eligibility_joins
from trimtab.experiments.metrics import listed, refuse
from trimtab.features.definitions import Join, View
from trimtab.training.definitions import Model

_collected: ContextVar[list[Experiment] | None] = ContextVar("collected_experiments", default=None)
_PLANNED = ("fixed", "obrien_fleming")
_MOST_LOOKS = 50
_MOST_VARIANTS = 100
_MOST_VERSIONS = 5


def collect_experiments(into: list[Experiment] | None) -> None:
    """While a project file is read, let `experiment()` add each experiment to `into`. None ends this."""
    _collected.set(into)


def switchback(*, every: str | int, gap: str | int = 0, by: str | Sequence[str] = ()) -> Switchback:
    """Declare blocks of time in which all requests of a region get the same variant.

    Args:
        every: The length of a block, such as "1h". Blocks begin at multiples of it since 1970, in UTC.
        gap: Requests this soon after the start of a block do not count, because the previous block may affect them.
        by: The columns that identify a region. By default, all requests are one region.

    Raises:
        Misuse: The block is empty, within the gap, or longer than a day but not a whole number of days.

    >>> switchback(every="2h", gap="20min", by="city").by
    ('city',)
    """
    every_us, gap_us = duration_us(every), duration_us(gap)
    if not gap_us < every_us:
        raise Misuse(f"switchback: gap={gap!r} leaves nothing of blocks of every={every!r}. Give a longer block.")
    if every_us > DAY_US and every_us % DAY_US:
        raise Misuse(
            f"switchback: blocks of every={every!r} end within a day. Sums are stored by day, and only whole blocks "
            "are evidence, so give a day or less, or whole days."
        )
    return Switchback(every_us=every_us, gap_us=gap_us, by=(by,) if isinstance(by, str) else tuple(by))


def experiment(
    name: str,
    *,
    variants: Mapping[str, Any],
    unit: str | Sequence[str] = (),
    model: Model | None = None,
    weights: Mapping[str, float] | None = None,
    share: float = 1.0,
    ramp: Mapping[str, float] | None = None,
    layer: str = "",
    where: Expression | None = None,
    attributes: Mapping[str, type] | None = None,
    features: Sequence[View | Join] = (),
    overrides: Mapping[str | int | tuple[str | int, ...], str] | None = None,
    switchback: Switchback | None = None,
    crossovers: Crossovers = "first",
    metrics: Sequence[Metric] = (),
    slices: Sequence[str] = (),
    strata: str = "",
    rule: Rule = "sequence",
    level: float = 0.95,
    two_sided: bool = True,
    duration: str | int | None = None,
    looks: int = 1,
    owner: str | None = None,
) -> Experiment:
    """Declare an experiment. Nothing happens until it is started.

    Args:
        name: Lower-case name, unique in the project.
        variants: By name, the value of each variant: any JSON value. The first is the control. With `model`, references
            to two to five versions, such as {"control": "champion", "new": "late_flight@7"}. Or two to five deployments
            of models with the same request, made with `deployment()`: the endpoint of the first splits its requests.
        unit: The columns that identify the unit that is assigned, such as "customer_id". With `model`, the default is
            the columns that identify the entities of its requests.
        model: The model whose versions are compared. Its endpoint then splits the requests.
        weights: The share of each variant among the participants; by default all are equal.
        share: The share of all units that take part at the start.
        ramp: Larger shares by the time since the start, such as {"1d": 0.2, "3d": 1.0}, or by date, such as
            {"2027-01-04": 1.0}.
        layer: Experiments of one layer have no unit in common. By default, an experiment has a layer of its own.
        where: Only units whose attributes and features fulfil this condition take part.
        attributes: The attributes that `where` and `slices` read, with their types. With `model`, these are columns of
            its request, and need not be declared.
        features: Views whose features `where` and `slices` read as of the assignment: `tt.col("customer.orders_7d")`.
            They are looked up by columns of the unit or by attributes. With `model`, its own views need not be given.
        overrides: By unit, the variant of a tester. Testers are left out of the analysis. A unit of several columns is
            given as a tuple of their values, or as a text: the JSON array of these values.
        switchback: Assign blocks of time and not units; made with `switchback()`.
        crossovers: Units that are exposed to a second variant, for example because the weights changed: "first" counts
            them for their first variant; "exclude" leaves them out if they are exposed to the second before their day
            is closed.
        metrics: What is compared, made with `metric()`. At least one of them is primary.
        slices: Attributes and features with few values. The units of each value are also analysed on their own.
        strata: One of `slices`, such as "country". Differences between countries are subtracted from means and
            proportions (post-stratification), which narrows their intervals.
        rule: How the result is read. "sequence" and "msprt" are valid at any number of looks; "obrien_fleming" plans
            `looks` of them; "fixed" has one look, at the end.
        level: The confidence of the intervals.
        two_sided: Whether a harmful effect is looked for as well. For guardrails, it always is.
        duration: How long units are taken in. Needed for "fixed" and "obrien_fleming".
        looks: For "obrien_fleming": how often the result is read, evenly over the duration.
        owner: Who is responsible.

    Raises:
        Misuse: The parts do not fit together. The message says what to change.

    >>> experiment("checkout", unit="customer_id", variants={"control": "blue", "green": "green"}).control
    'control'
    """
    check_name(name, "experiment")
    what = f"experiment {name!r}"
    deployed = _deployed_models(what, variants, model, metrics)
    model = deployed[0] if deployed else model
    named = dict(zip(variants, (one.name for one in deployed), strict=True)) if deployed else {}
    named = named or _checked_variants(what, variants, model)
    kinds: dict[str, Dtype] = declared_columns(attributes or {}, what)
    columns = (unit,) if isinstance(unit, str) else tuple(unit)
    if model is not None:
        kinds = {**model.request.columns, **kinds}
        columns = columns or tuple(model.about)
    dated = {at: one for at, one in ramp.items() if "-" in str(at)} if isinstance(ramp, Mapping) else {}
    steps = _checked_ramp(what, share, (ramp or {}) if not dated else {})
    dates = _checked_ramp(what, share, dated, parse_time_us)[1:]
    planned = None if duration is None else duration_us(duration)
    evidence_us = max(DAY_US, switchback.every_us) if isinstance(switchback, Switchback) else DAY_US
    refuse(
        what,
        (model is not None and bool(attributes), "with model=, attributes are the request's columns. Leave them out."),
        (not columns, 'unit= is missing. Name the columns that identify the unit, such as unit="customer_id".'),
        (
            not all(isinstance(one, str) and one.strip() for one in columns) or len({*columns}) < len(columns),
            f"unit={shown(unit)[:100]}. Name each of the columns that identify the unit once.",
        ),
        (crossovers not in get_args(Crossovers), f"crossovers={crossovers!r}. Give one of {listed(Crossovers)}."),
        (rule not in get_args(Rule), f"rule={rule!r}. Give one of {listed(Rule)}."),
        (not 0.5 < level < 1, f"level={level}. Give a confidence between 0.5 and 1, such as 0.95."),
        (
            rule in _PLANNED and planned is None,
            f'rule={rule!r} needs duration=, such as "14d". Or leave rule out: the default can be read at any time.',
        ),
        (
            planned is not None and planned < DAY_US,
            f"duration={duration!r} is less than a day (a number without a unit is in microseconds), and results are "
            'read by whole days. Give a duration such as "14d", or leave duration out.',
        ),
        (
            planned is not None and DAY_US <= planned <= evidence_us,
            f"duration={duration!r}: errors are computed from the differences between days, or longer blocks of a "
            'switchback, so after one day nothing could be judged. Give several days, such as "14d".',
        ),
        (
            planned is not None and steps[-1][0] >= planned,
            f"the last step of ramp= comes {format_duration(steps[-1][0])} after the start, which is not before the "
            f"end of duration={duration!r}. Give an earlier step.",
        ),
        (
            bool(dated) and len(dated) < len(ramp or {}),
            f"ramp={dict(ramp or {})} mixes dates with times since the start. Give only one kind.",
        ),
        (rule == "obrien_fleming" and not 2 <= looks <= _MOST_LOOKS, f"looks={looks}. Give 2 to {_MOST_LOOKS}."),
        (
            rule == "obrien_fleming" and planned is not None and looks > planned // evidence_us,
            f"looks={looks} in duration={duration!r}, but there is at most one look a day, or after each longer block "
            "of the switchback. Give fewer looks.",
        ),
        (rule != "obrien_fleming" and looks != 1, f'looks= is for rule="obrien_fleming", not {rule!r}.'),
        (isinstance(slices, str), f"slices={slices!r} is a text. Give a list: slices=[{slices!r}]."),
        (bool(strata) and strata not in slices, f"strata={strata!r} is not one of slices={[*slices]}. Add it there."),
        (owner is not None and not owner.strip(), f'owner={owner!r}. Give a text such as "team shop".'),
        (not isinstance(switchback, Switchback | None), "switchback= is no switchback. Make it with tt.switchback()."),
    )  # fmt: skip
    if layer:
        check_name(layer, "layer")
    read = {*slices} | (where.columns() if isinstance(where, Expression) else set())
    of_model, by = (None if model is None else model.features), {**dict.fromkeys(columns, ""), **kinds}
    joins = eligibility_joins(what, features, of_model, read, by)  # type: ignore[arg-type]  # "": no type yet
    known = {**kinds, **Experiment(name=name, unit=(), variants={}, features=joins).feature_types}
    if where is not None and (not isinstance(where, Expression) or where.dtype(known, f"{what}: where") != "bool"):
        raise Misuse(f'{what}: where={shown(where)[:100]} is no condition. Write one: tt.col("country") == "DE".')
    read |= {column for join in joins for column in join.by}
    regions = switchback.by if switchback is not None else ()
    for column in (*((*columns, *regions) if model is not None else ()), *slices):
        if column not in (kinds if model is not None else known):
            where_to = "a column of the request" if model is not None else 'one of attributes={"country": str}'
            raise Misuse(f"{what}: {column!r} is not {where_to}. Known: {', '.join(kinds) or 'none'}.")
    for column in slices:
        if known[column] in ("float", "time"):
            raise Misuse(
                f"{what}: {column!r} is a {known[column]}, and each of its values would be a slice. Slice by bins, "
                'sent as an attribute or made in a view: tt.latest(tt.col("amount").bucket([10, 50])).'
            )
    for column in (*columns, *regions) if model is not None else ():
        if kinds[column] not in ("str", "int"):
            raise Misuse(f"{what}: {column!r} is a {kinds[column]}. Identify units and regions by texts or integers.")
    made = Experiment(
        name=name,
        unit=columns,
        variants=named,
        model=None if model is None else model.name,
        deployments=bool(deployed),
        weights=_checked_weights(what, named, weights, share=steps[0][1]),
        share=steps[0][1],
        ramp=tuple(steps[1:]),
        ramp_at=tuple(dates),
        layer=layer,
        where=where,
        attributes={column: kind for column, kind in kinds.items() if column in read},
        features=joins,
        overrides=_checked_overrides(what, named, columns, overrides or {}),
        switchback=switchback,
        crossovers=crossovers,
        metrics=_checked_metrics(what, metrics, columns, model, switchback),
        slices=tuple(slices),
        strata=strata,
        rule=rule,
        level=level,
        two_sided=bool(two_sided),
        duration_us=planned,
        looks=looks,
        owner=owner,
    )
    eligibility_features(made)  # raises Misuse if the views do not fit together
    if (collected := _collected.get()) is not None:
        collected.append(made)
    return made


def checked_weights(what: str, variants: Iterable[str], weights: Mapping[str, float]) -> dict[str, float]:
    """Return weights in the order of the variants.

    Raises:
        Misuse: A variant is missing or unknown, a weight is negative, the control's is 0, or they do not add up to 1.
    """
    names = list(variants)
    if not isinstance(weights, Mapping):
        raise Misuse(f"{what}: weights={shown(weights)[:100]}. Give one for each variant, such as {_equal(names)}.")
    if {*weights} != {*names}:
        given = ", ".join(map(str, weights)) or "none"
        raise Misuse(f"{what}: weights of {given}, but the variants are {', '.join(names)}. Give one for each.")
    found = {name: weights[name] for name in names}
    if not all(isinstance(one, int | float) and 0 <= one <= 1 for one in found.values()):
        raise Misuse(f"{what}: weights {found}. Give shares from 0 to 1.")
    if tiny := {name: one for name, one in found.items() if 0 < one < (1 - 1e-9) / BUCKETS}:
        raise Misuse(f"{what}: weights {tiny}. Units are divided into {BUCKETS:,} parts. Give {1 / BUCKETS:g} or more.")
    if found[names[0]] == 0:
        raise Misuse(f"{what}: the control, {names[0]!r}, has the weight 0, so there is nothing to compare with.")
    if not math.isclose(sum(found.values()), 1, abs_tol=1e-9):
        raise Misuse(f"{what}: the weights add up to {sum(found.values()):g}. Give shares that add up to 1.")
    return {name: float(one) for name, one in found.items()}


def _equal(names: Sequence[str]) -> dict[str, float]:
    return dict.fromkeys(names, round(1 / len(names), 4))


def _checked_weights(
    what: str, variants: Mapping[str, Any], weights: Mapping[str, float] | None, *, share: float
) -> tuple[float, ...]:
    equal = dict.fromkeys(variants, 1 / len(variants))
    found = equal if weights is None else checked_weights(what, variants, weights)
    least = min(found.values())
    if min(least, share) * BUCKETS < 1 - 1e-9:
        raise Misuse(
            f"{what}: the smallest weight is {least:g} and share={share:g}. Units are divided into {BUCKETS:,} parts. "
            f"Give each variant a weight, and the experiment a share, of at least {1 / BUCKETS:g}."
        )
    return tuple(found.values())


def _checked_variants(what: str, variants: Any, model: Model | None) -> dict[str, Any]:
    if not isinstance(variants, Mapping) or len(variants) < 2:
        raise Misuse(f'{what}: variants={shown(variants)[:100]}. Give at least two: {{"control": ..., "green": ...}}.')
    if len(variants) > _MOST_VARIANTS:
        raise Misuse(f"{what}: {len(variants)} variants. Give at most {_MOST_VARIANTS}.")
    for name in variants:
        check_name(name, "variant")
    if model is None:
        try:
            found: dict[str, Any] = json.loads(json.dumps(dict(variants), allow_nan=False))
            msgspec.json.encode(found)  # refuses texts that are no valid Unicode
        except (TypeError, ValueError, OverflowError) as error:
            raise Misuse(
                f"{what}: the value of a variant is no JSON value ({error}). Give texts, numbers, lists."
            ) from error
        return found
    if not isinstance(model, Model):
        raise Misuse(f"{what}: model={shown(model)[:100]} is no model. Give what tt.model() returned.")
    if len(variants) > _MOST_VERSIONS:
        raise Misuse(f"{what}: {len(variants)} versions, and all are in memory at once. Give at most {_MOST_VERSIONS}.")
    found = {}
    for name, reference in variants.items():
        if not isinstance(reference, str) or "@" in reference.removeprefix(f"{model.name}@"):
            raise Misuse(f'{what}: variant {name!r} is {shown(reference)[:100]}. Name a version: "{model.name}@7".')
        found[name] = reference if reference.startswith(f"{model.name}@") else f"{model.name}@{reference}"
    first, *others = found.values()
    if first != f"{model.name}@champion" or first in others:
        raise Misuse(
            f'{what}: the control is the version in service. Give "champion" to the first variant, and to no other.'
        )
    if len({*others}) < len(others):
        raise Misuse(f"{what}: variants={dict(variants)} names a version twice. Give each variant its own.")
    return found


def _deployed_models(what: str, variants: Any, model: Model | None, metrics: Sequence[Metric]) -> list[Model]:
    """Return the models of the deployments that are the variants; none if the variants are something else.

    Raises:
        Misuse: The models cannot be compared, because their requests, labels or metrics differ.
    """
    given = [*variants.values()] if isinstance(variants, Mapping) else []
    found = [one.model for one in given if isinstance(getattr(one, "model", None), Model)]
    if not found:
        return []
    first, names = found[0], [one.name for one in found]
    if len(found) < len(given) or model is not None:
        raise Misuse(f"{what}: variants= has deployments. Give only deployments, and leave model out.")
    if not 2 <= len({*names}) == len(names) <= _MOST_VERSIONS:
        raise Misuse(
            f"{what}: variants= has the deployments {', '.join(names)}. Give 2 to {_MOST_VERSIONS} different ones."
        )
    for name in variants:
        check_name(name, "variant")
    judged = any(one.prediction in ("loss", "label") for one in metrics)
    for one in found[1:]:
        if one.request.hash != first.request.hash:
            raise Misuse(
                f"{what}: {one.name!r} takes other requests than {first.name!r}, which passes its requests on to it. "
                "Declare both models with the same request."
            )
        if one.label.classes != first.label.classes or (judged and one.label.hash != first.label.hash):
            raise Misuse(f"{what}: {one.name!r} has another label than {first.name!r}, so the two cannot be compared.")
        if judged and one.metric != first.metric:
            raise Misuse(
                f"{what}: {one.name!r} has metric={one.metric!r}, but {first.name!r} has {first.metric!r}. Use one."
            )
    return found


def _checked_ramp(
    what: str, share: float, ramp: Mapping[str, float], us_of: Callable[[str], int] = duration_us
) -> list[tuple[int, float]]:
    if not isinstance(ramp, Mapping):
        raise Misuse(f'{what}: ramp={shown(ramp)[:100]}. Give shares by the time since the start: {{"1d": 0.5}}.')
    steps = [(0, share), *sorted((us_of(after), one) for after, one in ramp.items())]
    if not all(isinstance(one, int | float) and 0 < one <= 1 for _, one in steps):
        raise Misuse(
            f"{what}: the share of units that take part is {[one for _, one in steps]}. Give more than 0, at most 1."
        )
    for (earlier_us, less), (later_us, more) in pairwise(steps):
        if not (earlier_us < later_us and less < more):
            raise Misuse(f"{what}: ramp={dict(ramp)} after share={share:g}. Give later times with larger shares.")
    return [(after_us, float(one)) for after_us, one in steps]


def _checked_overrides(
    what: str, variants: Mapping[str, Any], unit: Sequence[str], overrides: Mapping[Any, str]
) -> dict[str, str]:
    """Return the overrides by the text of each unit, as `Assigner` looks for it."""
    found: dict[str, str] = {}
    for key, variant in overrides.items():
        if variant not in variants:
            raise Misuse(f"{what}: the override of {key!r} is {variant!r}. Variants: {', '.join(variants)}.")
        given = plain(key)
        if len(unit) > 1 and isinstance(given, str):
            try:
                given = tuple(msgspec.json.decode(given, type=list[str | int]))
            except msgspec.MsgspecError:
                given = ()
        values = [plain(one) for one in given] if isinstance(given, tuple) else [given]
        if len(values) != len(unit) or not all(isinstance(one, str | int) and type(one) is not bool for one in values):
            example = '"c-7"' if len(unit) == 1 else f"({', '.join(f'{name!r}' for name in unit)}), with their values"
            raise Misuse(f"{what}: the override of {key!r} fits no unit of {', '.join(unit)}. Give {example}.")
        found[joined([str(one) for one in values])] = variant
    return found


def _checked_metrics(
    what: str, metrics: Sequence[Metric], unit: Sequence[str], model: Model | None, switchback: Switchback | None
) -> tuple[Metric, ...]:
    names = [one.name for one in metrics]
    for one in metrics:
        if names.count(one.name) > 1:
            raise Misuse(f"{what}: two metrics are called {one.name!r}. Rename one.")
        if one.prediction is not None and model is None:
            raise Misuse(f"{what}: metric {one.name!r} is about predictions. Give model=, or a metric of events.")
        if switchback is not None and one.source is not None and one.within_us > switchback.every_us:
            raise Misuse(
                f"{what}: metric {one.name!r} counts events up to {format_duration(one.within_us)} after an exposure, "
                f"but a block of the switchback lasts {format_duration(switchback.every_us)}, so it would count what "
                f'later blocks cause. Declare within="{format_duration(switchback.every_us)}" or less.'
            )
        if one.source is not None and len(one.by) != len(unit):
            raise Misuse(
                f"{what}: metric {one.name!r} finds a unit by {', '.join(one.by)}, but the unit is {', '.join(unit)}. "
                "Give as many columns, in the same order."
            )
    if metrics and not any(one.role == "primary" for one in metrics):
        raise Misuse(f'{what}: no metric is primary. Mark the one that decides: tt.metric(..., role="primary").')
    return tuple(metrics)
