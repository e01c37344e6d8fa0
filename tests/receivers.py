"""Receivers of alerts on this machine: an HTTP server and an SMTP server on sockets of 127.0.0.1."""

from __future__ import annotations

import base64
import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar


class Posted:
    """One request that came in."""

    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        self.method, self.path, self.headers, self.body = method, path, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def key(self) -> str:
        return self.headers["Idempotency-Key"]


class HttpReceiver:
    """Answers as told: `answers` are statuses (or "hang", "close"), the last one for all that follows."""

    def __init__(
        self, *answers: int | str, headers: dict[str, str] | None = None, context: ssl.SSLContext | None = None
    ) -> None:
        self.answers = list(answers) or [200]
        self.headers = headers or {}
        self.got: list[Posted] = []
        self.came = threading.Semaphore(0)
        self.release = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(size)
                if len(body) < size:  # whoever sent it was killed: nothing has arrived
                    return
                outer.got.append(Posted(self.command, self.path, dict(self.headers), body))
                outer.came.release()
                answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                with suppress(OSError):  # whoever sent it does not wait any more
                    self.answer(answer)

            do_GET = do_POST  # noqa: N815  # the server looks for this name

            def answer(self, answer: int | str) -> None:
                if answer == "close":
                    return
                if answer == "hang":
                    outer.release.wait(60)
                    return
                self.send_response(int(answer))
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.url = f"https://localhost:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def http_receiver(
    *answers: int | str, headers: dict[str, str] | None = None, context: ssl.SSLContext | None = None
) -> Iterator[HttpReceiver]:
    made = HttpReceiver(*answers, headers=headers, context=context)
    try:
        yield made
    finally:
        made.close()


class _Conversation(socketserver.StreamRequestHandler):
    """One client of the SMTP server: the commands of RFC 5321 that a client needs to hand over a mail."""

    server: MailServer

    def handle(self) -> None:
        self.secure = False
        self.say("220 mail.test ready")
        while line := self.rfile.readline():
            word = line.decode().strip()
            verb = word.partition(" ")[0].upper()
            if verb == "QUIT":
                self.say("221 bye")
                return
            getattr(self, f"on_{verb.lower()}", self.on_other)(word)

    def finish(self) -> None:
        super().finish()
        self.request.close()  # the encrypted one, which the server does not know

    def say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())

    def on_other(self, word: str) -> None:
        self.say("250 ok")

    def on_ehlo(self, word: str) -> None:
        offers = ["mail.test"]
        offers += ["STARTTLS"] if self.server.context is not None and not self.secure else []
        offers += ["AUTH PLAIN"] if self.server.login is not None else []
        for offer in offers[:-1]:
            self.say(f"250-{offer}")
        self.say(f"250 {offers[-1]}")

    def on_starttls(self, word: str) -> None:
        assert self.server.context is not None
        self.say("220 go ahead")
        self.request = self.server.context.wrap_socket(self.request, server_side=True)
        self.secure = True
        self.setup()

    def on_auth(self, word: str) -> None:
        _, user, password = base64.b64decode(word.split()[2]).decode().split("\0")
        self.say("235 welcome" if (user, password) == self.server.login else "535 5.7.8 wrong password")

    def on_rcpt(self, word: str) -> None:
        refused = any(address in word for address in self.server.refused)
        self.say("550 no such mailbox" if refused else "250 ok")

    def on_data(self, word: str) -> None:
        self.say("354 go on")
        lines = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line[1:] if line.startswith(b"..") else line)
        self.server.mails.append(message_from_bytes(b"".join(lines), policy=policy.default))  # type: ignore[arg-type]
        self.server.secure.append(self.secure)
        self.say("250 taken")


class MailServer(socketserver.ThreadingTCPServer):
    """Takes mails; with a `context` it speaks STARTTLS, with a `login` it wants one."""

    allow_reuse_address = True
    daemon_threads = True
    refused: ClassVar[set[str]] = set()

    def __init__(self, *, context: ssl.SSLContext | None = None, login: tuple[str, str] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Conversation)
        self.context, self.login = context, login
        self.mails: list[EmailMessage] = []
        self.secure: list[bool] = []
        self.port: int = self.server_address[1]


@contextmanager
def mail_server(*, context: ssl.SSLContext | None = None, login: tuple[str, str] | None = None) -> Iterator[MailServer]:
    server = MailServer(context=context, login=login)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
