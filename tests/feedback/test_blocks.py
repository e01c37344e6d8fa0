"""Quality blocks against a plain reading of their rows: any split merges to the same bits."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.time import DAY_US, HOUR_US
from trimtab.feedback.blocks import BlockSums, DayBlocks, block_days, merged, merged_days, over_arms, score_bins
from trimtab.stats.exact_sums import add_exact, exact_sum, rounded, total_of
from trimtab.stats.metrics.losses import row_losses

finite = st.floats(-1e150, 1e150, allow_nan=False, allow_infinity=False)


@pytest.mark.fast
@given(st.lists(finite, max_size=30), st.randoms())
def test_an_exact_sum_is_that_of_fractions_in_any_order(values: list[float], shuffled: Any) -> None:
    total = exact_sum(values)
    assert sum(map(Fraction, total), Fraction()) == sum(map(Fraction, values), Fraction())
    assert rounded(total) == math.fsum(values)
    again = list(values)
    shuffled.shuffle(again)
    cut = len(again) // 3
    parts = (exact_sum(again[:cut]), exact_sum(again[cut:]))
    assert add_exact(*parts) == total
    assert total_of(parts) == math.fsum(values)


rows = st.lists(
    st.tuples(
        st.integers(0, 23),  # hour
        st.floats(0.001, 0.999),
        st.sampled_from([0.0, 1.0, math.nan]),
        st.sampled_from(["UA", "DL", None]),
        st.booleans(),
    ),
    min_size=1,
    max_size=40,
)


def blocks(some: list[Any], metric: str = "log_loss", cap: float = 2.0) -> DayBlocks:
    hours, scores, labels, carriers, late = (list(column) for column in zip(*some, strict=True))
    return block_days(
        "m",
        metric,
        "v1",
        "champion",
        3 * DAY_US + np.array(hours) * HOUR_US,
        np.array(scores),
        np.array(labels),
        cap=cap,
        unlisted=np.zeros(len(some), bool),
        late=np.array(late),
        slices={"carrier": np.array(carriers, object)},
    )


def check(sums: BlockSums, some: list[Any], cap: float) -> None:
    labelled = [(s, y, late) for _, s, y, _, late in some if not math.isnan(y)]
    losses = [float(row_losses("log_loss", [y], [s])[0]) for s, y, _ in labelled]
    assert (sums.predictions, sums.labelled) == (len(some), len(labelled))
    assert sums.missing == len(some) - len(labelled)
    assert sums.late == sum(late for _, _, late in labelled)
    assert rounded(sums.score) == math.fsum(s for s, _, _ in labelled)
    assert rounded(sums.label) == math.fsum(y for _, y, _ in labelled)
    assert rounded(sums.loss) == pytest.approx(math.fsum(losses), rel=1e-12)
    assert rounded(sums.capped_loss) == pytest.approx(math.fsum(min(one, cap) / cap for one in losses), rel=1e-12)
    assert sum(sums.histogram.values()) == len(some)
    for place, count in sums.histogram.items():
        assert count == sum(int(s * 20) == place for _, s, _, _, _ in some)


@given(rows)
def test_the_whole_hours_and_slices_are_the_sums_of_their_rows(some: list[Any]) -> None:
    day = blocks(some)
    assert day.day_us == 3 * DAY_US
    check(day.whole, some, 2.0)
    assert set(day.hours) == {hour for hour, *_ in some}
    for hour, sums in day.hours.items():
        check(sums, [one for one in some if one[0] == hour], 2.0)
    assert set(day.slices) == {f"carrier={one[3]}" for one in some if one[3] is not None}
    for name, sums in day.slices.items():
        check(sums, [one for one in some if name == f"carrier={one[3]}"], 2.0)


@given(rows, rows, rows)
def test_blocks_of_any_parts_merge_to_the_bits_of_all_rows_at_once(
    one: list[Any], two: list[Any], three: list[Any]
) -> None:
    (whole,) = merged_days([blocks([*one, *two, *three])])
    (parts,) = merged_days([blocks(three), blocks(one), blocks(two)])
    assert parts == whole
    assert merged(whole.hours.values()) == whole.whole
    assert msgspec.json.decode(msgspec.json.encode(whole), type=DayBlocks) == whole


@pytest.mark.fast
def test_numbers_of_any_size_have_finite_sums_and_bins() -> None:
    day = blocks([(0, 1e200, -1e200, "UA", False), (0, -0.0, 1.0, None, False)], metric="squared_error")
    assert all(math.isfinite(part) for part in (*day.whole.loss, *day.whole.loss_squares))
    assert day.whole.expected_loss is None
    bins = score_bins("squared_error", np.array([-1e300, -1.0, -1e-300, 0.0, 1e-300, 1.0, 1e300]))
    assert (np.diff(bins) > 0).all()
    assert bins[3] == 0


@pytest.mark.fast
def test_no_rows_merge_to_an_empty_block() -> None:
    assert merged([]) == BlockSums(expected_loss=())
    assert merged([BlockSums(), BlockSums(predictions=1, missing=1, expected_loss=())]).predictions == 1


def test_the_arms_of_a_version_are_added_up_with_their_slices() -> None:
    one, two = (blocks([(hour, 0.5, 1.0, "UA", False)]) for hour in (1, 2))
    ((of, both),) = over_arms([one, msgspec.structs.replace(two, arm="canary")]).items()
    assert of == (3 * DAY_US, "v1")
    assert (both.whole.predictions, both.slices["carrier=UA"].predictions) == (2, 2)
