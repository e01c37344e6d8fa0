"""How a project is: what is deployed, how fresh everything is, and what is red."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from trimtab.app.disk import over_budget, taken
from trimtab.app.erasure import unfinished
from trimtab.app.keeper import service_failures
from trimtab.app.loop import last_turn
from trimtab.app.planning import unapplied
from trimtab.app.skew import SIGNAL, skew_lines
from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.sizes import format_bytes
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US, format_duration, format_moment
from trimtab.features.stored import check_functions
from trimtab.steering.controller import CHAMPION, FREEZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trimtab.app.loop import DeploymentLoop
    from trimtab.app.project import Project
    from trimtab.core.records import Decision

QUALITY_LOSS, QUALITY_CALIBRATION = "quality_loss", "quality_calibration"  # the figures of a whole watch
_RECENT_US = 14 * DAY_US
_TICK_US = 2 * DAY_US  # between two ticks
_ASIDE = ("duplicates", "id_conflicts", "corrections", "too_late", "no_entity", "refused_deletes")
_STUCK_US = MINUTE_US  # a record may wait so long while somebody applies the log,
_UNFOLLOWED_US = HOUR_US  # and so long while nobody does: a question in process catches up by itself


class DeploymentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment."""

    model: str
    version: str | None  # "late_flight@7"; None: nothing is in service
    since: str | None
    trained_until: str | None
    watch: str  # what the quality alarm says
    phase: str
    last_decision: str | None


class SourceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One source of events."""

    name: str
    events: int
    newest: str | None  # event time of the newest one
    quarantined: dict[str, int]  # by reason
    duplicates: int
    id_conflicts: int


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The whole project at one moment."""

    at: str
    frozen: bool
    deployments: list[DeploymentStatus]
    skew: dict[str, str]  # by model: what the newest check of its predictions found
    sources: list[SourceStatus]
    unapplied: list[str]  # definitions of the project file that are not what is applied: "view carrier"
    lag_records: int  # of the log, not yet in online features
    views: dict[str, dict[str, int]]  # by view: what became of all records that it applied
    disk_bytes: int  # what the state folder takes
    red: list[str]

    @property
    def is_red(self) -> bool:
        return bool(self.red)

    def lines(self) -> list[str]:
        """The same for people."""
        out = [f"as of {self.at}" + (", FROZEN: no automation" if self.frozen else "")]
        for d in self.deployments:
            if d.version is None:
                out.append(f"{d.model}: nothing in service")
            else:
                out.append(f"{d.model}: {d.version} since {d.since}, trained on what was known at {d.trained_until}")
            out.append(f"  {d.watch}; {d.phase}")
            out += [f"  {self.skew[d.model]}"] if d.model in self.skew else []
            if d.last_decision:
                out.append(f"  last decision: {d.last_decision}")
        width = max((len(s.name) for s in self.sources), default=0)
        for s in self.sources:
            remarks = [f"{n:,} {reason}" for reason, n in s.quarantined.items()]
            remarks += [f"{s.duplicates:,} repeated"] if s.duplicates else []
            remarks += [f"{s.id_conflicts:,} id conflicts"] if s.id_conflicts else []
            newest = f", newest {s.newest}" if s.newest else ""
            aside = f" (set aside: {', '.join(remarks)})" if remarks else ""
            out.append(f"{s.name:{width}}  {s.events:,} events{newest}{aside}")
        if self.unapplied:
            out.append(f"not applied: {', '.join(self.unapplied)} (changed in the project file; see: trimtab plan)")
        out.append(f"online features: {self.lag_records:,} records behind the log")
        for name, counts in self.views.items():
            asides = [f"{n:,} {what.replace('_', ' ')}" for what, n in counts.items() if n and what in _ASIDE]
            out.append(f"  {name}: {counts['applied']:,} records" + (f" ({', '.join(asides)})" if asides else ""))
        out.append(f"disk: {format_bytes(self.disk_bytes)}")
        out += [f"RED  {line}" for line in self.red] or ["nothing is red"]
        return out


def project_status(project: Project) -> Status:
    """See `Project.status`."""
    now_us = project.clock.now_us()
    project.history.refresh()
    red: list[str] = []
    ledger = project.ledger()
    deployments = [_deployment(project, name, ledger, now_us, red) for name in project.definitions.deployments]
    quarantined = project.quarantine.counts()
    sources = [_source(project, name, quarantined.get(name, {})) for name in project.definitions.sources]
    labels = {d.model.label.source.name for d in project.definitions.deployments.values()}
    red += [f"{s.name}: no event was ever loaded or pushed" for s in sources if not s.events and s.name in labels]
    skew, differing = skew_lines(project)
    red += differing
    for signal in project.signals():
        if signal.kind == SIGNAL:  # the newest check says how it is now
            continue
        watch = project.loop(signal.model).monitor.watch if signal.model in project.definitions.deployments else None
        if signal.severity == "red" and watch is not None and signal.version == watch.version:
            red.append(f"{signal.model}: {signal.message}")
    lag_records = project.views.lag_records()
    red += _applying(project, lag_records)
    disk_bytes = taken(project.state_folder).size_bytes
    over = over_budget(disk_bytes, project.config.retention.budget_bytes)
    red += [] if over is None else [over]
    red += unfinished(project.state.catalog)
    return Status(
        at=format_moment(now_us),
        frozen=project.state.catalog.get(FREEZE, "all") is not None,
        deployments=deployments,
        skew=skew,
        sources=sources,
        unapplied=unapplied(project),
        lag_records=lag_records,
        views={name: msgspec.structs.asdict(counts) for name, counts in project.views.store.counts().items()},
        disk_bytes=disk_bytes,
        red=red,
    )


