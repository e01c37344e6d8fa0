"""Count requests, failures, latencies and scores for each version and arm (champion, canary or shadow).

A request counts once for each arm that answers some of its rows. Its latency is the time that the arm took for features
and model, without waiting in queues. Latencies are measured only for requests with a single row.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from math import frexp, nan
from typing import Any

import msgspec

from trimtab.core.records import FALLBACK_VERSION, LAST_ANSWER, NULL_FEATURES, RULE, Prediction
from trimtab.serving.answer.served import Answer, ServedVersion
from trimtab.serving.protect.degradation import FEATURES_FAILED, MODEL_FAILED

PER_OCTAVE = 32  # the number of buckets from one latency to its double
LATENCY_EDGES_S = tuple(math.exp2(n / PER_OCTAVE) for n in range(-16 * PER_OCTAVE, 6 * PER_OCTAVE + 1))  # 15 us to 64 s
_DEGRADED = frozenset((NULL_FEATURES, LAST_ANSWER, FALLBACK_VERSION, RULE))
_FAILED = frozenset((FEATURES_FAILED, MODEL_FAILED))
_ALIKE = 1e-6  # scores that differ by at most this share count as equal
_SUMS = ("requests", "failures", "degraded", "refused", "repeats")
_ZERO = 1_100  # added to the exponent of a score, so that every positive score has a positive bucket
_VERSIONS = 64  # an endpoint counts at most this many pairs of version and arm; then the oldest is dropped


class ServiceMetrics(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Counts of one version in one arm.

    All counts are sums, so that counts of several processes and times can be added.
    """

    model: str
    version: str  # the id of the version
    arm: str
    requests: int = 0  # requests that were routed to this arm
    failures: int = 0  # requests whose features or model failed, even if a fallback or the champion answered
    degraded: int = 0  # requests that got a degraded response
    refused: int = 0  # requests refused (429) because too many were in flight
    repeats: int = 0  # scores that equal the previous score, to six digits
    latencies: dict[int, int] = {}  # number of requests by bucket; bucket n ends at `LATENCY_EDGES_S[n]`
    scores: dict[int, int] = {}  # number of scores by bucket (see `score_bucket`)

    @property
    def timed(self) -> int:
        """Return the number of requests whose latency was measured."""
        return sum(self.latencies.values())

    @property
    def scored(self) -> int:
        """Return the number of scores that this version computed, without those of degraded responses.

        A request with several rows counts as one score.
        """
        return sum(self.scores.values())

    def latency_s(self, share: float) -> float:
        """Return a quantile of the latencies in seconds, or 0 if none was measured.

        The result is the upper edge of a bucket, so it may be up to 2.2 % too high.

        Args:
            share: The rank of the quantile in (0, 1], such as 0.99 for the 99th percentile.
        """
        wanted, seen = share * self.timed, 0
        for bucket, count in sorted(self.latencies.items()):
            seen += count
            if seen >= wanted:
                return LATENCY_EDGES_S[min(bucket, len(LATENCY_EDGES_S) - 1)]
        return 0.0

    def plus(self, other: ServiceMetrics) -> ServiceMetrics:
        """Return the sum of both counts, with the model, version and arm of this object."""
        return self._combined(other, 1)

    def minus(self, before: ServiceMetrics) -> ServiceMetrics:
        """Return the counts that were added since `before`."""
        return self._combined(before, -1)

    def _combined(self, other: ServiceMetrics, sign: int) -> ServiceMetrics:
        sums: dict[str, Any] = {name: getattr(self, name) + sign * getattr(other, name) for name in _SUMS}
        for name in ("latencies", "scores"):
            sums[name] = _added(getattr(self, name), getattr(other, name), sign)
        return msgspec.structs.replace(self, **sums)

    def lines(self) -> list[str]:
        """Return lines of text for a terminal.

        >>> counts = ServiceMetrics(model="late", version="7f3a", arm="canary", requests=200, failures=3)
        >>> print(*counts.lines(), sep=chr(10))
        canary: 200 requests, 1.5 % failed, 0.0 % degraded
        """
        each = max(self.requests, 1)
        shares = f"{self.failures / each:.1%} failed, {self.degraded / each:.1%} degraded".replace("%", " %")
        found = [f"{self.arm}: {self.requests:,} requests, {shares}"]
        if self.latencies:
            half, most = (1e3 * self.latency_s(share) for share in (0.5, 0.99))
            found.append(f"  features and model: median {half:.3g} ms, 99th percentile {most:.3g} ms")
        if self.refused:
            found.append(f"  refused because too many were in flight: {self.refused:,}")
        return found


