"""Rows of the address table, and the router that finds the row of a request."""

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
    """One method at one path. Routing, access rights and the OpenAPI document are derived from it.

    In a path, `{name}` stands for one part and `{name*}` for several. A part in brackets may be left out. GET answers
    HEAD, too.
    """

    method: Method
    path: str
    right: Role | None  # None: no key is needed
    handler: Handler
    operation: str = ""  # its name in the OpenAPI document; empty: the document leaves it out
    summary: str = ""
    tag: str = ""
    # a Struct, several Structs, a `Listed`, the name of a schema, a media type, a schema, or schemas by media type
    gives: Any = None
    takes: Any = None  # a Struct, a list of a Struct, or a request body in OpenAPI's form
    query: tuple[str, ...] | None = ()  # names that the query may have; None: any name, unchecked
    headers: tuple[str, ...] = ()  # names in the OpenAPI document
    each: Literal["", "model", "source", "entity"] = ""  # the address is documented once for each of these
    errors: str = "Problem"  # the form of the errors in the OpenAPI document
    route: str = "more"  # the label of the address in metrics

    @property
    def methods(self) -> tuple[str, ...]:
        """Return the methods of requests that the address answers."""
        return ("GET", "HEAD") if self.method == "GET" else (self.method,)


class Listed(msgspec.Struct, frozen=True):
    """The schema of an object with one list."""

    name: str
    kind: type[msgspec.Struct]


class Application(msgspec.Struct, frozen=True):
    """Addresses with the object that their handlers work on, mounted in a service."""

    target: Any  # first argument of the handlers
    addresses: Sequence[Address]
    hint: str  # the message where nothing answers
    prefix: str = ""  # prefix of the paths that belong to this application
    error_reply: Callable[[BaseException, str], Reply] = problem_reply
    slashes: bool = False  # whether paths may end in slashes


class Match(NamedTuple):
    """The handler to which a request goes."""

    application: Application
    address: Address | None  # None: this path does not answer to the request's method
    names: Mapping[str, str] = {}
    methods: Sequence[str] = ()  # methods that are answered at this path; empty: the path does not exist
    right: Role | None = "read"  # the right that the request needs
    route: str = "other"  # the label in metrics


class _Place(NamedTuple):
    pattern: re.Pattern[str]
    application: Application
    by_method: dict[str, Address]


class Router:
    """Finds addresses. Of two addresses with the same method and path, the later one counts."""

    def __init__(self) -> None:
        self._applications: list[Application] = []
        self._places: dict[str, dict[str, _Place]] = {}  # addresses by the first part of the path, then by the path

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
        """Return where a request goes, and the right that it needs.

        A request that nothing answers needs no more than the right to read (D96).
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
        """Return the application to which a path belongs, whether or not the path exists."""
        return next(one for one in self._applications if not one.prefix or f"{path}/".startswith(f"{one.prefix}/"))


def _pattern(path: str) -> str:
    """Return the regular expression of a path.

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
