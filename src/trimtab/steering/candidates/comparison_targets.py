"""Comparison targets: the versions with which candidates are compared, usually the version in service.

A target scores the days on which the new candidate is judged, from the features that it was trained with. The version
in service is a refit (fitted again on more data) of an earlier candidate. If it has learnt from these days, the earlier
candidate is the target: it has the same recipe (definition and way of fitting), but has not seen the days (D0195). The
earlier candidate is also the target if the version in service learnt from labels that became final after the days had
begun, because the new candidate was not allowed to learn from such labels (D0214).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec
import numpy as np

from trimtab.core.errors import Corrupt, Misuse, NotFound
from trimtab.core.time import format_duration
from trimtab.features.definitions import Label
from trimtab.features.stored import check_functions
from trimtab.registry import LoadedModel, Registry, Version
from trimtab.registry.loading import lost_artifact, repair_lost
from trimtab.registry.protection import CHAMPION
from trimtab.stats.metrics.loss_names import loss_kind
from trimtab.steering.candidates.ports import DeploymentParts, TrainingData
from trimtab.steering.candidates.recipes import Floats, Recipe, Rows
from trimtab.steering.definitions import LEAST_WINDOW_US
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model

LearntUntil: TypeAlias = Callable[[Version], int | None]


class ComparisonTarget(msgspec.Struct, frozen=True, eq=False):
    """A version with which a candidate is compared."""

    version: Version
    # the version has learnt from no request that was made at or after this time, and from no label that has time in
    # common with labels of such requests
    unseen_from_us: int
    # a sentence if another version scores the rows in place of the one in service, or if other features are used
    note: str = ""


class TargetScores(msgspec.Struct, frozen=True, eq=False):
    """The scores that a comparison target gives to the rows of a window."""

    scores: Floats | None  # None: the target could not score the rows
    note: str  # the note of the target, or a sentence that says why it could not score the rows


def champion_target(
    registry: Registry,
    champion: Version | None,
    model: Model,
    until_us: int,
    *,
    learns: bool = False,
    learnt_until: LearntUntil = lambda version: None,
) -> ComparisonTarget | None:
    """Return the comparison target of a new candidate on days before `until_us`; None if there is no usable version.

    Args:
        model: The candidate's model. If it has the champion's recipe, the target is the champion, which limits the days
            to those that it has not seen. For another recipe, see `version_target`. # D0195
        until_us: The end of the days.
        learns: Whether the champion learns from each label in service, so that no earlier candidate can replace it.
        learnt_until: Returns the end of a version's newest training day that has a final label; None: unknown. It is
            only called if the champion's cut leaves too few days that are new to it.
    """
    if champion is None:
        return None
    champion = registry.as_known(champion)
    same_features = champion.features == model.features.hash
    if same_features and (champion.recipe == model.hash or learns):
        unseen_from_us = _unshared_from(model.label, champion.cut_us)
        if until_us - unseen_from_us < LEAST_WINDOW_US and not learns and champion.imported is None:
            # labels from before its cut may have been loaded only after its fit: then more days are new to the champion
            learnt_us = learnt_until(champion)
            if learnt_us is not None:
                unseen_from_us = min(unseen_from_us, learnt_us + model.label.span_us)
        return ComparisonTarget(champion, unseen_from_us)
    if loss_kind(champion.metric) != loss_kind(model.metric):
        return None
    return version_target(registry, champion, model, until_us)


def version_target(
    registry: Registry, version: Version, model: Model, until_us: int, *, seen_until_us: int | None = None
) -> ComparisonTarget:
    """Return the target for a version: itself if enough days are new to it, or else the candidate it is a refit of.

    If that candidate is not known, the target is the version itself, for fewer days.

    Args:
        model: The model whose requests are scored.
        until_us: The end of the days that are compared.
        seen_until_us: The time until which the version may have seen data, if this is known better than from its
            record.
    """
    version = registry.as_known(version)
    own = "" if version.features == model.features.hash else "with its own features"
    note = own and f"{version.name} answered {own}."
    unseen_from_us = _unshared_from(model.label, version.cut_us if seen_until_us is None else seen_until_us)
    if until_us - unseen_from_us >= LEAST_WINDOW_US or version.imported is not None:
        return ComparisonTarget(version, unseen_from_us, note)
    found = _judged_candidate(registry, version)
    if found is None:
        return ComparisonTarget(version, unseen_from_us, note)
    origin, started_us = found
    if version.refit_of is None:  # it is a candidate itself, and has learnt nothing from its own window
        return ComparisonTarget(version, started_us, note)
    note = f"{origin.name} answered{own and f' {own}'} instead of its refit {version.name}, which has seen the window."
    return ComparisonTarget(origin, started_us, note)


def _unshared_from(label: Label, cut_us: int) -> int:
    """Return the earliest time of a request whose label has no time in common with labels that are final at a cut."""
    return label.final_until(cut_us) + label.span_us


def target_on_window(parts: DeploymentParts, target: ComparisonTarget, start_us: int) -> ComparisonTarget:
    """Return the target that a new candidate of the same recipe is compared with on a window from `start_us` on.

    A candidate learns only from labels that were final at `start_us`. If the version in service also learnt from labels
    that became final later, the comparison would be unfair: the candidate's refit will learn from even newer labels,
    but it is the candidate that is compared. Then the candidate of the version in service (the one that it is a refit
    of) is returned, because that learnt only from labels that were final when its own window began. The target itself
    is returned if there is no such candidate. # D0214
    """
    version, registry, model = target.version, parts.registry, parts.deployment.model
    refit_of_recipe = version.recipe == model.hash and version.refit_of is not None and not target.note
    if not refit_of_recipe or model.label.final_at(target.unseen_from_us - model.label.span_us) <= start_us:
        return target
    found = _judged_candidate(registry, version)
    if found is None or found[1] > start_us or lost_artifact(parts.blob, found[0]) is not None:
        return target
    origin, started_us = found
    note = f"{origin.name} answered instead of its refit {version.name}, which learnt from labels that were not final "
    return ComparisonTarget(
        origin, started_us, f"{note}when the window began; {origin.name} and the new candidate did not."
    )


def _judged_candidate(registry: Registry, version: Version) -> tuple[Version, int] | None:
    """Return the judged candidate of a version (itself, or the one that it is a refit of) and the start of its window.

    None: it was never judged, or only with several folds. With folds, it has learnt from part of its window.
    """
    candidate = version.refit_of or version.id
    started_us = [
        gate.window_start_us for gate in registry.gates_of(version) if gate.candidate == candidate and gate.folds == 1
    ]
    return (registry.get(candidate), max(started_us)) if started_us else None


def target_scores(
    parts: DeploymentParts, recipe: Recipe, target: ComparisonTarget, training_set: TrainingSet, rows: Rows
) -> TargetScores:
    """Return the scores that a comparison target gives to some rows of a training set, from its own features.

    Raises:
        NotFound: The target has the candidate's features, but its stored model is lost. Nothing can be judged without
            it.
        Corrupt: The target has the candidate's features, but its stored model is damaged.
        Misuse: The target has the candidate's features, but cannot be loaded here, although the version in service can.
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
            raise Misuse("some of its answers are not finite numbers.")
    except (Misuse, NotFound, Corrupt) as error:
        return TargetScores(None, f"Nothing was compared with {target.version.name}, which has other features: {error}")
    return TargetScores(scores, target.note)


