"""Compare the canary and the shadow that a person set with the version in service, on the same requests.  # D0236"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np

from trimtab.core.errors import Corrupt, Misuse, NotFound
from trimtab.core.records import Signal
from trimtab.core.shown import count_of
from trimtab.core.time import DAY_US
from trimtab.monitoring.signals import listed_signals, settle, stored
from trimtab.registry.protection import CHAMPION
from trimtab.serving.arms.arms import SHADOW, arm_shares
from trimtab.stats.inference.sequences import distance_seen
from trimtab.steering.candidates.builder import CandidateBuilder
from trimtab.steering.candidates.ports import ChampionFailed, DeploymentParts
from trimtab.steering.gate.shadow import LABELS_US, mean_loss, pooled_days
from trimtab.steering.loop_state import PairedDay
from trimtab.store.ports import Catalog, Put, Remove

KIND, SIGNAL = "arm_comparison", "arm_loss"
_KEPT_DAYS = 56  # older days are dropped, so that a long comparison follows the world
_LEVEL = 0.975  # confidence level of each bound, so 95 % of the interval
_HARMLESS = 0.005  # a loss that is higher by at most this share is no reason for a signal


class ArmComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The losses of an arm's version and of the version in service, on the same requests, by closed day."""

    version: str  # the id of the arm's version
    champion: str  # the id of the version in service
    since_us: int  # requests before this time are not compared, since one of the two did not yet have its role
    until_us: int  # days before this time are compared, as far as they have labels
    looked_us: int = 0  # when labels were last looked for
    days: tuple[PairedDay, ...] = ()
    failed: str = ""  # why the newest days could not be compared

    @property
    def of(self) -> tuple[str, str]:
        """The ids of the arm's version and of the version in service."""
        return self.version, self.champion

    @property
    def interval(self) -> tuple[float, float, float]:
        """The mean daily difference of the loss and its 95 % interval, as shares of the champion's loss.

        It may be read every day: the 95 % hold for all readings together until old days are dropped. Above 0, the arm
        is worse. Both bounds are infinite before the third day with 30 labels.

        Source: `trimtab.stats.inference.sequences`.
        """
        differences = np.array([one.difference for one in pooled_days(self.days)])
        level = mean_loss(self.days)
        if differences.size < 2 or not level:
            return float(differences.mean()) / level if differences.size and level else math.nan, -math.inf, math.inf
        mean, reach = differences.mean(), distance_seen(differences.size, differences.std(ddof=1), level=_LEVEL)
        return float(mean / level), float((mean - reach) / level), float((mean + reach) / level)

    def said(self, name: str) -> str:
        """Return the result in words. `name` is the name of the version in service."""
        if self.failed:
            return f"not compared with {name}: {self.failed}"
        rows = sum(one.rows for one in self.days)
        mean, low, high = self.interval
        if math.isnan(mean):
            return f"not compared with {name} yet: this needs closed days with 30 labels or more"
        on = f"on the same {count_of(rows, 'labelled request')} of {count_of(len(self.days), 'day')}"
        bounds = f"95 % interval {100 * low:+.1f} % to {100 * high:+.1f} %"
        bounds = bounds if math.isfinite(low) else "no interval before 3 days with 30 labels each"
        more = "higher" if mean > 0 else "lower"
        return f"its loss is {abs(100 * mean):.1f} % {more} than {name}'s {on} ({bounds})"


