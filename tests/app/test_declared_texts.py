"""Declared words for null and number formats hold for rows of every entry point, requests for answers included."""

from __future__ import annotations

from pathlib import Path

import pytest
import shop

from trimtab.core.errors import Misuse
from trimtab.features.definitions import request
from trimtab.serving.answer.request_rows import RequestRows

AS_OF = "2024-04-10T00:00:00Z"
RULES = 'nulls=["n/a", "-"], number_format={"x": "1.234,56 €"}, time_format="%d.%m.%Y %H:%M", '
ROW = {"visit_id": "w1", "site": " N/A", "at": "09.04.2024 23:00", "x": "1,5 €"}


@pytest.fixture
def declared(trained: Path) -> Path:
    """Return the project with rules of reading, and with another view than its versions were trained with."""
    text = shop.PROJECT.replace('key="visit_id", time="at", ', f'key="visit_id", time="at", {RULES}')
    text = text.replace('over="1d"', 'over="2d"')
    assert RULES in text
    (trained / "project.py").write_text(text)
    return trained


def test_a_version_with_older_features_reads_the_texts_that_the_project_declares(declared: Path) -> None:
    with shop.opened(declared) as project:
        for row in (ROW, {**ROW, "site": None, "x": 1.5, "at": "2024-04-09T23:00:00Z"}):
            (answer,) = project.predict("buyer", [row])
            asked = project.why(answer.id).request
            assert (asked["site"], asked["x"]) == (None, 1.5)
        (answer,) = project.predict("buyer", [{**ROW, "x": "n/a"}])
        assert project.why(answer.id).request["x"] is None
        with pytest.raises(Misuse, match=r"visit_id: a declared word for null. Found: '-'"):
            project.predict("buyer", [{**ROW, "visit_id": "-"}])
        with pytest.raises(
            Misuse, match=r"Found: 'x'. Needed: a number within 1e150, or text written as 1.234,56 €, or null"
        ):
            project.predict("buyer", [{**ROW, "x": "x"}])
        with pytest.raises(Misuse, match=r"or UTC microseconds, or text written as %d.%m.%Y %H:%M\."):
            project.predict("buyer", [{**ROW, "at": "9 April"}])


def test_http_reads_the_same_texts_in_requests_and_events(declared: Path) -> None:
    with shop.serving(declared, "--as-of", AS_OF) as (_, url):
        status, answer = shop.call(f"{url}/v1/models/buyer/predict", {"request": ROW})
        assert status == 200, answer
        status, many = shop.call(f"{url}/v1/models/buyer/predict", {"rows": [{**ROW, "x": 2}, {**ROW, "x": "-"}]})
        assert status == 200, many
        status, refused = shop.call(f"{url}/v1/models/buyer/predict", {"rows": [ROW, {**ROW, "visit_id": "n/a"}]})
        assert (status, refused["field"]) == (422, "visit_id"), refused
        assert shop.call(f"{url}/v1/events/visit", [ROW])[0] == 200
    with shop.opened(declared) as project:
        made = [answer["id"], *(one["id"] for one in many["predictions"])]
        asked = [project.why(one).request for one in made]
        assert [(one["site"], one["x"]) for one in asked] == [(None, 1.5), (None, 2.0), (None, None)]
        project.history.refresh()
        pushed = project.history.frame("visit").columns.to_rows()[-1]
        assert (pushed["visit_id"], pushed["site"], pushed["x"]) == ("w1", None, 1.5)


@pytest.mark.parametrize("body", [b"[3]", b"3", b'{"request": [3]}', b'{"rows": {}}', b'{"rows": [3]}', b"{"])
def test_bodies_of_another_form_are_refused_under_rules_as_without(body: bytes) -> None:
    columns = {"id": str, "x": float}
    with pytest.raises(Misuse) as ruled:
        RequestRows(request("visit", key="id", time="at", columns=columns, nulls=["-"])).decode(body)
    with pytest.raises(Misuse) as plain:
        RequestRows(request("visit", key="id", time="at", columns=columns)).decode(body)
    assert str(ruled.value) == str(plain.value)
