"""Check the access rights of requests: API keys with their roles and rates.

Without keys, a predict request is only refused if a page of another site sent it. With keys, the check is one look-up
in a dictionary (`Access.admit`).
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from collections.abc import Callable, Iterable, Sequence
from random import getrandbits
from time import monotonic

from trimtab.serving.access_keys import AccessKey, Role, key_id
from trimtab.serving.problems import Refused

NO_KEY = "anybody"  # the name under which clients without a key are logged
_SEEN = 4_096  # the maximum number of verified keys that are cached
_BEARER = b"bearer "
_LOCAL = re.compile(rb"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", re.IGNORECASE)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_REALM = 'Bearer realm="trimtab"'


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the `X-Request-Id` of a request if it is 1 to 128 of A-Z, a-z, 0-9, ._:- and otherwise a new id.

    >>> request_id([(b"x-request-id", b"job-7.1")])
    'job-7.1'
    >>> len(request_id([(b"x-request-id", b"a line" + bytes([10]) + b"and another")]))
    32
    """
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value.decode()
    return f"{getrandbits(128):032x}"  # a fast generator is enough, because an id is not a secret


class Access:
    """Decides which client may do what.

    Args:
        required: Whether every request needs a key. None: every request does if any key was ever made. False: only
            administration may need a key.
        host: The address at which the server listens. If other machines can reach this address, administration always
            needs a key.
        share: The share of each key's rate that this process allows.
        now_s: Returns the time for rates, in seconds.
    """

    def __init__(
        self,
        *,
        required: bool | None = None,
        host: str = "127.0.0.1",
        share: float = 1.0,
        now_s: Callable[[], float] = monotonic,
    ) -> None:
        self.asks = bool(required)  # whether `admit` must be called for requests other than administration
        self._required = required
        self._closed = bool(required)  # whether every request needs a key
        self._host = host
        self._local = is_loopback(host)
        self._share = share
        self._now_s = now_s
        self._by_id: dict[str, _Holder] = {}
        self._seen: dict[bytes, _Holder] = {}

    def take(self, keys: Sequence[AccessKey], ever: bool) -> None:
        """Replace the known keys.

        Args:
            ever: Whether any key was ever made.
        """
        before = self._by_id
        self._by_id = {key.id: _Holder(key, self._share, before.get(key.id)) for key in keys}
        self._seen = {}
        self._closed = ever if self._required is None else self._required
        self.asks = self._closed or bool(keys)

    def let_in(self, headers: Iterable[tuple[bytes, bytes]], right: Role) -> str:
        """Admit an HTTP request, and return the name under which its client is logged.

        If a key may be needed, `admit` decides. Otherwise only requests from pages of other sites are refused.

        Raises:
            Refused: `admit` refused the request. Or a page of another site sent it without a key, and `right` is more
                than "read" (403).
        """
        if self.asks or right == "admin":
            return self.admit(headers, right)
        if right != "read" and _presented(headers) is None:
            _check_page(headers)
        return NO_KEY

    def admit(self, headers: Iterable[tuple[bytes, bytes]], right: Role) -> str:
        """Return the name of the client's key (or `NO_KEY`), and count the request against the key's rate.

        Raises:
            Refused: The request has no key or an unknown key (401), the key does not allow this (403), or its rate is
                exceeded (429).
        """
        presented = _presented(headers)
        if presented is None:
            return self._without(headers, right)
        seen = self._seen
        holder = seen.get(presented)  # hashes are seeded at random, so the time of this look-up reveals nothing
        if holder is None:
            holder = self._verified(presented)
            if len(seen) >= _SEEN:
                seen.clear()
            seen[presented] = holder
        if right not in holder.rights:
            raise _not_allowed(holder, right)
        if holder.rate_per_s and (wait_s := holder.wait_s(self._now_s())):
            raise Refused(
                429,
                f"key {holder.name!r}: more requests than its rate of {holder.rate}. Send the request again in "
                f"{wait_s} s.",
                headers=((b"retry-after", b"%d" % wait_s),),
            )
        return holder.name

    def _verified(self, presented: bytes) -> _Holder:
        key = (presented[7:] if presented[:7].lower() == _BEARER else presented).strip()
        holder = self._by_id.get(key_id(key.decode("latin-1")) or "")
        digest = hashlib.sha256(key).hexdigest()
        if holder is None or not hmac.compare_digest(digest, holder.sha256):
            raise _unauthorised("the key is not known here; it may have been removed", 'error="invalid_token"')
        return holder

    def _without(self, headers: Iterable[tuple[bytes, bytes]], right: Role) -> str:
        if self._closed:
            raise _unauthorised("a key is needed")
        if right != "admin":
            if right != "read":
                _check_page(headers)
            return NO_KEY
        if self._by_id or not self._local:
            why = "" if self._local else f" while the server listens on {self._host}"
            raise Refused(
                403,
                f"administration needs a key{why}. Make one (trimtab keys add NAME --role admin) and send it: "
                "Authorization: Bearer KEY.",
                headers=_challenge(),
            )
        host = next((value for name, value in headers if name == b"host"), b"")
        if not _LOCAL.fullmatch(host) or _is_cross_site(headers):
            raise Refused(
                403,
                "the request came by way of another host or page, so administration needs a key (trimtab keys add NAME "
                "--role admin).",
                headers=_challenge(),
            )
        return NO_KEY


