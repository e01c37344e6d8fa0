"""Who answers a gate's window: versions on their own features, or their candidates where they have seen the answers."""

from __future__ import annotations

from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Columns
from trimtab.core.errors import Corrupt, Misuse, NotFound
from trimtab.core.time import format_duration
from trimtab.features.feature_set import FeatureSet
from trimtab.features.frames import FeatureFrame
from trimtab.features.stored import check_functions
from trimtab.registry import LoadedModel, Registry, Version
from trimtab.registry.loading import repair_lost
from trimtab.registry.protection import CHAMPION
from trimtab.stats.metrics.loss_names import loss_kind
from trimtab.steering.candidates.recipes import Floats, Recipe, Rows
from trimtab.steering.definitions import LEAST_WINDOW_US
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model


class OtherFeatures(Protocol):
    """Computes the features of other definitions than a model's."""

    def features_of(
        self, model: Model, features: FeatureSet, requests: Columns, at_us: NDArray[np.int64]
    ) -> FeatureFrame:
        """The features of some of the model's requests, each as of its moment.

        Raises:
            Misuse: A column of the request, or a source, is not there any more.
            NotFound: The same.
        """
        ...


class ComparisonTarget(msgspec.Struct, frozen=True, eq=False):
    """A version that answers for the one in service."""

    version: Version
    unseen_from_us: int  # what was asked since then has taught it nothing
    said: str = ""  # who it is, where it is not simply the one in service


def find_rival(
    registry: Registry, champion: Version | None, model: Model, until_us: int, *, learns: bool = False
) -> ComparisonTarget | None:
    """Who answers for the version in service on days before `until_us`; None where nobody can.

    Args:
        registry: Has it, and the gate records.
        champion: The version in service.
        model: What is to be judged against it. The same recipe again has to wait for days that the champion has not
            seen; another recipe may be judged on those before, too. # D124
        until_us: The end of the days.
        learns: The champion learns as it answers, so that no candidate of long ago can stand in for it.
    """
    if champion is None:
        return None
    champion = registry.as_known(champion)
    same_features = champion.features == model.features.hash
    if same_features and (champion.recipe == model.hash or learns):
        return ComparisonTarget(champion, model.label.final_until(champion.cut_us))
    if loss_kind(champion.metric) != loss_kind(model.metric):
        return None
    return who_answers(registry, champion, model, until_us)


def who_answers(
    registry: Registry, version: Version, model: Model, until_us: int, *, seen_until_us: int | None = None
) -> ComparisonTarget:
    """Who answers for a version on days before `until_us`: itself with its own features, or whose refit it is.

    A version was usually fitted on the newest labels itself. Where that leaves no days to judge on, the candidate whose
    refit it is answers: the same recipe, fitted on what was known when its own gate's window began. # D69

    Args:
        registry: Has both, and their gate records.
        version: Who is asked.
        model: What is asked.
        until_us: The end of the days.
        seen_until_us: Until when it may have seen data, where that is known better than its record says.
    """
    version = registry.as_known(version)
    own = "" if version.features == model.features.hash else "with its own features"
    said = own and f"{version.name} was asked {own}."
    unseen_from_us = model.label.final_until(version.cut_us if seen_until_us is None else seen_until_us)
    if until_us - unseen_from_us >= LEAST_WINDOW_US or version.imported is not None:
        return ComparisonTarget(version, unseen_from_us, said)
    judged = [  # a candidate of several folds has learnt from part of its own window
        gate
        for gate in registry.gates_of(version)
        if gate.candidate == (version.refit_of or version.id) and gate.folds == 1
    ]
    if not judged:
        return ComparisonTarget(version, unseen_from_us, said)
    started_us = max(gate.window_start_us for gate in judged)
    if version.refit_of is None:  # a candidate: it was fitted on what was known when that window began
        return ComparisonTarget(version, started_us, said)
    origin = registry.get(version.refit_of)
    said = f"{origin.name} answered for its refit {version.name}, which has seen the window{own and f', {own}'}."
    return ComparisonTarget(origin, started_us, said)


class Answered(msgspec.Struct, frozen=True, eq=False):
    """What a rival answered to the rows of a window."""

    scores: Floats | None  # None: it could not be asked
    said: str  # who answered, or why nobody did; empty: the version in service, as it is


def rival_answers(
    registry: Registry,
    recipe: Recipe,
    data: OtherFeatures,
    rival: ComparisonTarget,
    model: Model,
    asked: TrainingSet,
    rows: Rows,
) -> Answered:
    """A rival's answers to some rows of a training set, from its own features."""
    if rival.version.features == model.features.hash:
        try:
            loaded = registry.load(rival.version)
        except (NotFound, Corrupt) as error:
            raise type(error)(f"{error} No candidate can be judged without it. {_mend(rival)}") from error
        except Misuse:
            if (why := _silent(registry, model)) is None:
                raise
            return Answered(None, why)
        return Answered(recipe.champion_scores(loaded, asked, rows), rival.said)
    try:
        loaded = registry.load(rival.version)
        own = asked_of_version(loaded, data, model, asked, rows)
        scores = recipe.champion_scores(loaded, own, np.ones(own.rows, bool))
        if not np.isfinite(scores).all():
            raise Misuse("some of its answers are no finite numbers.")
    except (Misuse, NotFound, Corrupt) as error:
        return Answered(None, f"Nobody answered for {rival.version.name}, which has other features: {error}")
    return Answered(scores, rival.said)


def asked_of_version(
    loaded: LoadedModel, data: OtherFeatures, model: Model, asked: TrainingSet, rows: Rows
) -> TrainingSet:
    """Some rows of a training set, with the features that a version was trained with.

    Raises:
        Misuse: It foretells another thing than the model, or its features cannot be computed any more.
        NotFound: The same.
    """
    if loaded.artifact.task != model.task:
        raise Misuse(f"it foretells another thing ({loaded.artifact.task}).")
    window = asked.take(rows)
    if loaded.version.features == model.features.hash:
        return window
    features = loaded.features()
    check_functions(features)
    frame = data.features_of(model, features, window.requests, window.at_us)
    return msgspec.structs.replace(window, features=frame)


def _mend(rival: ComparisonTarget) -> str:
    """What to do where the artifact of a rival is lost."""
    version = rival.version
    if rival.said:  # it stands in for the version in service
        days = f"train again once the champion has not seen {format_duration(LEAST_WINDOW_US)} of closed days"
        return f"Bring all of the state back from a backup (trimtab restore BACKUP --force), or {days}."
    made_of = None if version.imported is None else version.imported.file
    return repair_lost(version.model, imported=made_of, changed=True)


def _silent(registry: Registry, model: Model) -> str | None:
    """Why the version in service cannot answer anybody here, itself; None where it can, or its artifact is lost.

    Nobody could replace it if a candidate had to be better than what it says.
    """
    champion = registry.alias(model.name, CHAMPION)
    if champion is None:
        return None
    try:
        registry.load(champion)
    except Misuse as error:
        return f"Nobody answered for {champion.name}, which cannot be loaded any more: {error}"
    except (NotFound, Corrupt):
        pass
    return None
