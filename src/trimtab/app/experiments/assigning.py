"""Assign units, record their exposures, and show the experiments of a project."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.app.models.experiment_split import assigner_of
from trimtab.core.errors import Misuse
from trimtab.core.shown import shown
from trimtab.core.time import DAY_US, format_duration, format_time
from trimtab.experiments.assignment import Assigner, Assignment, Reason, check_row
from trimtab.experiments.days import (
    EARLY_US,
    LATE_AFTER,
    LATE_US,
    allow_late,
    end_us,
    intake_end_us,
    longest_wait_us,
    stored_reached,
)
from trimtab.experiments.definitions import Experiment
from trimtab.experiments.exposures import log_exposures, newest_at_us
from trimtab.experiments.records import (
    KIND,
    ExperimentState,
    ExperimentStatus,
    Exposure,
    experiment_state,
    stored_definition,
)
from trimtab.registry.protection import CHAMPION
from trimtab.serving.arms.arms import arm_shares
from trimtab.steering.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from trimtab.app.experiments.past_exposures import At
    from trimtab.app.system import System
    from trimtab.experiments.eligibility import EligibilityReader
    from trimtab.store.ports import Log

_LOOK_S = 0.5  # if the catalogue cannot tell whether it has changed, rules are compiled again after this time


class Rule(msgspec.Struct, frozen=True, eq=False):
    """The compiled rule by which an experiment assigns units now."""

    assigner: Assigner
    generation: int  # the number of the experiment's newest start; 0 before the first
    reader: EligibilityReader | None = None  # None: the experiment reads no features, or is not running
    closed_until_us: int = 0  # the days before this time are closed
    wait_us: int = 0  # how long after its end a day is closed
    end_us: int = sys.maxsize  # from this time on no more units are taken in

    def refusal(self, at_us: int, logged_us: int) -> Reason | None:
        """Return why an exposure at `at_us` that is logged at `logged_us` does not count; None if it counts."""
        if at_us >= self.end_us:
            return "planned end"
        is_late = at_us < self.closed_until_us or logged_us > (at_us // DAY_US + 1) * DAY_US + self.wait_us
        return "day is closed" if is_late else None

    def answer(self, found: Assignment, at_us: int, logged_us: int) -> Assignment:
        """Return an assignment that says whether an exposure at `at_us` counts."""
        if not found.takes_part or (why := self.refusal(at_us, logged_us)) is None:
            return found
        return msgspec.structs.replace(found, takes_part=False, reason=why)


class Rules:
    """The rules by which a project's experiments assign units. They are compiled again if the catalogue has changed.

    Threads may share them.
    """

    def __init__(self, system: System) -> None:
        self._system = system
        self._mutex = threading.Lock()
        self._mark: Hashable = None
        self._of: dict[str, Rule] = {}
        self._logged_us: int | None = None  # the newest append time in the log, as far as known; None: not read yet
        self._caught: Hashable = None  # the mark of the state at which online features were last brought up to date

    @cached_property
    def log(self) -> Log:
        """The log of exposures."""
        with self._mutex:  # two threads that need the log for the first time must get the same object
            return self._system.state.exposures

    def of(self, name: str) -> Rule:
        """Return the rule of an experiment as it is now.

        Raises:
            NotFound: There is no such experiment.
        """
        system, catalog = self._system, self._system.state.catalog
        mark: Hashable = catalog.mark()  # read before the rules, so that a later change is seen by the next call
        if mark is None:
            mark = system.clock.now_us() // round(_LOOK_S * 1e6)
        if mark != self._mark:
            self._mark, self._of = mark, {}
        rules = self._of
        if name not in rules:
            state = experiment_state(catalog, name)
            served = state is None or not _other_version_serves(system, state)
            rule = assigner_of(catalog, system.config, system.definitions, name, winner_serves=served)
            reader = None if state is None or state.phase != "running" else system.eligibility(rule.definition)
            rules[name] = Rule(rule, 0)
            if state is not None:
                closed_until_us = stored_reached(catalog, state)[0].closed_until_us
                wait_us = longest_wait_us(placed(system, rule.definition).metrics)
                planned_us = intake_end_us(state, rule.definition)
                rules[name] = Rule(rule, state.generation, reader, closed_until_us, wait_us, planned_us)
        return rules[name]

    def logged_us(self, now_us: int) -> int:
        """Return the time that an exposure gets if it is logged now."""
        if self._logged_us is None:
            self._logged_us = newest_at_us(self.log)
        self._logged_us = max(self._logged_us, now_us)  # the log gives no record an earlier time than the newest
        return self._logged_us

    def log_all(self, name: str, exposures: Sequence[Exposure], now_us: int) -> None:
        """Log exposures. If some are more than a day old (`LATE_US`), call `allow_late` first, so that they count."""
        if not exposures:
            return
        late_us = self.logged_us(now_us) - min(one.at_us for one in exposures)
        catalog = self._system.state.catalog
        if late_us > LATE_US and (state := experiment_state(catalog, name)) is not None:
            allow_late(catalog, state, late_us)
        log_exposures(self.log, exposures)

    def known(self, rule: Rule, rows: Sequence[dict[str, Any]], now_us: int) -> Sequence[tuple[dict[str, Any], str]]:
        """Return each row with the features that the rule needs, as of now, and a text that names the missing ones."""
        definition = rule.assigner.definition
        if rule.reader is None:  # features are not read now, so all of them are null
            return [({**dict.fromkeys(definition.feature_types), **row}, "") for row in rows]
        mark = self._system.state.mark()
        if mark is None or mark != self._caught:
            self._system.views.catch_up()  # does nothing if another process or thread applies events
            self._caught = mark
        return rule.reader.with_features(rows, now_us)


def assign(system: System, name: str, unit: object) -> Assignment:
    """Return the variant of a unit; see `Project.assign`."""
    rules, now_us = system.part(Rules), system.clock.now_us()
    rule = rules.of(name)
    row = check_row(rule.assigner.definition, unit)
    if rule.reader is not None:
        ((row, _),) = rules.known(rule, [row], now_us)
    return rule.answer(rule.assigner.assign(row, now_us), now_us, now_us)


def expose(
    system: System, name: str, units: Iterable[object], *, not_shown: str = "", at: At | Sequence[At] | None = None
) -> list[Assignment]:
    """Return the variants of units, and log the exposures of all or of none; see `Project.expose_units`."""
    if isinstance(units, str | bytes | Mapping):
        raise Misuse(f"experiment {name!r}: units={shown(units)[:100]} is one unit. Give a list, or call expose().")
    units, rules, now_us = list(units), system.part(Rules), system.clock.now_us()
    rule = rules.of(name)
    assigner, definition = rule.assigner, rule.assigner.definition
    if definition.model is not None:
        raise Misuse(
            f"experiment {name!r}: its exposures are the predictions of {definition.model!r}, which are logged. Do "
            "not call expose()."
        )
    if not isinstance(not_shown, str):  # the log would be unreadable
        raise Misuse(
            f"experiment {name!r}: not_shown={shown(not_shown)[:100]}. Give a reason as a text, or leave it out."
        )
    if at is not None:
        from trimtab.app.experiments.past_exposures import past_exposures  # loads NumPy

        logged_us = rules.logged_us(now_us)
        found, met = past_exposures(system, name, units, at, not_shown, lambda at: rule.refusal(at, logged_us))
        rules.log_all(name, met, now_us)
        return found
    rows = []
    for number, unit in enumerate(units):
        try:
            rows.append(check_row(definition, unit))
        except Misuse as error:
            if len(units) == 1:
                raise
            raise Misuse(f"units[{number}]: {error}") from error
    known, logged_us = rules.known(rule, rows, now_us), rules.logged_us(now_us)
    if rule.refusal(now_us, logged_us) is None:
        made = [
            assigner.exposure(row, now_us, rule.generation, reason=not_shown, missing=missing) for row, missing in known
        ]
        rules.log_all(name, [one for one in made if one is not None], now_us)
    return [rule.answer(assigner.assign(row, now_us), now_us, logged_us) for row, _ in known]


def experiments(system: System) -> list[ExperimentStatus]:
    """Return all experiments: those that are declared, and then those that were started and are not declared now."""
    started = [record.key for record in system.state.catalog.find(KIND)]
    return [experiment_status(system, name) for name in dict.fromkeys([*system.definitions.experiments, *started])]


def experiment_status(system: System, name: str) -> ExperimentStatus:
    """Return an experiment as it is now.

    Raises:
        NotFound: There is no such experiment.
    """
    state = experiment_state(system.state.catalog, name)
    if state is None:
        definition = system.definitions.experiment(name)
        weights = dict(zip(definition.variants, definition.weights, strict=True))
        share = definition.share
    else:
        definition = stored_definition(state)
        weights, share = state.allocations[-1].weights, state.allocations[-1].share
    return ExperimentStatus(
        name=name,
        phase="not started" if state is None else state.phase,
        unit=definition.unit,
        variants=definition.variants,
        weights=weights,
        share=share,
        model=definition.model,
        layer=definition.layer,
        generation=0 if state is None else state.generation,
        started_at_us=None if state is None else state.started_at_us,
        ended_at_us=None if state is None else state.ended_at_us,
        winner=None if state is None else state.winner,
        note="" if state is None else "; ".join([*filter(None, [cannot_close(system, state)]), *notes(system, state)]),
    )


def cannot_close(system: System, state: ExperimentState) -> str | None:
    """Return why the days of an experiment cannot be closed, and what to do; None if they can, or all are closed."""
    definition = stored_definition(state)
    reached, _ = stored_reached(system.state.catalog, state)
    if reached.closed_until_us >= end_us(state, definition):
        return None
    lacks = lacking(system, definition)
    if lacks is None:
        return None
    if state.phase in ("running", "paused"):
        return f"no day can be closed: the project file lacks {lacks}. Declare it again, or stop the experiment"
    return f"the last days could not be closed: the project file lacks {lacks}. Declare it again to close them"


def lacking(system: System, definition: Experiment) -> str | None:
    """Return the first source, column or deployment that an experiment needs and the project file does not declare.

    None: all are declared.
    """
    sources = system.declared.sources
    for one in definition.metrics:
        if one.source is None:
            continue
        if one.source.name not in sources:
            return f"source {one.source.name!r}, which metric {one.name!r} reads"
        if columns := [name for name in one.read if name not in sources[one.source.name].columns]:
            return f"column {columns[0]!r} of {one.source.name!r}, which metric {one.name!r} reads"
    for model in definition.models:
        if model not in system.declared.deployments:
            return f"the deployment of {model!r}, which is compared"
    return None


def placed(system: System, definition: Experiment) -> Experiment:
    """Return a definition whose metrics read the sources as declared now, with columns at their stored positions."""
    sources = system.definitions.sources
    metrics = [
        one if one.source is None else msgspec.structs.replace(one, source=sources.get(one.source.name, one.source))
        for one in definition.metrics
    ]
    return msgspec.structs.replace(definition, metrics=tuple(metrics))


def notes(system: System, state: ExperimentState) -> list[str]:
    """Return texts about an experiment that need a person's attention, such as that its planned time is over."""
    definition = stored_definition(state)
    if definition.deployments and state.phase == "concluded" and state.winner not in (None, definition.control):
        won, model, declared = definition.variants[str(state.winner)], definition.model, system.declared.deployments
        served = (
            f"requests to {model} are answered by {model} again" if model in declared else f"{model} is not declared"
        )
        what = f"let clients call {won}" if won in declared else f"{won} is not declared, either"
        return [f"{state.winner} won, but {served}: {what}"]
    if state.phase not in ("running", "paused"):
        if state.promotion in ("", "promoted") or not _other_version_serves(system, state):
            return []
        version = definition.variants[str(state.winner)]
        return [
            f"{state.winner} won, but {version} is not in service, and all units get the champion: {state.promotion}"
        ]
    planned_us = intake_end_us(state, definition)
    found = [_note(system, state, definition)]
    if system.clock.now_us() >= planned_us:
        open_us = planned_us + definition.window_us
        wait = (
            f"wait until {format_time(open_us)[:16].replace('T', ' ')}, when the windows of its last units end, then "
        )
        over = wait if system.clock.now_us() < open_us else ""
        found.append(f"its planned time is over, so no more units count: {over}conclude or stop it")
    until_us = stored_reached(system.state.catalog, state)[0].closed_until_us
    if until_us > system.clock.now_us():
        found.append(
            f"days before {format_time(until_us)[:10]} were closed by a process whose clock was ahead, so units "
            "exposed before that do not count: stop it and start it again"
        )
    kept_us, wait_us = system.config.retention.predictions_us, longest_wait_us(placed(system, definition).metrics)
    if kept_us is not None and kept_us <= wait_us + (1 + LATE_AFTER[0]) * DAY_US:
        found.append(
            "exposures are not kept long enough ([retention] predictions) to look for events that come after their day "
            f"was closed; keep them for {format_duration(wait_us + (1 + LATE_AFTER[-1]) * DAY_US)} to count these"
        )
    newest_us = newest_at_us(system.state.exposures)
    if newest_us > system.clock.now_us() + EARLY_US:
        found.append(
            f"exposures were logged at {format_time(newest_us)}, which is later than now: the clock was set back. "
            "Until it reaches this time, new exposures are logged with this time, and only count if their day is "
            "closed after it"
        )
    if state.started_at_us > system.clock.now_us():
        found.append(
            "it was started by a process whose clock was ahead, and no unit counts yet: stop it and start it again"
        )
    return [one for one in found if one]


