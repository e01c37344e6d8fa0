"""Blocks: sums over predictions of an hour, a day or a slice, from which quality is computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.records import DayQuality
from trimtab.core.time import HOUR_US
from trimtab.stats.exact_sums import ExactSum, add_exact, exact_sum, rounded
from trimtab.stats.metrics.loss_names import PROBABILITY_LOSSES
from trimtab.stats.metrics.losses import Loss, bounded_losses, expected_losses, row_losses
from trimtab.stats.metrics.multiclass import top_class

BINS = 20  # for probabilities, the number of bins, all of equal width
_STEPS = 4  # for other numbers, each doubling has this many bins
_MOST = 1e290  # larger values are cut to this, so that sums stay finite


class BlockSums(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Sums over predictions that no longer wait for labels. The sums are exact, so blocks can be added in any order.

    Scores, labels and losses are summed over labelled rows. The histogram counts all rows. For a model of several
    classes, the score of a row is the probability of its likeliest class, and the label is 1 if that class was right,
    and otherwise 0.
    """

    predictions: int = 0
    labelled: int = 0
    missing: int = 0  # rows for which no label arrived within the waiting time
    unlisted: int = 0  # rows whose label is not one of the declared classes
    late: int = 0  # labelled rows whose label arrived after the waiting time; only amended blocks have such rows
    score: ExactSum = ()
    label: ExactSum = ()
    loss: ExactSum = ()
    capped_loss: ExactSum = ()  # the sum of the losses, each cut to the cap and divided by it
    # the expected value of `capped_loss` if the scores are the true probabilities; None: undefined
    expected_loss: ExactSum | None = None
    score_squares: ExactSum = ()
    label_squares: ExactSum = ()
    loss_squares: ExactSum = ()
    histogram: dict[int, int] = {}  # the number of rows in each bin of `score_bins`


_COUNTS = ("predictions", "labelled", "missing", "unlisted", "late")
_SUMS = ("score", "label", "loss", "capped_loss", "score_squares", "label_squares", "loss_squares")


