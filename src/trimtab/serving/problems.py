"""The table of errors that HTTP responses report, as problem details (RFC 9457)."""

from __future__ import annotations

import re

import msgspec

from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound, TrimtabError, Unavailable
from trimtab.serving.failures import Late, ModelFailed, NotApplied

STATUS_BY_ERROR: dict[type[TrimtabError], int] = {
    Misuse: 400,
    NotFound: 404,
    Conflict: 409,
    Unavailable: 503,
    Corrupt: 500,
}
_SLUGS = {
    400: "bad-request",
    401: "unauthorised",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    408: "request-timeout",
    409: "conflict",
    413: "too-large",
    415: "unsupported-media-type",
    422: "invalid-field",
    429: "overloaded",
    500: "internal-error",
    503: "unavailable",
    504: "late",
}
_TITLES = {
    400: "The request cannot be understood",
    401: "A key is needed",
    403: "This key may not do that",
    404: "There is no such thing here",
    405: "This address does not allow this method",
    408: "The request did not arrive in time",
    409: "Changed or held by another client",
    413: "The request is too large",
    415: "This media type is not accepted",
    422: "A field of the request is not as declared",
    429: "Too many requests at once",
    500: "The server failed",
    503: "Not available now",
    504: "The answer was not ready in time",
}
PROBLEM_TYPE = b"application/problem+json"
TYPE_PREFIX = "urn:trimtab:problem:"


class InvalidField(Misuse):
    """A `Misuse` that concerns one field of a request.

    `field` is the name of the field. `pointer` is the path to the field in the body, such as `$.rows[3].distance`.
    """

    def __init__(self, message: str, *, field: str, pointer: str = "") -> None:
        super().__init__(message)
        self.field = field
        self.pointer = pointer or field


class Refused(Misuse):
    """A `Misuse` of HTTP itself, such as a wrong method, media type or size, with its HTTP status."""

    def __init__(self, status: int, message: str, *, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


_OWN: dict[type[TrimtabError], tuple[str, str]] = {  # errors that have their own type and title in the problem detail
    ModelFailed: ("model-failed", "The model failed"),
    NotApplied: ("not-applied", "Safe in the log, but not in the online features yet"),
}


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem detail as RFC 9457 defines it, with the field at fault."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    field: str | None = None
    pointer: str | None = None


def problem_of(error: BaseException, instance: str) -> Problem:
    """Return the problem detail for an error of a request to the path `instance`.

    Only the messages of trimtab's own errors are shown to clients. Any other error is a fault of the server or of a
    model, so its text is only logged. Each response with status 500 should have an entry in the log.

    >>> problem_of(NotFound("model 'x': none such"), "/v1/models/x/predict").status
    404
    """
    if isinstance(error, Refused):
        status = error.status
    elif isinstance(error, InvalidField):
        status = 422
    elif isinstance(error, ModelFailed):
        status = 500
    elif isinstance(error, Late):
        status = 504
    else:
        status = next((s for kind, s in STATUS_BY_ERROR.items() if isinstance(error, kind)), 500)
    usual = _SLUGS[status], _TITLES[status]
    slug, title = next((own for kind, own in _OWN.items() if isinstance(error, kind)), usual)
    return Problem(
        type=f"{TYPE_PREFIX}{slug}",
        title=title,
        status=status,
        detail=_detail(error),
        instance=instance,
        field=error.field if isinstance(error, InvalidField) else None,
        pointer=error.pointer if isinstance(error, InvalidField) else None,
    )


def _detail(error: BaseException) -> str:
    if isinstance(error, ModelFailed):
        return error.shown
    if isinstance(error, TrimtabError):
        return str(error)
    return "An unexpected error; the server's log has the details. The server keeps running."


def decode_problem(error: Exception, body: bytes) -> Misuse:
    """Return the error for a body that msgspec refused. It says which field is wrong, or where the JSON is wrong.

    For rows that are Python objects, `body` is empty.
    """
    if isinstance(error, msgspec.ValidationError) and body:  # if the body is not JSON at all, report that instead
        try:
            msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as broken:
            error = error if isinstance(broken, msgspec.ValidationError) else broken  # 1e400, which JSON allows
    text = str(error)
    if isinstance(error, msgspec.ValidationError):
        message, _, pointer = text.partition(" - at `")
        pointer = pointer.rstrip("`") or "$"
        named = re.search(r"(?:required|unknown) field `(.*)`", message)
        field = named[1] if named else _last_name(pointer)
        if named:
            pointer = f"{pointer}.{field}"
        elif pointer == "$":
            return Misuse(f"body: {_sentence(message)}.")
        return InvalidField(f"{pointer}: {_sentence(message)}", field=field, pointer=pointer)
    if isinstance(error, RecursionError):
        return Misuse("body: nested too deeply. Send the request's columns only.")
    if isinstance(error, UnicodeDecodeError):
        return Misuse(f"body: not UTF-8 ({error.reason}: the byte {error.object[error.start]:#04x}). Send UTF-8.")
    if not body.strip():
        return Misuse("body: it is empty. Send one JSON value.")
    position = re.search(r"byte (\d+)", text)
    at = int(position[1]) if position else len(body)
    return Misuse(f"body: not JSON at byte {at} of {len(body)} ({_sentence(text)}). Send one JSON value.")


def _last_name(pointer: str) -> str:
    return re.sub(r"\[[^\]]*\]$", "", pointer).rpartition(".")[2]


def _sentence(message: str) -> str:
    if message.startswith("Object missing required field"):
        return "is missing. Send every declared column; null where there is no value"
    if message.startswith("Object contains unknown field"):
        return "is not declared. Leave it out, or correct its name"
    return message.replace("`", "").removesuffix(".")
