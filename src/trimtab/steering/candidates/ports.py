"""The parts of a deployment that its loop uses, and protocols that `app` and `simulation` implement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

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
from trimtab.training.judge.baselines import Baseline, baseline_scores

Baselines: TypeAlias = Callable[..., Mapping[str, Baseline | None]]  # a function like `baseline_scores`


class ChampionFailed(Exception):
    """Raised if the version in service cannot score rows, so that nothing can be compared with it."""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A stored version that a person wants to promote."""

    version: str  # the id of the version
    seen_until_us: int | None = None  # until when it may have seen data, if a person stated this


class TrainingData(Protocol):
    """A source of training sets: the event history, or logged predictions."""

    def training_set(
        self, model: Model, *, cut_us: int, since_us: int | None = None, answers: bool = False
    ) -> TrainingSet:
        """Return the requests up to `cut_us`, with features as of each request, and the labels known at `cut_us`.

        Args:
            cut_us: What became known later is left out.
            since_us: Leave out requests that were made before this time.
            answers: Whether to add the logged scores of the rows, if there is a prediction log.
        """
        ...

    def features_of(
        self, model: Model, features: FeatureSet, requests: Columns, at_us: NDArray[np.int64]
    ) -> FeatureFrame:
        """Return other features for some of the model's requests, each as of the time of its request.

        Raises:
            Misuse, NotFound: A column of the request, or a source, does not exist any more.
        """
        ...


class DeploymentParts(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One deployment, with the data and the stores that its loop uses."""

    deployment: Deployment
    data: TrainingData
    labels: LabelReader  # finds the labels that were known when a day was closed
    registry: Registry
    catalog: Catalog  # stores state, signals and the ledger (the record of decisions)
    blob: Blob  # stores training sets, fitted models and evaluations
    clock: Clock
    ids: Ids  # makes the ids of gate records (stored judgements)


class CandidateOptions(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Options for fitting, storing and testing candidates."""

    seed: int
    threads: int = 1  # how many threads a fit uses
    # returns the recipe (how models are fitted) that replaces a given one; replays use it to share fits
    around: Callable[[Recipe], Recipe] = lambda recipe: recipe
    save: Callable[[TrainingSet, Blob], str] = save_training_set
    baselines: Baselines = baseline_scores  # replays use this to compute baselines once
    evaluates: bool = True  # whether to evaluate each candidate, with baselines and intervals
    recording: Recording = Recording()  # records the results of steps, so that no step is done twice
    # loads a candidate in a new process, and measures its speed; None (in replays): neither is tested
    proving: Proving | None = None
    # makes the input profile of a version that goes into service; None: no profile is made
    profile: Callable[[Version, TrainingSet], object] | None = None


class Candidates(Protocol):
    """Makes, judges and promotes versions: either a `CandidateBuilder`, or one that runs in another process."""

    def champion(self) -> str | None:
        """Return the id of the version in service; None if there is none."""
        ...

    def champion_cut(self) -> int:
        """Return the training cut of the version in service; 0 if there is none."""
        ...

    def blocked(self, cut_us: int, changes: Changes) -> str | None:
        """Return in one sentence why no candidate can be judged on the data known at `cut_us`; None if one can be."""
        ...

    def repair(self, cut_us: int, go_on: Callable[[], None], changes: Changes) -> Repair:
        """Fit a candidate on the data known at `cut_us`, and judge it against the champion.

        Args:
            cut_us: Only data that were known at this time are used.
            go_on: Called before the candidate is judged. If it raises an error, the repair ends.
            changes: Known changes of the data. If `changes.onset` is set, candidates are judged on the days since that
                change, and some of these days are also used to fit them.

        Raises:
            Misuse: No candidate can be fitted on these data with this recipe.
        """
        ...

    def judge_stored(self, stored: Stored, cut_us: int, *, keep: bool = True) -> Repair:
        """Judge a stored version against the champion, on the newest days that neither has seen.

        Args:
            cut_us: Only data that were known at this time are used.
            keep: Whether to store the gate record.

        Raises:
            Unavailable: There are no such days yet, or they have too few labels.
            Misuse: The version cannot be loaded, or cannot score the rows of this model.
            Corrupt: The stored data of the version are damaged.
        """
        ...

    def promote(self, repair: Repair, why: str, actor: str | None = None) -> str | None:
        """Put the successor in service, and return the id of the replaced version, if any. A second call does nothing.

        Raises:
            Conflict: The champion is not the version that the gate compared with.
        """
        ...

    def shadow_days(self, repair: Repair, since_us: int, cut_us: int) -> tuple[tuple[PairedDay, ...], int]:
        """Compare successor and champion by day, on requests since a time. Also return the end of the compared days.

        The labels are those known at `cut_us`, and all days are closed at that time.

        Raises:
            Misuse: The successor cannot score rows.
            ChampionFailed: The champion cannot score rows.
        """
        ...
