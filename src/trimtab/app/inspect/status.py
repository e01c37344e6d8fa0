"""The status of a project: its deployments, how fresh its data is, and all problems ("red" lines)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trimtab.app.alerts.alert_overview import red_receivers
from trimtab.app.features.clock_ahead import REPAIR, stamped_ahead
from trimtab.app.features.feature_failures import feature_failures
from trimtab.app.features.source_counts import SourceCounts, read_counts
from trimtab.app.inspect.estimates import estimate_in_words
from trimtab.app.inspect.skew import skew_lines
from trimtab.app.inspect.skew_signals import SIGNAL
from trimtab.app.inspect.status_text import DeploymentStatus, SourceStatus, Status
from trimtab.app.keep.disk_usage import over_budget, taken
from trimtab.app.keep.erasure import unfinished
from trimtab.app.keep.retention import kept_longer
from trimtab.app.online.applier_error import standing
from trimtab.app.plan.planning import unapplied
from trimtab.app.state.loop_turn import last_activity
from trimtab.app.state.lost_records import RECOVER, lost_records
from trimtab.app.state.service_failures import service_failures
from trimtab.app.system import System
from trimtab.app.training.fresh_process import failure_to_load
from trimtab.app.training.loop import DeploymentLoop
from trimtab.app.training.loops import Loops, stages_of
from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.records import Decision, Signal
from trimtab.core.shown import count_of, format_bytes
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US, format_duration, format_time
from trimtab.experiments.records import KIND as EXPERIMENT
from trimtab.experiments.records import experiment_state, stored_definition
from trimtab.features.stored import check_functions
from trimtab.monitoring.profiles.profile_store import why_no_profile
from trimtab.monitoring.quality.detectable_rises import detectable_in_words
from trimtab.monitoring.quality.references import TWO_WEEKS
from trimtab.monitoring.quality.watches import FULL_REFERENCE, Watch
from trimtab.monitoring.signals import LISTED_US, every_signal, listed_signals, standing_signals
from trimtab.registry.loading import lost_artifact, repair_lost
from trimtab.registry.protection import CHAMPION
from trimtab.registry.versions import AliasMove, Version
from trimtab.serving.answer.score_cache import CACHED_SCORES
from trimtab.serving.arms.arms import CANARY, SHADOW, arm_shares
from trimtab.serving.arms.online_learning import described, learner_name, learnt
from trimtab.serving.observe.shared_status import shared_statuses
from trimtab.serving.workers.overview import found_share
from trimtab.serving.workers.states import FOLDER, ServiceState, read_state
from trimtab.serving.workers.worker_metrics import shared_scrape
from trimtab.steering.arm_comparisons import ArmComparison, arm_comparisons
from trimtab.steering.definitions import Deployment
from trimtab.steering.ledger import Ledger
from trimtab.steering.loop_state import APPROVAL, FREEZE, LoopState, is_before
from trimtab.steering.loop_state import CANARY as CANARY_STAGE
from trimtab.steering.loop_state import SHADOW as SHADOW_STAGE
from trimtab.training.environment import absent_library
from trimtab.training.runtimes.table import missing_library

_RECENT_US = 14 * DAY_US
_TICK_US = 2 * DAY_US  # it is an error if a training loop has not run for this long
_STUCK_US = MINUTE_US  # while a process applies the log, a record may wait for this long
_UNFOLLOWED_US = HOUR_US  # the same after a service was killed. Without a service, predictions apply the log first.


def deployment_status(system: System, name: str, red: list[str]) -> DeploymentStatus:
    """Return the status of one deployment, without reading events, and add its problems to `red`."""
    return _deployment(system, name, Ledger(system.state.catalog).rows(), system.clock.now_us(), red)


def project_status(system: System) -> Status:
    """Return the status of the project; see `Project.status`."""
    now_us = system.clock.now_us()
    red: list[str] = []
    ledger = Ledger(system.state.catalog).rows()
    deployments = [_deployment(system, name, ledger, now_us, red) for name in system.definitions.deployments]
    quarantined = system.quarantine.counts()
    counts = read_counts(system)
    requests = {d.model.request.name for d in system.definitions.deployments.values()}
    sources = [_source(n, counts, quarantined.get(n, {}), n in requests) for n in system.definitions.sources]
    labels = {d.model.label.source.name for d in system.definitions.deployments.values()}
    red += [
        f"{s.name}: no event was ever loaded or pushed"
        for s in sources
        if s.events == 0 and s.name in labels and not counts.behind
    ]
    skew, differing = skew_lines(system)
    red += differing
    signals = [signal for signal in listed_signals(system.state.catalog) if _shown(system, signal, now_us)]
    told = {(SIGNAL, line.partition(": skew: ")[0]) for line in differing}  # signals that `differing` shows already
    red += [
        f"{one.model}: {one.message}{f' Possible cause: {one.cause}.' if one.cause else ''}"
        f" (Raised {format_time(one.raised_at_us)[:10]}.)"
        for one in signals
        if one.severity == "red" and one.ended_at_us is None and (one.kind, one.model) not in told
    ]
    damage = system.views.damage()
    red += [] if damage is None else [damage]
    red += [line for line in system.state.damaged_stores() if line not in red]
    red += [f"{lost} {RECOVER}" for lost in lost_records(system.state, tables=True)]
    jump = system.state.clock_jump()
    red += [] if jump is None else [jump]
    red += [f"{ahead}. {REPAIR}" for ahead in stamped_ahead(system.state, now_us)]
    lag_records = None if damage else system.views.lag_records()
    red += _applying(system, lag_records or 0)
    failures = [] if damage else feature_failures(system)
    red += [one.line for one in failures if one.recent]
    disk_bytes = taken(system.state_folder).size_bytes
    over = over_budget(disk_bytes, system.config.retention.budget_bytes)
    red += [] if over is None else [over]
    red += kept_longer(system)
    red += red_receivers(system)
    red += unfinished(system.state.catalog)
    service = read_state(system.state_folder / FOLDER) if system.views.followed() else None
    red += [] if service is None else [*_not_answering(service), *_reading_another_file(service)]
    experiments = _experiments(system, red)
    return Status(
        at=format_time(now_us),
        frozen=system.state.catalog.get(FREEZE, "all") is not None,
        deployments=deployments,
        skew=skew,
        sources=sources,
        unapplied=unapplied(system),
        lag_records=lag_records,
        views={n: msgspec.structs.asdict(c) for n, c in ({} if damage else system.views.store.counts()).items()},
        failures=failures,
        disk_bytes=disk_bytes,
        service=service,
        experiments=experiments,
        signals=signals,
        red=red,
    )


def _experiments(system: System, red: list[str]) -> dict[str, str]:
    """Return what the closed days of each running experiment say, and add those with a problem to `red`."""
    if not system.state.catalog.find(EXPERIMENT):
        return {}
    from trimtab.app.experiments.report import running_lines  # loads SciPy

    found = list(running_lines(system))
    red += [f"experiment {name}: {text}" for name, text, problem in found if problem]
    return {name: text for name, text, _ in found}


def _shown(system: System, signal: Signal, now_us: int) -> bool:
    """Return whether a signal is about a deployed model, and is open or ended recently."""
    ended_us = signal.ended_at_us
    return signal.model in system.definitions.deployments and (ended_us is None or now_us - ended_us <= LISTED_US)


def _applying(system: System, lag_records: int) -> list[str]:
    """Return the errors of the online features and of a serving process that applies events."""
    followed = system.views.followed()
    failures = service_failures(system.state.catalog) if followed else {}  # those of an ended service do not matter
    red = [f"the serving process: {work} failed: {text}" for work, text in failures.items()]
    stands = standing(system.state.catalog)
    if stands is not None and (followed or lag_records):
        red.append(
            f"online features: no event was applied since {format_time(stands.at_us)}: {stands.why} Correct this "
            "and restart the service; or stop the service and run: trimtab storage rebuild --all"
        )
    if followed:
        notes = shared_statuses(system.state_folder / "spool")
        red += [f"the serving process: predictions cannot be logged: {text}" for text in notes]
    killed = not followed and read_state(system.state_folder / FOLDER) is not None
    behind_us = system.views.behind_us() if lag_records and (followed or killed) else 0
    if behind_us > (_STUCK_US if followed else _UNFOLLOWED_US):
        doing = "the process that applies events is stuck" if followed else "the service was killed; run: trimtab serve"
        waited = format_duration(behind_us // MINUTE_US * MINUTE_US)
        red.append(f"online features: {count_of(lag_records, 'record')} waiting for up to {waited}; {doing}")
    return red


def _not_answering(service: ServiceState) -> list[str]:
    """Return a line for each worker that died and is not ready again."""
    return [
        f"worker {one.slot} of the service does not answer; {one.ended}: {one.last_words.rpartition(chr(10))[2][:300]}"
        for one in service.workers
        if one.ended and not one.ready
    ]


def _reading_another_file(service: ServiceState) -> list[str]:
    """Return a line for each worker whose project file differs from the one with which the service started. # D36"""
    return [
        f"worker {one.slot} of the service reads a project file that has changed since the service started, and may "
        "answer differently from the others: restart the service"
        for one in service.workers
        if one.changed
    ]


