"""Run the HTTP server of one process: uvicorn, with an orderly start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import FrameType
from typing import Any

import uvicorn

from trimtab.core.errors import Misuse, Unavailable
from trimtab.run.signals import caught
from trimtab.serving.http.requests.wire import AsgiApp
from trimtab.serving.http.server.accepting import Acceptor, Connections
from trimtab.serving.http.server.tls import Tls, tls_context

GRACE_S = 10.0  # seconds for requests in flight at the end
_LAST_READ_S = 1.0  # seconds at the end in which clients can read their responses
_BACKLOG = 2_048
_TICKS = 10  # number of ticks (of a tenth of a second) between two heartbeats
_COLLECT_AFTER = 20_000  # collect garbage rarely, after this many new objects: requests leave no reference cycles
# the event loop waits up to this long after each system call while another thread runs Python code  # D0217
_SWITCH_INTERVAL_S = 0.00005


def serve(
    app: AsgiApp,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    grace_s: float = GRACE_S,
    announce: Callable[[str], object] | None = None,
    listener: socket.socket | None = None,
    connections: Connections | None = None,
    beat: Callable[[], object] | None = None,
    tls: Tls | None = None,
    impatient: bool = True,
) -> None:
    """Serve `app` until SIGTERM, SIGINT or SIGHUP.

    Requests in flight are finished first, for at most `grace_s`. A second signal ends the service at once. (A second
    SIGHUP is ignored, because a closing terminal sends two.) If a thread still works on a request then, only
    `threads.exit_now` can end the process.

    Args:
        app: An ASGI application. Predict requests of an `HttpService` take the fast path.
        host: The address at which to listen.
        port: The port at which to listen. 0 means any free port.
        grace_s: How long requests in flight may take at the end.
        announce: Called once with the URL when connections are accepted. By default, a line is printed.
        listener: A listening socket to use instead of `host` and `port`. It is closed at the end.
        connections: The connection counts of all workers that use `listener`. This is closed at the end.
        beat: Called by the event loop about once a second.
        tls: The certificate. If it is given, only HTTPS is accepted.
        impatient: Whether a second signal ends the service at once. If not, further signals are ignored. Workers use
            False, because several processes may send them the same signal. Their supervisor can still kill them.

    Raises:
        Misuse: The certificate or its key cannot be used.
        Unavailable: The port is taken, or the address does not belong to this machine. The same error is raised if
            the service's gRPC server cannot listen.
    """
    context = None if tls is None else tls_context(tls)
    listener = listener or listen(host, port)
    url = url_of(listener, host, tls=tls is not None)
    config = uvicorn.Config(
        app,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http=_protocol(app),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=max(1, round(grace_s)),
        timeout_keep_alive=75,
        ssl_context_factory=None if context is None else lambda config, default: context,
    )
    server = _Announced(config, lambda: (announce or _print)(url), beat, app, grace_s)
    server.connections, server.impatient = connections, impatient
    before = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()  # objects that exist now live as long as the process, so garbage collections may skip them
    gc.set_threshold(_COLLECT_AFTER, *before[1][1:])
    try:
        # handle signals before the event loop exists, so that none is lost
        with caught(server.handle_exit, for_good=not impatient):
            server.run([listener])
    finally:
        server.release()
        sys.setswitchinterval(before[0])
        gc.set_threshold(*before[1])
        gc.unfreeze()
        listener.close()


class _Announced(uvicorn.Server):
    """A uvicorn server that announces its URL, sends heartbeats, and starts and stops its service."""

    def __init__(
        self,
        config: uvicorn.Config,
        announce: Callable[[], object],
        beat: Callable[[], object] | None,
        app: AsgiApp,
        grace_s: float,
    ) -> None:
        from trimtab.serving.http.service import HttpService

        super().__init__(config)
        self._announce = announce
        self._beat = beat
        self._service = app if isinstance(app, HttpService) else None
        self._grace_s = grace_s

    connections: Connections | None = None  # the connection counts of all workers; None: there is only one worker
    impatient = True
    acceptors: Sequence[Acceptor] = ()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """After the first signal, finish the running requests. After a second signal, end at once if `impatient`."""
        self.force_exit = self.should_exit and self.impatient
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        if self._beat is not None and counter % _TICKS == 0:
            self._beat()
            for acceptor in self.acceptors:
                acceptor.beat()
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Replace uvicorn's handling of signals, because `serve` handles them.

        At the end, uvicorn would raise the signal again, and the caller could not close the service.
        """
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._service is not None:
            # start it here, so that `serve` raises its error: after an error in the lifespan, uvicorn ends the process
            await self._service.lifecycle.start()
        await super().startup([])
        if self.started:
            self.acceptors = [self._acceptor(listener) for listener in sockets or ()]
            self.servers = list(self.acceptors)  # type: ignore[arg-type]  # they have the methods that uvicorn uses
        if self.started:
            self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._service is not None:
            self._service.lifecycle.begin_end(self._grace_s, lambda: self.force_exit)
        await super().shutdown(sockets)
        await self._hang_up()
        connections: list[Any] = list(self.server_state.connections)
        for connection in connections:
            if connection.cycle is None or connection.cycle.response_complete:
                connection.transport.close()  # this closes the socket as well

    async def _wait_tasks_to_complete(self) -> None:
        for acceptor in self.acceptors:  # wait until accepted sockets have become connections
            await acceptor.set_up(_LAST_READ_S)
        await super()._wait_tasks_to_complete()

    async def _hang_up(self) -> None:
        """Answer the remaining requests with an error, and close the connections of clients that do not read."""
        connections: list[Any] = list(self.server_state.connections)
        for connection in connections:
            connection.pipeline.clear()  # drop requests that were not begun
        left = self.server_state.tasks
        for task in left:
            if not task.cancelling():  # uvicorn has cancelled it already, unless a second signal ended its wait
                task.cancel()
        if left:
            await asyncio.wait(left, timeout=_LAST_READ_S)
        if not left:
            return
        unread = [one for one in connections if one.flow.write_paused]
        for connection in unread:
            connection.transport.close()  # accept no further requests
            connection.flow.resume_writing()  # put the response into memory, so that its request ends
        await asyncio.wait(left, timeout=_LAST_READ_S)
        for connection in unread:
            connection.transport.abort()

    def release(self) -> None:
        """If a second signal has come, close the threads without waiting for their work."""
        if self._service is not None and self.force_exit:
            self._service.parts.threads.close(0.0)

    def _acceptor(self, listener: socket.socket) -> Acceptor:
        config, state = self.config, self.server_state
        made: Callable[..., asyncio.Protocol] = config.http_protocol_class
        protocol = partial(made, config=config, server_state=state, app_state=self.lifespan.state)
        return Acceptor(listener, protocol, config.ssl, self.connections, lambda: len(state.connections))