class ArmCounts:
    """The counts of one version in one arm since this process began.

    The event loop and the threads that answer large requests update the counts without a lock.
    """

    __slots__ = ("_last", "_of", "_scores", "degraded", "failures", "latencies", "refused", "repeats", "requests")

    def __init__(self, served: ServedVersion) -> None:
        self._of = served
        self.requests = self.failures = self.degraded = self.refused = self.repeats = 0
        self.latencies = [0] * (len(LATENCY_EDGES_S) + 1)
        self._scores: defaultdict[int, int] = defaultdict(int)  # scores by bucket (see `score_bucket`)
        self._last = nan  # the previous score, to count repeats

    def answered(self, made: Sequence[Prediction | Answer], taken_s: float, shared: bool) -> None:
        """Count the answers to one request or, with `shared`, to several requests of one row each.

        `taken_s` is the time that features and model took together. With `shared`, it counts for each of the requests.
        """
        if len(made) != 1 and not shared:
            if made:
                self.requests += 1
                # the first flagged row counts, or else the first row
                self._count(max(made, key=lambda one: bool(one.flags)))
            return
        bucket, latencies = bisect_left(LATENCY_EDGES_S, taken_s), self.latencies
        for one in made:
            self.requests += 1
            latencies[bucket] += 1
            score = one.score
            if one.flags or score <= 0.0:
                self._count(one)
                continue
            if abs(score - self._last) <= _ALIKE * score:
                self.repeats += 1
            self._last = score
            self._scores[frexp(score)[1] + _ZERO] += 1

    def failed(self, requests: int) -> None:
        """Count requests that the version could not answer."""
        self.requests += requests
        self.failures += requests

    def answered_instead(self, requests: int, made: Sequence[Prediction]) -> None:
        """Count requests as degraded if this version failed, and another version gave degraded answers (`made`)."""
        if not _DEGRADED.isdisjoint(made[0].flags):
            self.degraded += requests

    def snapshot(self) -> ServiceMetrics:
        """Return a copy of the present counts."""
        return ServiceMetrics(
            model=self._of.model,
            version=self._of.version,
            arm=self._of.arm,
            failures=self.failures,  # read before `requests`, so that it is never larger, even if another thread counts
            degraded=self.degraded,
            repeats=self.repeats,
            scores=dict(self._scores),
            latencies={place: count for place, count in enumerate(self.latencies) if count},
            refused=self.refused,
            requests=self.requests,
        )

    def _count(self, one: Prediction | Answer) -> None:
        flags = one.flags
        if flags:
            if not _FAILED.isdisjoint(flags):
                self.failures += 1
            if not _DEGRADED.isdisjoint(flags):
                self.degraded += 1
                return  # this version did not compute the score, or computed it without features
        if abs(one.score - self._last) <= _ALIKE * abs(one.score):
            self.repeats += 1
        self._last = one.score
        self._scores[score_bucket(one.score)] += 1


class EndpointCounts:
    """The counts of all versions behind one endpoint."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], ArmCounts] = {}

    def of(self, served: ServedVersion) -> ArmCounts:
        """Return the counts of a version in its arm."""
        key = served.version, served.arm
        found = self._counts.get(key)
        if found is None:
            found = self._counts[key] = ArmCounts(served)
            if len(self._counts) > _VERSIONS:
                del self._counts[next(iter(self._counts))]
        return found

    def all(self) -> list[ArmCounts]:
        """Return all counts, in the order in which the versions first answered."""
        return list(self._counts.values())


def score_bucket(score: float) -> int:
    """Return the bucket of a finite score.

    There is one bucket for each sign and power of two, and one bucket for zero.

    >>> [score_bucket(score) for score in (-0.3, 0.0, 0.3, 0.49, 0.5, 1.0, 2.0)]
    [-1099, 0, 1099, 1099, 1100, 1101, 1102]
    """
    exponent = frexp(score)[1] + _ZERO
    return exponent if score > 0.0 else -exponent if score < 0.0 else 0


def _added(one: dict[int, int], other: dict[int, int], sign: int) -> dict[int, int]:
    sums = {place: one.get(place, 0) + sign * other.get(place, 0) for place in one.keys() | other.keys()}
    return {place: count for place, count in sorted(sums.items()) if count}
