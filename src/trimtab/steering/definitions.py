"""What people declare about the loop: when to retrain, what a candidate must prove, how a model learns."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Literal

import msgspec

from trimtab.core.errors import Misuse
from trimtab.core.hashing import content_hash
from trimtab.core.time import DAY_US, duration_us, format_duration
from trimtab.training.definitions import Model

Learn = Literal["batch", "online"]
LEAST_WINDOW_US = 7 * DAY_US  # a gate on fewer days than this has a standard error above any useful margin


class OnQualityDrop(msgspec.Struct, frozen=True, tag="on_quality_drop"):
    """Retrain when the quality alarm rings: at most one false alarm in `run_length_days` of a healthy world."""

    run_length_days: float = 1_000.0

    def __or__(self, other: Trigger | Triggers) -> Triggers:
        return Triggers((self,)) | other


class Every(msgspec.Struct, frozen=True, tag="every"):
    """Retrain when the newest training lies `period_us` back."""

    period_us: int

    def __or__(self, other: Trigger | Triggers) -> Triggers:
        return Triggers((self,)) | other


Trigger = OnQualityDrop | Every


class Triggers(msgspec.Struct, frozen=True):
    """Several triggers: any of them starts a repair; none means never."""

    any_of: tuple[Trigger, ...] = ()

    def __or__(self, other: Trigger | Triggers) -> Triggers:
        return Triggers(self.any_of + (other.any_of if isinstance(other, Triggers) else (other,)))


class BeatsChampion(msgspec.Struct, frozen=True, kw_only=True):
    """What a candidate must prove on the newest labelled window that neither model has seen."""

    margin: float = 0.0  # least improvement of the mean loss
    level: float = 0.9  # one-sided confidence that there is an improvement at all
    window_us: int = 14 * 86_400_000_000
    calibration: float = 0.03  # greatest |mean score - mean label| on the window; of numbers in sds of the labels


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """A model in service and the rules by which it is kept good. Make one with `deployment()`."""

    model: Model
    retrain: Triggers
    gate: BeatsChampion
    learn: Learn = "batch"
    cooldown_us: int = 7 * 86_400_000_000  # quiet time after a candidate; doubles with each refusal in a row
    settle_us: int = 7 * 86_400_000_000  # labelled days after the onset that a repair waits for

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def hash(self) -> str:
        """The content address of the model's recipe and of these rules."""
        rules = [self.retrain, self.gate, self.learn, self.cooldown_us, self.settle_us]
        return content_hash([self.model.hash, *rules])


_collected: ContextVar[list[Deployment] | None] = ContextVar("collected_deployments", default=None)


def collect_deployments(into: list[Deployment] | None) -> None:
    """From now on `deployment()` also appends to `into` (None: no longer): how a project file is read."""
    _collected.set(into)


def on_quality_drop(*, run_length: str | int = "1000d") -> OnQualityDrop:
    """Retrain when the quality alarm rings; `run_length` is the stated mean time between false alarms."""
    return OnQualityDrop(duration_us(run_length) / duration_us("1d"))


def every(period: str | int) -> Every:
    """Retrain `period` after the last training.

    Raises:
        Misuse: The period is shorter than a day.
    """
    period_us = duration_us(period)
    if period_us < duration_us("1d"):
        raise Misuse(f'every: {period!r} is shorter than a day. Retrain daily at most, or use learn="online".')
    return Every(period_us)


def beats_champion(
    *, margin: float = 0.0, level: float = 0.9, window: str | int = "14d", calibration: float = 0.03
) -> BeatsChampion:
    """A candidate passes when its mean loss is lower by `margin`, and provably lower at `level`.

    Args:
        margin: Least improvement of the mean loss on the window.
        level: One-sided confidence that there is an improvement at all, with days as blocks: 0.9 lets one in ten
            equal candidates through, which costs nothing and which the anchored alarm watches.
        window: The newest labelled stretch that the candidate has not seen.
        calibration: Greatest distance of mean score and mean label on the window: of probabilities as it is, of
            numbers as a share of the labels' standard deviation there.

    Raises:
        Misuse: A negative margin, a level outside (0.5, 1), or a window shorter than 7 days.
    """
    window_us = duration_us(window)
    if window_us < LEAST_WINDOW_US:
        least = format_duration(LEAST_WINDOW_US)
        raise Misuse(f"beats_champion: window={window!r} is too short to prove anything by. Give {least} or more.")
    if margin < 0 or not 0.5 < level < 1:
        raise Misuse(f"beats_champion: margin={margin}, level={level}. Needed: margin >= 0 and 0.5 < level < 1.")
    return BeatsChampion(margin=margin, level=level, window_us=window_us, calibration=calibration)


def deployment(
    model: Model,
    *,
    retrain: Trigger | Triggers | None = None,
    gate: BeatsChampion | None = None,
    learn: Learn = "batch",
    cooldown: str | int = "7d",
    settle: str | int = "7d",
) -> Deployment:
    """Put a model in service.

    Args:
        model: What answers.
        retrain: `on_quality_drop()`, `every("30d")`, or both joined by `|`; None: never.
        gate: What a candidate must prove; `beats_champion()` when left out.
        learn: "online": predict first, learn from each label as it arrives (needs `partial_fit`).
        cooldown: Quiet time after a candidate; it doubles with each refusal in a row.
        settle: How many labelled days after the beginning of a change a repair waits for.
    """
    if learn not in ("batch", "online"):
        raise Misuse(f'deployment of {model.name!r}: learn={learn!r} is neither "batch" nor "online".')
    triggers = Triggers() if retrain is None else retrain if isinstance(retrain, Triggers) else Triggers((retrain,))
    made = Deployment(
        model=model,
        retrain=triggers,
        gate=gate or BeatsChampion(),
        learn=learn,
        cooldown_us=duration_us(cooldown),
        settle_us=duration_us(settle),
    )
    collected = _collected.get()
    if collected is not None:
        collected.append(made)
    return made
