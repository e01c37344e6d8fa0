from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from trimtab.core.columns.data import Columns, column
from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.time import DAY_US
from trimtab.store.file_blob import FileBlob
from trimtab.training import TrainingSet, build_training_set, save_training_set
from trimtab.training.data.sets import LeftOut, assemble, load_manifest, load_training_set

pytestmark = pytest.mark.fast


def test_a_set_keeps_every_request_in_its_order_and_counts_its_states(world: Any, training_set: TrainingSet) -> None:
    manifest = training_set.manifest
    assert training_set.rows == world.requests.rows
    assert training_set.keys.to_list() == world.requests["flight_id"].to_list()
    assert sum(manifest.by_state.values()) == training_set.rows
    assert set(manifest.by_state) >= {"labelled", "pending", "missing"}
    assert sum(manifest.by_reason["carrier.late_rate_7d"].values()) == training_set.rows
    assert manifest.usable == training_set.usable.sum()


def test_only_rows_whose_label_is_final_at_the_cut_are_usable(world: Any, training_set: TrainingSet) -> None:
    final = training_set.at_us + DAY_US <= world.cut_us
    assert not training_set.usable[~final].any()
    assert (training_set.usable == (final & ~np.isnan(training_set.target))).all()


def test_rows_after_the_cut_are_left_out_and_the_rest_does_not_change(world: Any, training_set: TrainingSet) -> None:
    earlier = world.training_set(cut_us=world.cut_us - 10 * DAY_US)
    kept = training_set.at_us <= world.cut_us - 10 * DAY_US
    assert earlier.rows == kept.sum()
    for name in earlier.features.values.names:
        one, other = earlier.features.values[name], training_set.features.values[name].take(kept)
        assert one.to_list() == other.to_list()
    assert (earlier.label_known_at_us[earlier.usable] <= world.cut_us - 10 * DAY_US).all()


def test_a_set_is_stored_with_the_same_bytes_every_time_and_comes_back(world: Any, tmp_path: Path) -> None:
    blob = FileBlob(tmp_path / "blobs")
    first, again = world.training_set(), world.training_set()
    digest = save_training_set(first, blob)
    assert save_training_set(again, blob) == digest
    back = load_training_set(digest, blob, key="flight_id")
    assert back.manifest == first.manifest
    assert back.keys.to_list() == first.keys.to_list()
    np.testing.assert_array_equal(back.target, first.target)
    np.testing.assert_array_equal(back.usable, first.usable)
    np.testing.assert_array_equal(back.label_known_at_us, first.label_known_at_us)
    assert {n: c.to_list() for n, c in back.features.values.by_name.items()} == {
        n: c.to_list() for n, c in first.features.values.by_name.items()
    }
    assert save_training_set(back, blob) == digest


def test_another_value_another_address(world: Any, training_set: TrainingSet, tmp_path: Path) -> None:
    blob = FileBlob(tmp_path / "blobs")
    changed = training_set.requests.replace({"distance": column("float", [1.0] * training_set.rows)})
    other = assemble(
        world.model,
        changed,
        training_set.at_us,
        training_set.features,
        lambda: training_set.labels,
        cut_us=world.cut_us,
        positions={"p0": 9},
    )
    assert other.manifest.data_hash != training_set.manifest.data_hash
    assert save_training_set(other, blob) != save_training_set(training_set, blob)


def test_rows_of_faulty_times_stay_in_the_set_and_are_not_usable(
    world: Any, training_set: TrainingSet, tmp_path: Path
) -> None:
    blob, at_us = FileBlob(tmp_path / "blobs"), training_set.at_us
    first, last = int(at_us[100]), int(at_us[300])
    spans = [
        LeftOut(start_us=first, end_us=last, why="null_values of column distance"),
        LeftOut(start_us=first - 1, end_us=first + 1, why="traffic"),
        LeftOut(start_us=-10, end_us=0, why="long ago"),
    ]
    made = assemble(
        world.model,
        training_set.requests,
        at_us,
        training_set.features,
        lambda: training_set.labels,
        cut_us=world.cut_us,
        positions={"p0": 9},
        left_out=spans,
    )
    within = (at_us >= first) & (at_us < last)
    np.testing.assert_array_equal(made.usable, training_set.usable & ~within)
    assert made.rows == training_set.rows
    assert made.manifest.usable == int(made.usable.sum())
    assert made.manifest.data_hash == training_set.manifest.data_hash
    counted = {one.why: one.rows for one in made.manifest.left_out or ()}
    both = int((within & training_set.usable).sum())
    assert counted == {"traffic": 1, "null_values of column distance": both - 1}  # each row is counted once
    digest = save_training_set(made, blob)
    assert digest != save_training_set(training_set, blob)
    back = load_training_set(digest, blob, key="flight_id")
    np.testing.assert_array_equal(back.usable, made.usable)
    open_end = assemble(
        world.model, training_set.requests, at_us, training_set.features, lambda: training_set.labels,
        cut_us=world.cut_us, positions={"p0": 9}, left_out=[LeftOut(start_us=last, end_us=None, why="x")],
    )  # fmt: skip
    assert not open_end.usable[at_us >= last].any()


def test_a_changed_snapshot_is_found(training_set: TrainingSet, tmp_path: Path) -> None:
    blob = FileBlob(tmp_path / "blobs")
    digest = save_training_set(training_set, blob)
    manifest = load_manifest(digest, blob)
    forged = blob.put(msgspec.json.encode(msgspec.structs.replace(manifest, data_hash="0" * 64)))
    with pytest.raises(Corrupt, match="has other values than the manifest says"):
        load_training_set(forged, blob, key="flight_id")
    with pytest.raises(Corrupt, match="manifest cannot be read"):
        load_manifest(blob.put(b"[]"), blob)


def test_a_request_without_key_or_time_is_refused(world: Any) -> None:
    for name, dtype in (("flight_id", "str"), ("scheduled_at", "time")):
        holes = [None, *world.requests[name].to_list()[1:]]
        requests = world.requests.replace({name: column(dtype, holes)})
        with pytest.raises(Misuse, match=f"1 of 1200 requests have no '{name}'"):
            build_training_set(world.model, requests, world.frames, cut_us=world.cut_us, positions={})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {"cut_us": 0}, "none of 1200 requests is before 1970"),
        (lambda w: {"frames": {}}, "landings"),
        (lambda w: {"requests": Columns({n: c for n, c in w.requests.by_name.items() if n != "carrier"})}, "carrier"),
    ],
)
def test_what_is_missing_is_named(world: Any, change: Callable[[Any], dict[str, Any]], message: str) -> None:
    given = {"requests": world.requests, "frames": world.frames, "cut_us": world.cut_us, **change(world)}
    with pytest.raises(Misuse, match=message):
        build_training_set(world.model, given["requests"], given["frames"], cut_us=given["cut_us"], positions={})


def test_parts_of_different_lengths_are_refused(world: Any, training_set: TrainingSet) -> None:
    with pytest.raises(Misuse, match="different lengths"):
        assemble(
            world.model,
            training_set.requests,
            training_set.at_us[1:],
            training_set.features,
            lambda: training_set.labels,
            cut_us=world.cut_us,
            positions={},
        )
