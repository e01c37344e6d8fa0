"""Promote a version on request. It is evaluated like a new candidate, and promoted only if it passes.  # D196"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from trimtab.app.plan.applying import apply_first
from trimtab.app.system import System
from trimtab.app.training.loops import Loops
from trimtab.app.training.training_runs import Watch, refusal
from trimtab.core.errors import Misuse
from trimtab.core.records import Decision, GateRecord
from trimtab.core.shown import Shown
from trimtab.core.time import format_time
from trimtab.registry import Version
from trimtab.registry.protection import CHAMPION

State = Literal[
    "promoted", "in its rollout", "waiting for approval", "refused", "in service already", "passes", "does not pass"
]
_STATES: dict[str, State] = {
    "promote": "promoted",
    "shadow": "in its rollout",
    "canary": "in its rollout",
    "ask": "waiting for approval",
    "refuse": "refused",
}


class Promotion(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a request to promote a version."""

    version: str  # "late_flight@7"
    state: State  # "passes" and "does not pass" only occur in dry runs
    gate: GateRecord | None  # the result of the evaluation; None if the version is in service already
    decisions: list[Decision]  # the rows that were written to the ledger of decisions

    @property
    def refused(self) -> bool:
        return self.state in ("refused", "does not pass")

    def lines(self) -> Iterator[str]:
        """Yield the outcome as lines of text, without the rows of the ledger."""
        if self.gate is None:
            yield f"{self.version}: {self.state}"
        elif self.state == "refused":
            # after a passed gate, the rollout may still refuse the version, so the newest refusal has the reason
            yield f"{self.version}: {refusal([one.cause for one in self.decisions if one.act == 'refuse'][-1])}"
        else:
            yield f"{self.version}: {self.state}. {self.gate.reason}"
        if self.gate is not None:
            yield from (f"      {line}" for line in self.gate.lines())


class PromotionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a promotion."""

    why: str
    actor: str
    seen_until_us: int | None
    dry_run: bool


def promote_version(system: System, reference: str, wanted: PromotionRequest, watch: Watch | None) -> Promotion:
    """Evaluate a version and promote it if it passes; see `Project.promote`."""
    registry = system.registry
    version = registry.get(reference)
    _check_seen(version, wanted.seen_until_us, system.clock.now_us())
    loop = system.part(Loops).loop(version.model)
    seen_until_us = wanted.seen_until_us
    if wanted.dry_run:
        if _serves(system, version):
            return Promotion(version=version.name, state="in service already", gate=None, decisions=[])
        gate = loop.judge_stored(version, wanted.actor, seen_until_us=seen_until_us, watch=watch)
        state: State = "passes" if gate.passed else "does not pass"
        return Promotion(version=version.name, state=state, gate=gate, decisions=[])
    apply_first(system)
    why = wanted.why.strip() or "No reason was given."
    decisions = loop.promote(version, wanted.actor, why, seen_until_us=seen_until_us, watch=watch)
    last = next((d for d in reversed(decisions) if d.act in _STATES and d.version == version.id), None)
    return Promotion(
        version=version.name,
        state="in service already" if last is None else _STATES[last.act],
        gate=None if last is None else registry.get_gate(str(last.evidence["gate"])),
        decisions=decisions,
    )


def _serves(system: System, version: Version) -> bool:
    champion = system.registry.alias(version.model, CHAMPION)
    return champion is not None and champion.id == version.id


def _check_seen(version: Version, seen_until_us: int | None, now_us: int) -> None:
    if seen_until_us is None:
        return
    what = f"promote {version.name}: seen_until={format_time(seen_until_us)}"
    if version.imported is None:
        raise Misuse(f"{what}: it was trained here, so the end of its training data is known. Leave seen_until out.")
    if seen_until_us > now_us:
        raise Misuse(f"{what} is in the future. Give the time at which its training data end.")
