"""A label is a whole event of its source: what it leaves out must be nobody's label and no view's feature."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import shop

from trimtab.app.data.given_labels import key_value
from trimtab.app.serve.operations import ProjectRecords
from trimtab.serving.http.routes.operations import LabelRow
from trimtab.serving.problems import InvalidField

MORE = """
sales = tt.source("sales", time="closed_at", key="visit_id", columns={
    "visit_id": str, "site": str, "bought": bool, "returned": bool, "till": int})
"""
SECOND = """
second = tt.model("second", request=visit, features=[site], estimator=batch, metric="log_loss",
    label=tt.label(sales, key="visit_id", value="returned", wait="2d"))
tt.deployment(second, gate=tt.beats_champion(margin=-0.5, calibration=0.5))
"""
VIEW = 'sold = tt.view("sold", source=sales, by="site", features={"sold": tt.count(over="1d")})\n'


def records(folder: Path, *, more: str, key: str = "str") -> ProjectRecords:
    shop.write_project(folder)
    declared, rest = shop.PROJECT.split("sales = tt.source(", 1)
    text = declared + MORE.lstrip() + rest.split("\n", 1)[1] + more
    (folder / "project.py").write_text(text.replace('"visit_id": str', f'"visit_id": {key}'))
    return ProjectRecords(shop.opened(folder), lambda *_: pytest.fail("labels by key look nothing up"))


def row(**columns: object) -> LabelRow:
    return msgspec.convert({"request": "v1", "columns": columns}, LabelRow)


def test_a_label_that_would_make_the_label_of_another_model_null_is_refused_with_its_name(tmp_path: Path) -> None:
    asked = records(tmp_path / "shop", more=SECOND)
    with pytest.raises(InvalidField) as refused:
        asked.label_events("buyer", [row(bought=True, returned=False), LabelRow(request="v2", value=True)])
    assert (refused.value.field, refused.value.pointer) == ("returned", "$[1].columns.returned")
    assert str(refused.value) == (
        "$[1]: a label is a whole event of 'sales', and this one leaves out 'returned' (the label of model 'second' "
        'reads it), which would be null from now on. Give all of them in "columns", or push the whole row to '
        "/v1/events/sales. None of the 2 labels was taken."
    )
    with pytest.raises(InvalidField, match=r"leaves out 'bought' .the label of model 'buyer'"):
        asked.label_events("second", [LabelRow(request="v1", value=True)])
    source, events, _ = asked.label_events("second", [row(bought=None, returned=True)])  # said to be null
    assert source == "sales"
    assert {name: events[0][name] for name in ("visit_id", "bought", "returned")} == {
        "visit_id": "v1",
        "bought": None,
        "returned": True,
    }


def test_a_label_that_leaves_out_what_a_view_reads_is_refused_but_not_what_nobody_reads(
    tmp_path: Path,
) -> None:
    asked = records(tmp_path / "shop", more=VIEW)
    with pytest.raises(InvalidField, match=r"leaves out 'site' .view 'sold' reads it"):
        asked.label_events("buyer", [LabelRow(request="v1", value=True)])
    events = asked.label_events("buyer", [row(bought=True, site="north")])[1]
    assert set(events[0]) == {"visit_id", "closed_at", "site", "bought"}  # neither returned nor till


def test_a_key_that_is_no_whole_number_is_refused_with_its_field_and_place(tmp_path: Path) -> None:
    asked = records(tmp_path / "shop", more="", key="int")
    with pytest.raises(InvalidField, match=r"^\$\[0\].request: 'v1' is not a 64-bit integer") as refused:
        asked.label_events("buyer", [row(bought=True)])
    assert (refused.value.field, refused.value.pointer) == ("request", "$[0].request")
    with pytest.raises(InvalidField, match=r"^site: 'x' is not") as of_address:
        key_value("x", "int", "site")
    assert (of_address.value.field, of_address.value.pointer) == ("site", "site")