def _protocol(app: AsgiApp) -> Any:
    """Return the class or function that makes protocols of connections, as uvicorn expects it."""
    from trimtab.serving.http.server.fast_path import FastPath
    from trimtab.serving.http.service import HttpService

    return FastPath(app) if isinstance(app, HttpService) else "httptools"


def url_of(listener: socket.socket, host: str, *, tls: bool = False) -> str:
    """Return the URL of a socket that listens at `host`."""
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def listen_advice(error: OSError, port: int, option: str) -> str:
    """Return advice for an address at which it is impossible to listen."""
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return "Give an address of this machine (--host)."
    if error.errno == errno.EACCES:
        return f"This user may not use port {port}: choose one above 1023 ({option})."
    return f"Stop what uses port {port}, or choose another ({option}; 0 takes a free one)."


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address. Port 0 means any free port.

    Raises:
        Misuse: The port is not a valid number.
        Unavailable: The port is taken, or the address does not belong to this machine.
    """
    if not 0 <= port <= 65_535:
        raise Misuse(f"port {port}: not a port. Give 0 (any free one) to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise Unavailable(
            f"{host}:{port}: cannot be listened on ({error}). {listen_advice(error, port, '--port')}"
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"{host}:{port}: cannot be listened on ({error.strerror}). {listen_advice(error, port, '--port')}"
        ) from error
    listener.setblocking(False)
    return listener


def _print(url: str) -> None:
    print(f"trimtab serves on {url} (stop with Ctrl-C)", flush=True)
