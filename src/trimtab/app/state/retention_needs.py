"""Compute how long data must be kept for a project's definitions, and check the settings against this.  # D23"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

import msgspec

from trimtab.app.state.definitions import Definitions
from trimtab.core.config import RetentionSettings
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, format_duration
from trimtab.experiments.days import longest_wait_us
from trimtab.experiments.definitions import Experiment
from trimtab.features.definitions import View
from trimtab.features.feature_set import FeatureSet
from trimtab.steering.definitions import Deployment
from trimtab.training.definitions import Model

ALWAYS_US = -(2**62)


class Need(msgspec.Struct, frozen=True):
    """The shortest time for which data must be kept, and the reason."""

    us: int
    why: str


def view_reach(view: View) -> Need:
    """Return the longest window of a view's features.

    Features without a limit do not count: those over all past events, and those of the newest event of any age.
    """
    reach = Need(0, f"view {view.name!r} reads them")
    for name, aggregate in view.features.items():
        us = aggregate.reach_us
        if us is not None and us > reach.us:
            reach = Need(us, f"{view.name}.{name} looks back {format_duration(aggregate.window_us or 0)}")
    return reach


def views_in_use(definitions: Definitions, live: Iterable[View]) -> list[View]:
    """Return the declared views and the views of deployed versions. Equal views are returned once."""
    return list({view.hash: view for view in [*definitions.views.values(), *live]}.values())


def source_needs(definitions: Definitions, live: Iterable[View] = ()) -> dict[str, Need]:
    """Return for each source how long its events must be kept. `live` are the views of deployed versions."""
    needs: dict[str, Need] = {}
    of_live = ((view.source.name, view_reach(view)) for view in live)
    for source, need in chain(_all_needs(definitions), of_live):
        if source not in needs or need.us > needs[source].us:
            needs[source] = need
    return needs


def prediction_need(definitions: Definitions) -> Need:
    """Return how long predictions must be kept: until gates, online learners and experiments have used them."""
    need = Need(0, "nothing")
    for deployment in definitions.deployments.values():
        us = deployment.model.label.final_at(_judged_us(deployment))
        if us > need.us:
            wait = format_duration(deployment.model.label.wait_us)
            learner = f"an online learner would wait {wait} more"
            need = Need(us, f"deployment {deployment.name!r}: {_judged(deployment)}, and {learner}")
    for experiment in definitions.experiments.values():
        us = _closed_after_us(definitions, experiment)
        if us > need.us:
            need = Need(us, f"experiment {experiment.name!r} reads predictions when it closes a day")
    return need


def lifetime_features(views: Iterable[View]) -> dict[str, list[str]]:
    """Return for each source the features that use all past events, such as `carrier.flights`."""
    found: dict[str, list[str]] = {}
    for view in views:
        names = [
            f"{view.name}.{name}" for name, one in view.features.items() if one.kind != "latest" and one.over_us is None
        ]
        if names:
            found.setdefault(view.source.name, []).extend(names)
    return found


def newest_features(views: Iterable[View]) -> dict[str, list[str]]:
    """Return for each source the features that use an entity's newest event, however old it is."""
    found: dict[str, list[str]] = {}
    for view in views:
        for name, one in view.features.items():
            if one.kind == "latest" and one.max_age_us is None:
                found.setdefault(view.source.name, []).append(f"{view.name}.{name}")
    return found


def check_retention(settings: RetentionSettings, definitions: Definitions) -> None:
    """Raise an error if the settings keep data for less time than the definitions need.

    Raises:
        Misuse: The settings keep data for too short a time, or name an undeclared source. The message names the
            setting.
    """
    for name in settings.sources:
        if name not in definitions.sources:
            raise Misuse(f"[retention.sources] {name}: no such source. Sources: {', '.join(definitions.sources)}.")
    for name, need in source_needs(definitions).items():
        kept_us = settings.events_us(name)
        if kept_us is not None and kept_us < need.us:
            key = f"[retention.sources] {name}" if name in settings.sources else "[retention] events"
            kept = settings.sources.get(name, settings.events)
            raise Misuse(
                f'{key} = "{kept}" is too short for source {name!r}: {need.why}, so '
                f"{_days(need.us)} are needed. Keep its events longer, or declare shorter periods."
            )
    predictions, need = settings.predictions_us, prediction_need(definitions)
    if predictions is not None and predictions < need.us:
        raise Misuse(
            f'[retention] predictions = "{settings.predictions}" is too short: {need.why}, so '
            f"{_days(need.us)} are needed. Keep predictions longer, or declare shorter periods."
        )


