"""Answer predict requests, from body bytes to response bytes: the fast code that all protocols share.

Each function call costs measurable time here (`make bench ARGS=http_relaxed`), so some functions are inlined for speed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec

from trimtab.core.records import Prediction
from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.batching import Joined
from trimtab.serving.answer.request_rows import RequestBody, Row
from trimtab.serving.answer.served import Answer
from trimtab.serving.answer.timed import TimedAnswerer
from trimtab.serving.arms.endpoint import Answered, Endpoint, Prepared, SharedRow
from trimtab.serving.failures import Late
from trimtab.serving.http.predict.model_loading import ModelLoading
from trimtab.serving.http.predict.parts import Parts
from trimtab.serving.http.predict.predict_metrics import ModelMetrics, PredictMetrics
from trimtab.serving.http.predict.shadowing import Shadowing
from trimtab.serving.http.requests.request_record import RawHeaders, RequestRecord
from trimtab.serving.http.requests.wire import JSON_TYPE
from trimtab.serving.log.prediction_record import PackedPredictions
from trimtab.serving.problems import Refused
from trimtab.serving.protect.degradation import LATE

_SAMPLED = 15  # a bit mask that selects one request in 16
INLINE_BYTES = 64 << 10  # a body larger than this is read in a thread
_TOO_MUCH = "the prediction was not made in time. Send fewer rows at once, or allow more time (X-Timeout-Ms)."
_LOADING = "the version is still being loaded. Send the request again soon, or allow more time (X-Timeout-Ms)."
_T = TypeVar("_T")
_encode = msgspec.json.Encoder().encode

Shared: TypeAlias = "Joined[SharedRow, Prepared]"  # a row that shares a call of the model with rows of other requests


class Form(Protocol):
    """The form in which a protocol writes requests to one model, and their responses."""

    route: str  # the route in metrics and records
    path: str  # the address of the requests

    def read(self, answerer: Answerer, body: Any) -> RequestBody:
        """Return the request that a body contains, checked."""
        ...

    def write(self, answerer: Answerer, request: Any, prepared: Sequence[Answered]) -> Any:
        """Return the response."""
        ...

    def answered(self, answerer: Answerer, rows: int, times: tuple[float, ...]) -> None:
        """Count an answered request. `times` are its start, then the end of each stage in `STAGES`."""
        ...

    def failed(self, seconds: float) -> None:
        """Count a request that failed after this time."""
        ...


class JsonForm:
    """Requests and responses of `/v1`."""

    route = "predict"

    def __init__(self, endpoint: Endpoint) -> None:
        self.path = f"/v1/models/{endpoint.name}/predict"
        self._shown = endpoint.shown

    def read(self, answerer: Answerer, body: bytes) -> RequestBody:
        return answerer.rows.decode(body)

    def write(self, answerer: Answerer, request: RequestBody, prepared: Sequence[Answered]) -> bytes:
        out = [one if isinstance(one, bytes) else _encode(self._shown(answerer, one)) for one in prepared]
        return b'{"predictions":[' + b",".join(out) + b"]}" if request.many else out[0]

    def answered(self, answerer: Answerer, rows: int, times: tuple[float, ...]) -> None: ...  # see `ModelMetrics`

    def failed(self, seconds: float) -> None: ...

    def of(self, headers: RawHeaders) -> JsonForm | None:
        """Return this form if the headers declare JSON or no type of content; otherwise return None."""
        return self if all(value == JSON_TYPE for name, value in headers if name == b"content-type") else None


MakeForm: TypeAlias = Callable[[RawHeaders], Form | None]  # makes the form of requests with these headers


class Waiting:
    """A response that is ready when the future `done` is done.

    Until then, its predictions are being logged, or being computed in a thread or in a shared call of the model. For a
    shared call, `shared` is the request's row in that call; otherwise it is None.
    """

    def __init__(self, done: asyncio.Future[Any], answer: Callable[[], Any], shared: Shared | None = None) -> None:
        self.done = done
        self.shared = shared
        self._answer = answer

    def begun_s(self, taken_s: float) -> float:
        """Return when work on the request began. `taken_s` is the time at which it was taken from the queue.

        If the request waited for a shared call, work began with that call.
        """
        return taken_s if self.shared is None else max(taken_s, self.shared.began_s)

    def answer(self) -> Any:
        """Return the response, or raise the error of the request. Call this when `done` is done."""
        failed: Any = self.done.exception()
        if failed is not None:
            raise failed
        return self._answer()


def is_late(prepared: Sequence[Prepared]) -> bool:
    """Return whether these are fallback answers, given because predictions were late.

    If so, a thread may still be busy with the late predictions.
    """
    first = prepared[0] if prepared else None
    return isinstance(first, Prediction) and LATE in first.flags


class Predictor:
    """Answers the predict requests of one model.

    Args:
        shadowing: Passes answered requests to the shadow version, which answers them as well.
    """

    def __init__(self, endpoint: Endpoint, parts: Parts, metrics: PredictMetrics, shadowing: Shadowing) -> None:
        self.endpoint = endpoint
        self.form = JsonForm(endpoint)
        self.metrics = ModelMetrics(endpoint, metrics)
        self.loading = ModelLoading(endpoint, parts.threads)
        self._commit = parts.commit
        self._limits = parts.limits
        # a request with more rows is refused or answered in a thread
        self._rows_inline = min(parts.limits.rows_inline, parts.limits.rows)
        self._scheduler = parts.scheduler
        self._threads = parts.threads
        self._shadowing = shadowing

    def take(
        self,
        body: Any,
        started: float,
        timeout_s: float | None = None,
        record: RequestRecord | None = None,
        form: Form | None = None,
        *,
        large: bool | None = None,
    ) -> Any | Waiting:
        """Return the response to a request, or a `Waiting` if the response is not ready at once.

        Args:
            body: The body, as `form` reads it.
            started: The time (`perf_counter`) when the request began to arrive.
            timeout_s: The time limit in seconds, counted from `started`.
            record: The record of the request, if it is logged or traced. Times and predictions are added to it.
            form: The form of the request and its response. By default, the JSON of `/v1`, as bytes.
            large: Whether the body is read in a thread. By default, bodies of more than 64 KiB are.

        Raises:
            Refused: There are too many rows (413). Or the request needs a thread (for a large body, many rows or a past
                time), and too many requests use threads (429).
            Misuse: The body is not as declared.
            Unavailable: No version is deployed, or the online features or the log cannot be used now. After the time
                limit, the error is `Late`.
            ModelFailed: The model raised an error or returned no finite number.
        """
        received = perf_counter()
        endpoint, form = self.endpoint, form or self.form
        version = endpoint.loaded  # read once, because another thread may unload the version
        large = len(body) > INLINE_BYTES if large is None else large
        if version is None or large:
            return _later(self._read_and_answer(form, version, body, started, timeout_s, record, large=large))
        request = form.read(version, body)
        times = started, received, perf_counter()
        rows, deadline_s = request.rows, self._deadline_s(started, timeout_s, request.timeout_s)
        answerer = self._timed(version, record)
        plain = len(rows) == 1 and deadline_s is None and request.at_us is None
        if plain and (one := endpoint.answer_one(version, rows[0])) is not None:
            if isinstance(answerer, TimedAnswerer):
                answerer.features_s, answerer.timed.taken_s = one[2:]
            written = form, answerer, request, one[1:2], one[1:2], (*times, perf_counter())
            if self._commit.buffer(one[:1]):
                return self._answered(*written)
            return Waiting(self._commit.append(one[:1]), partial(self._answered, *written))
        if len(rows) > self._rows_inline or request.at_us is not None:
            return _later(self._answer(form, version, request, times, deadline_s, record))
        if (joined := self._join(version, rows, deadline_s)) is not None:
            return _later(self._answer(form, version, request, times, deadline_s, record, joined=joined), joined)
        prepared = endpoint.prepare(answerer, rows, None, deadline_s)
        predicted = perf_counter()
        made = [one for one in prepared if isinstance(one, Prediction)]
        if made and not self._commit.buffer(made):
            done = self._commit.append(made)
            answered = partial(self._answered, form, answerer, request, prepared, made, (*times, predicted))
            return Waiting(done, answered)
        return self._answered(form, answerer, request, prepared, made, (*times, predicted))

    async def take_in_turn(
        self,
        body: Any,
        started: float,
        timeout_s: float | None = None,
        record: RequestRecord | None = None,
        form: Form | None = None,
        *,
        large: bool | None = None,
    ) -> Any:
        """Wait for the turn of a request, call `take`, and await the response. For arguments, see `take`."""
        scheduler = self._scheduler
        read_s = await scheduler.turn()  # the time before the wait in the queue
        begun_s, answer = perf_counter(), None
        try:
            answer = self.take(body, started, timeout_s, record, form, large=large)
            if isinstance(answer, Waiting):
                await answer.done
                begun_s, answer = answer.begun_s(begun_s), answer.answer()
            return answer
        except Exception:
            (form or self.form).failed(perf_counter() - begun_s)
            raise
        finally:
            answer = None  # break a reference cycle (error and this frame) that would keep the body in memory
            scheduler.under_way -= 1
            scheduler.answered(read_s, begun_s, waited=True)

    async def _read_and_answer(
        self,
        form: Form,
        version: Answerer | None,
        body: Any,
        started: float,
        timeout_s: float | None,
        record: RequestRecord | None,
        *,
        large: bool,
    ) -> Any:
        """Answer a request whose model must be loaded first, or whose large body is decoded in a thread."""
        answerer = version or await self.loaded(started, timeout_s)
        received = perf_counter()
        request = await self.read(started, timeout_s, form.read, answerer, body) if large else form.read(answerer, body)
        times, deadline_s = (started, received, perf_counter()), self._deadline_s(started, timeout_s, request.timeout_s)
        return await self._answer(form, answerer, request, times, deadline_s, record, begun=large)

    async def _answer(
        self,
        form: Form,
        version: Answerer,
        request: RequestBody,
        times: tuple[float, ...],
        deadline_s: float | None,
        record: RequestRecord | None,
        *,
        joined: Shared | None = None,
        begun: bool = False,
    ) -> Any:
        """Return the response to a decoded request that cannot be answered at once.

        If the request shares a call of the model with other requests, `joined` is its row in that call. `begun` says
        whether a thread has already worked on the request, to decode its body.
        """
        rows, at_us = request.rows, request.at_us
        if len(rows) > self._limits.rows:
            raise Refused(413, f"body: {len(rows)} rows; the limit is {self._limits.rows}. Send them in parts.")
        answerer = self._timed(version, record)
        prepared: Sequence[Prepared]
        if joined is None:
            prepared = await self._prepare(version, answerer, rows, at_us, deadline_s, begun=begun)
        else:
            prepared = await self._joined(joined, answerer)
        times = *times, perf_counter()
        if isinstance(prepared, PackedPredictions):  # these are logged while their response is written
            safe = asyncio.ensure_future(self._safe(prepared))
            try:
                answer = await self.finish(False, form.write, answerer, request, prepared)
            finally:
                made = await safe
            logged = perf_counter()
            self._done(form, answerer, request, made, (*times, logged, logged))
            return answer
        made = await self._safe(prepared)
        if len(rows) <= self._rows_inline and not begun:
            return self._answered(form, answerer, request, prepared, made, times)
        logged = perf_counter()
        answer = await self.finish(is_late(prepared), form.write, answerer, request, prepared)
        self._done(form, answerer, request, made, (*times, logged, perf_counter()))
        return answer

    async def loaded(self, started: float, timeout_s: float | None) -> Answerer:
        """Wait until the deployed version is loaded, and return its answerer.

        The load continues even if the time limit of this request has passed.

        Args:
            started: The time (`perf_counter`) when the request began to arrive.
            timeout_s: The time limit in seconds, counted from `started`.

        Raises:
            Unavailable: No version is deployed. After the time limit, the error is `Late`.
            Refused: Too many requests wait for the version or use threads (429).
        """
        with self._scheduler.aside():
            return await self._within(started, timeout_s, _LOADING, self.loading.answerer)

    async def read(self, started: float, timeout_s: float | None, decode: Callable[..., Any], *arguments: Any) -> Any:
        """Decode a request in a thread.

        If the time limit passes, and the model has a policy for late answers, the body is decoded once more without a
        limit, because the fallback needs the rows.

        Raises:
            Unavailable: No version is deployed. If the time limit has passed and the model has no policy, the error is
                `Late`.
        """
        if not self.endpoint.ready:  # without a version the request fails, so do not use a thread
            raise self.endpoint.refusal()
        try:
            return await self._within(started, timeout_s, _TOO_MUCH, partial(self._threads.work, decode, *arguments))
        except Late:
            if self.endpoint.degrading is None:
                raise
            return await self._threads.wait(decode, *arguments)

    async def _within(
        self, started: float, timeout_s: float | None, message: str, begin: Callable[[], Coroutine[Any, Any, _T]]
    ) -> _T:
        """Await the first step of a request. If the time limit passes, raise `Late` with the given message."""
        limit = _until(self._deadline_s(started, timeout_s))
        try:
            async with limit:
                return await begin()
        except TimeoutError:
            if not limit.expired():  # the step itself raised this error
                raise
            raise Late(message) from None
        finally:
            # break a reference cycle (variable, task, error, this frame) that would keep the decoded body in memory
            del limit

    def _timed(self, version: Answerer, record: RequestRecord | None) -> Answerer:
        """Return an answerer for one request. It measures times if the request is sampled, logged or traced."""
        unsampled = self.endpoint.uses & _SAMPLED
        return version if unsampled and record is None else TimedAnswerer(version, record, sampled=not unsampled)

    def _join(self, version: Answerer, rows: Sequence[Row], deadline_s: float | None) -> Shared | None:
        """Let a single row share a call of the model with other requests. Return None if that would not be faster.

        A row whose time limit has passed gets a fallback answer, so it does not share a call.
        """
        batching = self.endpoint.batching
        if batching is None or len(rows) != 1 or (deadline_s is not None and perf_counter() > deadline_s):
            return None
        return batching.join(version, partial(self._prepare_shared, version), SharedRow(rows[0], deadline_s))

    def _prepare_shared(self, version: Answerer, shared: Sequence[SharedRow]) -> Sequence[Prepared]:
        """Call `Endpoint.prepare` for the rows of a shared call, with the latest time limit of these rows."""
        until_s = [math.inf if one.deadline_s is None else one.deadline_s for one in shared]
        last_s = None if math.inf in until_s else max(until_s)
        timed = TimedAnswerer(version, None, sampled=False)
        for one in shared:
            one.timed = timed
        return self.endpoint.prepare(timed, [one.row for one in shared], None, last_s, shared=len(shared) > 1)

    async def _joined(self, joined: Shared, answerer: Answerer) -> Sequence[Prepared]:
        """Return the answer to one row of a shared call. If times are measured, copy those of the call."""
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
        """Call `Endpoint.prepare` in the way that suits the request: in a thread, in a shared call, or directly."""
        if len(rows) > self._rows_inline or at_us is not None:
            return await self._prepare_slowly(answerer, rows, at_us, deadline_s, begun=begun)
        if (joined := self._join(version, rows, deadline_s)) is not None:
            return await self._joined(joined, answerer)
        return self.endpoint.prepare(answerer, rows, None, deadline_s)

    async def _prepare_slowly(
        self, answerer: Answerer, rows: Sequence[Row], at_us: int | None, deadline_s: float | None, *, begun: bool
    ) -> Sequence[Prepared]:
        """Call `Endpoint.prepare` in a thread. If the time limit passes, return fallback answers, or raise `Late`.

        A request on which a thread has already worked (`begun`) is not refused for lack of threads.
        """
        run = self._threads.go_on if begun else self._threads.work
        degrading = self.endpoint.degrading
        prepared: Sequence[Prepared]
        limit = _until(deadline_s)
        try:
            async with limit:
                prepared = await run(self.endpoint.prepare, answerer, rows, at_us, deadline_s)
        except TimeoutError:
            if not limit.expired():  # the model raised the error
                raise
            if degrading is None or at_us is not None:
                raise Late(_TOO_MUCH) from None
            prepared = await self.finish(True, degrading.late, answerer, rows)
        return prepared

    async def finish(self, late: bool, function: Callable[..., Any], *arguments: Any) -> Any:
        """Do the last step of a response in a thread.

        The late predictions may still occupy all threads of `work`, so a late response uses those of `wait`.
        """
        return await (self._threads.wait if late else self._threads.go_on)(function, *arguments)

    async def _safe(self, prepared: Sequence[Prepared]) -> Sequence[Prediction]:
        """Log the new predictions among these answers, and return them when they are safely buffered or in the log."""
        made: Sequence[Prediction]
        if isinstance(prepared, PackedPredictions):
            made = prepared
        else:
            made = [one for one in prepared if isinstance(one, Prediction)]
        if made and not self._commit.buffer(made):
            await self._commit.append(made)
        return made

    def _deadline_s(self, started: float, timeout_s: float | None, own_s: float | None = None) -> float | None:
        """Return the deadline, which is when the shorter of the two time limits ends; None: there is no deadline.

        If the model's policy for late answers gives a fallback answer earlier, the deadline is the time of that answer.
        """
        if own_s is not None and (timeout_s is None or own_s < timeout_s):
            timeout_s = own_s
        degrading = self.endpoint.degrading
        if degrading is not None:
            return degrading.deadline_s(started, timeout_s)
        return None if timeout_s is None else started + timeout_s

    def _answered(
        self,
        form: Form,
        answerer: Answerer,
        request: RequestBody,
        prepared: Sequence[Answered],
        made: Sequence[Prediction | Answer],
        times: tuple[float, ...],
    ) -> Any:
        """Return the response to a request whose predictions are logged, and count the request."""
        logged = perf_counter()
        answer = form.write(answerer, request, prepared)
        self._done(form, answerer, request, made, (*times, logged, perf_counter()))
        return answer

    def _done(
        self,
        form: Form,
        answerer: Answerer,
        request: RequestBody,
        made: Sequence[Prediction | Answer],
        times: tuple[float, ...],
    ) -> None:
        """Count an answered request and the times at which its stages ended.

        Requests about the present are also offered to the shadow.
        """
        shadow = self.endpoint.shadow
        if shadow is not None and request.at_us is None:
            self._shadowing.offer(shadow, request.rows)
        self.metrics.answered(answerer, len(request.rows), made, times)
        form.answered(answerer, len(request.rows), times)


def _until(deadline_s: float | None) -> asyncio.Timeout:
    """Return a context manager that times out at a time of `perf_counter`. With None, it never does."""
    return asyncio.timeout(None if deadline_s is None else max(0.0, deadline_s - perf_counter()))


def _later(answer: Coroutine[Any, Any, Any], shared: Shared | None = None) -> Waiting:
    task = asyncio.get_running_loop().create_task(answer)
    return Waiting(task, task.result, shared)
