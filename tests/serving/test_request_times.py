"""Times in requests, from JSON and from Python, are those that the same values are in events, or are refused."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "events"))

from kinds import kinds

from trimtab.core.errors import Misuse
from trimtab.events.definitions import Time
from trimtab.events.values.checks import other_unit
from trimtab.events.values.conversions import Refused, converted
from trimtab.features.definitions import request
from trimtab.serving.answer.request_rows import RequestRows

pytestmark = pytest.mark.fast
NOW_US = 10**15
ROWS = RequestRows(request("visit", key="id", time="at", columns={"id": str, "seen": Time}), lambda: NOW_US)


def _row(value: Any) -> dict[str, Any]:
    return {"id": "a", "at": NOW_US, "seen": value}


def _body(value: Any, **more: Any) -> bytes:
    return json.dumps({"request": _row(value)} | more).encode()


READERS: dict[str, Callable[[Any], Any]] = {
    "python": lambda value: ROWS.check([_row(value)])[0]["seen"],
    "json": lambda value: ROWS.decode(_body(value)).rows[0]["seen"],
    "json among others": lambda value: ROWS.decode(
        json.dumps({"rows": [_row("20000101"), _row(value), _row(None)]}).encode()
    ).rows[1]["seen"],
    "at": lambda value: ROWS.decode(_body(None, at=value)).at_us,
}


def _needed(value: Any) -> Any:
    try:
        return "refused" if other_unit(value) else converted("time", value)
    except Refused:
        return "refused"


def _found(read: Callable[[Any], Any], value: Any) -> Any:
    try:
        return read(value)
    except Misuse:
        return "refused"


def _texts(rng: random.Random) -> str:
    day = rng.choice(["2024-05-01", "1969-12-31", "0001-01-01", "0000-01-01", "10000-01-01", "24-05-01", "2024-02-30"])
    day = rng.choice([day, day.replace("-", ""), "2024-W01-1", "2024-121", "2024-5-1"])
    clock = rng.choice(
        ["05:06:07", "23:59:60", "24:00:00", "05:06", "05", "050607", "0506", "5:06:07", "05:06:07.", "05:60:00",
         "05:06:07,25", "05:06:07.1234567", "23:59:59.999999999", "-1:00:00"]
    )  # fmt: skip
    zone = rng.choice(
        ["", "Z", "z", " UTC", "UTC", "+02:00", "-0530", "+02", "+24:00", "+23:59", "+02:60", "-00:00", "+02:00:30",
         "+2:00", "+02:00Z", " +02:00", " IST"]
    )  # fmt: skip
    text = day + rng.choice(["T", " ", "t", "_", ""]) + clock + zone if rng.random() < 0.9 else day
    return rng.choice(["{}"] * 6 + [" {}", "{} ", "{}\n", "\u2007{}"]).format(text)


@pytest.mark.parametrize("reader", READERS)
def test_every_text_is_the_time_in_a_request_that_it_is_in_an_event(reader: str) -> None:
    rng = random.Random(14)
    texts = {_texts(rng) for _ in range(6_000)}
    read = READERS[reader]
    wrong = {text: (_found(read, text), _needed(text)) for text in texts if _found(read, text) != _needed(text)}
    assert not wrong, dict(list(wrong.items())[:5])
    assert 100 < sum(_needed(text) != "refused" for text in texts) < len(texts)


@pytest.mark.parametrize("kind", kinds(random.Random(0)))
def test_values_of_all_kinds_are_the_times_in_a_request_that_they_are_in_an_event(kind: str) -> None:
    draw = kinds(random.Random(14))[kind]
    for value in [draw() for _ in range(60)]:
        assert _found(READERS["python"], value) == _needed(value), value
        try:
            sent = json.loads(json.dumps(value, allow_nan=False).encode())
        except (TypeError, ValueError):
            continue
        if isinstance(sent, str) and any("\ud800" <= letter < "\ue000" for letter in sent):
            continue  # no JSON
        for reader in ("json", "json among others", *(["at"] if sent is not None else [])):
            assert _found(READERS[reader], sent) == _needed(sent), (reader, sent)


@pytest.mark.parametrize("value", [np.datetime64("591255-12"), np.timedelta64(5, "ns"), "\ud800", b"2024-05-01"])
def test_what_is_no_time_is_refused_with_its_place(value: Any) -> None:
    with pytest.raises(Misuse, match=r"rows\[1\]\.seen: .*Needed: ISO 8601 text"):
        ROWS.check([_row(None), _row(value)])


@pytest.mark.parametrize("value", [pd.NA, pd.NaT, float("nan"), np.datetime64("NaT"), np.ma.masked])
def test_what_is_null_in_an_event_is_null_in_a_request(value: Any) -> None:
    assert ROWS.check([_row(value)])[0]["seen"] is None
