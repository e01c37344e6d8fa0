"""A record that is in the log and not in the views has its own error, so that it is not sent twice."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from trimtab.serving.applier import Applier
from trimtab.serving.failures import NotApplied
from trimtab.serving.http.service import HttpService

Shop = Any  # from conftest


def test_waiting_in_vain_for_the_views_has_a_problem_of_its_own(shop: Shop) -> None:
    stopped = Applier(shop.events, lambda records: None, dict)
    with pytest.raises(NotApplied, match=r"safe in the log.* Do not send it again"):
        stopped.wait_applied({shop.events.partition: 1_000}, 0.01)
    service = HttpService([shop.endpoint], shop.log, push=shop.ingestor.push, wait_applied=stopped.wait_applied)

    async def push() -> httpx.Response:
        event = {"user": "ann", "amount": 1.0, "paid_at": 1_700_000_000_000_000}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://127.0.0.1") as client:
            return await client.post("/v1/events/payments?wait=applied", json=event, headers={"x-timeout-ms": "50"})

    before = shop.events.positions()
    answer = asyncio.run(push())
    service.close()
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:trimtab:problem:not-applied")
    assert shop.events.positions() != before
