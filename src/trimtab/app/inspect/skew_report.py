"""The results of skew checks, and how they are stored in the catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from trimtab.core.shown import Shown, count_of
from trimtab.core.time import format_time
from trimtab.features.skew import EXPLAINED, Cause, Share
from trimtab.features.skew import share as share_of
from trimtab.store.ports import Append, Catalog, Put, Remove

KIND = "skew"  # the kind of the catalogue records that hold the newest check of each model
JOURNAL = "skew"  # the journal that holds all checks
SCORE = "(score)"  # stands for the model's score in place of an input's name
_SHOWN = 5


class Mismatch(msgspec.Struct, frozen=True, kw_only=True):
    """A value that a prediction used and that differs from its recomputed value."""

    prediction: str  # the id of the prediction, which `trimtab why ID` explains
    model: str
    version: str  # "late_flight@7"
    arm: str
    mode: str
    made_at: str
    at: str  # the time of the request, as of which its features were computed
    positions: dict[str, int]  # for each partition, the position of the last event that the prediction could use
    feature: str
    cause: Cause
    used: float | None  # the value that the model got
    again: float | None
    used_reason: str | None  # "found", or why the used value was null; None if it does not come from a view
    again_reason: str | None

    def line(self) -> str:
        """The mismatch as one line of text."""
        sides = (self.used, self.used_reason), (self.again, self.again_reason)
        used, again = ("null" if v is None else repr(v) for v, _ in sides)
        used, again = (f"{v}{f' ({r})' if r else ''}" for v, (_, r) in zip((used, again), sides, strict=True))
        return f"{self.prediction} as of {self.at}: {self.feature} was {used}, is {again} ({self.cause})"


class ModelSkew(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a check for one model."""

    model: str
    rows: int = 0  # the number of predictions whose features were recomputed
    values: int = 0
    rows_differing: int = 0
    causes: dict[str, dict[str, int]] = {}  # the number of values that differ, by feature and cause
    # the number of predictions whose inputs agree, but would differ with records that were in the log, but not yet
    # applied, when the predictions were made
    stale_rows: int = 0
    arms: dict[str, int] = {}
    versions: dict[str, int] = {}
    modes: dict[str, int] = {}
    scores: int = 0  # the number of scores that were recomputed with the stored version
    unchecked: dict[str, int] = {}  # how many predictions or scores could not be recomputed, by reason

    @property
    def mismatches(self) -> int:
        """The number of values that differ, for any cause."""
        return sum(n for of_feature in self.causes.values() for n in of_feature.values())

    @property
    def red(self) -> dict[str, dict[str, int]]:
        """The number of differing values by feature and cause, for the causes that need action."""
        kept = {f: {c: n for c, n in of.items() if c not in EXPLAINED} for f, of in self.causes.items()}
        return {feature: of for feature, of in kept.items() if of}

    @property
    def share(self) -> Share:
        """The share of values that differ, with a 95 % interval."""
        return share_of(self.mismatches, self.values)


