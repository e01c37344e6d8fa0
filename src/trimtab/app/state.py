"""The state folder: what is kept where, and in which format."""

from __future__ import annotations

from pathlib import Path

import msgspec

from trimtab import store
from trimtab.core.clock import Clock
from trimtab.core.errors import Corrupt, Misuse
from trimtab.store.ports import Blob, Catalog, KeyValue, Log

FORMAT = 1
_FILE = "format.json"


class StateFormat(msgspec.Struct, frozen=True):
    """What `format.json` says."""

    format: int


class State:
    """One project's state, each part opened on first use.

    Args:
        folder: Made when it is not there.
        clock: Stamps what is appended.
        prediction_mode: Whether an appended prediction waits for a sync.

    Raises:
        Misuse: The folder was written by a newer trimtab.
        Corrupt: `format.json` cannot be read.
    """

    def __init__(self, folder: Path, *, clock: Clock, prediction_mode: str = "durable") -> None:
        self.folder = folder
        self._clock = clock
        self._prediction_mode = prediction_mode
        self._open: dict[str, Log | Catalog | Blob | KeyValue] = {}
        _check_format(folder)

    @property
    def events(self) -> Log:
        return self._log("events", "durable")

    @property
    def predictions(self) -> Log:
        return self._log("predictions", self._prediction_mode)

    @property
    def quarantine(self) -> Log:
        return self._log("quarantine", "durable")

    @property
    def catalog(self) -> Catalog:
        if "catalog" not in self._open:
            self._open["catalog"] = store.open(f"sqlite://{self.folder}/catalog.db", "catalog", clock=self._clock)
        opened = self._open["catalog"]
        return opened  # type: ignore[return-value]  # the key says which port it is

    @property
    def blob(self) -> Blob:
        if "blob" not in self._open:
            self._open["blob"] = store.open(f"file://{self.folder}/blob", "blob")
        return self._open["blob"]  # type: ignore[return-value]  # as above

    @property
    def online(self) -> KeyValue:
        """Online feature state."""
        return self._kv("online")

    @property
    def answers(self) -> KeyValue:
        """Precomputed answers and what online learners know."""
        return self._kv("answers")

    def close(self) -> None:
        """Close whatever was opened."""
        while self._open:
            self._open.popitem()[1].close()

    def _log(self, name: str, mode: str) -> Log:
        key = f"log/{name}"
        if key not in self._open:
            self._open[key] = store.open(f"sqlite://{self.folder}/{key}?mode={mode}", "log", clock=self._clock)
        return self._open[key]  # type: ignore[return-value]  # as above

    def _kv(self, name: str) -> KeyValue:
        if name not in self._open:
            self._open[name] = store.open(f"lmdb://{self.folder}/{name}", "kv")
        return self._open[name]  # type: ignore[return-value]  # as above


def _check_format(folder: Path) -> None:
    file = folder / _FILE
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.encode(StateFormat(FORMAT)))
        return
    try:
        found = msgspec.json.decode(file.read_bytes(), type=StateFormat).format
    except (msgspec.MsgspecError, OSError) as error:
        raise Corrupt(f"{file}: cannot be read ({error}). Restore it; this trimtab writes format {FORMAT}.") from error
    if found > FORMAT:
        raise Misuse(f"{file}: state of format {found}, this trimtab reads up to {FORMAT}. Install a newer trimtab.")
