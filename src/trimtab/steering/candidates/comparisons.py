"""Whom a candidate or a stored version is compared with, on which days, and what is missing for that."""

from __future__ import annotations

import msgspec
import numpy as np

from trimtab.core.errors import Corrupt, Misuse, NotFound, Unavailable
from trimtab.core.time import DAY_US
from trimtab.registry import Registry, Version
from trimtab.registry.protection import CHAMPION
from trimtab.steering.candidates.comparison_targets import (
    Answered,
    ComparisonTarget,
    asked_of_version,
    find_rival,
    rival_answers,
    who_answers,
)
from trimtab.steering.candidates.judging import Side, finite
from trimtab.steering.candidates.ports import ChampionFailed, TrainingData
from trimtab.steering.candidates.recipes import Floats, Recipe, Rows, stored_scores
from trimtab.steering.candidates.shadowing import compared_days
from trimtab.steering.candidates.windows import (
    LEAST_WINDOW,
    Stretch,
    day_of,
    days_of,
    enough_from,
    labelled_until,
    lack_of_days,
    lack_of_labels,
    lack_of_lessons,
    stretch_of,
)
from trimtab.steering.definitions import LEAST_WINDOW_US, Deployment
from trimtab.steering.gate.window import Window
from trimtab.steering.loop_state import Changes, PairedDay, Repair
from trimtab.training.data.sets import TrainingSet