def _other_version_serves(system: System, state: ExperimentState) -> bool:
    """Return whether a version won, and another one is in service."""
    definition = stored_definition(state)
    if state.winner in (None, definition.control) or not state.versions or definition.deployments:
        return False
    champion = system.registry.alias(str(definition.model), CHAMPION)
    return champion is not None and champion.id != state.versions[str(state.winner)]


def _note(system: System, state: ExperimentState, definition: Experiment) -> str:
    model = definition.model
    declared = system.declared.experiments.get(state.name)
    if declared is None:
        return "the project file does not declare it any more: stop it, or declare it again"
    if declared.hash != state.hash and lacking(system, definition) is not None:
        return ""  # `cannot_close` says what to do
    if declared.hash != state.hash:
        return "the definition changed since the start: stop and start it again (units are assigned again)"
    if model is not None and arm_shares(system.state.catalog, model).experiment != state.name:
        split = "split" if definition.deployments else "canary"
        return f"its {split} was ended, so the champion answers all requests: stop the experiment"
    champion = None if model is None or definition.deployments else system.registry.alias(model, CHAMPION)
    if champion is not None and champion.id != state.versions.get(definition.control):
        if champion.id in state.versions.values():
            return "a treatment's version is the champion now, so it equals the control: stop the experiment"
        return "the champion changed since the start, so the control of newer days is another version than before"
    if champion is not None and _champion_changed(system, state, str(model)):
        return "the champion changed since the start and changed back, so on some days the control is another version"
    return ""


def _champion_changed(system: System, state: ExperimentState, model: str) -> bool:
    """Return whether another version was put in service since the start, whichever is in service now."""
    rows = Ledger(system.state.catalog).rows()
    acts = ("promote", "roll_back")
    return any(row.model == model and row.act in acts and row.at_us > state.started_at_us for row in rows)