def _applying(project: Project, lag_records: int) -> list[str]:
    """What keeps online features and a serving process from their work."""
    followed = project.views.followed()
    failures = service_failures(project.state.catalog) if followed else {}  # else it ended without a word
    red = [f"the serving process: {work} failed: {said}" for work, said in failures.items()]
    behind_us = project.views.behind_us() if lag_records else 0
    if behind_us > (_STUCK_US if followed else _UNFOLLOWED_US):
        doing = (
            "the process that applies events does not get on" if followed else "nobody applies them; run: trimtab serve"
        )
        waited = format_duration(behind_us // MINUTE_US * MINUTE_US)
        red.append(f"online features: {lag_records:,} records have been waiting for up to {waited}; {doing}")
    return red


def _deployment(
    project: Project, name: str, ledger: Sequence[Decision], now_us: int, red: list[str]
) -> DeploymentStatus:
    version = project.registry.alias(name, CHAMPION)
    loop = project.loop(name)
    watch = loop.monitor.watch
    decisions = [d for d in ledger if d.model == name]
    if version is None:
        red.append(f"{name}: no version is in service; run: trimtab train {name}")
    else:
        try:
            check_functions(project.live.of(version))
        except (Misuse, Corrupt) as error:
            red.append(f"{name}: {version.name} cannot answer: {error} Or run: trimtab train {name}")
    unwatched = None if version is None else _unwatched(loop, version.id)
    if unwatched is not None:
        red.append(f"{name}: {unwatched}")
    if watch is None or not watch.figures:
        said = "quality is not watched"
    elif watch.alarming:
        said = f"quality ALARM, since about {format_moment(watch.onset_us or now_us)[:10]}"
    elif watch.last_day_us is None:
        said = "quality watched, no day closed yet"
    else:
        said = f"quality steady, last closed day {format_moment(watch.last_day_us)[:10]}"
        behind_us = now_us - watch.last_day_us - DAY_US - loop.deployment.model.label.wait_us
        if behind_us > _RECENT_US:
            red.append(f"{name}: no day was closed for {format_duration(behind_us // DAY_US * DAY_US)}; is `tick` run?")
    moved = project.registry.history(name, CHAMPION)
    red += [f"{name}: {line}" for line in _ticking(project, name, moved[-1].at_us if moved else None, now_us)]
    state = loop.controller.state
    last = decisions[-1] if decisions else None
    return DeploymentStatus(
        model=name,
        version=None if version is None else version.name,
        since=format_moment(moved[-1].at_us) if moved else None,
        trained_until=None if version is None else format_moment(version.cut_us),
        watch=said,
        phase="idle" if state.phase == "idle" else f"waiting until {format_moment(state.ready_at_us)}: {state.cause}",
        last_decision=None if last is None else f"{format_moment(last.at_us)} {last.act}: {last.cause}",
    )


def _ticking(project: Project, name: str, since_us: int | None, now_us: int) -> list[str]:
    """What is wrong with the loop's ticks: the newest one failed, or it is long ago."""
    turn = last_turn(project.state.catalog, name)
    if turn is not None and turn.last_error is not None:
        return [f"the newest tick failed: {turn.last_error}"]
    ticked_us = turn.last_tick_us if turn is not None and turn.last_tick_us is not None else since_us
    if since_us is None or ticked_us is None or now_us - max(ticked_us, since_us) <= _TICK_US:
        return []
    ago = format_duration((now_us - max(ticked_us, since_us)) // HOUR_US * HOUR_US)
    return [f"the loop has not ticked for {ago}; run `trimtab serve`, or `trimtab tick` every hour"]


def _unwatched(loop: DeploymentLoop, version: str) -> str | None:
    """Why the quality of the version in service is not watched in full, if so."""
    watch = loop.monitor.watch
    if watch is None or watch.version != version:
        return "quality is not watched: the version in service was not promoted by the loop; run: trimtab train"
    missing = [kind for kind in (QUALITY_LOSS, QUALITY_CALIBRATION) if kind not in watch.figures]
    if not missing:
        return None
    window = format_duration(loop.deployment.gate.window_us)
    return (
        f"{', '.join(missing)} not watched: the gate's window (the newest {window} of labelled days) had too few days, "
        "or the same figure on each, to learn from; train on more days"
    )


def _source(project: Project, name: str, quarantined: dict[str, int]) -> SourceStatus:
    frame = project.history.frame(name)
    return SourceStatus(
        name=name,
        events=frame.rows,
        newest=format_moment(int(frame.event_at_us.max())) if frame.rows else None,
        quarantined=quarantined,
        duplicates=project.history.duplicates.get(name, 0),
        id_conflicts=project.history.id_conflicts.get(name, 0),
    )
