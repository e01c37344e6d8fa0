"""Delivery by email, over SMTP."""

from __future__ import annotations

import smtplib
import ssl
from contextlib import closing, suppress
from email.message import EmailMessage
from typing import Any

from trimtab.core.alert_settings import EmailReceiver
from trimtab.monitoring.alerts.alert_records import Message, lines
from trimtab.monitoring.alerts.outbox import Sent
from trimtab.monitoring.alerts.receivers.context import DeliveryContext


def send_mail(receiver: EmailReceiver, message: Message, context: DeliveryContext) -> Sent:
    """Pass the message to the mail server. Every attempt to send it uses the same email identifier."""
    mail = _mail(receiver, message, context)
    host = context.filled(receiver.host)
    kind = smtplib.SMTP_SSL if receiver.security == "tls" else smtplib.SMTP
    options: dict[str, Any] = {"context": ssl.create_default_context()} if receiver.security == "tls" else {}
    try:
        with closing(kind(host, receiver.port_used, timeout=receiver.timeout_s, **options)) as server:
            accepted = _handed_over(server, receiver, mail, context)
            # the server has already accepted the email, so its further answers do not matter
            with suppress(OSError, smtplib.SMTPException):
                server.quit()
            return Sent(True, accepted)
    except smtplib.SMTPResponseException as error:
        return Sent(False, f"{host}: {_text(error.smtp_code, error.smtp_error)}")
    except smtplib.SMTPRecipientsRefused as error:
        return Sent(False, f"{host} refuses every recipient: {_refusals(error.recipients)}")
    except (OSError, smtplib.SMTPException) as error:
        if isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError):
            return Sent(False, f"{host} gave no answer within {receiver.timeout_s:g} s")
        return Sent(False, f"{host}: {str(error) or type(error).__name__}")


def _mail(receiver: EmailReceiver, message: Message, context: DeliveryContext) -> EmailMessage:
    mail = EmailMessage()
    mail["Subject"] = " ".join(message.title.split())
    mail["From"] = context.filled(receiver.sender)
    mail["To"] = ", ".join(context.filled(one) for one in receiver.to)
    mail["Message-ID"] = f"<{message.key}@trimtab>"
    mail["Auto-Submitted"] = "auto-generated"  # keeps mail programs from sending out-of-office replies
    mail.set_content("\n".join([message.title, "", *lines(message)]) + "\n")
    return mail


def _handed_over(server: smtplib.SMTP, receiver: EmailReceiver, mail: EmailMessage, context: DeliveryContext) -> str:
    """Pass an email to a connected server, and return the recipients for whom the server accepted it."""
    if receiver.security == "starttls":
        server.starttls(context=ssl.create_default_context())
    if receiver.user is not None and receiver.password is not None:
        server.login(context.filled(receiver.user), context.filled(receiver.password))
    return _accepted(mail, server.send_message(mail))


def _accepted(mail: EmailMessage, refused: dict[str, tuple[int, bytes]]) -> str:
    """Say which recipients were accepted. If one was, there is no second attempt: it would get the email twice."""
    return f"accepted for {mail['To']}" + (f", but not for {_refusals(refused)}" if refused else "")


def _refusals(refused: dict[str, tuple[int, bytes]]) -> str:
    return ", ".join(f"{address} ({_text(code, said)})" for address, (code, said) in refused.items())


def _text(code: int, said: bytes | str) -> str:
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    return f"{code} {' '.join(text.split())}"
