"""Delivery of a message to a receiver of any kind."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import msgspec

from trimtab.core.alert_settings import (
    CommandReceiver,
    EmailReceiver,
    FileReceiver,
    HeartbeatReceiver,
    Receiver,
    SlackReceiver,
    WebhookReceiver,
)
from trimtab.core.errors import Misuse
from trimtab.monitoring.alerts.alert_records import Message
from trimtab.monitoring.alerts.outbox import Sent
from trimtab.monitoring.alerts.receivers.context import DeliveryContext

# for each kind of receiver, the module and the function that deliver; the module is imported when it is needed
_SENDERS: dict[type, tuple[str, str]] = {
    WebhookReceiver: ("http", "send_webhook"),
    SlackReceiver: ("http", "send_slack"),
    HeartbeatReceiver: ("http", "send_heartbeat"),
    EmailReceiver: ("mail", "send_mail"),
    FileReceiver: ("local", "send_to_file"),
    CommandReceiver: ("local", "send_to_command"),
}


def send(receiver: Receiver, message: Message, *, folder: Path, environment: Mapping[str, str]) -> Sent:
    """Deliver a message, and return the outcome. The outcome may describe an error, but contains no secrets.

    Args:
        message: The message. It is not used for a heartbeat.
        folder: The folder that relative file names refer to.
        environment: The environment variables for `$NAME` in the settings.
    """
    module, name = _SENDERS[type(receiver)]
    context = DeliveryContext(environment, folder)
    try:
        sent: Sent = getattr(import_module(f"trimtab.monitoring.alerts.receivers.{module}"), name)(
            receiver, message, context
        )
    except Misuse as error:
        return Sent(False, str(error))
    return msgspec.structs.replace(sent, said=context.hidden(sent.said))
