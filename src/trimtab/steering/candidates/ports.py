"""Ports of a loop: the parts of a deployment, and the protocols that `app` and `simulation` implement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.clock import Clock
from trimtab.core.columns.data import Columns
from trimtab.core.ids import Ids
from trimtab.features.feature_set import FeatureSet
from trimtab.features.frames import FeatureFrame
from trimtab.feedback.outcomes import LabelReader
from trimtab.registry import Registry, Version
from trimtab.steering.candidates.recipes import Recipe
from trimtab.steering.candidates.stored import Recording
from trimtab.steering.definitions import Deployment
from trimtab.steering.gate.version_checks import Proving
from trimtab.steering.loop_state import Changes, PairedDay, Repair
from trimtab.store.ports import Blob, Catalog
from trimtab.training.data.sets import TrainingSet, save_training_set
from trimtab.training.definitions import Model


class ChampionFailed(Exception):
    """Raised because the version in service cannot score rows, so that nothing can be compared with it."""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A stored version that a person puts forward."""

    version: str  # the address of the version
    seen_until_us: int | None = None  # the time until which it may have seen data, if a person says so


class TrainingData(Protocol):
    """Gives pinned training sets, from history or from logged predictions."""

    def training_set(
        self, model: Model, *, cut_us: int, since_us: int | None = None, answers: bool = False
    ) -> TrainingSet:
        """The rows of requests made by `cut_us`, with features as of their time and the labels known at `cut_us`.

        Args:
            model: The model whose requests they are.
            cut_us: Anything that became known later is left out.
            since_us: Requests made earlier are left out.
            answers: Also return the logged answers to the rows, if there is a log to read them from.
        """
        ...

    def features_of(
        self, model: Model, features: FeatureSet, requests: Columns, at_us: NDArray[np.int64]
    ) -> FeatureFrame:
        """The features that another definition gives for some of the model's requests, each as of the request's time.

        Raises:
            Misuse: A column of the request, or a source, does not exist any more.
            NotFound: The same as for `Misuse`.
        """
        ...


class DeploymentParts(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One deployment with its data and its stores, which every part of its loop works on."""

    deployment: Deployment
    data: TrainingData
    labels: LabelReader  # finds labels as they were when a day was closed
    registry: Registry
    catalog: Catalog  # stores state, signals and ledger
    blob: Blob  # stores training sets
    clock: Clock
    ids: Ids  # makes the ids of gate records


class CandidateOptions(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Options of fitting, storing and testing candidates; the defaults are those of a replay."""

    seed: int
    threads: int = 1  # number of threads for one fit
    # wraps the recipe; a replay shares fits between its scenarios
    around: Callable[[Recipe], Recipe] = lambda recipe: recipe
    save: Callable[[TrainingSet, Blob], str] = save_training_set
    evaluates: bool = True  # whether an evaluation with baselines and intervals is made of each candidate
    recording: Recording = Recording()  # runs steps so that no step is done twice
    proving: Proving | None = None  # a new process and a stopwatch to test candidates with; None: no such tests
    profile: Callable[[Version, TrainingSet], object] | None = None  # makes the input profile of a successor


class Candidates(Protocol):
    """Makes, judges and puts forward versions: a `CandidateBuilder`, or a runner of one in another process."""

    def champion(self) -> str | None:
        """The address of the version in service."""
        ...

    def blocked(self, cut_us: int, changes: Changes) -> str | None:
        """The reason why no candidate can be judged on the data known at `cut_us`, in one sentence; None if one can."""
        ...

    def repair(self, cut_us: int, go_on: Callable[[], None], changes: Changes) -> Repair:
        """Train a candidate on the data known at `cut_us`, and judge it against the champion.

        Args:
            cut_us: Only data known by then are used.
            go_on: Called before the gate; an error that it raises ends the repair.
            changes: If they contain a change that is to be repaired now, the days since it are judged, and partly
                learnt from.

        Raises:
            Misuse: No candidate can be made from these data or by this recipe.
        """
        ...

    def judge_stored(self, stored: Stored, cut_us: int, *, keep: bool = True) -> Repair:
        """Judge a stored version against the champion on the data known at `cut_us`; `keep` stores the gate record.

        Raises:
            Unavailable: There is no window that neither version has seen.
            Misuse: The version cannot score rows here.
        """
        ...

    def promote(self, repair: Repair, why: str, actor: str | None = None) -> str | None:
        """Put the successor into service, and return the address of the version that it replaced. May be repeated.

        Raises:
            Conflict: The champion is not the one that the gate compared with.
        """
        ...

    def shadow_days(self, repair: Repair, since_us: int, cut_us: int) -> tuple[tuple[PairedDay, ...], int]:
        """Successor and champion by day on requests since a time, and until when days are complete at `cut_us`.

        Raises:
            Misuse: The successor cannot score rows.
            ChampionFailed: The champion cannot score rows.
        """
        ...