def features_from_us(features: FeatureSet, kept_from_us: Mapping[str, int]) -> int:
    """Return the first time as of which features can be computed from the events that are still kept.

    Args:
        kept_from_us: The time before which events were removed, by source.
    """
    times = [
        kept_from_us[view.source.name] + view_reach(view).us
        for view in features.views
        if view.source.name in kept_from_us
    ]
    return max(times, default=ALWAYS_US)


def sees_removed(view: View, feature: str, kept_from_us: Mapping[str, int], at_us: int, *, lacks: bool) -> bool:
    """Return whether a view's feature as of `at_us` reads events that were removed.

    Args:
        view: The view, by the definition with which the version was trained.
        kept_from_us: The time before which events were removed, by source.
        at_us: The time as of which the feature is computed.
        lacks: Whether the feature is null if it is computed from the remaining events. It is only used for features of
            an entity's newest event, which retention keeps, unless the event was corrected or deleted later.
    """
    removed_us = kept_from_us.get(view.source.name)
    if removed_us is None:
        return False
    aggregate = view.features[feature]
    if aggregate.kind == "latest" and aggregate.max_age_us is None:
        return lacks or at_us < removed_us
    us = aggregate.reach_us
    return us is None or at_us < removed_us + us


def labels_from_us(model: Model, kept_from_us: Mapping[str, int]) -> int:
    """Return the time before which events with labels were removed."""
    return kept_from_us.get(model.label.source.name, ALWAYS_US)


def _closed_after_us(definitions: Definitions, experiment: Experiment) -> int:
    """Return how long after an exposure its day is closed at the latest, if the closing of days runs once a day."""
    model = definitions.models.get(experiment.model or "")
    return 2 * DAY_US + longest_wait_us(experiment.metrics, None if model is None else model.label)


def _all_needs(definitions: Definitions) -> Iterator[tuple[str, Need]]:
    for view in definitions.views.values():
        yield view.source.name, view_reach(view)
    for deployment in definitions.deployments.values():
        model, judged_us, judged = deployment.model, _judged_us(deployment), _judged(deployment)
        yield model.label.source.name, Need(judged_us, f"deployment {deployment.name!r}: {judged}")
        yield model.request.name, Need(judged_us + model.request.lead_us, f"deployment {deployment.name!r}: {judged}")
        for view in model.features.views:
            reach = view_reach(view)
            yield (
                view.source.name,
                Need(reach.us + judged_us, f"{reach.why}, and deployment {deployment.name!r}: {judged}"),
            )
    for experiment in definitions.experiments.values():
        for metric in experiment.metrics:
            if metric.source is not None:
                us = _closed_after_us(definitions, experiment) + metric.before_us
                yield metric.source.name, Need(us, f"experiment {experiment.name!r} reads events when it closes a day")
    for model in definitions.models.values():
        kept_us = model.label.final_at(DAY_US)
        yield model.label.source.name, Need(kept_us, f"model {model.name!r} waits for its labels")


def _days(us: int) -> str:
    """Return a duration as text in whole days, rounded up."""
    return f"{-(-us // DAY_US)}d"


def _judged_us(deployment: Deployment) -> int:
    return deployment.model.label.final_at(deployment.gate.window_us + DAY_US)


def _judged(deployment: Deployment) -> str:
    window, wait = deployment.gate.window_us, deployment.model.label.final_at(0)
    return f"its gate judges {format_duration(window)} of requests and waits {format_duration(wait)} for their labels"