class Comparisons:
    """Finds who answers for the version in service, and what cannot be compared for want of days or labels.

    Args:
        deployment: The rules.
        recipe: How its model is asked.
        data: Gives the rows of a shadow, and the features of versions that have others.
        registry: Has the versions and their gate records.
    """

    def __init__(self, deployment: Deployment, recipe: Recipe, data: TrainingData, registry: Registry) -> None:
        self._deployment = deployment
        self._recipe = recipe
        self._data = data
        self._registry = registry

    def champion(self) -> Version | None:
        """The version in service."""
        return self._registry.alias(self._deployment.name, CHAMPION)

    def unseen(self, cut_us: int, changes: Changes) -> str | None:
        """Why the closed days do not suffice, whatever their labels; None when they may. It costs next to nothing."""
        closed_us = self._deployment.model.label.closed_until(cut_us)
        onset = changes.onset
        if onset is not None and closed_us - onset.at_us < LEAST_WINDOW_US:
            enough = enough_from(onset.at_us, self._deployment.model.label)
            return (
                f"Only {days_of(closed_us - onset.at_us)} of closed days since the change of {day_of(onset.at_us)}; "
                f"needed are {LEAST_WINDOW}. From {enough} on there are enough."
            )
        rival = self.rival(closed_us)
        if rival is None or closed_us - rival.unseen_from_us >= LEAST_WINDOW_US:
            return None
        enough = enough_from(rival.unseen_from_us, self._deployment.model.label)
        return (
            f"Only {days_of(closed_us - rival.unseen_from_us)} of closed days are unseen by the champion; needed are "
            f"{LEAST_WINDOW}. Keep loading requests and labels, and train again: from {enough} on there are enough."
            f"{self._other_recipe(rival, closed_us)}"
        )

    def rival(self, until_us: int) -> ComparisonTarget | None:
        """Who answers for the version in service against a new candidate; None where nobody can."""
        learns = self._deployment.learn == "online"
        return find_rival(self._registry, self.champion(), self._deployment.model, until_us, learns=learns)

    def stand_in(self, until_us: int) -> ComparisonTarget | None:
        """Who answers for the version in service where a stored one is judged; None where nobody can."""
        rival = self.rival(until_us)
        if rival is None:
            return None
        champion = self.champion()
        assert champion is not None  # somebody answers for it
        return who_answers(self._registry, champion, self._deployment.model, until_us)

    def stretch(self, training_set: TrainingSet, *rivals: ComparisonTarget | None) -> Stretch:
        """The newest closed days that have labels, as far as none of the rivals has learnt from them."""
        seen_us = max((rival.unseen_from_us for rival in rivals if rival is not None), default=-(2**62))
        return stretch_of(training_set, self._deployment.gate.window_us, seen_us)

    def lack(self, training_set: TrainingSet, stretch: Stretch, rival: ComparisonTarget | None) -> str | None:
        """What a candidate cannot be fitted or judged without, in one sentence; None when nothing is missing."""
        model, seen = self._deployment.model, ""
        if rival is not None:
            seen = f", the champion has learnt all that was known at {day_of(rival.version.cut_us)}"
        lack = lack_of_days(training_set, stretch, seen)
        if lack is not None:
            return lack if rival is None else lack + self._other_recipe(rival, labelled_until(training_set))
        lack = lack_of_lessons(model, stretch)
        if lack is None and np.unique(training_set.target[stretch.before]).size > 1:  # of one value a fit says more
            return lack_of_labels(model, training_set, stretch)
        return lack

    def lack_to_judge(
        self, training_set: TrainingSet, stretch: Stretch, asked: ComparisonTarget, rival: ComparisonTarget | None
    ) -> str | None:
        """What a stored version cannot be judged without, in one sentence; None when nothing is missing."""
        model = self._deployment.model
        newer = asked if rival is None or asked.unseen_from_us >= rival.unseen_from_us else rival
        known_us = model.label.final_at(newer.unseen_from_us)
        seen = f", {newer.version.name} may have seen all that was known at {day_of(known_us)}"
        lack = lack_of_days(training_set, stretch, seen if newer.unseen_from_us >= stretch.start_us else "")
        if lack is None:
            return lack_of_labels(model, training_set, stretch)
        if training_set.usable.any() and newer.unseen_from_us >= stretch.start_us:
            lack += f" From {enough_from(newer.unseen_from_us, model.label)} on there are enough."
            if newer is asked and asked.version.imported is not None:
                lack += " It was made elsewhere: if it has seen less, say until when (--seen-until TIME)."
        return lack

    def answered(self, rival: ComparisonTarget | None, training_set: TrainingSet, stretch: Stretch) -> Answered:
        """What the rival answered on the window; no scores where there is nobody to compare with."""
        if rival is None:
            champion = self.champion()
            other = "" if champion is None else f"{champion.name} answers another kind of question, judged by "
            return Answered(None, other and f"{other}{champion and champion.metric}: nothing was compared.")
        model = self._deployment.model
        found = rival_answers(self._registry, self._recipe, self._data, rival, model, training_set, stretch.rows)
        if found.scores is not None:
            finite(found.scores, rival.version)
        return found

    def paired_days(self, repair: Repair, since_us: int, cut_us: int) -> tuple[tuple[PairedDay, ...], int]:
        """See `Workshop.shadow_days`."""
        model = self._deployment.model
        assert repair.successor is not None  # it is in its shadow
        assert repair.gate.champion is not None  # and compared with this
        try:
            since_or_lists_us = since_us if model.group is None else since_us - DAY_US  # a list may have begun before
            training_set = self._data.training_set(model, cut_us=cut_us, since_us=since_or_lists_us, answers=True)
        except NotFound:  # nothing was asked
            return (), since_us
        too_new_us = [one.start_us for one in training_set.manifest.left_out or () if one.end_us is None]
        until_us = min([model.label.closed_until(cut_us), *too_new_us]) // DAY_US * DAY_US
        begun_us = training_set.begun_us
        rows = training_set.usable & (begun_us >= since_us) & (begun_us < until_us)
        if not rows.any():
            return (), max(since_us, until_us)
        own = self._scores_of(repair.successor, since_us, training_set, rows)
        try:
            other = self._scores_of(repair.gate.champion, since_us, training_set, rows)
        except (Corrupt, Misuse, NotFound) as error:
            raise ChampionFailed(f"The version in service cannot answer: {error}") from error
        lists = training_set.lists_of(rows)
        window = Window(since_us, until_us, begun_us[rows], training_set.target[rows], lists)
        return compared_days(model.metric, window, own, other), until_us

    def _scores_of(self, address: str, unseen_from_us: int, training_set: TrainingSet, rows: Rows) -> Floats:
        """What a version answers to some rows, from its own features.

        Raises:
            Misuse: It cannot be asked.
        """
        rival = ComparisonTarget(self._registry.get(address), unseen_from_us)
        model = self._deployment.model
        found = rival_answers(self._registry, self._recipe, self._data, rival, model, training_set, rows)
        if found.scores is None:
            raise Misuse(found.said)
        return finite(found.scores, rival.version)

    def stored_side(
        self, version: Version, asked: ComparisonTarget, training_set: TrainingSet, stretch: Stretch
    ) -> Side:
        """What a stored version answers to the window's rows, with the features that it reads."""
        model = self._deployment.model
        try:
            loaded = self._registry.load(asked.version)
            own = asked_of_version(loaded, self._data, model, training_set, stretch.rows)
            scores = stored_scores(self._recipe, loaded, own, model)
        except (Misuse, NotFound) as error:
            raise Misuse(f"promote {version.name}: it cannot be asked: {error}") from error
        return Side(asked.version, finite(scores, asked.version), own.features.values, version, asked.said)

    def refreshes(self, changes: Changes, rival: ComparisonTarget | None, answered: Answered) -> bool:
        """Whether the candidate has the recipe of the version in service, and only time has asked for it."""
        if not changes.refreshes or changes.onset is not None or rival is None or answered.scores is None:
            return False
        same = rival.version.recipe == self._deployment.model.hash
        return same and self._deployment.gate.prove_refreshes is msgspec.UNSET

    def searchable(self, cut_us: int) -> tuple[TrainingSet, Rows, int]:
        """The set of a cut, which of its rows a search may see, and by when all of their labels were known.

        They are those that a first candidate would be fitted on: no gate from this cut on judges on any of them.

        Raises:
            Unavailable: There are too few.
        """
        training_set = self._data.training_set(self._deployment.model, cut_us=cut_us)
        stretch = msgspec.structs.replace(self.stretch(training_set, None), judged=False)
        lack = self.lack(training_set, stretch, None)
        if lack is not None:
            raise Unavailable(f"search of {self._deployment.name!r}: {lack}")
        return training_set, stretch.before, stretch.start_us

    def _other_recipe(self, rival: ComparisonTarget, until_us: int) -> str:
        """What can be judged although the champion has seen the days, as a sentence with a blank before it."""
        model, version = self._deployment.model, rival.version
        if self._deployment.learn == "online" or version.recipe != model.hash:
            return ""
        other = who_answers(self._registry, version, model, until_us)
        if until_us - other.unseen_from_us < LEAST_WINDOW_US:
            return ""
        return " Another estimator, other parameters or other features can be judged now."
