"""Make the scenarios of a replay from settings or from policies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from trimtab.app.state.definitions import Definitions
from trimtab.core.config import Config, ScenarioSettings
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US
from trimtab.simulation.policies import Policy, policy_of
from trimtab.simulation.scenarios.scenario import Scenario
from trimtab.steering.causes import Every, Triggers
from trimtab.steering.definitions import Deployment

DEMO_LOOKS_US = DAY_US  # how often a demo checks model inputs; quality is checked as often
USUAL = (  # the scenarios if the settings have no section [demo]
    ScenarioSettings(name="project", model="", policy="project"),
    ScenarioSettings(name="never", model="", policy="never"),
)


def scenarios_of(definitions: Definitions, settings: Sequence[ScenarioSettings]) -> list[Scenario]:
    """Return a scenario for each entry of the settings.

    Raises:
        Misuse: A model or scenario is unknown, a name or the project's own policy occurs twice, there is no schedule,
            or a time of day is invalid.
    """
    names = [one.name for one in settings]
    if len(set(names)) < len(names):
        raise Misuse(f"[demo] lines: a name occurs twice among {', '.join(names)}. Rename one.")
    lines = []
    for one in settings:
        live = [other.name for other in settings if other.policy != "day_ahead" and other.model == one.model]
        if one.policy == "day_ahead" and one.like not in live:
            raise Misuse(
                f"[demo] line {one.name!r}: like={one.like!r} is none of the live lines of its model: "
                f"{', '.join(live) or 'it has none'}."
            )
        day_ahead = one.policy == "day_ahead"
        if sum(_is_own(definitions, other) and other.model == one.model for other in settings) > 1:
            raise Misuse(f"[demo] line {one.name!r}: model {one.model!r} has two lines of policy project. Keep one.")
        lines.append(
            Scenario(
                name=one.name,
                deployment=_deployment(definitions, one),
                answers="day_ahead" if day_ahead else "live",
                main=_is_own(definitions, one),
                like=one.like or "",
                scored_at_us=_time_of_day(one) if day_ahead else 0,
            )
        )
    return lines


def given_policies(given: Any) -> list[Policy | str]:
    """Return policies as a list. A function becomes a policy of its name, and a text is split at its commas.

    Raises:
        Misuse: There is no policy, or one is neither a policy, a text nor a function.
    """
    parts = given.split(",") if isinstance(given, str) else given if isinstance(given, list | tuple) else [given]
    if not parts:
        raise Misuse("simulate: policies is empty. Give a policy, or leave policies out.")
    for one in parts:
        if not isinstance(one, Policy | str) and not callable(one):
            raise Misuse(f"simulate: found the policy {one!r}, needed a Policy, a function or a text such as '30d'.")
    return [Policy(name=getattr(one, "__name__", "function"), decide=one) if callable(one) else one for one in parts]


def scenarios_of_policies(
    definitions: Definitions, policies: Sequence[Policy | str], model: str | None, folder: Path
) -> list[Scenario]:
    """Return one scenario for each policy, all for the same deployment.

    Raises:
        Misuse: A text is not the name of a policy, or a name occurs twice.
        NotFound: A deployment, file or function does not exist.
    """
    found = [policy_of(one, folder) if isinstance(one, str) else one for one in policies]
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise Misuse(f"policies: a name occurs twice among {', '.join(names)}. Leave one out, or rename it.")
    deployment = definitions.deployment(model)
    return [Scenario(name=one.name, deployment=one.rules(deployment), main=one.own, decide=one.decide) for one in found]


def _is_own(definitions: Definitions, one: ScenarioSettings) -> bool:
    """Return whether the scenario runs a deployment exactly as the project declares it."""
    return one.policy == "project" and (not one.model or one.model in definitions.deployments)


def _deployment(definitions: Definitions, one: ScenarioSettings) -> Deployment:
    if one.model and one.model not in definitions.models:
        raise Misuse(f"[demo] line {one.name!r}: no model {one.model!r}. Models: {', '.join(definitions.models)}.")
    usual = definitions.deployment(None)
    found = definitions.deployments.get(one.model, usual)
    if one.model and found.name != one.model:  # a model without a deployment follows the rules of the first deployment
        found = msgspec.structs.replace(found, model=definitions.models[one.model])
    if one.policy == "never":
        return msgspec.structs.replace(found, retrain=Triggers())
    if one.policy == "schedule":
        kept = tuple(rule for rule in found.retrain.any_of if isinstance(rule, Every))
        if not kept:
            raise Misuse(f"[demo] line {one.name!r}: policy schedule, but {found.name!r} has no tt.every(...) rule.")
        return msgspec.structs.replace(found, retrain=Triggers(kept))
    return found


def _time_of_day(one: ScenarioSettings) -> int:
    hour, colon, minute = one.at.partition(":")
    if not (colon and hour.isdecimal() and minute.isdecimal() and int(hour) < 24 and int(minute) < 60):
        raise Misuse(f'[demo] line {one.name!r}: at={one.at!r} is no time of day in UTC, such as "23:00".')
    return int(hour) * HOUR_US + int(minute) * MINUTE_US


def scenario_settings(config: Config, names: Sequence[str] | None = None) -> list[ScenarioSettings]:
    """Return the scenarios in the section [demo] of the settings, or only those with the given names.

    Raises:
        Misuse: There is no scenario of a given name.
    """
    found = list(config.demo.lines if config.demo else USUAL)
    unknown = [name for name in names or () if name not in {one.name for one in found}]
    if unknown:
        raise Misuse(f"line {unknown[0]!r} is none of the lines of [demo]: {', '.join(one.name for one in found)}.")
    return [one for one in found if names is None or one.name in names]
