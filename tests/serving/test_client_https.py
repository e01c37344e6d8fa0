"""The client over HTTPS: which certificates it trusts, what hanging up means, and until when a body is sent."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import certificates
from trimtab.core.errors import Unavailable
from trimtab.serving.client import connect

MODELS = b'HTTP/1.1 200 OK\r\ncontent-length: 13\r\nconnection: close\r\n\r\n{"models":[]}'
Serve = Callable[[socket.socket], object]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificates.chain(tmp_path_factory.mktemp("chain"))


@contextlib.contextmanager
def served(*connections: Serve) -> Iterator[tuple[str, list[int]]]:
    """A server that does one of these with each connection; its address, and which it has done."""
    done: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)

        def run() -> None:
            for number, serve in enumerate(connections):
                with contextlib.suppress(OSError), listener.accept()[0] as connection:
                    done.append(number)
                    serve(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"https://localhost:{listener.getsockname()[1]}", done
    thread.join(30)


def hang_up(connection: socket.socket) -> None:
    connection.recv(10_000)


def over_tls(chain: tuple[Path, Path], serve: Serve) -> Serve:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*chain)

    def secure(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as wrapped:
            serve(wrapped)

    return secure


def answer(connection: socket.socket) -> None:
    connection.recv(10_000)
    connection.sendall(MODELS)


def test_a_chain_without_its_root_is_trusted(chain: tuple[Path, Path]) -> None:
    with served(over_tls(chain, answer)) as (url, _), connect(url, cafile=str(chain[0])) as client:
        assert client.models() == []


def test_who_hangs_up_while_greeted_is_asked_again(chain: tuple[Path, Path]) -> None:
    with (
        served(hang_up, hang_up, over_tls(chain, answer)) as (url, done),
        connect(url, cafile=str(chain[0])) as client,
    ):
        assert client.models() == []
        assert done == [0, 1, 2]


def test_who_always_hangs_up_is_not_said_to_speak_no_https(chain: tuple[Path, Path]) -> None:
    with served(*[hang_up] * 4) as (url, done), connect(url, cafile=str(chain[0])) as client:
        with pytest.raises(Unavailable, match=r"Is `trimtab serve` running there\?") as caught:
            client.push("s", {"x": 1})  # nothing was sent
        assert "http://." not in str(caught.value)
        assert done == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", [ssl.SSLEOFError, ssl.SSLZeroReturnError])
def test_who_hangs_up_while_sent_to_may_have_said_why(
    chain: tuple[Path, Path], kind: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ssl.SSLSocket.sendall

    def sendall(self: ssl.SSLSocket, data: bytes, flags: int = 0) -> None:
        real(self, data, flags)
        raise kind("the peer went away")

    with (
        served(over_tls(chain, answer), over_tls(chain, hang_up)) as (url, done),
        connect(url, cafile=str(chain[0])) as client,
    ):
        ending = type("Ending", (ssl.SSLSocket,), {"sendall": sendall})
        with monkeypatch.context() as patched:
            patched.setattr(client._pool.conn_kw["ssl_context"], "sslsocket_class", ending)
            assert client.models() == []
            with pytest.raises(Unavailable, match="trimtab serve"):
                client.predict("m", {})
        assert done == [0, 1]  # what was sent is not asked again


def test_a_body_is_sent_within_the_time_of_its_call(chain: tuple[Path, Path]) -> None:
    def read_slowly(connection: socket.socket) -> None:
        for _ in range(400):  # twenty seconds
            if not connection.recv(16_384):
                return
            time.sleep(0.05)

    with served(over_tls(chain, read_slowly)) as (url, _), connect(url, cafile=str(chain[0])) as client:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="no answer in time"):
            client.predict("m", {"text": "x" * 30_000_000}, timeout_s=1.0)
        assert time.monotonic() - began < 8