class DayBlocks(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The sums over one version's predictions on one UTC day, after the wait for their labels is over."""

    model: str
    version: str
    arm: str
    day_us: int
    cap: float  # the cap of `capped_loss`: larger losses of rows count as this
    whole: BlockSums  # the sums of the whole day
    # sums for each hour of the day; empty for rankings, whose lists are only summed up by day
    hours: dict[int, BlockSums] = {}
    slices: dict[str, BlockSums] = {}  # sums for each slice, such as "carrier=UA"
    # for several classes: sums for each class, in which the score is its probability, and the label is 1 for this class
    classes: dict[str, BlockSums] = {}
    # the sums of the day with late and corrected labels; None: none were found yet
    amended: BlockSums | None = None
    amended_at_us: int | None = None  # when `amended` was last computed

    def quality(self) -> DayQuality:
        """Return the summary of the day, without later amendments."""
        classes = {name: (rounded(one.label), rounded(one.score)) for name, one in self.classes.items()}
        return msgspec.structs.replace(_quality(self, self.whole), classes=classes)

    def slice_quality(self, name: str) -> DayQuality:
        """Return the summary of one slice of the day."""
        return _quality(self, self.slices[name])


def merged(blocks: Iterable[BlockSums]) -> BlockSums:
    """Return the sum of blocks; without blocks, an empty block."""
    found = [one for one in blocks if one.predictions]
    if len(found) == 1:
        return found[0]
    expected = [one.expected_loss for one in found]
    histogram: dict[int, int] = {}
    for one in found:
        for place, count in one.histogram.items():
            histogram[place] = histogram.get(place, 0) + count
    summed: dict[str, Any] = {name: sum(getattr(one, name) for one in found) for name in _COUNTS}
    summed |= {name: add_exact(*(getattr(one, name) for one in found)) for name in _SUMS}
    return BlockSums(
        **summed,
        expected_loss=None if None in expected else add_exact(*(one for one in expected if one is not None)),
        histogram=dict(sorted(histogram.items())),
    )


def merged_days(days: Iterable[DayBlocks]) -> list[DayBlocks]:
    """Add up blocks of the same day, version and arm."""
    groups: dict[tuple[int, str, str], list[DayBlocks]] = {}
    for one in days:
        groups.setdefault((one.day_us, one.version, one.arm), []).append(one)
    return [group[0] if len(group) == 1 else _one_day(group) for _, group in sorted(groups.items())]


def day_qualities(days: Iterable[DayBlocks]) -> list[DayQuality]:
    """Return one summary per day and version, added up over arms, oldest first."""
    return [one.quality() for one in over_arms(days).values()]


def over_arms(days: Iterable[DayBlocks]) -> dict[tuple[int, str], DayBlocks]:
    """Return one block per day and version, added up over arms, oldest first."""
    found = merged_days(msgspec.structs.replace(one, arm="") for one in days)
    return {(one.day_us, one.version): one for one in found}


def block_days(
    model: str,
    metric: Loss,
    version: str,
    arm: str,
    at_us: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any],
    *,
    cap: float,
    unlisted: NDArray[Any],
    late: NDArray[Any],
    slices: Mapping[str, NDArray[Any]] | None = None,
    classes: Sequence[str] = (),
) -> DayBlocks:
    """Return the blocks of one version's predictions on one UTC day.

    Args:
        arm: The alias under which the version answered.
        at_us: The time of each prediction, int64, shape (rows,). All are on one day.
        scores: The scores, shape (rows,). For several classes the shape is (rows, classes).
        labels: The labels, shape (rows,). NaN: no label arrived, or it is not one of the classes.
        cap: The largest loss of a row in `capped_loss`, which is the sum of min(loss, cap) / cap.
        unlisted: A mask of the rows whose label is not one of the declared classes.
        late: A mask of the rows whose label arrived after the waiting time.
        slices: For each column or expression, the value of each row as text. True: the row is in the slice with the
            name of the expression. None: it is in no slice.
        classes: The names of the classes, in the order of the scores.
    """
    rows = _Rows(metric, scores, labels, cap, unlisted, late)
    day_us = int(at_us[0]) // (24 * HOUR_US) * 24 * HOUR_US
    hours = (at_us - day_us) // HOUR_US
    found: dict[str, BlockSums] = {}
    for name, values in (slices or {}).items():
        there = np.flatnonzero(values != None)  # noqa: E711 an element-wise comparison
        numbers: dict[str | bool, int] = {}
        placed = [numbers.setdefault(kind, len(numbers)) for kind in values[there].tolist()]
        for kind, sums in zip(numbers, rows.groups(there, np.array(placed, np.int64), len(numbers)), strict=True):
            found[name if kind is True else f"{name}={kind}"] = sums
    names, codes = np.unique(hours, return_inverse=True)
    by_hour = rows.groups(np.arange(len(at_us)), codes.reshape(-1), len(names))
    return DayBlocks(
        model=model,
        version=version,
        arm=arm,
        day_us=day_us,
        cap=cap,
        whole=merged(by_hour),
        hours=dict(zip(names.tolist(), by_hour, strict=True)),
        slices=found,
        classes={} if scores.ndim == 1 else dict(zip(classes, _of_classes(scores, labels), strict=True)),
    )


def block_of_lists(day: DayQuality, arm: str, cap: float) -> DayBlocks:
    """Return the block of one day of a ranking, in which each list counts as a whole."""
    whole = BlockSums(
        predictions=day.predictions,
        labelled=day.labelled,
        missing=day.missing,
        loss=exact_sum([day.loss_sum]),
        capped_loss=exact_sum([day.capped_loss_sum]),
    )
    return DayBlocks(model=day.model, version=day.version, arm=arm, day_us=day.day_us, cap=cap, whole=whole)


def score_bins(metric: Loss, scores: NDArray[Any]) -> NDArray[np.int64]:
    """Return the histogram bin of each score, shape (rows,).

    Probabilities have 20 bins of equal width. Other numbers have 4 bins for each doubling, mirrored below 0; 0 has bin
    0. So no range has to be known in advance, and all blocks have the same bins.

    >>> score_bins("brier", np.array([0.0, 0.05, 1.0])).tolist()
    [0, 1, 19]
    >>> score_bins("squared_error", np.array([0.0, 1.0, 2.0, -2.0])).tolist()
    [0, 401, 405, -405]
    """
    if metric in PROBABILITY_LOSSES:
        return np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    size = np.abs(scores)
    there = size > 0.0
    place = np.zeros(len(scores), np.int64)
    place[there] = np.clip(np.floor(_STEPS * np.log2(size[there])), -100 * _STEPS, None).astype(np.int64)
    return np.where(there, np.sign(scores).astype(np.int64) * (place + 100 * _STEPS + 1), 0)


def _of_classes(scores: NDArray[Any], labels: NDArray[Any]) -> Iterator[BlockSums]:
    there = ~np.isnan(labels)
    for number, probabilities in enumerate(scores[there].T.tolist()):
        label = exact_sum([float((labels == number).sum())])
        rows = len(probabilities)
        yield BlockSums(predictions=rows, labelled=rows, score=exact_sum(probabilities), label=label)


