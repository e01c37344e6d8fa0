"""Store precomputed answers by request key, and give them to requests as long as they are fresh."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Literal

import msgspec

from trimtab.core.errors import Corrupt
from trimtab.serving.answer.request_rows import Row
from trimtab.serving.answer.served import Answer
from trimtab.store.ports import KeyValue

FORMAT = 1
_ALL = b"precomputed/"
_BLOCK = 5_000
_LONGEST_KEY_BYTES = 300  # longer request keys are hashed, because key-value stores limit the length of keys
State = Literal["found", "stale", "missing"]


class Looked(msgspec.Struct, frozen=True, gc=False):
    """The result of a look-up of a stored answer. If the state is "found", `answer` is the JSON of an `Answer`."""

    state: State
    answer: bytes = b""


MISSING = Looked("missing")


class Precomputed:
    """The precomputed answers of one model, stored by request key.

    An answer is given only to a request that equals, in the values of all columns, the request for which it was made.
    If there is no answer for the key, or a value differs, the result is `missing`. If the stored answer is of another
    version or too old, the result is `stale`.
    """

    def __init__(self, store: KeyValue, model: str, *, max_age_us: int) -> None:
        self._store = store
        self._prefix = _ALL + model.encode() + b"/"
        self.max_age_us = max_age_us

    def put(self, answers: Iterable[tuple[Row, str, str, Answer]]) -> int:
        """Store answers, and return how many were stored.

        Answers are written in blocks, each in one transaction. An answer replaces the stored answer with the same key.

        Args:
            answers: For each answer: the request row, the request's key, the version's id, and the answer to give.
        """
        count = 0
        waiting = iter(answers)
        while block := list(islice(waiting, _BLOCK)):
            self._store.write(
                {
                    self._key(key): _encoder.encode(
                        _Entry(FORMAT, _encoder.encode([*row.values()]), version, answer.at_us, _json.encode(answer))
                    )
                    for row, key, version, answer in block
                }
            )
            count += len(block)
        return count

    def holds_any(self) -> bool:
        """Return whether any answer of this model is stored."""
        return next(iter(self._store.scan(self._prefix, limit=1)), None) is not None

    def look_up(self, row: Row, key: str, version: str, now_us: int) -> Looked:
        """Look up the stored answer of a version to a checked row.

        Raises:
            Corrupt: The stored bytes cannot be read as an answer.
        """
        stored = self._store.get(self._key(key))
        if stored is None:
            return MISSING
        try:
            entry = _decoder.decode(stored)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Corrupt(f"precomputed answer of {key!r}: cannot be read ({error}). Score the batch again.") from error
        if entry.format != FORMAT:
            raise Corrupt(f"precomputed answer of {key!r}: format {entry.format}, but this trimtab reads {FORMAT}.")
        columns, scored = [*row.values()], entry.columns
        if scored != _encoder.encode(columns) and scored != _encoder.encode([*map(_positive, columns)]):
            return MISSING
        if now_us - entry.as_of_us > self.max_age_us or entry.version != version:
            return _STALE
        return Looked("found", entry.answer)

    def _key(self, key: str) -> bytes:
        name = key.encode()
        if len(name) > _LONGEST_KEY_BYTES:
            return self._prefix + b"#" + hashlib.sha256(name).digest()
        return self._prefix + b"=" + name


def stored_requests(store: KeyValue) -> Iterator[tuple[bytes, str, list[Any]]]:
    """Yield for each stored answer: its key in the store, its model, and the values of the request in declared order.

    Raises:
        Corrupt: The stored bytes cannot be read as an answer.
    """
    after = b""
    while found := list(store.scan(_ALL, after=after, limit=_BLOCK)):
        for key, stored in found:
            try:
                columns = msgspec.msgpack.decode(_decoder.decode(stored).columns)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise Corrupt(
                    f"precomputed answer {key!r}: cannot be read ({error}). Score the batch again."
                ) from error
            yield key, key.removeprefix(_ALL).partition(b"/")[0].decode(), columns
        after = found[-1][0]


def _positive(value: Any) -> Any:
    """Return 0.0 for -0.0, because tables do not keep -0.0. Return any other value unchanged."""
    return value + 0.0 if value.__class__ is float else value


class _Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    format: int
    columns: bytes  # the request that was scored, as a msgpack array of its values in declared order
    version: str
    as_of_us: int
    answer: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Entry)
_json = msgspec.json.Encoder()
_STALE = Looked("stale")
