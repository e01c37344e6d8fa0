"""A process that only reads the views says of what it waited for in vain that it is safe."""

from __future__ import annotations

from pathlib import Path

import pytest
import shop

from trimtab.app.serve.followed_views import FollowedViews
from trimtab.serving.failures import NotApplied


def test_events_that_are_not_applied_in_time_are_said_to_be_safe(trained: Path) -> None:
    with shop.opened(trained) as project:
        pushed = project.ingestor.push("readings", [{"site": "north", "level": 1.0, "read_at": shop.NOW_US - 1}])
        with pytest.raises(NotApplied, match=r"safe in the log.* waited 0.1 s\. Do not send it again"):
            FollowedViews(project, lambda: None).wait_applied({pushed.partition: pushed.position}, 0.1)
