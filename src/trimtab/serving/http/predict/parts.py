"""Objects that the requests of one service share."""

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
    """Objects that the requests of one service share."""

    access: Access  # decides which client may do what
    commit: GroupCommit  # where predictions are appended before their responses leave
    limits: Limits
    metrics: Metrics
    room: Room  # memory for bodies
    scheduler: RequestScheduler  # decides which predict requests have their turn
    telemetry: Telemetry | None  # gets a record of every request
    threads: Threads  # run work that would block the event loop
