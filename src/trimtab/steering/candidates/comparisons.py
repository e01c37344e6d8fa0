"""Comparisons of candidates and stored versions with the champion: on which days, and what data are missing."""

from __future__ import annotations

import msgspec
import numpy as np

from trimtab.core.errors import Corrupt, Misuse, NotFound, Unavailable
from trimtab.core.time import DAY_US
from trimtab.monitoring.inputs.red_windows import not_used_yet_us
from trimtab.monitoring.profiles.profile_store import Profiles
from trimtab.registry import Version
from trimtab.registry.protection import CHAMPION
from trimtab.steering.candidates.comparison_targets import (
    ComparisonTarget,
    TargetScores,
    champion_target,
    target_on_window,
    target_scores,
    version_target,
    with_features_of,
)
from trimtab.steering.candidates.judging import Side, among_known, finite
from trimtab.steering.candidates.plans import Plan, least_of_halves, newest_plan, onset_plan
from trimtab.steering.candidates.ports import ChampionFailed, DeploymentParts
from trimtab.steering.candidates.recipes import Floats, Recipe, Rows, stored_scores
from trimtab.steering.candidates.windows import (
    LEAST_WINDOW,
    JudgingWindow,
    day_of,
    days_of,
    enough_from,
    excluded_days,
    judging_window,
    labelled_until,
    lack_of_days,
    lack_of_labels,
    lack_of_lessons,
)
from trimtab.steering.definitions import LEAST_WINDOW_US
from trimtab.steering.gate.shadow import compared_days
from trimtab.steering.gate.window import Window
from trimtab.steering.loop_state import Changes, PairedDay
from trimtab.training.data.sets import TrainingSet


