"""What a controller and a workshop need of others, as protocols: `app` and `simulation` hand them in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from trimtab.registry.aliases import Together
from trimtab.steering.candidates.comparison_targets import OtherFeatures
from trimtab.steering.loop_state import Changes, PairedDay, Repair
from trimtab.store.ports import Put
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model


class ChampionFailed(Exception):
    """The version in service cannot answer, so that nothing can be compared with it."""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A stored version that a person puts forward."""

    version: str  # its address
    seen_until_us: int | None = None  # until when it may have seen data, where a person says so


class Workshop(Protocol):
    """Makes, judges and puts forward versions; `app` and `simulation` hand one to the controller."""

    def champion(self) -> str | None:
        """Address of the version in service."""
        ...

    def blocked(self, cut_us: int, changes: Changes) -> str | None:
        """Why no candidate can be judged on the data known at `cut_us`, in one sentence; None when it can."""
        ...

    def repair(self, cut_us: int, go_on: Callable[[], None], changes: Changes) -> Repair:
        """Train a candidate on what was known at `cut_us` and judge it against the champion.

        Args:
            cut_us: Only what was known by then is looked at.
            go_on: Called before the gate; what it raises ends the repair.
            changes: Days since one that is repaired now are judged, and partly learnt from.

        Raises:
            Misuse: No candidate can be made of these data or by this recipe.
        """
        ...

    def judge_stored(self, stored: Stored, cut_us: int, *, keep: bool = True) -> Repair:
        """Judge a stored version against the champion on what was known at `cut_us`; its record is kept if asked.

        Raises:
            Unavailable: There is no window that neither has seen.
            Misuse: It cannot answer here.
        """
        ...

    def promote(self, repair: Repair, why: str, actor: str | None = None) -> str | None:
        """Put the successor in service; the address of what it replaced. Once is as good as twice.

        Raises:
            Conflict: Another champion stands there than the one that the gate compared with.
        """
        ...

    def shadow_days(self, repair: Repair, since_us: int, cut_us: int) -> tuple[tuple[PairedDay, ...], int]:
        """Successor and champion on the rows asked since a time, by day, and until when days are complete at `cut_us`.

        Raises:
            Misuse: The successor cannot answer.
            ChampionFailed: The champion cannot.
        """
        ...


class Exposed(Protocol):
    """Moves what answers requests: a canary's share, and the champion back."""

    def answered(self, repair: Repair) -> float:
        """The share of the requests that the successor of a repair answers as canary now."""
        ...

    def share(self, repair: Repair, share: float) -> list[Put]:
        """The changes that let the successor of a repair answer a share of the requests.

        Raises:
            Conflict: Another version answers as canary.
        """
        ...

    def roll_back(self, version: str, why: str, together: Together) -> None:
        """Let the version before the given one answer again; `together` writes the changes of that with more."""
        ...


class Guard(Protocol):
    """Looks at how the service fares with a version."""

    def __call__(self, version: str, against: str, *, since_us: int) -> str | None:
        """What is wrong with the service since a time, in one sentence; None where nothing is.

        Args:
            version: The address of the version that is guarded: a canary, or what has just taken over.
            against: The one that it is compared with, which answers or answered before.
            since_us: Since when it answers.
        """
        ...

    def requests(self, version: str, *, since_us: int) -> int | None:
        """How many requests a canary has answered since a time; None where they are not counted."""
        ...


class TrainingData(OtherFeatures, Protocol):
    """Gives pinned training sets; where they come from (history, logged predictions) is its own business."""

    def training_set(
        self, model: Model, *, cut_us: int, since_us: int | None = None, answers: bool = False
    ) -> TrainingSet:
        """The request rows asked by `cut_us`, with features as of their time and the labels known at `cut_us`.

        Args:
            model: Whose rows.
            cut_us: What became known later does not count.
            since_us: Leave out what was asked before.
            answers: Give the logged answers to the rows, too, where there is a log to read them from.
        """
        ...
