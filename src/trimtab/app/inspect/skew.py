"""Check for skew: compare the inputs of logged predictions with the same features recomputed from the event log."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from trimtab.app.inspect.skew_causes import Diagnosis
from trimtab.app.inspect.skew_report import (
    SCORE,
    CheckedModel,
    Mismatch,
    ModelSkew,
    SkewReport,
    checks,
    keep,
    newest_checks,
    red_words,
)
from trimtab.app.inspect.skew_rows import Known, Past, Rows, Versions, compute, fits
from trimtab.app.inspect.skew_sample import draw
from trimtab.app.inspect.skew_signals import Compared, Difference, settle_skew
from trimtab.app.system import System
from trimtab.core.errors import Misuse, TrimtabError
from trimtab.core.records import Prediction
from trimtab.core.shown import count_of
from trimtab.core.time import DAY_US, HOUR_US, format_age, format_duration, format_time
from trimtab.features.frames import NO_VIEW, REASONS
from trimtab.features.skew import EXPLAINED, Cause, differences

_DUE_US = 20 * HOUR_US  # less than a day, so that a daily job checks each day
_SAMPLE = 200  # the number of predictions in a check that a tick starts
_EXAMPLES = 3  # the number of examples kept for each feature and cause


def check_skew(
    system: System,
    model: str | None,
    *,
    sample: int | None,
    since_us: int | None,
    seed: int | None,
    scores: bool = False,
    by: str = "a person",
) -> SkewReport:
    """Check a sample of predictions and store the result; see `Project.skew`."""
    if sample is not None and not (isinstance(sample, int) and sample >= 1):
        raise Misuse(f"skew: sample={sample!r}. Give a whole number of at least 1, or None for all predictions.")
    if seed is not None and not isinstance(seed, int):  # the stored check could not be read again
        raise Misuse(f"skew: seed={seed!r}. Give a whole number, or None for a new seed.")
    if model is not None:
        system.definitions.deployment(model)
    system.state.check_clock()
    now_us = system.clock.now_us()
    seed = now_us % 2**31 if seed is None else seed
    names = list(system.definitions.deployments) if model is None else [model]
    after = {} if since_us is None else system.predictions.positions_before(since_us)
    drawn = draw(
        system.predictions,
        lambda p: p.model in names and not p.is_degraded and (since_us is None or p.made_at_us >= since_us),
        count=sample,
        after=after,
        seed=seed,
    )
    tallies = _compared(system, drawn, {name: _Tally(name) for name in names}, scores=scores)
    report = SkewReport(
        at_us=now_us,
        by=by,
        seed=seed,
        since_us=since_us,
        models=[tally.found() for tally in tallies.values()],
        examples=[example for tally in tallies.values() for example in tally.examples],
    )
    catalog, before = system.state.catalog, newest_checks(system.state.catalog)
    agreed, changes = {}, []
    for tally in tallies.values():
        known = before.get(tally.name)
        writes, agreed[tally.name] = settle_skew(
            catalog,
            tally.name,
            tally.compared,
            {} if known is None else known.agreed,
            found=red_words(tally.found()),
            owner=system.definitions.deployment(tally.name).owner,
            now_us=now_us,
        )
        changes += writes
    keep(catalog, report, agreed, changes)
    return report


def check_skew_when_due(system: System) -> None:
    """Check a sample of the predictions since the last check, if some model was not checked for 20 hours.

    Nothing is checked if no prediction is new, or if the events do not fit into memory (a check reads all of them).
    """
    if not system.in_memory():
        return
    newest, now_us = newest_checks(system.state.catalog), system.clock.now_us()
    found = [newest.get(name) for name in system.definitions.deployments]
    due = [check for check in found if check is None or now_us - check.looked_at_us >= _DUE_US]
    if any(_unchecked_us(system, check, now_us) is not None for check in due):
        since_us = min(0 if check is None else check.looked_at_us for check in due) or None
        check_skew(system, None, sample=_SAMPLE, since_us=since_us, seed=None, by="tick")


def _compared(
    system: System, drawn: Sequence[Prediction], tallies: dict[str, _Tally], *, scores: bool
) -> dict[str, _Tally]:
    past, versions = Past(system), Versions(system)
    groups: dict[str, tuple[Known, list[Prediction]]] = {}
    for prediction in drawn:
        tally = tallies[prediction.model]
        known = versions.of(prediction)
        why = past.failure or (known if isinstance(known, str) else fits(known, prediction))
        if why is not None or isinstance(known, str):
            tally.unchecked[str(why)] += 1
        else:
            groups.setdefault(prediction.version, (known, []))[1].append(prediction)
    diagnosis = Diagnosis(system, past, versions)

    def failed(predictions: Sequence[Prediction], why: str) -> None:
        for prediction in predictions:
            tallies[prediction.model].unchecked[why] += 1

    for rows in compute(past, groups, failed):
        tally = tallies[rows.known.version.model]
        tally.add(rows, diagnosis)
        if scores:
            tally.add_scores(system, rows)
    return tallies


class _Tally:
    """Counts of differences and some examples, collected for one model during a check."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.examples: list[Mismatch] = []
        self.unchecked: Counter[str] = Counter()
        self._count = Counter[str]()
        self._causes: dict[str, Counter[str]] = {}
        self._arms, self._versions, self._modes = Counter[str](), Counter[str](), Counter[str]()
        self.compared: dict[str, Compared] = {}  # by the id of the version

    def add(self, rows: Rows, diagnosis: Diagnosis) -> None:
        """Count where the inputs that predictions of one version used differ from the recomputed inputs."""
        differ = differences(rows.used, rows.used_reasons, rows.again, rows.again_reasons)
        self._count["rows"] += len(rows.predictions)
        self._count["values"] += differ.size
        self._of(rows.known.version.id).values += differ.size
        self._count["rows_differing"] += int(differ.any(1).sum())
        self._count["stale_rows"] += int((rows.stale & ~differ.any(1)).sum())
        self._versions[rows.known.version.name] += len(rows.predictions)
        self._arms.update(p.arm for p in rows.predictions)
        self._modes.update(p.mode for p in rows.predictions)
        names = rows.known.features.names
        for (row, place), cause in sorted(diagnosis.causes(rows, differ).items()):
            self._note(
                rows,
                row,
                names[place],
                cause,
                (float(rows.used[row, place]), float(rows.again[row, place])),
                (int(rows.used_reasons[row, place]), int(rows.again_reasons[row, place])),
            )

    def add_scores(self, system: System, rows: Rows) -> None:
        """Let the stored version score the logged inputs, and compare these scores with the logged ones.

        Predictions of online learners are skipped, because a learner has changed since then.
        """
        places = [n for n, p in enumerate(rows.predictions) if p.arm != "online"]
        if not places:
            return
        try:
            loaded = system.registry.load(rows.known.version)
        except TrimtabError as error:
            self.unchecked[f"scores of {rows.known.version.name}: {error}"] += len(places)
            return
        allowed = 0.0 if loaded.artifact.row_exact else max(loaded.artifact.row_tolerance, 1e-12)
        self._count["scores"] += len(places)
        self._count["values"] += len(places)
        self._of(rows.known.version.id).values += len(places)
        for row in places:
            used, again = _furthest(rows.predictions[row], loaded.predict_row(rows.used[row].tolist()))
            if not (used == again or abs(used - again) <= allowed):
                self._note(rows, row, SCORE, "unknown", (used, again), (NO_VIEW, NO_VIEW))

    def found(self) -> ModelSkew:
        """Return everything that was counted, as the result for this model."""
        return ModelSkew(
            model=self.name,
            rows=self._count["rows"],
            values=self._count["values"],
            rows_differing=self._count["rows_differing"],
            causes={feature: dict(causes) for feature, causes in sorted(self._causes.items())},
            stale_rows=self._count["stale_rows"],
            arms=dict(self._arms),
            versions=dict(self._versions),
            modes=dict(self._modes),
            scores=self._count["scores"],
            unchecked=dict(self.unchecked),
        )

    def _of(self, version: str) -> Compared:
        return self.compared.setdefault(version, Compared())

    def _note(
        self, rows: Rows, row: int, feature: str, cause: Cause, values: tuple[float, float], codes: tuple[int, int]
    ) -> None:
        prediction = rows.predictions[row]
        count = self._causes.setdefault(feature, Counter())
        count[cause] += 1
        used, again = (None if v != v else v for v in values)
        used_reason, again_reason = (None if code == NO_VIEW else REASONS[code] for code in codes)
        example = Mismatch(
            prediction=prediction.id,
            model=prediction.model,
            version=rows.known.version.name,
            arm=prediction.arm,
            mode=prediction.mode,
            made_at=format_time(prediction.made_at_us),
            at=format_time(prediction.at_us),
            positions=prediction.positions,
            feature=feature,
            cause=cause,
            used=used,
            again=again,
            used_reason=used_reason,
            again_reason=again_reason,
        )
        if count[cause] <= _EXAMPLES:
            self.examples.append(example)
        if cause not in EXPLAINED:
            made_us, red = prediction.made_at_us, self._of(rows.known.version.id).red
            one = red.setdefault(cause, Difference(0, made_us, made_us, example.line()))
            one.mismatches += 1
            one.first_us, one.newest_us = min(one.first_us, made_us), max(one.newest_us, made_us)


