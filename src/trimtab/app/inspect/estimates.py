"""The loss of the newest days, estimated before their labels come, for the status and the pages."""

from __future__ import annotations

from trimtab.app.system import System
from trimtab.core.shown import count_of
from trimtab.core.time import DAY_US, format_time
from trimtab.monitoring.inputs.input_state import KIND, InputWatch
from trimtab.monitoring.quality.loss_estimates import EstimatedDays, has_estimate, loss_estimate
from trimtab.registry.protection import CHAMPION
from trimtab.steering.definitions import Deployment
from trimtab.steering.loop.triggering import declares
from trimtab.store.ports import read_record

_STALE_US = 3 * DAY_US
_MANY = 0.05  # a larger share of rows without an estimate is shown


def estimated_days(system: System, model: str) -> EstimatedDays | None:
    """Return the estimated losses of the version in service; None if there are none."""
    watch = read_record(system.state.catalog, KIND, model, InputWatch)
    version = system.registry.alias(model, CHAMPION)
    found = None if watch is None else watch.estimated
    return found if found is not None and version is not None and found.watch.version == version.id else None


def daily_estimates(found: EstimatedDays) -> list[tuple[int, float]]:
    """Return for each day that is over and has an estimate its beginning and its mean estimated loss."""
    last_us = found.watch.last_day_us
    over = [day for day in found.days if last_us is not None and day.day_us <= last_us]
    return [(day.day_us, day.capped_loss_sum / day.labelled) for day in over if has_estimate(day)]


def newest_estimate(found: EstimatedDays, now_us: int) -> float | None:
    """Return the mean estimated loss of the newest day that is over; None if it has none, or began over 3 days ago."""
    days = daily_estimates(found)
    return days[-1][1] if days and now_us - days[-1][0] <= _STALE_US else None


def estimate_in_words(system: System, deployment: Deployment, now_us: int) -> str | None:
    """Describe the estimated loss of the newest day; None if the losses of the version are not estimated."""
    found = estimated_days(system, deployment.name)
    if found is None and declares(deployment, "estimate"):
        version = system.registry.alias(deployment.name, CHAMPION)
        if version is not None and loss_estimate(system.state.catalog, version.id) is None:
            return "no estimate of the loss: the version has too few labelled reference rows, or was imported"
    if found is None or not found.days:
        return None
    newest = next((day for day in reversed(found.days) if day.day_us + DAY_US <= now_us), None)
    if newest is None:
        return None
    day, usual = format_time(newest.day_us)[:10], found.watch.reference_loss or 0.0
    if now_us - newest.day_us > _STALE_US:
        return f"no estimate of the loss since {day}: there were no requests, or inputs are red"
    if not has_estimate(newest):
        outside = newest.missing / newest.predictions
        return f"no estimate of the loss on {day}: {outside:.0%} of the rows are unlike those it learnt from"
    waiting = (now_us - deployment.model.label.final_until(now_us)) // DAY_US
    labels = f"; labels of {count_of(waiting, 'day')} are still to come" if waiting else ""
    watched = "" if found.watch.figures else "; not watched: there are too few days to compare with"
    value, outside = newest.capped_loss_sum / newest.labelled, newest.missing / newest.predictions
    left_out = f"; {outside:.0%} of the rows are left out, which are unlike those it learnt from"
    left_out = left_out if outside >= _MANY else ""
    return f"estimated loss on {day}: {value:.3g} (usual {usual:.3g}{labels}{watched}{left_out})"
