"""Store API keys in the catalogue, each with name, roles and hash. A key itself is shown once and never stored.

A key has 256 random bits and cannot be guessed. Therefore a single SHA-256 is as safe as a slow hash, and takes only a
microsecond to check.  # D96
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeAlias, get_args

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, Misuse, NotFound, TrimtabError, Unavailable
from trimtab.store.durable_files import write_durably
from trimtab.store.ports import Append, Catalog, Put, Record, Remove

Role: TypeAlias = Literal["read", "predict", "write", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)

MARKER = "keys.json"  # the name of the marker file in the state folder
_KIND = "access_key"  # the kind of the catalogue records; the key of a record is the name of its API key
_JOURNAL = "access_keys"  # the journal that records who made or removed a key; servers read it to notice changes
_PREFIX = "trimtab"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._@-]{0,62}")  # the allowed names, which appear in ledgers and logs
_RATE = re.compile(r"\s*(\d{1,9}(?:\.\d{1,6})?)\s*/\s*(s|min|h)\s*")
_SECONDS = {"s": 1, "min": 60, "h": 3_600}
_POLL_S = 0.5  # time between two checks for changes
_logger = logging.getLogger(__name__)


class AccessKey(msgspec.Struct, frozen=True, kw_only=True):
    """The stored data of an API key, without its secret."""

    format: Literal[1] = 1
    id: str  # a part of the key by which its record is found
    name: str
    roles: tuple[Role, ...]
    sha256: str  # the hash of the whole key
    rate: str | None  # "100/s"; None: no limit
    made_at_us: int
    actor: str

    @property
    def rate_per_s(self) -> float | None:
        return None if self.rate is None else rate_per_s(self.rate)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """An entry in the journal of keys."""

    act: Literal["add", "remove"]
    name: str
    id: str
    actor: str


class AccessKeys:
    """Makes, lists and removes API keys.

    Args:
        marker: A file outside the catalogue whose existence shows that a key was once made.  # D0096
    """

    def __init__(self, catalog: Catalog, *, clock: Clock, marker: Path | None = None) -> None:
        self._catalog = catalog
        self._clock = clock
        self._marker = marker

    def add(self, name: str, roles: Sequence[Role], *, rate: str | None = None, actor: str = "a person") -> str:
        """Make a key and return it. It cannot be shown again.

        Args:
            name: The name of the client who gets the key. The name appears in ledgers and logs.
            roles: What the key allows. "admin" includes the other roles.
            rate: The maximum rate of requests in each serving process, such as "100/s", "600/min" or "1000/h".
            actor: The person or process that makes the key.

        Raises:
            Misuse: The name, a role or the rate is invalid.
            Conflict: A key with this name exists.
        """
        what = f"key {name!r}"
        if not _NAME.fullmatch(name):
            raise Misuse(f"{what}: a name begins with a letter and has at most 63 characters of A-Z, a-z, 0-9, ._@-")
        if not roles or (wrong := [role for role in roles if role not in ROLES]):
            raise Misuse(
                f"{what}: role {wrong[0]!r}. Give one or more of {', '.join(ROLES)}."
                if roles
                else f"{what}: no role. Give one or more of {', '.join(ROLES)} (--role)."
            )
        if rate is not None:
            rate_per_s(rate)
        key_id = secrets.token_hex(6)
        key = f"{_PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
        made = AccessKey(
            id=key_id,
            name=name,
            roles=tuple(role for role in ROLES if role in roles),
            sha256=hashlib.sha256(key.encode()).hexdigest(),
            rate=rate,
            made_at_us=self._clock.now_us(),
            actor=actor,
        )
        self.mark()  # before the record: if the process is killed in between, services refuse requests without a key
        try:
            self._catalog.write(
                [
                    Put(_KIND, name, msgspec.json.encode(made), expected=0),
                    self._row(Change(act="add", name=name, id=key_id, actor=actor)),
                ]
            )
        except Conflict as error:
            raise Conflict(
                f"{what}: a key of this name exists. Remove it first (trimtab keys remove {name}), or choose another "
                "name."
            ) from error
        return key

    def remove(self, name: str, *, actor: str = "a person") -> AccessKey | None:
        """Remove a key and return its record, or None if the record was unreadable.

        At the latest two seconds later, servers refuse the key.

        Raises:
            NotFound: There is no key with this name.
        """
        record = self._catalog.get(_KIND, name)
        if record is None:
            there = ", ".join(one.key for one in self._catalog.find(_KIND)) or "none"
            raise NotFound(f"key {name!r}: there is no such key. There are: {there}.")
        found = _read(record)
        change = Change(act="remove", name=name, id="" if found is None else found.id, actor=actor)
        self._catalog.write([Remove(_KIND, name), self._row(change)])
        return found

    def all(self) -> list[AccessKey]:
        """Return all readable keys, sorted by name."""
        return self.read()[0]

    def read(self) -> tuple[list[AccessKey], list[str]]:
        """Return all readable keys, sorted by name, and the names of keys that are damaged or from a later version."""
        read = [(record.key, _read(record)) for record in self._catalog.find(_KIND)]
        return [key for _, key in read if key is not None], [name for name, key in read if key is None]

    def ever(self) -> bool:
        """Return whether a key was ever made, according to the catalogue or the marker file."""
        return self.changes() > 0 or self._marked()

    def lost(self) -> bool:
        """Return whether a key was once made, although the catalogue has no record of any key."""
        return self._marked() and not self.changes()

    def mark(self) -> None:
        """Create the marker file, which shows that a key was once made.

        Raises:
            Unavailable: The marker cannot be written.
        """
        if self._marker is None or self._marker.exists():
            return
        try:
            write_durably(self._marker, msgspec.json.encode({"format": 1, "marked_at_us": self._clock.now_us()}))
        except OSError as error:
            raise Unavailable(f"{self._marker}: cannot be written ({error}). Check free space and access.") from error

    def _marked(self) -> bool:
        return self._marker is not None and self._marker.exists()

    def changes(self, *, after: int = 0) -> int:
        """Return how often a key was made or removed so far.

        `after` is the result of an earlier call: only changes after it are read, which saves time.
        """
        while entries := self._catalog.journal(_JOURNAL, after=after):
            after = entries[-1].sequence
        return after

    def _row(self, change: Change) -> Append:
        return Append(_JOURNAL, self._clock.now_us(), msgspec.json.encode(change))


class KeyFollower:
    """A thread that notices changes of the keys, so that a server uses the new keys within two seconds.

    Use it in a `with` statement. Keys that cannot be read are left out, so that requests with them are refused.

    Args:
        publish: Called at the start and after each change, with all keys and with whether a key was ever made.

    Raises:
        TrimtabError: The catalogue of the keys cannot be read. No request may be served without it.
    """

    def __init__(self, keys: AccessKeys, publish: Callable[[Sequence[AccessKey], bool], object]) -> None:
        self._keys = keys
        self._publish = publish
        self._warned: set[str] = set()  # names of unreadable keys for which a warning was logged
        self._changes = keys.changes()
        if self._changes:
            with suppress(Unavailable):  # the state folder may be read-only
                keys.mark()  # an earlier version of trimtab may have made the keys without creating the marker
        publish(self._readable(), keys.ever())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trimtab-keys", daemon=True)

    def __enter__(self) -> KeyFollower:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        failed = False
        while not self._stop.wait(_POLL_S):
            try:
                changes = self._keys.changes(after=self._changes)
                if changes != self._changes:
                    self._publish(self._readable(), True)
                    self._changes = changes
                failed = False
            except Exception as error:  # the known keys stay valid, and the next check may succeed
                if not failed:
                    fault = not isinstance(error, TrimtabError)
                    _logger.warning("access keys cannot be read: %s", error, exc_info=fault)
                failed = True

    def _readable(self) -> list[AccessKey]:
        """Return the readable keys, and log one warning for each unreadable key."""
        keys, unreadable = self._keys.read()
        for name in unreadable:
            if name not in self._warned:
                _logger.warning(
                    "access key %r cannot be read, and is refused: its record is damaged, or written by a later "
                    "trimtab. Make the key again (trimtab keys remove, trimtab keys add), or serve with that version.",
                    name,
                )
        self._warned = set(unreadable)
        return keys


def _read(record: Record) -> AccessKey | None:
    """Return the key that a record contains, or None if the record is not readable."""
    try:
        key = msgspec.json.decode(record.body, type=AccessKey)
        if key.rate is not None:
            rate_per_s(key.rate)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, Misuse):
        return None
    return key


def rate_per_s(rate: str) -> float:
    """Return a rate such as "100/s" as requests per second.

    Raises:
        Misuse: The text is not a rate.

    >>> rate_per_s("600/min")
    10.0
    """
    found = _RATE.fullmatch(rate)
    number = 0.0 if found is None else float(found[1])
    if found is None or not number:
        raise Misuse(f'rate {rate!r}: write a number above 0 and a unit, "100/s", "600/min" or "1000/h".')
    return number / _SECONDS[found[2]]


def key_id(key: str) -> str | None:
    """Return the id inside a key, or None if the text does not look like a key."""
    parts = key.split("_", 2)
    return parts[1] if len(parts) == 3 and parts[0] == _PREFIX else None