def skew_lines(system: System) -> tuple[dict[str, str], list[str]]:
    """Return for `trimtab status` a line for each deployment, by its name, and lines about problems."""
    lines: dict[str, str] = {}
    red: list[str] = []
    newest = newest_checks(system.state.catalog)
    now_us = system.clock.now_us()
    for name in system.definitions.deployments:
        check = newest.get(name)
        waiting_us = _unchecked_us(system, check, now_us)
        if check is None:
            lines[name] = "skew never checked"
        else:
            found, ago = check.found, format_age(now_us - check.at_us)
            if check.at_us > now_us and ago.startswith("in "):
                ago = f"at a time {ago[3:]} ahead of this clock"
            lines[name] = (
                f"skew checked {ago}: {count_of(found.rows, 'prediction')}, {found.mismatches:,} values differ"
            )
            if not (found.rows or found.unchecked):
                lines[name] = f"skew checked {ago}: there was no prediction to check, so nothing is known"
            if found.red:
                red.append(f"{name}: skew: {red_words(found)}; run: trimtab quality skew {name}")
            elif found.unchecked and not found.rows:
                red.append(f"{name}: skew: no prediction could be checked ({'; '.join(found.unchecked)})")
        if waiting_us is not None and waiting_us > DAY_US:
            waited = format_duration(waiting_us // DAY_US * DAY_US)
            red.append(
                f"{name}: predictions have not been checked for skew for {waited}; run: trimtab quality skew {name}"
            )
    return lines, red


def _unchecked_us(system: System, check: CheckedModel | None, now_us: int) -> int | None:
    """Return how long ago the first prediction (of any model) after a check was logged; None if there is none."""
    predictions = system.predictions
    after = {} if check is None else predictions.positions_before(check.looked_at_us)
    first = [
        records[0].appended_at_us
        for name in predictions.log.positions()
        if (records := predictions.log.read(name, after.get(name, 0), limit=1))
    ]
    return now_us - min(first) if first else None


def skew_checks(system: System, last: int) -> list[SkewReport]:
    """Return the newest `last` checks, oldest first."""
    found: list[SkewReport] = []
    after = 0
    while block := checks(system.state.catalog, after=after):
        found = (found + block)[-last:]
        after += len(block)
    return found


def _furthest(prediction: Prediction, again: float | list[float]) -> tuple[float, float]:
    """Return the logged score and the recomputed score.

    With several classes, these are the scores of the class where they differ most.
    """
    if not isinstance(again, list):
        return prediction.score, again
    used = [] if prediction.scores is None else list(prediction.scores.values())
    if len(used) != len(again):  # another number of classes: another version gave the answer
        return prediction.score, math.nan
    return max(zip(used, again, strict=True), key=lambda pair: abs(pair[0] - pair[1]))
