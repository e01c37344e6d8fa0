"""The state of a running service, in a small file: with workers written about once a second."""

from __future__ import annotations

from pathlib import Path

import msgspec

from trimtab.serving.workers.supervisor import SlotState

FOLDER = "workers"  # of the state folder
_FILE = "service.json"


class ServiceState(msgspec.Struct, frozen=True, kw_only=True):
    """A service at one time; without workers: when it began."""

    pid: int
    url: str
    at_us: int  # by the machine's clock
    workers: list[SlotState]
    stands_still: str | None = None  # why events are not applied, if they are not
    stopped: bool = False  # events are not applied until the service restarts
    start: str = ""  # distinguishes its metrics from those of a killed service; without workers: empty


def write_state(folder: Path, state: ServiceState) -> None:
    """Replace the state.

    Raises:
        OSError: It cannot be written.
    """
    new = folder / f"{_FILE}.new"
    new.write_bytes(msgspec.json.encode(state))
    new.replace(folder / _FILE)


def read_state(folder: Path) -> ServiceState | None:
    """The newest state; None when there is no readable one."""
    try:
        return msgspec.json.decode((folder / _FILE).read_bytes(), type=ServiceState)
    except (OSError, msgspec.MsgspecError):
        return None


def remove_state(folder: Path) -> None:
    """Remove the state of a service that has ended."""
    (folder / _FILE).unlink(missing_ok=True)
