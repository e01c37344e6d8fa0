"""Clients that retry at once: `impatient_process.py PORT CONNECTIONS SECONDS [reconnect] < REQUEST`.

One thread over epoll, so that it takes as little as possible of the cores that it shares with the server. It
prints a line when it is warm, and one that says what it was answered and how long `/health/live` took, each tenth of a
second over a new connection.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from contextlib import suppress
from time import perf_counter

_HEALTH = b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
_HEALTH_EVERY_S = 0.1
_WARM_UP_S = 1.0


class Impatient:
    """Connections that send the same request again as soon as it is answered, whatever the answer.

    Args:
        reconnect: Whether a refusal makes a client close its connection and open another.
    """

    def __init__(self, port: int, request: bytes, *, reconnect: bool) -> None:
        self.address = "127.0.0.1", port
        self.request = request
        self.reconnect = reconnect
        self.poll = select.epoll()
        self.open: dict[int, socket.socket] = {}
        self.parts: dict[int, bytes] = {}  # of an answer that is not there whole
        self.health: tuple[socket.socket, float] | None = None
        self.statuses: dict[str, int] = {}
        self.waits: set[str] = set()
        self.health_s: list[float] = []
        self.due_s = 0.0

    def connect(self) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        with suppress(BlockingIOError):
            sock.connect(self.address)
        self.open[sock.fileno()] = sock
        self.poll.register(sock.fileno(), select.EPOLLOUT)

    def run(self, seconds: float) -> None:
        until_s = perf_counter() + seconds
        while (now_s := perf_counter()) < until_s:
            self._look(now_s)
            for fd, _ in self.poll.poll(0.01, 256):
                if self.health is not None and fd == self.health[0].fileno():
                    self._healthy()
                else:
                    self._turn(fd)

    def forget(self) -> None:
        """Forget what was counted so far."""
        self.statuses, self.waits, self.health_s = {}, set(), []

    def _look(self, now_s: float) -> None:
        if self.health is None and now_s >= self.due_s:
            self.due_s = now_s + _HEALTH_EVERY_S
            sock = socket.create_connection(self.address)
            sock.sendall(_HEALTH)
            self.health = sock, now_s
            self.poll.register(sock.fileno(), select.EPOLLIN)

    def _healthy(self) -> None:
        assert self.health is not None
        sock, sent_s = self.health
        assert sock.recv(65_536).startswith(b"HTTP/1.1 200")
        self.health_s.append(perf_counter() - sent_s)
        self.poll.unregister(sock.fileno())
        sock.close()
        self.health = None

    def _turn(self, fd: int) -> None:
        sock = self.open[fd]
        try:
            answer = sock.recv(65_536)
        except BlockingIOError:  # it has just been opened
            sock.send(self.request)
            self.poll.modify(fd, select.EPOLLIN)
            return
        except OSError:
            answer = b""
        if answer:
            answer = self.parts.pop(fd, b"") + answer
            if not _is_whole(answer):  # its body comes later, on a busy machine
                self.parts[fd] = answer
                return
        self.parts.pop(fd, None)
        status = answer[9:12].decode() or "closed"
        self.statuses[status] = self.statuses.get(status, 0) + 1
        at = answer.find(b"retry-after: ")
        if at > 0:
            self.waits.add(answer[at + 13 : answer.find(b"\r", at)].decode())
        if not answer or (self.reconnect and status != "200"):
            del self.open[fd]
            sock.close()
            self.connect()
        else:
            with suppress(OSError):  # it is closed: found when it is read
                sock.send(self.request)


def _is_whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return bool(found) and len(body) >= int(length or 0)


def main(port: int, connections: int, seconds: float, *reconnect: str) -> None:
    clients = Impatient(port, sys.stdin.buffer.read(), reconnect=bool(reconnect))
    for n in range(connections):
        clients.connect()
        if n % 256 == 255:
            clients.run(0.05)
    clients.run(_WARM_UP_S)
    clients.forget()
    print("warm", flush=True)
    begun_s = perf_counter()
    clients.run(seconds)
    if clients.health is not None:  # it still waits
        clients.health_s.append(perf_counter() - clients.health[1])
    found = {
        "seconds": perf_counter() - begun_s,
        "statuses": clients.statuses,
        "waits": sorted(clients.waits),
        "health_ms": sorted(1_000 * one for one in clients.health_s),
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:])
