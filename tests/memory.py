"""How much memory another process takes, by what Linux counts."""

from __future__ import annotations

from pathlib import Path

import pytest


class Memory:
    """The resident memory of a process, in megabytes."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        if not (self._folder / "clear_refs").exists():
            pytest.skip("needs Linux")
        self.begin()

    def begin(self) -> None:
        """Count the growth from now on."""
        (self._folder / "clear_refs").write_text("5")  # resets VmHWM
        self._begun = self._read("VmRSS")

    def now(self) -> float:
        return self._read("VmRSS")

    def grown(self) -> float:
        """How far it went above what there was."""
        return self._read("VmHWM") - self._begun

    def _read(self, name: str) -> float:
        lines = (self._folder / "status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024
