"""Mute and unmute alerts. Each mute has an end and a reason, and is recorded in the ledger of decisions."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trimtab.app.system import System
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.records import Decision
from trimtab.core.time import DAY_US, SECOND_US, duration_us, format_time
from trimtab.monitoring.alerts.mutes import ANY, KIND, Mute, mutes
from trimtab.monitoring.alerts.runbook import RUNBOOK
from trimtab.monitoring.signals import listed_signals
from trimtab.steering.ledger import Entry, Ledger
from trimtab.store.ports import Put, Remove

_LONGEST_US = 90 * DAY_US
_HOW = "Give a model, a kind of signal or a subject; or MODEL/KIND or MODEL/KIND/SUBJECT, where * stands for any."


def mute(system: System, what: str, *, time: str | int, why: str, actor: str) -> Decision:
    """Mute the alerts about a signal or a model; see `Project.mute_alerts`."""
    _check_known(system, what)
    if not why.strip():
        raise Misuse(f"mute {what!r}: no reason is given. Give one: --why TEXT")
    length_us, now_us = duration_us(time), system.clock.now_us()
    if not 0 < length_us <= _LONGEST_US:
        raise Misuse(f"mute {what!r}: cannot last {time!r}. Give more than 0 and at most 90d; a mute can be renewed.")
    until_us = (now_us + length_us) // SECOND_US * SECOND_US
    made = Mute(what=what, until_us=until_us, why=why, by=actor, at_us=now_us)
    over = [one.what for one in mutes(system.state.catalog) if now_us - one.until_us > 7 * DAY_US]
    changes: list[Put | Remove] = [*(Remove(KIND, one) for one in over), Put(KIND, what, msgspec.json.encode(made))]
    return _write_row(system, made, "mute", f"{what} until {format_time(until_us)}: {why}", actor, changes)


def unmute(system: System, what: str, *, why: str, actor: str) -> Decision:
    """End a mute early; see `Project.unmute_alerts`."""
    now_us = system.clock.now_us()
    standing = {one.what: one for one in mutes(system.state.catalog) if now_us < one.until_us}
    if what not in standing:
        raise NotFound(f"unmute {what!r}: there is no such mute. Muted: {', '.join(standing) or 'nothing'}.")
    cause = f"{what}: {why or 'No reason was given.'}"
    return _write_row(system, standing[what], "unmute", cause, actor, [Remove(KIND, what)])


def _write_row(
    system: System, mute: Mute, act: str, cause: str, actor: str, changes: Sequence[Put | Remove]
) -> Decision:
    first = mute.what.partition("/")[0]
    row = Entry(
        at_us=system.clock.now_us(),
        model=first if first in system.definitions.deployments else "*",
        act=act,
        cause=cause,
        actor=actor,
        evidence={"what": mute.what, "until": format_time(mute.until_us)},
    )
    return Ledger(system.state.catalog).write([row], changes)[0]


def _check_known(system: System, what: str) -> None:
    """Raise an error if a mute names an unknown model, kind or subject (in MODEL/KIND/SUBJECT, any subject passes)."""
    signals = listed_signals(system.state.catalog)
    models = {*system.definitions.deployments, *(one.model for one in signals)}
    kinds = {*RUNBOOK, *(one.kind for one in signals)}
    model, slash, rest = what.partition("/")
    if not slash:
        if what not in {ANY, *models, *kinds, *(one.subject for one in signals if one.subject)}:
            raise NotFound(
                f"mute {what!r}: nothing has this name. {_HOW} Models: {_list(models)}; kinds: {_list(kinds)}."
            )
        return
    kind = rest.partition("/")[0]
    if model not in {ANY, *models}:
        raise NotFound(f"mute {what!r}: there is no model {model!r}. Models: {_list(models)}.")
    if kind not in {ANY, *kinds}:
        raise NotFound(f"mute {what!r}: there is no kind of signal {kind!r}. Kinds: {_list(kinds)}.")


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
