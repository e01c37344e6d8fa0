"""One model's endpoint: the version that answers now, swapped without a failed request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from trimtab.core.errors import Corrupt, Misuse, Unavailable
from trimtab.core.records import BEHIND, Prediction
from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.batching import BatchCosts, Batching, measure_costs
from trimtab.serving.answer.precomputed import MISSING, Looked, Precomputed
from trimtab.serving.answer.request_rows import Row
from trimtab.serving.answer.score_cache import CachedScores, CacheMetrics
from trimtab.serving.answer.served import Answer, ServedVersion, shown
from trimtab.serving.arms.arm_counts import EndpointCounts
from trimtab.serving.arms.arms import Canary, Shadow, ShadowMetrics
from trimtab.serving.failures import Late, is_of_all
from trimtab.serving.observe.log_throttle import ThrottledLogger
from trimtab.serving.protect.degradation import Degrading

if TYPE_CHECKING:
    import datetime as dt

    from trimtab.serving.answer.timed import TimedAnswerer

CANARY_FAILED = "canary_failed"  # the flag of an answer that the canary should have given
_KNOWN = 8
_throttled = ThrottledLogger(logging.getLogger(__name__))

Prepared: TypeAlias = Prediction | bytes  # made now and to be logged, or a stored answer's JSON, logged by its batch


class SharedRow:
    """A row of a request that shares a call with those of others."""

    __slots__ = ("deadline_s", "row", "timed")

    def __init__(self, row: Row, deadline_s: float | None) -> None:
        self.row = row
        self.deadline_s = deadline_s  # until when (`perf_counter`) its answer is of use
        self.timed: TimedAnswerer | None = None  # what answered it


class _Unloaded(msgspec.Struct, frozen=True):
    """In the place of a version that is loaded on demand."""

    load: Callable[[], object]


class Endpoint:
    """One model's address.

    `current` is read once a request, and a swap replaces it in one step: a request that began with the old version
    ends with it. With `precomputed`, a fresh stored answer is given first; otherwise the answer is made now and
    flagged `precomputed_stale` or `precomputed_missing`. With `degrading`, what fails or is late is answered as its
    policy says. A `canary` answers its share of the requests; where it fails, the version in service does. An unloaded
    endpoint has released its version and loads it before the next answer.
    """

    def __init__(
        self, name: str, *, precomputed: Precomputed | None = None, degrading: Degrading | None = None
    ) -> None:
        self.name = name
        self.precomputed = precomputed
        self.degrading = degrading
        self.canary: Canary | None = None
        self.shadow: Shadow | None = None
        self.shadowed = ShadowMetrics()  # of all its shadows
        self.counts = EndpointCounts()  # of answers as of now, by version and arm
        self.batched: Batching[SharedRow, Prepared] = Batching(self._fails_all)
        self.cached: CacheMetrics | None = None  # of cached scores, with a cache
        self.fails_to_load = False  # a version that one of its aliases names
        self.uses = 0  # requests
        self.flags: tuple[str, ...] = ()  # of all answers as of now: `BEHIND` while events are not applied
        self._state: Answerer | _Unloaded | None = None  # None until the first version
        self._served: dict[str, ServedVersion] = {}  # by address: newest versions; never changed, replaced
        self._labels: dict[str, str] = {}  # by address: of all versions that ever answered

    @property
    def ready(self) -> bool:
        """Whether a version answers, loaded or not: from the first one on."""
        return self._state is not None

    @property
    def missing(self) -> str:
        """Why no version answers, where none does."""
        if self.fails_to_load:
            return "the version in service cannot be loaded here (trimtab status says why)."
        return "no version serves yet."

    @property
    def unloaded(self) -> bool:
        """Whether the version has to be loaded before it can answer."""
        return isinstance(self._state, _Unloaded)

    @property
    def serving(self) -> ServedVersion | None:
        """The version that answers now; None when there is none, or it is unloaded."""
        answerer = self.loaded
        return None if answerer is None else answerer.served

    @property
    def loaded(self) -> Answerer | None:
        """The version that answers now, without waiting: None where there is none, or it is unloaded."""
        state = self._state
        return None if isinstance(state, _Unloaded) else state

    @property
    def current(self) -> Answerer:
        """The version that answers now, loaded if it must be.

        Raises:
            Unavailable: None has been put in place yet.
        """
        while isinstance(state := self._state, _Unloaded):
            state.load()
        if state is None:
            raise self.refusal()
        return state

    @property
    def batching(self) -> Batching[SharedRow, Prepared] | None:
        """What gathers single rows, where a batch is cheaper than its rows."""
        return self.batched if self.batched.costs.pays else None

    def refusal(self) -> Unavailable:
        """The error where no version answers."""
        make = "Promote another" if self.fails_to_load else f"Train one (trimtab train {self.name}), promote one"
        return Unavailable(f"model {self.name!r}: {self.missing} {make}, or try again soon.")

    def count_refused(self) -> None:
        """Count a request that is refused for saturation."""
        if (serving := self.serving) is not None:
            self.counts.of(serving).refused += 1

    def swap(self, answerer: Answerer, *, costs: BatchCosts | None = None) -> None:
        """Let `answerer` answer from the next request on.

        Args:
            answerer: The version to serve.
            costs: The costs of its rows; left out, they are measured here.

        Raises:
            Misuse: It is another model's; the old version goes on serving.
        """
        served = answerer.served
        if served.model != self.name:
            raise Misuse(f"endpoint {self.name!r}: cannot serve {served.label}. Give a version of its own model.")
        if costs is None:
            model = answerer.scorer.model if isinstance(answerer.scorer, CachedScores) else answerer.scorer
            costs = measure_costs(model, len(served.inputs))
        self.know(served)
        self._state = answerer
        self.batched.costs = costs

    def unload(self, load: Callable[[], object]) -> None:
        """Release the version; `load` is called before the next answer, and swaps it in again, or raises."""
        self.canary = self.shadow = None
        self._state = _Unloaded(load)

    def see_applied(self, stands: bool) -> None:
        """Flag answers from now on while no event is applied to the features that they are made from."""
        answerer = self.loaded
        reads = answerer is None or answerer.readers.reads_state
        self.flags = (BEHIND,) if stands and reads else ()

    def know(self, served: ServedVersion) -> None:
        """Know how a version is named in answers; the newest eight are kept whole, of all others the label."""
        self._labels[served.version] = served.label
        known = {address: one for address, one in self._served.items() if address != served.version}
        self._served = dict([*known.items(), (served.version, served)][-_KNOWN:])

    def label(self, version: str) -> str:
        """The name of a version in answers; its address where it never answered."""
        return self._labels.get(version, version)

    def answer(self, rows: Sequence[Mapping[str, Any]], *, at: str | int | dt.datetime | None = None) -> list[Answer]:
        """Answers to rows from Python, in their order, once the new ones are logged: the same as over HTTP.

        Raises:
            Misuse: A row is not as declared (names the field), or `at` lies in the future.
            Unavailable: No version serves, or state or log cannot be used now; nothing was logged.
        """
        answerer = self.current
        bare = self.precomputed is None and self.degrading is None and self.canary is None and not self.flags
        if at is not None or bare:
            self.uses += 1
            return answerer.answer(rows, at=at)
        until_s = None if self.degrading is None else self.degrading.deadline_s(perf_counter(), None)
        prepared = self.prepare(answerer, answerer.rows.check(rows), None, until_s)
        answerer.log.buffer([one for one in prepared if isinstance(one, Prediction)])
        return [
            self.shown(answerer, one) if isinstance(one, Prediction) else msgspec.json.decode(one, type=Answer)
            for one in prepared
        ]

    def prepare(
        self,
        answerer: Answerer,
        rows: Sequence[Row],
        at_us: int | None,
        deadline_s: float | None = None,
        *,
        shared: bool = False,
    ) -> Sequence[Prepared]:
        """An answer to each checked row; the predictions among them are not logged yet.

        Args:
            answerer: The version that answers.
            rows: The request rows.
            at_us: The time they are about; None: now.
            deadline_s: Until when (`perf_counter`) the answers are of use.
            shared: The rows are of several requests: an error that one of them may cause is raised, so that each is
                answered alone, and no other gets a degraded response.
        """
        self.uses += 1
        if at_us is not None:
            return answerer.predict(rows, at_us=at_us)
        precomputed = self.precomputed  # read once: another thread may replace it
        if precomputed is None:
            return self._predict(answerer, rows, self.flags, deadline_s, shared)
        now_us = answerer.now_us()
        key, version = answerer.rows.request.key, answerer.served.version
        looked = [self._look_up(precomputed, row, str(row[key]), version, now_us) for row in rows]
        prepared: list[Prepared] = [one.answer for one in looked if one.answer]
        if len(prepared) == len(rows):
            return prepared
        prepared = [one.answer for one in looked]
        for state in ("stale", "missing"):
            places = [n for n, one in enumerate(looked) if one.state == state]
            flags = (*self.flags, f"precomputed_{state}")
            made = self._predict(answerer, [rows[n] for n in places], flags, deadline_s, shared)
            for n, prediction in zip(places, made, strict=True):
                prepared[n] = prediction
        return prepared

    def _fails_all(self, error: Exception) -> bool:
        """Whether each row of a shared call would raise the same error."""
        return is_of_all(error) and self.precomputed is None and self.degrading is None and self.canary is None

    def _look_up(self, precomputed: Precomputed, row: Row, key: str, version: str, now_us: int) -> Looked:
        """The stored answer to a row; one that cannot be read counts as missing."""
        try:
            return precomputed.look_up(row, key, version, now_us)
        except (Unavailable, Corrupt) as error:
            _throttled.warning(f"{self.name} (stored answers)", error)
            return MISSING

    def shown(self, answerer: Answerer, prediction: Prediction) -> Answer:
        """The answer that shows a prediction of `prepare`."""
        served = answerer.served
        if prediction.version != served.version:  # of another arm
            served = self._served.get(prediction.version, served)
        return shown(prediction, served)

    def _predict(
        self, answerer: Answerer, rows: Sequence[Row], flags: tuple[str, ...], deadline_s: float | None, shared: bool
    ) -> list[Prediction]:
        canary = self.canary
        if canary is not None and rows:
            return self._split(canary, answerer, rows, flags, deadline_s, shared)
        return self._predict_counted(answerer, rows, flags, deadline_s, shared)

    def _predict_counted(
        self, answerer: Answerer, rows: Sequence[Row], flags: tuple[str, ...], deadline_s: float | None, shared: bool
    ) -> list[Prediction]:
        counts, begun_s = self.counts.of(answerer.served), perf_counter()
        try:
            made = self._predict_here(answerer, rows, flags, deadline_s, shared)
        except Exception as error:
            if not shared or self._fails_all(error):  # else each row is answered alone, and counted then
                counts.failed(len(rows) if shared else 1)
            raise
        counts.answered(made, perf_counter() - begun_s, shared)
        return made

    def _predict_here(
        self, answerer: Answerer, rows: Sequence[Row], flags: tuple[str, ...], deadline_s: float | None, shared: bool
    ) -> list[Prediction]:
        if self.degrading is None or not rows:
            return answerer.predict(rows, flags=flags, deadline_s=deadline_s)
        return self.degrading.predict(answerer, rows, flags, deadline_s, shared=shared)

    def _split(
        self,
        canary: Canary,
        answerer: Answerer,
        rows: Sequence[Row],
        flags: tuple[str, ...],
        deadline_s: float | None,
        shared: bool,
    ) -> list[Prediction]:
        """Predictions of the canary for its share, of the version in service for the rest and where that fails."""
        taken, its = [True] * len(rows), rows  # until the share has said which
        counts = self.counts.of(canary.answerer.served)
        try:
            taken = [canary.share.holds(row) for row in rows]
            its = [row for row, mine in zip(rows, taken, strict=True) if mine]
            begun_s = perf_counter()
            theirs = self._by_canary(canary.answerer, answerer, its, flags, deadline_s)
            counts.answered(theirs, perf_counter() - begun_s, shared)
        except Late:  # the policy has nothing to answer; of a shared call each row is answered alone
            if not shared:
                counts.failed(1)
            raise
        except Exception as error:  # a user's model may raise anything
            if shared and not is_of_all(error):
                raise
            _throttled.warning(f"{canary.answerer.served.label} (canary)", error)
            failed = len(its) if shared else 1
            counts.failed(failed)
            theirs = self._predict_here(answerer, its, (*flags, CANARY_FAILED), deadline_s, shared)
            counts.answered_instead(failed, theirs)
        rest = [row for row, mine in zip(rows, taken, strict=True) if not mine]
        made = {True: iter(theirs), False: iter(self._predict_counted(answerer, rest, flags, deadline_s, shared))}
        return [next(made[mine]) for mine in taken]

    def _by_canary(
        self,
        canary: Answerer,
        answerer: Answerer,
        rows: Sequence[Row],
        flags: tuple[str, ...],
        deadline_s: float | None,
    ) -> list[Prediction]:
        if self.degrading is None or not rows:
            return canary.predict(rows, flags=flags, deadline_s=deadline_s)
        return self.degrading.by_canary(canary, answerer, rows, flags, deadline_s)
