"""What the process that serves tells of itself: a small file; with workers it is written about once a second."""

from __future__ import annotations

from pathlib import Path

import msgspec

from trimtab.serving.workers.supervisor import SlotState

FOLDER = "workers"  # of the state folder
_FILE = "service.json"


class ServiceState(msgspec.Struct, frozen=True, kw_only=True):
    """A service at one moment; without workers: when it began."""

    pid: int
    url: str
    at_us: int  # by the machine's clock
    workers: list[SlotState]
    stands_still: str | None = None  # what keeps events from being applied, if anything does
    stopped: bool = False  # and nobody tries any more until the service begins anew
    start: str = ""  # by which its figures are told from those of a service that was killed; without workers: none


def write_state(folder: Path, state: ServiceState) -> None:
    """Put `state` in the place of the one before.

    Raises:
        OSError: It cannot be written.
    """
    new = folder / f"{_FILE}.new"
    new.write_bytes(msgspec.json.encode(state))
    new.replace(folder / _FILE)


def read_state(folder: Path) -> ServiceState | None:
    """The newest state; None when there is none, or none that can be read."""
    try:
        return msgspec.json.decode((folder / _FILE).read_bytes(), type=ServiceState)
    except (OSError, msgspec.MsgspecError):
        return None


def remove_state(folder: Path) -> None:
    """The service has ended."""
    (folder / _FILE).unlink(missing_ok=True)
