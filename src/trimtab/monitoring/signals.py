"""Signals (findings of monitors): which of them hold now, and when each began and ended."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from trimtab.core.records import Signal
from trimtab.core.time import DAY_US
from trimtab.store.ports import Append, Catalog, Put, Remove

KIND = "signal"  # the kind of catalogue records of signals that hold now or ended recently
JOURNAL = "signals"  # the journal: one entry each time a signal begins, becomes red or ends
LISTED_US = 7 * DAY_US  # how long a signal stays in the list after its end
OVER = "the cause is no longer found"
# kinds with these beginnings are about losses and labels, which cause nothing else
_EFFECTS = ("quality_", "estimated_loss", "no_labels", "unlisted_labels", "arm_loss")


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `settle`."""

    begun: list[Signal] = []  # signals that are new, or that became red
    renewed: list[Signal] = []  # signals that go on, with other numbers in their message
    ended: list[Signal] = []
    gone: list[Signal] = []  # signals that ended long ago, and are taken off the list
    listed: list[Signal] = []  # all signals that hold now or ended recently


def listed_signals(catalog: Catalog, model: str | None = None) -> list[Signal]:
    """Return the signals that hold now or ended within the last seven days, oldest first."""
    records = catalog.find(KIND, "" if model is None else f"{model}/")
    found = [msgspec.json.decode(record.body, type=Signal) for record in records]
    return sorted(found, key=lambda signal: (signal.raised_at_us, signal.id))


def standing_signals(catalog: Catalog, model: str | None = None) -> list[Signal]:
    """Return the signals that hold now, oldest first."""
    return [signal for signal in listed_signals(catalog, model) if signal.ended_at_us is None]


def every_signal(catalog: Catalog, model: str | None = None, *, since_us: int = 0) -> list[Signal]:
    """Return all signals that were ever raised, each in its newest state, in the order in which they were raised.

    With `model`, only those of one model. Signals that ended before `since_us` are left out.
    """
    found: dict[str, Signal] = {}
    after = 0
    while entries := catalog.journal(JOURNAL, after=after):
        for entry in entries:
            signal = msgspec.json.decode(entry.body, type=Signal)
            found[signal.id] = signal
        after = entries[-1].sequence
    listed = {one.id: one for one in listed_signals(catalog)}  # these have the newest numbers
    return [
        one
        for one in {**found, **listed}.values()
        if model in (None, one.model) and (one.ended_at_us is None or one.ended_at_us >= since_us)
    ]


def settle(
    listed: Sequence[Signal],
    kinds: Collection[str],
    found: Sequence[Signal],
    *,
    now_us: int,
    because: Mapping[str, str] | None = None,
    owner: str | None = None,
    renewing: Collection[str] = (),
    earlier: Sequence[Signal] = (),
) -> Settled:
    """Compare what a monitor finds now with its earlier signals. New signals begin, and those not found again end.

    Two signals are the same if they have the same version, kind and subject. An open signal keeps its message, unless
    its kind is in `renewing`. It changes if it was "info" and is now found as "red"; a red one stays red until it is
    not found at all. Nothing is stored by this call; use `stored`.

    Args:
        listed: The signals of the model, from `listed_signals`.
        kinds: All kinds of signals that this monitor can find. Listed signals of other kinds do not end.
        found: Everything that the monitor finds now, only of these kinds.
        because: For each kind, the reason that is stored for signals that end; by default, `OVER`.
        owner: The owner of signals that begin without one.
        renewing: Kinds of signals whose message, onset and evidence are always those that were found last.
        earlier: Signals that ended before, and that may be causes, too.
    """
    before = {_identity(one): one for one in listed if one.ended_at_us is None and one.kind in kinds}
    now = {_identity(one): one for one in found}
    begun = [one for key, one in now.items() if key not in before or _became_red(one, before[key])]
    others = [one for one in (*listed, *earlier) if one.kind not in kinds and not one.kind.startswith(_EFFECTS)]
    begun = [
        msgspec.structs.replace(
            _as_begun(one, before.get(_identity(one))), owner=one.owner or owner, cause=_cause(one, others)
        )
        for one in begun
    ]
    ended = [
        msgspec.structs.replace(one, ended_at_us=now_us, ended_because=(because or {}).get(one.kind, OVER))
        for key, one in before.items()
        if key not in now
    ]
    new = {one.id for one in begun}
    renewed = [
        msgspec.structs.replace(before[key], message=one.message, onset_us=one.onset_us, evidence=one.evidence)
        for key, one in now.items()
        if key in before and one.kind in renewing and before[key].id not in new and one.message != before[key].message
    ]
    gone = [one for one in listed if one.ended_at_us is not None and now_us - one.ended_at_us > LISTED_US]
    after = {one.id: one for one in [*listed, *begun, *renewed, *ended] if one not in gone}
    return Settled(begun=begun, renewed=renewed, ended=ended, gone=gone, listed=list(after.values()))


def stored(settled: Settled, now_us: int) -> list[Put | Remove | Append]:
    """Return the changes that store the result of `settle`. Write them together with the state of the monitor."""
    changes: list[Put | Remove | Append] = []
    for one in [*settled.begun, *settled.ended]:
        body = msgspec.json.encode(one)
        changes += [Put(KIND, _key(one), body), Append(JOURNAL, now_us, body)]
    changes += [Put(KIND, _key(one), msgspec.json.encode(one)) for one in settled.renewed]
    return [*changes, *(Remove(KIND, _key(one)) for one in settled.gone)]


def settle_signals(
    catalog: Catalog,
    model: str,
    kinds: Collection[str],
    found: Sequence[Signal],
    *,
    now_us: int,
    because: Mapping[str, str] | None = None,
    owner: str | None = None,
) -> tuple[Settled, list[Put | Remove | Append]]:
    """Apply `settle` to the listed signals of a model. Return the result, and the changes that store it."""
    settled = settle(listed_signals(catalog, model), kinds, found, now_us=now_us, because=because, owner=owner)
    return settled, stored(settled, now_us)


def _cause(signal: Signal, others: Sequence[Signal]) -> str | None:
    """Return the signal's own cause, or other red signals from up to a day after its onset that lasted until it."""
    if signal.cause is not None:
        return signal.cause
    found = [one for one in others if one.severity == "red" and one.onset_us <= signal.onset_us + DAY_US]
    found = [one for one in found if one.ended_at_us is None or one.ended_at_us > signal.onset_us]
    said = [f"{one.kind} of {one.subject}" if one.subject else one.kind for one in found]
    return "; ".join(dict.fromkeys(said)) or None


def _identity(signal: Signal) -> tuple[str, str, str]:
    return signal.version, signal.kind, signal.subject


def _became_red(now: Signal, before: Signal) -> bool:
    return now.severity == "red" and before.severity == "info"


def _as_begun(now: Signal, before: Signal | None) -> Signal:
    """Return a signal that is new or became red. If it became red, it keeps the id and `raised_at_us` of `before`."""
    return now if before is None else msgspec.structs.replace(now, id=before.id, raised_at_us=before.raised_at_us)


def _key(signal: Signal) -> str:
    return f"{signal.model}/{signal.id}"
