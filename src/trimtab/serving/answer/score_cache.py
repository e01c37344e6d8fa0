"""Cache scores: the same version gives the same score for the same inputs.

Only the call of the model is avoided. Inputs are still read as of now, and each answer has its own id and its own row
in the log. All values are the same as without a cache, bit for bit.  # D101
"""

from __future__ import annotations

import math
import struct
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.errors import Misuse
from trimtab.core.shown import size_bytes
from trimtab.core.time import duration_us

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trimtab.serving.answer.served import RowScorer
    from trimtab.training.runtimes.ports import Score

# the metric of look-ups; its labels are the model and `found` ("yes" or "no")
CACHED_SCORES = "trimtab_remembered_scores_total"
_ENTRY_BYTES = 250  # bytes of an entry without its inputs: bytes object, score, expiry, dictionary slot
_LIST_BYTES, _CLASS_BYTES = 56, 32  # additional bytes with several classes: for the list, and for each class
_MOST_LOOKED_UP = 256  # larger batches are not cached, because their rows rarely repeat
_LEAST_BYTES, _MOST_BYTES = 1_000, 1 << 36
_LOOKED_AT = 2  # for each new entry, check the age of at most this many of the least recently used entries


class Cache(msgspec.Struct, frozen=True, kw_only=True):
    """The size of a deployment's score cache. Use `cache()` to make one."""

    size_bytes: int  # the memory limit in each process that answers
    ttl_us: int | None = None  # how long a score is used; None: until it is dropped because the cache is full


def cache(size: str | int = "64MB", *, ttl: str | int | None = None) -> Cache:
    """Cache the scores of the deployed version by the inputs.

    Args:
        size: About how much memory the cache may take in each process that answers, such as "64MB", or a number of
            bytes.
        ttl: How long a score may be used, such as "10m". Older scores are removed as new ones are added. By default,
            scores are only removed when the cache is full. Scores never become outdated, because inputs are read again
            for each answer. So this limit is only useful if inputs must not stay in memory for long.

    Raises:
        Misuse: The size is not between 1 kB and 64 GiB, or the ttl is not a duration above 0.

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
    """The number of hits and misses in the caches of one model, over all its versions."""

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0


class CachedScores:
    """A model with a cache of its scores by the bytes of its inputs.

    The least recently used scores are dropped first. Each version has its own cache. Scores that are too old are not
    used; they are removed when new scores are added.

    Args:
        classes: The number of scores for a row; 0: a single number that is not in a list.
        clock: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        scorer: RowScorer,
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
        self._kept: OrderedDict[bytes, tuple[Score, float]] = OrderedDict()  # score and expiry, oldest use first
        self._metrics = metrics

    def predict_row(self, row: list[float]) -> Score:
        """Return the score of one row."""
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
        """Return the scores of many rows.

        For a small batch, the model is called only for the rows that are not in the cache.
        """
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
        self._used(key)  # move it to the end, because a replaced entry stays at its old place
        if len(kept) > self._most:
            kept.popitem(last=False)
        if self._ttl_s < math.inf:
            self._remove_old(now_s)

    def _remove_old(self, now_s: float) -> None:
        """Remove some of the least recently used scores if they are too old.

        Each call checks only a few scores. As long as new scores are added, all old ones are removed after a while.
        """
        for _ in range(_LOOKED_AT):
            try:
                key, (score, end_s) = self._kept.popitem(last=False)
            except KeyError:  # another thread removed the last entry
                return
            if now_s < end_s:
                self._kept[key] = score, end_s
                self._used(key, last=False)
                return

    def _used(self, key: bytes, *, last: bool = True) -> None:
        try:
            self._kept.move_to_end(key, last)
        except KeyError:  # another thread has just removed this entry
            return
