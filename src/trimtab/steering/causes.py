"""The triggers of retraining that a deployment declares. They can be joined by `|` and `&`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from trimtab.core.errors import Misuse
from trimtab.core.time import duration_us


class _Operands(msgspec.Struct, frozen=True):
    def __bool__(self) -> bool:
        raise Misuse("retrain: Python's `and`, `or` and `not` would drop a trigger. Triggers are joined by & and |.")


class _Joined(_Operands, frozen=True):
    """A trigger that can be joined with others. `a | b`: one is enough. `a & b`: both must hold at the same time."""

    def __or__(self, other: Trigger | Triggers) -> Triggers:
        return triggers_of(self) | other

    def __and__(self, other: Trigger | Triggers) -> Triggers:
        return triggers_of(self) & other


class OnQualityDrop(_Joined, frozen=True, tag="on_quality_drop"):
    """Retrain when the quality alarm rings. On average, there is at most one false alarm in `run_length_days` days."""

    run_length_days: float = 1_000.0


class OnSliceDrop(_Joined, frozen=True, tag="on_slice_drop"):
    """Retrain when a slice's quality alarm rings. Its false alarms are part of those that `OnQualityDrop` allows."""


class OnNewLabels(_Joined, frozen=True, tag="on_new_labels"):
    """Retrain when the days closed since the training of the version in service have at least `least` labels."""

    least: int


class OnEstimatedDrop(_Joined, frozen=True, tag="on_estimated_drop"):
    """Retrain when the loss that is estimated before labels come has risen."""


class OnSkew(_Joined, frozen=True, tag="on_skew"):
    """Retrain when features that were used for predictions differ from the same features computed again."""


class Every(_Joined, frozen=True, tag="every"):
    """Retrain when the training of the version in service was `period_us` ago or more."""

    period_us: int


class AllOf(_Joined, frozen=True, tag="all_of"):
    """Retrain when all of several triggers hold at the same time."""

    all_of: tuple[Single, ...]


Single: TypeAlias = OnQualityDrop | OnSliceDrop | OnEstimatedDrop | OnSkew | OnNewLabels | Every
Trigger: TypeAlias = Single | AllOf


class Triggers(_Operands, frozen=True):
    """Several triggers, each of which is enough to retrain. Without any, the model is never retrained."""

    any_of: tuple[Trigger, ...] = ()

    def __or__(self, other: Trigger | Triggers) -> Triggers:
        return Triggers(tuple(dict.fromkeys(self.any_of + triggers_of(other).any_of)))

    def __and__(self, other: Trigger | Triggers) -> Triggers:
        return Triggers(tuple(_both(one, also) for one in self.any_of for also in triggers_of(other).any_of))

    def singles(self) -> Iterator[Single]:
        """Yield all single triggers, whether they are joined by `|` or by `&`."""
        for one in self.any_of:
            yield from parts_of_trigger(one)


def parts_of_trigger(trigger: Trigger) -> tuple[Single, ...]:
    """Return the single triggers that must all hold at the same time for a trigger to hold."""
    return trigger.all_of if isinstance(trigger, AllOf) else (trigger,)


def triggers_of(given: _Joined | Triggers) -> Triggers:
    """Return a trigger as `Triggers`.

    Raises:
        Misuse: What was given is not a trigger, such as "30d" or the function `every` itself.
    """
    if isinstance(given, Triggers):
        return given
    if not isinstance(given, Single | AllOf):
        raise Misuse(
            f'retrain: {given!r} is not a trigger. Give tt.on_quality_drop(), tt.every("30d") or another trigger, or '
            "several joined by | and &."
        )
    return Triggers((given,))


def shortest_period_us(triggers: Triggers) -> int | None:
    """Return the shortest period of the schedules among the triggers; None if there is no schedule."""
    return min((one.period_us for one in triggers.singles() if isinstance(one, Every)), default=None)


def on_quality_drop(*, run_length: str | int = "1000d") -> OnQualityDrop:
    """Retrain when the quality alarm rings. On average, at least `run_length` passes until a false alarm.

    If a slice alone has raised the mean loss of all rows by a tenth or more, the alarm of the slice also counts.

    Raises:
        Misuse: `run_length` is not longer than a day.
    """
    days = duration_us(run_length) / duration_us("1d")
    if days <= 1.0:
        raise Misuse(f'on_quality_drop: run_length={run_length!r}. Give a duration longer than a day, such as "1000d".')
    return OnQualityDrop(days)


def on_slice_drop() -> OnSliceDrop:
    """Retrain when the quality alarm of a slice rings, even if the loss of all rows has not changed."""
    return OnSliceDrop()


def on_estimated_drop() -> OnEstimatedDrop:
    """Retrain when the estimated loss is provably more than a tenth above that of the reference days.

    The loss is estimated from scores and inputs before labels come, so a change of the inputs is noticed early. The
    repair still waits for labels of days after the change, and the gate decides with them. If the same inputs now lead
    to other labels, only labels show it: use `on_quality_drop()`.
    """
    return OnEstimatedDrop()


def on_skew() -> OnSkew:
    """Retrain when a skew check finds features that differ from those used for predictions, and someone must act.

    Checks are made by a service and by `trimtab quality skew`. A simulation makes none.
    """
    return OnSkew()


def on_new_labels(least: int) -> OnNewLabels:
    """Retrain when the days closed since the training of the version in service have at least `least` labels.

    Raises:
        Misuse: `least` is below 1.
    """
    if isinstance(least, bool) or not isinstance(least, int) or least < 1:
        raise Misuse(f"on_new_labels: {least!r} is not a number of labels. Give 1 or more.")
    return OnNewLabels(least)


def every(period: str | int) -> Every:
    """Retrain `period` after the training of the version in service.

    Raises:
        Misuse: The period is shorter than a day.
    """
    period_us = duration_us(period)
    if period_us < duration_us("1d"):
        raise Misuse(f'every: {period!r} is shorter than a day. Retrain daily at most, or use learn="online".')
    return Every(period_us)


def _both(one: Trigger, other: Trigger) -> AllOf:
    return AllOf(tuple(dict.fromkeys(parts_of_trigger(one) + parts_of_trigger(other))))
