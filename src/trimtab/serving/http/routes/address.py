"""The rows of the table of addresses, and the router that finds the row for a request."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from trimtab.serving.access_keys import Role
from trimtab.serving.http.requests.http_request import HttpRequest
from trimtab.serving.http.requests.wire import Reply, problem_reply

Handler: TypeAlias = Callable[[Any, HttpRequest], Awaitable[Reply]]
Method: TypeAlias = Literal["GET", "POST", "PUT"]
_PART = re.compile(r"\{(\w+)(\*?)\}|\[|\]")


class Address(msgspec.Struct, frozen=True):
    """One method at one path. Routing, access rights and the OpenAPI document are derived from such rows.

    In a path, `{name}` stands for one part and `{name*}` for several parts. A part in brackets may be left out. An
    address for GET also answers HEAD.
    """

    method: Method
    path: str
    right: Role | None  # the right that a request needs; None: no key is needed
    handler: Handler
    operation: str = ""  # the name in the OpenAPI document; if empty, the address is not in the document
    summary: str = ""
    tag: str = ""
    # the response: one or several Structs, a `Listed`, a schema or its name, a media type, or schemas by media type
    gives: Any = None
    takes: Any = None  # the body of the request: a Struct, a list of a Struct, or OpenAPI's description
    query: tuple[str, ...] | None = ()  # the allowed parameters of the query; None: any parameters
    headers: tuple[str, ...] = ()  # the request headers that the OpenAPI document mentions
    each: Literal["", "model", "source", "entity"] = ""  # if set, each model (source, entity) has its own OpenAPI entry
    errors: str = "Problem"  # the name of the schema of errors in the OpenAPI document
    route: str = "more"  # the label of these requests in metrics

    @property
    def methods(self) -> tuple[str, ...]:
        """Return the HTTP methods that the address answers."""
        return ("GET", "HEAD") if self.method == "GET" else (self.method,)


class Listed(msgspec.Struct, frozen=True):
    """The schema of an object that contains one list."""

    name: str
    kind: type[msgspec.Struct]


class Application(msgspec.Struct, frozen=True):
    """A group of addresses, with the object on which their handlers work, to be mounted in a service."""

    target: Any  # the first argument of the handlers
    addresses: Sequence[Address]
    hint: str  # the message for paths that do not exist
    prefix: str = ""  # the prefix of all paths that belong to this application
    error_reply: Callable[[BaseException, str], Reply] = problem_reply
    slashes: bool = False  # whether a path may end with a slash


class Match(NamedTuple):
    """The result of routing: the handler for a request."""

    application: Application
    address: Address | None  # None if the path has no address for the request's method
    names: Mapping[str, str] = {}
    methods: Sequence[str] = ()  # the methods that the path answers; empty if the path does not exist
    right: Role | None = "read"  # the right that the request needs
    route: str = "other"  # the label of the request in metrics


class _Place(NamedTuple):
    pattern: re.Pattern[str]
    application: Application
    by_method: dict[str, Address]


class Router:
    """Finds the address for a request. If two addresses have the same method and path, the later one counts."""

    def __init__(self) -> None:
        self._applications: list[Application] = []
        self._places: dict[str, dict[str, _Place]] = {}  # addresses, by the path's first part and the path

    def mount(self, application: Application) -> None:
        """Add the addresses of an application."""
        self._applications.insert(0, application)
        for address in application.addresses:
            first = address.path.split("/")[1].partition("[")[0]
            places = self._places.setdefault(first, {})
            place = places.get(address.path)
            known = {} if place is None else place.by_method
            pattern = re.compile(_pattern(address.path) + "/*" * application.slashes, re.DOTALL)
            places[address.path] = _Place(pattern, application, known | dict.fromkeys(address.methods, address))

    def find(self, method: str, path: str) -> Match:
        """Return the handler for a request, and the right that the request needs.

        If the path does not answer the method, the right is that of its first method, but "read" instead of "write" or
        "admin". If the path does not exist, the right is "read".  # D96
        """
        for place in self._places.get(path.split("/", 2)[1] if "/" in path else "", {}).values():
            if (found := place.pattern.fullmatch(path)) is not None:
                names = {name: value or "" for name, value in found.groupdict().items()}
                address, methods = place.by_method.get(method), tuple(place.by_method)
                if address is not None:
                    return Match(place.application, address, names, methods, address.right, address.route)
                other = next(iter(place.by_method.values()))
                right: Role | None = other.right if other.right in (None, "predict") else "read"
                return Match(place.application, None, names, methods, right, other.route)
        return Match(self.application(path), None)

    def application(self, path: str) -> Application:
        """Return the application that a path belongs to, even if no address has this path."""
        return next(one for one in self._applications if not one.prefix or f"{path}/".startswith(f"{one.prefix}/"))


def _pattern(path: str) -> str:
    """Return a regular expression for the paths of an address.

    >>> _pattern("/v2/models/{model}[/versions/{version}]/infer")
    '/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?/infer'
    """
    out, at = "", 0
    for part in _PART.finditer(path):
        out += re.escape(path[at : part.start()])
        at = part.end()
        if part[0] in "[]":
            out += "(?:" if part[0] == "[" else ")?"
        else:
            out += f"(?P<{part[1]}>{'.+' if part[2] else '[^/]+'})"
    return out + re.escape(path[at:])
