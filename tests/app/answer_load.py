"""Connections that ask one model, without a pause or at a fixed rate; what came back goes to a file.

At a fixed rate (`rate` > 0) a request is due when it is due, whatever became of those before: it is sent as soon as a
connection is free, and its time counts from when it was due. So a service that stops for a moment is asked as much as
ever, as by people who know nothing of each other, and what they wait is not left out.
It ends once the file `stop` is there and everything that was sent is answered.

What comes back is an array of `RECORD` (one for each answer, in the order in which they came), written as it comes.
"""

from __future__ import annotations

import json
import re
import select
import socket
import struct
import sys
import time
from pathlib import Path
from typing import BinaryIO

RECORD = [("asked", "<f8"), ("came", "<f8"), ("status", "<i4"), ("version", "S24"), ("id", "S28")]
_RECORD = struct.Struct("<ddi24s28s")
_LOOK_S = 0.05  # between two looks for the file `stop`
_PATIENCE_S = 30.0  # without an answer to anything
_HEAD = re.compile(rb"HTTP/1\.1 (\d+) .*?content-length: (\d+)\r\n", re.IGNORECASE | re.DOTALL)
_VERSION, _ID = re.compile(rb'"version":"([^"]*)"'), re.compile(rb'"id":"([^"]*)"')


class Connection:
    """One connection, kept open: when what it waits for was due, and what came of the answer so far."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=_PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._due = 0.0
        self._come = b""

    def ask(self, request: bytes, due: float) -> None:
        self._due, self._come = due, b""
        self.socket.sendall(request)

    def read(self, out: BinaryIO) -> bool:
        """Write the answer, if it is there whole."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError(f"closed before an answer was there: {self._come!r}")
        self._come += data
        head = self._come.find(b"\r\n\r\n")
        if head < 0:
            return False
        said = _HEAD.match(self._come[: head + 2])
        assert said is not None, self._come[:200]
        body = self._come[head + 4 :]
        if len(body) < int(said[2]):
            return False
        version, name = _VERSION.search(body), _ID.search(body)
        what = version[1] if version else b"", name[1] if name else b""
        out.write(_RECORD.pack(self._due, time.time(), int(said[1]), *what))
        return True


class Load:
    """All connections, and the requests that they make: each with a key of its own."""

    def __init__(self, host: str, port: int, model: str, row: dict[str, object], connections: int) -> None:
        key = str(next(iter(row)))
        before, after = json.dumps({"request": {**row, key: "@KEY@"}}).encode().split(b"@KEY@")
        width = 20
        length = len(before) + width + len(after)
        head = f"POST /v1/models/{model}/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        self._before = head.encode() + b"Content-Length: %d\r\n\r\n" % length + before
        self._after, self._width, self._asked = after, width, 0
        self._mark = f"{time.time_ns() // 1_000_000 % 10**9}-"  # other loads of the same service have other keys
        self._free = [Connection(host, port) for _ in range(connections)]
        self._busy: dict[int, Connection] = {}
        self._poll = select.poll()
        for one in self._free:
            self._poll.register(one.socket.fileno(), select.POLLIN)

    def run(self, rate: float, stop: Path, out: BinaryIO) -> None:
        begun = looked = heard = time.time()
        on = True
        while on or self._busy:
            now = time.time()
            if now - looked > _LOOK_S:
                looked, on = now, on and not stop.exists()
                out.flush()  # somebody may wait for what comes
            wait_s = _LOOK_S
            while on and self._free:
                due = begun + self._asked / rate if rate else now
                wait_s = min(_LOOK_S, due - now)
                if due > now:
                    break
                self._ask(self._free.pop(), due)
            for number, _ in self._poll.poll(max(0.0, wait_s) * 1e3):
                one = self._busy[number]
                if one.read(out):
                    self._free.append(self._busy.pop(number))
                    heard = now
            if self._busy and now - heard > _PATIENCE_S:
                raise TimeoutError(f"no answer for {_PATIENCE_S:g} s")

    def _ask(self, one: Connection, due: float) -> None:
        key = f"{self._mark}{self._asked}".rjust(self._width, "k").encode()
        self._asked += 1
        self._busy[one.socket.fileno()] = one
        one.ask(self._before + key + self._after, due)


def main(host: str, port: str, model: str, row: str, connections: str, rate: str, stop: str, out: str) -> None:
    load = Load(host, int(port), model, json.loads(row), int(connections))
    with Path(out).open("wb") as file:
        print("begun", flush=True)
        load.run(float(rate), Path(stop), file)


if __name__ == "__main__":
    main(*sys.argv[1:])
