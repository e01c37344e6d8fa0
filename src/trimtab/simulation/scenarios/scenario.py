"""One scenario of a replay: a model, and the policy by which it is retrained."""

from __future__ import annotations

from typing import Literal

import msgspec

from trimtab.core.time import HOUR_US
from trimtab.simulation.policies import Decide
from trimtab.steering.definitions import Deployment


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A model with a policy. It is compared with other scenarios on the same requests."""

    name: str
    deployment: Deployment
    answers: Literal["live", "day_ahead"] = "live"
    main: bool = False  # whether its state is that of the project; otherwise, the state is in a folder of `replay/`
    like: str = ""  # for day_ahead: the name of the scenario whose champion scores the requests
    scored_at_us: int = 0  # for day_ahead: the time of day (UTC) at which a batch, the requests of 24 h, is scored
    ahead_us: int = 6 * HOUR_US  # for day_ahead: the time from scoring until these 24 h begin
    decide: Decide | None = None  # the function of a policy without a gate; None: the project's loop decides
