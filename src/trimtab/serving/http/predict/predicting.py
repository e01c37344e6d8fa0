"""One model's predict address, from a body to the bytes of its answer: the hot path, whoever reads the request.

Nothing here may cost what it need not (`make bench ARGS=http_relaxed`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from time import perf_counter
from typing import Any, TypeAlias, TypeVar

import msgspec

from trimtab.core.records import Prediction
from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.batching import Joined
from trimtab.serving.answer.request_rows import RequestBody, Row
from trimtab.serving.answer.timed import TimedAnswerer
from trimtab.serving.arms.endpoint import Endpoint, Prepared, SharedRow
from trimtab.serving.failures import Late
from trimtab.serving.http.predict.model_loading import ModelLoading
from trimtab.serving.http.predict.parts import Parts
from trimtab.serving.http.predict.predict_metrics import ModelMetrics, PredictMetrics
from trimtab.serving.http.predict.shadowing import Shadowing
from trimtab.serving.http.requests.request_record import CURRENT, RequestRecord
from trimtab.serving.problems import Refused
from trimtab.serving.protect.degradation import LATE

_SAMPLED = 15  # a mask: one in 16
_INLINE_BYTES = 64 << 10  # a larger body is read in a thread
_TOO_MUCH = "the answer was not there in time. Ask for less at once, or give it more time."
_LOADING = "the version is still being loaded. Ask again in a moment, or give it more time."
_T = TypeVar("_T")
_encode = msgspec.json.Encoder().encode

Shared: TypeAlias = "Joined[SharedRow, Prepared]"  # a row that shares a call with those of other requests


class Waiting:
    """An answer that is there once `done` is: its predictions are being appended, or made in a thread.

    `shared` is whose call it shares with others, where it does.
    """

    def __init__(self, done: asyncio.Future[Any], answer: Callable[[], bytes], shared: Shared | None = None) -> None:
        self.done = done
        self.shared = shared
        self._answer = answer

    def begun_s(self, taken_s: float) -> float:
        """When the work on it began that was taken at `taken_s`: what it waited for others is no service."""
        return taken_s if self.shared is None else max(taken_s, self.shared.began_s)

    def answer(self) -> bytes:
        """The body of the answer; raises what went wrong."""
        failed: Any = self.done.exception()
        if failed is not None:
            raise failed
        return self._answer()


def is_late(prepared: Sequence[Prepared]) -> bool:
    """Whether answers were made in the place of others, which may still be being made."""
    first = prepared[0] if prepared else None
    return isinstance(first, Prediction) and LATE in first.flags


class Predictor:
    """Takes the bodies sent to one model's address.

    Args:
        endpoint: The model.
        parts: What it shares with others.
        metrics: Where its requests are counted.
        shadowing: Lets shadows answer what was answered.
    """

    def __init__(self, endpoint: Endpoint, parts: Parts, metrics: PredictMetrics, shadowing: Shadowing) -> None:
        self.endpoint = endpoint
        self.path = f"/v1/models/{endpoint.name}/predict"
        self.metrics = ModelMetrics(endpoint, metrics)
        self.loading = ModelLoading(endpoint, parts.threads)
        self._commit = parts.commit
        self._limits = parts.limits
        self._rows_inline = min(parts.limits.rows_inline, parts.limits.rows)  # more are refused, or use a thread
        self._scheduler = parts.scheduler
        self._threads = parts.threads
        self._shadowing = shadowing

    def take(
        self, body: bytes, started: float, timeout_s: float | None = None, record: RequestRecord | None = None
    ) -> bytes | Waiting:
        """The answer to a request's body, or what it waits for.

        Args:
            body: The whole of it.
            started: `perf_counter` when the request began to arrive.
            timeout_s: How long after that an answer is of use.
            record: Gets to know what became of it.

        Raises:
            Refused: Too many rows (413), or too much is under way for a large body (429).
            Misuse: The body is not as declared.
            Unavailable: No version serves, or state or log cannot be used now; `Late` when the time is over.
            ModelFailed: The model gave no number.
        """
        received = perf_counter()
        endpoint = self.endpoint
        version = endpoint.loaded  # read once: another thread may let it sleep
        if version is None or len(body) > _INLINE_BYTES:
            return _later(self._read_and_answer(version, body, started, timeout_s, record))
        asked = version.rows.decode(body)
        times = started, received, perf_counter()
        rows, deadline_s = asked.rows, self._deadline_s(started, timeout_s)
        if len(rows) > self._rows_inline or asked.at_us is not None:
            return _later(self._answer(version, asked, times, deadline_s, record))
        if (joined := self._join(version, rows, deadline_s)) is not None:
            return _later(self._answer(version, asked, times, deadline_s, record, joined=joined), joined)
        answerer = self._timed(version, record)
        prepared = endpoint.prepare(answerer, rows, None, deadline_s)
        predicted = perf_counter()
        made = [one for one in prepared if isinstance(one, Prediction)]
        if made and not self._commit.buffer(made):
            done = self._commit.append(made)
            return Waiting(done, partial(self._answered, answerer, asked, prepared, made, (*times, predicted)))
        return self._answered(answerer, asked, prepared, made, (*times, predicted))

    async def _read_and_answer(
        self,
        version: Answerer | None,
        body: bytes,
        started: float,
        timeout_s: float | None,
        record: RequestRecord | None,
    ) -> bytes:
        """The answer of a version that may have to be loaded, to a body that a thread reads if it is large."""
        answerer = version or await self.loaded(started, timeout_s)
        received, large = perf_counter(), len(body) > _INLINE_BYTES
        decode = answerer.rows.decode
        asked = await self.read(started, timeout_s, decode, body) if large else decode(body)
        times, deadline_s = (started, received, perf_counter()), self._deadline_s(started, timeout_s)
        return await self._answer(answerer, asked, times, deadline_s, record, begun=large)

    async def _answer(
        self,
        version: Answerer,
        asked: RequestBody,
        times: tuple[float, ...],
        deadline_s: float | None,
        record: RequestRecord | None,
        *,
        joined: Shared | None = None,
        begun: bool = False,
    ) -> bytes:
        """The body of an answer that is not made at once; `joined` is what a call that others share gives."""
        rows, at_us = asked.rows, asked.at_us
        if len(rows) > self._limits.rows:
            raise Refused(413, f"body: {len(rows)} rows; the limit is {self._limits.rows}. Send them in parts.")
        answerer = self._timed(version, record)
        prepared: Sequence[Prepared]
        if joined is None:
            prepared = await self._prepare(version, answerer, rows, at_us, deadline_s, begun=begun)
        else:
            prepared = await self._joined(joined, answerer)
        times = *times, perf_counter()
        made = await self._safe(prepared)
        if len(rows) <= self._rows_inline:
            return self._answered(answerer, asked, prepared, made, times)
        logged = perf_counter()
        body: bytes = await self.finish(is_late(prepared), self._body, answerer, asked, prepared)
        self._done(answerer, rows, at_us, made, (*times, logged, perf_counter()))
        return body

    async def loaded(self, started: float, timeout_s: float | None) -> Answerer:
        """The version that answers a request under way, once it is loaded; that goes on when the time is over.

        Args:
            started: `perf_counter` when the request began to arrive.
            timeout_s: How long after that an answer is of use.

        Raises:
            Unavailable: There is none; `Late` when the time is over.
            Refused: Too many wait for it, or too much is under way (429).
        """
        with self._scheduler.aside():
            return await self._within(started, timeout_s, _LOADING, self.loading.answerer)

    async def read(self, started: float, timeout_s: float | None, decode: Callable[..., Any], *arguments: Any) -> Any:
        """What `decode` reads of a request, in a thread; late, where nobody works, if a policy has an answer then.

        Raises:
            Unavailable: There is no version; `Late` when the time is over, and a policy has no answer.
        """
        if not self.endpoint.ready:  # no thread is asked to work for it
            raise self.endpoint.refusal()
        try:
            return await self._within(started, timeout_s, _TOO_MUCH, partial(self._threads.work, decode, *arguments))
        except Late:
            if self.endpoint.degrading is None:
                raise
            return await self._threads.wait(decode, *arguments)

    async def _within(
        self, started: float, timeout_s: float | None, said: str, begin: Callable[[], Coroutine[Any, Any, _T]]
    ) -> _T:
        """The first work of a request; `Late`, and what is `said`, when the time is over before."""
        limit = _until(self._deadline_s(started, timeout_s))
        try:
            async with limit:
                return await begin()
        except TimeoutError:
            if not limit.expired():  # the function's own
                raise
            raise Late(said) from None
        finally:
            del limit  # it names the task, whose error names this frame: together they would keep what was decoded

    async def answer_rows(
        self,
        answerer: Answerer,
        rows: Sequence[Row],
        at_us: int | None,
        started: float,
        timeout_s: float | None = None,
    ) -> Sequence[Prepared]:
        """An answer to each checked row, safe and counted: for other protocols than that of `take`.

        Args:
            answerer: The version that answers.
            rows: At most as many as the limits say.
            at_us: The moment they ask about; None: now.
            started: `perf_counter` when the request began to arrive.
            timeout_s: How long after that an answer is of use.

        Raises:
            Misuse: `at_us` lies in the future.
            Unavailable: State or log cannot be used now; `Late` when the time is over.
        """
        received = perf_counter()
        timed = self._timed(answerer, CURRENT.get())
        prepared = await self._prepare(answerer, timed, rows, at_us, self._deadline_s(started, timeout_s))
        predicted = perf_counter()
        made = await self._safe(prepared)
        self._done(timed, rows, at_us, made, (started, received, received, predicted, perf_counter()))
        return prepared

    def _timed(self, version: Answerer, record: RequestRecord | None) -> Answerer:
        """What answers one request: the version, timed where somebody wants to know more of it."""
        unsampled = self.endpoint.uses & _SAMPLED
        return version if unsampled and record is None else TimedAnswerer(version, record, sampled=not unsampled)

    def _join(self, version: Answerer, rows: Sequence[Row], deadline_s: float | None) -> Shared | None:
        """Have one row answered by a call that others share, where that pays; None: it is to be answered by itself.

        A row whose time is over shares none, for what is answered then is its own.
        """
        batching = self.endpoint.batching
        if batching is None or len(rows) != 1 or (deadline_s is not None and perf_counter() > deadline_s):
            return None
        return batching.join(version, partial(self._prepare_shared, version), SharedRow(rows[0], deadline_s))

    def _prepare_shared(self, version: Answerer, asked: Sequence[SharedRow]) -> Sequence[Prepared]:
        """What `Endpoint.prepare` gives to rows that share a call, which has the time of the one that has the most."""
        until_s = [math.inf if one.deadline_s is None else one.deadline_s for one in asked]
        last_s = None if math.inf in until_s else max(until_s)
        timed = TimedAnswerer(version, None, sampled=False)
        for one in asked:
            one.timed = timed
        return self.endpoint.prepare(timed, [one.row for one in asked], None, last_s, shared=len(asked) > 1)

    async def _joined(self, joined: Shared, answerer: Answerer) -> Sequence[Prepared]:
        """The answer to one row that shared a call, and what the parts of that took."""
        try:
            return [await joined.done]
        finally:
            if isinstance(answerer, TimedAnswerer) and (timed := joined.row.timed) is not None:
                answerer.take_times(timed)

    async def _prepare(
        self,
        version: Answerer,
        answerer: Answerer,
        rows: Sequence[Row],
        at_us: int | None,
        deadline_s: float | None,
        *,
        begun: bool = False,
    ) -> Sequence[Prepared]:
        """What `Endpoint.prepare` gives: in a thread, by a call that others share, or here."""
        if len(rows) > self._rows_inline or at_us is not None:
            return await self._prepare_slowly(answerer, rows, at_us, deadline_s, begun=begun)
        if (joined := self._join(version, rows, deadline_s)) is not None:
            return await self._joined(joined, answerer)
        return self.endpoint.prepare(answerer, rows, None, deadline_s)

    async def _prepare_slowly(
        self,
        answerer: Answerer,
        rows: Sequence[Row],
        at_us: int | None,
        deadline_s: float | None,
        *,
        begun: bool,
    ) -> Sequence[Prepared]:
        """What `Endpoint.prepare` gives, in a thread; that one goes on when the time is over, and nobody sees it.

        A request that a thread has begun on is not refused any more.
        """
        run = self._threads.go_on if begun else self._threads.work
        degrading = self.endpoint.degrading
        prepared: Sequence[Prepared]
        limit = _until(deadline_s)
        try:
            async with limit:
                prepared = await run(self.endpoint.prepare, answerer, rows, at_us, deadline_s)
        except TimeoutError:
            if not limit.expired():  # the model's own
                raise
            if degrading is None or at_us is not None:
                raise Late(_TOO_MUCH) from None
            prepared = await self.finish(True, degrading.late, answerer, rows)
        return prepared

    async def finish(self, late: bool, function: Callable[..., Any], *arguments: Any) -> Any:
        """The last work on answers, in a thread; of late ones where nobody works: what is late may hold all who do."""
        return await (self._threads.wait if late else self._threads.go_on)(function, *arguments)

    async def _safe(self, prepared: Sequence[Prepared]) -> list[Prediction]:
        """The predictions among answers, once they are noted or appended."""
        made = [one for one in prepared if isinstance(one, Prediction)]
        if made and not self._commit.buffer(made):
            await self._commit.append(made)
        return made

    def _deadline_s(self, started: float, timeout_s: float | None) -> float | None:
        degrading = self.endpoint.degrading
        if degrading is not None:
            return degrading.deadline_s(started, timeout_s)
        return None if timeout_s is None else started + timeout_s

    def _answered(
        self,
        answerer: Answerer,
        asked: RequestBody,
        prepared: Sequence[Prepared],
        made: Sequence[Prediction],
        times: tuple[float, ...],
    ) -> bytes:
        """The body of an answer whose predictions are safe, counted."""
        logged = perf_counter()
        body = self._body(answerer, asked, prepared)
        self._done(answerer, asked.rows, asked.at_us, made, (*times, logged, perf_counter()))
        return body

    def _body(self, answerer: Answerer, asked: RequestBody, prepared: Sequence[Prepared]) -> bytes:
        shown = self.endpoint.shown
        out = [one if isinstance(one, bytes) else _encode(shown(answerer, one)) for one in prepared]
        return b'{"predictions":[' + b",".join(out) + b"]}" if asked.many else out[0]

    def _done(
        self,
        answerer: Answerer,
        rows: Sequence[Row],
        at_us: int | None,
        made: Sequence[Prediction],
        times: tuple[float, ...],
    ) -> None:
        """Count one answered request by the ends of its stages; its shadow may answer what was asked about now."""
        shadow = self.endpoint.shadow
        if shadow is not None and at_us is None:
            self._shadowing.offer(shadow, rows)
        self.metrics.answered(answerer, len(rows), made, times)


def _until(deadline_s: float | None) -> asyncio.Timeout:
    """A time-out at a moment of `perf_counter`; None: never."""
    return asyncio.timeout(None if deadline_s is None else max(0.0, deadline_s - perf_counter()))


def _later(answer: Coroutine[Any, Any, bytes], shared: Shared | None = None) -> Waiting:
    task = asyncio.get_running_loop().create_task(answer)
    return Waiting(task, task.result, shared)
