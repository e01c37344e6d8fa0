"""What a deployment declares: who owns it is for people, and changes no address."""

from __future__ import annotations

from typing import Any

import pytest

import trimtab as tt
from trimtab.core.errors import Misuse

visit = tt.request("visit", key="id", time="at", columns={"id": str, "at": tt.Time, "x": float})
sales = tt.source("sales", time="at", key="id", columns={"id": str, "at": tt.Time, "bought": bool})


def estimator() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression()


MODEL = tt.model(
    "buyer",
    request=visit,
    features=[{"x": tt.col("x")}],
    label=tt.label(sales, key="id", value="bought", wait="2d"),
    estimator=estimator,
    metric="log_loss",
)


def test_the_owner_of_a_deployment_is_no_part_of_its_address() -> None:
    owned = tt.deployment(MODEL, owner="team shop")
    assert owned.owner == "team shop"
    assert owned.hash == tt.deployment(MODEL).hash


@pytest.mark.parametrize("owner", ["", "  ", 7, ["team shop"]])
def test_an_owner_that_is_no_text_is_refused(owner: Any) -> None:
    with pytest.raises(Misuse, match=r"owner=.*Give a text"):
        tt.deployment(MODEL, owner=owner)
