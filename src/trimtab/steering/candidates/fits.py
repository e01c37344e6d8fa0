"""Fit the candidates of one deployment; one that passes the gate is fitted a second time, on more data.

If steps are recorded, an equal fit is not made twice.
"""

from __future__ import annotations

import msgspec
import numpy as np

from trimtab.core.errors import Misuse
from trimtab.steering.candidates.plans import Made, Plan
from trimtab.steering.candidates.ports import CandidateOptions, DeploymentParts
from trimtab.steering.candidates.recipes import Floats, Recipe, Rows
from trimtab.steering.candidates.stored import (
    address_of_rows,
    address_of_scores,
    address_of_set,
    digest_codec,
    fit_codec,
)
from trimtab.steering.candidates.windows import JudgingWindow
from trimtab.training.data.sets import TrainingSet
from trimtab.training.fitting.fitted import Fitted


class Fits:
    """Fits models by the recipe of a deployment (its model and how it is fitted), and counts the fits."""

    def __init__(self, parts: DeploymentParts, recipe: Recipe, options: CandidateOptions) -> None:
        self._model = parts.deployment.model
        self._blob = parts.blob
        self._recipe = recipe
        self._options = options
        self.count = 0  # the number of fits of the present repair; `CandidateBuilder.repair` sets it to 0

    def fit(self, name: str, training_set: TrainingSet, rows: Rows, half_life_us: int | None = None) -> Fitted:
        """Fit a model on some rows. With `half_life_us`, a row of that age has half the weight of a new row."""
        self.count += 1
        recording = self._options.recording
        aged = msgspec.structs.replace(training_set, half_life_us=half_life_us)
        weighed = [] if half_life_us is None else [half_life_us]
        return recording.steps.do(
            name,
            lambda: [recording.code(), address_of_set(training_set), address_of_rows(rows), *weighed],
            lambda: self._recipe.fit(aged, rows),
            fit_codec(self._blob),
        )

    def expect(self, training_set: TrainingSet, rows: Rows, half_life_us: int | None = None) -> bool:
        """Let the recipe begin a fit that will probably be needed; return whether it has begun."""
        return self._recipe.expect(msgspec.structs.replace(training_set, half_life_us=half_life_us), rows)

    def expect_plan(self, training_set: TrainingSet, plan: Plan) -> bool:
        """Let the recipe begin the fits of a plan; return whether all have begun.

        If the plan has a single source, also begin the refit that will probably follow.
        """
        running = [
            self.expect(training_set, plan.learnt(source, fold), source.half_life_us)
            for source in plan.sources
            for fold in plan.folds
        ]
        if len(plan.sources) == 1:
            self.expect(training_set, plan.sources[0].refit, plan.sources[0].half_life_us)
        return all(running)

    def of_plan(self, training_set: TrainingSet, plan: Plan) -> list[Made]:
        """Return the candidates of a plan, one for each of its sources (choices of rows to learn from).

        Sources on which no model can be fitted are left out.

        Raises:
            Misuse: No model can be fitted on any of the sources. The message is that of the first.
        """
        made: list[Made] = []
        failed: list[Misuse] = []
        for source in plan.sources:
            try:
                fits = [
                    self.fit("fit", training_set, plan.learnt(source, fold), source.half_life_us) for fold in plan.folds
                ]
                answers = [
                    self._recipe.candidate_scores(fitted, training_set, fold)
                    for fitted, fold in zip(fits, plan.folds, strict=True)
                ]
            except Misuse as error:
                failed.append(error)
            else:
                made.append(Made(source, fits[0], plan.assembled(answers)))
        if not made:
            raise failed[0]
        return made

    def walk_forward(
        self, training_set: TrainingSet, learnt: Rows, judged: Rows, half_life_us: int | None
    ) -> Floats | None:
        """Return scores of the rows `judged` by a model that is fitted on the rows `learnt`.

        Return None if no model can be fitted on them, or if a score is not finite.
        """
        try:
            fitted = self.fit("walk forward", training_set, learnt, half_life_us)
            scores = self._recipe.candidate_scores(fitted, training_set, judged)
        except Misuse:  # the reference then has only the days of the window; with fewer than 28, it is provisional
            return None
        return scores if np.isfinite(scores).all() else None

    def evaluation(
        self, candidate: Fitted, training_set: TrainingSet, window: JudgingWindow, champion_scores: Floats | None
    ) -> str | None:
        """Evaluate a candidate on the rows of a window, and return the hash of the stored evaluation.

        In a replay, nothing is evaluated and the result is None.
        """
        if not self._options.evaluates:
            return None
        recording = self._options.recording

        def inputs() -> object:
            rows = [address_of_rows(window.before), address_of_rows(window.rows), address_of_scores(champion_scores)]
            return [recording.code(), address_of_set(training_set), rows]

        def partial(rows: Rows) -> Fitted:
            self.count -= 1  # not counted, even if it fails: it is only shown on a page, and a replay does not make it
            return self.fit("partial", training_set, rows)

        def evaluated() -> str:
            # imported here, because it loads scikit-learn
            from trimtab.training.judge.evaluation import evaluate, save_evaluation

            found = evaluate(
                self._model,
                candidate,
                training_set,
                rows=window.rows,
                train=window.before,
                seed=candidate.seed,
                champion_scores=champion_scores,
                refit=partial,
            )
            return save_evaluation(found, self._blob)

        return recording.steps.do("evaluate", inputs, evaluated, digest_codec(self._blob))
