"""Public names are listed once, and are loaded at their first use."""

from __future__ import annotations

import subprocess
import sys

import pytest

import trimtab
import trimtab.features
from trimtab.features import aggregates

pytestmark = pytest.mark.fast


def test_a_function_that_declares_an_aggregate_is_public_everywhere_once_it_is_listed_in_its_own_file() -> None:
    assert set(aggregates.__all__) <= set(trimtab.__all__) & set(trimtab.features.__all__)
    assert all(getattr(trimtab, name) is getattr(aggregates, name) for name in aggregates.__all__)


def test_a_name_that_is_not_listed_is_refused() -> None:
    with pytest.raises(AttributeError, match="'trimtab' has no attribute 'duration_us'"):
        _ = trimtab.duration_us  # type: ignore[attr-defined]  # imported by `aggregates`, but not public


def test_a_star_import_gives_every_public_name_and_a_room_is_imported_without_the_public_names() -> None:
    code = (
        "import sys\nfrom trimtab import store\nassert 'trimtab.features.aggregates' not in sys.modules\n"
        "import trimtab\nfrom trimtab import *\nassert set(trimtab.__all__) <= set(globals())"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
