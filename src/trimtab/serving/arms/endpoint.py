"""The endpoint of a model: the version that answers now. Versions are swapped without a failed request."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, TypeAlias

import msgspec

from trimtab.core.errors import Corrupt, Misuse, Unavailable
from trimtab.core.records import BEHIND, Prediction
from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.batching import BatchCosts, Batching, measure_costs
from trimtab.serving.answer.precomputed import MISSING, Looked, Precomputed
from trimtab.serving.answer.request_rows import Row
from trimtab.serving.answer.score_cache import CachedScores, CacheMetrics
from trimtab.serving.answer.served import Answer, ServedVersion, shown
from trimtab.serving.answer.timed import TimedAnswerer
from trimtab.serving.arms.arm_counts import EndpointCounts
from trimtab.serving.arms.arms import Canary, Shadow, ShadowMetrics
from trimtab.serving.failures import Late, is_of_all
from trimtab.serving.observe.log_throttle import ThrottledLogger
from trimtab.serving.protect.degradation import Degrading

CANARY_FAILED = "canary_failed"  # the flag of an answer that the champion gave because the canary failed
_KNOWN = 8  # how many of the newest versions `know` stores completely
_throttled = ThrottledLogger(logging.getLogger(__name__))

# either a new prediction, which must still be logged, or the JSON of a stored answer, which was logged with its batch
Prepared: TypeAlias = Prediction | bytes
Answered: TypeAlias = Prepared | Answer  # what a response is written from; an `Answer` was logged already


class SharedRow:
    """A row of a request that may share a call of the model with rows of other requests."""

    __slots__ = ("deadline_s", "row", "timed")

    def __init__(self, row: Row, deadline_s: float | None) -> None:
        self.row = row
        self.deadline_s = deadline_s  # the time (`perf_counter`) after which the answer is useless
        self.timed: TimedAnswerer | None = None  # the answerer that was used for the row


class _Unloaded(msgspec.Struct, frozen=True):
    """Stands for a version that was unloaded. `load` loads it again."""

    load: Callable[[], object]


class Endpoint:
    """The place where one model answers requests.

    `current` is read once for each request, and a swap replaces it in one step. So a request that began with the old
    version also ends with it. With `precomputed`, a fresh stored answer is given if there is one; otherwise the answer
    is made now and flagged `precomputed_stale` or `precomputed_missing`. With `degrading`, a degraded response is given
    if features or model fail or are late. With `canary`, another version answers a share of the requests; if it fails,
    the champion answers. An unloaded endpoint has released its version, and loads it again for the next request.
    """

    def __init__(
        self, name: str, *, precomputed: Precomputed | None = None, degrading: Degrading | None = None
    ) -> None:
        self.name = name
        self.precomputed = precomputed
        self.degrading = degrading
        self.canary: Canary | None = None
        self.shadow: Shadow | None = None
        self.shadowed = ShadowMetrics()
        self.counts = EndpointCounts()  # counts of live answers, by version and arm (champion, canary)
        self.batched: Batching[SharedRow, Prepared] = Batching(self._fails_all)
        self.cached: CacheMetrics | None = None  # hits and misses of the score cache, if there is one
        self.fails_to_load = False  # whether the deployed version cannot be loaded on this machine
        self.uses = 0  # the number of requests; those that share a call of the model count as one
        self.flags: tuple[str, ...] = ()  # flags of live answers: `BEHIND`, or none; see `see_applied`
        self._state: Answerer | _Unloaded | None = None  # None until the first version is deployed
        self._served: dict[str, ServedVersion] = {}  # by id: the newest versions; this dict is replaced, never changed
        self._labels: dict[str, str] = {}  # by id: the names of all versions that were ever known here

    @property
    def ready(self) -> bool:
        """Whether there is a version to answer with, even if it must be loaded first."""
        return self._state is not None

    @property
    def missing(self) -> str:
        """The reason why there is no version to answer with."""
        if self.fails_to_load:
            return "the version in service cannot be loaded here (trimtab status says why)."
        return "no version is in service yet."

    @property
    def unloaded(self) -> bool:
        """Whether the version must be loaded before it can answer."""
        return isinstance(self._state, _Unloaded)

    @property
    def serving(self) -> ServedVersion | None:
        """The version that answers now, or None if there is none or it is unloaded."""
        answerer = self.loaded
        return None if answerer is None else answerer.served

    @property
    def loaded(self) -> Answerer | None:
        """The answerer that answers now, or None if there is none or it is unloaded. Nothing is loaded."""
        state = self._state
        return None if isinstance(state, _Unloaded) else state

    @property
    def current(self) -> Answerer:
        """The answerer that answers now. If its version is unloaded, it is loaded first.

        Raises:
            Unavailable: No version has been deployed yet.
        """
        while isinstance(state := self._state, _Unloaded):
            state.load()
        if state is None:
            raise self.refusal()
        return state

    @property
    def batching(self) -> Batching[SharedRow, Prepared] | None:
        """The object that gathers single rows for shared calls, or None if shared calls are not cheaper."""
        return self.batched if self.batched.costs.pays else None

    def refusal(self) -> Unavailable:
        """Return the error for requests while there is no version to answer with."""
        make = "Promote another" if self.fails_to_load else f"Train one (trimtab train {self.name}), promote one"
        return Unavailable(f"model {self.name!r}: {self.missing} {make}, or try again soon.")

    def count_refused(self) -> None:
        """Count a request that was refused because too many are in flight."""
        if (serving := self.serving) is not None:
            self.counts.of(serving).refused += 1

    def swap(self, answerer: Answerer, *, costs: BatchCosts | None = None) -> None:
        """Let `answerer` answer all requests from the next one on.

        Args:
            costs: The costs of scoring its rows. By default, they are measured here.

        Raises:
            Misuse: The version belongs to another model. The old version continues to answer.
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
        """Release the version. Before the next answer, `load` is called. It must call `swap`, or raise an error."""
        self.canary = self.shadow = None
        self._state = _Unloaded(load)

    def see_applied(self, stands: bool) -> None:
        """Record whether events are no longer applied to the online features (`stands`).

        If so, answers are flagged with `BEHIND`, unless the version is loaded and reads no online features.
        """
        answerer = self.loaded
        reads = answerer is None or answerer.readers.reads_state
        self.flags = (BEHIND,) if stands and reads else ()

    def know(self, served: ServedVersion) -> None:
        """Add a version to the known ones, so that answers can show its name.

        For the newest eight versions, the whole `served` is kept; for older ones, only the name.
        """
        self._labels[served.version] = served.label
        known = {address: one for address, one in self._served.items() if address != served.version}
        self._served = dict([*known.items(), (served.version, served)][-_KNOWN:])

    def label(self, version: str) -> str:
        """Return the name of a version as shown in answers, or its id if the version was never known here."""
        return self._labels.get(version, version)

    @property
    def _bare(self) -> bool:
        """Whether the version's own predictions are the answers, without flags."""
        return self.precomputed is None and self.degrading is None and self.canary is None and not self.flags

    def answer_one(self, answerer: Answerer, row: Row) -> tuple[bytes, Answer, float, float] | None:
        """Answer one checked row as of now, as `prepare` does, but faster. Return None if it needs `prepare`.

        For the result, see `Answerer.answer_one`. The caller must log the payload.
        """
        if not self._bare or self.batching is not None:
            return None
        counts = self.counts.of(answerer.served)
        self.uses += 1
        try:
            made = answerer.answer_one(row)
        except Exception:
            counts.failed(1)
            raise
        if made is not None:
            counts.answered(made[1:2], made[2] + made[3], False)
        else:
            self.uses -= 1  # `prepare` will count the request
        return made

    def answer(self, rows: Sequence[Mapping[str, Any]], *, at: str | int | dt.datetime | None = None) -> list[Answer]:
        """Answer rows given as Python dicts, and return the answers in the order of the rows.

        The predictions are logged before the answers are returned. The answers are the same as over HTTP.

        Raises:
            Misuse: A row is not as declared (the message names the field), or `at` lies in the future.
            Unavailable: No version is deployed, or the online features or the log cannot be used now. Nothing was
                logged.
        """
        answerer = self.current
        if at is not None or self._bare:
            self.uses += 1
            return answerer.answer(rows, at=at)
        until_s = None if self.degrading is None else self.degrading.deadline_s(perf_counter(), None)
        prepared = self.prepare(answerer, answerer.rows.check(rows), None, until_s)
        answerer.log.buffer([one for one in prepared if isinstance(one, Prediction)])
        return self.all_shown(answerer, prepared)

    def prepare(
        self,
        answerer: Answerer,
        rows: Sequence[Row],
        at_us: int | None,
        deadline_s: float | None = None,
        *,
        shared: bool = False,
    ) -> Sequence[Prepared]:
        """Return an answer for each checked row. New predictions among the answers must be logged by the caller.

        Args:
            at_us: The time as of which to answer, or None for now.
            deadline_s: The time (`perf_counter`) after which the answers are useless.
            shared: Whether the rows are from several requests. If so, an error that a single row may have caused is
                raised, even with a degradation policy. The caller then answers each row alone, so that only the request
                at fault gets a degraded response.
        """
        self.uses += 1
        if at_us is not None:
            return answerer.predict(rows, at_us=at_us)
        precomputed = self.precomputed  # read once, because another thread may replace it
        if precomputed is None:
            plain = self.canary is None and self.degrading is None and not self.flags
            if plain and not isinstance(rows, list) and (made := self._predict_table(answerer, rows, deadline_s)):
                return made
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
        """Return whether this error of a shared call would also occur for each row alone.

        It is False with stored answers, a degradation policy or a canary, because then some rows may still be answered.
        """
        return is_of_all(error) and self.precomputed is None and self.degrading is None and self.canary is None

    def _look_up(self, precomputed: Precomputed, row: Row, key: str, version: str, now_us: int) -> Looked:
        """Look up the stored answer to a row. An answer that cannot be read counts as missing."""
        try:
            return precomputed.look_up(row, key, version, now_us)
        except (Unavailable, Corrupt) as error:
            _throttled.warning(f"{self.name} (stored answers)", error)
            return MISSING

    def all_shown(self, answerer: Answerer, prepared: Sequence[Answered]) -> list[Answer]:
        """Return the answers that the client gets for the results of `prepare`."""
        return [
            msgspec.json.decode(one, type=Answer) if isinstance(one, bytes) else self.shown(answerer, one)
            for one in prepared
        ]

    def shown(self, answerer: Answerer, prediction: Prediction | Answer) -> Answer:
        """Return the answer that a client gets for a prediction made by `prepare`, or the one of `answer_one`."""
        if isinstance(prediction, Answer):
            return prediction
        served = answerer.served
        if prediction.version != served.version:  # the canary or the fallback made this prediction
            served = self._served.get(prediction.version, served)
        return shown(prediction, served)

    def _predict(
        self, answerer: Answerer, rows: Sequence[Row], flags: tuple[str, ...], deadline_s: float | None, shared: bool
    ) -> list[Prediction]:
        canary = self.canary
        if canary is not None and rows:
            try:
                return self._split(canary, answerer, rows, flags, deadline_s, shared)
            except Exception as error:
                # if each row of a shared call will be tried again alone, only those attempts call `unanswered`
                if canary.unanswered is not None and (not shared or self._fails_all(error)):
                    canary.unanswered(rows, error)
                raise
        return self._predict_counted(answerer, rows, flags, deadline_s, shared)

    def _predict_table(
        self, answerer: Answerer, rows: Sequence[Row], deadline_s: float | None
    ) -> Sequence[Prediction] | None:
        """Return predictions for rows of a table, or None if they must be made row by row."""
        from trimtab.serving.answer.table_rows import TableRows

        if not isinstance(rows, TableRows):
            return None
        counts, begun_s = self.counts.of(answerer.served), perf_counter()
        try:
            made = answerer.predict_table(rows, deadline_s)
        except Exception:
            counts.failed(1)
            raise
        if made is not None:
            # the first row, given twice, counts as one request of several rows (without a latency)
            counts.answered([made[0]] * min(len(made), 2), perf_counter() - begun_s, False)
        return made

    def _predict_counted(
        self, answerer: Answerer, rows: Sequence[Row], flags: tuple[str, ...], deadline_s: float | None, shared: bool
    ) -> list[Prediction]:
        counts, begun_s = self.counts.of(answerer.served), perf_counter()
        try:
            made = self._predict_here(answerer, rows, flags, deadline_s, shared)
        except Exception as error:
            if not shared or self._fails_all(error):  # otherwise each row is tried again alone, and counted then
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
        """Let each canary answer the rows that its share assigns to it, and the champion all others.

        Return the predictions. If rows cannot be assigned, the champion answers all rows.
        """
        try:
            placed = canary.share.arms(rows)
        except Exception as error:  # requests may lack columns
            return self._instead(canary.answerer, answerer, rows, flags, deadline_s, shared, error)
        made: dict[int, Prediction] = {}
        for arm in (*canary.answerers, ""):
            places = [n for n, (of, _) in enumerate(placed) if (of if of in canary.answerers else "") == arm]
            theirs, of_arm = [rows[n] for n in places], canary.answerers.get(arm)
            if of_arm is None:
                found = self._predict_counted(answerer, theirs, flags, deadline_s, shared)
            else:
                found = self._counted_canary(of_arm, answerer, theirs, flags, deadline_s, shared)
            made |= zip(places, found, strict=True)
        flagged = ((made[n], more) for n, (_, more) in enumerate(placed))
        return [msgspec.structs.replace(one, flags=(*one.flags, *more)) if more else one for one, more in flagged]

    def _counted_canary(
        self,
        canary: Answerer,
        answerer: Answerer,
        rows: Sequence[Row],
        flags: tuple[str, ...],
        deadline_s: float | None,
        shared: bool,
    ) -> list[Prediction]:
        """Return the canary's predictions. If it fails, the champion answers its rows.

        But if the error may be due to a single row of a shared call, it is raised.
        """
        counts, begun_s = self.counts.of(canary.served), perf_counter()
        try:
            if self.degrading is None or not rows:
                made = canary.predict(rows, flags=flags, deadline_s=deadline_s)
            else:
                made = self.degrading.by_canary(canary, answerer, rows, flags, deadline_s)
        except Late:  # no fallback could answer; each row of a shared call is tried again alone, and counted then
            if not shared:
                counts.failed(1)
            raise
        except Exception as error:  # a user's model may raise any error
            return self._instead(canary, answerer, rows, flags, deadline_s, shared, error)
        counts.answered(made, perf_counter() - begun_s, shared)
        return made

    def _instead(
        self,
        canary: Answerer,
        answerer: Answerer,
        rows: Sequence[Row],
        flags: tuple[str, ...],
        deadline_s: float | None,
        shared: bool,
        error: Exception,
    ) -> list[Prediction]:
        """Let the champion answer for a failed canary. If one row of a shared call may be at fault, raise the error."""
        if shared and not is_of_all(error):
            raise error
        _throttled.warning(f"{canary.served.label} (canary)", error)
        counts, failed = self.counts.of(canary.served), len(rows) if shared else 1
        counts.failed(failed)
        made = self._predict_here(answerer, rows, (*flags, CANARY_FAILED), deadline_s, shared)
        counts.answered_instead(failed, made)
        return made
