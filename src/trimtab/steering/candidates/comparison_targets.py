"""Comparison targets: versions that score the window of a gate in place of the version in service.

A version scores the window from its own features. If it has learnt from the window, the candidate of which it is the
refit is used instead, because that candidate has the same recipe but has not seen the window. # D0195
"""

from __future__ import annotations

import msgspec
import numpy as np

from trimtab.core.errors import Corrupt, Misuse, NotFound
from trimtab.core.time import format_duration
from trimtab.features.stored import check_functions
from trimtab.registry import LoadedModel, Registry, Version
from trimtab.registry.loading import repair_lost
from trimtab.registry.protection import CHAMPION
from trimtab.stats.metrics.loss_names import loss_kind
from trimtab.steering.candidates.ports import DeploymentParts, TrainingData
from trimtab.steering.candidates.recipes import Floats, Recipe, Rows
from trimtab.steering.definitions import LEAST_WINDOW_US
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model


class ComparisonTarget(msgspec.Struct, frozen=True, eq=False):
    """A version that is used in a comparison in place of another version, usually of the version in service."""

    version: Version
    unseen_from_us: int  # it has learnt nothing from requests made since then
    note: str = ""  # which version scores the rows, if not simply the version in service


class TargetScores(msgspec.Struct, frozen=True, eq=False):
    """A comparison target's scores of the rows of a window."""

    scores: Floats | None  # None: the version could not score the rows
    note: str  # which version scored, or why none did; empty: the version in service as it is


def champion_target(
    registry: Registry, champion: Version | None, model: Model, until_us: int, *, learns: bool = False
) -> ComparisonTarget | None:
    """The comparison target of a new candidate on days before `until_us`; None if no version can be used.

    Args:
        registry: Has the versions and their gate records.
        champion: The version in service.
        model: The candidate's model. If it has the champion's recipe, it has to wait for days that the champion has not
            seen. A different recipe may be judged on earlier days, too. # D0195
        until_us: The end of the days.
        learns: Whether the champion learns from each label in service, so that no earlier candidate can stand in for
            it.
    """
    if champion is None:
        return None
    champion = registry.as_known(champion)
    same_features = champion.features == model.features.hash
    if same_features and (champion.recipe == model.hash or learns):
        return ComparisonTarget(champion, model.label.final_until(champion.cut_us))
    if loss_kind(champion.metric) != loss_kind(model.metric):
        return None
    return version_target(registry, champion, model, until_us)


def version_target(
    registry: Registry, version: Version, model: Model, until_us: int, *, seen_until_us: int | None = None
) -> ComparisonTarget:
    """The version itself if it has not seen all days before `until_us`, else the candidate of which it is the refit.

    Args:
        registry: Has both versions, and their gate records.
        version: The version that the target stands in for.
        model: The model whose requests are scored.
        until_us: The end of the days.
        seen_until_us: The time until which the version may have seen data, if that is known better than its record
            says.
    """
    version = registry.as_known(version)
    own = "" if version.features == model.features.hash else "with its own features"
    note = own and f"{version.name} was asked {own}."
    unseen_from_us = model.label.final_until(version.cut_us if seen_until_us is None else seen_until_us)
    if until_us - unseen_from_us >= LEAST_WINDOW_US or version.imported is not None:
        return ComparisonTarget(version, unseen_from_us, note)
    judged = [  # a candidate of several folds has learnt from part of its own window
        gate
        for gate in registry.gates_of(version)
        if gate.candidate == (version.refit_of or version.id) and gate.folds == 1
    ]
    if not judged:
        return ComparisonTarget(version, unseen_from_us, note)
    started_us = max(gate.window_start_us for gate in judged)
    if version.refit_of is None:  # a candidate, fitted on what was known when that window began
        return ComparisonTarget(version, started_us, note)
    origin = registry.get(version.refit_of)
    note = f"{origin.name} answered for its refit {version.name}, which has seen the window{own and f', {own}'}."
    return ComparisonTarget(origin, started_us, note)


def target_scores(
    parts: DeploymentParts, recipe: Recipe, target: ComparisonTarget, training_set: TrainingSet, rows: Rows
) -> TargetScores:
    """The scores that a comparison target gives to some rows of a training set, from its own features.

    Raises:
        NotFound: The target has the candidate's features, and its artifact is lost, so nothing can be judged without
            it.
        Corrupt: The target has the candidate's features, and its artifact is damaged.
        Misuse: The target has the candidate's features and cannot be loaded here, although the version in service can.
    """
    model, registry = parts.deployment.model, parts.registry
    if target.version.features == model.features.hash:
        try:
            loaded = registry.load(target.version)
        except (NotFound, Corrupt) as error:
            raise type(error)(f"{error} No candidate can be judged without it. {_to_restore(target)}") from error
        except Misuse:
            if (why := _why_champion_cannot_load(registry, model)) is None:
                raise
            return TargetScores(None, why)
        return TargetScores(recipe.champion_scores(loaded, training_set, rows), target.note)
    try:
        loaded = registry.load(target.version)
        own = with_features_of(loaded, parts.data, model, training_set, rows)
        scores = recipe.champion_scores(loaded, own, np.ones(own.rows, bool))
        if not np.isfinite(scores).all():
            raise Misuse("some of its answers are no finite numbers.")
    except (Misuse, NotFound, Corrupt) as error:
        return TargetScores(None, f"No version answered for {target.version.name}, which has other features: {error}")
    return TargetScores(scores, target.note)


def with_features_of(
    loaded: LoadedModel, data: TrainingData, model: Model, training_set: TrainingSet, rows: Rows
) -> TrainingSet:
    """Some rows of a training set, with the features that a version was trained with.

    Raises:
        Misuse: The version has another task than the model, or its features cannot be computed any more.
        NotFound: A source or column of its features is gone.
    """
    if loaded.artifact.task != model.task:
        raise Misuse(f"its task is {loaded.artifact.task}, needed is {model.task}.")
    window = training_set.take(rows)
    if loaded.version.features == model.features.hash:
        return window
    features = loaded.features()
    check_functions(features)
    frame = data.features_of(model, features, window.requests, window.at_us)
    return msgspec.structs.replace(window, features=frame)


def _to_restore(target: ComparisonTarget) -> str:
    """Instructions on how to restore the lost artifact of a comparison target."""
    version = target.version
    if target.note:  # the target stands in for the version in service
        days = f"train again once the champion has not seen {format_duration(LEAST_WINDOW_US)} of closed days"
        return f"Bring all of the state back from a backup (trimtab restore BACKUP --force), or {days}."
    made_of = None if version.imported is None else version.imported.file
    return repair_lost(version.model, imported=made_of, changed=True)


def _why_champion_cannot_load(registry: Registry, model: Model) -> str | None:
    """The reason why the version in service cannot be loaded here; None if it can, or if its artifact is lost.

    Such a version could never be replaced if a candidate had to be better than its scores.
    """
    champion = registry.alias(model.name, CHAMPION)
    if champion is None:
        return None
    try:
        registry.load(champion)
    except Misuse as error:
        return f"No version answered for {champion.name}, which cannot be loaded any more: {error}"
    except (NotFound, Corrupt):
        pass
    return None
