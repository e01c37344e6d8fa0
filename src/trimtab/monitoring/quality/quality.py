"""Quality by labels: alarms on the daily excess loss, the daily calibration gap, and the slices of a version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from trimtab.core.records import LOSS_CAP, DayQuality, Signal
from trimtab.core.time import DAY_US
from trimtab.feedback.blocks import DayBlocks
from trimtab.monitoring.quality.arm_watches import ArmWatches, arm_of
from trimtab.monitoring.quality.quality_signals import KINDS, LEVEL, SILENT_DAYS, UNLISTED_SHARE, signals_of
from trimtab.monitoring.quality.watches import (
    CALIBRATION,
    LOSS,
    SLICE,
    MetricValue,
    Watch,
    advanced,
    advanced_slice,
    fresh,
    in_units_of,
    learnt_slices,
    learnt_values,
    met,
    shortfalls,
)
from trimtab.monitoring.signals import Settled, listed_signals, settle, stored
from trimtab.store.ports import Append, Catalog, Put, Remove, read_record

KIND = "quality_watch"
Change = Put | Remove | Append


class QualityMonitor:
    """Turns closed days of one model into signals; its whole state is one record of the catalogue.

    If the scores are probabilities, the watched loss is the *excess loss*: the loss minus the loss that the scores
    themselves predict. A season that the model knows, or requests that are harder to answer, move both losses alike.  #
    D0003

    With several classes, the calibration gap is that of the most likely class: how often this class is the label, minus
    its mean probability. The gap lies in [-1, 1] as with two classes, so that the stated run length is valid as well.
    # D0076

    All alarms together keep the stated run length. Each of the two values, and all slices together, get a multiple of
    the run length (a union bound). The scores of a ranking are not probabilities, so only the loss of its lists is
    watched.  # D0086

    A watch is also stored by version, so that after a rollback the earlier level of the version is watched again. The
    level of the last healthy version stays as a second anchor until seven days in a row have met that level. Canaries
    and shadows are watched as well, against the level of the version in service.  # D0187
    """

    def __init__(
        self,
        catalog: Catalog,
        model: str,
        *,
        run_length_days: float,
        calibrated: bool = True,
        owner: str | None = None,
        metric: str = "",
    ) -> None:
        self._metric = metric
        self._catalog = catalog
        self._model = model
        self._run_length = run_length_days
        self._owner = owner
        self.kinds: tuple[str, ...] = (LOSS, CALIBRATION) if calibrated else (LOSS,)  # the watched kinds
        self._arms = ArmWatches(catalog, model, self._stored)
        self.reload()

    @property
    def watch(self) -> Watch | None:
        """The watch over the version in service; None until the first version was anchored."""
        return self._watch

    def reload(self) -> None:
        """Read the watch again, because another process may have changed it."""
        record = self._catalog.get(KIND, self._model)
        self._revision = 0 if record is None else record.revision
        self._watch = None if record is None else msgspec.json.decode(record.body, type=Watch)
        self._arms.reload()

    def loss_cap(self, version: str) -> float:
        """The loss at which a row of a version is capped, fixed when its watch was anchored.

        A version that never had a watch has the same cap as the version in service.
        """
        watch = self._watch
        if watch is not None and watch.version == version:
            return watch.loss_cap
        known = self._arms.of(version) or self._stored(version) or watch
        return LOSS_CAP if known is None else known.loss_cap

    def anchor(
        self,
        version: str,
        reference: Sequence[DayQuality],
        *,
        at_us: int,
        loss_cap: float = LOSS_CAP,
        slices: Mapping[str, Sequence[DayQuality]] | None = None,
        allowance: Mapping[str, float] | None = None,
        name: str = "",
    ) -> tuple[Watch, list[Change]]:
        """A watch over `version` from out-of-sample days of its recipe, never from days that it answered in service.

        This method stores nothing. Write the changes together with the promotion of the version, then call `reload`.

        Args:
            version: The version to watch.
            reference: Days that the version's recipe was not fitted on, oldest first.
            at_us: When the version was made for service. Days that were over by then do not count as its own.
            loss_cap: The cap of the losses in `reference`, and of the losses of live days.
            slices: The reference days of each slice.
            allowance: By kind of signal, the allowed distance of a refit's days from its candidate's, in units of the
                value.
            name: The version's name, for people.
        """
        allowed = allowance or {}
        shared = len(self.kinds) + bool(slices)
        run_length = shared * self._run_length
        figures, unwatched = learnt_values(self.kinds, reference, run_length, allowed)
        each = run_length * len(self.kinds) * len(slices or {})
        of_slices = {kind: learnt_slices(kind, slices or {}, each, allowed) for kind in self.kinds}
        before = self._comparable()
        healthy, healthy_cap = _healthy(before), _healthy_cap(before)
        alike = [in_units_of(day, loss_cap, healthy_cap or loss_cap) for day in reference]
        watch = Watch(
            model=self._model,
            version=version,
            anchored_at_us=at_us,
            figures=figures,
            unwatched=unwatched,
            loss_cap=loss_cap,
            metric=self._metric,
            reference_loss=_mean_loss(reference),
            slices=of_slices[LOSS],
            slice_gaps=of_slices.get(CALIBRATION, {}),
            healthy=healthy,
            healthy_version=None if before is None or not healthy else before.healthy_version or before.version,
            healthy_cap=healthy_cap,
            short_of=shortfalls(healthy, alike),
        )
        return watch, [*self._puts(watch), *self._handed_over(watch, at_us, f"repaired by {name or version[:12]}")]

    def follow(self, version: str | None, *, now_us: int) -> bool:
        """Watch the version in service after its alias was moved by hand; return whether the watch changed.

        A version that was watched before gets its earlier level. Any other version has no reference, and is only
        compared with the level of the last healthy version.
        """
        before = self._watch
        if version is None or before is None or before.version == version:
            return False
        known, healthy = self._stored(version), _healthy(before)
        why = "the version was put in service by hand, and no days of its own recipe were kept"
        watch = Watch(
            model=self._model,
            version=version,
            anchored_at_us=now_us,
            figures={} if known is None else fresh(known.figures),
            unwatched=dict.fromkeys(self.kinds, why) if known is None else known.unwatched,
            loss_cap=before.loss_cap if known is None else known.loss_cap,
            metric=before.metric if known is None else known.metric,
            reference_loss=None if known is None else known.reference_loss,
            slices={} if known is None else fresh(known.slices),
            slice_gaps={} if known is None else fresh(known.slice_gaps),
            healthy=healthy,
            healthy_version=before.healthy_version or before.version,
            healthy_cap=_healthy_cap(before),
        )
        self._catalog.write([*self._puts(watch), *self._handed_over(watch, now_us, f"{version[:12]} answers")])
        self.reload()
        return True

    def follow_arms(self, arms: Mapping[str, str], *, now_us: int) -> None:
        """End the watches and the signals of arms that now point to other versions, or that no longer answer."""
        over = self._arms.over(arms, now_us)
        if not over:
            return
        changes: list[Change] = [self._arms.remove(watch) for watch in over]
        listed = listed_signals(self._catalog, self._model)
        for watch in over:
            because = dict.fromkeys(KINDS, f"{watch.version[:12]} does not answer as {watch.arm} any more")
            settled = settle(_about(listed, watch.arm), KINDS, (), now_us=now_us, because=because)
            changes += stored(settled, now_us)
        self._catalog.write(changes)
        self._arms.reload()

    def accept(self, *, now_us: int) -> tuple[Watch, list[Change]] | None:
        """The watch without its second anchor, as a person accepts the present level; None without such an anchor.

        This method stores nothing, like `anchor`.
        """
        before = self._watch
        if before is None or not before.healthy:
            return None
        watch = msgspec.structs.replace(before, healthy={}, healthy_version=None, healthy_cap=None, short_of={})
        put = Put(KIND, self._model, msgspec.json.encode(watch), expected=self._revision)
        listed = listed_signals(self._catalog, self._model)
        settled = settle(_about(listed), (LEVEL,), (), now_us=now_us, because={LEVEL: "accepted by a person"})
        return watch, [put, *stored(settled, now_us)]

    def observe(
        self,
        days: Sequence[DayQuality],
        *,
        now_us: int,
        also: Sequence[Change] = (),
        slices: Mapping[tuple[int, str], DayBlocks] | None = None,
        arms: Sequence[tuple[str, DayQuality]] = (),
    ) -> list[Signal]:
        """Add closed days, oldest first; return the signals that began.

        The watch, the signals and the changes in `also` are stored in one write, so that a crash keeps all of them or
        none. Some days change nothing: days of a version that is not watched, days that were over when the watch was
        anchored, and days that are not newer than the last one. Days in between without predictions are no evidence.

        Args:
            days: Days of all versions.
            now_us: The time of the look.
            also: Further changes to store in the same write.
            slices: By day and version, the blocks that contain the slices.
            arms: Days of canaries and shadows, oldest first, each with the name of its arm.

        Raises:
            Conflict: Another process changed the watch meanwhile. Nothing was stored; `reload` before the next call.
        """
        before = after = self._watch
        listed = listed_signals(self._catalog, self._model)
        changes: list[Change] = []
        begun: list[Signal] = []
        for day in days:
            if after is None or day.version != after.version or day.day_us + DAY_US <= after.anchored_at_us:
                continue
            if after.last_day_us is not None and day.day_us <= after.last_day_us:
                continue
            after = _after(after, day, (slices or {}).get((day.day_us, day.version)))
            settled = self._settled(listed, after, day, now_us)
            listed, begun = _with(listed, settled), begun + settled.begun
            changes += stored(settled, now_us)
        for arm, day in arms:
            if after is None or day.version == after.version:
                continue
            watch = self._arms.before((arm, day.version), day, after)
            if watch.last_day_us is not None and day.day_us <= watch.last_day_us:
                continue
            watch = self._arms.watches[arm, day.version] = _after(watch, day, None)
            settled = self._settled(listed, watch, day, now_us)
            listed, begun = _with(listed, settled), begun + settled.begun
            changes += [*stored(settled, now_us), self._arms.put(watch)]
        if after is not None and after is not before:
            put = Put(KIND, self._model, msgspec.json.encode(after), expected=self._revision)
            self._catalog.write([put, *changes, *also])
            self._watch, self._revision = after, self._revision + 1
        elif changes or also:
            self._catalog.write([*changes, *also])
        return begun

    def _settled(self, listed: Sequence[Signal], watch: Watch, day: DayQuality, now_us: int) -> Settled:
        found = signals_of(watch, day, now_us)
        return settle(_about(listed, watch.arm), KINDS, found, now_us=now_us, owner=self._owner)

    def _comparable(self) -> Watch | None:
        """The watch whose level the next version is compared with; None if its losses are of another metric."""
        before = self._watch
        return None if before is None or (before.metric and before.metric != self._metric) else before

    def _puts(self, watch: Watch) -> list[Change]:
        body = msgspec.json.encode(watch)
        return [
            Put(KIND, self._model, body, expected=self._revision),
            Put(KIND, f"{self._model}/{watch.version}", body),
        ]

    def _stored(self, version: str) -> Watch | None:
        """The watch that a version had when it was promoted."""
        return read_record(self._catalog, KIND, f"{self._model}/{version}", Watch)

    def _handed_over(self, watch: Watch, now_us: int, because: str) -> list[Change]:
        """The changes that end the replaced version's signals, and begin those of a level that the new one misses."""
        listed = listed_signals(self._catalog, self._model)
        found = signals_of(watch, None, now_us)
        why = dict.fromkeys(KINDS, because)
        settled = settle(_about(listed), KINDS, found, now_us=now_us, because=why, owner=self._owner)
        return stored(settled, now_us)


