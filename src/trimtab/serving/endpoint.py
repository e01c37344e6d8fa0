"""What stands behind one model's address: the version that answers now, swapped without a failed request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from trimtab.core.errors import Misuse, Unavailable
from trimtab.core.records import Prediction
from trimtab.core.time import moment_us
from trimtab.serving.answering import Answer, Answerer
from trimtab.serving.precomputed import Precomputed
from trimtab.serving.request_rows import Row

if TYPE_CHECKING:
    import datetime as dt

Prepared: TypeAlias = Prediction | bytes  # made now and to be logged, or a stored answer's JSON, logged by its batch


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """A question whose answer is known: what a version must say before it serves."""

    values: tuple[float, ...]  # a model input row, null is NaN
    score: float
    tolerance: float = 0.0


class Endpoint:
    """One model's address.

    `current` is read once a request, and a swap replaces it in one step: a request that began with the old version
    ends with it. With `precomputed`, a fresh stored answer is given first; otherwise the answer is made now and
    flagged `precomputed_stale` or `precomputed_missing`.
    """

    def __init__(self, name: str, *, precomputed: Precomputed | None = None) -> None:
        self.name = name
        self.precomputed = precomputed
        self._current: Answerer | None = None

    @property
    def ready(self) -> bool:
        """Whether a version answers."""
        return self._current is not None

    @property
    def current(self) -> Answerer:
        """The version that answers now.

        Raises:
            Unavailable: None has been put in place yet.
        """
        answerer = self._current
        if answerer is None:
            raise Unavailable(f"model {self.name!r}: no version serves yet. Promote one, or try again in a moment.")
        return answerer

    def swap(
        self, answerer: Answerer, *, golden: Sequence[Golden] = (), warm: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Let `answerer` answer from the next request on, once it has given the golden answers.

        Args:
            answerer: The version to serve.
            golden: Model input rows and the scores it must give.
            warm: Request rows that it answers once, unlogged, so that its first asker does not wait.

        Raises:
            Misuse: It is another model's, or a golden answer is wrong; the old version goes on serving.
        """
        served = answerer.served
        if served.model != self.name:
            raise Misuse(f"endpoint {self.name!r}: cannot serve {served.label}. Give a version of its own model.")
        for number, one in enumerate(golden):
            score = answerer.score(one.values)
            if not abs(score - one.score) <= one.tolerance:  # also when it is NaN
                raise Misuse(
                    f"{served.label}: golden row {number} gives {score!r}, recorded was {one.score!r} "
                    f"(tolerance {one.tolerance!r}). This platform does not reproduce it; it is not served."
                )
        if warm:
            answerer.predict(answerer.rows.check(warm))
        self._current = answerer

    def answer(self, rows: Sequence[Mapping[str, Any]], *, at: str | int | dt.datetime | None = None) -> list[Answer]:
        """Answers to rows from Python, in their order, once the new ones are in the log: what HTTP would say.

        Raises:
            Misuse: A row is not as declared (names the field), or `at` lies in the future.
            Unavailable: No version serves, or state or log cannot be used now; nothing was logged.
        """
        answerer = self.current
        prepared = self.prepare(answerer, answerer.rows.check(rows), None if at is None else moment_us(at))
        answerer.log.append([one for one in prepared if isinstance(one, Prediction)])
        return [
            answerer.shown(one) if isinstance(one, Prediction) else msgspec.json.decode(one, type=Answer)
            for one in prepared
        ]

    def prepare(self, answerer: Answerer, rows: Sequence[Row], at_us: int | None) -> Sequence[Prepared]:
        """An answer to each checked row; the predictions among them are not logged yet."""
        if self.precomputed is None or at_us is not None:
            return answerer.predict(rows, at_us=at_us)
        now_us = answerer.now_us()
        key, version = answerer.rows.request.key, answerer.served.version
        looked = [self.precomputed.look_up(row, str(row[key]), version, now_us) for row in rows]
        prepared: list[Prepared] = [one.answer for one in looked if one.answer]
        if len(prepared) == len(rows):
            return prepared
        prepared = [one.answer for one in looked]
        for state in ("stale", "missing"):
            places = [n for n, one in enumerate(looked) if one.state == state]
            made = answerer.predict([rows[n] for n in places], flags=(f"precomputed_{state}",))
            for n, prediction in zip(places, made, strict=True):
                prepared[n] = prediction
        return prepared