class _Holder:
    """A known key, and how many requests its rate allows now."""

    def __init__(self, key: AccessKey, share: float, before: _Holder | None) -> None:
        self.name = key.name
        self.sha256 = key.sha256
        self.rights = frozenset(("read", "predict", "write", "admin") if "admin" in key.roles else key.roles)
        self.rate = key.rate
        self.rate_per_s = (key.rate_per_s or 0.0) * share
        self._most = max(1.0, self.rate_per_s)  # the number of requests allowed at once after a pause
        self._left, self._at_s = self._most, -math.inf
        if before is not None and before.rate_per_s == self.rate_per_s:
            self._left, self._at_s = before._left, before._at_s

    def wait_s(self, now_s: float) -> int:
        """Count a request and return 0 if the rate allows it. Otherwise return the number of seconds to wait."""
        left = self._left + (now_s - self._at_s) * self.rate_per_s
        if left > self._most:
            left = self._most
        self._at_s = now_s
        if left < 1.0:
            self._left = left
            return max(1, math.ceil((1.0 - left) / self.rate_per_s))
        self._left = left - 1.0
        return 0


def _presented(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Return the key that a request presents, even if it is not valid."""
    for name, value in headers:
        if name == b"x-api-key" or (name == b"authorization" and value[:7].lower() == _BEARER):
            return value
    return None


def _is_cross_site(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a browser sent a request on behalf of a page of another site.

    Browsers add these headers themselves, and pages cannot remove them. Other clients do not send them.  # D0096
    """
    host, origins, site = b"", [], b""
    for name, value in headers:
        if name == b"host":
            host = value
        elif name == b"origin":
            origins.append(value)
        elif name == b"sec-fetch-site":
            site = value.lower()
    return site == b"cross-site" or any(origin.partition(b"://")[2] != host for origin in origins)


def _check_page(headers: Iterable[tuple[bytes, bytes]]) -> None:
    if _is_cross_site(headers):
        raise Refused(
            403,
            "a page of another site sent the request, so it needs a key (trimtab keys add NAME --role predict, or "
            "write), sent as Authorization: Bearer KEY.",
            headers=_challenge(),
        )


def is_loopback(host: str) -> bool:
    """Return whether a server at `host` can be reached only from this machine."""
    import ipaddress

    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _unauthorised(found: str, more: str = "") -> Refused:
    return Refused(
        401,
        f"{found}. Send Authorization: Bearer KEY, or X-Api-Key: KEY (made by trimtab keys add NAME --role ROLE).",
        headers=_challenge(more),
    )


def _not_allowed(holder: _Holder, right: Role) -> Refused:
    has = ", ".join(sorted(holder.rights))
    return Refused(
        403,
        f"key {holder.name!r} lacks the role {right!r}; it has {has}. Use a key with the role {right!r}.",
        headers=_challenge(f'error="insufficient_scope", scope="{right}"'),
    )


def _challenge(more: str = "") -> tuple[tuple[bytes, bytes], ...]:
    return ((b"www-authenticate", (f"{_REALM}, {more}" if more else _REALM).encode()),)
