"""The signals of a project: which signals stand, and when each signal began and ended."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from trimtab.core.records import Signal
from trimtab.core.time import DAY_US
from trimtab.store.ports import Append, Catalog, Put, Remove

KIND = "signal"  # kind of the records of signals that stand or ended lately
JOURNAL = "signals"  # journal of every beginning, change and end, in order
LISTED_US = 7 * DAY_US  # how long a signal stays listed after its end
OVER = "it is no longer found"


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """The changes of signals that one look of a monitor made."""

    begun: list[Signal] = []  # new signals, and signals that went from info to red
    ended: list[Signal] = []
    gone: list[Signal] = []  # signals that ended long ago and are no longer listed
    listed: list[Signal] = []  # all signals that stand now or ended lately


def listed_signals(catalog: Catalog, model: str | None = None) -> list[Signal]:
    """The signals that stand, and those that ended within seven days before the newest look, oldest first."""
    records = catalog.find(KIND, "" if model is None else f"{model}/")
    found = [msgspec.json.decode(record.body, type=Signal) for record in records]
    return sorted(found, key=lambda signal: (signal.raised_at_us, signal.id))


def standing_signals(catalog: Catalog, model: str | None = None) -> list[Signal]:
    """The signals that stand, oldest first."""
    return [signal for signal in listed_signals(catalog, model) if signal.ended_at_us is None]


def every_signal(catalog: Catalog) -> list[Signal]:
    """All signals that were ever raised, in the order of their beginnings, each in its present state."""
    found: dict[str, Signal] = {}
    after = 0
    while entries := catalog.journal(JOURNAL, after=after):
        for entry in entries:
            signal = msgspec.json.decode(entry.body, type=Signal)
            found[signal.id] = signal
        after = entries[-1].sequence
    return list(found.values())


def settle(
    listed: Sequence[Signal],
    kinds: Collection[str],
    found: Sequence[Signal],
    *,
    now_us: int,
    because: Mapping[str, str] | None = None,
    owner: str | None = None,
) -> Settled:
    """Compare what a monitor finds now with the signals that stood: new signals begin, missing signals end.

    Signals with the same version, kind and subject are the same signal. This function stores nothing: see `stored`.

    Args:
        listed: The signals of the model, from `listed_signals`.
        kinds: The kinds that this monitor finds; signals of other kinds stay as they are.
        found: Everything that is wrong now.
        now_us: The time of the look.
        because: By kind, why a signal that is no longer found has ended.
        owner: The owner of the signals that begin.
    """
    before = {_identity(one): one for one in listed if one.ended_at_us is None and one.kind in kinds}
    now = {_identity(one): one for one in found}
    begun = [one for key, one in now.items() if key not in before or _became_red(one, before[key])]
    others = [one for one in listed if one.ended_at_us is None and one.kind not in kinds]
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
    gone = [one for one in listed if one.ended_at_us is not None and now_us - one.ended_at_us > LISTED_US]
    after = {one.id: one for one in [*listed, *begun, *ended] if one not in gone}
    return Settled(begun=begun, ended=ended, gone=gone, listed=list(after.values()))


def stored(settled: Settled, now_us: int) -> list[Put | Remove | Append]:
    """The writes that store the changes of a look; write them together with the state of the monitor."""
    changes: list[Put | Remove | Append] = []
    for one in [*settled.begun, *settled.ended]:
        body = msgspec.json.encode(one)
        changes += [Put(KIND, _key(one), body), Append(JOURNAL, now_us, body)]
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
    """`settle` for the signals of a model that the catalogue lists, and the writes that store the result."""
    settled = settle(listed_signals(catalog, model), kinds, found, now_us=now_us, because=because, owner=owner)
    return settled, stored(settled, now_us)


def _cause(signal: Signal, others: Sequence[Signal]) -> str | None:
    """The red signals that stood when a change began and may explain it: faults of inputs, labels or traffic."""
    if signal.cause is not None:
        return signal.cause
    found = [one for one in others if one.severity == "red" and one.onset_us <= signal.onset_us + DAY_US]
    said = [f"{one.kind} of {one.subject}" if one.subject else one.kind for one in found]
    return "; ".join(dict.fromkeys(said)) or None


def _identity(signal: Signal) -> tuple[str, str, str]:
    return signal.version, signal.kind, signal.subject


def _became_red(now: Signal, before: Signal) -> bool:
    return now.severity == "red" and before.severity == "info"


def _as_begun(now: Signal, before: Signal | None) -> Signal:
    """A signal that became red, with the identifier and the time of its beginning kept."""
    return now if before is None else msgspec.structs.replace(now, id=before.id, raised_at_us=before.raised_at_us)


def _key(signal: Signal) -> str:
    return f"{signal.model}/{signal.id}"
