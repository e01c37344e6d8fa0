"""Tags and notes of versions, with author and time. They are never removed, and do not affect a version's id."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, Misuse
from trimtab.store.ports import Append, Catalog, Put

_TAG = re.compile(r"[a-z0-9][a-z0-9_.:=-]{0,99}")
_LONGEST_NOTE = 10_000


class Tag(msgspec.Struct, frozen=True, kw_only=True):
    """A tag of a version."""

    format: int = 1
    version: str
    tag: str
    at_us: int
    actor: str


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """A remark about a version."""

    format: int = 1
    version: str
    text: str
    at_us: int
    actor: str


class Tags:
    """Reads and adds tags and notes of versions."""

    def __init__(self, catalog: Catalog, *, clock: Clock, actor: str) -> None:
        self._catalog = catalog
        self._clock = clock
        self._actor = actor

    def add(self, version: str, tags: Iterable[str], *, actor: str | None = None) -> list[Tag]:
        """Add tags to a version, and return those that are new. Existing tags keep their author and time.

        Raises:
            Misuse: A tag is invalid. No tag was added.
        """
        wanted = list(dict.fromkeys(tags))
        for tag in wanted:
            if not _TAG.fullmatch(tag):
                raise Misuse(
                    f"tag {tag!r}: give up to 100 characters a-z, 0-9 and _ . : = - that begin with a letter or digit."
                )
        new = []
        for tag in wanted:
            made = Tag(version=version, tag=tag, at_us=self._clock.now_us(), actor=actor or self._actor)
            try:
                self._catalog.write([Put("tag", f"{version}/{tag}", msgspec.json.encode(made), expected=0)])
            except Conflict:  # the tag exists; another process may just have added it
                continue
            new.append(made)
        return new

    def of(self, version: str) -> list[Tag]:
        """Return the tags of a version, sorted by name."""
        return [msgspec.json.decode(record.body, type=Tag) for record in self._catalog.find("tag", f"{version}/")]

    def all(self) -> dict[str, list[Tag]]:
        """Return the tags of each version that has any, by version id."""
        found: dict[str, list[Tag]] = {}
        for record in self._catalog.find("tag"):
            tag = msgspec.json.decode(record.body, type=Tag)
            found.setdefault(tag.version, []).append(tag)
        return found

    def note(self, version: str, text: str, *, actor: str | None = None) -> Note:
        """Add a note to a version.

        Raises:
            Misuse: The note is empty, or longer than 10,000 characters.
        """
        check_note(text)
        made = Note(version=version, text=text.strip(), at_us=self._clock.now_us(), actor=actor or self._actor)
        self._catalog.write([Append(f"notes/{version}", made.at_us, msgspec.json.encode(made))])
        return made

    def notes(self, version: str) -> list[Note]:
        """Return the notes of a version, oldest first."""
        return [msgspec.json.decode(line.body, type=Note) for line in self._catalog.journal(f"notes/{version}")]


def check_note(text: str) -> None:
    """Raise `Misuse` if a note is empty or too long."""
    if not text.strip() or len(text) > _LONGEST_NOTE:
        raise Misuse(f"note: found {len(text):,} letters; give 1 to {_LONGEST_NOTE:,}, and not only spaces.")
