"""The access log: a line of JSON for each request, whatever it says."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from time import monotonic, sleep
from typing import Any

import msgspec

from trimtab.core.errors import Unavailable
from trimtab.core.time import format_time
from trimtab.serving.http.requests.request_record import STAGES, RequestRecord, trace_id

STANDARD_OUTPUT = "-"
_EMPTY = '""'
_KEPT = 1_000  # texts of each kind
_LONG = 500  # characters of a text that is not kept: as long as somebody likes, who makes up paths
_SHORT_US = 2_000
_SHORT = tuple(f"{us / 1_000:.3f}" for us in range(_SHORT_US))  # most stages are short, and a number is slow to write
_STAGES = tuple(f',"{name}":' for name in STAGES)
_LOOK_S = 1.0  # between two looks whether the file was moved away
_WRITTEN_S = 0.001  # in which a block is written that another process is writing
_logger = logging.getLogger(__name__)


class AccessLog:
    """Appends lines to a file, whole ones, also while other processes do.

    Args:
        where: A path, or `-` for standard output.

    Raises:
        Unavailable: The file cannot be written.
    """

    traces = False

    def __init__(self, where: Path | str) -> None:
        self._path = None if where == STANDARD_OUTPUT else Path(where)
        self._torn = False  # the last line is there in part, as far as this process knows
        self._held = False  # though it was moved away: it cannot be opened anew
        self._look_at_s = monotonic() + _LOOK_S
        self._lines = _Lines()
        try:
            self._fd = self._opened()
        except OSError as error:
            raise Unavailable(
                f"access_log: {where} cannot be written ({error.strerror}). Make its folder, or name another file."
            ) from error

    def write(self, records: Sequence[RequestRecord], ahead_ns: int) -> None:
        """Append a line for each.

        Raises:
            OSError: They cannot be written, or not all of them.
        """
        self._look()
        line = self._lines.line
        block = "".join([f"{line(one, ahead_ns)}\n" for one in records]).encode()
        block = b"\n" * self._is_torn() + block
        written = 0
        try:
            while written < len(block):
                written += os.write(self._fd, memoryview(block)[written:])
            self._torn = False
        except OSError:
            if written:
                self._torn = block[:written][-1:] != b"\n"
            raise

    def close(self) -> None:
        if self._path is not None:
            os.close(self._fd)

    def _look(self) -> None:
        """Open the file anew when it was moved away or removed; while that fails, lines go on to the old one."""
        if self._path is None or monotonic() < self._look_at_s:
            return
        self._look_at_s = monotonic() + _LOOK_S
        try:
            if self._is_moved(self._path):
                before, self._fd = self._fd, self._opened()
                self._torn = False
                os.close(before)
            self._held = False
        except OSError as error:
            if not self._held:
                said = "access_log: %s cannot be opened anew, and lines go on to the file that is open: %s"
                _logger.warning(said, self._path, error)
            self._held = True

    def _is_moved(self, path: Path) -> bool:
        try:
            there, mine = os.stat(path), os.fstat(self._fd)
        except FileNotFoundError:
            return True
        return (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino)

    def _opened(self) -> int:
        """The file, opened to append to, and to read how it ends where it can be: a pipe is for its readers to read."""
        if self._path is None:
            return sys.stdout.fileno()
        flags = os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        if self._path.is_file() or not self._path.exists():
            with suppress(PermissionError):
                return os.open(self._path, os.O_RDWR | flags, 0o640)
        return os.open(self._path, os.O_WRONLY | flags, 0o640)

    def _is_torn(self) -> bool:
        """Whether the last line is there in part, whoever wrote it: another process, or one before this."""
        end = self._torn_end()
        if end:
            sleep(_WRITTEN_S)
        return bool(end) and end == self._torn_end()

    def _torn_end(self) -> int:
        """Where the file ends within a line; 0: it does not."""
        status = os.fstat(self._fd)
        if S_ISREG(status.st_mode) and status.st_size:
            with suppress(OSError):  # it is not open to be read
                return status.st_size * (os.pread(self._fd, 1, status.st_size - 1) not in (b"\n", b""))
        return int(self._torn)


class _Lines:
    """Makes lines of records that have ended.

    What many lines have in common is encoded once and kept, which takes half of the time.
    Whatever an asker chooses freely goes through the encoder; the rest is numbers, and texts of a checked form.
    """

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder().encode
        self._second, self._moment = -1, ""
        self._asked: dict[tuple[str, str, str, int, str, str], str] = {}
        self._answered: dict[tuple[str, str, str, tuple[str, ...]], str] = {}
        self._hosts: dict[str, str] = {}

    def line(self, one: RequestRecord, ahead_ns: int) -> str:
        """What is told of an record; `ahead_ns` is what the wall clock is ahead of `perf_counter`."""
        second, us = divmod((int(one.received_s * 1e9) + ahead_ns) // 1_000, 1_000_000)
        if second != self._second:
            self._second, self._moment = second, format_time(second * 1_000_000)[:-1]
        what = one.method, one.path, one.route, one.status, one.key, one.grpc
        asked = self._asked.get(what) or self._kept(self._asked, what, self._texts(**_asked(one)))
        client = one.client
        remote = ""
        if client is not None:
            host = self._hosts.get(client[0]) or self._kept(self._hosts, client[0], self._text(client[0])[:-1])
            remote = f'{host}:{client[1]}"'
        line = (
            f'{{"time":"{self._moment}.{us:06d}Z","request_id":"{one.request_id}",{asked},'
            f'"ms":{_ms(one.ended_s - one.received_s)},"remote":{remote or _EMPTY},"bytes":{one.size_bytes}'
        )
        first = one.made[0] if one.made else None
        if first is not None:
            said = first.model, one.label, first.arm, first.flags
            line += f',"prediction":{self._text(first.id)}'
        else:
            said = one.model, one.label, "", ()
        if said[0] or said[1]:
            line += self._answered.get(said) or self._kept(self._answered, said, self._who_answered(*said))
        if one.answers:
            line += f',"predictions":{one.answers}'
        if one.times:
            line += f',"stages_ms":{{{_stages(one)}}}'
        if traced := trace_id(one.headers):
            line += f',"trace_id":"{traced}"'
        return line + "}"

    def _who_answered(self, model: str, version: str, arm: str, flags: tuple[str, ...]) -> str:
        given = {"model": model, "version": version, "arm": arm, "flags": flags}
        return f",{self._texts(**{name: value for name, value in given.items() if value})}"

    def _texts(self, **given: Any) -> str:
        return self._encode(given).decode()[1:-1]

    def _text(self, given: str) -> str:
        return self._encode(given).decode()

    def _kept(self, cache: dict[Any, str], key: Any, made: str) -> str:
        if len(made) <= _LONG:
            if len(cache) >= _KEPT:  # of paths that somebody makes up
                cache.clear()
            cache[key] = made
        return made


def _asked(one: RequestRecord) -> dict[str, Any]:
    """What was asked, and by whom."""
    said: dict[str, Any] = {"method": printable(one.method), "path": printable(one.path), "route": one.route}
    return said | {"status": one.status} | ({"grpc": one.grpc} if one.grpc else {}) | {"key": one.key}


def printable(text: str) -> str:
    """Text whose characters all show: others are escaped, beyond what JSON escapes.

    >>> printable("/v1/models/a"), printable(chr(0x9b) + "2J")
    ('/v1/models/a', '\\\\x9b2J')
    """
    return text if text.isprintable() else ascii(text)[1:-1]


def _stages(one: RequestRecord) -> str:
    """What the stages took that it had, as fields of JSON, in milliseconds."""
    told, before, short = "", one.times[0], _SHORT
    for named, end in zip(_STAGES, one.times[1:], strict=False):
        if end != before:
            us = int((end - before) * 1e6 + 0.5)
            told += named + (short[us] if 0 <= us < _SHORT_US else _ms(end - before))
        before = end
    if one.features_s:
        told += f',"features":{_ms(one.features_s)}'
    if one.model_s:
        told += f',"model":{_ms(one.model_s)}'
    return told[1:]


def _ms(seconds: float) -> str:
    """Milliseconds with three digits behind the point: to the microsecond, as they were measured."""
    us = int(seconds * 1e6 + 0.5)
    return _SHORT[us] if 0 <= us < _SHORT_US else f"{seconds * 1e3:.3f}"
