"""The HTTP client of `trimtab serve`. Its methods have the same names, results and errors as those of a project."""

from __future__ import annotations

import datetime as dt
import http.client
import os
import random
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload
from urllib.parse import SplitResult, quote, urlencode, urlsplit

import msgspec
import urllib3
from urllib3.exceptions import ClosedPoolError, HTTPError, NewConnectionError

from trimtab.core.closing import Closing
from trimtab.core.errors import Conflict, Misuse, NotFound, TrimtabError, Unavailable
from trimtab.serving.answer.served import Answer
from trimtab.serving.client_connections import connections, tls_context
from trimtab.serving.failures import Late, ModelFailed, NotApplied
from trimtab.serving.json_values import encode, plain_value
from trimtab.serving.problems import TYPE_PREFIX, InvalidField, Problem, Refused

if TYPE_CHECKING:
    from trimtab.experiments.assignment import Assignment
    from trimtab.experiments.records import ExperimentStatus
    from trimtab.serving.http.routes.operations import EntityFeatures, Labelled, ModelShown

T = TypeVar("T")
Row = Mapping[str, Any]

_RETRIES = 3
_FIRST_PAUSE_S = 0.05  # pause before the second attempt; it doubles before each further one
_LONGEST_PAUSE_S = 5.0  # if the service asks for a longer pause (Retry-After), the client gives up
_SLACK_S = 0.25  # additional time in which a response that was made just in time can arrive
_LONGEST_MS = 600_000  # the longest X-Timeout-Ms that the service accepts
_BY_TYPE: dict[str, type[TrimtabError]] = {  # errors that are recognised by the type in the problem detail
    "late": Late,
    "model-failed": ModelFailed,
    "not-applied": NotApplied,
}
_BY_STATUS: dict[int, type[TrimtabError]] = {
    400: Misuse,
    404: NotFound,
    408: Unavailable,
    409: Conflict,
    429: Unavailable,
    503: Unavailable,
    504: Late,
}
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class PushProblem(msgspec.Struct, frozen=True):
    """The reason why one row could not become an event and was put into quarantine."""

    row: int
    field: str
    reason: str
    found: str


