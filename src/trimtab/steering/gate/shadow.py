"""The shadow: before a new version takes over, it is compared with the champion day by day. # D0199"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from trimtab.core.time import DAY_US, HOUR_US
from trimtab.stats.inference.sequences import PairedSequence, distance_seen, paired_sequence
from trimtab.stats.metrics.losses import Loss
from trimtab.steering.gate.checks import percent
from trimtab.steering.gate.window import Floats, Window
from trimtab.steering.ledger import Evidence
from trimtab.steering.loop_state import PairedDay, Repair
from trimtab.steering.rollouts import Rollout

LEAST_ROWS = 30  # a day with fewer labels is combined with the next day
LABELS_US = 6 * HOUR_US  # labels that are due at midnight may still be loaded for this long
TOLERATED = 0.1  # a successor that is worse by at most this share of the margin is not rejected  # D0199
CONFIRMING_DAYS = 3  # from this many days on, a shadow can confirm the improvement that the gate proved  # D0199
_TABLE = (1, 3, 7, 14, 28)  # the durations, in days, in the table of a refusal


def compared_days(metric: Loss, window: Window, scores: Floats, champion: Floats) -> tuple[PairedDay, ...]:
    """Return the comparison of two models for each day.

    Args:
        window: The times, labels and lists of the rows.
        scores: The scores of the successor (the new version), shape (rows,).
        champion: The scores of the champion, shape (rows,).
    """
    own, rows = window.losses(metric, scores)
    other, _ = window.losses(metric, champion)
    days = window.at_us[rows] // DAY_US
    return tuple(
        PairedDay(
            day_us=int(day) * DAY_US,
            rows=int((days == day).sum()),
            difference=float((own - other)[days == day].mean()),
            champion=float(other[days == day].mean()),
        )
        for day in np.unique(days)
    )


def judged(rollout: Rollout, days: Sequence[PairedDay], repair: Repair) -> PairedSequence:
    """Test on the days up to now whether to promote, reject or hold a successor.

    The test is valid even if it is repeated every day. It rejects a successor whose mean daily loss provably exceeds
    the champion's by more than a tenth of the margin, and promotes one that is provably within the margin. If the gate
    proved that the candidate is better, the successor is also promoted after three days on which its mean loss was
    lower by at least what the gate proved: proving it again would take weeks if there are few labels. How much
    daily differences vary is estimated from the shadow's days and those of the gate, which compared the champion with
    the candidate (of the successor's recipe). The gate's days are not used if another version scored them in place of
    the champion: if it was the candidate itself, all differences are 0.

    Args:
        rollout: The declared rollout, with its margin and the least duration.
        days: The days of the shadow, oldest first.
        repair: The successor (the new version), with the days of the gate.

    Source: `trimtab.stats.inference.sequences`.
    """
    pooled = pooled_days(days)
    before = () if repair.stood_in else repair.gate_days
    margin = rollout.margin * level_of(repair)  # fixed before the shadow begins
    least = (rollout.shadow_us or DAY_US) // DAY_US
    earlier = [one.difference for one in pooled_days(before)]
    differences = [one.difference for one in pooled]
    found = paired_sequence(differences, margin=margin, tolerated=TOLERATED * margin, earlier=earlier, least=least)
    confirmed = len(pooled) >= max(least, CONFIRMING_DAYS) and found.mean <= repair.proved < 0.0
    if found.verdict == "hold" and confirmed:
        return msgspec.structs.replace(found, verdict="promote", decided=len(pooled))
    return found


def visible(before: Sequence[PairedDay], days: int) -> float:
    """Return the smallest difference that a shadow of `days` days can detect, as a share of the champion's loss.

    `before` has the days of the gate, which show how much daily differences vary. Infinity: no difference is detected.
    """
    pooled = pooled_days(before)
    if len(pooled) < 2:
        return float("inf")
    spread = float(np.std([one.difference for one in pooled], ddof=1))
    merged = len(before) / len(pooled)  # days with few labels are combined
    comparisons = int(days / merged)
    if comparisons < 1:
        return float("inf")
    return distance_seen(comparisons, spread, known=len(pooled) - 1) / (mean_loss(before) or 1.0)


def hopeless(rollout: Rollout | None, before: Sequence[PairedDay], *, stood_in: bool = False) -> str | None:
    """Return why a shadow could not decide within its longest time, with a table; None if it could, or need not.

    It can decide if the smallest difference that it detects (see `visible`) is below the margin plus the candidate's
    gain. The gain is the share by which the candidate's loss was lower than the champion's on the days of the gate.

    Args:
        rollout: The declared rollout. If it has no shadow, the result is None.
        before: The days of the gate, which show how much daily differences vary. Without any, the result is None.
        stood_in: Whether another version scored these days in place of the champion. Then they do not show how much
            differences from the champion vary, and the result is None.
    """
    if rollout is None or rollout.shadow_us is None or not before or stood_in:
        return None
    within = rollout.within_us // DAY_US
    level = mean_loss(before)
    better = max(0.0, -_mean_difference(before) / level) if level else 0.0
    if visible(before, within) < rollout.margin + better:
        return None
    labels = sum(one.rows for one in before) / max(1, len(before))
    table = [(days, visible(before, days)) for days in _TABLE if days <= max(within, _TABLE[1])]
    seen = ", ".join(f"{days}d: {share:.1%}" for days, share in table if share != float("inf")) or "nothing"
    return (
        f"With about {labels:,.0f} labels a day, a shadow of {within}d cannot tell a successor whose loss is "
        f"{rollout.margin:.1%} higher from an equal one. The smallest visible difference, by days of shadow: {seen}. "
        "Declare a larger margin or a longer time: tt.rollout(margin=..., within=...)."
    )


def level_of(repair: Repair) -> float:
    """Return the champion's mean loss on the days of the gate. Margins and differences are shares of it."""
    return mean_loss(repair.gate_days) or 1.0


def evidence_of_shadow(found: PairedSequence, days: Sequence[PairedDay], margin: float, level: float) -> Evidence:
    """Return the numbers of a comparison for the ledger (the record of decisions), as shares of the champion's loss."""
    values = {"difference": found.mean / level, "low": found.low / level, "high": found.high / level}
    return {
        "shadow_days": len(days),
        "shadow_rows": sum(one.rows for one in days),
        **{name: value for name, value in values.items() if np.isfinite(value)},
        "margin": margin,
    }


def said_of_shadow(found: PairedSequence, days: Sequence[PairedDay], margin: float, level: float) -> str:
    """Return the comparison in one sentence. Differences are shares of `level`, the champion's loss in the gate."""
    if not days:
        return "Paired shadow: no day has been compared yet. A day needs labelled rows that are not excluded."
    rows, more = sum(one.rows for one in days), "higher" if found.mean > 0 else "lower"
    outcome = {
        "reject": f"provably more than {percent(TOLERATED * margin)} worse than the champion",
        "promote": f"provably less than {margin:.1%} worse than the champion",
        "hold": f"neither provably more than {percent(TOLERATED * margin)} nor provably less than {margin:.1%} worse",
    }[found.verdict]
    if found.verdict == "promote" and found.high >= margin * level:
        outcome = "lower by at least what the gate proved"
    return (
        f"Paired shadow of {len(days)}d, {rows:,} labelled rows: the loss is {abs(found.mean) / level:.2%} {more} than "
        f"the champion's (between {_share(found.low / level)} and {_share(found.high / level)}), {outcome}."
    )


def _share(value: float) -> str:
    return f"{value:+.2%}" if np.isfinite(value) else ("-inf" if value < 0 else "inf")


def pooled_days(days: Sequence[PairedDay]) -> list[PairedDay]:
    """Combine days with few rows with the days after them. A last group with too few rows is left out."""
    found: list[PairedDay] = []
    open_day: PairedDay | None = None
    for day in days:
        open_day = day if open_day is None else _together(open_day, day)
        if open_day.rows >= LEAST_ROWS:
            found.append(open_day)
            open_day = None
    return found


def _together(one: PairedDay, other: PairedDay) -> PairedDay:
    rows = one.rows + other.rows
    if not rows:
        return one
    return PairedDay(
        day_us=one.day_us,
        rows=rows,
        difference=(one.rows * one.difference + other.rows * other.difference) / rows,
        champion=(one.rows * one.champion + other.rows * other.champion) / rows,
    )


def mean_loss(days: Sequence[PairedDay]) -> float:
    """Return the champion's mean loss of all rows; 0 without rows."""
    rows = sum(one.rows for one in days)
    return sum(one.rows * one.champion for one in days) / rows if rows else 0.0


def _mean_difference(days: Sequence[PairedDay]) -> float:
    rows = sum(one.rows for one in days)
    return sum(one.rows * one.difference for one in days) / rows if rows else 0.0
