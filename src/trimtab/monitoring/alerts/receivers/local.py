"""Delivery on this machine: to a file, and to a program."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from contextlib import suppress
from typing import IO

import msgspec

from trimtab.core.alert_settings import CommandReceiver, FileReceiver
from trimtab.monitoring.alerts.alert_records import Alert, Message
from trimtab.monitoring.alerts.outbox import Sent
from trimtab.monitoring.alerts.receivers.context import DeliveryContext
from trimtab.store.regular_file import other_kind

_SHOWN = 200  # of the last line that a program prints, at most this many characters are shown


class _Line(msgspec.Struct, frozen=True):
    """A line of the file: one alert, with the message that it is part of."""

    key: str
    kind: str
    project: str
    at: str
    alert: Alert | None  # None: a test message


def send_to_file(receiver: FileReceiver, message: Message, context: DeliveryContext) -> Sent:
    """Append a line of JSON for each alert (one line for a test message, which has no alerts), and sync the file."""
    path = context.folder / receiver.path
    kind = other_kind(path)
    if kind is not None:
        return Sent(False, f"{path} is a {kind}, needed a file")
    alerts: list[Alert | None] = [*message.alerts] or [None]
    made = [_Line(message.key, message.kind, message.project, message.at, alert) for alert in alerts]
    data = b"".join(msgspec.json.encode(line) + b"\n" for line in made)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        with open(fd, "ab", buffering=0) as file:
            written = file.write(data)
            if written != len(data):  # a part of a line would spoil the line that follows it
                os.ftruncate(fd, os.fstat(fd).st_size - written)
            os.fsync(fd)
    except OSError as error:
        return Sent(False, f"{path}: {error.strerror or error}")
    if written != len(data):  # the disk is full
        return Sent(False, f"{path}: only {written} of {len(data)} bytes could be written")
    return Sent(True, f"{len(made)} line{'s' * (len(made) != 1)} in {path}")


def send_to_command(receiver: CommandReceiver, message: Message, context: DeliveryContext) -> Sent:
    """Run the program in the project's folder, with the message on standard input. Exit status 0 means success."""
    # use a file, because a pipe could fill up, or be kept open by processes that the program starts
    with tempfile.TemporaryFile() as printed:
        try:
            program = subprocess.Popen(
                receiver.command,
                stdin=subprocess.PIPE,
                stdout=printed,
                stderr=subprocess.STDOUT,
                cwd=context.folder,
                env={**context.environment, "TRIMTAB_ALERT_KEY": message.key},
                start_new_session=True,
            )
        except OSError as error:
            return Sent(False, f"{receiver.command[0]}: {error.strerror or error}")
        with program:
            try:
                program.communicate(msgspec.json.encode(message), timeout=receiver.timeout_s)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(program.pid, signal.SIGKILL)
                return Sent(False, f"{receiver.command[0]} did not end within {receiver.timeout_s:g} s, and was killed")
        said = f"exit status {program.returncode}{_last_words(printed)}"
        return Sent(program.returncode == 0, said)


def _last_words(printed: IO[bytes]) -> str:
    size = printed.seek(0, os.SEEK_END)
    printed.seek(max(0, size - 4 * _SHOWN))
    words = printed.read().decode("utf-8", "replace").strip().splitlines()
    return f": {words[-1][-_SHOWN:]}" if words else ""
