"""The parts of a status, and its text: errors ("red") first, then warnings, then the rest. Times are shown as ages."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from trimtab.app.features.feature_failures import FeatureFailure
from trimtab.core.errors import Misuse
from trimtab.core.records import Signal
from trimtab.core.shown import Shown, count_of, format_bytes
from trimtab.core.time import format_age, format_time, parse_time_us
from trimtab.report import Picture
from trimtab.serving.workers.states import ServiceState

_ASIDE = ("duplicates", "id_conflicts", "corrections", "too_late", "no_entity", "refused_deletes", "failed")
_TIME = re.compile(r"(?:\b(since|until|at) )?(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z)")
_PROVISIONAL = re.compile(r"\(provisional: ([^)]*)\)")


class DeploymentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The status of one deployment."""

    model: str
    version: str | None  # "late_flight@7"; None if no version is deployed
    since: str | None
    trained_until: str | None
    imported: bool
    watch: str  # the state of the quality alarm
    phase: str
    last_decision: str | None
    trust: str | None = None  # "pickle" if loading the deployed version runs code from its file
    cache: str | None = None  # the hit rate of the score cache, if the deployment has one
    learner: str | None = None  # how many labels an online learner has learnt, and how many it could not learn
    inputs: str | None = None  # why input columns are not monitored; None: they are
    ungated: str | None = None  # why the version is deployed although it did not pass its tests; None: it passed
    estimate: str | None = None  # the loss estimated for the newest days before their labels come; None: not known
    beside: dict[str, str] = {}  # the canary and the shadow, if any: version, share of requests, comparison


class SourceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The status of one source of events."""

    name: str
    events: int  # the number of events or, if not `exact`, of records, which may repeat events
    newest: str | None  # the event time of the newest event
    is_request: bool = False  # past requests of a model; those that it answers are logged as predictions
    quarantined: dict[str, int]  # the number of rows that could not become events, by reason
    duplicates: int
    id_conflicts: int
    exact: bool = True  # False: new records of a large log were not compared with earlier events
    uncounted: int = 0  # the number of newest log records (of all sources together) that are not counted yet


class Status(Shown, msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The status of the whole project at one time."""

    at: str
    frozen: bool
    deployments: list[DeploymentStatus]
    skew: dict[str, str]  # the result of each model's newest skew check
    sources: list[SourceStatus]
    unapplied: list[str]  # definitions of the project file, such as "view carrier", that differ from the applied ones
    lag_records: int | None  # the number of log records not applied yet; None if online features are damaged
    views: dict[str, dict[str, int]]  # by view: applied, duplicates, failed, ... records; empty if damaged
    failures: list[FeatureFailure]  # features that could not be computed for some events
    disk_bytes: int  # the size of the state folder
    service: ServiceState | None  # the running service; None if there is none
    experiments: dict[str, str]  # by name: what the closed days of each running experiment say
    signals: list[Signal]  # signals that are open or ended within the last seven days
    red: list[str]

    @property
    def is_red(self) -> bool:
        return bool(self.red)

    def plot(self) -> Picture:
        """Return a picture of each deployment's loss by closed day. The project must still be open.

        Raises:
            Misuse: No day is closed yet, or this is a copy of a status.
        """
        if "draw" not in self.__dict__:  # `project.status()` puts it there
            raise Misuse("plot: this status is a copy. Ask the project again: project.status().plot()")
        picture: Picture = self.__dict__["draw"]()
        return picture

    def lines(self) -> list[str]:
        """The status as lines of text: errors ("red") first, then warnings; times as ages."""
        return status_lines(self)


def status_lines(status: Status) -> list[str]:
    """Return the status as lines of text."""
    now_us = parse_time_us(status.at)
    red, warnings = status.red, list(_warnings(status))
    told = f"{len(red)} red" if red else "nothing is red"
    told += f", {len(warnings)} warning{'s' * (len(warnings) != 1)}" if warnings else ""
    lines = [f"RED  {line}" for line in red] + [f"WARN {line}" for line in warnings]
    lines += [line for one in status.deployments for line in _deployment(one, status.skew.get(one.model))]
    of_experiments = [f"experiment {name}: {text}" for name, text in status.experiments.items()]
    lines += [line for line in of_experiments if line not in red]
    width = max((len(one.name) for one in status.sources), default=0)
    lines += [_source(one, width) for one in status.sources]
    lines += [f"online features: {_behind(status)}", *_views(status), f"disk: {format_bytes(status.disk_bytes)}"]
    lines += [] if status.service is None else [_served_by(status.service)]
    lines += [line for one in status.signals for line in _signal(one, now_us)]
    return [f"{status.at[:16].replace('T', ' ')} UTC: {told}", *(with_ages(line, now_us) for line in lines)]


