"""Degraded responses: fallback answers of a deployment when its features or its model fail or are late."""

from __future__ import annotations

import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, TypeAlias

import msgspec

from trimtab.core.errors import Misuse
from trimtab.core.expressions.code import code_hash
from trimtab.core.hashing import content_hash
from trimtab.core.records import FALLBACK_VERSION, LAST_ANSWER, NULL_FEATURES, RULE, Prediction
from trimtab.core.time import duration_us
from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.request_rows import Row
from trimtab.serving.failures import Late, is_of_all
from trimtab.serving.observe.log_throttle import ThrottledLogger
from trimtab.serving.protect.breaker import GuardedReads

_logger = logging.getLogger(__name__)
_KEPT_ANSWERS = 20_000
_LEAST_US = 1_000  # a smaller number of microseconds was probably meant as milliseconds or seconds
_SLOW_S = 0.05  # a read that takes longer is slow; if the policy has `after`, half of `after` is the limit instead
LATE, FEATURES_FAILED, MODEL_FAILED = "late", "features_failed", "model_failed"  # flags of degraded responses

Rule: TypeAlias = "float | Callable[[dict[str, Any]], float]"


class Degradation(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment's policy for degraded responses. Use `degrade()` to make one."""

    after_us: int | None = None
    null_features: bool = False
    last_answer_us: int | None = None
    version: str | None = None
    rule: Any = None  # a `Rule`

    @property
    def hash(self) -> str:
        """Return a hash of the policy, which includes the code of a rule."""
        rule = code_hash(self.rule) if callable(self.rule) else self.rule
        return content_hash([self.after_us, self.null_features, self.last_answer_us, self.version, rule])


def degrade(
    *,
    after: str | int | None = None,
    null_features: bool = False,
    last_answer: str | int | None = None,
    version: str | None = None,
    rule: Rule | None = None,
) -> Degradation:
    """Make a policy for requests whose features or model fail or are late.

    The arguments after `after` are fallbacks. They are tried in this order.

    Args:
        after: The longest time from the arrival of a request to the beginning of its scoring, such as "50ms". If it
            begins later, the answer is late. A request may set a shorter time (`X-Timeout-Ms`).
        null_features: Whether the model may answer with null in place of features that cannot be read.
        last_answer: The greatest age, such as "10m", at which the version's last answer about the same entities is
            repeated. By default, answers are not repeated.
        version: An alias. The version to which it points answers instead. It may read features until the deadline, and
            for a short time even after it.
        rule: A score, or a function that computes a score from the columns of the request.

    Raises:
        Misuse: No fallback is given, a duration is not valid, `version` is the champion, or `rule` is neither a finite
            number nor a function.

    >>> degrade(after="50ms", null_features=True, rule=0.02).after_us
    50000
    """
    if not (null_features or last_answer is not None or version is not None or rule is not None):
        raise Misuse("degrade: no fallback is given. Give null_features=True, last_answer=, version= or rule=.")
    if rule is not None and not callable(rule) and (isinstance(rule, bool) or not isinstance(rule, int | float)):
        raise Misuse(f"degrade: rule={rule!r}. Give a number, or a function of the request's columns.")
    if isinstance(rule, int | float) and not math.isfinite(rule):
        raise Misuse(f"degrade: rule={rule!r}. Give a finite number, or a function of the request's columns.")
    if version == "champion":
        raise Misuse('degrade: version="champion" is the version that failed. Give another alias of the model.')
    for name, given in (("after", after), ("last_answer", last_answer)):
        if isinstance(given, int) and not isinstance(given, bool) and 0 < given < _LEAST_US:
            raise Misuse(
                f'degrade: {name}={given} means {given} microseconds, which is too short. Give a text: "{given}ms".'
            )
    return Degradation(
        after_us=None if after is None else duration_us(after),
        null_features=null_features,
        last_answer_us=None if last_answer is None else duration_us(last_answer),
        version=version,
        rule=rule,
    )


class Degrading:
    """Applies a degradation policy to the requests of one endpoint.

    Args:
        about: The columns of a request that identify its entities.
        fallback: Returns the answerer of the version to which the policy's alias points, or None if there is none.
    """

    def __init__(
        self, policy: Degradation, *, about: Sequence[str], fallback: Callable[[], Answerer | None] = lambda: None
    ) -> None:
        self.policy = policy
        self._after_s = None if policy.after_us is None else policy.after_us / 1e6
        slow_s = _SLOW_S if self._after_s is None else self._after_s / 2
        self._reads = GuardedReads(slow_s)
        self._fallback_reads = GuardedReads(slow_s)  # views of the fallback version may work while others do not
        self._canary_reads = GuardedReads(slow_s)
        self.breaker = self._reads.breaker
        self.breakers = {  # the breaker of each kind of version
            "champion": self.breaker,
            "canary": self._canary_reads.breaker,
            "fallback": self._fallback_reads.breaker,
        }
        self._about = tuple(about)
        self.fallback = fallback
        self._mutex = threading.Lock()  # protects writes to `_last`
        self._last: OrderedDict[tuple[Any, ...], Prediction] = OrderedDict()
        self._throttled = ThrottledLogger(_logger)

    def deadline_s(self, received_s: float, timeout_s: float | None) -> float | None:
        """Return the deadline of a request that arrived at `received_s`: the earlier of its own and of the policy."""
        if self._after_s is None or timeout_s is None:
            after_s = self._after_s if timeout_s is None else timeout_s
            return None if after_s is None else received_s + after_s
        return received_s + min(self._after_s, timeout_s)

    def predict(
        self,
        answerer: Answerer,
        rows: Sequence[Row],
        flags: tuple[str, ...],
        deadline_s: float | None,
        *,
        shared: bool = False,
    ) -> list[Prediction]:
        """Return predictions for checked rows, or fallback answers where necessary.

        If the rows are from several requests (`shared`), an error that only one row may have caused is raised, so that
        the caller can answer each row alone.

        Raises:
            Exception: The failure itself, if no fallback can answer.
        """
        if deadline_s is not None and perf_counter() > deadline_s:
            return self.late(answerer, rows, flags)
        now_us = answerer.now_us()
        try:
            inputs = self._reads.inputs(answerer, rows, now_us, deadline_s)
        except Exception as error:  # an error of the store, or from a user's function that computes a feature
            if shared and not is_of_all(error):
                raise
            why = LATE if isinstance(error, Late) else FEATURES_FAILED
            return self._fallback_answers(answerer, rows, now_us, (*flags, why), error, deadline_s)
        try:
            made = answerer.scored(rows, inputs, now_us, flags)
        except Exception as error:  # a user's model may raise any error
            if shared:
                raise
            until_s = None if deadline_s is None else max(deadline_s, self._fallback_until_s(rows))
            return self._fallback_answers(answerer, rows, now_us, (*flags, MODEL_FAILED), error, until_s)
        if self.policy.last_answer_us is not None:
            self._keep_last(rows, made)
        return made

    def by_canary(
        self,
        canary: Answerer,
        answerer: Answerer,
        rows: Sequence[Row],
        flags: tuple[str, ...],
        deadline_s: float | None,
    ) -> list[Prediction]:
        """Return the canary's predictions or, if it is late, fallback answers as for a late champion.

        Raises:
            Late: The canary is late, and no fallback can answer.
            Exception: The canary failed.
        """
        if deadline_s is not None and perf_counter() > deadline_s:
            return self.late(answerer, rows, flags)
        now_us = canary.now_us()
        try:
            inputs = self._canary_reads.inputs(canary, rows, now_us, deadline_s)
        except Late as error:
            return self._fallback_answers(answerer, rows, now_us, (*flags, LATE), error, deadline_s)
        return canary.scored(rows, inputs, now_us, flags)

    def late(self, answerer: Answerer, rows: Sequence[Row], flags: tuple[str, ...] = ()) -> list[Prediction]:
        """Return fallback answers after the deadline.

        If the store of features seems to be slow or to fail, the fallback version may no longer read from it.  # D82

        Raises:
            Late: No fallback can answer.
        """
        error = Late("the answer was not ready in time. Send the request again, or allow more time.")
        at_fault = self._reads.drags or self._canary_reads.drags or self._fallback_reads.hangs
        until_s = -math.inf if at_fault else self._fallback_until_s(rows)
        return self._fallback_answers(answerer, rows, answerer.now_us(), (*flags, LATE), error, until_s)

    def _fallback_until_s(self, rows: Sequence[Row]) -> float:
        """Return the time until which the fallback version may read features, even after the request's deadline."""
        return perf_counter() + self._fallback_reads.slow_s(len(rows))

    def _fallback_answers(
        self,
        answerer: Answerer,
        rows: Sequence[Row],
        now_us: int,
        flags: tuple[str, ...],
        error: Exception,
        deadline_s: float | None,
    ) -> list[Prediction]:
        self._log(answerer, error)
        policy = self.policy
        if policy.null_features and flags[-1] != MODEL_FAILED and answerer.readers.bare is not None:
            try:
                return answerer.scored(rows, answerer.readers.bare.read(rows, now_us), now_us, (*flags, NULL_FEATURES))
            except Exception as also:  # a user's model may raise any error
                self._log(answerer, also)
        made = [self._repeated(answerer, row, now_us, flags) for row in rows]
        left = [n for n, one in enumerate(made) if one is None]
        for n, one in zip(left, self._by_another([rows[n] for n in left], now_us, flags, deadline_s), strict=False):
            made[n] = one
        return [
            self._ruled(answerer, row, now_us, flags, error) if one is None else one
            for row, one in zip(rows, made, strict=True)
        ]

    def _repeated(self, answerer: Answerer, row: Row, now_us: int, flags: tuple[str, ...]) -> Prediction | None:
        """If the version's last answer about the same entities is recent enough, return it, and otherwise None."""
        kept_us = self.policy.last_answer_us
        key = None if kept_us is None else self._key(row)
        last = None if key is None else self._last.get(key)
        if kept_us is None or last is None or last.version != answerer.served.version:
            return None
        return answerer.repeated(last, row, now_us, (*flags, LAST_ANSWER)) if now_us - last.at_us <= kept_us else None

    def _by_another(
        self, rows: Sequence[Row], now_us: int, flags: tuple[str, ...], deadline_s: float | None
    ) -> list[Prediction]:
        """Return the answers of the fallback version, or an empty list if it cannot answer.

        It may read features until `deadline_s`.  # D82
        """
        other = self.fallback() if rows and self.policy.version is not None else None
        if other is None:
            return []
        try:
            inputs = self._fallback_reads.inputs(other, rows, now_us, deadline_s if other.readers.reads_state else None)
            return other.scored(rows, inputs, now_us, (*flags, FALLBACK_VERSION))
        except Exception as also:  # a user's model may raise any error
            self._log(other, also)
            return []

    def _ruled(self, answerer: Answerer, row: Row, now_us: int, flags: tuple[str, ...], error: Exception) -> Prediction:
        rule = self.policy.rule
        if rule is None:
            raise error
        try:
            score = float(rule(dict(row)) if callable(rule) else rule)
        except Exception as also:  # a user's function may raise any error
            self._log(answerer, also)
            raise error from also
        if not math.isfinite(score):
            raise error
        return answerer.ruled(row, score, now_us, (*flags, RULE))

    def _keep_last(self, rows: Sequence[Row], made: Sequence[Prediction]) -> None:
        last = self._last
        with self._mutex:
            for row, prediction in zip(rows, made, strict=True):
                key = self._key(row)
                if key is not None:
                    last[key] = prediction
                    last.move_to_end(key)
            while len(last) > _KEPT_ANSWERS:
                last.popitem(last=False)

    def _key(self, row: Row) -> tuple[Any, ...] | None:
        """Return the values of the entity columns, or None if the row lacks one of them.

        A row may lack one if the version in service was made for a request with other columns.
        """
        try:
            return tuple([row[name] for name in self._about])
        except KeyError:
            return None

    def _log(self, answerer: Answerer, error: Exception) -> None:
        self._throttled.warning(f"{answerer.served.label}: a degraded response", error)
