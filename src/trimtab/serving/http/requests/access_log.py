"""The access log: one line of JSON for each request."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from trimtab.core.errors import Unavailable
from trimtab.core.time import format_time
from trimtab.serving.http.requests.request_record import STAGES, RequestRecord, trace_id

STANDARD_OUTPUT = "-"
_EMPTY = '""'
_CACHED = 1_000  # the maximum number of cached texts of each kind
_LONG = 500  # longer texts are not cached, because clients can make up long paths
_SHORT_US = 2_000
# the texts of short times, made once, because most stages are short
_SHORT = tuple(f"{us / 1_000:.3f}" for us in range(_SHORT_US))
_STAGES = tuple(f',"{name}":' for name in STAGES)
_CHECK_S = 1.0  # time between two checks whether the file was moved
_logger = logging.getLogger(__name__)


class AccessLog:
    """Appends lines to a file that other processes may append to as well. Each block is written at once if possible.

    Args:
        where: The path of the file, or `-` for standard output.

    Raises:
        Unavailable: The file cannot be written.
    """

    traces = False

    def __init__(self, where: Path | str) -> None:
        self._path = None if where == STANDARD_OUTPUT else Path(where)
        self._torn = False  # whether the last line was only partly written
        self._failing = False  # whether the file was moved and a new one cannot be opened
        self._check_at_s = monotonic() + _CHECK_S
        self._lines = _Lines()
        try:
            self._fd = self._opened()
        except OSError as error:
            raise Unavailable(
                f"access_log: {where} cannot be written ({error.strerror}). Make its folder, or name another file."
            ) from error

    def write(self, records: Sequence[RequestRecord], ahead_ns: int) -> None:
        """Append a line for each record.

        `ahead_ns` is the wall clock minus `perf_counter`, in nanoseconds.

        Raises:
            OSError: Some or all of the lines cannot be written.
        """
        self._reopen_if_moved()
        line = self._lines.line
        block = "".join([f"{line(one, ahead_ns)}\n" for one in records]).encode()
        if self._torn:
            block = b"\n" + block
        written = 0
        try:
            while written < len(block):
                written += os.write(self._fd, memoryview(block)[written:])
        finally:
            self._torn = self._torn if not written else block[:written][-1:] != b"\n"

    def close(self) -> None:
        if self._path is not None:
            os.close(self._fd)

    def _reopen_if_moved(self) -> None:
        """Open the file again if it was moved or removed. If that fails, lines still go to the old file."""
        if self._path is None or monotonic() < self._check_at_s:
            return
        self._check_at_s = monotonic() + _CHECK_S
        try:
            if self._is_moved(self._path):
                before, self._fd = self._fd, self._opened()
                self._torn = False
                os.close(before)
            self._failing = False
        except OSError as error:
            if not self._failing:
                text = "access_log: %s was moved, and cannot be opened again (%s). Lines still go to the moved file."
                _logger.warning(text, self._path, error)
            self._failing = True

    def _is_moved(self, path: Path) -> bool:
        try:
            there, mine = os.stat(path), os.fstat(self._fd)
        except FileNotFoundError:
            return True
        return (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino)

    def _opened(self) -> int:
        if self._path is None:
            return sys.stdout.fileno()
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


class _Lines:
    """Formats records as lines of JSON.

    Texts that many lines share are encoded once and cached, which saves half of the time. Only texts that clients
    choose must be encoded as JSON; all else is numbers, and texts that need no escapes.
    """

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder().encode
        self._second, self._time = -1, ""
        self._requests: dict[tuple[str, str, str, int, str, str], str] = {}
        self._models: dict[tuple[str, str, str, tuple[str, ...]], str] = {}
        self._hosts: dict[str, str] = {}

    def line(self, one: RequestRecord, ahead_ns: int) -> str:
        """Return the line of a record.

        `ahead_ns` is the wall clock minus `perf_counter`, in nanoseconds.
        """
        second, us = divmod((int(one.received_s * 1e9) + ahead_ns) // 1_000, 1_000_000)
        if second != self._second:
            self._second, self._time = second, format_time(second * 1_000_000)[:-1]
        what = one.method, one.path, one.route, one.status, one.key, one.grpc
        request = self._requests.get(what) or self._cached(self._requests, what, self._texts(**_request(one)))
        client = one.client
        remote = ""
        if client is not None:
            host = self._hosts.get(client[0]) or self._cached(self._hosts, client[0], self._text(client[0])[:-1])
            remote = f'{host}:{client[1]}"'
        line = (
            f'{{"time":"{self._time}.{us:06d}Z","request_id":"{one.request_id}",{request},'
            f'"ms":{_ms(one.ended_s - one.received_s)},"remote":{remote or _EMPTY},"bytes":{one.size_bytes}'
        )
        first = one.made[0] if one.made else None
        if first is not None:
            model = first.model, one.label, first.arm, first.flags
            line += f',"prediction":{self._text(first.id)}'
        else:
            model = one.model, one.label, "", ()
        if model[0] or model[1]:
            line += self._models.get(model) or self._cached(self._models, model, self._model(*model))
        if one.answers:
            line += f',"predictions":{one.answers}'
        if one.times:
            line += f',"stages_ms":{{{_stages(one)}}}'
        if traced := trace_id(one.headers):
            line += f',"trace_id":"{traced}"'
        return line + "}"

    def _model(self, model: str, version: str, arm: str, flags: tuple[str, ...]) -> str:
        given = {"model": model, "version": version, "arm": arm, "flags": flags}
        return f",{self._texts(**{name: value for name, value in given.items() if value})}"

    def _texts(self, **given: Any) -> str:
        return self._encode(given).decode()[1:-1]

    def _text(self, given: str) -> str:
        return self._encode(given).decode()

    def _cached(self, cache: dict[Any, str], key: Any, made: str) -> str:
        if len(made) <= _LONG:
            if len(cache) >= _CACHED:  # clients may make up many paths
                cache.clear()
            cache[key] = made
        return made


def _request(one: RequestRecord) -> dict[str, Any]:
    """Return the fields of the request and its client."""
    found: dict[str, Any] = {"method": printable(one.method), "path": printable(one.path), "route": one.route}
    return found | {"status": one.status} | ({"grpc": one.grpc} if one.grpc else {}) | {"key": one.key}


def printable(text: str) -> str:
    """Return the text with invisible characters escaped, including those that JSON leaves as they are.

    >>> printable("/v1/models/a"), printable(chr(0x9b) + "2J")
    ('/v1/models/a', '\\\\x9b2J')
    """
    return text if text.isprintable() else ascii(text)[1:-1]


def _stages(one: RequestRecord) -> str:
    """Return the times of the stages in milliseconds, as fields of a JSON object."""
    text, before, short = "", one.times[0], _SHORT
    for named, end in zip(_STAGES, one.times[1:], strict=False):
        if end != before:
            us = int((end - before) * 1e6 + 0.5)
            text += named + (short[us] if 0 <= us < _SHORT_US else _ms(end - before))
        before = end
    if one.features_s:
        text += f',"features":{_ms(one.features_s)}'
    if one.model_s:
        text += f',"model":{_ms(one.model_s)}'
    return text[1:]


def _ms(seconds: float) -> str:
    """Return seconds as text in milliseconds with three decimals."""
    us = int(seconds * 1e6 + 0.5)
    return _SHORT[us] if 0 <= us < _SHORT_US else f"{seconds * 1e3:.3f}"
