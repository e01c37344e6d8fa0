"""The candidate that waits for a person's approval."""

from __future__ import annotations

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict
from trimtab.core.records import Decision
from trimtab.core.time import format_time
from trimtab.steering.candidates.ports import Candidates
from trimtab.steering.definitions import Deployment
from trimtab.steering.loop.deployment_record import DeploymentRecord
from trimtab.steering.loop.evidence import overtaken
from trimtab.steering.loop_state import APPROVAL, Repair


class Approvals:
    """Finds the candidate that waits for approval.

    If it can no longer take over, it is dropped, and the ledger says so.
    """

    def __init__(self, deployment: Deployment, record: DeploymentRecord, candidates: Candidates, clock: Clock) -> None:
        self._deployment = deployment
        self._record = record
        self._candidates = candidates
        self._clock = clock

    def waiting(self, what: str) -> Repair:
        """Return the candidate that waits for approval and can still take over. `what` begins error messages.

        Raises:
            Conflict: No candidate waits, its time is over, or the champion has changed.
        """
        if self._record.state.phase != APPROVAL:
            raise Conflict(f"{what}: no candidate waits for approval. See: trimtab status")
        dropped = self.drop_outdated()
        if dropped:
            raise Conflict(f"{what}: {dropped[-1].cause} The candidate was dropped; train another one.")
        assert self._record.state.repair is not None  # this phase always has a repair
        return self._record.state.repair

    def drop_outdated(self) -> list[Decision]:
        """Drop the candidate if its time is over, no approval is declared any more, or another version is champion."""
        repair = self._record.state.repair
        assert repair is not None  # this phase always has a repair
        reason, expires_us = overtaken(repair, self._candidates.champion()), self._record.state.expires_us
        if reason is not None:
            return self._record.refuse([self._record.entry_about(repair, "refuse", reason, actor="policy")])
        if self._deployment.approval_us is None:
            gone = "The deployment no longer declares an approval. Train again."
            return self._record.refuse([self._record.entry_about(repair, "refuse", gone, actor="policy")])
        if self._clock.now_us() < expires_us:
            return []
        reason = f"No one approved or rejected the candidate by {format_time(expires_us)}, when its time was over."
        return self._record.refuse([self._record.entry_about(repair, "expire", reason, actor="policy")])
