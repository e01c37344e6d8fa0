"""The state of a running service, in a small file. With workers it is written about once a second."""

from __future__ import annotations

from pathlib import Path

import msgspec

from trimtab.serving.workers.supervisor import SlotState

FOLDER = "workers"  # name of the file in the state folder
_FILE = "service.json"


class ServiceState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a service at one time. Without workers it is the time when the service began."""

    pid: int
    url: str
    at_us: int  # time by the machine's clock
    workers: list[SlotState]
    stands_still: str | None = None  # why events are not applied, if they are not
    stopped: bool = False  # events are not applied until the service restarts
    start: str = ""  # distinguishes the metrics from those of a killed service; empty without workers


def write_state(folder: Path, state: ServiceState) -> None:
    """Replace the state.

    Raises:
        OSError: The state cannot be written.
    """
    new = folder / f"{_FILE}.new"
    new.write_bytes(msgspec.json.encode(state))
    new.replace(folder / _FILE)


def read_state(folder: Path) -> ServiceState | None:
    """Return the newest state, or None when there is no readable state."""
    try:
        return msgspec.json.decode((folder / _FILE).read_bytes(), type=ServiceState)
    except (OSError, msgspec.MsgspecError):
        return None


def remove_state(folder: Path) -> None:
    """Remove the state of a service that has ended."""
    (folder / _FILE).unlink(missing_ok=True)
