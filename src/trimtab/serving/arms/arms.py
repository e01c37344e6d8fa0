"""Canary and shadow: a canary answers a share of the requests, a shadow answers them only for the log."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Protocol, TypeAlias

import msgspec

from trimtab.core.errors import Misuse
from trimtab.core.records import Prediction
from trimtab.experiments.unit_hash import UnitHash
from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.request_rows import Row
from trimtab.serving.observe.log_throttle import ThrottledLogger
from trimtab.serving.protect.breaker import GuardedReads
from trimtab.store.ports import Catalog, Record

CANARY, SHADOW = "canary", "shadow"  # names of aliases, and of the arms in which their versions answer
SHADOWED_AT_MOST = 1_000  # if more requests wait for a shadow, the oldest are dropped
_logger = logging.getLogger(__name__)


class ArmShares(msgspec.Struct, frozen=True, kw_only=True):
    """The shares of a model's requests that its canary and its shadow get, as stored in the catalogue."""

    canary: float = 0.0
    shadow: float = 0.0
    # the name of the experiment that decides which requests the canary gets, and the time at which it set `canary`
    experiment: str | msgspec.UnsetType = msgspec.UNSET
    changed_at_us: int | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        for name in (CANARY, SHADOW):
            share = getattr(self, name)
            if not 0.0 <= share <= 1.0:
                raise Misuse(f"{name}: the share is {share:g}. Give a number from 0 (no request) to 1 (all requests).")


KIND = "arms"  # the kind of the catalogue records, one for each model


def arm_shares(catalog: Catalog, model: str) -> ArmShares:
    """Return the shares of a model's canary and shadow."""
    return shares_of(catalog.get(KIND, model))


def shares_of(record: Record | None) -> ArmShares:
    """Return the shares in a record. Without a record, the champion gets all requests."""
    return ArmShares() if record is None else msgspec.json.decode(record.body, type=ArmShares)


class Share:
    """A fixed share of all entities, such as customers. The same arguments always select the same entities.

    Args:
        model: The name of the model. The shares of different models are independent of each other.
        share: The size of the share, from 0 to 1. A larger share includes all entities of a smaller one.
        about: The columns of a request that identify its entities.
        line: What the share is for, such as the canary. Shares for different purposes are independent of each other.
            # D102

    >>> share = Share("late", 0.25, ["user"])
    >>> 200 < sum(share.holds({"user": n}) for n in range(1_000)) < 300
    True
    """

    def __init__(self, model: str, share: float, about: Sequence[str], *, line: str = CANARY) -> None:
        self.share = share
        self._below = round(share * 2**64)
        self.about = tuple(about)
        # "canary" is not part of the hash, so that canary shares stay as they were before `line` existed
        self._number = UnitHash(model if line == CANARY else f"{line}\0{model}", about)

    def holds(self, row: Row) -> bool:
        """Return whether the entities of a request are in the share."""
        return self._number(row) < self._below

    def arms(self, rows: Sequence[Row]) -> list[tuple[str, tuple[str, ...]]]:
        """Return the arm of each request; see `Split`."""
        return [(CANARY if self.holds(row) else "", ()) for row in rows]


Unanswered: TypeAlias = Callable[[Sequence[Row], Exception], None]


class Split(Protocol):
    """A rule that says which version answers each request.

    For each row, it returns the name of an answerer ("" for the champion), and flags for the prediction.
    """

    def arms(self, rows: Sequence[Row], /) -> Sequence[tuple[str, tuple[str, ...]]]: ...


class Canary(msgspec.Struct, frozen=True, eq=False):
    """One version, or several (`variants`), that answer a share of the requests instead of the champion."""

    answerer: Answerer
    share: Split
    shares: ArmShares | None = None  # the stored shares that `share` was made from
    unanswered: Unanswered | None = None  # called with requests that got no answer, and the error
    variants: Mapping[str, Answerer] = {}  # by variant of an experiment: the answerers of versions that are loaded

    @property
    def answerers(self) -> Mapping[str, Answerer]:
        """The answerers by the names that `share` gives. If one is not here, the champion answers."""
        return self.variants or {CANARY: self.answerer}


class ShadowMetrics:
    """Counts of the requests that were offered to the shadows of one model, by result."""

    def __init__(self) -> None:
        self.answered = 0  # answered and logged
        self.dropped = 0  # dropped while they waited, or answered but not logged
        self.failed = 0


class Shadow:
    """A version that answers a share of the requests as well, but only for the log.

    The method `work` answers the waiting requests. If more than 1,000 requests wait, the oldest are dropped and
    counted. The shadow has its own circuit breaker for reading features.

    Args:
        share: The share of the requests that it answers.
        counts: Counts requests by result. The caller of `work` logs the predictions and adds to `answered`.
    """

    def __init__(self, answerer: Answerer, share: Share, counts: ShadowMetrics | None = None) -> None:
        self.answerer = answerer
        self.share = share
        self.counts = counts or ShadowMetrics()
        self._waiting: deque[Row] = deque()
        self._reads = GuardedReads(math.inf)  # a slow read is no failure here, because no client waits for a shadow
        self._throttled = ThrottledLogger(_logger)

    @property
    def waits(self) -> bool:
        """Return whether requests wait for the shadow."""
        return bool(self._waiting)

    def offer(self, rows: Sequence[Row]) -> None:
        """Add requests that the champion has answered to the waiting requests."""
        waiting = self._waiting
        unseen = len(rows) - SHADOWED_AT_MOST
        if unseen > 0:  # more than can wait: drop the first ones, and only estimate how many are in the share
            self.counts.dropped += round(unseen * self.share.share)
            rows = rows[unseen:]
        try:
            waiting.extend([row for row in rows if self.share.holds(row)])
        except Exception as error:  # requests may lack columns; clients already have the champion's answers
            self.counts.failed += len(rows)
            self._log(error)
        while len(waiting) > SHADOWED_AT_MOST:
            waiting.popleft()
            self.counts.dropped += 1

    def work(self, time_s: float) -> list[Prediction]:
        """Answer waiting requests for a limited time, and return the predictions, which the caller must log."""
        until_s = perf_counter() + time_s
        made: list[Prediction] = []
        while self._waiting and perf_counter() < until_s:
            row = self._waiting.popleft()
            try:
                now_us = self.answerer.now_us()
                inputs = self._reads.inputs(self.answerer, [row], now_us, None)
                made += self.answerer.scored([row], inputs, now_us, ())
            except Exception as error:  # a user's model may raise any error
                self.counts.failed += 1
                self._log(error)
        return made

    def _log(self, error: Exception) -> None:
        self._throttled.warning(f"{self.answerer.served.label} (shadow)", error)