def _deployment(system: System, name: str, ledger: Sequence[Decision], now_us: int, red: list[str]) -> DeploymentStatus:
    version = system.registry.alias(name, CHAMPION)
    loop = system.part(Loops).loop(name)
    watch = loop.monitor.watch
    decisions = [d for d in ledger if d.model == name]
    if version is None:
        what = "approve" if loop.controller.state.phase == APPROVAL else "train"
        todo = f"run: trimtab {what} {name}"
        if what == "train" and decisions and decisions[-1].act == "refuse":
            todo = f"the last candidate was refused. Remove the cause that the refusal names, then {todo}"
        red.append(f"{name}: no version is in service; {todo}")
    elif (lost := lost_artifact(system.state.blob, version)) is not None:
        made_of = None if version.imported is None else version.imported.file
        repair = repair_lost(name, imported=made_of, changed=version.recipe != loop.deployment.model.hash)
        red.append(f"{name}: {version.name} has lost its artifact: {lost} {repair}")
    else:
        failure = _failure(system, version)
        if failure is not None:
            red.append(f"{name}: {version.name} cannot answer: {failure} Or run: trimtab train {name}")
    moved_since = version is not None and loop.controller.state.version not in (None, version.id)
    moved = system.registry.history(name, CHAMPION)
    unwatched = None if version is None or moved_since else _unwatched(loop, version.id)
    if unwatched is not None:
        red.append(f"{name}: {unwatched}")
    if moved_since:
        text = "another version was put in service after the last tick, and its quality is watched from the next one on"
    elif watch is None or not (watch.figures or watch.healthy):
        text = "quality is not watched"
    elif watch.alarming:
        since_us = now_us if watch.onset is None else watch.onset.at_us
        text = f"quality ALARM, since about {format_time(since_us)[:10]}"
        if version is not None and _began_with(system, version, moved[-1], since_us):
            text = f"quality ALARM, which began with {version.name}; to go back: trimtab rollback {name}"
    elif watch.slice_onsets:
        first, *more = sorted(watch.slice_onsets.items(), key=lambda item: item[1].at_us)
        others = f" and {count_of(len(more), 'more slice')}" if more else ""
        text = f"quality ALARM of {first[0]}{others}, since about {format_time(first[1].at_us)[:10]}"
    elif watch.last_day_us is None:
        text = "quality watched, no day closed yet" + _first_closes(system, loop.deployment, now_us)
    else:
        # days of a replaced version count, too: with a long wait, the new one has none for weeks
        text = f"{_steady(watch)}, last closed day {format_time(loop.closed_until_us - DAY_US)[:10]}"
        text += _reference_in_words(watch)
        text += detectable_in_words(watch)
        behind_us = loop.deployment.model.label.final_until(now_us) - loop.closed_until_us
        has_traffic = not any(one.kind == "traffic_stopped" for one in standing_signals(system.state.catalog, name))
        # if labels come from files, the time since the last load does not count
        if behind_us > _RECENT_US and has_traffic:
            behind_us -= now_us - loop.complete_until(now_us)
        if behind_us > _RECENT_US and has_traffic:
            red.append(
                f"{name}: no day was closed for {format_duration(behind_us // DAY_US * DAY_US)}; does `trimtab tick` "
                "run?"
            )
    text += (
        f", {count_of(watch.unlisted, 'label')} outside the declared classes"
        if watch is not None and watch.unlisted
        else ""
    )
    red += [f"{name}: {line}" for line in _ticking(system, name, moved[-1].at_us if moved else None, now_us)]
    state = loop.controller.state
    last = decisions[-1] if decisions else None
    alarming = watch is not None and (watch.alarming or bool(watch.slice_onsets))
    return DeploymentStatus(
        model=name,
        version=None if version is None else version.name,
        since=format_time(moved[-1].at_us) if moved else None,
        trained_until=None if version is None else format_time(system.registry.as_known(version).cut_us),
        imported=version is not None and version.imported is not None,
        watch=text,
        phase=_phase(system, state, name, promoted=not alarming and last is not None and last.act == "promote"),
        last_decision=None if last is None else f"{format_time(last.at_us)} {last.act}: {last.cause}",
        trust=None if version is None else version.trust,
        cache=_cache(system, loop.deployment),
        learner=None if version is None else _learner(system, loop.deployment, version, now_us, red),
        inputs=None if version is None else why_no_profile(system.state.catalog, version.id),
        ungated=None if version is None else _ungated(system, version, moved),
        estimate=None if version is None else estimate_in_words(system, loop.deployment, now_us),
        beside=_arms(system, name),
    )


