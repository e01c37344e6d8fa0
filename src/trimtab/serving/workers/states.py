"""The state of a running service, stored in a small file. With several workers, the file is written every second."""

from __future__ import annotations

from pathlib import Path

import msgspec

from trimtab.serving.workers.supervisor import SlotState

FOLDER = "workers"  # the folder, in the state folder, with the files of a service's processes
_FILE = "service.json"


class ServiceState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a service at one time. A service without workers writes it only once, at its start."""

    pid: int
    url: str
    at_us: int  # the time by the machine's clock
    workers: list[SlotState]
    stands_still: str | None = None  # the reason if events are not being applied
    stopped: bool = False  # whether events will only be applied again after a restart of the service
    start: str = ""  # an id that distinguishes this start of the service from earlier ones; empty without workers


def write_state(folder: Path, state: ServiceState) -> None:
    """Store the state of a service.

    Raises:
        OSError: The file cannot be written.
    """
    new = folder / f"{_FILE}.new"
    new.write_bytes(msgspec.json.encode(state))
    new.replace(folder / _FILE)


def read_state(folder: Path) -> ServiceState | None:
    """Return the stored state, or None if there is none or it cannot be read."""
    try:
        return msgspec.json.decode((folder / _FILE).read_bytes(), type=ServiceState)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def remove_state(folder: Path) -> None:
    """Remove the stored state of a service that has ended."""
    (folder / _FILE).unlink(missing_ok=True)
