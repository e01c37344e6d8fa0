"""Documents that only commands print, with `--json`. docs/json.md shows the fields of all documents."""

from __future__ import annotations

import msgspec


class Help(msgspec.Struct, frozen=True, kw_only=True):
    """The help of a verb."""

    verb: str  # for example "trimtab promote"
    help: str


class Dropped(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that were dropped from quarantine."""

    dropped: int


class ListedKey(msgspec.Struct, frozen=True, kw_only=True):
    """An API key of the service, without its secret."""

    name: str
    id: str
    roles: tuple[str, ...]
    rate: str | None  # "100/s"; None: no limit
    made_at_us: int
    actor: str


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A new API key. It cannot be shown again."""

    name: str
    roles: tuple[str, ...]
    rate: str | None
    key: str


class RemovedKey(msgspec.Struct, frozen=True, kw_only=True):
    """The name of a removed API key."""

    removed: str
    left: int  # the number of keys that are left


class Served(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the service answers. It is printed when the service is ready."""

    url: str
    grpc: str | None = None  # left out if nothing answers over gRPC


class Written(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The documents that a command wrote: their texts, or the names of their files. Each command sets other fields."""

    document: str | None = None  # the file of the OpenAPI document
    file: str | None = None  # the file of a quality page, or of an experiment's report
    markdown: str | None = None  # the text of a model card
    page: str | None = None  # the page of a version's evaluation, or of its card
    rules: str | None = None  # alerting rules, or their file
    tests: str | None = None  # the file of the rules' unit tests, together with `rules`


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger whose chain of hashes was verified."""

    rows: int
    sound: bool


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """Online features that were rebuilt."""

    view: str | None  # None: all of them
    records: int  # how many records they were rebuilt from
