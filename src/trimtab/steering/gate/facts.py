"""The facts of one judgement: candidate, champion and rows, and the values that several checks need."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.records import GateCheck
from trimtab.core.time import DAY_US
from trimtab.stats.inference.paired import paired_mean_bound
from trimtab.stats.metrics.losses import Loss
from trimtab.steering.definitions import BeatsChampion
from trimtab.steering.gate.scales import calibration_gap
from trimtab.steering.gate.slices import Part
from trimtab.steering.gate.window import Floats, Window


class Facts(msgspec.Struct, frozen=True, kw_only=True, eq=False, dict=True):
    """What the checks of a gate read. They count in units: a unit is a row or, for a ranking, a list of rows."""

    rule: BeatsChampion  # the rules of the gate, as `stricter` returns them
    window: Window
    metric: Loss
    scores: Floats  # the scores of the candidate
    champion: str | None
    champion_scores: Floats | None
    row_parts: tuple[Part, ...]  # the slices as arrays over rows; see also `parts`
    baseline_scores: Mapping[str, Floats]
    loads: bool  # whether the stored candidate was read back and gave the same scores
    own_checks: Mapping[str, GateCheck]  # checks that were made on the stored candidate alone, by name
    candidate_note: str
    champion_note: str
    plan_note: str
    left_out_note: str
    comparisons: float  # this judgement and earlier ones on these days, each counted by its overlap
    refreshes: bool  # whether this is a scheduled refit; see `judge` in gate.py

    @property
    def compares(self) -> bool:
        """Whether the champion, or another version in its place, scored the rows."""
        return self.champion_scores is not None

    @property
    def ranks(self) -> bool:
        return self.window.lists is not None

    @cached_property
    def _units(self) -> tuple[Floats, NDArray[np.int64]]:
        return self.window.losses(self.metric, self.scores)

    @property
    def losses(self) -> Floats:
        """The candidate's loss of each unit, shape (units,)."""
        return self._units[0]

    @cached_property
    def at_us(self) -> NDArray[np.int64]:
        """The time of each unit, shape (units,)."""
        return np.asarray(self.window.at_us[self._units[1]], np.int64)

    @cached_property
    def parts(self) -> list[Part]:
        """The slices as arrays over units."""
        return [self.window.by_unit(part, self._units[1]) for part in self.row_parts]

    @cached_property
    def baseline_losses(self) -> dict[str, Floats]:
        """For each baseline, the loss of each unit, shape (units,)."""
        return {name: self.window.losses(self.metric, scores)[0] for name, scores in self.baseline_scores.items()}

    @cached_property
    def champion_losses(self) -> Floats:
        """The champion's loss of each unit, shape (units,). Only read it if the champion scored the rows."""
        assert self.champion_scores is not None  # without a champion, no check reads this
        return self.window.losses(self.metric, self.champion_scores)[0]

    @cached_property
    def differences(self) -> Floats:
        """The loss of the candidate minus the loss of the champion, shape (units,)."""
        return self.losses - self.champion_losses

    @cached_property
    def difference(self) -> tuple[float, float]:
        """The mean difference, and its one-sided upper bound at the level of the rules; see `paired_mean_bound`."""
        found = paired_mean_bound(self.differences, self.at_us // DAY_US, level=self.rule.level, side="upper")
        return found.estimate, found.high

    @cached_property
    def least_difference(self) -> float:
        """The one-sided lower bound of the mean difference at the level of the rules; see `paired_mean_bound`."""
        return paired_mean_bound(self.differences, self.at_us // DAY_US, level=self.rule.level, side="lower").low

    @cached_property
    def gap(self) -> float | None:
        """The candidate's calibration gap; None for a ranking, because its scores have no scale."""
        return None if self.ranks else calibration_gap(self.metric, self.window.labels, self.scores)
