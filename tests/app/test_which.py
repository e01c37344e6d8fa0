"""Which deployment is meant where none is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from trimtab import store
from trimtab.app.training.resolve_deployment import searched_for, waiting
from trimtab.app.training.searches import KIND as SEARCH
from trimtab.app.training.searches import SearchRecord
from trimtab.core.errors import Conflict, Misuse, NotFound
from trimtab.core.urls import store_url
from trimtab.steering.loop_state import APPROVAL, KIND, LoopState
from trimtab.store.ports import Catalog, Put
from trimtab.training.search import number
from trimtab.training.search import search as declared

NAMES = ["one", "two", "three"]


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = store.open(store_url("sqlite", tmp_path / "catalog.db"), "catalog")
    yield opened
    opened.close()


def ask(catalog: Catalog, name: str) -> None:
    catalog.write([Put(KIND, name, msgspec.json.encode(LoopState(phase=APPROVAL)))])


def search(catalog: Catalog, name: str) -> None:
    looked = declared({"strength": number(0.1, 1.0)})
    record = SearchRecord(
        id="ab", model=name, metric="auc", made_by="x", search=looked, cut_us=1, until_us=1, rows=1, began_us=1
    )
    catalog.write([Put(SEARCH, f"{name}/ab", msgspec.json.encode(record))])


def test_the_only_candidate_that_waits_is_meant_and_of_several_none(catalog: Catalog) -> None:
    catalog.write([Put(KIND, "one", msgspec.json.encode(LoopState(phase="waiting")))])
    with pytest.raises(Conflict, match="approve: no candidate of one, two, three waits for approval"):
        waiting("approve", None, NAMES, catalog)
    ask(catalog, "two")
    assert waiting("approve", None, NAMES, catalog) == "two"
    assert waiting("approve", "one", NAMES, catalog) == "one"
    ask(catalog, "three")
    with pytest.raises(Misuse, match=r"there are candidates of two, three\. Name one of them"):
        waiting("approve", None, NAMES, catalog)
    catalog.write([Put(KIND, "one", msgspec.json.encode(LoopState(phase="canary")))])
    with pytest.raises(Misuse, match=r"there are candidates of one, two, three\. Name one of them"):
        waiting("reject", None, NAMES, catalog)  # a candidate in its rollout can be rejected
    assert waiting("reject", None, ["one", "four"], catalog) == "one"
    assert waiting("approve", None, ["one"], catalog) is None  # the only deployment, which says itself what is wrong


def test_the_only_search_is_meant_and_of_several_none(catalog: Catalog) -> None:
    with pytest.raises(NotFound, match="trials: nothing was searched yet for one, two, three"):
        searched_for("trials", None, NAMES, catalog)
    search(catalog, "three")
    assert searched_for("trials", None, NAMES, catalog) == "three"
    search(catalog, "one")
    with pytest.raises(Misuse, match=r"there are searches for one, three\. Name one of them"):
        searched_for("trials", None, NAMES, catalog)
    assert searched_for("trials", "two", NAMES, catalog) == "two"
