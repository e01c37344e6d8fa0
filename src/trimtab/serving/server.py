"""One process that serves: uvicorn on a local address, started, announced and stopped in order."""

from __future__ import annotations

import contextlib
import gc
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator

import uvicorn

from trimtab.core.errors import Misuse, Unavailable
from trimtab.serving.wire import AsgiApp

_BACKLOG = 2_048
_COLLECT_AFTER = 20_000  # objects more than were freed; a request leaves none behind
_SWITCH_INTERVAL_S = 0.0005  # a thread that comes back from a sync gets the interpreter after at most this


def serve(
    app: AsgiApp,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    grace_s: float = 10.0,
    announce: Callable[[str], object] | None = None,
) -> None:
    """Serve `app` until SIGTERM or SIGINT; requests under way are finished first, for at most `grace_s`.

    Args:
        app: An ASGI application.
        host: The address to listen on.
        port: 0 takes a free one.
        grace_s: How long requests under way may take at the end.
        announce: Called once with the URL when connections are taken; left out, a line is printed.

    Raises:
        Unavailable: The port is taken, or the address is not this machine's.
    """
    listener = _listen(host, port)
    host_name = f"[{host}]" if ":" in host else host
    url = f"http://{host_name}:{listener.getsockname()[1]}"
    config = uvicorn.Config(
        app,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=max(1, round(grace_s)),
        timeout_keep_alive=75,
    )
    server = _Announced(config, lambda: (announce or _print)(url))
    before = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()  # what is loaded by now lives as long as the process: not worth a look at every collection
    gc.set_threshold(_COLLECT_AFTER, *before[1][1:])
    try:
        server.run([listener])
    finally:
        sys.setswitchinterval(before[0])
        gc.set_threshold(*before[1])
        gc.unfreeze()
        listener.close()


class _Announced(uvicorn.Server):
    """A server that says when it takes connections."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], object]) -> None:
        super().__init__(config)
        self._announce = announce

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM end the server, and not the process: `serve` returns, so that its caller can close."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65_535:
        raise Misuse(f"port {port} is none. Give 0 (any free one) to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise Unavailable(
            f"{host}:{port}: cannot be listened on ({error}). Give an address of this machine."
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"{host}:{port}: cannot be listened on ({error.strerror}). Stop what uses port {port}, or choose another "
            "(--port; 0 takes a free one)."
        ) from error
    listener.setblocking(False)
    return listener


def _print(url: str) -> None:
    print(f"trimtab serves on {url} (stop with Ctrl-C)", flush=True)