class Comparisons:
    """Finds out how candidates of one deployment can be compared with its champion."""

    def __init__(self, parts: DeploymentParts, recipe: Recipe) -> None:
        self._parts = parts
        self._deployment = parts.deployment
        self._recipe = recipe
        self._learns = parts.deployment.learn == "online"

    def champion(self) -> Version | None:
        """Return the version in service; None if there is none."""
        return self._parts.registry.alias(self._deployment.name, CHAMPION)

    def target(self, until_us: int) -> ComparisonTarget | None:
        """Return what a new candidate is compared with; None if no version can be used."""
        model, registry = self._deployment.model, self._parts.registry
        learnt_until = Profiles(self._parts.catalog, self._parts.blob, self._parts.clock).learnt_until
        return champion_target(
            registry, self.champion(), model, until_us, learns=self._learns, learnt_until=learnt_until
        )

    def target_of_stored(self, until_us: int) -> ComparisonTarget | None:
        """Return what a stored version is compared with; None if no version can be used."""
        champion = self.champion()
        if champion is None or self.target(until_us) is None:
            return None
        return version_target(self._parts.registry, champion, self._deployment.model, until_us)

    def window(self, training_set: TrainingSet, *targets: ComparisonTarget | None) -> JudgingWindow:
        """Return the newest closed days (with final labels) that have labels, and that no target has learnt from."""
        seen_us = max((one.unseen_from_us for one in targets if one is not None), default=-(2**62))
        return judging_window(training_set, self._deployment.gate.window_us, seen_us)

    def plan(self, training_set: TrainingSet, target: ComparisonTarget | None, changes: Changes) -> Plan:
        """Return the plan: which rows to learn from, and which to judge on.

        `onset_plan` is used to repair a known change of the data, and otherwise `newest_plan`. Without a target, for a
        model that learns online, and if the days since the change that are new to the target are too few for two halves
        (of labels that overlap), it is always `newest_plan`.
        """
        onset = changes.onset
        if onset is None or target is None or self._learns:
            changed = None if self._learns else changes.standing or changes.repaired
            return newest_plan(training_set, self.window(training_set, target), changed)
        since_us, label = max(onset.at_us, target.unseen_from_us), self._deployment.model.label
        days_us = max(labelled_until(training_set) - since_us, 0)
        if days_us < least_of_halves(label):
            return newest_plan(training_set, self.window(training_set, target), onset)
        window = judging_window(training_set, days_us, since_us)
        return onset_plan(training_set, window, onset, label.span_us)

    def unseen(self, cut_us: int, changes: Changes) -> str | None:
        """Return a sentence if too few days are closed since the change, or too few closed days are new to the target.

        None: there may be enough. No rows are read, so days without labels count as well.
        """
        closed_us = self._deployment.model.label.closed_until(cut_us)
        onset = changes.onset
        if onset is not None and closed_us - onset.at_us < LEAST_WINDOW_US:
            return (
                f"Only {days_of(closed_us - onset.at_us)} of closed days lie after the change of "
                f"{day_of(onset.at_us)}; {LEAST_WINDOW} are needed. There are enough from "
                f"{self._enough_from(onset.at_us)} on."
            )
        target = self.target(closed_us)
        if target is None or closed_us - target.unseen_from_us >= LEAST_WINDOW_US:
            return None
        return (
            f"Only {days_of(closed_us - target.unseen_from_us)} of closed days are new to the champion; "
            f"{LEAST_WINDOW} are needed. Keep loading requests and labels, and train again: there are enough from "
            f"{self._enough_from(target.unseen_from_us)} on.{self._other_recipe(target, closed_us)}"
        )

    def lack(self, training_set: TrainingSet, changes: Changes) -> str | None:
        """Return a sentence about the data that are missing to fit or judge a candidate; None if nothing is missing."""
        until_us, onset = labelled_until(training_set), changes.onset
        target, halves_us = self.target(until_us), least_of_halves(self._deployment.model.label)
        since_us = until_us if onset is None else onset.at_us
        is_new = target is not None and not self._learns and target.unseen_from_us <= since_us
        if onset is not None and is_new and until_us - since_us < halves_us:
            said = f"Only {days_of(until_us - since_us)} of labelled days lie after the change of {day_of(since_us)}. "
            said += f"Labels overlap, so {days_of(halves_us)} are needed. Wait for more."
            if until_us <= since_us:
                said = f"No labelled request since the change of {day_of(since_us)} can be learnt from"
                if out := excluded_days(training_set, self._deployment.name, since_us):
                    return f"{said}:{out}"
                said += ". Load requests and labels. Answers of batches about earlier times do not count as requests."
            return said + excluded_days(training_set, self._deployment.name)
        return self.lack_of(training_set, self.plan(training_set, target, changes).window, target)

    def lack_of(self, training_set: TrainingSet, window: JudgingWindow, target: ComparisonTarget | None) -> str | None:
        """Return a sentence like `lack`, for a given window and target."""
        lack = self._lack_of(training_set, window, target)
        return lack if lack is None else lack + excluded_days(training_set, self._deployment.name)

    def _lack_of(self, training_set: TrainingSet, window: JudgingWindow, target: ComparisonTarget | None) -> str | None:
        model, seen = self._deployment.model, ""
        if target is not None:
            seen = f", and the champion has learnt all that was known at {day_of(target.version.cut_us)}"
        lack = lack_of_days(training_set, window, seen)
        if lack is not None:
            return lack if target is None else lack + self._other_recipe(target, labelled_until(training_set))
        lack = lack_of_lessons(model, window)
        # if all labels are equal, the fit reports this, with a better message
        if lack is None and np.unique(training_set.target[window.before]).size > 1:
            return lack_of_labels(model, training_set, window)
        return lack

    def lack_to_judge(
        self, training_set: TrainingSet, window: JudgingWindow, own: ComparisonTarget, target: ComparisonTarget | None
    ) -> str | None:
        """Return a sentence about the data that are missing to judge a stored version; None if nothing is missing."""
        model = self._deployment.model
        newer = own if target is None or own.unseen_from_us >= target.unseen_from_us else target
        known_us = model.label.final_at(newer.unseen_from_us - model.label.span_us)
        seen = f", and {newer.version.name} may have seen all that was known at {day_of(known_us)}"
        lack = lack_of_days(training_set, window, seen if newer.unseen_from_us >= window.start_us else "")
        if lack is None:
            return lack_of_labels(model, training_set, window)
        if training_set.usable.any() and newer.unseen_from_us >= window.start_us:
            lack += f" There are enough from {self._enough_from(newer.unseen_from_us)} on."
            if newer is own and own.version.imported is not None:
                lack += " That version was imported: if its training data ended earlier, give --seen-until TIME."
        return lack

    def answered(
        self, target: ComparisonTarget | None, training_set: TrainingSet, window: JudgingWindow
    ) -> TargetScores:
        """Return the target's scores of the window; without a target, a result without scores."""
        if target is None:
            champion = self.champion()
            other = "" if champion is None else f"Nothing was compared with {champion.name}, which has another task "
            return TargetScores(None, other and f"{other}and is judged by {champion and champion.metric}.")
        found = target_scores(self._parts, self._recipe, target, training_set, window.rows)
        if found.scores is not None:
            finite(found.scores, target.version)
        return found

    def answered_on(self, target: ComparisonTarget | None, training_set: TrainingSet, plan: Plan) -> TargetScores:
        """Return what the candidates of a plan are compared with: the target's scores of the plan's longest window.

        If the target learnt from labels that were not final when the window began, the candidate that it is a refit of
        gives the scores. With folds this is not needed, because each new fit learns from days of the window. # D0214
        """
        if target is not None and not plan.folds[1:] and not self._learns:
            target = target_on_window(self._parts, target, plan.window.start_us)
        return self.answered(target, training_set, plan.window)

    def paired_days(self, version: str, champion: str, since_us: int, cut_us: int) -> tuple[tuple[PairedDay, ...], int]:
        """Compare a version and the champion (their ids) day by day; see `Candidates.shadow_days`."""
        model = self._deployment.model
        try:
            # a list with rows on the first of these days may have begun on the day before
            since_or_lists_us = since_us if model.group is None else since_us - DAY_US
            training_set = self._parts.data.training_set(model, cut_us=cut_us, since_us=since_or_lists_us, answers=True)
        except NotFound:  # no request came since then
            return (), since_us
        too_new_us = [one.start_us for one in training_set.manifest.left_out or () if one.end_us is None]
        closed_us = model.label.closed_until(training_set.manifest.complete_us or cut_us)
        until_us = min([closed_us, *too_new_us]) // DAY_US * DAY_US
        begun_us = training_set.begun_us
        rows = training_set.usable & (begun_us >= since_us) & (begun_us < until_us)
        if not rows.any():
            return (), max(since_us, until_us)
        own = self._scores_of(version, since_us, training_set, rows)
        try:
            other = self._scores_of(champion, since_us, training_set, rows)
        except (Corrupt, Misuse, NotFound) as error:
            raise ChampionFailed(f"The version in service cannot answer: {error}") from error
        known, own = among_known(own, other, training_set.target[rows])
        rows[rows] = known
        window = Window(since_us, until_us, begun_us[rows], training_set.target[rows], training_set.lists_of(rows))
        return compared_days(model.metric, window, own, other[known]), until_us

    def _scores_of(self, address: str, unseen_from_us: int, training_set: TrainingSet, rows: Rows) -> Floats:
        """Return the scores that a version gives to some rows, from its own features."""
        target = ComparisonTarget(self._parts.registry.get(address), unseen_from_us)
        found = target_scores(self._parts, self._recipe, target, training_set, rows)
        if found.scores is None:
            raise Misuse(found.note)
        return finite(found.scores, target.version)

    def stored_side(
        self, version: Version, own: ComparisonTarget, training_set: TrainingSet, window: JudgingWindow
    ) -> Side:
        """Return a stored version with its scores of the window's rows, and the features that it reads."""
        model = self._deployment.model
        try:
            loaded = self._parts.registry.load(own.version)
            rows = with_features_of(loaded, self._parts.data, model, training_set, window.rows)
            scores = stored_scores(self._recipe, loaded, rows, model)
        except (Misuse, NotFound) as error:
            raise Misuse(f"promote {version.name}: the version cannot score the days to judge on: {error}") from error
        return Side(own.version, finite(scores, own.version), rows.features.values, version, own.note)

    def refreshes(
        self, changes: Changes, target: ComparisonTarget | None, answered: TargetScores, window: JudgingWindow
    ) -> bool:
        """Return whether the candidate is a scheduled refit of the recipe in service (definition and way of fitting).

        A refit after a known change of the data does not count as scheduled. Nor does one after a person rolled back,
        until no day of the window is older: that version was not chosen for the days before. If the gate declares
        `prove_refreshes`, no refit counts as scheduled.
        """
        if not changes.refreshes or changes.onset is not None or target is None or answered.scores is None:
            return False
        move = self._parts.registry.aliases(self._deployment.name)[CHAMPION]
        by_hand = move.act == "roll_back" and move.actor != "policy"
        proves = self._deployment.gate.prove_refreshes is True or (by_hand and window.start_us < move.at_us)
        return target.version.recipe == self._deployment.model.hash and not proves

    def adds_classes(self, target: ComparisonTarget | None) -> bool:
        """Return whether the model declares classes that were not declared when the target was fitted."""
        known = () if target is None else self._parts.registry.load(target.version).artifact.class_names
        return not {*known} >= {*self._deployment.model.label.class_names}

    def searchable(self, cut_us: int) -> tuple[TrainingSet, Rows, int]:
        """Return the training set at a cut (a time), the rows that a search of parameters may use, and the time by
        which all labels of these rows were final.

        These are the rows that a first candidate would be fitted on. No gate after this cut judges on any of them.

        Raises:
            Unavailable: There are too few of these rows.
        """
        training_set = self._parts.data.training_set(self._deployment.model, cut_us=cut_us)
        window = msgspec.structs.replace(self.window(training_set, None), judged=False)
        lack = self.lack_of(training_set, window, None)
        if lack is not None:
            raise Unavailable(f"search of {self._deployment.name!r}: {lack}")
        return training_set, window.before, window.start_us

    def _enough_from(self, unseen_from_us: int) -> str:
        """Return as text the first day on which enough days since `unseen_from_us` are closed and used."""
        model = self._deployment.model
        return enough_from(unseen_from_us + not_used_yet_us(self._parts.catalog, model), model.label)

    def _other_recipe(self, target: ComparisonTarget, until_us: int) -> str:
        """Return a sentence (after a space) that another recipe can be judged now; "" if none can.

        It would be compared with the candidate of which the champion is a refit, and which has not seen these days.
        """
        model, version = self._deployment.model, target.version
        if self._learns or version.recipe != model.hash:
            return ""
        other = version_target(self._parts.registry, version, model, until_us)
        if until_us - other.unseen_from_us < LEAST_WINDOW_US:
            return ""
        return " Another estimator, other parameters or other features can be judged now."
