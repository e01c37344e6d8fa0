"""Check the service metrics of a version (latency, failures, ...) against its guardrails: limits for these metrics.

Guardrails protect the service, not the quality of predictions. They limit failures, latency, degraded responses,
saturation, and scores that no working version would give. The statistical evidence stays valid however often it is
computed (`trimtab.stats.inference.share_evidence`), so a check can be repeated at any time. # D0198
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec
import numpy as np

from trimtab.monitoring.guardrails import Guardrails, checks_of
from trimtab.serving.arms.arm_counts import LATENCY_EDGES_S, PER_OCTAVE, ServiceMetrics
from trimtab.stats.inference.share_evidence import log_above, log_below, log_higher

BreachKind = Literal["failures", "latency", "degraded", "constant", "strange", "saturation"]
_TAILS = (0.1, 0.05, 0.01)  # the compared percentiles of latency, given by the share of requests above: 0.1 is the 90th
_TAIL = 0.01  # the percentile that has an absolute limit, given in the same way: the 99th
# whether scores are unlike the champion's is only checked if the champion gave at least this many
_LEAST_SCORES = 100


class Breach(msgspec.Struct, frozen=True, kw_only=True):
    """A limit that a version exceeds, with the required statistical evidence."""

    kind: BreachKind
    figure: float  # the version's value: seconds for "latency", otherwise a share
    bound: float  # the largest allowed value
    message: str  # what was found, in one sentence


def breach(canary: ServiceMetrics, champion: ServiceMetrics, limits: Guardrails) -> Breach | None:
    """Return the first limit that a version provably exceeds; None if there is none, or if requests are too few.

    Args:
        canary: The metrics of the version since its rollout, or the present stage of its rollout, began.
        champion: The metrics of the version to compare with. During a rollout, they are from the same time. After a
            promotion, they are from the time before, when that version was in service.

    >>> from trimtab.monitoring.guardrails import guardrails
    >>> champion = ServiceMetrics(model="late", version="7f", arm="champion", requests=5_000, failures=10)
    >>> canary = ServiceMetrics(model="late", version="81", arm="canary", requests=250, failures=30)
    >>> found = breach(canary, champion, guardrails())
    >>> found.kind, found.figure, found.bound
    ('failures', 0.12, 0.012)
    """
    if canary.requests < limits.least:
        return None
    wanted = math.log(checks_of(limits) / limits.false_alarms)
    return next(_breaches(canary, champion, limits, wanted), None)


def _breaches(ours: ServiceMetrics, theirs: ServiceMetrics, limits: Guardrails, wanted: float) -> Iterator[Breach]:
    """Yield each limit that is exceeded. `wanted` is the logarithm of the required statistical evidence."""
    if limits.failures is not None:
        pairs = (ours.failures, ours.requests), (theirs.failures, theirs.requests)
        yield from _more("failures", "of its requests failed", pairs, limits.failures, wanted)
    if limits.latency is not None:
        yield from _slower(ours, theirs, limits.latency, limits.easy_s, wanted)
    if limits.latency_s is not None:
        yield from _slow(ours, limits.latency_s, wanted)
    if limits.degraded is not None:
        pairs = (ours.degraded, ours.requests), (theirs.degraded, theirs.requests)
        yield from _more("degraded", "of its requests got a degraded response", pairs, limits.degraded, wanted)
    if limits.constant is not None:
        yield from _constant(ours, theirs, limits.constant, wanted)
    if limits.strange is not None:
        yield from _strange(ours, theirs, limits.strange, wanted)
    if limits.refused is not None:
        mine, before = ours.requests + ours.refused, theirs.requests + theirs.refused
        pairs = (ours.refused, mine), (theirs.refused, before)
        yield from _more("saturation", "of the requests were refused for saturation", pairs, limits.refused, wanted)


def _more(
    kind: BreachKind, what: str, pairs: tuple[tuple[int, int], tuple[int, int]], allowed: float, wanted: float
) -> Iterator[Breach]:
    """Yield a breach if a share exceeds the other version's share by more than is allowed."""
    (count, total), (before, of) = pairs
    if log_higher((min(count, total), total), (min(before, of), of), lambda share: share + allowed) >= wanted:
        theirs = before / max(of, 1)
        message = f"{_percent(count / total)} {what} ({count:,} of {total:,}), but {_percent(theirs)} with the version"
        message += f" that it is compared with; at most {_percent(allowed)} more is allowed."
        yield Breach(kind=kind, figure=count / total, bound=theirs + allowed, message=message)


