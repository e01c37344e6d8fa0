"""Begin and end signals about skew. There is at most one open signal for each version and cause."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from trimtab.app.inspect.skew_report import Agreement
from trimtab.core.records import Signal
from trimtab.core.time import DAY_US
from trimtab.features.skew import share
from trimtab.monitoring.signals import listed_signals, settle_signals
from trimtab.store.ports import Append, Catalog, Put, Remove

SIGNAL = "skew"  # the kind of all signals made here
_ENOUGH = 3.0  # where 3 differences are expected, finding none has a probability of 1 in 20 (Poisson)
_GONE_US = DAY_US  # a signal ends when no predictions of its version were compared for this long
_OVER = "newer predictions agree again, or the version no longer makes predictions"


class Difference(msgspec.Struct):
    """The values of one version that differ for the same cause."""

    mismatches: int  # the number of these values
    first_us: int  # the time of the oldest prediction with such a value
    newest_us: int  # the time of the newest one
    line: str  # the first difference, as text


class Compared(msgspec.Struct):
    """The number of values that a check compared for one version, and the differences that it found."""

    values: int = 0
    red: dict[str, Difference] = {}  # the differences by cause, for causes that need action


def settle_skew(
    catalog: Catalog,
    model: str,
    versions: Mapping[str, Compared],
    agreed: Mapping[str, Agreement],
    *,
    found: str,
    owner: str | None,
    now_us: int,
) -> tuple[list[Put | Remove | Append], dict[str, Agreement]]:
    """Return the writes that begin and end signals, and the new values of `agreed`.

    A signal records the share of values that differed. It ends when so many values in a row agree in later checks that
    three differences would be expected among them at that share, or when no prediction of its version was compared for
    a day. After its end, only a difference in a prediction that was made later begins a new signal.

    Args:
        versions: The result of the check, by version id.
        agreed: For each open signal, how many values had agreed since its last difference, before this check.
        found: The result of the check in a few words, for the message.
    """
    listed = [one for one in listed_signals(catalog, model) if one.kind == SIGNAL]
    over_us = {one.id.rpartition("/")[0]: one.ended_at_us for one in listed if one.ended_at_us is not None}
    standing = {one.id.rpartition("/")[0]: one for one in listed if one.ended_at_us is None}
    standing_now: list[Signal] = []
    after: dict[str, Agreement] = {}
    for version, compared in sorted(versions.items()):
        for cause, difference in sorted(compared.red.items()):
            name = f"{SIGNAL}/{model}/{version[:12]}/{cause}"
            if name in standing or difference.newest_us > (over_us.get(name) or difference.newest_us - 1):
                standing_now.append(_signal(name, model, version, cause, compared, found=found, now_us=now_us))
                after[name] = Agreement(0, now_us)
    for name in standing.keys() - after.keys():
        signal, known = standing[name], agreed.get(name, Agreement(0, standing[name].raised_at_us))
        newer = versions[signal.version].values if signal.version in versions else 0
        if newer:
            known = Agreement(known.values + newer, now_us)
        enough = known.values * signal.evidence["mismatches"] >= _ENOUGH * signal.evidence["values"]
        if not enough and now_us - known.compared_us < _GONE_US:
            standing_now.append(signal)
            after[name] = known
    because = {SIGNAL: _OVER}
    _, changes = settle_signals(catalog, model, (SIGNAL,), standing_now, now_us=now_us, because=because, owner=owner)
    return changes, after


def _signal(name: str, model: str, version: str, cause: str, compared: Compared, *, found: str, now_us: int) -> Signal:
    one = compared.red[cause]
    differing = share(one.mismatches, compared.values)
    return Signal(
        id=f"{name}/{now_us}",
        kind=SIGNAL,
        model=model,
        version=version,
        raised_at_us=now_us,
        onset_us=one.first_us,
        severity="red",
        evidence={
            "values": float(differing.values),
            "mismatches": float(differing.mismatches),
            "share_low": differing.low,
            "share_high": differing.high,
        },
        message=f"{found}. First: {one.line}",
        subject=f"cause {cause}",
    )
