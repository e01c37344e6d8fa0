"""Cached scores: the same version gives the same score for the same inputs.

Inputs are still read as of now, and every answer still has an id and a row in the log, with the same bits as without a
cache: only the model is not called again.  # D101
"""

from __future__ import annotations

import math
import struct
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from trimtab.core.errors import Misuse
from trimtab.core.sizes import size_bytes
from trimtab.core.time import duration_us

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trimtab.training.runtimes.ports import Score

CACHED_SCORES = "trimtab_remembered_scores_total"  # the metric: by model, and whether it was `found`: yes or no
_ENTRY_BYTES = 250  # of an entry besides its inputs: bytes object, number, its end, place in the dictionary
_LIST_BYTES, _CLASS_BYTES = 56, 32  # of the scores of several classes: the list, and a number with its place in it
_MOST_LOOKED_UP = 256  # rows of a batch; those of a larger one hardly repeat
_LEAST_BYTES, _MOST_BYTES = 1_000, 1 << 36
_LOOKED_AT = 2  # least used entries, checked for age at each new one


class Cache(msgspec.Struct, frozen=True, kw_only=True):
    """The size of a deployment's cache of scores. Make one with `cache()`."""

    size_bytes: int  # in each process that answers
    ttl_us: int | None = None  # None: until the cache is full, or another version serves


def cache(size: str | int = "64MB", *, ttl: str | int | None = None) -> Cache:
    """Cache the scores of the version in service by its inputs.

    Args:
        size: About how much memory they may take in each process that answers: "64MB", or bytes.
        ttl: How long a score is used at most: "10m". A score does not become stale, since inputs are read again for
            each answer; a ttl limits how long inputs are kept in memory. None: until the cache is full.

    Raises:
        Misuse: No size between 1 kB and 64 GiB, or no duration above 0.

    >>> cache("1MB", ttl="10m")
    Cache(size_bytes=1000000, ttl_us=600000000)
    """
    size_b = size if isinstance(size, int) else size_bytes(size)
    if isinstance(size, bool) or not _LEAST_BYTES <= size_b <= _MOST_BYTES:
        raise Misuse(f'cache: size={size!r}. Give a size from "1kB" to "64GiB"; without a cache leave cache= out.')
    ttl_us = None if ttl is None else duration_us(ttl)
    if ttl_us is not None and ttl_us <= 0:
        raise Misuse(f'cache: ttl={ttl!r} keeps nothing. Give a duration such as "10m", or leave it out.')
    return Cache(size_bytes=size_b, ttl_us=ttl_us)


class CacheMetrics:
    """Hits and misses of one model's caches, of all its versions."""

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0

    @property
    def hit_rate(self) -> float:
        """The share of all scores that came from the cache.

        >>> CacheMetrics().hit_rate
        0.0
        """
        return self.hits / max(1, self.hits + self.misses)


class Scores(Protocol):
    """A fitted model."""

    def predict(self, matrix: NDArray[Any], /) -> NDArray[Any]: ...

    def predict_row(self, row: list[float], /) -> Score: ...


class CachedScores:
    """A model with a cache of its scores by the bytes of its inputs, the least recently used removed first.

    Each version has its own cache. Scores that are too old are not used; they are removed as new ones come.

    Args:
        scorer: The model.
        inputs: How many numbers a row has.
        classes: How many scores the model gives a row; 0: a number.
        cache: Its size and time to live.
        metrics: Where hits and misses are counted.
        clock: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        scorer: Scores,
        *,
        inputs: int,
        classes: int = 0,
        cache: Cache,
        metrics: CacheMetrics,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.model = scorer
        self._pack = struct.Struct(f"{inputs}d").pack
        score_bytes = _LIST_BYTES + _CLASS_BYTES * classes if classes else 0
        self._most = max(1, cache.size_bytes // (_ENTRY_BYTES + 8 * inputs + score_bytes))
        self._ttl_s = math.inf if cache.ttl_us is None else cache.ttl_us / 1e6
        self._clock = clock if cache.ttl_us is not None else lambda: 0.0
        self._kept: OrderedDict[bytes, tuple[Score, float]] = OrderedDict()  # score and its end, the least used first
        self._metrics = metrics

    def predict_row(self, row: list[float]) -> Score:
        """The score of one row."""
        key = self._pack(*row)
        score = self._cached(key, self._clock())
        if score is None:
            score = self.model.predict_row(row)
            self._keep(key, score)
            return score
        self._metrics.hits += 1
        self._used(key)
        return score

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """The scores of many rows; of a small batch the model is called for new ones only."""
        import numpy as np

        if not 0 < len(matrix) <= _MOST_LOOKED_UP:
            return self.model.predict(matrix)
        keys, now_s = [self._pack(*row) for row in matrix.tolist()], self._clock()
        found = [self._cached(key, now_s) for key in keys]
        new = [place for place, score in enumerate(found) if score is None]
        self._metrics.hits += len(keys) - len(new)
        if new:
            scores = self.model.predict(matrix[new]).tolist()
            if len(scores) != len(new):
                raise ValueError(f"{len(scores)} scores for {len(new)} rows")
            for place, score in zip(new, scores, strict=True):
                found[place] = score
                self._keep(keys[place], score)
        return np.array(found, np.float64)

    def _cached(self, key: bytes, now_s: float) -> Score | None:
        kept = self._kept.get(key)
        return kept[0] if kept is not None and now_s < kept[1] else None

    def _keep(self, key: bytes, score: Score) -> None:
        kept, now_s = self._kept, self._clock()
        self._metrics.misses += 1
        kept[key] = score, now_s + self._ttl_s
        self._used(key)  # it may replace an old score
        if len(kept) > self._most:
            kept.popitem(last=False)
        if self._ttl_s < math.inf:
            self._remove_old(now_s)

    def _remove_old(self, now_s: float) -> None:
        """Remove the least used scores if they are too old: all of them in time, as long as new ones come."""
        for _ in range(_LOOKED_AT):
            try:
                key, (score, end_s) = self._kept.popitem(last=False)
            except KeyError:  # another thread removed the last
                return
            if now_s < end_s:
                self._kept[key] = score, end_s
                self._used(key, last=False)
                return

    def _used(self, key: bytes, *, last: bool = True) -> None:
        try:
            self._kept.move_to_end(key, last)
        except KeyError:  # another thread has just removed it
            return
