"""Delivery of a message to a receiver of any kind."""

from __future__ import annotations

from collections.abc import Mapping
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
from trimtab.monitoring.alerts.receivers.secrets import Secrets


def send(receiver: Receiver, message: Message, *, folder: Path, environment: Mapping[str, str]) -> Sent:
    """Deliver a message; what is wrong is in the answer, without any secret.

    Args:
        receiver: Where to.
        message: A heartbeat gets none of it.
        folder: What names of files are relative to.
        environment: Where `$NAME` is looked up.
    """
    secrets = Secrets(environment)
    try:
        sent = _sent(receiver, message, folder, environment, secrets)
    except Misuse as error:
        return Sent(False, str(error))
    return msgspec.structs.replace(sent, said=secrets.hidden(sent.said))


def _sent(receiver: Receiver, message: Message, folder: Path, environment: Mapping[str, str], secrets: Secrets) -> Sent:
    # The modules of each kind are loaded when one is used: a service is ready without them.
    match receiver:
        case WebhookReceiver():
            from trimtab.monitoring.alerts.receivers.http import send_webhook

            return send_webhook(receiver, message, secrets)
        case SlackReceiver():
            from trimtab.monitoring.alerts.receivers.http import send_slack

            return send_slack(receiver, message, secrets)
        case HeartbeatReceiver():
            from trimtab.monitoring.alerts.receivers.http import send_heartbeat

            return send_heartbeat(receiver, secrets)
        case EmailReceiver():
            from trimtab.monitoring.alerts.receivers.mail import send_mail

            return send_mail(receiver, message, secrets)
        case FileReceiver():
            from trimtab.monitoring.alerts.receivers.local import send_to_file

            return send_to_file(receiver, message, folder)
        case CommandReceiver():
            from trimtab.monitoring.alerts.receivers.local import send_to_command

            return send_to_command(receiver, message, folder, environment)