def _slower(
    ours: ServiceMetrics, theirs: ServiceMetrics, times: float, easy_s: float, wanted: float
) -> Iterator[Breach]:
    """Yield a breach if a percentile of latency is above `easy_s`, and more than `times` the other version's.

    Latencies are counted in buckets, and the bucket of the other version's true percentile is not known. The evidence
    for a percentile is the smallest over all buckets in which it may be. The mean evidence of the percentiles counts.
    """
    if not ours.timed:
        return
    buckets = len(LATENCY_EDGES_S) + 1
    at = np.arange(buckets)  # the buckets in which the other version's percentile may be
    most = np.maximum(at + math.ceil(PER_OCTAVE * math.log2(times) - 1e-9), np.searchsorted(LATENCY_EDGES_S, easy_s))
    above, from_here = _from(ours.latencies, buckets)[np.minimum(most + 1, buckets)], _from(theirs.latencies, buckets)
    logs = {
        share: float((log_above(above, ours.timed, share) + log_below(from_here[at], theirs.timed, share)).min())
        for share in _TAILS
    }
    worst = max(logs, key=lambda share: logs[share])
    if logs[worst] + math.log(sum(math.exp(log - logs[worst]) for log in logs.values()) / len(logs)) >= wanted:
        mine_s, other_s = ours.latency_s(1.0 - worst), theirs.latency_s(1.0 - worst)
        message = f"The {100.0 * (1.0 - worst):.0f}th percentile of its latency is {_time(mine_s)} over {ours.timed:,} "
        message += f"requests, and {_time(other_s)} with the version that it is compared with; at most {times:g} times "
        message += "that is allowed."
        yield Breach(kind="latency", figure=mine_s, bound=max(times * other_s, easy_s), message=message)


def _slow(ours: ServiceMetrics, most_s: float, wanted: float) -> Iterator[Breach]:
    """Yield a breach if the 99th percentile of latency is above a limit."""
    above = _from(ours.latencies, len(LATENCY_EDGES_S) + 1)[int(np.searchsorted(LATENCY_EDGES_S, most_s)) + 1]
    if float(log_above(above, ours.timed, _TAIL)) >= wanted:
        mine_s = ours.latency_s(1.0 - _TAIL)
        message = f"The 99th percentile of its latency is {_time(mine_s)} over {ours.timed:,} requests; "
        message += f"allowed is at most {_time(most_s)}."
        yield Breach(kind="latency", figure=mine_s, bound=most_s, message=message)


def _constant(ours: ServiceMetrics, theirs: ServiceMetrics, allowed: float, wanted: float) -> Iterator[Breach]:
    """Yield a breach if scores equal the previous score far more often than those of the other version do."""
    pairs = (min(ours.repeats, ours.scored), ours.scored), (min(theirs.repeats, theirs.scored), theirs.scored)
    if ours.scored and log_higher(*pairs, lambda share: share + allowed * (1.0 - share)) >= wanted:
        mine, other = ours.repeats / ours.scored, theirs.repeats / max(theirs.scored, 1)
        message = (
            f"{_percent(mine)} of its {ours.scored:,} scores equal the previous score, but {_percent(other)} with "
        )
        message += "the version that it is compared with. It gives nearly the same answer to every request."
        yield Breach(kind="constant", figure=mine, bound=other + allowed * (1.0 - other), message=message)


def _strange(ours: ServiceMetrics, theirs: ServiceMetrics, allowed: float, wanted: float) -> Iterator[Breach]:
    """Yield a breach if many scores are in a range in which the other version has none."""
    if theirs.scored < _LEAST_SCORES:
        return
    usual = {near for bucket in theirs.scores for near in (bucket - 1, bucket, bucket + 1)}
    strange = sum(count for bucket, count in ours.scores.items() if bucket not in usual)
    if float(log_above(strange, ours.scored, allowed)) >= wanted:
        mine = strange / ours.scored
        message = f"{_percent(mine)} of its {ours.scored:,} scores are far from all scores of the version that it is "
        message += f"compared with; at most {_percent(allowed)} is allowed."
        yield Breach(kind="strange", figure=mine, bound=allowed, message=message)


def _from(counts: Mapping[int, int], buckets: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return for each bucket how many values are in it or in a higher bucket, followed by a 0."""
    found = np.zeros(buckets + 1, np.int64)
    for bucket, count in counts.items():
        found[bucket] = count
    return np.cumsum(found[::-1])[::-1]


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1.0 else f"{1e3 * seconds:.3g} ms"