def with_ages(text: str, now_us: int) -> str:
    """Return the text with each time replaced by its age.

    >>> with_ages("idle since 2024-03-01T00:00:00Z, until 2024-03-04T00:00:00Z", parse_time_us("2024-03-02T01:00Z"))
    'idle for 25 h, for 47 h more'
    """

    def age(match: re.Match[str]) -> str:
        ago_us = now_us - parse_time_us(match[2])
        shown = format_age(ago_us)
        if match[1] == "since" and ago_us > 0:
            return f"for {shown.removesuffix(' ago')}"
        if match[1] == "until":
            return match[0] if ago_us >= 0 else f"for {shown.removeprefix('in ')} more"
        return shown

    return _TIME.sub(age, text)


def _warnings(status: Status) -> Iterator[str]:
    if status.frozen:
        yield "FROZEN: no automation until `trimtab unfreeze`"
    for one in status.deployments:
        if one.ungated is not None:
            yield f"{one.model}: NOT GATED: {one.ungated}"
        if provisional := _PROVISIONAL.search(one.watch):
            yield f"{one.model}: the normal quality is provisional: {provisional[1]}"
        if one.inputs is not None:
            yield f"{one.model}: columns of inputs are not watched: {one.inputs}"
    if status.unapplied:
        yield f"not applied: {', '.join(status.unapplied)} (changed in the project file; see: trimtab plan)"
    yield from (one.line for one in status.failures if not one.recent)  # recent failures are red


def _deployment(one: DeploymentStatus, skew: str | None) -> Iterator[str]:
    if one.version is None:
        yield f"{one.model}: nothing in service"
    else:
        origin = "imported, with training data until" if one.imported else "trained on what was known"
        yield f"{one.model}: {one.version} in service since {one.since}, {origin} {one.trained_until}"
    yield from [f"  trust: {one.trust} (loading it runs code from its artifact)"] if one.version and one.trust else []
    yield from (f"  {arm}: {what}" for arm, what in one.beside.items())
    yield f"  {_PROVISIONAL.sub('(provisional)', one.watch)}; {one.phase}"
    yield from (f"  {line}" for line in (one.estimate, one.cache, one.learner, skew) if line)
    if one.last_decision:
        yield f"  last decision: {one.last_decision}"


def _source(one: SourceStatus, width: int) -> str:
    remarks = [f"{n:,} {reason}" for reason, n in one.quarantined.items()]
    remarks += [f"{one.duplicates:,} repeated"] if one.duplicates else []
    remarks += [f"{one.id_conflicts:,} id conflicts"] if one.id_conflicts else []
    newest = f", newest {one.newest}" if one.newest else ""
    newest += " (answered requests are logged as predictions)" if newest and one.is_request else ""
    what = "event" if one.exact else "record"
    at_least = "at least " if one.uncounted else ""
    return f"{one.name:{width}}  {at_least}{count_of(one.events, what)}{newest}" + (
        f" (set aside: {', '.join(remarks)})" * bool(remarks)
    )


def _behind(status: Status) -> str:
    if status.lag_records is None:
        return "damaged"
    behind = count_of(status.lag_records, "record")
    if status.lag_records and not any(counts["applied"] for counts in status.views.values()):
        return f"not filled yet ({behind}; the first `trimtab serve` or prediction fills them)"
    applied = status.lag_records and status.service is None
    return f"{behind} behind the log" + (" (the next prediction or `trimtab serve` applies them)" if applied else "")


def _views(status: Status) -> Iterator[str]:
    for name, counts in status.views.items():
        asides = [f"{n:,} {what.replace('_', ' ')}" for what, n in counts.items() if n and what in _ASIDE]
        yield f"  {name}: {count_of(counts['applied'], 'record')}" + (f" ({', '.join(asides)})" if asides else "")


def _served_by(service: ServiceState) -> str:
    if not service.workers:
        return f"served on {service.url}"
    shown = [
        f"{one.slot} {'ready' if one.ready else 'starting'}" + (f" (restarts: {one.restarts})" if one.restarts else "")
        for one in service.workers
    ]
    return f"served by {len(shown)} workers on {service.url}: {', '.join(shown)}"


def _signal(one: Signal, now_us: int) -> Iterator[str]:
    raised = f"raised {format_age(now_us - one.raised_at_us)} (the change began about {format_time(one.onset_us)[:10]})"
    if one.ended_at_us is not None:
        ended = f"ended {format_age(now_us - one.ended_at_us)}: {one.ended_because}"
        yield f"was {one.severity}, {raised}, {ended}  {one.model}: {one.message}"
    elif one.severity == "info":
        yield f"info, {raised}  {one.model}: {one.message}"
