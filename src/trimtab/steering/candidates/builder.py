"""Where candidates are made: pinned set, candidate, gate, refit, registration, promotion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from trimtab.core.clock import Clock
from trimtab.core.errors import Corrupt, Misuse, NotFound, Unavailable
from trimtab.core.ids import Ids
from trimtab.feedback import LabelReader
from trimtab.registry import Registry, Version
from trimtab.registry.loading import lost_artifact
from trimtab.registry.protection import CHAMPION
from trimtab.run import AtOnce, Codec
from trimtab.serving.arms.arms import CANARY, SHADOW
from trimtab.steering.candidates.comparison_targets import (
    Answered,
    ComparisonTarget,
    who_answers,
)
from trimtab.steering.candidates.comparisons import Comparisons
from trimtab.steering.candidates.judging import Case, Judge, Side, finite
from trimtab.steering.candidates.plans import Made, Plan, Source, newest_plan, of_window, onset_plan, plan_in_words
from trimtab.steering.candidates.ports import Stored, TrainingData
from trimtab.steering.candidates.recipes import Floats, Recipe, Rows
from trimtab.steering.candidates.references import (
    AS_NEW_US,
    Answers,
    Reference,
    healthy_reference,
    refit_allowance,
    request_slices,
    walk_forward_rows,
)
from trimtab.steering.candidates.shadowing import hopeless
from trimtab.steering.candidates.stored import (
    GATE,
    TEXT,
    Recording,
    address_of_rows,
    address_of_scores,
    address_of_set,
    digest_codec,
    discard_set,
    fit_codec,
    set_codec,
)
from trimtab.steering.candidates.windows import (
    Stretch,
    labelled_until,
    rows_left_out,
    stretch_of,
    unseen_from,
)
from trimtab.steering.definitions import Deployment
from trimtab.steering.gate.version_checks import Proving
from trimtab.steering.loop_state import Changes, PairedDay, Repair
from trimtab.store.ports import Blob
from trimtab.training.data.sets import TrainingSet, load_manifest, load_training_set, save_training_set
from trimtab.training.fitting.fitted import Fitted

T = TypeVar("T")


class CandidateBuilder:
    """Makes and judges versions of one deployment, and registers them.

    The gate judges a recipe: candidate A, fitted on what was known when the window began, on the window. What goes in
    service is R, the same recipe fitted on the window too, with a pointer to A.

    Args:
        deployment: The rules.
        recipe: How its model is fitted and asked.
        data: Gives training sets.
        labels: Finds labels as they stood when a day was closed, as for live days.
        registry: Where versions and gate records go.
        blob: Where training sets go.
        clock: The moment of judging.
        ids: Names gate records.
        save: Stores a training set of which a version was made.
        evaluates: Whether candidates get an evaluation for their report.
        recording: How the steps are done, so that none is done twice; left out, nothing is recorded.
        proving: How a candidate is tried in a new process and timed; left out (in virtual time), it is not.
        profile: Makes the input profile of a version that may go in service; left out, it is made when needed.
    """

    def __init__(
        self,
        deployment: Deployment,
        recipe: Recipe,
        data: TrainingData,
        labels: LabelReader,
        registry: Registry,
        blob: Blob,
        *,
        clock: Clock,
        ids: Ids,
        save: Callable[[TrainingSet, Blob], str] = save_training_set,
        evaluates: bool = True,
        recording: Recording | None = None,
        proving: Proving | None = None,
        profile: Callable[[Version, TrainingSet], object] | None = None,
    ) -> None:
        self._profile = profile
        self._recording = recording or Recording()
        self._steps = self._recording.steps
        self._deployment = deployment
        self._recipe = recipe
        self._data = data
        self._registry = registry
        self._blob = blob
        self._save = save
        self._evaluates = evaluates
        self._labels = labels
        self._compared = Comparisons(deployment, recipe, data, registry)
        self._judge = Judge(deployment, registry, clock=clock, ids=ids, proving=proving)
        self._fits = 0  # of the newest repair
        self._kept: tuple[int, TrainingSet] | None = None  # from `blocked` to `repair` of the same cut

    def champion(self) -> str | None:
        version = self._compared.champion()
        return None if version is None else version.id

    def arms(self) -> dict[str, str]:
        """The versions that answer beside the one in service, by arm."""
        found = self._registry.aliases(self._deployment.name)
        return {arm: found[arm].version for arm in (CANARY, SHADOW) if arm in found}

    def unseen(self, cut_us: int, changes: Changes) -> str | None:
        """Why the closed days do not suffice, whatever their labels; None when they may. It costs next to nothing."""
        return self._compared.unseen(cut_us, changes)

    def blocked(self, cut_us: int, changes: Changes) -> str | None:
        lack = self.unseen(cut_us, changes)
        if lack is not None:
            return lack
        try:
            self._kept = (cut_us, self._snapshot(cut_us, lambda training_set: self._check(training_set, changes)))
        except _Lack as found:
            self._kept = None
            return str(found)
        return None

    def same(self, cut_us: int) -> Version | None:
        """The version in service, if to train anew would give it again: the same data, code and seed.

        Where its artifact is lost, it is fitted again, which puts the same bytes back.
        """
        model, champion = self._deployment.model, self._compared.champion()
        if champion is None or champion.recipe != model.hash:
            return None
        try:
            training_set = self._snapshot(cut_us, self._check_of(champion))
        except (NotFound, _Lack):
            return None
        if self._lost(champion) and self._fit("refit", training_set, training_set.usable).digest != champion.artifact:
            return None
        return champion

    def put_back(self) -> None:
        """Where the artifact of the version in service is lost, fit it again on the set that it was made of."""
        model, champion = self._deployment.model, self._compared.champion()
        if champion is None or champion.recipe != model.hash or not self._lost(champion):
            return
        try:
            training_set = load_training_set(champion.training_set, self._blob, key=model.request.key)
        except (NotFound, Corrupt):
            return  # it is lost too, or was never stored with its rows
        self._fit("refit", training_set, training_set.usable)

    def lost(self) -> bool:
        """Whether the artifact of the version in service is missing or damaged."""
        champion = self._compared.champion()
        return champion is not None and self._lost(champion)

    def repair(self, cut_us: int, go_on: Callable[[], None], changes: Changes, actor: str | None = None) -> Repair:
        """See `Workshop.repair`; `actor` asked for the versions, left out, the registry's."""
        model = self._deployment.model
        self._fits = 0
        kept, self._kept = self._kept, None
        training_set = kept[1] if kept is not None and kept[0] == cut_us else self._snapshot(cut_us)
        rival = self._compared.rival(labelled_until(training_set))
        plan = self._plan(training_set, rival, changes)
        lack = self._compared.lack(training_set, plan.window, rival)
        if lack is not None:
            raise Misuse(f"repair of {model.name!r}: {lack}")
        try:
            made = self._made(training_set, plan)
        except Misuse:
            if not isinstance(self._steps, AtOnce):  # the set was stored for nothing
                discard_set(training_set, self._blob, self._registry.versions(model.name))
            raise
        answered = self._compared.answered(rival, training_set, plan.window)
        best, window = self._judge.best(training_set, plan, made, answered)
        if answered.scores is not None:
            answered = Answered(of_window(answered.scores, plan, window), answered.said)
        go_on()
        manifest = self._save(training_set, self._blob)
        judged = self._registry.register(
            best.candidate,
            training_set=manifest,
            evaluation=self._evaluation(best.candidate, training_set, plan.folds[0], window, answered.scores),
            actor=actor,
        )
        scores = finite(of_window(best.scores, plan, window), judged)
        said = plan_in_words(plan, best.source, window)
        folds = tuple((fold, plan.learnt(best.source, fold)) for fold in plan.folds) if plan.folds[1:] else ()
        refreshes = self._compared.refreshes(changes, rival, answered)
        case = Case(training_set, window, answered, plan.choices, folds, said, refreshes)
        side = Side(judged, scores, training_set.features.values.take(window.rows), judged)
        gate = self._steps.do(
            "judge",
            lambda: [self._recording.code(), *self._judge.depends_on(side, case)],
            lambda: self._judge.record(side, case),
            GATE,
        )
        self._registry.put_gate(gate)
        successor, reason, cap = None, gate.reason, self._judge.cap(scores, case)
        gate_days = self._judge.paired_days(scores, case)
        allowance, name = {}, ""
        earlier: list[Answers] = []
        if gate.passed:
            refit = self._fit("refit", training_set, best.source.refit, best.source.half_life_us)
            again = self._recipe.candidate_scores(refit, training_set, window.rows)
            reason = (
                self._judge.too_far(again, scores, case)
                or hopeless(self._deployment.rollout, gate_days, stood_in=bool(answered.said))
                or gate.reason
            )
            if reason == gate.reason:
                allowance = refit_allowance(model.metric, scores, again, cap)
                earlier = self._earlier(training_set, plan, window, best.source, rival)
                successor = self._steps.do(
                    "register",
                    None,
                    lambda: self._registry.register(refit, training_set=manifest, refit_of=judged.id, actor=actor).id,
                    TEXT,
                )
                version = self._registry.get(successor)
                name = version.name
                if self._profile is not None:
                    self._profile(version, training_set)
        answers = [*earlier, Answers(window.rows, scores)]
        reference = self._reference(judged, case, answers, cap, slices=successor is not None)
        return Repair(
            candidate=judged.id,
            gate=gate,
            successor=successor,
            reason=reason,
            reference=reference.days,
            slices=reference.slices,
            allowance=allowance,
            name=name,
            cut_us=cut_us,
            rows=best.candidate.rows,
            data_hash=training_set.manifest.data_hash,
            loss_cap=cap,
            left_out=rows_left_out(training_set),
            fits=self._fits,
            unseen_from_us=unseen_from(training_set),
            gate_days=gate_days,
            stood_in=bool(answered.said),
        )

    def _reference(
        self, version: Version, case: Case, answered: list[Answers], cap: float, *, slices: bool = True
    ) -> Reference:
        """Healthy days of a version, from answers of its recipe to rows that it had not learnt."""
        model, parts = self._deployment.model, request_slices(self._deployment) if slices else ()
        return healthy_reference(model, version.id, case.training_set, answered, self._labels, cap=cap, slices=parts)

    def _earlier(
        self, training_set: TrainingSet, plan: Plan, window: Stretch, source: Source, rival: ComparisonTarget | None
    ) -> list[Answers]:
        """Answers to the days before the window that complete the reference.

        They are of a fit on what was before, or of the version in service where that was fitted not long before.
        """
        if plan.folds[1:] or self._deployment.learn == "online":  # days before a change are no reference after it
            return []
        found = walk_forward_rows(training_set, window)
        if found is None:
            return []
        learnt, judged = found
        begins_us = int(training_set.at_us[judged].min())
        if (
            rival is not None
            and rival.version.recipe == self._deployment.model.hash
            and rival.unseen_from_us <= begins_us < rival.unseen_from_us + AS_NEW_US
        ):
            scores = self._compared.answered(rival, training_set, msgspec.structs.replace(window, rows=judged)).scores
            return [] if scores is None else [Answers(judged, scores)]
        try:
            fitted = self._fit("walk forward", training_set, learnt, source.half_life_us)
            scores = self._recipe.candidate_scores(fitted, training_set, judged)
        except Misuse:  # too little for this recipe: the reference stays short, and the watch says so
            return []
        return [Answers(judged, scores)] if np.isfinite(scores).all() else []

    def _plan(self, training_set: TrainingSet, rival: ComparisonTarget | None, changes: Changes) -> Plan:
        """What is learnt from and judged on; a model that learns as it answers is judged by what it answered."""
        onset, learns = changes.onset, self._deployment.learn == "online"
        if onset is None or rival is None or learns:
            since_us = None if learns or changes.repaired is None else changes.repaired.at_us
            return newest_plan(training_set, self._compared.stretch(training_set, rival), since_us)
        since_us = max(onset.at_us, rival.unseen_from_us)
        days_us = max(labelled_until(training_set) - since_us, 0)
        return onset_plan(training_set, stretch_of(training_set, days_us, since_us), onset)

    def _made(self, training_set: TrainingSet, plan: Plan) -> list[Made]:
        """What each source of a plan gives; those of which no candidate can be made are left out, but not the first.

        Raises:
            Misuse: No candidate can be made of the first one.
        """
        made: list[Made] = []
        for source in plan.sources:
            try:
                fits = [
                    self._fit("fit", training_set, plan.learnt(source, fold), source.half_life_us)
                    for fold in plan.folds
                ]
                answers = [
                    self._recipe.candidate_scores(fitted, training_set, fold)
                    for fitted, fold in zip(fits, plan.folds, strict=True)
                ]
            except Misuse:
                if not made:
                    raise
            else:
                made.append(Made(source, fits[0], plan.assembled(answers)))
        return made

    def judge_stored(self, stored: Stored, cut_us: int, *, keep: bool = True) -> Repair:
        """Judge a stored version against the champion on the newest window that neither has seen. # D88

        Raises:
            Unavailable: There is no such window yet, or its labels tell nothing.
            Misuse: It cannot be loaded here, foretells another thing, or its features cannot be computed any more.
            Corrupt: What is stored of it is damaged.
        """
        model, version = self._deployment.model, self._registry.get(stored.version)
        self._registry.load(version)  # before anything that takes long
        training_set = self._done("data", lambda: self._data.training_set(model, cut_us=cut_us))
        until_us = labelled_until(training_set)
        asked = who_answers(self._registry, version, model, until_us, seen_until_us=stored.seen_until_us)
        rival = self._compared.stand_in(until_us)
        stretch = self._compared.stretch(training_set, asked, rival)
        lack = self._compared.lack_to_judge(training_set, stretch, asked, rival)
        if lack is not None:
            raise Unavailable(f"promote {version.name}: {lack}")
        side = self._done("answer", lambda: self._compared.stored_side(version, asked, training_set, stretch))
        answered, scores = self._compared.answered(rival, training_set, stretch), side.scores
        case = Case(training_set, stretch, answered)
        gate = self._done("judge", lambda: self._judge.record(side, case))
        if keep:
            self._registry.put_gate(gate)
        cap = self._judge.cap(scores, case)
        reference = self._reference(version, case, [Answers(stretch.rows, scores)], cap)
        gate_days = self._judge.paired_days(scores, case)
        unseen = hopeless(self._deployment.rollout, gate_days, stood_in=bool(answered.said)) if gate.passed else None
        return Repair(
            candidate=asked.version.id,
            gate=gate,
            successor=version.id if gate.passed and unseen is None else None,
            reason=unseen or gate.reason,
            unseen_from_us=unseen_from(training_set),
            gate_days=gate_days,
            stood_in=bool(answered.said),
            reference=reference.days,
            slices=reference.slices,
            name=version.name,
            cut_us=cut_us,
            rows=version.rows,
            data_hash=training_set.manifest.data_hash,
            loss_cap=cap,
            trained_us=self._registry.as_known(version).cut_us
            if stored.seen_until_us is None
            else stored.seen_until_us,
        )

    def promote(self, repair: Repair, why: str, actor: str | None = None) -> str | None:
        assert repair.successor is not None  # the controller promotes only what passed
        return self._registry.move(
            self._deployment.name, CHAMPION, repair.successor, gate=repair.gate, why=why, actor=actor
        ).previous

    def shadow_days(self, repair: Repair, since_us: int, cut_us: int) -> tuple[tuple[PairedDay, ...], int]:
        return self._compared.paired_days(repair, since_us, cut_us)

    def searchable(self, cut_us: int) -> tuple[TrainingSet, Rows, int]:
        """See `Comparisons.searchable`."""
        return self._compared.searchable(cut_us)

    def _evaluation(
        self, candidate: Fitted, training_set: TrainingSet, fold: Rows, window: Stretch, rival: Floats | None
    ) -> str | None:
        """The candidate's evaluation on what it has not seen of the window, stored; None in a replay."""
        if not self._evaluates:
            return None
        stretch = msgspec.structs.replace(window, rows=window.rows & fold)
        rival = None if rival is None else rival[fold[window.rows]]

        def inputs() -> object:
            rows = [address_of_rows(stretch.before), address_of_rows(stretch.rows), address_of_scores(rival)]
            return [self._recording.code(), address_of_set(training_set), rows]

        return self._steps.do(
            "evaluate",
            inputs,
            lambda: self._evaluated(candidate, training_set, stretch, rival),
            digest_codec(self._blob),
        )

    def _evaluated(self, candidate: Fitted, training_set: TrainingSet, stretch: Stretch, rival: Floats | None) -> str:
        from trimtab.training.judge.evaluation import evaluate, save_evaluation  # here: it loads scikit-learn

        found = evaluate(
            self._deployment.model,
            candidate,
            training_set,
            rows=stretch.rows,
            train=stretch.before,
            seed=candidate.seed,
            champion_scores=rival,
            refit=lambda rows: self._fit("partial", training_set, rows),
        )
        return save_evaluation(found, self._blob)

    def _snapshot(self, cut_us: int, check: Callable[[TrainingSet], None] = lambda training_set: None) -> TrainingSet:
        """The training set of a cut; one that does not pass the check is not stored."""
        model = self._deployment.model

        def build() -> TrainingSet:
            built = self._data.training_set(model, cut_us=cut_us)
            check(built)
            return built

        found = self._steps.do(
            "snapshot",
            lambda: self._recording.pin(model, cut_us),
            build,
            set_codec(self._blob, model.request.key),
        )
        check(found)
        return found

    def _check(self, training_set: TrainingSet, changes: Changes) -> None:
        rival = self._compared.rival(labelled_until(training_set))
        lack = self._compared.lack(training_set, self._plan(training_set, rival, changes).window, rival)
        if lack is not None:
            raise _Lack(lack)

    def _check_of(self, version: Version) -> Callable[[TrainingSet], None]:
        """Lets pass the set that a version was made of, also where what was stored of that is lost."""
        try:
            made_of = msgspec.structs.replace(load_manifest(version.training_set, self._blob), parquet=None)
        except (NotFound, Corrupt):
            return lambda found: _check_that(self._save(found, self._blob) == version.training_set)
        return lambda found: _check_that(found.manifest == made_of)

    def _lost(self, version: Version) -> bool:
        return lost_artifact(self._blob, version) is not None

    def _fit(self, name: str, training_set: TrainingSet, rows: Rows, half_life_us: int | None = None) -> Fitted:
        self._fits += 1
        aged = msgspec.structs.replace(training_set, half_life_us=half_life_us)
        weighed = [] if half_life_us is None else [half_life_us]
        return self._steps.do(
            name,
            lambda: [self._recording.code(), address_of_set(training_set), address_of_rows(rows), *weighed],
            lambda: self._recipe.fit(aged, rows),
            fit_codec(self._blob),
        )

    def _done(self, name: str, work: Callable[[], T]) -> T:
        """A step that is done each time it is asked for."""
        found: T = self._steps.do(name, None, work, _NEVER)
        return found


_NEVER: Final[Codec[Any]] = Codec(lambda value: b"", lambda data: None)  # of steps that are not recorded


class _Lack(Exception):
    """No candidate can be made of a training set, or no other one than there is."""


def _check_that(same: bool) -> None:
    if not same:
        raise _Lack("It is another set.")
