"""Quality alarms from labels: for the daily loss, the calibration, and slices of a version's predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec

from trimtab.core.records import LOSS_CAP, ChangeOnset, DayQuality, Signal
from trimtab.core.time import DAY_US
from trimtab.feedback.blocks import DayBlocks
from trimtab.monitoring.quality.arm_watches import ArmWatches, arm_of
from trimtab.monitoring.quality.earlier_levels import EarlierLevel, added, begun
from trimtab.monitoring.quality.quality_signals import KINDS, LEVEL, RENEWED, SILENT_DAYS, signals_of, unlisted_severity
from trimtab.monitoring.quality.references import grown, with_reference
from trimtab.monitoring.quality.second_references import healthy_cap_of, healthy_of, not_below_zero
from trimtab.monitoring.quality.watches import (
    CALIBRATION,
    LOSS,
    MET_DAYS,
    SLICE,
    SUSPICIOUS,
    MetricValue,
    ShortReference,
    Watch,
    advanced,
    advanced_slice,
    fresh,
    in_units_of,
    met,
    shortfalls,
)
from trimtab.monitoring.signals import Settled, every_signal, listed_signals, settle, stored
from trimtab.store.ports import Append, Catalog, Put, Remove, read_record

KIND = "quality_watch"
# evidence is carried over promotions for at most this long: after years, any small error of a mean would be an alarm
CARRIED_US = 90 * DAY_US
Change = Put | Remove | Append


class QualityMonitor:
    """Turns closed days (days whose wait for labels is over) of one model into signals about its quality.

    For each version there is a watch: the reference for its days, and the evidence against the version.

    If the scores are probabilities, the *excess loss* is watched: the loss minus the loss that is expected if these
    scores are right. If requests become harder to predict in a way that the model knows, both rise together and the
    excess loss does not change.  # D0003

    For a model of several classes, the calibration gap is about the likeliest class: its mean probability, minus how
    often it is the label. Like the gap of a binary model it is in [-1, 1]. # D0076

    The rate of false alarms that `run_length_days` states holds for all alarms together. For this, it is divided
    between the loss, the calibration gap and the slices (a union bound). The scores of a ranking are not probabilities,
    so only the loss of its lists is watched. # D0086

    Each watch is also stored under its version, so that after a roll-back, a version is compared with its earlier
    reference again. A version that replaces another also gets a second reference: the second reference of the replaced
    version or, if it has none, its own reference. The second reference is dropped once seven days of the new version
    are as good (see `met`), provided that the new version has a reference of its own. # D0223
    Canaries and shadows are watched, too, and compared with the reference of the version in service. # D0187
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
        classes: Sequence[str] = (),
    ) -> None:
        self._metric, self._classes = metric, tuple(sorted(classes))
        self._catalog = catalog
        self._model = model
        self._run_length = run_length_days
        self._owner = owner
        self.outlook: Callable[[Watch], str] = lambda watch: ""  # see `signals_of`
        self.name_of: Callable[[str], str] = lambda version: version[:12]  # the name of a version, given its id
        self.kinds: tuple[str, ...] = (LOSS, CALIBRATION) if calibrated else (LOSS,)
        self._arms = ArmWatches(catalog, model, self._stored)
        self.reload()

    @property
    def watch(self) -> Watch | None:
        """The watch over the version in service; None if no version was ever promoted."""
        return self._watch

    def reload(self) -> None:
        """Read the watch again, because another process may have changed it."""
        record = self._catalog.get(KIND, self._model)
        self._revision = 0 if record is None else record.revision
        self._watch = None if record is None else msgspec.json.decode(record.body, type=Watch)
        self._arms.reload()

    def loss_cap(self, version: str) -> float:
        """Return the cap of a version: larger losses of a row count as this. It does not change after the promotion.

        For a version without a watch, it is the cap of the version in service.
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
        continues: bool = False,
        after_change: bool = False,
        now_us: int | None = None,
    ) -> tuple[Watch, list[Change]]:
        """Return a watch over a new version, with the changes that store it.

        The watch compares later days with the reference days. The reference days were scored by a model that was fitted
        by the version's recipe (definition and way of fitting) on other rows.

        Nothing is stored by this call. Write the changes in the transaction that promotes the version, then call
        `reload`.

        Args:
            reference: The reference days, oldest first.
            at_us: The training cut of the version, or a later time. Days that ended before are not compared.
            loss_cap: Larger losses of a row count as this, in `reference` and on live days. It is the unit of losses
                in `reference`.
            slices: The reference days of each slice.
            allowance: For each kind of value, the distance from the reference up to which a day is no evidence against
                the version. Some distance is expected, because the candidate scored the reference days, and the version
                is its refit on more data.
            name: The name of the version, for messages.
            continues: Whether days of the replaced version that are closed after the promotion are still compared with
                the reference of that version (never if its watch has an alarm). This ends with the first closed day of
                the new version that begins at least seven days after `at_us`. # D0214
            after_change: Whether the version repairs a change of the data that is known without an alarm. It is then
                treated as after an alarm.
            now_us: When the signals of the replaced version end; by default at `at_us`.
        """
        before = self._comparable()
        after_alarm = before is not None and (after_change or before.alarming or bool(before.short_of))
        # without an alarm, the evidence goes on: a schedule that refits each month must not hide a small change
        begun_us = at_us if before is None or before.first_day_us is None else before.first_day_us
        goes_on = before is not None and not after_alarm and at_us - begun_us < CARRIED_US
        healthy = not_below_zero(healthy_of(before)) if after_alarm else healthy_of(before, goes_on=goes_on)
        healthy_cap = healthy_cap_of(before)
        alike = [in_units_of(day, loss_cap, healthy_cap or loss_cap) for day in reference]
        watch = Watch(
            model=self._model,
            version=version,
            anchored_at_us=at_us,
            figures={},
            loss_cap=loss_cap,
            metric=self._metric,
            classes=self._classes,
            healthy=healthy,
            healthy_version=None if before is None or not healthy else before.healthy_version or before.version,
            healthy_cap=healthy_cap,
            first_day_us=before.first_day_us if before is not None and goes_on else None,
            last_day_us=before.last_day_us if before is not None and goes_on else None,
            short_of=shortfalls(healthy, alike, after_alarm=after_alarm),
            short_since=None if after_alarm else _since(reference, at_us),
            earlier=None
            if before is None or after_alarm or not continues
            else msgspec.structs.replace(before, short=None),
            earlier_levels=_since_change(before, {"": reference, **(slices or {})}, loss_cap, self._metric),
        )
        given = {name: tuple(days) for name, days in (slices or {}).items()}
        days = ShortReference(days=tuple(reference), slices=given, allowance=dict(allowance or {}))
        watch = with_reference(watch, self.kinds, self._run_length, days)
        ended_us = at_us if now_us is None else now_us
        handed_over = self._handed_over(watch, ended_us, f"{name or self.name_of(version)} was put in service")
        return watch, [*self._puts(watch), *self._replaced(), *handed_over]

    def follow(self, version: str | None, *, now_us: int) -> bool:
        """Watch another version, because the alias was moved by hand. Return whether the watch changed.

        A version that was watched earlier gets its earlier reference. Any other version has no reference of its own,
        and is only compared with the second reference.
        """
        before = self._watch
        if version is None or before is None or before.version == version:
            return False
        known, healthy = self._stored(version), healthy_of(before)
        # if the version was replaced during an alarm, the alarm goes on: nothing says that the quality has come back
        alarmed = known is not None and (known.alarming or bool(known.slice_onsets))
        begin = dict if alarmed else fresh
        why = "the version was put in service by hand, and no reference days are stored for it"
        watch = Watch(
            model=self._model,
            version=version,
            anchored_at_us=now_us,
            figures={} if known is None else begin(known.figures),
            first_day_us=known.first_day_us if known is not None and alarmed else None,
            last_day_us=known.last_day_us if known is not None and alarmed else None,
            unwatched=dict.fromkeys(self.kinds, why) if known is None else known.unwatched,
            loss_cap=before.loss_cap if known is None else known.loss_cap,
            metric=before.metric if known is None else known.metric,
            classes=before.classes if known is None else known.classes,
            reference_loss=None if known is None else known.reference_loss,
            levels={} if known is None else known.levels,
            earlier_levels=_since_change(before, {}, before.loss_cap, self._metric),
            slices={} if known is None else begin(known.slices),
            slice_gaps={} if known is None else begin(known.slice_gaps),
            short=None if known is None else known.short,
            healthy=healthy,
            healthy_version=before.healthy_version or before.version,
            healthy_cap=healthy_cap_of(before),
            worse_since_us=before.changed_us,
        )
        handed_over = self._handed_over(watch, now_us, f"{self.name_of(version)} was put in service")
        self._catalog.write([*self._puts(watch), *self._replaced(), *handed_over])
        self.reload()
        return True

    def follow_arms(self, arms: Mapping[str, str], *, now_us: int, closed_us: int) -> None:
        """End the watches and signals of arms that now point to other versions, or that no longer answer.

        Args:
            arms: The version of each arm.
            closed_us: The end of the newest closed day.
        """
        over = self._arms.over(arms, closed_us)
        if not over:
            return
        changes: list[Change] = [self._arms.remove(watch) for watch in over]
        listed = listed_signals(self._catalog, self._model)
        for watch in over:
            because = dict.fromkeys(KINDS, f"{self.name_of(watch.version)} no longer answers as {watch.arm}")
            settled = settle(_about(listed, watch.arm), KINDS, (), now_us=now_us, because=because)
            changes += stored(settled, now_us)
        self._catalog.write(changes)
        self._arms.reload()

    def accept(self, *, now_us: int) -> tuple[Watch, list[Change]] | None:
        """Return the watch without second reference and earlier levels, because a person accepts the present quality.

        Also return the changes that store the watch. The result is None if no signal says that the quality is worse
        than an earlier level.

        Nothing is stored by this call; see `anchor`.
        """
        before, listed = self._watch, listed_signals(self._catalog, self._model)
        worse = any(one.kind == LEVEL and one.ended_at_us is None for one in _about(listed))
        if before is None or not worse:
            return None
        nothing: dict[str, object] = {"healthy": {}, "healthy_version": None, "healthy_cap": None, "short_of": {}}
        watch = msgspec.structs.replace(before, **nothing, earlier=None, earlier_levels={}, worse_since_us=None)
        put = Put(KIND, self._model, msgspec.json.encode(watch), expected=self._revision)
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
        """Compare closed days with the references, oldest first, and return the signals that began.

        The watch, the signals and the changes in `also` are stored in one transaction, so a crash keeps all of them or
        none. Days are skipped if their version is not watched, if they were over before the version was put in service,
        or if they are not newer than the last day that was compared. Days without predictions are no evidence.

        Args:
            days: Closed days, of any version.
            also: Further changes to store in the same transaction.
            slices: By day and version, the sums of days together with the sums of their slices.
            arms: Closed days of canaries and shadows, oldest first, each with the name of its arm.

        Raises:
            Conflict: Another process has changed the watch. Nothing was stored. Call `reload` before the next call.
        """
        before = after = self._watch
        listed = listed_signals(self._catalog, self._model)
        changes: list[Change] = []
        begun: list[Signal] = []
        for day in days:
            if after is None:
                continue
            blocks = (slices or {}).get((day.day_us, day.version))
            compared = _compared(after, day, blocks)
            if compared is after:
                continue
            after = compared
            if after.short is not None and day.version == after.version:
                after = grown(after, day, blocks, self.kinds, self._run_length)
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
            if before is not None and before.short is not None:
                changes.append(self._put_own(after))
            put = Put(KIND, self._model, msgspec.json.encode(after), expected=self._revision)
            self._catalog.write([put, *changes, *also])
            self._watch, self._revision = after, self._revision + 1
        elif changes or also:
            self._catalog.write([*changes, *also])
        return begun

    def _settled(self, listed: Sequence[Signal], watch: Watch, day: DayQuality, now_us: int) -> Settled:
        standing = {one.subject for one in listed if one.ended_at_us is None}
        found = signals_of(watch, day, now_us, standing, self.name_of, declared=self._classes, outlook=self.outlook)
        settled = partial(settle, _about(listed, watch.arm), KINDS, found, now_us=now_us, owner=self._owner)
        first = settled(renewing=RENEWED)
        if all(one.cause or one.severity != "red" for one in first.begun):
            return first
        # the cause may have ended so long ago that it is no longer listed
        earlier = [one for one in every_signal(self._catalog) if one.model == self._model]
        return settled(renewing=RENEWED, earlier=earlier)

    def _comparable(self) -> Watch | None:
        """Return the watch that a new version can be compared with; None if its metric or its classes are others."""
        before = self._watch
        other = before is not None and (
            (before.metric and before.metric != self._metric) or (before.classes and before.classes != self._classes)
        )
        return None if other else before

    def _puts(self, watch: Watch) -> list[Change]:
        put = Put(KIND, self._model, msgspec.json.encode(watch), expected=self._revision)
        return [put, self._put_own(watch)]

    def _replaced(self) -> list[Put]:
        """Return the change that stores the watch of the replaced version with its alarms, for a roll-back to it."""
        return [] if self._watch is None else [self._put_own(self._watch)]

    def _put_own(self, watch: Watch) -> Put:
        """Return the change that stores the watch under its version, for a roll-back to this version."""
        own = msgspec.json.encode(msgspec.structs.replace(watch, earlier=None))
        return Put(KIND, f"{self._model}/{watch.version}", own)

    def _stored(self, version: str) -> Watch | None:
        """Return the newest watch that is stored for a roll-back to a version; None if it never was in service."""
        return read_record(self._catalog, KIND, f"{self._model}/{version}", Watch)

    def _handed_over(self, watch: Watch, now_us: int, because: str) -> list[Change]:
        """Return the changes of signals when a version takes over.

        Signals of the replaced version end. Signals begin if the new version's reference is worse than its second
        reference.
        """
        listed = listed_signals(self._catalog, self._model)
        found = signals_of(watch, None, now_us, (), self.name_of)
        why = dict.fromkeys(KINDS, because)
        settled = settle(_about(listed), KINDS, found, now_us=now_us, because=why, owner=self._owner)
        return stored(settled, now_us)


def _about(listed: Sequence[Signal], arm: str = "") -> list[Signal]:
    """Return the quality signals of one arm, together with all signals of other kinds."""
    return [one for one in listed if one.kind not in KINDS or arm_of(one) == arm]


def _with(listed: Sequence[Signal], settled: Settled) -> list[Signal]:
    """Return all signals after the changes in `settled`."""
    now = {one.id: one for one in [*listed, *settled.listed]}
    gone = {one.id for one in settled.gone}
    return [one for one in now.values() if one.id not in gone]


def _compared(watch: Watch, day: DayQuality, blocks: DayBlocks | None) -> Watch:
    """Return the watch after one more closed day, which may be of the version that `watch.earlier` is about.

    The same object is returned if the day is not compared: its version is not watched, it was over before the version
    was put in service, or it is not newer than the last day.
    """
    if day.version != watch.version:
        earlier = None if watch.earlier is None else _compared(watch.earlier, day, blocks)
        return watch if earlier is watch.earlier else msgspec.structs.replace(watch, earlier=earlier)
    if day.day_us + DAY_US <= watch.anchored_at_us:
        return watch
    if watch.last_day_us is not None and day.day_us <= watch.last_day_us:
        return watch
    if day.day_us >= watch.anchored_at_us + MET_DAYS * DAY_US:
        watch = msgspec.structs.replace(watch, earlier=None, worse_since_us=None)
    return _after(watch, day, blocks)


def _after(watch: Watch, day: DayQuality, blocks: DayBlocks | None) -> Watch:
    """Return the watch after one more closed day of its version."""
    skipped = 0 if watch.last_day_us is None else (day.day_us - watch.last_day_us) // DAY_US - 1
    alike = in_units_of(day, watch.loss_cap, watch.healthy_cap or watch.loss_cap)
    healthy = {kind: advanced(figure, kind, alike, skipped) for kind, figure in watch.healthy.items()}
    worse = {kind for kind, figure in healthy.items() if figure.alarming or not met(figure, after=watch.days_before)}
    stand = {
        kind: figure
        for kind, figure in healthy.items()
        if kind in worse or kind not in watch.figures or figure.state.log_evidence > SUSPICIOUS
    }
    is_silent = bool(day.predictions) and not day.labelled + day.unlisted
    silent_us = day.day_us if watch.silent_since_us is None else watch.silent_since_us
    told = unlisted_severity(watch, day)
    last = day if day.unlisted else watch.unlisted_day
    over = last is not None and day.day_us - last.day_us >= 7 * DAY_US
    return msgspec.structs.replace(
        watch,
        figures={kind: advanced(figure, kind, day, skipped) for kind, figure in watch.figures.items()},
        slices=_slices_after(watch.slices, LOSS, blocks, skipped),
        slice_gaps=_slices_after(watch.slice_gaps, CALIBRATION, blocks, skipped),
        healthy=stand,
        healthy_version=watch.healthy_version if stand else None,
        short_of={kind: by for kind, by in watch.short_of.items() if kind in worse},
        earlier_levels=_levels_after(watch, day, blocks),
        first_day_us=day.day_us if watch.first_day_us is None else watch.first_day_us,
        last_day_us=day.day_us,
        silent_days=watch.silent_days + 1 if is_silent else 0,
        silent_since_us=silent_us if is_silent else None,
        unlisted=watch.unlisted + day.unlisted,
        unlisted_told="no" if over else told if told != "no" else watch.unlisted_told,
        unlisted_day=None if over else last,
        unlisted_since_us=None if over or last is None else watch.unlisted_since_us or last.day_us,
    )


def _since(reference: Sequence[DayQuality], at_us: int) -> ChangeOnset | None:
    """Return when a change that reference days show may have begun: from the first of the newest 14 until `at_us`."""
    days = [day.day_us for day in reference if day.labelled][-14:]
    return ChangeOnset(at_us=days[0], earliest_us=days[0], latest_us=at_us) if days else None


def _since_change(
    before: Watch | None, days: Mapping[str, Sequence[DayQuality]], cap: float, metric: str
) -> dict[str, EarlierLevel]:
    """Return the earlier levels of the loss that the next version has to reach again.

    These are the levels that the replaced version has not reached, and those before the changes it has alarms about. If
    scores are not probabilities, there is none for all rows, because the second reference is about the loss itself.

    Args:
        days: The reference days of the next version, for all rows ("") and for each slice.
        cap: The unit in which the losses of these days are stored.
    """
    if before is None:
        return {}
    onsets = before.slice_onsets
    changed_us = [one.at_us for one in (before.onset, *onsets.values()) if one is not None]
    loss = before.figures.get(LOSS)
    names = [*([""] if changed_us and (loss is None or loss.excess) else []), *onsets]
    new = begun(before.levels, names, before.version, max(changed_us, default=0))
    fresh_levels = {
        name: added(msgspec.structs.replace(one, days=()), days.get(name, ()), cap, metric, of_slice=name != "")
        for name, one in {**new, **before.earlier_levels}.items()
    }
    return {name: one for name, one in fresh_levels.items() if one is not None}


def _levels_after(watch: Watch, day: DayQuality, blocks: DayBlocks | None) -> dict[str, EarlierLevel]:
    """Return the earlier levels that are not reached after one more day."""
    found = dict(watch.earlier_levels)
    for name, one in watch.earlier_levels.items():
        there = not name or (blocks is not None and name in blocks.slices)
        mine = [] if not there else [blocks.slice_quality(name) if name and blocks is not None else day]
        after = added(one, mine, watch.loss_cap, watch.metric, of_slice=name != "")
        if after is None:
            del found[name]
        else:
            found[name] = after
    return found


def _slices_after(
    figures: dict[str, MetricValue], kind: str, blocks: DayBlocks | None, skipped: int
) -> dict[str, MetricValue]:
    """Return the values of slices after one more day. A day without rows of a slice is no evidence."""
    if blocks is None:
        return figures
    nothing = msgspec.structs.replace(blocks.quality(), predictions=0, labelled=0)
    return {
        name: advanced_slice(figure, kind, blocks.slice_quality(name) if name in blocks.slices else nothing, skipped)
        for name, figure in figures.items()
    }


__all__ = ["CALIBRATION", "KIND", "LEVEL", "LOSS", "SILENT_DAYS", "SLICE", "MetricValue", "QualityMonitor", "Watch"]
