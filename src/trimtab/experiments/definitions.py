"""The declaration of experiments: who takes part, the variants, the metrics, and the rule of the decision."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from trimtab.core.columns.data import Dtype
from trimtab.core.expressions.nodes import Expression
from trimtab.core.hashing import content_hash
from trimtab.core.time import DAY_US
from trimtab.events.definitions import Source
from trimtab.features.aggregates import Aggregate
from trimtab.features.definitions import Join

MetricKind = Literal["mean", "proportion", "ratio", "quantile", "time_to_event"]
Role = Literal["primary", "secondary", "guardrail"]
Crossovers = Literal["first", "exclude"]
Rule = Literal["sequence", "msprt", "obrien_fleming", "fixed"]
NEGLIGIBLE = 0.001
_MOST_AGES = 7
Value = Literal["loss", "label", "score"]  # the values of a prediction that a metric of a model can use


class Metric(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A number for each unit, computed from its events or predictions after its first exposure.

    `metric()` makes and checks one.
    """

    name: str
    kind: MetricKind
    source: Source | None = None  # the source of the events; None: the metric is about the predictions of a model
    by: tuple[str, ...] = ()  # the source's columns that identify the unit
    # the aggregate of a unit's events in the time `within_us` after its first exposure; it declares no window itself
    value: Aggregate | None = None
    denominator: Aggregate | None = None  # for a ratio: the aggregate to divide by
    prediction: Value | None = None  # for a metric about predictions: the mean of this value over a unit's predictions
    within_us: int = 0  # how long after the first exposure events count
    before_us: int = 0  # for CUPED: the same aggregate over this time before the exposure; 0: no covariate
    quantile: float = 0.5
    cap: float | None = None  # larger values of a unit are cut to this (winsorising); the denominator is not cut
    role: Role = "secondary"
    better: Literal["higher", "lower"] = "higher"
    margin: float = 0.0  # for a guardrail: by how much it may be worse, as a share of the control's value
    negligible: float = NEGLIGIBLE  # for a guardrail without any event: this share of units may have one without harm

    @property
    def content(self) -> object:
        """The part of the metric that an experiment's hash covers: of the source, only the columns that are read."""
        if self.source is None:
            return self
        return [msgspec.structs.replace(self, source=None), self.source.content_of(self.read)]

    @property
    def read(self) -> list[str]:
        """The columns of the source that the metric reads, sorted."""
        parts = [part for one in (self.value, self.denominator) if one is not None for part in (one.of, one.where)]
        return sorted({*self.by}.union(*(part.columns() for part in parts if part is not None)))

    @property
    def age_ends_us(self) -> list[int]:
        """The ends of the parts into which the window of a metric is divided, as times since the exposure.

        A part is a day, or longer if the window has more than seven days. There are no parts in a window of one day,
        and none for the time to an event.

        >>> [end // DAY_US for end in Metric(name="m", kind="mean", within_us=10 * DAY_US).age_ends_us]
        [2, 4, 6, 8, 10]
        """
        days = -(-self.within_us // DAY_US) if self.kind != "time_to_event" else 0
        step = -(-days // _MOST_AGES)
        return [min(end * DAY_US, self.within_us) for end in range(step, days + step, step)] if days > 1 else []


class Switchback(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Blocks of time in which all requests of a region get the same variant."""

    every_us: int  # the length of a block
    gap_us: int = 0  # requests this soon after the start of a block do not count, because of carry-over
    by: tuple[str, ...] = ()  # the columns that identify a region; empty: all requests are one region


class Experiment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A comparison of variants with assigned units. `experiment()` makes and checks one.

    The first variant is the control.
    """

    name: str
    unit: tuple[str, ...]  # the columns of a request that identify the unit, such as a customer
    # by name: a JSON value; over versions a reference such as "late@7", and over deployments the name of the model
    variants: dict[str, Any]
    # the model whose endpoint splits its requests: that of the compared versions, or of the control's deployment; None:
    # the variants are plain values
    model: str | None = None
    deployments: bool = False  # whether the variants are deployments of several models
    weights: tuple[float, ...] = ()  # the share of each variant among the participants; they add up to 1
    share: float = 1.0  # the share of the eligible units that take part
    ramp: tuple[tuple[int, float], ...] = ()  # growing shares: microseconds after the start, and the share from then on
    ramp_at: tuple[tuple[int, float], ...] = ()  # as `ramp`, but with times since 1970; `ramp` is then empty
    layer: str = ""  # experiments of one layer have no unit in common; empty: a layer of its own
    where: Expression | None = None  # only units whose attributes and features fulfil this take part
    attributes: dict[str, Dtype] = {}  # the columns that `where` and `slices` read, with their types
    features: tuple[Join, ...] = ()  # the views whose features `where` and `slices` read as of the assignment
    overrides: dict[str, str] = {}  # by unit, as text: the variant of a tester, who is left out of the analysis
    switchback: Switchback | None = None
    # units that were exposed to a second variant: "first": they count for their first one; "exclude": they do not count
    crossovers: Crossovers = "first"
    metrics: tuple[Metric, ...] = ()
    slices: tuple[str, ...] = ()  # attributes; the units of each value are also analysed on their own
    strata: str = ""  # the slice for which means and proportions are adjusted (post-stratification); empty: none
    rule: Rule = "sequence"
    level: float = 0.95
    two_sided: bool = True
    duration_us: int | None = None  # how long units are taken in; needed by the rules "fixed" and "obrien_fleming"
    looks: int = 1  # for "obrien_fleming": how often the result is read, evenly over `duration_us`
    owner: str | None = None

    @property
    def largest_share(self) -> float:
        """The largest share of the units that take part, at the end of the ramp."""
        return max(self.share, *(share for _, share in (*self.ramp, *self.ramp_at)), 0.0)

    @property
    def window_us(self) -> int:
        """The longest time after a unit's first exposure in which its events or predictions count."""
        return max((metric.within_us for metric in self.metrics), default=0)

    @property
    def evidence_us(self) -> int:
        """The length of the blocks of time that count as evidence: a day, or a longer block of a switchback.

        A region keeps its variant for a whole block, so the days of a block are not independent.
        """
        return max(DAY_US, 0 if self.switchback is None else self.switchback.every_us)

    @property
    def models(self) -> list[str]:
        """The models whose predictions are exposures, that of the control first; none for plain variants."""
        return [*self.variants.values()] if self.deployments else [self.model] if self.model is not None else []

    @property
    def feature_types(self) -> dict[str, Dtype]:
        """The features that `where` and `slices` can read, such as "customer.orders_7d", with their types."""
        return {
            f"{join.name}.{name}": aggregate.dtype(join.view.source.columns)
            for join in self.features
            for name, aggregate in join.view.features.items()
            if join.select is None or name in join.select
        }

    @property
    def control(self) -> str:
        """The name of the first variant."""
        return next(iter(self.variants))

    @property
    def hash(self) -> str:
        """The hash of everything that is decided before the start. It may not change while the experiment runs.

        Testers may be added later, because they are left out of the analysis.
        """
        own = msgspec.structs.replace(self, owner=None, overrides={}, metrics=(), features=())
        features = [[join.hash for join in self.features]] if self.features else []
        return content_hash([own, [metric.content for metric in self.metrics], *features])
