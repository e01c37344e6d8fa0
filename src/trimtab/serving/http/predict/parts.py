"""The objects that all requests of one service share."""

from __future__ import annotations

import msgspec

from trimtab.serving.http.predict.scheduler import RequestScheduler
from trimtab.serving.http.requests.access import Access
from trimtab.serving.http.requests.limits import Limits
from trimtab.serving.http.requests.request_record import Telemetry
from trimtab.serving.http.requests.room import Room
from trimtab.serving.http.requests.threads import Threads
from trimtab.serving.log.commit import GroupCommit
from trimtab.serving.observe.metrics import Metrics


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """The objects that all requests of one service share."""

    access: Access  # decides which client may do what
    commit: GroupCommit  # logs predictions before their responses are sent
    limits: Limits
    metrics: Metrics
    room: Room  # limits the memory for request bodies
    scheduler: RequestScheduler  # decides when each predict request is answered
    telemetry: Telemetry | None  # receives a record of every request
    threads: Threads  # run work that would block the event loop