def _began_with(system: System, version: Version, move: AliasMove, since_us: int) -> bool:
    """Return whether an alarm since a time began with a version that a person, or no gate, put in service."""
    by_policy = move.actor == "policy" and system.registry.passed_gate(version) is not None
    if by_policy or move.previous is None or move.act == "roll_back" or since_us >= move.at_us + DAY_US:
        return False
    alarms = [
        one
        for one in every_signal(system.state.catalog, version.model)
        if one.severity == "red" and one.kind.startswith("quality_")
    ]
    # an alarm of the replaced version ends with the move
    return not any(one.raised_at_us < move.at_us < (one.ended_at_us or move.at_us) + DAY_US for one in alarms)


def _steady(watch: Watch) -> str:
    """Describe the quality while there is no alarm. Days without labels do not show that it is steady."""
    known = any(one.state.newest or one.state.pooled_rows for one in (*watch.figures.values(), *watch.healthy.values()))
    # values that were just learnt again from days in service have no days of their own yet
    if not known and (watch.last_day_us is None or watch.silent_days or watch.unlisted):
        return "quality not known: no labels have arrived yet for the closed days"
    silent = watch.silent_days
    worse = watch.short_of or watch.worse_since_us or any(one.above for one in watch.earlier_levels.values())
    steady = "quality steady, but worse than that of an earlier version" if worse else "quality steady"
    return ("no quality alarm, but the newest day was far worse than usual" if watch.far else steady) + (
        f", but no labels have arrived for the newest {count_of(silent, 'day')}" if silent else ""
    )


