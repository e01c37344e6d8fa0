"""API keys in the catalogue: names, roles and hashes. The keys themselves are shown once and never stored.

A key has 256 random bits and cannot be guessed. So one SHA-256 is as safe as a slow hash, and is checked in a
microsecond. # D96
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

MARKER = "keys.json"  # name of a file in the state folder
_KIND = "access_key"  # kind of the records in the catalogue, whose keys are names
_JOURNAL = "access_keys"  # the journal says who made and removed which key; servers look at it for changes
_PREFIX = "trimtab"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._@-]{0,62}")  # the name appears in ledgers and logs
_RATE = re.compile(r"\s*(\d{1,9}(?:\.\d{1,6})?)\s*/\s*(s|min|h)\s*")
_SECONDS = {"s": 1, "min": 60, "h": 3_600}
_POLL_S = 0.5  # time between two checks of a server for changes
_logger = logging.getLogger(__name__)


class AccessKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key without its secret."""

    format: Literal[1] = 1
    id: str  # stands in the key, so that the record is found without trying all records
    name: str
    roles: tuple[Role, ...]
    sha256: str  # hash of the whole key
    rate: str | None  # "100/s"; None: no limit
    made_at_us: int
    actor: str

    @property
    def rate_per_s(self) -> float | None:
        return None if self.rate is None else rate_per_s(self.rate)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the keys' journal."""

    act: Literal["add", "remove"]
    name: str
    id: str
    actor: str


class AccessKeys:
    """Makes, lists and removes keys.

    Args:
        catalog: The catalogue that holds the keys.
        clock: Gives the time when a key is made.
        marker: A file outside the catalogue that says that a key existed once. # D0096
    """

    def __init__(self, catalog: Catalog, *, clock: Clock, marker: Path | None = None) -> None:
        self._catalog = catalog
        self._clock = clock
        self._marker = marker

    def add(self, name: str, roles: Sequence[Role], *, rate: str | None = None, actor: str = "a person") -> str:
        """Make a key and return it. The key is never shown again.

        Args:
            name: The user of the key. The name appears in ledgers and logs.
            roles: What the key allows. "admin" includes the other roles.
            rate: The most requests in each serving process, such as "100/s", "600/min" or "1000/h".
            actor: The person or process that makes the key.

        Raises:
            Misuse: The name, a role or the rate is invalid.
            Conflict: There is a key with this name.
        """
        what = f"key {name!r}"
        if not _NAME.fullmatch(name):
            raise Misuse(f"{what}: a name begins with a letter and has up to 63 of A-Z, a-z, 0-9 and ._@-")
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
        self.mark()  # first: if the process is killed in between, the service asks for a key that does not exist yet
        try:
            self._catalog.write(
                [
                    Put(_KIND, name, msgspec.json.encode(made), expected=0),
                    self._row(Change(act="add", name=name, id=key_id, actor=actor)),
                ]
            )
        except Conflict as error:
            raise Conflict(
                f"{what}: there is one already. Remove it first (trimtab keys remove {name}), or choose another name."
            ) from error
        return key

    def remove(self, name: str, *, actor: str = "a person") -> AccessKey | None:
        """Remove a key and return it, or None when the key could not be read.

        Servers refuse the key within two seconds.

        Raises:
            NotFound: There is no key with this name.
        """
        record = self._catalog.get(_KIND, name)
        if record is None:
            there = ", ".join(one.key for one in self._catalog.find(_KIND)) or "none"
            raise NotFound(f"key {name!r}: there is no such key. There is: {there}.")
        found = _read(record)
        change = Change(act="remove", name=name, id="" if found is None else found.id, actor=actor)
        self._catalog.write([Remove(_KIND, name), self._row(change)])
        return found

    def all(self) -> list[AccessKey]:
        """Return every key that can be read, by name."""
        return self.read()[0]

    def read(self) -> tuple[list[AccessKey], list[str]]:
        """Return every key by name, and the names of keys that are damaged or of a later version."""
        read = [(record.key, _read(record)) for record in self._catalog.find(_KIND)]
        return [key for _, key in read if key is not None], [name for name, key in read if key is None]

    def ever(self) -> bool:
        """Return whether any key ever existed, as the catalogue or the marker says."""
        return self.changes() > 0 or self._marked()

    def lost(self) -> bool:
        """Return whether a key existed once, but the catalogue has no key and no record of a removed key."""
        return self._marked() and not self.changes()

    def mark(self) -> None:
        """Record outside the catalogue that a key existed.

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
        """Return the number of all changes, if `after` of them are known. 0 means that there never was a key."""
        while entries := self._catalog.journal(_JOURNAL, after=after):
            after = entries[-1].sequence
        return after

    def _row(self, change: Change) -> Append:
        return Append(_JOURNAL, self._clock.now_us(), msgspec.json.encode(change))


class KeyFollower:
    """A thread that follows changes of the keys, so that a server knows them within two seconds.

    Use it with `with`. A key that cannot be read is left out, so requests with it are refused. The other keys are not
    affected.

    Args:
        keys: The keys.
        publish: Called at once and after each change, with all keys and whether a key ever existed.

    Raises:
        TrimtabError: The keys cannot be read. Nothing is served without them.
    """

    def __init__(self, keys: AccessKeys, publish: Callable[[Sequence[AccessKey], bool], object]) -> None:
        self._keys = keys
        self._publish = publish
        self._warned: set[str] = set()  # names of keys that cannot be read
        self._changes = keys.changes()
        if self._changes:
            with suppress(Unavailable):  # the state folder is only read
                keys.mark()  # the first key was made by a version that did not record this
        publish(self._readable(), keys.ever())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trimtab-keys", daemon=True)

    def __enter__(self) -> KeyFollower:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the thread."""
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
            except Exception as error:  # known keys stay valid, and the next check may succeed
                if not failed:
                    fault = not isinstance(error, TrimtabError)
                    _logger.warning("access keys cannot be read: %s", error, exc_info=fault)
                failed = True

    def _readable(self) -> list[AccessKey]:
        """Return the keys that can be read. Each other key is reported once by a warning."""
        keys, unreadable = self._keys.read()
        for name in unreadable:
            if name not in self._warned:
                _logger.warning(
                    "access key %r cannot be read, and is refused: its record is damaged, or of a later version. Make "
                    "it again (trimtab keys remove, trimtab keys add), or serve with the version that made it.",
                    name,
                )
        self._warned = set(unreadable)
        return keys


def _read(record: Record) -> AccessKey | None:
    """Return the key in a record, or None when the record has no readable key."""
    try:
        key = msgspec.json.decode(record.body, type=AccessKey)
        if key.rate is not None:
            rate_per_s(key.rate)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, Misuse):
        return None
    return key


def rate_per_s(rate: str) -> float:
    """Return a rate such as "100/s" as a number a second.

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
    """Return the id in a key, or None when the text does not have the form of a key."""
    parts = key.split("_", 2)
    return parts[1] if len(parts) == 3 and parts[0] == _PREFIX else None
