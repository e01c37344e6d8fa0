"""Online learners of a living project: each label teaches once, as soon as it is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trimtab.features.labels import LabelIndex
from trimtab.serving.online_learning import Example
from trimtab.steering.controller import CHAMPION
from trimtab.steering.definitions import Deployment

if TYPE_CHECKING:
    from trimtab.app.project import Project

_WAITS = 2  # label waits after which a prediction is no longer watched for its label


class Teacher:
    """Gives one deployment's learner the labels of its own predictions, in the order in which they became known."""

    def __init__(self, project: Project, deployment: Deployment) -> None:
        self._project = project
        self._deployment = deployment
        self._labels = LabelIndex(deployment.model.label)
        self._waiting: dict[str, tuple[int, bytes]] = {}  # request -> (as of, inputs) of predictions without a label
        self._version = ""
        self._seen: dict[str, int] = {}

    def teach(self) -> int:
        """Teach what became known since the last time; how many labels.

        After a restart, predictions whose label may still come are read again from the log; labels at or below the
        learner's own `learnt_until_us` are passed over by it, so none counts twice.
        """
        project, model = self._project, self._deployment.model
        served = project.served(model.name)
        if project.registry.alias(model.name, CHAMPION) is None:
            return 0
        loaded = served.refresh()
        learner = served.learner
        assert learner is not None  # `refresh` makes one for an online deployment
        now_us = project.clock.now_us()
        if loaded.version.id != self._version:
            self._version = loaded.version.id
            self._waiting.clear()
            self._seen = project.predictions.positions_before(now_us - _WAITS * model.label.wait_us)
        self._read()
        project.history.refresh()
        self._labels.update(project.history.frame(model.label.source.name))
        examples = self._examples(learner.learnt_until_us, now_us)
        taught = learner.learn(examples, until_us=now_us)
        self._forget(learner.learnt_until_us, now_us)
        return taught

    def _read(self) -> None:
        while True:
            block, self._seen = self._project.predictions.read(self._seen)
            if not block:
                return
            for p in block:
                if p.version == self._version:
                    self._waiting[p.request_id] = (p.at_us, p.values)

    def _join(self, now_us: int) -> list[tuple[str, int, float]]:
        """Request, known at and label of every waiting prediction that has one."""
        asked = list(self._waiting)
        if not asked:
            return []
        keys = [int(key) for key in asked] if self._deployment.model.request.key_dtype == "int" else asked
        found = self._labels.join(keys, np.array([self._waiting[key][0] for key in asked]), now_us)
        there = np.flatnonzero(~np.isnan(found.values))
        return [(asked[n], int(found.known_at_us[n]), float(found.values[n])) for n in there.tolist()]

    def _examples(self, after_us: int, now_us: int) -> list[Example]:
        known = sorted((at, key, label) for key, at, label in self._join(now_us) if at > after_us)
        return [Example(self._waiting[key][1], label, at) for at, key, label in known]

    def _forget(self, learnt_until_us: int, now_us: int) -> None:
        """Drop what was learnt, and what has waited too long."""
        for key, at_us, _ in self._join(now_us):
            if at_us <= learnt_until_us:
                del self._waiting[key]
        oldest_us = now_us - _WAITS * self._deployment.model.label.wait_us
        for key in [key for key, (at_us, _) in self._waiting.items() if at_us < oldest_us]:
            del self._waiting[key]
