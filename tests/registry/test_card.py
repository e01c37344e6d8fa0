from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from lightgbm import LGBMClassifier

from trimtab.core.clock import VirtualClock
from trimtab.core.records import GateCheck
from trimtab.core.time import DAY_US
from trimtab.registry import Registry, Version
from trimtab.store.file_blob import FileBlob
from trimtab.store.sql_catalog import SqlCatalog
from trimtab.testing.builders import a_gate_record
from trimtab.training import evaluate, fit, save_evaluation, save_training_set, time_split

NOW_US = 1_361_000_000_000_000


@pytest.fixture(scope="module")
def judged(
    tmp_path_factory: pytest.TempPathFactory, make: Callable[..., Any]
) -> Iterator[tuple[Registry, Version, Version]]:
    """A registry with a candidate that was judged, and its refit."""
    folder, world = tmp_path_factory.mktemp("card"), make()
    blob = FileBlob(folder / "blobs")
    catalog = SqlCatalog.sqlite(folder / "c.db")
    registry = Registry(catalog, blob, clock=VirtualClock(NOW_US), actor="tester")
    model = msgspec.structs.replace(
        world.model,
        estimator=lambda: LGBMClassifier(n_estimators=5),
        weights="balanced",
        slices=("carrier", "distance"),
    )
    training_set = world.training_set()
    split = time_split(training_set)
    digest = save_training_set(training_set, blob)
    candidate = fit(model, training_set, rows=split.train)
    found = evaluate(model, candidate, training_set, rows=split.holdout, train=split.train)
    version = registry.register(candidate, training_set=digest, evaluation=save_evaluation(found, blob))
    aged = msgspec.structs.replace(training_set, half_life_us=28 * DAY_US)
    refit = registry.register(fit(model, aged), training_set=digest, refit_of=version.id)
    registry.tag(version, "approved", note="Slices looked at | by hand.")
    registry.put_gate(
        a_gate_record(
            id="gate_1",
            model=version.model,
            candidate=version.id,
            judged_at_us=NOW_US,
            rows=100,
            margin=0.002,
            checks={"calibrated": True},
            reason="Passed.",
            findings=(GateCheck(name="calibrated", figure=0.01, bound=0.05, verdict="held", reason="Near enough."),),
        )
    )
    yield registry, version, refit
    catalog.close()


def test_a_card_shows_balance_leaks_gate_checks_lineage_and_remarks(judged: tuple[Registry, Version, Version]) -> None:
    registry, version, refit = judged
    card = registry.card(version)
    for said in (
        "\ngate_1: Passed.\n",  # a sentence has no place in the last of eight columns
        "## Signature",
        "| flight_id | str | no | no |",
        "| name | category | 4 categories |",
        "## Labels and leaks",
        "share of weight",
        "50.0%",  # "balanced": both classes alike
        "\n| calibrated | held | 0.01 | 0.05 | Near enough. |",  # of one record alone, whose name stands above it
        "| is refitted by | late_flight@2 |",
        "| approved |",
        "Slices looked at \\| by hand.",
        "| carrier | c0 |",
    ):
        assert said in card, said
    assert "leak" in card.partition("## Labels")[2].lower()
    assert re.search(r"\| distance \| \d+ to \d+ \|", card)  # a no-break space is shown as \xa0 in a terminal
    other = registry.card(refit)
    assert "The following sections evaluate late_flight@1, whose recipe was fitted again for this version." in other
    assert "It is a refit of late_flight@1: the same recipe, fitted on more data." in other
    assert "In its fit, a row's weight was halved for each 28d of age." in other
    assert "| refits | late_flight@1 |" in other
    assert "gate_1" in other


def test_a_card_is_a_page_too(judged: tuple[Registry, Version, Version], tmp_path: Path) -> None:
    registry, version, _ = judged
    page = registry.card(version, html=True)
    assert page.startswith("<!doctype html>")
    for said in ("late_flight@1: model card", "Signature", "share of weight", "Near enough."):
        assert said in page
    assert "src=" not in page