class PushedRows(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of pushed rows, and the problems with some of them. Accepted rows are safe in the log."""

    accepted: int
    quarantined: int
    problems: tuple[PushProblem, ...] = ()  # the first hundred problems
    absent: tuple[str, ...] = ()  # declared columns that some rows lack; they are null there


def connect(url: str, *, key: str | None = None, timeout_s: float = 30.0, cafile: str | None = None) -> Client:
    """Return a client of the service at `url`. Nothing is sent yet.

    Args:
        url: The URL that `trimtab serve` prints, such as "http://127.0.0.1:8117".
        key: An API key, if the service needs one.
        timeout_s: The time limit of a call, including all its attempts. It is sent to the service as `X-Timeout-Ms`.
            Name resolution may take longer.
        cafile: A PEM file with the certificates to trust instead of the system's. It may contain the service's own
            certificate or that of its issuer.

    Raises:
        Misuse: The URL, the key, the time or the file cannot be used.
    """
    return Client(url, key=key, timeout_s=timeout_s, cafile=cafile)


class Client(Closing):
    """A client of one service. Close it after use, or use it in a `with` statement.

    Threads and forked children may share it. The errors are those of a project: `Misuse` (or `InvalidField` with
    `field` and `pointer`), `NotFound`, `Conflict` and `Unavailable` (or one of its kinds `Late`, `ModelFailed` and
    `NotApplied`). Any other failure of the service is a `TrimtabError`.

    A call is sent again only if that is safe. This is the case if no connection was made, or if the service refused the
    call before it did anything (429). Calls that only read are also sent again after status 503 or a broken connection.
    """

    def __init__(self, url: str, *, key: str | None = None, timeout_s: float = 30.0, cafile: str | None = None) -> None:
        place = _split(url)
        tls = tls_context(cafile) if place.scheme == "https" else None
        self.url = f"{place.scheme}://{place.netloc}{place.path.rstrip('/')}"
        self._prefix = quote(place.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
        self._timeout_s = _check_timeout(timeout_s)
        authorization = {} if key is None else {"authorization": f"Bearer {_header(key)}"}
        self._headers = {"accept": "application/json"} | authorization
        self._new_pool = partial(connections, place, tls)
        self._pool, self._pid = self._new_pool(), os.getpid()

    # -- verbs --------------------------------------------------------------------------------------------------

    @overload
    def predict(
        self, model: str, rows: Row, *, at: str | int | dt.datetime | None = None, timeout_s: float | None = None
    ) -> Answer: ...

    @overload
    def predict(
        self,
        model: str,
        rows: Sequence[Row],
        *,
        at: str | int | dt.datetime | None = None,
        timeout_s: float | None = None,
    ) -> list[Answer]: ...

    def predict(
        self,
        model: str,
        rows: Row | Sequence[Row],
        *,
        at: str | int | dt.datetime | None = None,
        timeout_s: float | None = None,
    ) -> Answer | list[Answer]:
        """Predict one row or several rows, in their order. Each prediction is logged.

        Args:
            model: The name of a deployed model.
            rows: A dict, or a list of dicts. Every declared column must be present.
            at: A time in the past as of which to answer. By default, the answer is as of now.
            timeout_s: The time limit of this call. By default, it is that of the client.

        Raises:
            NotFound: The model does not exist.
            Misuse: A row is not as declared.
            Unavailable: The service is too busy or not ready, or does not respond. If it responds that the prediction
                is late, the error is `Late`. If the model raised an error or returned no number, it is `ModelFailed`.
        """
        one = isinstance(rows, Mapping)
        body: dict[str, Any] = {"request": rows} if one else {"rows": _listed(rows)}
        if at is not None:
            body["at"] = at
        path = _path("v1", "models", model, "predict")
        if one:
            return self._ask("POST", path, body, timeout_s, Answer)
        return self._ask("POST", path, body, timeout_s, _Predictions).predictions

    def push(
        self, source: str, rows: Row | Sequence[Row], *, wait: bool = False, timeout_s: float | None = None
    ) -> PushedRows:
        """Append events. When this returns, the accepted events are safe.

        If the service may have stored the rows before a failure, they are not sent again: in a source with a key, they
        could replace a newer row of another client. In a source without a key, the caller may push them again, and they
        count once.

        Args:
            source: The name of the source.
            rows: An event, or a list of events.
            wait: Whether to return only when the online features include the events.
            timeout_s: The time limit of this call. By default, it is that of the client.

        Raises:
            NotFound: The source does not exist.
            Misuse: A column is not declared, or no row was accepted.
            NotApplied: The events are safe, but the features do not include them yet. Do not push them again.
            Unavailable: The service is too busy, and nothing was done. Or it did not respond, and the events may or may
                not be in the log.
        """
        path = _path("v1", "events", source) + ("?wait=applied" if wait else "")
        return self._ask("POST", path, _listed(rows), timeout_s, PushedRows)

    def label(
        self, model: str, rows: Row | Sequence[Row], *, wait: bool = False, timeout_s: float | None = None
    ) -> Labelled:
        """Append labels: the true outcomes of earlier requests.

        Args:
            model: The name of a deployed model.
            rows: `{"prediction": answer.id, "value": True}` or `{"request": key, ...}`, or a list of such dicts. To set
                several columns of the label's source, give `columns` instead of `value`. `at` is the time of the event.
            wait: Whether to return only when the online features include the labels.
            timeout_s: The time limit of this call. By default, it is that of the client.

        Raises:
            NotFound: The model or the prediction does not exist.
            Misuse: A label is not as declared, or no label was accepted.
            NotApplied: The labels are safe, but the features do not include them yet. Do not send them again.
            Unavailable: The service is too busy or cannot be reached.
        """
        from trimtab.serving.http.routes.operations import Labelled

        path = _path("v1", "labels", model) + ("?wait=applied" if wait else "")
        return self._ask("POST", path, _listed(rows), timeout_s, Labelled)

    def why(self, prediction_id: str) -> dict[str, Any]:
        """Return everything that led to a prediction, as `trimtab why --json` prints it.

        Raises:
            NotFound: The prediction does not exist.
        """
        return self._get(_path("v1", "predictions", prediction_id) + "?why", dict[str, Any])

    def features(self, entity: str, *key: str | int, model: str | None = None) -> EntityFeatures:
        """Return the current online features of an entity: their values and ages, and why values are missing.

        Args:
            entity: The name of the entity in views.
            key: One value for each column of the entity's key.
            model: If given, only the features that this model reads are returned.

        Raises:
            NotFound: No view has this entity, or the model does not exist.
        """
        from trimtab.serving.http.routes.operations import EntityFeatures

        path = _path("v1", "entities", entity, *map(_key_text, key), "features")
        return self._get(path + ("" if model is None else f"?{urlencode({'model': model})}"), EntityFeatures)

    def assign(
        self,
        experiment: str,
        attributes: Row | str | int,
        *,
        expose: bool = False,
        not_shown: str = "",
        timeout_s: float | None = None,
    ) -> Assignment:
        """Return the variant of a unit.

        Args:
            experiment: The name of an experiment.
            attributes: The columns that identify the unit and those that the experiment reads. If it is a single
                column, its value is enough.
            expose: Whether the unit is exposed to its variant now. This is logged, and the unit counts from now on.
            not_shown: Together with `expose`: why the unit did not get its variant, such as "timeout".
            timeout_s: The time limit of this call. By default, it is that of the client.

        Raises:
            NotFound: The experiment does not exist.
            Misuse: A column is missing or has a wrong type.
            Unavailable: The service is too busy or cannot be reached.
        """
        from trimtab.experiments.assignment import Assignment

        body = {"attributes": attributes, "expose": expose, "not_shown": not_shown}
        return self._ask("POST", _path("v1", "experiments", experiment, "assign"), body, timeout_s, Assignment)

    def expose(
        self,
        experiment: str,
        units: Sequence[Row | str | int],
        *,
        not_shown: str = "",
        at: str | int | Sequence[str | int] | None = None,
        timeout_s: float | None = None,
    ) -> list[Assignment]:
        """Log that units were exposed to their variants, and return the variants. Either all units are logged, or none.

        The call may be repeated after an error. Each unit is given like `attributes` of `assign`. `at` is when the
        units were exposed to their variants, if not now: one time for all, or a list with one for each. See `assign`
        for other arguments and errors.
        """
        from trimtab.serving.http.routes.operations import ExposedUnits

        path = _path("v1", "experiments", experiment, "expose")
        body = {"units": [*units], "not_shown": not_shown} | ({} if at is None else {"at": at})
        return self._ask("POST", path, body, timeout_s, ExposedUnits).assignments

    def experiments(self) -> list[ExperimentStatus]:
        """Return the experiments, with their phases and weights."""
        from trimtab.experiments.records import ExperimentStatus

        return self._get("/v1/experiments", dict[str, list[ExperimentStatus]])["experiments"]

    def models(self) -> list[ModelShown]:
        """Return the deployed models, with their deployed versions and aliases."""
        from trimtab.serving.http.routes.operations import ModelShown

        return self._get("/v1/models", dict[str, list[ModelShown]])["models"]

    def close(self) -> None:
        """Close the connections of this client."""
        self._pool.close()

    # -- requests -----------------------------------------------------------------------------------------------

    def _get(self, path: str, kind: type[T]) -> T:
        return self._ask("GET", path, None, None, kind)

    def _ask(self, method: str, path: str, body: Any, timeout_s: float | None, kind: type[T]) -> T:
        """Send a request, and decode the response. After a failure, send it again if that is safe and there is time."""
        end_s = time.monotonic() + (self._timeout_s if timeout_s is None else _check_timeout(timeout_s))
        encoded = None if body is None else encode(body)
        for attempt in range(_RETRIES + 1):
            try:
                return self._try(method, path, encoded, end_s, kind)
            except _RetryableError as failed:
                pause_s = failed.after_s or _FIRST_PAUSE_S * 2**attempt * random.uniform(0.5, 1.0)
                if attempt == _RETRIES or pause_s > _LONGEST_PAUSE_S or time.monotonic() + pause_s >= end_s:
                    raise failed.error from failed.error.__cause__
                time.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    def _try(self, method: str, path: str, body: bytes | None, end_s: float, kind: type[T]) -> T:
        left_s = max(end_s - time.monotonic(), 0.001)
        headers = self._headers | {"x-timeout-ms": str(min(max(1, round(left_s * 1_000)), _LONGEST_MS))}
        if body is not None:
            headers["content-type"] = "application/json"
        try:
            if self._pid != os.getpid():  # a forked child must not use the connections of its parent
                self._pool, self._pid = self._new_pool(), os.getpid()
            response = self._pool.urlopen(
                method,
                self._prefix + path,
                body,
                headers,
                retries=False,
                redirect=False,
                timeout=urllib3.Timeout(total=left_s + _SLACK_S),
            )
        except ClosedPoolError:
            raise Misuse(f"{self.url}: this client is closed. Connect again: tt.connect({self.url!r})") from None
        except HTTPError as error:
            raise self._failed(error, reads=method == "GET") from error
        if response.status == 200:
            return _decoded(response.data, kind, self.url)
        problem = _error(response.status, response.data, f"{self.url}{path}")
        if response.status == 429 or (response.status == 503 and method == "GET"):
            given = response.headers.get("retry-after", "")
            raise _RetryableError(problem, float(given) if given.isdecimal() else 0.0) from problem
        raise problem

    def _failed(self, error: HTTPError, *, reads: bool) -> Exception:
        """Return the error to raise after an error of urllib3.

        It is a `_RetryableError` if nothing was sent, or if the call only reads.
        """
        cause = error.__cause__ if isinstance(error, NewConnectionError) else error.args[-1]
        cause = cause if isinstance(cause, Exception) else error
        if isinstance(cause, TimeoutError | urllib3.exceptions.TimeoutError):
            return Unavailable(f"{self.url}: no answer in time. Raise timeout_s, or send the request again.")
        found = f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__
        failed = Unavailable(f"{self.url}: cannot be reached ({found}). {self._advice(cause)}")
        again = reads or isinstance(error, NewConnectionError)
        return _RetryableError(failed, 0.0) if again and not _is_tls_fault(cause) else failed

    def _advice(self, cause: Exception) -> str:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "Use a host name that is in its certificate, and give the certificate to trust (cafile=FILE)."
        if _is_tls_fault(cause):
            return "If the service has no HTTPS, use http://."
        if isinstance(cause, http.client.RemoteDisconnected) and self._pool.scheme == "http":
            return "Is `trimtab serve` running there? If it has a certificate (serve.tls_cert), use https://."
        return "Is `trimtab serve` running there?"


def _is_tls_fault(cause: Exception) -> bool:
    """Return whether TLS itself failed, so that another attempt would fail as well.

    A closed connection does not count.
    """
    return isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError)


class _Predictions(msgspec.Struct, frozen=True):
    predictions: list[Answer]


class _RetryableError(Exception):
    """A failure after which the same call may be sent again after a pause of `after_s`."""

    def __init__(self, error: TrimtabError, after_s: float) -> None:
        super().__init__(str(error))
        self.error = error
        self.after_s = after_s


def _split(url: str) -> SplitResult:
    if not isinstance(url, str):
        raise Misuse(f"connect: url is a {type(url).__name__}. Give a text such as http://127.0.0.1:8117.")
    try:
        place = urlsplit(url.strip() if "//" in url else f"http://{url.strip()}")
        host = place.hostname or ""
        host.encode("idna"), place.port, place.path.encode()  # each of these raises an error for an invalid URL
    except ValueError as error:
        raise Misuse(f"connect: {url!r}: {error}.") from None
    strange = place.query or place.fragment or "@" in place.netloc or not host.isprintable() or " " in host
    if place.scheme not in ("http", "https") or not host or strange:
        raise Misuse(f"connect: {url!r} is not the address of a service. Give one such as http://127.0.0.1:8117.")
    return place


def _path(*parts: str) -> str:
    try:
        return "/" + "/".join(quote(part, safe="@") for part in parts)
    except (TypeError, UnicodeEncodeError) as error:
        raise Misuse(f"{', '.join(map(repr, parts[1:]))}: not a valid name ({error}). Give texts.") from None


def _key_text(value: Any) -> str:
    """Return a value of an entity's key as it is written in a URL."""
    plain = plain_value(value) if type(value).__module__ == "numpy" else value
    if not isinstance(plain, str | int):
        raise Misuse(f"key: found a {type(value).__name__}, {value!r}. Give a text or a whole number for each column.")
    return str(plain)


def _check_timeout(timeout_s: float) -> float:
    if not isinstance(timeout_s, int | float) or not 0 < timeout_s <= 86_400:
        raise Misuse(f"timeout_s={timeout_s!r}: give seconds above 0, at most a day.")
    return timeout_s


def _header(key: str) -> str:
    if not isinstance(key, str) or not key.isascii() or not key.isprintable() or not key.strip():
        raise Misuse("connect: key is not an API key. Give one that `trimtab keys add` printed.")
    return key


def _listed(rows: Any) -> list[Row]:
    if isinstance(rows, Mapping):
        return [rows]
    if isinstance(rows, str | bytes) or not isinstance(rows, Iterable) or hasattr(rows, "__arrow_c_stream__"):
        raise Misuse(f"rows is a {type(rows).__name__}. Give a dict or a list of dicts.")
    listed = list(rows)
    for place, row in enumerate(listed):
        if not isinstance(row, Mapping):
            raise Misuse(f"rows[{place}] is a {type(row).__name__}. Give a dict or a list of dicts.")
    return listed


def _decoded(content: bytes, kind: type[T], url: str) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except _UNREADABLE as error:
        raise Unavailable(f"{url}: the answer is not from a trimtab service of this version ({error}).") from error


def _error(status: int, content: bytes, where: str) -> TrimtabError:
    """Return the error that a problem detail in a response stands for."""
    try:
        problem = msgspec.json.decode(content, type=Problem)
    except _UNREADABLE:
        text = content[:200].decode("utf-8", "replace")
        return Unavailable(f"{where}: answered {status} without saying why: {text!r}. Is it a trimtab service?")
    said = problem.detail
    if problem.field is not None:
        return InvalidField(said, field=problem.field, pointer=problem.pointer or "")
    kind = _BY_TYPE.get(problem.type.removeprefix(TYPE_PREFIX)) or _BY_STATUS.get(status)
    if kind is not None:
        return kind(said)
    return Refused(status, said) if status < 500 else TrimtabError(f"{where}: {said}")
