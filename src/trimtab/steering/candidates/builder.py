"""Make the candidates of one deployment: fit, judge and register them, and refit and promote those that pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from trimtab.core.errors import Misuse, Unavailable
from trimtab.core.records import ChangeOnset, GateRecord
from trimtab.monitoring.quality.loss_estimates import storing
from trimtab.registry import Version
from trimtab.registry.protection import CHAMPION
from trimtab.run import AtOnce, Codec
from trimtab.serving.arms.arms import CANARY, SHADOW, arm_shares
from trimtab.steering.candidates.champion_artifact import ChampionArtifact
from trimtab.steering.candidates.comparison_targets import ComparisonTarget, TargetScores, version_target
from trimtab.steering.candidates.comparisons import Comparisons
from trimtab.steering.candidates.fits import Fits
from trimtab.steering.candidates.judging import Case, Judge, Side, finite, with_known_labels
from trimtab.steering.candidates.plans import Made, Plan, aged_sources, of_window, plan_in_words
from trimtab.steering.candidates.ports import CandidateOptions, DeploymentParts, Stored
from trimtab.steering.candidates.recipes import Floats, Recipe, Rows
from trimtab.steering.candidates.references import (
    AS_NEW_US,
    Answers,
    Reference,
    estimate_from,
    healthy_reference,
    is_as_good,
    refit_allowance,
    request_slices,
    walk_forward_rows,
)
from trimtab.steering.candidates.stored import GATE, TEXT
from trimtab.steering.candidates.training_sets import TrainingSets, Unusable
from trimtab.steering.candidates.windows import JudgingWindow, labelled_until, rows_left_out, unseen_from
from trimtab.steering.gate.shadow import hopeless
from trimtab.steering.loop_state import Changes, PairedDay, Repair
from trimtab.training.data.sets import TrainingSet
from trimtab.training.fitting.fitted import Fitted

T = TypeVar("T")
_SURE = 0.95  # the confidence level of a difference between two candidates of one repair
_LEAST_GAIN = 0.01  # a fit in which old rows count less must lower the loss by at least this share


class _Before(msgspec.Struct, frozen=True, eq=False):
    """Days before a window, and the rows to learn from for a fit that scores these days."""

    learnt: Rows
    judged: Rows
    target: ComparisonTarget | None  # a version that was fitted shortly before these days; None: a new fit scores them


class CandidateBuilder:
    """Makes and judges versions of one deployment, and registers them.

    A candidate is fitted on what was known when a window of newest days began, and is judged on that window. If it
    passes, the same recipe (the declared model with its way of fitting) is fitted again on rows that include the
    window. This refit is the version that goes into service. It refers to the candidate that was judged.
    """

    def __init__(self, parts: DeploymentParts, recipe: Recipe, options: CandidateOptions) -> None:
        self._parts = parts
        self._deployment = parts.deployment
        self._recipe = recipe
        self._options = options
        self.comparisons = Comparisons(parts, recipe)
        self._judge = Judge(parts, options.proving, options.baselines)
        self._sets = TrainingSets(parts, options)
        self._fits = Fits(parts, recipe, options)
        self.artifact = ChampionArtifact(parts, self._sets, self._fits)
        # the cut and the training set of the last call of `blocked`, for the `repair` that follows
        self._kept: tuple[int, TrainingSet] | None = None

    def champion(self) -> str | None:
        version = self.comparisons.champion()
        return None if version is None else version.id

    def champion_cut(self) -> int:
        version = self.comparisons.champion()
        return 0 if version is None else self._parts.registry.as_known(version).cut_us

    def arms(self) -> dict[str, str]:
        """Return the version of each arm (canary, shadow) that answers next to the version in service."""
        name = self._deployment.name
        found, shares = self._parts.registry.aliases(name), arm_shares(self._parts.catalog, name)
        return {arm: found[arm].version for arm in (CANARY, SHADOW) if arm in found and getattr(shares, arm)}

    def blocked(self, cut_us: int, changes: Changes) -> str | None:
        lack = self.comparisons.unseen(cut_us, changes)
        if lack is not None:
            return lack
        try:
            training_set = self._sets.at(cut_us, lambda found: self.comparisons.lack(found, changes))
        except Unusable as why:
            self._kept = None
            return str(why)
        self._kept = (cut_us, training_set)
        return None

    def repair(self, cut_us: int, go_on: Callable[[], None], changes: Changes, actor: str | None = None) -> Repair:
        """Make and judge a candidate; see `Candidates.repair`. `actor` asked for it (default: the registry's actor)."""
        model, compared = self._deployment.model, self.comparisons
        self._fits.count = 0
        kept, self._kept = self._kept, None
        training_set = kept[1] if kept is not None and kept[0] == cut_us else self._sets.at(cut_us)
        target = compared.target(labelled_until(training_set))
        plan = compared.plan(training_set, target, changes)
        lack = compared.lack_of(training_set, plan.window, target)
        if lack is not None:
            raise Misuse(f"repair of {model.name!r}: {lack}")
        if self._fits.expect_plan(training_set, plan) and plan.choices == len(plan.folds) == 1:
            learnt = msgspec.structs.replace(plan.window, before=plan.learnt(plan.sources[0], plan.folds[0]))
            # compute the baselines while the fits run; the judge keeps them
            self._judge.baselines(Case(training_set, learnt, TargetScores(None, "")))
        try:
            made = self._fits.of_plan(training_set, plan)
        except Misuse:
            # with recorded steps, the training set was stored only for this repair, which has failed
            if not isinstance(self._options.recording.steps, AtOnce):
                self._sets.discard(training_set)
            raise
        answered = compared.answered_on(target, training_set, plan)
        best, window = self._judge.best(training_set, plan, made, answered)
        if not changes.alarming:  # after an alarm, the change is sudden
            plan, best = self._aged(plan, best, Case(training_set, window, answered), target)
            window = msgspec.structs.replace(window, before=plan.learnt(best.source, plan.folds[0]))
        self._fits.expect(training_set, best.source.refit, best.source.half_life_us)
        if answered.scores is not None:
            answered = TargetScores(of_window(answered.scores, plan, window), answered.note)
        go_on()
        manifest = self._sets.save(training_set)
        evaluation = self._evaluation(best, training_set, plan.folds[0], window, answered.scores)
        judged = self._parts.registry.register(
            best.candidate, training_set=manifest, evaluation=evaluation, actor=actor or "policy"
        )
        scores = finite(of_window(best.scores, plan, window), judged)
        folds = tuple((fold, plan.learnt(best.source, fold)) for fold in plan.folds) if plan.folds[1:] else ()
        refreshes = compared.refreshes(changes, target, answered, window)
        in_words = plan_in_words(plan, best.source, window)
        whole = Case(training_set, window, answered, plan.choices, folds, in_words, refreshes)
        case, known = with_known_labels(whole, scores, lambda: compared.adds_classes(target))
        gate = self._gate(Side(judged, known, training_set.features.values.take(case.window.rows), judged), case)
        successor, reason, allowance = None, gate.reason, {}
        days = [Answers(window.rows, scores)]
        if gate.passed:
            before = self._before(training_set, plan, best, window, target, changes.repaired)
            refit = self._fits.fit("refit", training_set, best.source.refit, best.source.half_life_us)
            again = self._recipe.candidate_scores(refit, training_set, window.rows)
            why_not = self._judge.too_far(again, scores, whole) or self._hopeless(known, case)
            reason = why_not or gate.reason
            if why_not is None:
                labels, cap = training_set.target[window.rows], self._judge.cap(known, case)
                allowance = refit_allowance(model.metric, scores, again, labels, cap)
                successor = self._registered(refit, manifest, judged, actor, training_set)
                days = [*self._earlier(best, scores, whole, before), *days]
                if (estimate := estimate_from(self._deployment, refit, training_set, days)) is not None:
                    self._parts.catalog.write([storing(successor.id, estimate)])
        reference = self._reference(judged, case, known, days, slices=successor is not None)
        return msgspec.structs.replace(
            self._repair(case, gate, known, reference, cut_us),
            successor=None if successor is None else successor.id,
            reason=reason,
            allowance=allowance,
            name="" if successor is None else successor.name,
            rows=best.candidate.rows,
            left_out=rows_left_out(training_set),
            fits=self._fits.count,
        )

    def judge_stored(self, stored: Stored, cut_us: int, *, keep: bool = True) -> Repair:
        """Judge a stored version; see `Candidates.judge_stored`. # D0196"""
        model, registry, compared = self._deployment.model, self._parts.registry, self.comparisons
        version = registry.get(stored.version)
        registry.load(version)  # checked first, because the rest takes long
        training_set = self._done("data", lambda: self._parts.data.training_set(model, cut_us=cut_us))
        until_us = labelled_until(training_set)
        own = version_target(registry, version, model, until_us, seen_until_us=stored.seen_until_us)
        target = compared.target_of_stored(until_us)
        window = compared.window(training_set, own, target)
        lack = compared.lack_to_judge(training_set, window, own, target)
        if lack is not None:
            raise Unavailable(f"promote {version.name}: {lack}")
        side = self._done("answer", lambda: compared.stored_side(version, own, training_set, window))
        answered = compared.answered(target, training_set, window)
        whole = Case(training_set, window, answered)
        case, known = with_known_labels(whole, side.scores, lambda: compared.adds_classes(target))
        judged = msgspec.structs.replace(side, scores=known)
        gate = self._done("judge", lambda: self._judge.record(judged, case))
        if keep:
            registry.put_gate(gate)
        reference = self._reference(version, case, known, [Answers(window.rows, side.scores)])
        why_not = self._hopeless(known, case) if gate.passed else None
        return msgspec.structs.replace(
            self._repair(case, gate, known, reference, cut_us),
            successor=version.id if gate.passed and why_not is None else None,
            reason=why_not or gate.reason,
            name=version.name,
            rows=version.rows,
        )

    def promote(self, repair: Repair, why: str, actor: str | None = None) -> str | None:
        assert repair.successor is not None  # only versions that passed are promoted
        move, name, by = self._parts.registry.move, self._deployment.name, actor or "policy"
        return move(name, CHAMPION, repair.successor, gate=repair.gate, why=why, actor=by).previous

    def shadow_days(self, repair: Repair, since_us: int, cut_us: int) -> tuple[tuple[PairedDay, ...], int]:
        assert repair.successor is not None  # only a repair with a successor has a shadow
        assert repair.gate.champion is not None  # and was compared with a champion
        return self.comparisons.paired_days(repair.successor, repair.gate.champion, since_us, cut_us)

    def _gate(self, side: Side, case: Case) -> GateRecord:
        """Judge a new candidate, store the gate record (the result of its checks), and return it."""
        recording = self._options.recording
        gate = recording.steps.do(
            "judge",
            lambda: [recording.code(), *self._judge.depends_on(side, case)],
            lambda: self._judge.record(side, case),
            GATE,
        )
        self._parts.registry.put_gate(gate)
        return gate

    def _registered(
        self, refit: Fitted, manifest: str, judged: Version, actor: str | None, training_set: TrainingSet
    ) -> Version:
        """Register the refit of a candidate that passed, make its input profile, and return the version."""
        registry = self._parts.registry
        successor = self._options.recording.steps.do(
            "register",
            None,
            lambda: registry.register(refit, training_set=manifest, refit_of=judged.id, actor=actor or "policy").id,
            TEXT,
        )
        version = registry.get(successor)
        if self._options.profile is not None:
            self._options.profile(version, training_set)
        return version

    def _repair(self, case: Case, gate: GateRecord, scores: Floats, reference: Reference, cut_us: int) -> Repair:
        """Return the result of a judgement, without a successor. The caller adds it if the candidate passed."""
        return Repair(
            candidate=gate.candidate,
            gate=gate,
            successor=None,
            reason=gate.reason,
            reference=reference.days,
            slices=reference.slices,
            cut_us=cut_us,
            rows=0,
            data_hash=case.training_set.manifest.data_hash,
            loss_cap=self._judge.cap(scores, case),
            unseen_from_us=unseen_from(case.training_set, self._deployment.model.label.span_us),
            gate_days=self._judge.paired_days(scores, case),
            stood_in=bool(case.answered.note),
        )

    def _hopeless(self, scores: Floats, case: Case) -> str | None:
        """Return why a shadow could not decide within its longest time, as `shadow.hopeless` does."""
        days = self._judge.paired_days(scores, case)
        return hopeless(self._deployment.rollout, days, stood_in=bool(case.answered.note))

    def _reference(
        self, version: Version, case: Case, scores: Floats, answered: list[Answers], *, slices: bool = True
    ) -> Reference:
        """Return the reference days of a version. `answered`: scores by models that were not fitted on the rows."""
        model, parts = self._deployment.model, request_slices(self._deployment) if slices else ()
        cap, labels = self._judge.cap(scores, case), self._parts.labels
        return healthy_reference(model, version.id, case.training_set, answered, labels, cap=cap, slices=parts)

    def _aged(self, plan: Plan, best: Made, case: Case, target: ComparisonTarget | None) -> tuple[Plan, Made]:
        """Try fits in which old rows count less, and return the plan and the candidate that is then the best.

        They are only tried if there is a sign that the data change: the version in service is such a fit, its loss
        provably differs from that of `best`, or there is no such version and the gate would refuse `best`. The weights
        fall faster with each fit, until one does not provably lower the loss by comparison with the best so far, or
        lowers it by less than 1 %. # D0227
        """
        usable, difference = self._deployment.learn == "batch" and not plan.folds[1:], self._judge.difference
        if not usable or not np.isfinite(best.scores).all():
            return plan, best
        if target is None:
            steady = self._judge.would_pass(best.scores, case)
        elif case.answered.scores is None:
            return plan, best
        else:
            found = None if target.version.half_life_us else difference(case, best.scores, _SURE)
            steady = found is not None and found.low <= 0.0 <= found.high
        if steady:
            return plan, best
        for source in aged_sources(plan):
            try:
                (aged,) = self._fits.of_plan(case.training_set, msgspec.structs.replace(plan, sources=(source,)))
            except Misuse:  # for example, the estimator takes no weights
                return plan, best
            usual = msgspec.structs.replace(case, answered=TargetScores(best.scores, ""))
            proven = np.isfinite(aged.scores).all() and difference(usual, aged.scores, _SURE).high < 0.0
            if not (proven and is_as_good(self._judge.paired_days(aged.scores, usual), -_LEAST_GAIN)):
                return plan, best
            plan, best = msgspec.structs.replace(plan, sources=(*plan.sources, source)), aged
        return plan, best

    def _before(
        self,
        training_set: TrainingSet,
        plan: Plan,
        best: Made,
        window: JudgingWindow,
        target: ComparisonTarget | None,
        repaired: ChangeOnset | None,
    ) -> list[_Before]:
        """Return choices of days that the reference may have before the window, and begin the fit of the first choice.

        `_earlier` uses the first choice that can be scored well enough. Empty: the reference only has the window.
        """
        # a plan with folds repairs a change, and days before a change are no reference for the time after it
        if plan.folds[1:] or self._deployment.learn == "online":
            return []
        found: list[_Before] = []
        since_us = None if repaired is None else repaired.at_us
        for learnt, judged in walk_forward_rows(training_set, window, best.source.rows, since_us):
            begins_us = int(training_set.at_us[judged].min())
            served = (
                target is not None
                and target.version.recipe == self._deployment.model.hash
                and target.unseen_from_us <= begins_us < target.unseen_from_us + AS_NEW_US
            )
            found.append(_Before(learnt, judged, target if served else None))
        if found and found[0].target is None:
            self._fits.expect(training_set, found[0].learnt, best.source.half_life_us)
        return found

    def _earlier(self, best: Made, scores: Floats, case: Case, before: list[_Before]) -> list[Answers]:
        """Return scores of the days before the window.

        They come from the version in service if it was fitted shortly before these days, or else from a fit on earlier
        rows. If such a fit is much worse than the candidate on the window, the next choice of days is tried.
        """
        training_set, window = case.training_set, case.window
        for one in before:
            if one.target is not None:
                days = msgspec.structs.replace(window, rows=one.judged)
                answered = self.comparisons.answered(one.target, training_set, days).scores
                if answered is not None:
                    return [Answers(one.judged, answered)]
                continue
            rows = one.judged | window.rows
            found = self._fits.walk_forward(training_set, one.learnt, rows, best.source.half_life_us)
            if found is None:
                continue
            of_candidate = msgspec.structs.replace(case, answered=TargetScores(scores, ""))
            if is_as_good(self._judge.paired_days(found[window.rows[rows]], of_candidate)):
                return [Answers(one.judged, found[one.judged[rows]])]
        return []

    def _evaluation(
        self, best: Made, training_set: TrainingSet, fold: Rows, window: JudgingWindow, champion: Floats | None
    ) -> str | None:
        """Evaluate a candidate on those rows of the window that it did not learn from; see `Fits.evaluation`."""
        of_fold = msgspec.structs.replace(window, rows=window.rows & fold)
        scores = None if champion is None else champion[fold[window.rows]]
        return self._fits.evaluation(best.candidate, training_set, of_fold, scores)

    def _done(self, name: str, work: Callable[[], T]) -> T:
        """Return the result of a step that is not recorded. After an interruption, it is done again."""
        found: T = self._options.recording.steps.do(name, None, work, _NEVER)
        return found


_NEVER: Final[Codec[Any]] = Codec(lambda value: b"", lambda data: None)  # never called: `_done` records no result
