"""Input profiles and findings, computed once for all scenarios with equal versions."""

from __future__ import annotations

from trimtab.monitoring.inputs.checks.findings import Finding
from trimtab.monitoring.profiles.profile_records import InputProfile


class SharedCounts:
    """Input profiles and findings. They are equal in all scenarios with the same version and the same rows."""

    def __init__(self) -> None:
        self.profiles: dict[str, InputProfile] = {}
        self.findings: dict[object, list[Finding]] = {}  # what the checks found in the newest block
        self._until_us: int | None = None

    def begin(self, until_us: int) -> None:
        """Drop the findings of the previous block. Only the first call for a block has an effect."""
        if until_us != self._until_us:
            self._until_us = until_us
            self.findings.clear()
