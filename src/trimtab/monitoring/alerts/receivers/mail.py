"""Receivers with a mailbox, by SMTP."""

from __future__ import annotations

import smtplib
import socket
import ssl
import threading
from contextlib import suppress
from email.message import EmailMessage
from typing import Any

from trimtab.core.alert_settings import EmailReceiver
from trimtab.monitoring.alerts.alert_records import Message, lines
from trimtab.monitoring.alerts.outbox import Sent
from trimtab.monitoring.alerts.receivers.secrets import Secrets


def send_mail(receiver: EmailReceiver, message: Message, secrets: Secrets) -> Sent:
    """Hand the message to the server; a mail's id is the same however often it is sent."""
    mail = _mail(receiver, message, secrets)
    host = secrets.filled(receiver.host)
    clients: list[smtplib.SMTP] = []
    over = threading.Event()
    late = threading.Timer(receiver.timeout_s, _cut, (clients, over))
    late.daemon = True
    late.start()
    try:
        server = _connected(receiver, host, clients)
        said = _handed_over(server, receiver, mail, secrets)
        with suppress(OSError, smtplib.SMTPException):  # the mail is the server's, whatever it answers now
            server.quit()
        return Sent(True, said)
    except smtplib.SMTPResponseException as error:
        return Sent(False, f"{host}: {_text(error.smtp_code, error.smtp_error)}")
    except smtplib.SMTPRecipientsRefused as error:
        return Sent(False, f"{host} refuses every recipient: {_refusals(error.recipients)}")
    except (OSError, smtplib.SMTPException) as error:
        if over.is_set() or isinstance(error, TimeoutError):
            return Sent(False, f"{host} gave no answer within {receiver.timeout_s:g} s")
        return Sent(False, f"{host}: {str(error) or type(error).__name__}")
    finally:
        late.cancel()
        for client in clients:
            client.close()


def _mail(receiver: EmailReceiver, message: Message, secrets: Secrets) -> EmailMessage:
    mail = EmailMessage()
    mail["Subject"] = " ".join(message.title.split())
    mail["From"] = secrets.filled(receiver.sender)
    mail["To"] = ", ".join(secrets.filled(one) for one in receiver.to)
    mail["Message-ID"] = f"<{message.key}@trimtab>"
    mail["Auto-Submitted"] = "auto-generated"  # so that out-of-office replies stay away
    mail.set_content("\n".join([message.title, "", *lines(message)]) + "\n")
    return mail


def _connected(receiver: EmailReceiver, host: str, clients: list[smtplib.SMTP]) -> smtplib.SMTP:
    """A conversation with the server; it is among `clients` before the server has said a word."""

    class Plain(smtplib.SMTP):
        def connect(self, *args: Any, **named: Any) -> tuple[int, bytes]:
            clients.append(self)
            return super().connect(*args, **named)

    class Encrypted(smtplib.SMTP_SSL):
        def connect(self, *args: Any, **named: Any) -> tuple[int, bytes]:
            clients.append(self)
            return super().connect(*args, **named)

    if receiver.security == "tls":
        context = ssl.create_default_context()
        return Encrypted(host, receiver.port_used, timeout=receiver.timeout_s, context=context)
    return Plain(host, receiver.port_used, timeout=receiver.timeout_s)


def _handed_over(server: smtplib.SMTP, receiver: EmailReceiver, mail: EmailMessage, secrets: Secrets) -> str:
    """Hand a mail to a connected server; for whom it was accepted."""
    if receiver.security == "starttls":
        server.starttls(context=ssl.create_default_context())
    if receiver.user is not None and receiver.password is not None:
        server.login(secrets.filled(receiver.user), secrets.filled(receiver.password))
    return _accepted(mail, server.send_message(mail))


def _cut(clients: list[smtplib.SMTP], over: threading.Event) -> None:
    """End a conversation whose time is over, also one that trickles."""
    over.set()
    for client in clients:
        connected = getattr(client, "sock", None)
        if connected is not None:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)


def _accepted(mail: EmailMessage, refused: dict[str, tuple[int, bytes]]) -> str:
    """Some recipients are enough: to send again would reach those twice."""
    return f"accepted for {mail['To']}" + (f", but not for {_refusals(refused)}" if refused else "")


def _refusals(refused: dict[str, tuple[int, bytes]]) -> str:
    return ", ".join(f"{address} ({_text(code, said)})" for address, (code, said) in refused.items())


def _text(code: int, said: bytes | str) -> str:
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    return f"{code} {' '.join(text.split())}"
