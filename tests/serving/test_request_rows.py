"""Bodies of requests: moments as people write them, and what is said of another form."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from trimtab.core.errors import Misuse
from trimtab.core.time import moment_us
from trimtab.events.definitions import Time
from trimtab.features.definitions import request
from trimtab.serving.request_rows import RequestRows

pytestmark = pytest.mark.fast


def test_a_date_is_a_moment_of_a_request_as_it_is_of_an_event() -> None:
    columns: dict[str, Any] = {"id": str, "x": float, "at": Time}
    rows = RequestRows(request("visit", key="id", time="at", columns=columns))
    day_us = moment_us("2026-11-25")
    asked = rows.decode(b'{"request": {"id": "a", "x": 1, "at": "2026-11-25"}, "at": "2026-11-25"}')
    assert (asked.at_us, asked.rows) == (day_us, [{"id": "a", "x": 1.0, "at": day_us}])
    one, other = (b'{"id": "a", "x": 1, "at": "2026-11-25%s"}' % rest for rest in (b"T00:00:00Z", b" 00:00"))
    many = rows.decode(b'{"rows": [%s, %s]}' % (one, other))
    assert [row["at"] for row in many.rows] == [day_us, day_us]
    for value in ("2026-11-25", dt.date(2026, 11, 25)):
        assert rows.check([{"id": "a", "x": 1, "at": value}])[0]["at"] == day_us


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"row": {}}', r'nothing that a body has. Send {"request": '),
        (b"[3]", r'got array. Send {"request": '),
        (b'{"request": [3]}', r"Found: \[3\]. Needed: an object"),
        (b'{"rows": {}}', "Needed: a list of objects"),
        (b'{"rows": [], "at": "gestern"}', "at: no moment. Found: 'gestern'. Needed: ISO 8601 text"),
        (b'{"rows": [{"id": "a", "x": "2026-11-25", "at": "2026-11-25"}]}', "Needed: a number"),
    ],
)
def test_a_body_of_another_form_is_told_the_form(body: bytes, said: str) -> None:
    columns: dict[str, Any] = {"id": str, "x": float, "at": Time}
    with pytest.raises(Misuse, match=said):
        RequestRows(request("visit", key="id", time="at", columns=columns)).decode(body)