class ArmComparisons:
    """Compares the canary and the shadow that a person set with the version in service, after each closed day."""

    def __init__(self, parts: DeploymentParts, builder: CandidateBuilder, name_of: Callable[[str], str]) -> None:
        self._deployment, self._clock = parts.deployment, parts.clock
        self._catalog, self._registry = parts.catalog, parts.registry
        self._builder = builder
        self._name_of = name_of

    def tick(self, rolled_out: str | None) -> None:
        """Compare the days that were closed since the last call, and store the results and the signals.

        Args:
            rolled_out: The id of the version that the loop itself is rolling out, which has its own comparison.
        """
        name, now_us = self._deployment.name, self._clock.now_us()
        before = arm_comparisons(self._catalog, name)
        after = {
            arm: self._compared(
                known if (known := before.get(arm)) is not None and known.of == begun.of else begun, now_us
            )
            for arm, begun in self._begun(name, now_us).items()
            if begun.version not in (begun.champion, rolled_out)
        }
        if after == before:
            return
        changes: list[Put | Remove] = [Remove(KIND, f"{name}/{arm}") for arm in before.keys() - after.keys()]
        changes += [Put(KIND, f"{name}/{arm}", msgspec.json.encode(one)) for arm, one in after.items()]
        found = [one for arm, compared in after.items() if (one := self._signal(arm, compared, now_us)) is not None]
        because = {SIGNAL: "the interval of the difference no longer shows a higher loss, or the comparison ended"}
        listed, owner = listed_signals(self._catalog, name), self._deployment.owner
        settled = settle(listed, (SIGNAL,), found, now_us=now_us, because=because, owner=owner, renewing=(SIGNAL,))
        self._catalog.write([*changes, *stored(settled, now_us)])

    def _begun(self, name: str, now_us: int) -> dict[str, ArmComparison]:
        """Return the comparison that begins with each arm's present version; none for experiments and learners."""
        moves, learns = self._registry.aliases(name), self._deployment.learn == "online"
        if CHAMPION not in moves or learns or arm_shares(self._catalog, name).experiment is not msgspec.UNSET:
            return {}
        champion, found = moves[CHAMPION], {}
        for arm, version in self._builder.arms().items():
            since_us = max(champion.at_us, moves[arm].at_us, now_us - _KEPT_DAYS * DAY_US)
            found[arm] = ArmComparison(version=version, champion=champion.version, since_us=since_us, until_us=since_us)
        return found

    def _compared(self, known: ArmComparison, now_us: int) -> ArmComparison:
        """Return the comparison with the days that were closed since, some hours later, when their labels are there."""
        closed_us = self._deployment.model.label.closed_until(now_us - LABELS_US)
        if closed_us <= known.until_us or now_us - known.looked_us < LABELS_US:
            return known
        try:
            new, until_us = self._builder.comparisons.paired_days(known.version, known.champion, known.until_us, now_us)
        except (ChampionFailed, Corrupt, Misuse, NotFound) as error:
            return msgspec.structs.replace(known, looked_us=now_us, failed=str(error))
        # labels that come in files may be complete only up to an earlier day
        until_us = max(known.until_us, min(until_us, closed_us))
        days = (*known.days, *(one for one in new if one.day_us < until_us))[-_KEPT_DAYS:]
        return msgspec.structs.replace(known, until_us=until_us, looked_us=now_us, days=days, failed="")

    def _signal(self, arm: str, compared: ArmComparison, now_us: int) -> Signal | None:
        mean, low, high = compared.interval
        if compared.failed or not low > _HARMLESS:
            return None
        model, version = self._deployment.name, self._name_of(compared.version)
        message = f"{version} is the {arm}: {compared.said(self._name_of(compared.champion))}. "
        return Signal(
            id=f"{model}/{SIGNAL}/{arm}/{compared.version[:12]}/{now_us}",
            kind=SIGNAL,
            model=model,
            version=compared.version,
            raised_at_us=now_us,
            onset_us=compared.days[0].day_us,
            severity="info" if arm == SHADOW else "red",
            evidence={"difference": mean, "low": low, "high": high, "days": float(len(compared.days))},
            message=f"{message}To end the {arm}: trimtab {arm} {model} --share 0.",
            subject=arm,
        )


def arm_comparisons(catalog: Catalog, model: str) -> dict[str, ArmComparison]:
    """Return the stored comparisons of a model's arms, by arm."""
    records = catalog.find(KIND, f"{model}/")
    return {record.key.partition("/")[2]: msgspec.json.decode(record.body, type=ArmComparison) for record in records}