def _mean_loss(days: Sequence[DayQuality]) -> float | None:
    """The mean loss of a labelled row, in units of the cap; None if no row is labelled."""
    labelled = sum(day.labelled for day in days)
    return sum(day.capped_loss_sum for day in days) / labelled if labelled else None


def _about(listed: Sequence[Signal], arm: str = "") -> list[Signal]:
    """The quality signals of one arm, and the signals of all other kinds."""
    return [one for one in listed if one.kind not in KINDS or arm_of(one) == arm]


def _with(listed: Sequence[Signal], settled: Settled) -> list[Signal]:
    """All signals after some of them were replaced by settled ones."""
    now = {one.id: one for one in [*listed, *settled.listed]}
    gone = {one.id for one in settled.gone}
    return [one for one in now.values() if one.id not in gone]


def _healthy(before: Watch | None) -> dict[str, MetricValue]:
    """The second anchor of the next watch: a second anchor that still stands, else the level of this version."""
    if before is None:
        return {}
    return fresh(before.healthy or before.figures)


def _healthy_cap(before: Watch | None) -> float | None:
    """The cap of the losses of the second anchor's level."""
    if before is None:
        return None
    return before.healthy_cap or before.loss_cap if before.healthy else before.loss_cap


def _after(watch: Watch, day: DayQuality, blocks: DayBlocks | None) -> Watch:
    """The watch after one more closed day of the watched version."""
    skipped = 0 if watch.last_day_us is None else (day.day_us - watch.last_day_us) // DAY_US - 1
    alike = in_units_of(day, watch.loss_cap, watch.healthy_cap or watch.loss_cap)
    healthy = {kind: advanced(figure, kind, alike, skipped) for kind, figure in watch.healthy.items()}
    stand = {kind: figure for kind, figure in healthy.items() if figure.alarming or not met(figure)}
    told = _unlisted_severity(watch, day)
    since_us = watch.unlisted_day.day_us if watch.unlisted_day is not None else None
    over = since_us is not None and told == "no" and day.day_us - since_us >= 7 * DAY_US
    return msgspec.structs.replace(
        watch,
        figures={kind: advanced(figure, kind, day, skipped) for kind, figure in watch.figures.items()},
        slices=watch.slices if blocks is None else _slices_after(watch.slices, LOSS, blocks, skipped),
        slice_gaps=watch.slice_gaps
        if blocks is None
        else _slices_after(watch.slice_gaps, CALIBRATION, blocks, skipped),
        healthy=stand,
        healthy_version=watch.healthy_version if stand else None,
        short_of={kind: by for kind, by in watch.short_of.items() if kind in stand},
        first_day_us=day.day_us if watch.first_day_us is None else watch.first_day_us,
        last_day_us=day.day_us,
        silent_days=watch.silent_days + 1 if day.predictions and not day.labelled + day.unlisted else 0,
        unlisted=watch.unlisted + day.unlisted,
        unlisted_told="no" if over else told if told != "no" else watch.unlisted_told,
        unlisted_day=None if over else day if told != "no" else watch.unlisted_day,
    )


def _slices_after(
    figures: dict[str, MetricValue], kind: str, blocks: DayBlocks | None, skipped: int
) -> dict[str, MetricValue]:
    """The values of slices after one more day; a day without predictions of a slice is no evidence."""
    if blocks is None:
        return figures
    nothing = msgspec.structs.replace(blocks.quality(), predictions=0, labelled=0)
    return {
        name: advanced_slice(figure, kind, blocks.slice_quality(name) if name in blocks.slices else nothing, skipped)
        for name, figure in figures.items()
    }


def _unlisted_severity(watch: Watch, day: DayQuality) -> Literal["no", "info", "red"]:
    """The severity to signal for a day's labels of undeclared classes, once for each severity.  # D0076"""
    if not day.unlisted or watch.unlisted_told == "red":
        return "no"
    if day.unlisted >= UNLISTED_SHARE * (day.labelled + day.unlisted):
        return "red"
    return "info" if watch.unlisted_told == "no" else "no"


__all__ = ["CALIBRATION", "KIND", "LEVEL", "LOSS", "SILENT_DAYS", "SLICE", "MetricValue", "QualityMonitor", "Watch"]