class SkewReport(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The result of a skew check."""

    format: int = 1
    at_us: int
    by: str  # who started the check: "a person", "service" or "tick"
    seed: int
    since_us: int | None
    models: list[ModelSkew]
    examples: list[Mismatch]  # the first mismatches of each feature and cause

    @property
    def rows(self) -> int:
        """The number of predictions whose features were recomputed."""
        return sum(one.rows for one in self.models)

    @property
    def values(self) -> int:
        """The number of values that were compared."""
        return sum(one.values for one in self.models)

    @property
    def mismatches(self) -> int:
        """The number of values that differ, for any cause."""
        return sum(one.mismatches for one in self.models)

    @property
    def share(self) -> Share:
        """The share of values that differ, with a 95 % interval."""
        return share_of(self.mismatches, self.values)

    @property
    def is_red(self) -> bool:
        """Whether a value differs for a cause that needs action, or nothing could be compared."""
        return not self.rows or any(one.red for one in self.models)

    def lines(self) -> list[str]:
        """The result as lines of text."""
        found = self.share
        out = [
            f"skew as of {format_time(self.at_us)[:19]}: {count_of(self.rows, 'prediction')}, "
            f"{count_of(self.values, 'value')} computed again, {self.mismatches:,} differ"
            + (f" (a share of {found.estimate:.2g}; 95 %: {found.low:.2g} to {found.high:.2g})" if self.values else "")
        ]
        for one in self.models:
            out += _model_lines(one)
        told = [one for one in self.examples if one.cause != "pruned"]
        out += [f"  {one.line()}; trimtab why {one.prediction}" for one in told]
        if not self.rows:
            out.append("RED  no prediction was checked, so nothing is known about skew")
        out += [f"RED  {one.model}: {red_words(one)}" for one in self.models if one.red]
        return out if self.is_red else [*out, "no value differs for a cause that needs action"]


class Agreement(msgspec.Struct, frozen=True):
    """How many values of a signal's version agreed since its last difference, and when values were last compared."""

    values: int
    compared_us: int


class CheckedModel(msgspec.Struct, frozen=True):
    """The newest check that drew predictions of one model, as stored in the catalogue.

    If no check has drawn any, it is the first check.
    """

    looked_at_us: int  # the time of the newest check, even if it drew no prediction
    at_us: int  # the time of the check in `found`
    by: str
    found: ModelSkew
    agreed: dict[str, Agreement] = {}  # for each open signal, how many values agreed since its last difference


def red_words(found: ModelSkew) -> str:
    """Describe in a few words which values differ for causes that need action."""
    values = sum(n for of in found.red.values() for n in of.values())
    worst = sorted(found.red.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    said = "; ".join(f"{feature}: {', '.join(f'{n:,} {c}' for c, n in of.items())}" for feature, of in worst[:_SHOWN])
    return f"{values:,} of {found.values:,} values that predictions used differ when computed again ({said})"


def newest_checks(catalog: Catalog) -> dict[str, CheckedModel]:
    """Return the newest check of each model."""
    return {r.key: msgspec.json.decode(r.body, type=CheckedModel) for r in catalog.find(KIND)}


def checks(catalog: Catalog, *, after: int = 0, limit: int = 10_000) -> list[SkewReport]:
    """Return the stored checks, oldest first."""
    return [msgspec.json.decode(e.body, type=SkewReport) for e in catalog.journal(JOURNAL, after=after, limit=limit)]


def keep(
    catalog: Catalog,
    report: SkewReport,
    agreed: Mapping[str, dict[str, Agreement]],
    signals: Sequence[Put | Remove | Append],
) -> None:
    """Store a check and the signals that it begins and ends, in one transaction."""
    changes: list[Put | Remove | Append] = [Append(JOURNAL, report.at_us, msgspec.json.encode(report))]
    before = newest_checks(catalog)
    for one in report.models:
        last = before.get(one.model)
        if one.rows or one.unchecked or last is None:
            last = CheckedModel(report.at_us, report.at_us, report.by, one)
        now = msgspec.structs.replace(last, looked_at_us=report.at_us, agreed=agreed.get(one.model, {}))
        changes.append(Put(KIND, one.model, msgspec.json.encode(now)))
    catalog.write([*changes, *signals])


def _model_lines(one: ModelSkew) -> list[str]:
    head = f"  {one.model}: {count_of(one.rows, 'prediction')}"
    for counts in (one.versions, one.arms, one.modes):
        head += f"; {_counted(counts)}" if counts else ""
    out = [head]
    pruned = {feature: causes["pruned"] for feature, causes in one.causes.items() if causes.get("pruned")}
    for feature, causes in sorted(one.causes.items()):
        others = {cause: n for cause, n in causes.items() if cause != "pruned"}
        out += [f"    {feature}: {_counted(others)}"] if others else []
    if pruned:
        features = ", ".join(f"{feature} {n:,}" for feature, n in sorted(pruned.items()))
        out.append(
            f"    pruned: {features}: these read events that [retention] has removed since, so the used values cannot "
            f"be recomputed. This is no fault, but {sum(pruned.values()):,} of {one.values:,} values were not checked"
        )
    if one.scores:
        out.append(f"    {one.scores:,} scores were recomputed with the stored versions")
    if one.stale_rows:
        out.append(
            f"    {one.stale_rows:,} predictions agree with the records applied at their time; records of the log "
            "that were not applied yet would have changed them (late_view, no mismatch)"
        )
    out += [f"    not checked: {n:,}, {reason}" for reason, n in sorted(one.unchecked.items())]
    return out


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
