"""What people declare wrongly: refused where it is declared, with the definition's name and what was found."""

from __future__ import annotations

from typing import Any

import pytest

import trimtab as tt
from trimtab.core.errors import Misuse
from trimtab.features.feature_set import feature_set

READINGS = tt.source("readings", time="at", columns={"site": str, "level": float})
SITE = tt.view("site", source=READINGS, by="site", features={"n": tt.count()})
VISIT = tt.request("visit", key="id", time="at", columns={"id": str, "site": str})
BY_NAME: Any = "readings"
NOTHING: Any = None
NUMBER: Any = 5
LIST: Any = ["site"]
COUNTS: Any = [tt.count()]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tt.source("s", time="at", columns=NOTHING), "source 's': columns=None is not a mapping"),
        (lambda: tt.source("s", time="at", columns=LIST), r"source 's': columns=\['site'\] is not a mapping"),
        (lambda: tt.source("s", time="at", columns={"site": LIST}), r"column 'site' has type \['site'\]"),
        (lambda: tt.source("s", time="at", key=LIST, columns={"site": str}), r"key=\['site'\] is not a text"),
        (lambda: tt.entity("place", LIST), "entity 'place': columns="),
        (
            lambda: tt.view("v", source=BY_NAME, by="site", features={"n": tt.count()}),
            "source='readings' is not a source",
        ),
        (lambda: tt.view("v", source=READINGS, by=NUMBER, features={"n": tt.count()}), "by=5 is neither a column"),
        (lambda: tt.view("v", source=READINGS, by=NOTHING, features={"n": tt.count()}), "by=None is neither"),
        (lambda: tt.view("v", source=READINGS, by="site", features=COUNTS), "view 'v': features=.* is not a mapping"),
        (lambda: tt.label(BY_NAME, key="site", value="level", wait="1d"), "label: source='readings' is not a source"),
        (lambda: tt.label(READINGS, key="site", value=NOTHING, wait="1d"), "value=None is neither a column's name"),
        (
            lambda: tt.label(READINGS, key="site", value="level", wait="1d", span="2d"),
            r"span='2d' is longer than wait='1d'.*Make wait at least as long as span",
        ),
        (lambda: feature_set(VISIT, NOTHING), "features of request 'visit': None is not a list"),
        (lambda: feature_set(VISIT, SITE), "features of request 'visit': .* is not a list"),  # type: ignore[arg-type]
    ],
)
def test_what_is_of_another_kind_than_it_should_be_is_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(Misuse, match=message):
        make()


def test_labels_that_overlap_are_another_definition() -> None:
    plain, none, three = (
        tt.label(READINGS, key="site", value="level", wait="5d", **more)  # type: ignore[arg-type]
        for more in ({}, {"span": 0}, {"span": "3d"})
    )
    assert plain.hash == none.hash != three.hash
    assert three.span_us == 3 * 86_400_000_000