def _reference_in_words(watch: Watch) -> str:
    """Return, in parentheses, that the reference (the normal quality) has few days; empty if it has enough."""
    if watch.short is not None and watch.healthy and not watch.figures:
        found = len(watch.short.days)
        return (
            " (compared with the reference of an earlier version, until the version in service has a reference of "
            f"{TWO_WEEKS} days; now it has {found})"
        )
    if not watch.provisional:
        return ""
    days = min(figure.spec.reference_blocks for figure in watch.figures.values())
    grows = "" if watch.short is None else f"; closed days are added until it has {FULL_REFERENCE}"
    return f" (provisional: the reference has only {days} days{grows})"


def _first_closes(system: System, deployment: Deployment, now_us: int) -> str:
    """Return, as the end of a sentence, when the first day of the version in service can be closed.

    The result is empty if that time has passed.
    """
    since_us = system.registry.history(deployment.name, CHAMPION)[-1].at_us
    first_us = deployment.model.label.final_at((since_us // DAY_US + 1) * DAY_US)
    return f"; the first closes on {format_time(first_us)[:10]} at the earliest" if first_us > now_us else ""


def _failure(system: System, version: Version) -> str | None:
    """Return why a version cannot answer on this machine; None if no reason is known."""
    absent = absent_library(version.runtime)
    if absent is not None:
        return f"{missing_library(version.runtime, ModuleNotFoundError(name=absent))}."
    try:
        check_functions(system.live.of(version))
    except (Misuse, Corrupt) as error:
        return str(error)
    if version.runtime in ("pickle", "torch"):  # it runs the project's code, which may have changed
        return failure_to_load(system.config, system.state_folder, version)
    return None


def _cache(system: System, deployment: Deployment) -> str | None:
    """Describe the score cache of a deployment, with its hit rate since the service began."""
    if deployment.cache is None:
        return None
    room = f"caches scores, in up to {format_bytes(deployment.cache.size_bytes)}"
    if not system.views.followed():
        return f"{room} of each serving process"
    counts = shared_scrape(system.state_folder / FOLDER).total(CACHED_SCORES, ("model", "found"), model=deployment.name)
    share, requests = found_share(counts, deployment.name), sum(counts.values())
    if share is None:
        return f"{room}; no request yet"
    return f"{room}; {share:.1%} of {requests:,.0f} requests were answered from it since the service began"


def _learner(system: System, deployment: Deployment, version: Version, now_us: int, red: list[str]) -> str | None:
    """Describe how many labels an online learner has learnt. If it failed to learn some recently, add this to `red`."""
    if deployment.learn != "online":
        return None
    try:
        found = learnt(system.state.learners, learner_name(deployment.name, version.id))
    except Corrupt as error:
        red.append(str(error))
        return None
    if found is None:
        return "learns online, nothing yet"
    recent = [one for one in found.newest_aside if one.known_at_us > now_us - _RECENT_US]
    if recent:
        count = "" if found.set_aside == 1 else f"{found.set_aside:,} such labels in all; "
        red.append(f"{deployment.name}: {described(recent[-1])} ({count}correct the label's source or definition)")
    aside = f", {found.set_aside:,} set aside" if found.set_aside else ""
    return f"learns online: {count_of(found.examples, 'label')} learnt{aside}"


def _arms(system: System, name: str) -> dict[str, str]:
    stored = arm_shares(system.state.catalog, name)
    shares = {CANARY: stored.canary, SHADOW: stored.shadow}
    armed = {arm: system.registry.alias(name, arm) for arm, share in shares.items() if share > 0.0}
    state = None if stored.experiment is msgspec.UNSET else experiment_state(system.state.catalog, stored.experiment)
    definition = None if state is None else stored_definition(state)
    # The alias `canary` points to only one version. So with an experiment of more than two versions, or of several
    # deployments, the lines are made from the experiment.
    if state is not None and definition is not None and (len(state.versions) > 2 or definition.deployments):
        now, (_, *others) = state.allocations[-1], state.versions.items()
        of = {name: f"deployment {model}" for name, model in definition.variants.items() if definition.deployments}
        names = {variant: of.get(variant) or system.registry.get(version).name for variant, version in others}
        shown = {variant: f"{100 * now.share * now.weights[variant]:.3g} % of the requests" for variant in names}
        return {f"canary {variant}": f"{name}, on {shown[variant]}" for variant, name in names.items()}
    compared = arm_comparisons(system.state.catalog, name)
    return {
        arm: f"{version.name}, on {100 * shares[arm]:.3g} % of the requests{_armed_ungated(system, arm, version)}"
        + _compared(system, version, compared.get(arm))
        for arm, version in armed.items()
        if version is not None
    }


def _compared(system: System, version: Version, comparison: ArmComparison | None) -> str:
    champion = system.registry.alias(version.model, CHAMPION)
    if champion is not None and champion.id == version.id:
        return "; this is the version in service itself"
    if champion is None or comparison is None or comparison.of != (version.id, champion.id):
        return ""
    return f"; {comparison.said(champion.name)}"


def _armed_ungated(system: System, arm: str, version: Version) -> str:
    """If the canary did not pass its tests (the gate), say who made it the canary, and why."""
    if arm != CANARY or system.registry.passed_gate(version) is not None:
        return ""
    move = system.registry.aliases(version.model)[arm]
    return f", NOT GATED ({move.actor}: {move.why})"


def _ungated(system: System, version: Version, moved: Sequence[AliasMove]) -> str | None:
    """Say who deployed a version that did not pass its gate, and why. Return None if it passed."""
    if system.registry.passed_gate(version) is not None:
        return None
    by = [f"{move.actor}: {move.why}" for move in moved if move.version == version.id]
    return "; ".join(["it has no passed gate record", *by[-1:]])


def _phase(system: System, state: LoopState, name: str, *, promoted: bool) -> str:
    """Describe what the loop does. `promoted`: a promotion was its last decision, and no alarm stands."""
    if state.phase == "idle" and state.bake is not None:
        baked = system.registry.get(state.bake.version).name
        return f"idle; {baked} may be rolled back until {format_time(state.bake.until_us)}, if its service gets worse"
    if state.phase == "idle":
        quiet = is_before(system.clock.now_us(), until_us := state.alarm_quiet_until_us) and not promoted
        return "idle" + (f"; an alarm begins no training until {format_time(until_us)[:16]}" if quiet else "")
    if state.phase == APPROVAL and state.repair is not None and state.repair.successor is not None:
        waiting = system.registry.get(state.repair.successor).name
        until = f"for approval until {format_time(state.expires_us)}"
        if not is_before(system.clock.now_us(), state.expires_us):
            return f"{waiting} waited {until}; the next tick drops it, unless automation is frozen"
        first = "" if system.state.catalog.get(FREEZE, "all") is None else " (after: trimtab unfreeze)"
        return f"{waiting} waits {until}: trimtab approve {name}{first}, or trimtab reject {name} --why TEXT"
    if state.phase in (SHADOW_STAGE, CANARY_STAGE):
        stage = next(one for one in stages_of(system, name) if one.state == "now")
        tried = "?" if state.repair is None or state.repair.successor is None else state.repair.successor
        known = state.phase == SHADOW_STAGE and stage.until_us is not None  # a canary's stage says until when itself
        until = f" until {format_time(stage.until_us or 0)} at most" if known else ""
        return f"{system.registry.get(tried).name} in its {stage.name} stage{until}. {stage.said}"
    missing = f" Not yet: {state.lack}" if state.lack else ""
    when = "until {}" if state.ready_at_us > system.clock.now_us() else "(a training has been due since {})"
    return f"waiting {when.format(format_time(state.ready_at_us))}: {state.cause}{missing}"


def _ticking(system: System, name: str, since_us: int | None, now_us: int) -> list[str]:
    """Return an error if the last tick of a training loop failed, or was too long ago."""
    turn = last_activity(system.state.catalog, name)
    if turn is not None and turn.last_error is not None:
        return [f"the newest tick failed: {turn.last_error}"]
    ticked_us = turn.last_tick_us if turn is not None and turn.last_tick_us is not None else since_us
    if since_us is None or ticked_us is None or now_us - ticked_us <= _TICK_US:
        return []
    ago = format_duration((now_us - ticked_us) // HOUR_US * HOUR_US)
    return [f"the loop has not ticked for {ago}; run `trimtab serve`, or `trimtab tick` every hour"]


def _unwatched(loop: DeploymentLoop, version: str) -> str | None:
    """Return why the quality of the deployed version, or a part of it, is not monitored; None if all of it is."""
    watch = loop.monitor.watch
    if watch is None or watch.version != version:
        return "quality is not watched: the version in service was not promoted by the loop; run: trimtab train"
    missing = [kind for kind in loop.monitor.kinds if kind not in watch.figures and kind not in watch.healthy]
    if not missing:
        return None
    if watch.short is not None and len(watch.short.days) < TWO_WEEKS:
        return (
            f"{', '.join(missing)} not watched yet: the reference of the version has {len(watch.short.days)} days with "
            f"labels. Its next closed days are added until it has {TWO_WEEKS}"
        )
    window = format_duration(loop.deployment.gate.window_us)
    return (
        f"{', '.join(missing)} not watched: what is normal is learnt from the gate's window (the newest {window} of "
        "labelled days), which had too few days, or the same value on every day; train on more days"
    )


def _source(name: str, counts: SourceCounts, quarantined: dict[str, int], is_request: bool) -> SourceStatus:
    found = counts.of(name)
    return SourceStatus(
        name=name,
        is_request=is_request,
        events=found.events,
        newest=None if found.newest_us is None else format_time(found.newest_us),
        quarantined=quarantined,
        duplicates=found.duplicates,
        id_conflicts=found.id_conflicts,
        exact=found.exact and not counts.behind,
        uncounted=counts.behind,
    )