class _Rows:
    """The values of rows that are added up in blocks."""

    def __init__(
        self,
        metric: Loss,
        scores: NDArray[Any],
        labels: NDArray[Any],
        cap: float,
        unlisted: NDArray[Any],
        late: NDArray[Any],
    ) -> None:
        self._labelled = ~np.isnan(labels)
        self._unlisted, self._late = unlisted, late & self._labelled
        there = self._labelled
        y, p = labels[there], scores[there]
        with np.errstate(over="ignore"):  # infinite values become `_MOST`
            losses = row_losses(metric, y, p) if len(y) else np.zeros(0)
        expected = expected_losses(metric, p, cap)
        self._bins = score_bins(metric, scores.max(axis=1) if scores.ndim == 2 else scores)
        if p.ndim == 2:
            p, y = top_class(y, p)
        summed = {"score": p, "label": y, "loss": losses, "capped_loss": bounded_losses(losses, cap)}
        with np.errstate(over="ignore"):
            summed |= {"score_squares": p * p, "label_squares": y * y, "loss_squares": losses * losses}
        if expected is not None:
            summed["expected_loss"] = expected
        self._summed = {}
        for name, values in summed.items():
            self._summed[name] = np.zeros(len(labels))
            self._summed[name][there] = np.clip(values, -_MOST, _MOST)  # losses and squares may be infinite

    def groups(self, rows: NDArray[Any], codes: NDArray[Any], count: int) -> list[BlockSums]:
        """Return the sums for each group of rows. `codes` is the index of each row's group, below `count`."""
        order = np.argsort(codes, kind="stable")
        rows, codes = rows[order], codes[order]
        there = self._labelled[rows]
        labelled_rows, labelled_codes = rows[there], codes[there]
        ends = np.searchsorted(labelled_codes, np.arange(count + 1)).tolist()
        lists = {name: values[labelled_rows].tolist() for name, values in self._summed.items()}
        predictions = np.bincount(codes, minlength=count).tolist()
        labelled = np.bincount(labelled_codes, minlength=count).tolist()
        unlisted = np.bincount(codes[self._unlisted[rows]], minlength=count).tolist()
        late = np.bincount(codes[self._late[rows]], minlength=count).tolist()
        histograms = _histograms(self._bins[rows], codes, count)
        return [
            BlockSums(
                predictions=predictions[n],
                labelled=labelled[n],
                missing=predictions[n] - labelled[n] - unlisted[n],
                unlisted=unlisted[n],
                late=late[n],
                histogram=histograms[n],
                **{name: exact_sum(values[ends[n] : ends[n + 1]]) for name, values in lists.items()},
            )
            for n in range(count)
        ]


def _histograms(bins: NDArray[Any], codes: NDArray[Any], count: int) -> list[dict[int, int]]:
    found: list[dict[int, int]] = [{} for _ in range(count)]
    if len(bins):
        least, width = int(bins.min()), int(np.ptp(bins)) + 1
        pairs, counts = np.unique(codes * width + (bins - least), return_counts=True)
        for code, place, rows in zip((pairs // width).tolist(), (pairs % width).tolist(), counts.tolist(), strict=True):
            found[code][place + least] = rows
    return found


def _one_day(parts: list[DayBlocks]) -> DayBlocks:
    return msgspec.structs.replace(
        parts[0],
        whole=merged(one.whole for one in parts),
        hours=_merged_each([one.hours for one in parts]),
        slices=_merged_each([one.slices for one in parts]),
        classes=_merged_each([one.classes for one in parts]),
    )


def _merged_each(parts: Sequence[Mapping[Any, BlockSums]]) -> dict[Any, BlockSums]:
    """Return the sum of the blocks with the same key, for each key in order."""
    return {key: merged(one[key] for one in parts if key in one) for key in sorted({*chain(*parts)})}


def _quality(day: DayBlocks, sums: BlockSums) -> DayQuality:
    return DayQuality(
        model=day.model,
        version=day.version,
        day_us=day.day_us,
        predictions=sums.predictions,
        labelled=sums.labelled,
        missing=sums.missing,
        score_sum=rounded(sums.score),
        label_sum=rounded(sums.label),
        loss_sum=rounded(sums.loss),
        capped_loss_sum=rounded(sums.capped_loss),
        expected_loss_sum=None if sums.expected_loss is None else rounded(sums.expected_loss),
        unlisted=sums.unlisted,
    )
