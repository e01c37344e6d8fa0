"""Scoring of requests: by the version in service and perhaps a canary, or by a model that learns while it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.records import Decision, Mode
from trimtab.core.time import HOUR_US
from trimtab.monitoring.inputs.red_windows import RedWindow
from trimtab.registry import LoadedModel, Version
from trimtab.serving.arms.arms import Share
from trimtab.simulation.scenarios.rows import AnsweredRows, Block
from trimtab.training.definitions import Model
from trimtab.training.fitting.online import OnlineLearner

Floats = NDArray[np.float64]


class Answers(msgspec.Struct, frozen=True, eq=False):
    """The scores of consecutive requests, with the versions that gave them, and the inputs of these versions."""

    scores: Floats  # shape (requests,); for a model of several classes (requests, classes)
    matrix: NDArray[Any]
    # the version that scored each request; versions differ if a canary scores a share, or if requests of two batches
    # that were scored ahead are in one block
    versions: list[str]
    as_of_us: NDArray[Any]
    mode: Mode
    champion: str = ""  # the id of the version in service
    canary: str = ""  # the id of the canary: a new version that scores a share of the requests
    watched: NDArray[Any] | None = None  # the inputs as the version in service would get them; None: equal to `matrix`


class Serving(Protocol):
    """Tells the scorers which versions score requests."""

    model: Model
    decisions: list[Decision]  # all decisions; after a new one, other versions may be in service

    def champion(self) -> LoadedModel: ...

    def canary(self) -> tuple[LoadedModel, Share] | None: ...

    def in_service(self) -> Version | None: ...

    def red_windows(self) -> list[RedWindow]: ...


class BatchScorer:
    """Scores requests with the champion, and a share with the canary. Both are loaded again after each decision."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._loaded: LoadedModel | None = None
        self._canary: tuple[LoadedModel, Share] | None = None
        self._decisions = -1

    def answer(self, block: Block) -> Answers:
        if self._loaded is None or self._decisions != len(self._serving.decisions):
            self._loaded, self._decisions = self._serving.champion(), len(self._serving.decisions)
            self._canary = self._serving.canary()
        champion = self._loaded.version.id
        matrix, scores = block.once(("scores", champion), partial(self._scored, self._loaded, block))
        answers = Answers(scores, matrix, [champion] * len(matrix), block.at_us, "replay", champion)
        return answers if self._canary is None or not len(matrix) else self._shared(block, answers, *self._canary)

    def _shared(self, block: Block, answers: Answers, canary: LoadedModel, share: Share) -> Answers:
        """Return `answers`, with the canary's own answers to its share of the requests."""
        columns = [block.requests[name].to_list() for name in share.about]
        held = {who: share.holds(dict(zip(share.about, who, strict=True))) for who in set(zip(*columns, strict=True))}
        here = np.array([held[who] for who in zip(*columns, strict=True)])
        if not here.any():
            return answers
        scores, matrix = answers.scores.copy(), answers.matrix.copy()
        matrix[here] = canary.encoding.matrix(block.features.values.take(here))
        scores[here] = canary.predict(matrix[here])
        versions = [canary.version.id if one else answers.champion for one in here.tolist()]
        return msgspec.structs.replace(
            answers, scores=scores, matrix=matrix, versions=versions, canary=canary.version.id, watched=answers.matrix
        )

    def learner(self) -> OnlineLearner | None:
        """Return None, because these versions do not learn while they predict."""
        return None

    def _scored(self, loaded: LoadedModel, block: Block) -> tuple[NDArray[Any], Floats]:
        matrix, classes = loaded.encoding.matrix(block.features.values), self._serving.model.label.class_names
        if not len(matrix):
            return matrix, np.zeros((0, len(classes)) if classes else 0)
        return matrix, np.asarray(loaded.predict(matrix), np.float64)


class OnlineScorer:
    """Scores requests hour by hour. Before each hour, the model learns from the labels that became known.

    As in a service, it does not learn from requests made at times with faulty inputs or labels (red windows).
    """

    def __init__(self, serving: Serving, rows: AnsweredRows) -> None:
        self._serving = serving
        self._rows = rows
        self._learner: OnlineLearner | None = None
        self._version = ""
        self._arrivals = rows.arrivals(serving.model.label)
        # the times and inputs of scored requests whose labels are not known yet
        self._at_us: dict[int, int] = {}
        self._inputs: dict[int, NDArray[Any]] = {}

    def answer(self, block: Block) -> Answers:
        learner = self._current()
        matrix = learner.artifact.encoding.matrix(block.features.values)
        scores = np.zeros(len(matrix))
        hours, faulty = block.at_us // HOUR_US, self._serving.red_windows()
        for hour in np.unique(hours):
            self._learn(learner, int(hour) * HOUR_US, faulty)
            rows = np.flatnonzero(hours == hour)
            scores[rows] = learner.predict(matrix[rows])
            self._inputs.update((block.start + row, matrix[row]) for row in rows.tolist())
            self._at_us.update((block.start + row, int(block.at_us[row])) for row in rows.tolist())
        return Answers(scores, matrix, [self._version] * len(matrix), block.at_us, "online", self._version)

    def learner(self) -> OnlineLearner | None:
        return self._learner

    def _current(self) -> OnlineLearner:
        """Return the learner of the version in service. For a new version, it begins with the version's stored fit."""
        serving = self._serving
        version = serving.in_service()
        if self._learner is None or version is None or version.id != self._version:
            loaded = serving.champion()
            self._learner, self._version = OnlineLearner(loaded.artifact), loaded.version.id
            if self._inputs:  # these inputs were encoded for the previous version, so encode them again
                waiting = list(self._inputs)
                values = self._rows.values(serving.model.features, waiting)
                matrix = self._learner.artifact.encoding.matrix(values)
                self._inputs = dict(zip(waiting, matrix, strict=True))
        return self._learner

    def _learn(self, learner: OnlineLearner, until_us: int, faulty: Sequence[RedWindow]) -> None:
        # If a label was corrected before this call, its newest value counts. Later corrections are ignored.
        known = {row: label for row, label in self._arrivals.until(until_us) if row in self._inputs}
        found = [(self._at_us.pop(row), self._inputs.pop(row), label) for row, label in known.items()]
        sound = [one for one in found if not any(window.covers(one[0]) for window in faulty)]
        if sound:
            learner.learn(np.array([inputs for _, inputs, _ in sound]), np.array([label for _, _, label in sound]))


def made_ahead(batches: Sequence[tuple[Block, Answers]], block: Block, live: Answers) -> Answers:
    """Return the answers from batches that were scored ahead; where there are none, the live answers."""
    scores, matrix, as_of_us = live.scores.copy(), live.matrix.copy(), live.as_of_us.copy()
    versions = list(live.versions)
    for batch, answers in batches:
        low, high = max(batch.start, block.start), min(batch.stop, block.stop)
        if low < high:
            here, there = slice(low - block.start, high - block.start), slice(low - batch.start, high - batch.start)
            scores[here], matrix[here] = answers.scores[there], answers.matrix[there]
            as_of_us[here], versions[here] = answers.as_of_us[there], answers.versions[there]
    return Answers(scores, matrix, versions, as_of_us, "precomputed", live.champion)