def with_features_of(
    loaded: LoadedModel, data: TrainingData, model: Model, training_set: TrainingSet, rows: Rows
) -> TrainingSet:
    """Return some rows of a training set with the features that a version was trained with.

    Raises:
        Misuse: The version has another task than the model, or its features can no longer be computed.
        NotFound: A source or column of its features does not exist any more.
    """
    if loaded.artifact.task != model.task:
        raise Misuse(f"its task is {loaded.artifact.task}, but the model's task is {model.task}.")
    window = training_set.take(rows)
    if loaded.version.features == model.features.hash:
        return window
    features = loaded.features()
    check_functions(features)
    frame = data.features_of(model, features, window.requests, window.at_us)
    return msgspec.structs.replace(window, features=frame)


def _to_restore(target: ComparisonTarget) -> str:
    """Return a sentence on how to restore the lost stored model of a comparison target."""
    version = target.version
    if target.note:  # another version takes the place of the version in service
        days = f"train again once {format_duration(LEAST_WINDOW_US)} of closed days are new to the champion"
        return f"Bring all of the state back from a backup (trimtab storage restore BACKUP --force), or {days}."
    made_of = None if version.imported is None else version.imported.file
    return repair_lost(version.model, imported=made_of, changed=True)


def _why_champion_cannot_load(registry: Registry, model: Model) -> str | None:
    """Return why the version in service cannot be loaded here; None if it can, or if its stored model is lost.

    Candidates need not be better than a version that cannot be loaded. Otherwise it could never be replaced.
    """
    champion = registry.alias(model.name, CHAMPION)
    if champion is None:
        return None
    try:
        registry.load(champion)
    except Misuse as error:
        return f"Nothing was compared with {champion.name}, which cannot be loaded any more: {error}"
    except (NotFound, Corrupt):
        pass
    return None
