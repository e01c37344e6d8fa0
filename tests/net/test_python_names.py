"""Public names with their signatures, and what their callables give: fields, methods, types, defaults."""

from __future__ import annotations

from pathlib import Path

import pytest
import surface
from opened import copied, opened
from snapshots import check

import trimtab as tt

pytestmark = pytest.mark.fast


def current() -> str:
    """One line for each name."""
    return "\n".join(surface.lines()) + "\n"


def test_public_names_and_signatures_are_as_before() -> None:
    check("python_names", current())


def test_the_surface_reaches_what_the_reference_names() -> None:
    """So that a return type that cannot be followed is not left out in silence."""
    reached = {kind.__name__ for kind in surface.reached()}
    assert {"Project", "Answer", "Explanation", "Plan", "Status", "Columns", "Config", "Deployment"} <= reached
    assert {kind.__name__ for kind in (tt.Misuse, tt.NotFound, tt.Conflict, tt.Unavailable, tt.Corrupt)} <= reached


def test_an_open_project_has_every_part_that_the_reference_names(tmp_path: Path) -> None:
    with opened(copied(tmp_path)) as project:
        missing = [name for name in sorted(surface.documented()) if not hasattr(project, name)]
    assert len(surface.documented()) > 60
    assert missing == []
