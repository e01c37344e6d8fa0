"""One scenario of a replay: a model under a policy."""

from __future__ import annotations

from typing import Literal

import msgspec

from trimtab.core.time import HOUR_US
from trimtab.simulation.policies import Decide
from trimtab.steering.definitions import Deployment


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A model under a policy, compared with others on the same questions."""

    name: str
    deployment: Deployment
    answers: Literal["live", "day_ahead"] = "live"
    main: bool = False  # the state of this scenario is the project's own; other scenarios have folders in `replay/`
    like: str = ""  # day_ahead: the scenario whose champion answers
    scored_at_us: int = 0  # day_ahead: time of day (UTC) at which the next day is scored
    ahead_us: int = 6 * HOUR_US  # day_ahead: the time from scoring to the beginning of the scored day
    decide: Decide | None = None  # when to retrain without a gate; None: the project's loop
